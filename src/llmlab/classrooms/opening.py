"""A room's process, seen from others: opened, found, asked, closed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from llmlab import runtime
from llmlab.classrooms import places
from llmlab.classrooms.config import Config, Opened
from llmlab.errors import MALFORMED, LabError, UnknownNameError, UsageError
from llmlab.lab import detached, registry
from llmlab.specs import Process, value_of

_OPEN_S, _CLOSE_S, _ASK_S = 30.0, 20.0, 5.0
_LOG_LINES = 10
_LOG_BYTES = 1 << 20


def opened() -> Opened | None:
    """The open room, whoever opened it; None if there is none."""
    try:
        found = value_of(Opened, json.loads((places.running() / places.ROOM).read_text(encoding="utf-8")))
    except (OSError, *MALFORMED):
        return None
    return found if runtime.is_alive(found.process) else None


def open_room(config: Config) -> Opened:
    """Open a room, and return when it answers.

    Raises:
        UsageError: If one is open.
        LabError: If it does not open.
    """
    folder = places.running()
    with runtime.locked(places.folder() / "room.lock"):
        if there := opened():
            raise UsageError(f"a room is open at {there.url}", hint="close it first: classroom close")
        shutil.rmtree(folder, ignore_errors=True)  # what a killed one has left
        folder.mkdir(mode=0o700)
        places.write_private(folder / places.CONFIG, json.dumps(asdict(config)))
        process = runtime.uninterrupted(lambda: _spawn(folder), undo=_end)
        try:
            return _awaited(process)
        except BaseException:
            _end(process)
            shutil.rmtree(folder, ignore_errors=True)
            raise


def close_room() -> Opened | None:
    """Close the room, and return when it is; None if none was open."""
    there = opened()
    if there:
        _signal(there.process, signal.SIGTERM)
        deadline = time.monotonic() + _CLOSE_S
        while runtime.is_alive(there.process):
            if time.monotonic() > deadline:
                _signal(there.process, signal.SIGKILL)
                deadline = time.monotonic() + _CLOSE_S
            time.sleep(0.02)
    shutil.rmtree(places.running(), ignore_errors=True)
    registry.sweep()  # servers of learners that a killed room has left
    return there


def board() -> dict[str, Any]:
    """What goes on in the open room.

    Raises:
        UsageError: If none is open.
    """
    return cast("dict[str, Any]", _teacher("GET", "/board"))


def drain(name: str) -> None:
    """Give one of the room's servers no more requests.

    Raises:
        UsageError: If no room is open, or it has no such server.
    """
    if "error" in _teacher("POST", f"/drain/{name}"):
        raise UnknownNameError("server in the room", name, [each["name"] for each in board()["servers"]])


def _teacher(method: str, path: str) -> Any:
    import httpx  # noqa: PLC0415 - only with the extra `classroom`

    if opened() is None:
        raise UsageError("no room is open", hint="open one: classroom open")
    transport = httpx.HTTPTransport(uds=str(places.running() / places.SOCKET))
    try:
        with httpx.Client(transport=transport, timeout=_ASK_S, base_url="http://localhost") as client:
            return client.request(method, path).json()
    except (httpx.HTTPError, ValueError) as error:
        raise LabError(
            "the room does not answer", hint=f"see its log: {places.folder() / places.LOG}"
        ) from error


def _spawn(folder: Path) -> Process | None:
    """Start the room's process; None if it has ended."""
    log = places.folder() / places.LOG
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.unlink()
    os.close(os.open(log, os.O_CREAT | os.O_WRONLY, 0o600))
    # Its configuration is in a file: what stands in a command line all users can read.
    return detached.spawn("llmlab.classrooms.serving", str(folder), log=log)


def _awaited(process: Process | None) -> Opened:
    deadline = time.monotonic() + _OPEN_S
    while process and time.monotonic() < deadline:
        if found := opened():
            return found
        if not runtime.is_alive(process):
            break
        time.sleep(0.02)
    lines = (places.folder() / places.LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    if any("Address already in use" in line for line in lines[-_LOG_LINES:]):
        raise UsageError("the port is taken", hint="choose another --port")
    raise LabError(
        "the room did not open",
        hint="is the address one of this machine's? Otherwise the lines above say why",
        log_tail=lines[-_LOG_LINES:],
    )


def _end(process: Process | None) -> None:
    deadline = time.monotonic() + _CLOSE_S
    while process and runtime.is_alive(process) and time.monotonic() < deadline:
        _signal(process, signal.SIGKILL)
        time.sleep(0.02)


def _signal(process: Process, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
