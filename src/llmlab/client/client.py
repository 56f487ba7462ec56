"""Talking to one server."""

from __future__ import annotations

import http.client
import json
import math
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llmlab.client import completing, queueing, reading
from llmlab.client.connection import Cancel, Connection, Opener, Verify, gone, open_socket
from llmlab.client.events import events
from llmlab.client.exchange import ChatRequest, Completion, Progress
from llmlab.client.refusing import refused
from llmlab.errors import (
    MALFORMED,
    AskInterrupted,
    RequestError,
    ServerBusyError,
    ServerError,
    ServerStoppedError,
)
from llmlab.results import Answer
from llmlab.specs import Endpoint, EngineName

_IDLE_CHECK_S = 5.0
# A first token that takes longer than this is waited for with a word on why.
_WAIT_S = 2.0
# Of a server that has not answered in time already.
_LOOK_S = 2.0
_ERROR_BYTES = 65536
_MOST_BYTES = 32 << 20  # of an answer that is read as a whole


class Client:
    """Talks to one server.

    Args:
        name: The server's name, for messages.
        endpoint: Where it listens.
        verify: Checks the peer of every new connection, before anything is sent.
        opener: Makes the connections, where the endpoint is neither a socket nor a port.
        model: What the server calls its model, if it has to be told; "" to say nothing.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        verify: Verify | None = None,
        opener: Opener | None = None,
        *,
        model: str = "",
    ) -> None:
        self._name = name
        self._model = model
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
        except (OSError, http.client.HTTPException, ServerBusyError, ServerStoppedError):
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
                    body = response.read(_MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise gone(self._name, error) from error
        if response.status != http.HTTPStatus.OK:
            raise refused(self._name, response.status, body, response.getheader("Retry-After"))
        if len(body) > _MOST_BYTES:
            raise RequestError(
                f"server {self._name!r} answered {path} with more than {_MOST_BYTES >> 20} MiB"
            )
        return body.decode(errors="replace")

    def chat(
        self,
        request: ChatRequest,
        on_text: Callable[[str], None],
        cancel: Cancel | None = None,
        on_wait: Callable[[], None] | None = None,
        on_comment: Callable[[str], None] | None = None,
    ) -> Answer:
        """Ask, and hand on the answer piece by piece as it is read.

        Args:
            request: The question.
            on_text: Called with each non-empty piece of text.
            cancel: Ends it from another thread, as Ctrl-C does from this one.
            on_wait: Called every two seconds while nothing has come; what it raises ends the question.
            on_comment: Called with each comment in the stream, as a room sends to those who wait. Untrusted.

        Raises:
            AskInterrupted: On Ctrl-C; the connection is closed and the server
                is watched until it has stopped generating.
            ContextError: If the prompt is longer than the context.
            RequestError: If the engine refuses the request, or does not send an
                answer to it; what had come is in its `answer` attribute.
            ServerBusyError: If nothing comes for `timeout_s`; what had come is
                in its `answer` attribute.
            ServerStoppedError: If the server is not there, or dies meanwhile;
                what had come is in its `answer` attribute.
        """
        body, found = request.body()
        if self._model:
            body["model"] = self._model
        payload = json.dumps(body).encode()
        progress = Progress(self._name, time.perf_counter(), found)
        cancel = cancel or Cancel()
        try:
            with self._connection(request.timeout_s) as connection:
                cancel.hold(connection.sock)
                progress.sent = time.perf_counter()
                connection.request(
                    "POST",
                    "/v1/chat/completions",
                    body=payload,
                    headers={**self._headers(), "Content-Type": "application/json"},
                )
                # Closed here, whatever happens: the response holds the socket,
                # and closing that is what makes the server stop.
                with self._begun(connection, progress, request.timeout_s, on_wait) as response:
                    if response.status != http.HTTPStatus.OK:
                        again = response.getheader("Retry-After")
                        raise refused(self._name, response.status, response.read(_ERROR_BYTES), again)
                    reading.read(self._name, response, request, progress, on_text, on_comment)
        except KeyboardInterrupt:
            raise self._interrupted(progress) from None
        except reading.Unshown as error:
            # Writing to a closed pipe is no fault of the server's.
            raise error.reason from None
        except (OSError, http.client.HTTPException) as error:
            if cancel.wanted:
                raise self._interrupted(progress) from None
            if not isinstance(error, TimeoutError):
                raise gone(self._name, error, progress.answer("died")) from error
            answer = progress.answer("timeout")
            raise queueing.silent(self._name, request.timeout_s, answer, progress.queue) from error
        if not progress.finish_reason:
            if cancel.wanted:
                raise self._interrupted(progress)
            answer = progress.answer("died")
            raise gone(self._name, None, answer) if answer.text else reading.wordless(self._name)
        return progress.answer()

    def complete(
        self,
        prompt: Sequence[int] | str,
        *,
        tokens: int,
        seed: int = 1,
        timeout_s: float = 300.0,
        engine: EngineName = "llama-server",
    ) -> Completion:
        """Continue a prompt by exactly so many tokens.

        The likeliest token each time, whether the model would end or not, and nothing is
        taken from a cache: two servers of the same files do the same work.

        Args:
            prompt: Token ids, or a text; llama-cpp-python takes a text only.
            tokens: How many to generate.
            seed: Seed, though there is no chance in it.
            timeout_s: Longest wait for the next event, seconds.
            engine: Whose server it is.

        Raises:
            RequestError: If the engine refuses, or says something else.
            ServerStoppedError: If the server is not there, or dies meanwhile.
        """
        asked = completing.completion(engine, prompt, tokens, seed)
        with self._posted(asked, timeout_s) as (sent, response):
            return completing.read(
                self._name, engine, sent, reading.unfailed(self._name, events(response, timeout_s))
            )

    def tokens_of(self, text: str, *, engine: EngineName = "llama-server", whole: bool = False) -> list[int]:
        """The token ids of a text, as the server tells them.

        Args:
            text: The text.
            engine: Whose server it is.
            whole: As of a whole prompt, which some models begin with a token of their own;
                llama-cpp-python tells these only.

        Raises:
            RequestError: If the engine refuses, or says something else.
            ServerStoppedError: If the server is not there.
        """
        with self._posted(completing.tokens(engine, text, whole=whole), _IDLE_CHECK_S) as (_, response):
            try:
                return [int(token) for token in json.loads(response.read(_MOST_BYTES))["tokens"]]
            except MALFORMED:
                raise RequestError(f"server {self._name!r} did not tell the tokens of a text") from None

    @contextmanager
    def _posted(
        self, asked: completing.Asked, timeout_s: float
    ) -> Iterator[tuple[float, http.client.HTTPResponse]]:
        """Send a request; when it was sent, and its answer."""
        payload = json.dumps(asked.body).encode()
        headers = {**self._headers(), "Content-Type": "application/json", **asked.headers}
        try:
            with self._connection(timeout_s) as connection:
                sent = time.perf_counter()
                connection.request("POST", asked.path, body=payload, headers=headers)
                with connection.getresponse() as response:
                    if response.status != http.HTTPStatus.OK:
                        raise refused(self._name, response.status, response.read(_ERROR_BYTES))
                    yield sent, response
        except (OSError, http.client.HTTPException) as error:
            raise gone(self._name, error) from error

    def _begun(
        self,
        connection: Connection,
        progress: Progress,
        timeout_s: float,
        on_wait: Callable[[], None] | None,
    ) -> http.client.HTTPResponse:
        """The response, of which llama-server sends nothing before the first token."""
        try:
            if on_wait:
                _await_bytes(connection.sock, timeout_s, on_wait)
            return connection.getresponse()
        except TimeoutError:
            # While the request still waits with the others: once it is closed nobody knows who was before it.
            progress.queue = self.queue()
            raise

    def queue(self) -> queueing.Queue | None:
        """Who waits for it; None if it does not tell."""
        return queueing.queue(lambda path: self.get_text(path, timeout_s=_LOOK_S))

    def busy_slots(self) -> int | None:
        """How many requests the server works on; None if it does not tell."""
        try:
            slots = self.get_json("/slots")
            return sum(bool(slot["is_processing"]) for slot in slots)
        except (ServerError, *MALFORMED):
            return None

    def _interrupted(self, progress: Progress) -> AskInterrupted:
        """What is raised in the middle of an answer, once the server has stopped, or some seconds later."""
        answer = progress.answer("interrupted")
        try:
            stopped, note = self._watch_idle()
        except KeyboardInterrupt:
            stopped, note = (
                None,
                "the connection is closed; whether the server has stopped was not waited for",
            )
        return AskInterrupted(answer, note, stopped=stopped)

    def _watch_idle(self) -> tuple[bool | None, str]:
        began = time.monotonic()
        while time.monotonic() < began + _IDLE_CHECK_S:
            busy = self.busy_slots()
            if busy == 0:
                return True, f"the server stopped generating within {_ceil(time.monotonic() - began):.1f} s"
            if busy is None:
                return (
                    None,
                    "the connection is closed; this engine does not tell whether it still generates",
                )
            time.sleep(0.05)
        return None, "the connection is closed, and the server is still busy (with this or another request)"

    def _headers(self) -> dict[str, str]:
        headers = {"Host": self._endpoint.host, "Connection": "close"}
        # The key of an endpoint for other tools is none of the engine's business.
        if self._endpoint.key_file and self._endpoint.exposed_port is None:
            key = self._endpoint.key_file.read_text(encoding="ascii").strip()
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _connection(self, timeout_s: float) -> Connection:
        opened = open_socket(self._name, self._endpoint, self._verify, timeout_s, self._opener)
        return Connection(opened, timeout_s)


def _await_bytes(opened: socket.socket, timeout_s: float, on_wait: Callable[[], None]) -> None:
    """Wait until there is something to read, and say now and then that there is not.

    Raises:
        TimeoutError: If nothing comes in time.
    """
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(opened, selectors.EVENT_READ)
        while not selector.select(min(_WAIT_S, max(deadline - time.monotonic(), 0))):
            if time.monotonic() >= deadline:
                raise TimeoutError
            on_wait()


def _ceil(seconds: float) -> float:
    """Rounded up to a tenth: "within 0.0 s" would claim too much."""
    return math.ceil(seconds * 10) / 10
