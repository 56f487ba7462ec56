"""Somebody between a learner and the room, who passes everything on and keeps a copy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from llmlab.client import rooms

_PIECE = 65536
_WAIT_S = 10.0


class Listener:
    """Stands at an address of its own on this machine, and passes connections on to a room.

    Args:
        url: The room's address.
    """

    def __init__(self, url: str) -> None:
        self._to = rooms.read_address(url)
        self._door = socket.create_server(("127.0.0.1", 0))
        self._heard = bytearray()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        """Its address; a certificate's fingerprint stands in it as in the room's own."""
        pin = f"/#sha256={self._to.pin}" if self._to.pin else ""
        return f"{'https' if self._to.tls else 'http'}://127.0.0.1:{self._door.getsockname()[1]}{pin}"

    def heard(self) -> bytes:
        """All that has passed, in both directions."""
        with self._lock:
            return bytes(self._heard)

    def __enter__(self) -> Listener:  # noqa: PYI034 - typing.Self needs Python 3.11
        self._run(self._admit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            held = [self._door, *self._open]
        for each in held:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_WAIT_S)
        for each in held:
            each.close()

    def _run(self, work: Callable[..., None], *parts: socket.socket) -> None:
        thread = threading.Thread(target=work, args=parts, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _admit(self) -> None:
        with suppress(OSError):  # the door is closed
            while True:
                learner, _ = self._door.accept()
                room = socket.create_connection((self._to.host, self._to.port), timeout=_WAIT_S)
                room.settimeout(None)
                with self._lock:
                    self._open += [learner, room]
                self._run(self._pass, learner, room)
                self._run(self._pass, room, learner)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # one of the two has gone
            while data := source.recv(_PIECE):
                with self._lock:
                    self._heard += data
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
