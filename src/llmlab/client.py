"""A small client for OpenAI-compatible servers, over unix sockets or loopback.

The standard library's `http.client` on a socket of our own: the peer can be
checked before a prompt is sent, and closing it is what cancels a request.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llmlab.errors import (
    AskInterrupted,
    ContextError,
    EndpointError,
    RequestError,
    ServerBusyError,
    ServerError,
    ServerStoppedError,
)
from llmlab.results import Answer
from llmlab.specs import Endpoint

Verify = Callable[[socket.socket], None]
"""Checks a connected socket's peer; raises `EndpointError` if it is not ours."""

_READ_BYTES = 65536
_CONNECT_S = 5.0
_IDLE_CHECK_S = 5.0
_ERROR_BYTES = 65536
_EVENT_BYTES = 1 << 20
_SHOWN_CHARACTERS = 500
# Anything between <| and |> is a control token in some model's vocabulary.
_CONTROL = re.compile(r"<\|[^|\s]{1,64}\|>")
# An invisible character behind the first one keeps the text readable and
# makes the tokenizer see ordinary text.
_BREAK = "\u2060"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One question to a server.

    Attributes:
        prompt: What the user asks.
        system: Instructions that stand before it, "" for none.
        max_tokens: Most tokens to generate.
        temperature: 0 picks the likeliest token each time; higher is more varied.
        seed: Seed of the random choice, None for a new one each time.
        control_tokens: Further control tokens of the model's vocabulary.
        timeout_s: Longest wait for the next piece of the answer, seconds.
    """

    prompt: str
    system: str = ""
    max_tokens: int = 512
    temperature: float = 0.2
    seed: int | None = None
    control_tokens: tuple[str, ...] = ()
    timeout_s: float = 300.0


@dataclass(slots=True)
class _Progress:
    """An answer while it is being read."""

    server: str
    sent: float
    neutralised: tuple[str, ...]
    pieces: list[str] = field(default_factory=list)
    first: float | None = None
    last: float | None = None
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)

    def take(self, event: dict[str, Any], now: float) -> str:
        """Note what an event says; returns its piece of text, "" if it has none."""
        text = ""
        for choice in event.get("choices") or ():
            if piece := (choice.get("delta") or {}).get("content"):
                text += piece
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if text:
            self.first = self.first or now
            self.last = now
            self.pieces.append(text)
        self.usage = {**self.usage, **(event.get("usage") or {})}
        self.timings = {**self.timings, **(event.get("timings") or {})}
        return text

    def answer(self, finish_reason: str = "") -> Answer:
        completion = self.usage.get("completion_tokens", self.timings.get("predicted_n"))
        if completion is None and finish_reason:
            # Cut short: llama-server sends one piece for each token.
            completion = len(self.pieces)
        read_s = self.last - self.first if self.first and self.last else None
        # From the first token to the last; llama.cpp's own rate counts one too many.
        generated_ms = self.timings.get("predicted_ms")
        details = self.usage.get("prompt_tokens_details") or {}
        return Answer(
            text="".join(self.pieces),
            server=self.server,
            finish_reason=finish_reason or self.finish_reason,
            ttft_s=None if self.first is None else self.first - self.sent,
            total_s=(self.last or time.perf_counter()) - self.sent,
            prompt_tokens=self.usage.get("prompt_tokens"),
            completion_tokens=completion,
            tokens_per_s=_rate(completion, generated_ms / 1000 if generated_ms else None),
            client_tokens_per_s=_rate(completion, read_s),
            prompt_tokens_per_s=self.timings.get("prompt_per_second"),
            cached_tokens=self.timings.get("cache_n", details.get("cached_tokens")),
            neutralised=self.neutralised,
        )


def _ceil(seconds: float) -> float:
    """Rounded up to a tenth: "within 0.0 s" would claim too much."""
    return math.ceil(seconds * 10) / 10


def _rate(tokens: int | None, seconds: float | None) -> float | None:
    """Tokens after the first per second; None where there is nothing to divide."""
    return (tokens - 1) / seconds if tokens and tokens > 1 and seconds else None


class Client:
    """Talks to one server.

    Args:
        name: The server's name, for messages.
        endpoint: Where it listens.
        verify: Checks the peer of every new connection, before anything is sent.
    """

    def __init__(self, name: str, endpoint: Endpoint, verify: Verify | None = None) -> None:
        self._name = name
        self._endpoint = endpoint
        self._verify = verify

    def healthy(self, *, path: str = "/health", timeout_s: float = 1.0) -> bool:
        """Whether the server says that it can answer.

        Raises:
            EndpointError: If something else than the server answers.
        """
        try:
            with self._connection(timeout_s) as connection:
                connection.request("GET", path, headers=self._headers())
                with connection.getresponse() as response:
                    return response.status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException, ServerStoppedError):
            return False

    def get_json(self, path: str, *, timeout_s: float = 5.0) -> Any:
        """GET a path of the server's own, such as `/props`.

        Raises:
            ServerStoppedError: If nothing listens there.
            RequestError: If it does not answer with JSON.
        """
        try:
            with self._connection(timeout_s) as connection:
                connection.request("GET", path, headers=self._headers())
                with connection.getresponse() as response:
                    body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        if response.status != http.HTTPStatus.OK:
            raise self._refused(response.status, body)
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError(f"server {self._name!r} did not answer {path} with JSON") from None

    def chat(self, request: ChatRequest, on_text: Callable[[str], None]) -> Answer:
        """Ask, and hand on the answer piece by piece as it is read.

        Args:
            request: The question.
            on_text: Called with each non-empty piece of text.

        Raises:
            AskInterrupted: On Ctrl-C; the connection is closed and the server
                is watched until it has stopped generating.
            ContextError: If the prompt is longer than the context.
            RequestError: If the engine refuses the request.
            ServerBusyError: If nothing comes for `timeout_s`; what had come is
                in its `answer` attribute.
            ServerStoppedError: If the server is not there, or dies meanwhile;
                what had come is in its `answer` attribute.
        """
        prompt, found = neutralise(request.prompt, request.control_tokens)
        system, found_too = neutralise(request.system, request.control_tokens)
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        body: dict[str, Any] = {
            "messages": messages,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.seed is not None:
            body["seed"] = request.seed
        payload = json.dumps(body).encode()
        progress = _Progress(self._name, time.perf_counter(), tuple(dict.fromkeys(found + found_too)))
        try:
            with self._connection(request.timeout_s) as connection:
                progress.sent = time.perf_counter()
                connection.request(
                    "POST",
                    "/v1/chat/completions",
                    body=payload,
                    headers={**self._headers(), "Content-Type": "application/json"},
                )
                # Closed here, whatever happens: the response holds the socket,
                # and closing that is what makes the server stop.
                with connection.getresponse() as response:
                    if response.status != http.HTTPStatus.OK:
                        raise self._refused(response.status, response.read(_ERROR_BYTES))
                    self._read(response, progress, on_text)
        except KeyboardInterrupt:
            answer = progress.answer("interrupted")
            try:
                note = self._watch_idle()
            except KeyboardInterrupt:
                note = "the connection is closed; whether the server has stopped was not waited for"
            raise AskInterrupted(answer, note) from None
        except _Unshown as error:
            # Writing to a closed pipe is no fault of the server's.
            raise error.reason from None
        except TimeoutError as error:
            busy = ServerBusyError(
                f"server {self._name!r} sent nothing for {request.timeout_s:g} s",
                hint=f"look at its log: llmlab logs {self._name}",
            )
            busy.answer = progress.answer("timeout")
            raise busy from error
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error, progress.answer("died")) from error
        if not progress.finish_reason:
            answer = progress.answer("died")
            raise self._gone(None, answer) if answer.text else self._empty()
        return progress.answer()

    def _read(
        self, response: http.client.HTTPResponse, progress: _Progress, on_text: Callable[[str], None]
    ) -> None:
        for read_at, event in events(response):
            if error := event.get("error"):
                code = error.get("code") if isinstance(error, dict) else None
                status = code if isinstance(code, int) else http.HTTPStatus.INTERNAL_SERVER_ERROR
                raise self._refused(status, json.dumps(event).encode())
            try:
                piece = progress.take(event, read_at)
            except (AttributeError, TypeError, KeyError, IndexError):
                raise RequestError(
                    f"server {self._name!r} sent an event of another form: {json.dumps(event)[:80]}"
                ) from None
            if piece:
                try:
                    on_text(piece)
                except OSError as reason:
                    raise _Unshown(reason) from None

    def _empty(self) -> RequestError:
        """The error for a stream that ended in order without a single piece."""
        return RequestError(
            f"server {self._name!r} ended its answer without a word",
            # What llama-cpp-python's server does then, with status 200.
            hint=f"the prompt may be longer than the context; see its log: llmlab logs {self._name}",
        )

    def busy_slots(self) -> int | None:
        """How many requests the server works on; None if it does not tell."""
        try:
            slots = self.get_json("/slots")
            return sum(bool(slot["is_processing"]) for slot in slots)
        except (ServerError, TypeError, KeyError):
            return None

    def _watch_idle(self) -> str:
        began = time.monotonic()
        while time.monotonic() < began + _IDLE_CHECK_S:
            busy = self.busy_slots()
            if busy == 0:
                return f"the server stopped generating within {_ceil(time.monotonic() - began):.1f} s"
            if busy is None:
                return "the connection is closed; this engine does not tell whether it still generates"
            time.sleep(0.05)
        return "the connection is closed, and the server is still busy (with this or another request)"

    def _headers(self) -> dict[str, str]:
        headers = {"Host": "localhost", "Connection": "close"}
        if self._endpoint.key_file:
            key = self._endpoint.key_file.read_text(encoding="ascii").strip()
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _connection(self, timeout_s: float) -> _Connection:
        return _Connection(self._open(timeout_s), timeout_s)

    def _open(self, timeout_s: float) -> socket.socket:
        path = self._endpoint.socket
        try:
            if path is None:
                opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            # A symlink here would lead the prompt to somebody else's socket.
            elif stat.S_ISSOCK(path.lstat().st_mode):
                opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            else:
                raise EndpointError(
                    f"{path} is not a socket: something has replaced it",
                    hint=f"do not use this server; stop it: llmlab stop {self._name}",
                )
        except OSError as error:
            raise self._gone(error) from error
        try:
            opened.settimeout(_CONNECT_S)
            opened.connect(str(path) if path else ("127.0.0.1", self._endpoint.port))
            opened.settimeout(timeout_s)
            if self._verify:
                self._verify(opened)
        except OSError as error:
            opened.close()
            raise self._gone(error) from error
        except BaseException:
            opened.close()
            raise
        return opened

    def _gone(self, error: Exception | None, answer: Answer | None = None) -> ServerStoppedError:
        reason = f": {error}" if error and str(error) else ""
        what = "ended in mid-answer" if answer and answer.text else "does not answer"
        gone = ServerStoppedError(
            f"server {self._name!r} {what}{reason}",
            hint=f"see what happened: llmlab logs {self._name}",
        )
        gone.answer = answer
        return gone

    def _refused(self, status: int, body: bytes) -> RequestError:
        message = body.decode("utf-8", errors="replace")[:_SHOWN_CHARACTERS]
        details: Any = None
        with suppress(ValueError, RecursionError, TypeError, KeyError):
            details = json.loads(body)["error"]
        if not isinstance(details, dict):
            details = {"message": details}
        message = str(details.get("message") or message)[:_SHOWN_CHARACTERS]
        if status == http.HTTPStatus.BAD_REQUEST and "context" in message.lower():
            tokens, context = details.get("n_prompt_tokens"), details.get("n_ctx")
            numbers = f": {tokens} tokens, and the context has {context}" if tokens and context else ""
            return ContextError(
                f"the prompt is too long for server {self._name!r}{numbers}",
                hint="shorten it, or start a server with a larger --context",
            )
        if status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
            return RequestError(f"server {self._name!r} refused the key ({status})")
        if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
            return RequestError(
                f"server {self._name!r} is not ready: {message}", hint="wait until it has loaded its model"
            )
        return RequestError(f"server {self._name!r} refused the request ({status}): {message}")


class _Unshown(Exception):  # noqa: N818 - carries an error, is none
    """What `on_text` raised, so that it is not taken for an error of the connection."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(reason)
        self.reason = reason


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a socket that is open already."""

    def __init__(self, opened: socket.socket, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.sock = opened

    def connect(self) -> None:
        """Never called: a closed connection is not opened again."""
        raise http.client.NotConnected

    def __enter__(self) -> _Connection:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def events(response: http.client.HTTPResponse) -> Iterator[tuple[float, dict[str, Any]]]:
    """The JSON objects of a server-sent event stream, up to its `[DONE]`.

    Each with the moment at which it was read. Events that were read at once have
    the same moment: on a busy machine a whole answer may, and the time that it
    takes to look at them is no measure of the engine.

    Raises:
        RequestError: If an event is not a JSON object.
    """
    buffer = b""
    while data := response.read1(_READ_BYTES):
        read_at = time.perf_counter()
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        if len(buffer) > _EVENT_BYTES:
            raise RequestError(f"the server sent a line of more than {_EVENT_BYTES} bytes")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            text = line[5:].strip()
            if text == b"[DONE]":
                return
            try:
                event = json.loads(text)
            except (ValueError, RecursionError):
                event = None
            if not isinstance(event, dict):
                raise RequestError(f"the server sent something that is not an event: {text[:80]!r}")
            yield read_at, event


def neutralise(text: str, control_tokens: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Make control tokens in a user's text harmless.

    Servers parse a typed `<|im_end|>` as the end of the message, so that a
    prompt could speak as the system or the assistant.

    Args:
        text: The user's text.
        control_tokens: Tokens of the vocabulary that do not look like `<|…|>`.

    Returns:
        The text with an invisible character inside each of them, and those found.
    """
    found: list[str] = []

    def broken(match: re.Match[str]) -> str:
        found.append(match[0])
        return match[0][0] + _BREAK + match[0][1:]

    text = _CONTROL.sub(broken, text)
    # One character cannot be broken, and is no text that stands for something else.
    if words := [re.escape(token) for token in control_tokens if len(token) > 1]:
        known, changed = re.compile("|".join(words)), 1
        while changed:  # again, since they may overlap
            text, changed = known.subn(broken, text)
    return text, tuple(found)
