"""What runs for a notebook: how much memory it holds, and what is left of it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from llmlab.backends import docker_api
from llmlab.errors import LabError

_LOOK_S = 0.4
_MIB = 1024 * 1024


def processes(runtime: str) -> list[psutil.Process]:
    """The processes that were started with this runtime directory.

    An engine has an environment of its own, but its command names the directory.
    """
    mark, path = f"LLMLAB_RUNTIME_DIR={runtime}".encode(), f"{runtime}/".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, psutil.Error):
            if path in (entry / "cmdline").read_bytes() or (
                mark in (entry / "environ").read_bytes().split(b"\0")
            ):
                found.append(psutil.Process(int(entry.name)))
    return found


def _contained(runtime: str) -> list[psutil.Process]:
    """The processes of the containers that are written down there."""
    found = []
    for path in Path(runtime).glob("*/record.json"):
        with suppress(OSError, ValueError, LabError, psutil.Error):
            name = json.loads(path.read_bytes()).get("container_id")
            container = docker_api.connect().container(name) if name else None
            if pid := ((container or {}).get("State") or {}).get("Pid"):  # 0 once it has ended
                first = psutil.Process(pid)
                found += [first, *first.children(recursive=True)]
    return found


class Memory:
    """Watches what kernel and engines hold; samples, so that a short peak can be missed."""

    def __init__(self, runtime: str) -> None:
        self.peak_mib: int | None = None
        self._runtime = runtime
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory")

    def __enter__(self) -> Memory:  # noqa: PYI034 - typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_S):
            total = 0
            for process in {*processes(self._runtime), *_contained(self._runtime)}:
                with suppress(psutil.Error):
                    total += process.memory_info().rss
            if total:
                self.peak_mib = max(self.peak_mib or 0, round(total / _MIB))


def stop_what_is_left(environment: dict[str, str]) -> str:
    """What still runs, by name; it is then stopped."""
    command = [sys.executable, "-m", "llmlab"]
    listed = subprocess.run(
        [*command, "ps", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    servers = [str(row["name"]) for row in json.loads(listed.stdout)["servers"]]
    if servers:
        subprocess.run([*command, "stop", "--all"], env=environment, capture_output=True, check=True)
    deadline = time.monotonic() + 10
    runtime = environment["LLMLAB_RUNTIME_DIR"]
    while (alive := processes(runtime)) and time.monotonic() < deadline:
        time.sleep(0.1)
    names = []
    for process in alive:
        with suppress(psutil.Error):
            names.append(f"process {process.pid} ({process.name()})")
            process.kill()
    return ", ".join([*servers, *names])
