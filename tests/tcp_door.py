"""A second door to the local container engine, over TCP: as if it were on another machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ENGINE = "/var/run/docker.sock"


@contextmanager
def tcp_door(path: str = ENGINE) -> Iterator[str]:
    """Pass connections on to a unix socket; yields the address, as in DOCKER_HOST."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=(listener, path), daemon=True).start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        # A thread in accept() is not woken by closing.
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket, path: str) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(path)
            both = threading.Lock()
            left = [client, engine]
            for source, target in ((client, engine), (engine, client)):
                threading.Thread(target=_copy, args=(source, target, left, both), daemon=True).start()


def _copy(
    source: socket.socket, target: socket.socket, left: list[socket.socket], both: threading.Lock
) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    with both:
        left.remove(source)
        if not left:
            source.close()
            target.close()
