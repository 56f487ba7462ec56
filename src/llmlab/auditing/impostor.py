"""Something that answers in a server's place; it has to be refused before a prompt is sent."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from llmlab.client.connection import Verify, open_socket
from llmlab.errors import LabError
from llmlab.specs import Endpoint, Record

_ANSWER_S = 2.0
_GREETING = b"impostor"


@contextmanager
def standing_in(*, on_tcp: bool) -> Iterator[Endpoint]:
    """An impostor, on a unix socket or on TCP."""
    with tempfile.TemporaryDirectory(prefix="llmlab-") as folder:
        path = Path(folder) / "sock"
        with closing(socket.socket(socket.AF_INET if on_tcp else socket.AF_UNIX)) as door:
            door.bind(("127.0.0.1", 0) if on_tcp else str(path))
            door.listen(8)
            door.settimeout(0.05)
            stop = threading.Event()

            def answer() -> None:
                while not stop.is_set():
                    with suppress(OSError), door.accept()[0] as caller:
                        caller.sendall(_GREETING)

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            try:
                yield Endpoint(port=door.getsockname()[1]) if on_tcp else Endpoint(socket=path)
            finally:
                stop.set()
                thread.join()


def believed(record: Record, fake: Endpoint, verify: Verify | None) -> tuple[bool, str]:
    """Whether an impostor is taken for the server."""
    try:
        with closing(open_socket(record.name, fake, verify, _ANSWER_S)):
            return True, "it was taken for the server: over TCP nobody can tell who answers"
    except LabError as error:
        return False, f"refused: {error.message}"


def answers_unchecked(record: Record, fake: Endpoint) -> bool:
    """Whether an impostor answers those who do not check."""
    with suppress(LabError, OSError), closing(open_socket(record.name, fake, None, _ANSWER_S)) as opened:
        return opened.recv(len(_GREETING)) == _GREETING
    return False


def refused(record: Record, verify: Verify | None) -> tuple[bool, str]:
    """Whether the server itself is not recognised."""
    try:
        with closing(open_socket(record.name, record.endpoint, verify, _ANSWER_S)):
            return False, "the server itself is recognised"
    except LabError as error:
        return True, error.message
