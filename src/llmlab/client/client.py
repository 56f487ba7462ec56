"""Talking to one server."""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from llmlab.client.connection import Connection, Opener, Verify, gone, open_socket
from llmlab.client.events import events
from llmlab.client.exchange import ChatRequest, Completion, Progress
from llmlab.errors import (
    AskInterrupted,
    ContextError,
    RequestError,
    ServerBusyError,
    ServerError,
    ServerStoppedError,
)
from llmlab.prompts import neutralise
from llmlab.results import Answer
from llmlab.specs import Endpoint

_IDLE_CHECK_S = 5.0
_ERROR_BYTES = 65536
_SHOWN_CHARACTERS = 500


class Client:
    """Talks to one server.

    Args:
        name: The server's name, for messages.
        endpoint: Where it listens.
        verify: Checks the peer of every new connection, before anything is sent.
        opener: Makes the connections, where the endpoint is neither a socket nor a port.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        verify: Verify | None = None,
        opener: Opener | None = None,
    ) -> None:
        self._name = name
        self._endpoint = endpoint
        self._verify = verify
        self._opener = opener

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
            return json.loads(self.get_text(path, timeout_s=timeout_s))
        except (ValueError, RecursionError):
            raise RequestError(f"server {self._name!r} did not answer {path} with JSON") from None

    def get_text(self, path: str, *, timeout_s: float = 5.0) -> str:
        """GET a path of the server's own, such as `/metrics`.

        Raises:
            ServerStoppedError: If nothing listens there, or it does not answer in time.
            RequestError: If it refuses.
        """
        try:
            with self._connection(timeout_s) as connection:
                connection.request("GET", path, headers=self._headers())
                with connection.getresponse() as response:
                    body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise gone(self._name, error) from error
        if response.status != http.HTTPStatus.OK:
            raise self._refused(response.status, body)
        return body.decode(errors="replace")

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
        if request.ignore_eos:
            body["ignore_eos"] = True
        payload = json.dumps(body).encode()
        progress = Progress(self._name, time.perf_counter(), tuple(dict.fromkeys(found + found_too)))
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
            raise gone(self._name, error, progress.answer("died")) from error
        if not progress.finish_reason:
            answer = progress.answer("died")
            raise gone(self._name, None, answer) if answer.text else self._empty()
        return progress.answer()

    def complete(
        self, prompt: Sequence[int], *, tokens: int, seed: int = 1, timeout_s: float = 300.0
    ) -> Completion:
        """Continue a prompt by exactly so many tokens, as llama-server's `/completion` does it.

        The likeliest token each time, whether the model would end or not, and nothing is
        taken from a cache: two servers of the same files do the same work.

        Args:
            prompt: Token ids.
            tokens: How many to generate.
            seed: Seed, though there is no chance in it.
            timeout_s: Longest wait for the next event, seconds.

        Raises:
            RequestError: If the engine refuses, or says something else.
            ServerStoppedError: If the server is not there, or dies meanwhile.
        """
        body = {
            "prompt": list(prompt),
            "n_predict": tokens,
            "temperature": 0.0,
            "seed": seed,
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
            "stream": True,
        }
        payload = json.dumps(body).encode()
        headers = {**self._headers(), "Content-Type": "application/json"}
        found: list[int] = []
        moments: list[float] = []
        last: dict[str, Any] = {}
        try:
            with self._connection(timeout_s) as connection:
                sent = time.perf_counter()
                connection.request("POST", "/completion", body=payload, headers=headers)
                with connection.getresponse() as response:
                    if response.status != http.HTTPStatus.OK:
                        raise self._refused(response.status, response.read(_ERROR_BYTES))
                    for read_at, event in events(response):
                        if event.get("error"):
                            raise self._refused(
                                http.HTTPStatus.INTERNAL_SERVER_ERROR, json.dumps(event).encode()
                            )
                        if event.get("content") or event.get("tokens"):
                            moments.append(read_at)
                            found += event.get("tokens") or ()
                        last = event
        except (OSError, http.client.HTTPException) as error:
            raise gone(self._name, error) from error
        timings = last.get("timings")
        if not isinstance(timings, dict) or not moments:
            raise RequestError(f"server {self._name!r} did not tell how long it took")
        return Completion(
            tokens=tuple(found),
            pieces=len(moments),
            ttft_s=moments[0] - sent,
            total_s=moments[-1] - sent,
            prompt_tokens=timings.get("prompt_n"),
            prompt_s=_seconds(timings.get("prompt_ms")),
            generated_s=_seconds(timings.get("predicted_ms")),
        )

    def tokens_of(self, text: str) -> list[int]:
        """The token ids of a text, as llama-server's `/tokenize` tells them.

        Raises:
            RequestError: If the engine refuses, or says something else.
            ServerStoppedError: If the server is not there.
        """
        headers = {**self._headers(), "Content-Type": "application/json"}
        try:
            with self._connection(_IDLE_CHECK_S) as connection:
                connection.request("POST", "/tokenize", body=json.dumps({"content": text}), headers=headers)
                with connection.getresponse() as response:
                    if response.status != http.HTTPStatus.OK:
                        raise self._refused(response.status, response.read(_ERROR_BYTES))
                    return [int(token) for token in json.loads(response.read())["tokens"]]
        except (OSError, http.client.HTTPException) as error:
            raise gone(self._name, error) from error
        except (ValueError, TypeError, KeyError, RecursionError):
            raise RequestError(f"server {self._name!r} did not tell the tokens of a text") from None

    def _read(
        self, response: http.client.HTTPResponse, progress: Progress, on_text: Callable[[str], None]
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
        # The key of an endpoint for other tools is none of the engine's business.
        if self._endpoint.key_file and self._endpoint.exposed_port is None:
            key = self._endpoint.key_file.read_text(encoding="ascii").strip()
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _connection(self, timeout_s: float) -> Connection:
        opened = open_socket(self._name, self._endpoint, self._verify, timeout_s, self._opener)
        return Connection(opened, timeout_s)

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


def _seconds(milliseconds: Any) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int | float) else None


def _ceil(seconds: float) -> float:
    """Rounded up to a tenth: "within 0.0 s" would claim too much."""
    return math.ceil(seconds * 10) / 10
