"""Servers that are slow, silent or mad, and clients that do not read."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab.client import ChatRequest, Client
from llmlab.errors import RequestError, ServerBusyError, ServerStoppedError
from llmlab.lab import registry
from llmlab.specs import Endpoint
from tests.conftest import eventually
from tests.faults.contract import promise
from tests.faults.midway import long_request
from tests.scripted_server import CHUNKED, END, Reply, Script, chunk, hang, scripted, send, stream, then

CHAT = "/v1/chat/completions"


@pytest.fixture(params=["native", "container"])
def place(request: pytest.FixtureRequest, require_engine: object) -> str:
    """Where the server runs."""
    if request.param == "container":
        request.getfixturevalue("require_docker")
    return str(request.param)


# Slow, silent, mad: a server that follows a script


def event(text: str | None, finish: str | None = None) -> bytes:
    choice = {"delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


DONE = event(None, "stop") + b"data: [DONE]\n\n"


@pytest.fixture
def script(isolated_runtime: Path) -> Iterator[Script]:
    """A server of the test's own."""
    path = isolated_runtime / "s"
    with scripted(path) as found:
        yield found
    path.unlink()


def pause(seconds: float) -> Reply:
    return lambda _: time.sleep(seconds)


def asked(script: Script, *, timeout_s: float, max_tokens: int = 512) -> Any:
    """The answer of the script's server, and what was said while nothing had come."""
    waits: list[str] = []
    request = ChatRequest(prompt="hi", timeout_s=timeout_s, max_tokens=max_tokens)
    client = Client("a", Endpoint(socket=script.path))
    answer = client.chat(request, lambda _: None, on_wait=lambda: waits.append("waits"))
    return answer, waits


@promise(
    part="Requests and answers",
    fault="A server is slow: its whole answer takes longer than `timeout_s`, each piece of it does not",
    sees="Every two seconds before the first piece, why it is waited for; then the pieces as they come",
    keeps="The whole answer: the time allowed is for each piece, not for all of them",
    cleans="Nothing is to be cleaned",
    within_s=30,
)
def test_a_slow_server_is_waited_for_as_long_as_something_comes(script, bound):
    late = [part for word in ("1 ", "2 ", "3 ", "4") for part in (send(chunk(event(word))), pause(1.5))]
    script.replies[CHAT] = then(pause(2.1), send(CHUNKED), *late, send(chunk(DONE), END))
    began = time.monotonic()
    answer, waits = asked(script, timeout_s=4)
    assert 4 < time.monotonic() - began < bound
    assert answer.text == "1 2 3 4"
    assert waits


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "in mid-answer"])
@pytest.mark.parametrize("alive", [False, True], ids=["nothing", "comments"])
@promise(
    part="Requests and answers",
    fault="A server falls silent, before its answer or within it; even if it keeps the connection alive",
    sees="An error after `timeout_s` that says for how long nothing came, and where its log is",
    keeps="What had come of the answer, as the error's `answer`",
    cleans="The connection",
    within_s=20,
)
def test_a_silent_server_is_given_up(script, begun, alive, bound):
    released = threading.Event()

    def comments(connection: socket.socket) -> None:
        over = time.monotonic() + 10
        while not released.wait(0.05) and time.monotonic() < over:
            connection.sendall(chunk(b": still there\n\n"))

    head = send(CHUNKED + (chunk(event("so far")) if begun or alive else b""))
    script.replies[CHAT] = then(head if begun or alive else send(), comments if alive else hang(released))
    began = time.monotonic()
    try:
        with pytest.raises(ServerBusyError, match=r"sent nothing for 0\.5 s") as caught:
            asked(script, timeout_s=0.5)
    finally:
        released.set()
    assert time.monotonic() - began < bound
    assert "logs a" in caught.value.hint
    assert caught.value.answer
    assert caught.value.answer.text == ("so far" if begun or alive else "")


_NO_EVENTS = {
    "not JSON": b"data: {not json\n\n",
    "another form": b'data: {"choices":[{"delta":"text"}]}\n\n',
    "an error": b'data: {"error":{"code":500,"message":"out of slots"}}\n\n',
    "an endless line": b"data: " + b"x" * 3_000_000,
}


@pytest.mark.parametrize("data", _NO_EVENTS.values(), ids=_NO_EVENTS.keys())
@promise(
    part="Requests and answers",
    fault="A server sends something that is no answer, or an error, in the middle of an answer",
    sees="An error that shows the beginning of what it sent",
    keeps="What had come of the answer, as the error's `answer`",
    cleans="The connection",
    within_s=20,
)
def test_what_is_no_answer_is_refused_and_what_came_before_is_kept(script, data, bound):
    script.replies[CHAT] = stream(event("so far"), data, DONE)
    began = time.monotonic()
    with pytest.raises(RequestError) as caught:
        asked(script, timeout_s=bound)
    assert time.monotonic() - began < bound
    assert len(caught.value.message) < 300
    assert caught.value.answer
    assert (caught.value.answer.text, caught.value.answer.finish_reason) == ("so far", "failed")


@pytest.mark.parametrize(
    "reply",
    [
        send(CHUNKED, chunk(event("so ") + event("far"))),
        send(CHUNKED, chunk(event("so ") + event("far")), b"ff\r\ndata: {"),
        stream(event("so "), event("far")),
    ],
    ids=["between pieces", "inside a piece", "in order, but without a last piece"],
)
@promise(
    part="Requests and answers",
    fault="The stream of an answer is cut off",
    sees="An error that says that the server ended in mid-answer: half an answer is never taken for a whole one",
    keeps="What had come of the answer, as the error's `answer`",
    cleans="The connection",
    within_s=20,
)
def test_an_answer_that_is_cut_off_is_not_taken_for_a_whole_one(script, reply, bound):
    script.replies[CHAT] = reply
    began = time.monotonic()
    with pytest.raises(ServerStoppedError, match="ended in mid-answer") as caught:
        asked(script, timeout_s=bound)
    assert time.monotonic() - began < bound
    assert caught.value.answer
    assert (caught.value.answer.text, caught.value.answer.finish_reason) == ("so far", "died")


@pytest.mark.parametrize("piece", ["word ", ""], ids=["words", "empty pieces"])
@promise(
    part="Requests and answers",
    fault="A server does not end its answer, whatever `max_tokens` says",
    sees="An error that says so, once there have been far more pieces than tokens were asked for",
    keeps="What had come of the answer, as the error's `answer`",
    cleans="The connection: the server notices that nobody reads any more",
    within_s=30,
)
def test_an_endless_answer_is_ended(script, piece, bound):
    hung_up = threading.Event()

    def endless(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(event("so far ")))
        try:
            for _ in range(20_000):
                connection.sendall(chunk(event(piece)))
        except OSError:
            hung_up.set()

    script.replies[CHAT] = endless
    began = time.monotonic()
    with pytest.raises(
        RequestError, match="does not end its answer: over 120 events for 10 tokens"
    ) as caught:
        asked(script, timeout_s=bound, max_tokens=10)
    assert time.monotonic() - began < bound
    assert hung_up.wait(bound)
    assert caught.value.answer
    assert caught.value.answer.text == ("so far " + "word " * 119 if piece else "so far ")


def test_an_error_in_place_of_an_answer_keeps_none(script):
    """There is none: nothing is shown as if it were one."""
    script.replies[CHAT] = stream(_NO_EVENTS["an error"])
    with pytest.raises(RequestError) as caught:
        asked(script, timeout_s=10)
    assert caught.value.answer is None


# A client that does not read


def raw(server: llmlab.Server) -> socket.socket:
    """A connection of its own that asks for a long answer."""
    body = json.dumps(long_request(server).body()[0]).encode()
    opened = socket.socket(socket.AF_UNIX)
    opened.connect(str(server.record.endpoint.socket))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    opened.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return opened


@promise(
    part="Requests and answers",
    fault="Clients ask for long answers and read nothing, as many as the server has slots",
    sees="Nothing: the others are answered as soon as a slot is free, which it is when an answer has been generated",
    keeps="The server, and the answers of the others",
    cleans="What waits for such a client goes when it hangs up",
    within_s=60,
)
def test_beside_clients_that_do_not_read_others_are_answered(place, bound):
    with llmlab.start("tiny", name="a", backend=place, slots=2) as server:
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(closing(raw(server)))
            assert server.ask("What is a GPU?", max_tokens=3, timeout_s=bound).text
            assert server.status.state == "ready"
        eventually(lambda: registry.client(server.record).busy_slots() == 0, bound)
        assert server.ask("What is a GPU?", max_tokens=3, timeout_s=bound).text
