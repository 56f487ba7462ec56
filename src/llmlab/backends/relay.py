"""Connections through the container engine's API: a relay run in the container (`exec`).

For engines whose sockets cannot be reached from here. The relay connects to the
server at the first byte, so that one that waits takes none of the server's slots.
To run one takes a while; so one is kept waiting for the next connection.
"""

from __future__ import annotations

import atexit
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from llmlab.backends import docker_api
from llmlab.backends.docker_streams import ExecStream
from llmlab.errors import LabError

PROGRAM = "/llmlab/relay"
_WARM = 2
# The relay itself gives up after 150 s.
_WARM_S = 90.0
_BYTES = 65536
_HEADER = struct.Struct(">BxxxL")  # which stream, number of bytes
_STDOUT = 1


@dataclass(slots=True)
class _Pool:
    """The relays that wait in one container."""

    container_id: str
    command: Sequence[str]
    engine: str | None
    guard: threading.Lock = field(default_factory=threading.Lock)
    idle: list[tuple[float, ExecStream]] = field(default_factory=list)
    opening: int = 0
    closed: bool = False

    def take(self) -> ExecStream:
        found = None
        with self.guard:
            while self.idle and found is None:
                opened, stream = self.idle.pop()
                if time.monotonic() - opened < _WARM_S and not _has_ended(stream):
                    found = stream
                else:
                    stream.close()
            refill = not self.closed and len(self.idle) + self.opening < _WARM
            self.opening += refill
        if refill:
            threading.Thread(target=self._fill, name="llmlab relay", daemon=True).start()
        return found or self.open()

    def open(self) -> ExecStream:
        return docker_api.connect(self.engine).exec_stream(self.container_id, self.command)

    def _fill(self) -> None:
        stream = None
        # Whoever needs one next will see the reason.
        with suppress(LabError, OSError):
            stream = self.open()
        with self.guard:
            self.opening -= 1
            if stream and not self.closed:
                self.idle.append((time.monotonic(), stream))
                stream = None
        if stream:
            stream.close()

    def close(self) -> None:
        with self.guard:
            self.closed = True
            for _, stream in self.idle:
                stream.close()
            self.idle.clear()


# A forked child must not use its parent's connections: the pid is part of the key.
_pools: dict[tuple[int, str, str], _Pool] = {}
_guard = threading.Lock()


def connect(container_id: str, target: str, engine: str | None = None) -> socket.socket:
    """A connection to the target in a container.

    Args:
        container_id: The container.
        target: The unix socket's path, or address:port, in there.
        engine: Where the container engine listens that has it; None for the user's.

    Raises:
        BackendError: If the relay cannot be run.
    """
    key = (os.getpid(), container_id, target)
    with _guard:
        pool = _pools.get(key)
        if pool is None or pool.closed:
            pool = _pools[key] = _Pool(container_id, (PROGRAM, "stdio", target), engine)
    stream = pool.take()
    ours, theirs = socket.socketpair()
    threading.Thread(target=_pump, args=(theirs, stream), name="llmlab relay", daemon=True).start()
    return ours


def forget(container_id: str) -> None:
    """Let the relays go that wait in a container."""
    with _guard:
        keys = [key for key in _pools if key[:2] == (os.getpid(), container_id)]
        pools = [_pools.pop(key) for key in keys]
    for pool in pools:
        pool.close()


@atexit.register
def _forget_all() -> None:
    for pid, container_id, _ in list(_pools):
        if pid == os.getpid():
            forget(container_id)


def _has_ended(stream: ExecStream) -> bool:
    """Whether a relay that has not been asked anything says something: only its end can be that."""
    poll = select.poll()
    poll.register(stream.socket, select.POLLIN)
    return bool(poll.poll(0))


def _pump(near: socket.socket, stream: ExecStream) -> None:
    """Pass bytes on in both directions until one side ends."""
    try:
        with near:
            _Bridge(near, stream.socket).run()
    except OSError:
        # One side has gone; the other learns of it by the closing.
        pass
    finally:
        stream.close()


class _Bridge:
    """The bytes between a client and the engine's API, which packs a relay's output into frames."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self._near, self._far = near, far
        self._up = self._down = b""
        self._header = b""
        self._kind = self._left = 0
        self._ended = False

    def run(self) -> None:
        self._near.setblocking(False)
        self._far.setblocking(False)
        poll = select.poll()
        near, far = self._near.fileno(), self._far.fileno()
        while not self._ended or self._down:
            poll.register(near, (0 if self._up else select.POLLIN) | (select.POLLOUT if self._down else 0))
            wanted = (select.POLLOUT if self._up else 0) | (0 if self._down else select.POLLIN)
            if wanted and not self._ended:
                poll.register(far, wanted)
            else:
                with suppress(KeyError):
                    poll.unregister(far)
            seen = dict(poll.poll())
            if not self._from_near(seen.get(near, 0)):
                return
            if seen.get(far):
                self._exchange(seen[far])

    def _from_near(self, seen: int) -> bool:
        if seen & select.POLLOUT and self._down:
            self._down = self._down[self._near.send(self._down) :]
        if seen & select.POLLIN and not self._up:
            self._up = self._near.recv(_BYTES)
            # Whoever asked has closed: that is what stops the engine.
            return bool(self._up)
        return not seen & (select.POLLHUP | select.POLLERR)

    def _exchange(self, seen: int) -> None:
        # With TLS either may have to wait for the other.
        with suppress(BlockingIOError, *docker_api.TLS_WAITS):
            if seen & select.POLLOUT and self._up:
                self._up = self._up[self._far.send(self._up) :]
        with suppress(BlockingIOError, *docker_api.TLS_WAITS):
            while not self._down and not self._ended and seen & ~select.POLLOUT:
                data = self._far.recv(_BYTES)
                self._ended = not data
                self._unpack(data)

    def _unpack(self, data: bytes) -> None:
        """Keep what is the relay's standard output."""
        while data:
            if not self._left:
                missing = _HEADER.size - len(self._header)
                self._header, data = self._header + data[:missing], data[missing:]
                if len(self._header) < _HEADER.size:
                    return
                self._kind, self._left = _HEADER.unpack(self._header)
                self._header = b""
                continue
            part, data = data[: self._left], data[self._left :]
            self._left -= len(part)
            if self._kind == _STDOUT:
                self._down += part
