"""A small HTTP server on a unix socket, or a port, that answers what it is told to, byte for byte."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"

Reply = Callable[[socket.socket], None]
"""Answers one request on its connection."""


@dataclass
class Script:
    """What is answered to each path, and what has been asked.

    Attributes:
        replies: Path → how to answer.
        requests: Whole requests, in the order in which they came.
        connections: Number of connections that were made.
        path: Where the server listens.
        address: The same for one with a port: `address:port`.
    """

    path: Path
    replies: dict[str, Reply] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    address: str = ""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked answer."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def answer(status: int, body: bytes, *more: str) -> Reply:
    """A whole answer with its length."""
    lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}", "Connection: close", *more, "", ""]
    return send("\r\n".join(lines).encode() + body)


def send(*pieces: bytes) -> Reply:
    """These bytes, each piece in a packet of its own."""

    def reply(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return reply


def stream(*pieces: bytes) -> Reply:
    """A complete chunked answer, one chunk for each piece."""
    return send(CHUNKED, *map(chunk, pieces), END)


def then(*replies: Reply) -> Reply:
    """One after the other on the same connection."""

    def reply(connection: socket.socket) -> None:
        for part in replies:
            part(connection)

    return reply


def hang(released: threading.Event) -> Reply:
    """Say nothing until released."""

    def reply(_: socket.socket) -> None:
        assert released.wait(30)

    return reply


def in_turn(replies: Sequence[Reply]) -> Reply:
    """Another reply for each request; the last one from then on."""
    left = list(replies)

    def reply(connection: socket.socket) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(connection)

    return reply


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False


class _PortServer(socketserver.ThreadingTCPServer):
    daemon_threads = False
    allow_reuse_address = True
    request_queue_size = 512


@contextmanager
def scripted(path: Path) -> Iterator[Script]:
    """Serve on a unix socket until the end of the block."""
    script = Script(path)
    with _UnixServer(str(path), _handler(script)) as server, _serving(server):
        yield script


@contextmanager
def scripted_port(port: int = 0) -> Iterator[Script]:
    """The same on a port of 127.0.0.1, 0 for any that is free."""
    script = Script(Path())
    with _PortServer(("127.0.0.1", port), _handler(script)) as server, _serving(server):
        script.address = "{}:{}".format(*server.server_address)
        yield script


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


def _handler(script: Script) -> type[socketserver.BaseRequestHandler]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            script.connections += 1
            # The client may hang up whenever it likes.
            with suppress(BrokenPipeError, ConnectionResetError):
                request = _read_request(self.request)
                if request:
                    script.requests.append(request)
                    script.replies[request.split(b" ", 2)[1].decode()](self.request)

    return Handler


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
            while len(body) < length:
                more = connection.recv(65536)
                if not more:
                    return b""
                body += more
    return head + b"\r\n\r\n" + body
