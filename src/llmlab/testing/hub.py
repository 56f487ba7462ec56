"""A hub on this machine: a folder of models, served as huggingface.co serves them.

    python -m llmlab.testing.hub FOLDER

serves `FOLDER/owner/repo/model.gguf` and prints the variable that sends
llmlab (and everything else that uses huggingface_hub) there; it listens on this
machine only. A teacher can try a class's first steps with it, without a network.

As on the hub, the bytes come from another server than the answers, after a
redirect; both know ranges. `Fault` makes either fail, and `Hub.requests` says
what was asked for.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llmlab.testing.answering import BytesHandler, File, HubHandler, Request, Server


@dataclass(slots=True)
class Fault:
    """Something that goes wrong, for requests that it fits.

    Attributes:
        kind: `status`: answer with `status`. `drop`: break the connection after
            `after_bytes` of the body. `corrupt`: send one wrong byte. `short`:
            send, and announce, `after_bytes` fewer than there are. `slow`: send
            no more than `bytes_per_s`. `ignore-range`: send everything, whatever
            part was asked for.
        where: `api` (what a repository has), `resolve` (where a file's bytes
            are) or `bytes`.
        match: The file it is for, or the repository (`api`), with `*` and `?`.
        times: How many requests it is for; None for all.
        status: The status to answer with.
        headers: Headers that go with it.
        after_bytes: See `kind`.
        bytes_per_s: See `kind`.
    """

    kind: Literal["status", "drop", "corrupt", "short", "slow", "ignore-range"]
    where: Literal["api", "resolve", "bytes"] = "bytes"
    match: str = "*"
    times: int | None = 1
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    after_bytes: int = 0
    bytes_per_s: float = 0.0


class Hub:
    """A running hub.

    Attributes:
        folder: What it serves: `owner/repo/file`.
        endpoint: Its address, for `HF_ENDPOINT`.
        faults: What goes wrong; may be changed at any time.
        gated: Repository → the tokens it is given to.
        private: The same for repositories that nobody else may know of.
        tokens: Tokens that are somebody's; others are refused everywhere.
        aliases: Repository → name that is listed → the file in it that is meant.
        requests: What was asked for, in order.
    """

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        self.folder = folder
        self.faults: list[Fault] = []
        self.gated: dict[str, set[str]] = {}
        self.private: dict[str, set[str]] = {}
        self.tokens: set[str] = set()
        self.aliases: dict[str, dict[str, str]] = {}
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._known: dict[tuple[Path, int, int], File] = {}
        self._servers = (Server(self, HubHandler, port), Server(self, BytesHandler, 0))
        self.endpoint, self._bytes = (f"http://127.0.0.1:{each.server_port}" for each in self._servers)

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        """Serve until the end of the block."""
        threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            for server in self._servers
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(self._servers, threads, strict=True):
                server.shutdown()
                thread.join()
                server.server_close()

    def sent_bytes(self) -> int:
        """Bytes of files that have been sent so far."""
        return sum(request.sent_bytes for request in self.requests if request.server == "bytes")

    def files(self, repo: str) -> dict[str, File]:
        """A repository's files by name; empty if there is no such repository."""
        root = self.folder / repo
        found = {}
        if re.fullmatch(r"[\w.-]+/[\w.-]+", repo) and ".." not in repo and root.is_dir():
            for path in sorted(root.rglob("*")):
                if path.is_file():
                    found[path.relative_to(root).as_posix()] = self._file(path)
            for alias, name in self.aliases.get(repo, {}).items():
                found[alias] = self._file(root / name)
        return found

    def commit(self, repo: str) -> str:
        """The revision that `main` is: it changes with the files."""
        text = "\n".join(f"{name} {file.sha256}" for name, file in sorted(self.files(repo).items()))
        return hashlib.sha1(f"{repo}\n{text}".encode(), usedforsecurity=False).hexdigest()

    def repositories(self, author: str) -> list[str]:
        """Public repositories of an owner."""
        owner = self.folder / author
        if not re.fullmatch(r"[\w.-]+", author) or author in {".", ".."} or not owner.is_dir():
            return []
        names = [f"{author}/{path.name}" for path in sorted(owner.iterdir()) if path.is_dir()]
        return [name for name in names if name not in self.private]

    def fault(self, where: str, name: str, *kinds: str) -> Fault | None:
        """The next fault of one of these kinds for a request; it is used up by asking."""
        with self._lock:
            for fault in self.faults:
                if fault.where == where and fault.kind in kinds and fnmatch.fnmatchcase(name, fault.match):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times <= 0:
                            self.faults.remove(fault)
                    return fault
        return None

    def bytes_address(self, repo: str, name: str) -> str:
        """Where a file's bytes are."""
        return f"{self._bytes}/{repo}/{self.files(repo)[name].sha256}"

    def _file(self, path: Path) -> File:
        info = path.stat()
        key = (path, info.st_size, info.st_mtime_ns)
        with self._lock:
            if key not in self._known:
                sha256 = hashlib.sha256()
                sha1 = hashlib.sha1(b"blob %d\0" % info.st_size, usedforsecurity=False)
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        sha256.update(block)
                        sha1.update(block)
                self._known[key] = File(
                    path, info.st_size, sha256.hexdigest(), sha1.hexdigest(), path.suffix == ".gguf"
                )
            return self._known[key]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve a folder until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m llmlab.testing.hub",
        description="Serve a folder of models, FOLDER/owner/repo/model.gguf, as huggingface.co does. "
        "It listens on this machine only.",
    )
    parser.add_argument("folder", type=Path, help="the folder")
    parser.add_argument("--port", type=int, default=0, help="port to listen at; a free one if not given")
    parser.add_argument(
        "--drop", type=int, default=0, metavar="N", help="break the first N downloads halfway"
    )
    parser.add_argument("--rate", type=float, metavar="MB", help="send at most so many MB per second")
    parser.add_argument("--token", help="give files only to who comes with this token")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    hub = Hub(options.folder, port=options.port)
    for path in sorted(options.folder.glob("*/*")):
        for name, file in hub.files(path.relative_to(options.folder).as_posix()).items():
            if options.drop and file.large:
                half = file.size // (2 * options.drop)
                hub.faults.append(Fault("drop", match=name, times=options.drop, after_bytes=half))
        if options.token:
            hub.gated[path.relative_to(options.folder).as_posix()] = {options.token}
    if options.rate:
        hub.faults.append(Fault("slow", times=None, bytes_per_s=options.rate * 1e6))
    with hub.serving(), suppress(KeyboardInterrupt):
        sys.stdout.write(f"HF_ENDPOINT={hub.endpoint}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
