"""The two servers of a hub: what huggingface.co answers, and where it sends for the bytes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from llmlab.testing.hub import Hub

_BLOCK_BYTES = 1 << 16
_API = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?:revision|tree)/(?P<revision>[^/]+)(?:/(?P<folder>.*))?)?"
)
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass(slots=True)
class Request:
    """What was asked for.

    Attributes:
        server: `hub`, or `bytes` for the server that the hub redirects to.
        method: `GET` or `HEAD`.
        path: The path, with its query.
        range: The range of bytes that was asked for, as the request has it.
        token: The token that came with it.
        status: What was answered.
        sent_bytes: How much of the body was sent.
    """

    server: str
    method: str
    path: str
    range: str
    token: str
    status: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class File:
    """A file that is served.

    Attributes:
        path: Where it lies.
        size: Bytes.
        sha256: Its hash.
        sha1: The hash that git gives it.
        large: Whether it is kept beside git, as the hub keeps what is large.
    """

    path: Path
    size: int
    sha256: str
    sha1: str
    large: bool


class Server(ThreadingHTTPServer):
    """A server that knows its hub."""

    daemon_threads = True

    def __init__(self, hub: Hub, handler: type[BaseHTTPRequestHandler], port: int) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.hub = hub

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may hang up whenever it likes."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_name = "hub"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.hub = self.server.hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Nothing: `Hub.requests` is the log."""

    def _answer(self) -> None:
        authorization = self.headers.get("Authorization") or ""
        self.asked = Request(
            self.server_name,
            self.command,
            self.path,
            self.headers.get("Range") or "",
            authorization.removeprefix("Bearer "),
        )
        self.hub.requests.append(self.asked)
        self.answer(unquote(urlsplit(self.path).path))

    def answer(self, path: str) -> None:
        """Answer a request for a path."""
        raise NotImplementedError

    def head(self, status: int, headers: Mapping[str, str], length: int) -> None:
        """Send status and headers."""
        self.asked.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def whole(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send an answer that is not a file."""
        self.head(status, headers or {}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str) -> None:
        """Refuse as the hub does."""
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        if code:
            headers["X-Error-Code"] = code
        self.whole(status, json.dumps({"error": message}).encode(), headers)

    def failed(self, where: str, name: str) -> bool:
        """Whether a fault has answered in our place."""
        fault = self.hub.fault(where, name, "status")
        if fault:
            self.whole(fault.status, b"", fault.headers)
        return fault is not None


class HubHandler(_Handler):
    """What is asked of huggingface.co itself."""

    def answer(self, path: str) -> None:
        """Describe a repository, or say where a file is."""
        token = self.asked.token
        known = self.hub.tokens.union(*self.hub.gated.values(), *self.hub.private.values())
        if token and known and token not in known:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif path == "/api/models":
            query = parse_qs(urlsplit(self.path).query)
            names = self.hub.repositories(query.get("author", [""])[0])
            self.whole(200, json.dumps([{"id": name} for name in names]).encode(), _JSON)
        elif path == "/api/whoami-v2":
            if token:
                self.whole(200, b'{"type": "user", "name": "somebody"}', _JSON)
            else:
                self.refuse(401, "", "Invalid username or password.")
        elif found := _API.fullmatch(path):
            self._describe(found["repo"], found["revision"], found["folder"] or "", tree="/tree/" in path)
        elif found := _RESOLVE.fullmatch(path):
            self._resolve(found["repo"], found["revision"], found["name"])
        else:
            self.refuse(404, "", "Sorry, we can't find the page you are looking for.")

    def _known(self, repo: str, revision: str | None) -> bool:
        """Whether there is such a repository and revision; refuses if not."""
        hidden = repo in self.hub.private and self.asked.token not in self.hub.private[repo]
        if hidden or not self.hub.files(repo):
            self.refuse(404 if self.asked.token else 401, "RepoNotFound", "Repository not found")
        elif revision not in {None, "main", self.hub.commit(repo)}:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def _describe(self, repo: str, revision: str | None, folder: str, *, tree: bool) -> None:
        if self.failed("api", repo) or not self._known(repo, revision):
            return
        files = {name: file for name, file in self.hub.files(repo).items() if name.startswith(folder)}
        described: object
        if tree:
            described = [
                {"type": "file", "path": name, "size": file.size, "oid": file.sha1, "lfs": _lfs(file, "oid")}
                for name, file in files.items()
            ]
        else:
            described = {
                "_id": self.hub.commit(repo)[:24],
                "id": repo,
                "modelId": repo,
                "sha": self.hub.commit(repo),
                "private": repo in self.hub.private,
                "gated": "manual" if repo in self.hub.gated else False,
                "disabled": False,
                "tags": ["gguf"],
                "downloads": 0,
                "siblings": [
                    {"rfilename": name, "size": file.size, "blobId": file.sha1, "lfs": _lfs(file, "sha256")}
                    for name, file in files.items()
                ],
            }
        self.whole(200, json.dumps(described).encode(), _JSON)

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        if self.failed("resolve", name) or not self._known(repo, revision):
            return
        files = self.hub.files(repo)
        gated = self.hub.gated.get(repo)
        if gated is not None and self.asked.token not in gated:
            message = f"Access to model {repo} is restricted."
            self.refuse(403 if self.asked.token else 401, "GatedRepo", message)
        elif name not in files:
            self.refuse(404, "EntryNotFound", "Entry not found")
        elif files[name].large:
            file = files[name]
            headers = {
                "X-Repo-Commit": self.hub.commit(repo),
                "ETag": f'"{file.sha1}"',
                "X-Linked-Etag": f'"{file.sha256}"',
                "X-Linked-Size": str(file.size),
                "Accept-Ranges": "bytes",
                "Location": self.hub.bytes_address(repo, name),
            }
            self.whole(302, b"", headers)
        else:
            headers = {"X-Repo-Commit": self.hub.commit(repo), "ETag": f'"{files[name].sha1}"'}
            self.whole(200, files[name].path.read_bytes(), headers)


class BytesHandler(_Handler):
    """The server that has the large files."""

    server_name = "bytes"

    def answer(self, path: str) -> None:
        """Send a file, or a part of it."""
        repo, _, sha256 = path.strip("/").rpartition("/")
        found = next((each for each in self.hub.files(repo).items() if each[1].sha256 == sha256), None)
        if found is None:
            self.whole(404, b"")
            return
        name, file = found
        if self.failed("bytes", name):
            return
        size = file.size
        if short := self.hub.fault("bytes", name, "short"):
            size -= short.after_bytes
        begin, end, status = self._range(size, name)
        if begin >= size:
            self.whole(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        headers = {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}
        if status == 206:  # noqa: PLR2004 - HTTP's "partial content"
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        self.head(status, headers, end - begin)
        if self.command != "HEAD":
            self._send(name, file.path, begin, end)

    def _range(self, size: int, name: str) -> tuple[int, int, int]:
        """Begin, end and status of what is to be sent."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.asked.range)
        if not wanted or self.hub.fault("bytes", name, "ignore-range"):
            return 0, size, 200
        return int(wanted[1]), min(size, int(wanted[2] or size) + 1), 206

    def _send(self, name: str, path: Path, begin: int, end: int) -> None:
        drop = self.hub.fault("bytes", name, "drop")
        slow = self.hub.fault("bytes", name, "slow")
        corrupt = self.hub.fault("bytes", name, "corrupt")
        stop = min(end, begin + drop.after_bytes) if drop else end
        with path.open("rb") as file, suppress(BrokenPipeError, ConnectionResetError):
            file.seek(begin)
            while (position := file.tell()) < stop:
                block = file.read(min(_BLOCK_BYTES, stop - position))
                if corrupt and position == begin:
                    block = bytes([block[0] ^ 1]) + block[1:]
                self.wfile.write(block)
                self.asked.sent_bytes += len(block)
                if slow:
                    time.sleep(len(block) / slow.bytes_per_s)
        if drop:
            self.close_connection = True


_JSON = {"Content-Type": "application/json"}


def _lfs(file: File, key: str) -> dict[str, object] | None:
    return {key: file.sha256, "size": file.size, "pointerSize": 134} if file.large else None
