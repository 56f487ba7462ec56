"""A door before the container engine that is hostile, slow, or falls shut; what stands behind it is real."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_BEHIND = os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or "/var/run/docker.sock"


class Door:
    """A unix socket that passes everything on to the container engine.

    Args:
        path: Where it listens.
        alter: Changes the body of a "create container" request.
        delay_s: How long each request waits.
        shut_at: Falls shut when a request's first line matches.
    """

    def __init__(
        self,
        path: Path,
        *,
        alter: Callable[[dict[str, Any]], object] | None = None,
        delay_s: float = 0.0,
        shut_at: str = "",
    ) -> None:
        self.url = f"unix://{path}"
        self.requests: list[str] = []
        self._alter, self._delay_s, self._shut_at = alter, delay_s, shut_at
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._shut = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._start(self._accept)

    def __enter__(self) -> Door:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(5)

    def shut(self) -> None:
        """Nothing goes through any more, in neither direction."""
        self._shut.set()
        for each in [self._listener, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._shut.is_set():
                caller, _ = self._listener.accept()
                behind = socket.socket(socket.AF_UNIX)
                behind.connect(_BEHIND)
                self._open += [caller, behind]
                self._start(self._requests, caller, behind)
                self._start(_pass_on, behind, caller)

    def _requests(self, caller: socket.socket, behind: socket.socket) -> None:
        stream = caller.makefile("rb")
        with suppress(OSError, ValueError):
            while head := _head(stream):
                first = head.split(b"\r\n", 1)[0].decode()
                self.requests.append(first)
                time.sleep(self._delay_s)
                if self._shut_at and re.search(self._shut_at, first):
                    self.shut()
                    return
                found = re.search(rb"(?i)content-length: (\d+)", head)
                body = stream.read(int(found[1])) if found else b""
                if self._alter and "/containers/create" in first:
                    data = json.loads(body)
                    self._alter(data)
                    body = json.dumps(data).encode()
                    head = re.sub(rb"(?i)content-length: \d+", b"Content-Length: %d" % len(body), head)
                behind.sendall(head + body)
                if b"upgrade" in head.lower():
                    break
            while piece := stream.read1(65536):
                behind.sendall(piece)
        with suppress(OSError):
            behind.shutdown(socket.SHUT_WR)


def _head(stream: io.BufferedIOBase) -> bytes:
    head: bytes = b""
    while line := stream.readline():
        head += line
        if line == b"\r\n":
            return head
    return b""


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
