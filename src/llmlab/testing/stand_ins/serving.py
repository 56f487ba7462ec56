"""What the stand-ins share: a llama-server behind them, and an HTTP server in front of it."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROGRAM = "/opt/llama.cpp/llama-server"
"""Where the stand-in's image has llama-server."""

_READY_S = 120.0
_POLL_S = 0.02


class LoadError(Exception):
    """llama-server could not load the model."""


class Llama:
    """A llama-server with one model, on a unix socket in the temporary directory.

    Args:
        model: The model's file.
        context: Tokens of context for each request.
        slots: Requests at the same time.
        threads: Compute threads; None for llama-server's choice.

    Raises:
        LoadError: If it ends before it is ready.
    """

    def __init__(self, model: str, *, context: int, slots: int, threads: int | None = None) -> None:
        self._socket = str(Path(tempfile.gettempdir()) / f"stand-in-{os.getpid()}.sock")
        command = [PROGRAM, "--model", model, "--host", self._socket]
        command += ["--ctx-size", str(context * slots), "--parallel", str(slots), "--no-kv-unified"]
        command += ["--device", "none", "--cache-ram", "0", "--fit", "off", "--jinja", "--metrics"]
        command += ["--threads-http", str(slots + 72), "--no-ui", "--offline", "--log-colors", "off"]
        command += [] if threads is None else ["--threads", str(threads), "--threads-batch", str(threads)]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(Path(PROGRAM).parent),
            "OMP_WAIT_POLICY": "passive",
        }
        self._process = subprocess.Popen(command, env=environment)
        self._await_ready()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise LoadError(f"llama-server ended with {self._process.returncode}")
            with suppress(OSError), self.ask("GET", "/health") as answer:
                if answer.status == http.HTTPStatus.OK:
                    return
            time.sleep(_POLL_S)
        raise LoadError("llama-server was not ready in time")

    @contextmanager
    def ask(self, method: str, path: str, body: Any = None) -> Iterator[http.client.HTTPResponse]:
        """Send it a request; the connection is closed at the end, which ends what it computes for it."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(self._socket)
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            response = connection.getresponse()
            try:
                yield response
            finally:
                response.close()
        finally:
            connection.close()

    def text(self, path: str) -> str:
        """What it answers to a GET."""
        with self.ask("GET", path) as answer:
            return answer.read().decode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with JSON; a subclass has `answer_get` and `answer_post`."""

    def answer_get(self, path: str) -> None:
        """Answer a GET."""
        raise NotImplementedError

    def answer_post(self, path: str, body: dict[str, Any]) -> None:
        """Answer a POST with a JSON object."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Called by the server."""
        self.answer_get(self.path.partition("?")[0])

    def do_POST(self) -> None:
        """Called by the server."""
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            self.send_json({"error": {"message": "the body is not a JSON object"}}, 400)
            return
        # Who asked may be gone before the answer is complete.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.answer_post(self.path.partition("?")[0], body)

    def send_json(self, value: Any, status: int = 200) -> None:
        """A whole answer."""
        self._send(json.dumps(value).encode(), "application/json", status)

    def send_text(self, text: str, kind: str = "text/plain") -> None:
        """A whole answer that is no JSON."""
        self._send(text.encode(), kind, http.HTTPStatus.OK)

    def begin(self, kind: str) -> None:
        """An answer that goes on until the connection is closed."""
        self.send_response(http.HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def write(self, text: str) -> None:
        """A piece of such an answer."""
        self.wfile.write(text.encode())
        self.wfile.flush()

    def not_found(self) -> None:
        """For paths that there are not."""
        self.send_json({"error": {"message": "404 page not found"}}, http.HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """One line for each request, as servers of this kind have it."""
        print(format % args, file=sys.stderr, flush=True)  # noqa: T201 - this is its log

    def _send(self, content: bytes, kind: str, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def serve(handler: type[Handler], place: tuple[str, int] | str) -> None:
    """Answer requests until the process is ended.

    Args:
        handler: What answers.
        place: Address and port, or the path of a unix socket.
    """
    if isinstance(place, str):
        with suppress(FileNotFoundError):
            Path(place).unlink()
        _UnixServer(place, handler).serve_forever()
    else:
        _Server(place, handler).serve_forever()


def events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a stream of llama-server's."""
    for line in answer:
        text = line.decode().strip()
        if text.startswith("data: ") and text != "data: [DONE]":
            yield json.loads(text.removeprefix("data: "))


def passed(body: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The fields of a request that an engine knows; it takes no notice of others."""
    return {name: body[name] for name in names if name in body}


def foreign(event: dict[str, Any], model: str) -> dict[str, Any]:
    """An answer of llama-server's without what only that one tells."""
    found = {
        key: value for key, value in event.items() if key not in {"timings", "__verbose", "prompt_progress"}
    }
    if isinstance(usage := found.get("usage"), dict):
        found["usage"] = passed(usage, ("prompt_tokens", "completion_tokens", "total_tokens"))
    return {**found, "model": model}
