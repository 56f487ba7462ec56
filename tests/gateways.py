"""A gateway of replicated servers for tests: the relay's own program, in its mode `balance`."""

from __future__ import annotations

import json
import re
import resource
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import eventually
from tests.scripted_server import Script, answer

HEALTHY = answer(200, b'{"status": "ok"}')
LOADING = answer(503, b'{"error": {"message": "Loading model"}}')


class Gateway:
    """A gateway that runs.

    Attributes:
        place: Where it listens: a unix socket's path, or a port of 127.0.0.1.
        folder: The directory with its targets' file and its sockets.
        process: Its process.
    """

    def __init__(self, folder: Path, place: str, process: subprocess.Popen[str]) -> None:
        self.folder = folder
        self.place = place
        self.process = process

    def targets(self, *lines: str, text: str | None = None) -> None:
        """Replace the file of targets as its owner does, in one step."""
        draft = self.folder / "draft"
        draft.write_text("".join(f"{line}\n" for line in lines) if text is None else text)
        draft.rename(self.folder / "targets")

    def status(self) -> dict[str, Any]:
        """What it says of itself."""
        with socket.socket(socket.AF_UNIX) as opened:
            opened.settimeout(10)
            opened.connect(str(self.folder / "status.sock"))
            found: dict[str, Any] = json.loads(read_all(opened))
            return found

    def target(self, name: str) -> dict[str, Any]:
        """What it says of one target, as soon as it knows it."""
        found: list[dict[str, Any]] = eventually(
            lambda: [entry for entry in self.status()["targets"] if entry["id"] == name]
        )
        return found[0]

    def states(self) -> dict[str, str]:
        """The targets' states by their ids."""
        return {entry["id"]: entry["state"] for entry in self.status()["targets"]}

    def become(self, **states: str) -> None:
        """Wait until the targets are in these states."""
        eventually(lambda: self.states() == states)

    def connect(self) -> socket.socket:
        """A client's connection."""
        path = self.place.startswith("/")
        opened = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        opened.settimeout(30)
        try:
            opened.connect(self.place if path else ("127.0.0.1", int(self.place)))
        except BaseException:
            opened.close()
            raise
        return opened

    def begin(self, path: str = "/v1/x", body: bytes = b"{}", *more: str) -> socket.socket:
        """A client that has sent its request."""
        opened = self.connect()
        opened.sendall(request(path, body, *more))
        return opened

    def ask(self, path: str = "/v1/x", body: bytes = b"{}") -> bytes:
        """The whole answer to a request."""
        with self.begin(path, body) as opened:
            return read_all(opened)


def request(path: str, body: bytes = b"{}", *more: str) -> bytes:
    """A request with its length."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


def read_all(opened: socket.socket) -> bytes:
    """Everything until the end of the connection."""
    pieces = []
    while piece := opened.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def asked(script: Script) -> int:
    """How many requests have come to a server, besides those for its health."""
    return sum(not request.startswith(b"GET /health") for request in script.requests)


@contextmanager
def running_gateway(
    program: Path, *words: str, place: str = "", open_files: int = 0, folder: Path | None = None
) -> Iterator[Gateway]:
    """Run a gateway until the end of the block, where it must end well and say nothing.

    Args:
        program: The relay's program.
        words: Further words of its command line.
        place: Where it listens, unset for a unix socket.
        open_files: The limit of its descriptors, 0 for as it is.
        folder: Where its files are, unset for a new directory.
    """

    def limit() -> None:
        if open_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

    with tempfile.TemporaryDirectory(prefix="llm-") as made:
        at = folder or Path(made)
        place = place or str(at / "g.sock")
        command = [str(program), "balance", place, str(at / "targets"), str(at / "status.sock"), *words]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit,  # noqa: PLW1509 - it sets a limit and takes no lock
        ) as process:
            assert process.stdout
            assert process.stderr
            try:
                said = [process.stdout.readline(), process.stdout.readline()]
                found = re.search(r"listening at \S+, port (\d+)", said[1])
                assert found, said
                yield Gateway(at, found[1] if found[1] != "0" else place, process)
            finally:
                process.terminate()
                ended = process.wait(60)
            assert (ended, told := process.stderr.read()) == (0, ""), f"it ended with {ended}: {told}"
