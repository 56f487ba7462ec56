"""What of llmlab's is there: processes, containers, sockets, files, threads and file descriptors."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from tools.leftovers import processes

from llmlab import runtime
from llmlab.backends import backend, docker_api, labels

# What a process of Python's keeps open by itself, once it has been used.
_OWN = ("/dev/urandom", "anon_inode:[eventpoll]", "/usr/share/zoneinfo")
_ENGINES = ("docker.sock", "podman.sock")
_KINDS = {
    "processes": "process",
    "containers": "container",
    "sockets": "socket",
    "files": "file",
    "threads": "thread",
    "descriptors": "descriptor",
}


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What there is at one moment, each kind as sorted lines that name it.

    Attributes:
        processes: Those whose command or environment names the runtime directory, not this one.
        containers: Containers, networks and volumes with the labels of its servers.
        sockets: Unix sockets bound below it.
        files: What lies in it, and in the directory for temporary files.
        threads: This process's.
        descriptors: What this process has open; pipes and sockets as their kind and number.
    """

    processes: tuple[str, ...]
    containers: tuple[str, ...]
    sockets: tuple[str, ...]
    files: tuple[str, ...]
    threads: tuple[str, ...]
    descriptors: tuple[str, ...]

    def beyond(self, before: Inventory) -> list[str]:
        """What is here and was not there before, a line each."""
        return [
            f"{one}: {line}"
            for kind, one in _KINDS.items()
            for line in sorted(set(getattr(self, kind)) - set(getattr(before, kind)))
        ]


def take(folder: Path, temporary: Path) -> Inventory:
    """Look at everything that belongs to a runtime directory, and at this process.

    Args:
        folder: The runtime directory.
        temporary: The directory for temporary files.
    """
    return Inventory(
        processes=tuple(sorted(_processes(folder))),
        containers=tuple(sorted(_containers())),
        sockets=tuple(sorted(_sockets(folder))),
        files=tuple(sorted([*_files(folder), *_files(temporary)])),
        threads=tuple(sorted(f"{thread.name} {thread.ident}" for thread in threading.enumerate())),
        descriptors=tuple(sorted(_descriptors())),
    )


def left(folder: Path, temporary: Path, before: Inventory, within_s: float = 10.0) -> list[str]:
    """What is left beyond what was there before, once it has had time to go."""
    gc.collect()  # sockets that docker-py did not close when an engine refused them
    deadline = time.monotonic() + within_s
    while (found := take(folder, temporary).beyond(before)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _processes(folder: Path) -> Iterator[str]:
    here = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in processes(str(folder)):
        with suppress(psutil.Error):
            if process.pid not in here:
                yield f"{process.pid} {' '.join(process.cmdline())[:160]}"


def _containers() -> Iterator[str]:
    if backend("container").unavailable() is None:
        api, mine = docker_api.connect(), f"{labels.USER}={runtime.scope()}"
        for entry in api.containers(mine):
            yield " ".join(entry["Names"])
        for volume in api.volumes(mine):
            yield f"volume {volume}"


def _sockets(folder: Path) -> Iterator[str]:
    for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines():
        words = line.split(None, 7)
        if len(words) == 8 and words[7].startswith(f"{folder}/"):
            yield words[7]


def _files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.name != ".lock":
            yield str(path)


def _descriptors() -> Iterator[str]:
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(path.readlink())
            peer = _peer(int(path.name)) if target.startswith("socket:") else ""
            # docker-py keeps some connections for the next call; the test of 200 starts sees that
            # they do not become more.
            if not target.startswith((*_OWN, "/proc/")) and not peer.endswith(_ENGINES):
                yield f"{path.name} {target} {peer}"


def _peer(number: int) -> str:
    """Where a socket leads, to find out whose it is."""
    with suppress(OSError, ValueError), socket.socket(fileno=os.dup(number)) as copy:
        return str(copy.getpeername())
    return ""
