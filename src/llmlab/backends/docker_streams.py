"""Connections to a container engine that stay open: a program's, and an engine's counts."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_HEADER = struct.Struct(">BxxxL")  # which stream, number of bytes


def framed(opened: socket.socket) -> Iterator[bytes]:
    """What a container writes, from the frames that the engine sends it in, until it ends.

    The `docker` package waits for the socket before each read, which TLS may have read already.

    Args:
        opened: The connection.
    """
    while header := _exactly(opened, _HEADER.size):
        _, length = _HEADER.unpack(header)
        yield _exactly(opened, length)


def _exactly(opened: socket.socket, count: int) -> bytes:
    """So many bytes; none if it ends before."""
    found = b""
    while len(found) < count:
        piece = opened.recv(count - len(found))
        if not piece:
            return b""
        found += piece
    return found


@dataclass(frozen=True, slots=True)
class ExecStream:
    """Standard input and output of a program that was run in a container.

    Attributes:
        socket: The connection to the engine. Output comes in its frames.
        response: What owns the connection.
    """

    socket: socket.socket
    response: Any

    def close(self) -> None:
        """Close it, for a forked child that has inherited it as well."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            self.socket.close()
        self.response.close()


@dataclass(frozen=True, slots=True)
class StatsStream:
    """What an engine counts of a container, as it tells it.

    Attributes:
        objects: The decoded objects; may raise whatever it likes.
        connection: What they come through.
    """

    objects: Iterator[dict[str, Any]]
    connection: ExecStream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The objects, as they come."""
        return self.objects

    def close(self) -> None:
        """End it; whoever waits for the next object goes on at once."""
        self.connection.close()
