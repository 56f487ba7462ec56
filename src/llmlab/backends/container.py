"""The container backend: a sealed container, reached through a unix socket where that can be.

No network at all; the socket's directory, which only the user may enter, is
mounted into the container. What is written down stands in the container's labels.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import socket
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from llmlab import runtime
from llmlab.backends import (
    base,
    container_receipt,
    container_users,
    docker_api,
    gpu_refusals,
    labels,
    peer,
    relay,
    sidecar,
    transports,
)
from llmlab.backends.base import Found, Starting, exit_detail
from llmlab.backends.container_plan import Prepared, prepare, relay_target
from llmlab.backends.container_users import User
from llmlab.backends.docker_api import DockerApi
from llmlab.backends.kernel_log import killed_for_memory
from llmlab.client import Opener, Verify
from llmlab.errors import BackendError, LabError
from llmlab.results_isolation import Receipt
from llmlab.runtime import Claim
from llmlab.specs import BackendName, Endpoint, Record

__all__ = ["Prepared", "prepare"]

NAME: BackendName = "container"
_ENGINE = "engine"


def unavailable() -> LabError | None:
    """Why no container can be started; None if it can."""
    try:
        docker_api.connect().ping()
    except LabError as error:
        return error
    return None


def start(starting: Starting) -> Record:
    """Create and start a container, and those beside it.

    Raises: As `prepare`.
    """
    if problem := unavailable():
        problem.hint = "; ".join(part for part in (problem.hint, "or run natively: --native") if part)
        raise problem
    api = docker_api.connect()
    # Should this process be killed, whoever cleans up must know where.
    (starting.claim.path / _ENGINE).write_text(api.address, encoding="utf-8")
    return begin(api, prepare(starting), starting.claim)


def begin(api: DockerApi, prepared: Prepared, claim: Claim) -> Record:
    """Create and start what was prepared; whatever it made is removed if it raises.

    Raises:
        BackendError: If the engine refuses.
    """
    record = prepared.record
    try:
        if record.endpoint.socket:
            container_users.give(api, prepared.user, claim.socket_dir)
        if prepared.volume:
            name, options = prepared.volume
            api.make_volume(name, labels.mine(SERVER=record.name), options)
        with gpu_refusals.explained(api, record):
            container_id = runtime.uninterrupted(
                lambda: api.create(prepared.name, prepared.request), undo=lambda made: api.stop(made, 0)
            )
            record = replace(record, container_id=container_id)
            api.start(container_id)
        endpoint = _open(api, prepared, record)
        return replace(record, endpoint=endpoint, notes=(*record.notes, *_for_other_tools(endpoint)))
    except BaseException:
        _remove(api, record, grace_s=0)
        raise


def _open(api: DockerApi, prepared: Prepared, record: Record) -> Endpoint:
    """Start what stands beside a running server; how it is reached then."""
    endpoint = record.endpoint
    if record.transport == "port":
        endpoint = replace(endpoint, port=sidecar.host_port(api, record.container_id or ""))
    if endpoint.key_file:
        _write_key(api, endpoint.key_file, prepared.user)
    for beside in prepared.sidecars:
        try:
            port = sidecar.start(api, beside)
        except BackendError:
            if look(record).running:
                raise
            # The server has ended, and its log says why.
            break
        if port:
            endpoint = replace(endpoint, exposed_port=port)
    return endpoint


def find() -> list[Record]:
    """All containers of this user's that carry our labels, and what was written down of other engines' ones."""
    try:
        api = docker_api.connect()
        listed = api.containers(f"{labels.USER}={runtime.scope()}")
    except LabError:
        return _written()
    found = [replace(record, container_engine=api.address) for entry in listed if (record := _record(entry))]
    elsewhere = (record for record in _written() if record.container_engine not in {None, api.address})
    names = {record.name for record in found}
    return [*found, *(record for record in elsewhere if record.name not in names)]


def _written() -> list[Record]:
    """The servers of this kind that were written down, whichever engine has their containers."""
    return [record for record in runtime.records() if record.backend == NAME]


def _engine(record: Record) -> DockerApi:
    """The engine that has a server's container."""
    return docker_api.connect(record.container_engine)


def lost(found: Collection[Record]) -> list[Record]:
    """Records of containers that somebody else has removed.

    An engine that does not answer has lost nothing, as far as can be told; nor has
    another one than theirs.

    Args:
        found: The servers that there are.
    """
    names = {record.name for record in found}
    missing = [record for record in _written() if record.name not in names]
    if not missing or unavailable():
        return []
    here = docker_api.connect().address
    return [record for record in missing if record.container_engine in {None, here}]


def look(record: Record) -> Found:
    """Whether the container runs, and if not, why."""
    api = _engine(record)
    entry = api.container(record.container_id or "")
    if entry is None:
        return Found(running=False, detail="its container is gone")
    found = _fares(api, record, entry)
    count = int(entry.get("RestartCount") or 0)
    return replace(found, restarts=count, since=_when(entry["State"].get("StartedAt"))) if count else found


def _fares(api: DockerApi, record: Record, entry: dict[str, Any]) -> Found:
    """How a container fares by the engine's own record."""
    state = entry["State"]
    # A process of another machine has a number that means nothing here.
    pid = state.get("Pid") or None if api.is_local() else None
    if state.get("Restarting"):
        return Found(running=True, detail=f"it has ended: {_end(record, state)[1]}", held="restarting")
    if state.get("Paused"):
        name = str(entry.get("Name", "")).lstrip("/") or record.container_id
        detail = f"paused; docker unpause {name} lets it go on"
        return Found(running=True, detail=detail, pid=pid, held="paused")
    if state.get("Running"):
        return base.running(pid, container_receipt.server_pid(entry) if pid else None)
    memory, why = _end(record, state)
    return Found(running=False, detail=why, ended=_when(state.get("FinishedAt")), out_of_memory=memory)


def _end(record: Record, state: dict[str, Any]) -> tuple[bool, str]:
    """Whether a container ended for lack of memory, and what is known of its end."""
    if state.get("OOMKilled"):
        limit = f" of {record.limits.memory_mib} MiB" if record.limits else ""
        return True, f"killed: out of its memory{limit}"
    code = int(state.get("ExitCode", 0))
    if code != base.KILLED or state.get("Error"):
        return False, state.get("Error") or exit_detail(code)
    # The machine's memory can be at its end before the container's is.
    ended = _when(state.get("FinishedAt"))
    memory = killed_for_memory(container_id=record.container_id or "", ended=ended) or False
    return memory, base.killed_detail(memory)


def _when(text: Any) -> float | None:
    """A time of the engine's as seconds since the epoch; None for "never", the year 1."""
    # Nanoseconds, which Python before 3.11 does not read.
    found = re.fullmatch(r"(\d{4}-[\d-]+T[\d:]+)(\.\d+)?(Z|[+-]\d\d:\d\d)", str(text or ""))
    if not found or found[1].startswith("0001"):
        return None
    zone = "+00:00" if found[3] == "Z" else found[3]
    return datetime.fromisoformat(found[1] + zone).timestamp() + float(found[2] or 0)


def verify(record: Record) -> Verify | None:
    """Check that the peer's process is in the record's container, or in the relay's beside it.

    None where the kernel does not tell: a published port, the engine's API.
    """
    if record.transport not in {None, "socket", "sidecar"}:
        return None

    def check(opened: socket.socket) -> None:
        found = peer.pid(opened)
        if found is None:
            return
        container_id = _listener(record)
        if peer.in_container(found, container_id) is False:
            # The relay may have been made anew since it was last looked for.
            _listeners.pop(record.container_id or "", None)
            container_id = _listener(record)
            if peer.in_container(found, container_id) is False and not _is_below(
                _engine(record), found, container_id
            ):
                raise peer.stranger(record.name, f"process {found} is not in container {container_id[:12]}")

    return check


def _is_below(api: DockerApi, process: int, container_id: str) -> bool:
    """Whether a process descends from a container's first: a rootless engine may have no control groups."""
    entry = api.container(container_id) or {}
    init = (entry.get("State") or {}).get("Pid")
    return init is not None and peer.descends_from(process, int(init))


# Server's container → the container that listens for it: asking the engine takes
# longer than a short answer.
_listeners: dict[str, str] = {}


def _listener(record: Record) -> str:
    """The container whose process listens at the server's socket."""
    own = record.container_id or ""
    if record.transport != "sidecar":
        return own
    if own not in _listeners:
        beside = sidecar.find(_engine(record), record.name)
        # "" is part of every path: a relay that is gone must not let everybody in.
        if "forward" not in beside:
            return "no relay"
        _listeners[own] = beside["forward"]
    return _listeners[own]


def opener(record: Record) -> Opener | None:
    """What connects through the container engine's API, if that is the transport."""
    if record.transport != "relay":
        return None
    return partial(relay.connect, record.container_id or "", relay_target(record), record.container_engine)


def settle(record: Record) -> None:
    """Take the socket's directory away from the container, which has made its socket."""
    if record.endpoint.socket:
        container_users.take_back(record.endpoint.socket.parent)


def resident_mib(record: Record) -> int | None:
    """The resident memory of the engine's process in the container."""
    api = _engine(record)
    entry = api.container(record.container_id or "") if api.is_local() else None
    return base.resident_mib(container_receipt.server_pid(entry) if entry else None)


def log(record: Record, lines: int | None = None) -> list[str]:
    """The container's output."""
    return _engine(record).log(record.container_id or "", lines)


def stop(record: Record, *, grace_s: float) -> None:
    """Stop and remove the container, and what stands beside it."""
    _remove(_engine(record), record, grace_s=grace_s)


def remove_abandoned(claim: Claim) -> None:
    """Remove what a start that died before it was ready, or a server that is gone, has left."""
    try:
        api = docker_api.connect(_noted(claim))
        sidecar.remove(api, claim.name)
        for entry in api.containers(f"{labels.SERVER}={claim.name}", f"{labels.USER}={runtime.scope()}"):
            api.stop(entry["Id"], 0)
        _remove_volumes(api, claim.name)
    except LabError:
        return


def _noted(claim: Claim) -> str | None:
    """The engine that a start was begun on; None if that was not written down."""
    try:
        return (claim.path / _ENGINE).read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):
        return None


def remove_orphans() -> None:
    """Remove sidecars whose server is gone."""
    sidecar.remove_orphans(docker_api.connect())


def controls(record: Record) -> Receipt:
    """The receipt: asked for, recorded by the engine, seen on the process."""
    found = container_receipt.controls(record)
    facts = {"transport": transports.describe(record.transport)} if record.transport else {}
    if record.endpoint.exposed_port:
        facts["for other tools"] = "; ".join(_for_other_tools(record.endpoint))
    return replace(found, facts={**found.facts, **facts})


def _for_other_tools(endpoint: Endpoint) -> tuple[str, ...]:
    """What another tool needs to be told; the key itself is shown nowhere."""
    if endpoint.exposed_port is None:
        return ()
    return (
        f"for other tools: export OPENAI_BASE_URL=http://127.0.0.1:{endpoint.exposed_port}/v1",
        f"and their key: export OPENAI_API_KEY=$(cat {shlex.quote(str(endpoint.key_file))})",
    )


def _remove(api: DockerApi, record: Record, *, grace_s: float) -> None:
    """Those beside it first: a sidecar without a server is taken for a leftover."""
    if record.transport == "sidecar" or record.endpoint.key_file or record.overlay:
        sidecar.remove(api, record.name)
    if record.container_id:
        _listeners.pop(record.container_id, None)
        relay.forget(record.container_id)
        api.stop(record.container_id, grace_s)
    if record.overlay or (record.transport == "relay" and record.endpoint.key_file):
        _remove_volumes(api, record.name)


def _remove_volumes(api: DockerApi, name: str) -> None:
    for volume in api.volumes(f"{labels.SERVER}={name}", f"{labels.USER}={runtime.scope()}"):
        api.remove_volume(volume)


def _write_key(api: DockerApi, path: Path, user: User) -> None:
    """Make a key that is nowhere but in a file, which its owner and the gate can read."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    # Others of that number do not get to it: the directory is closed to all but root.
    container_users.give(api, user, path)


def _record(entry: dict[str, Any]) -> Record | None:
    record = labels.record_of(entry)
    if record is None:
        return None
    if record.transport == "port" and record.endpoint.port is None:
        # One that was started by hand: its port was not known when the label was written.
        ports = [port["PublicPort"] for port in entry.get("Ports") or () if port.get("PublicPort")]
        record = replace(record, endpoint=replace(record.endpoint, port=next(iter(ports), None)))
    # What was learnt after the container was created stands in the file only.
    written = runtime.read_record(record.name)
    return written if written and written.container_id == record.container_id else record
