"""The client, against a real HTTP server on a unix socket that says what it is told to."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.backends import native
from llmlab.client import ChatRequest, Client
from llmlab.errors import (
    AskInterrupted,
    ContextError,
    EndpointError,
    LabError,
    RequestError,
    ServerBusyError,
    ServerStoppedError,
)
from llmlab.prompts import neutralise
from llmlab.results import Answer
from llmlab.specs import Endpoint
from tests import examples
from tests.faults.contract import promise
from tests.scripted_server import (
    CHUNKED,
    END,
    HEAD,
    Script,
    answer,
    chunk,
    hang,
    in_turn,
    scripted,
    send,
    stream,
    then,
)

CHAT = "/v1/chat/completions"


def event(text: str | None = None, **more: Any) -> bytes:
    """One server-sent event as llama-server writes them."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": None, **more}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
STOP = event(finish_reason="stop")
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":3},'
    b'"timings":{"predicted_n":3,"predicted_ms":1.25,"prompt_per_second":800.0,"cache_n":4}}\n\n'
)
DONE = b"data: [DONE]\n\n"
WHOLE = ROLE + event("Hé") + event("llo ") + event("🦙") + STOP + USAGE + DONE
IDLE = answer(200, b'[{"id":0,"is_processing":false}]')
BUSY = answer(200, b'[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]')


@pytest.fixture
def server(isolated_runtime: Path) -> Iterator[Script]:
    path = isolated_runtime / "s"
    with scripted(path) as script:
        yield script
    path.unlink()


@pytest.fixture
def client(server: Script) -> Client:
    return Client("a", Endpoint(socket=server.path))


def ask(
    client: Client, prompt: str = "hi", timeout_s: float = 20.0, **options: Any
) -> tuple[Answer, list[str]]:
    seen: list[str] = []
    found = client.chat(ChatRequest(prompt=prompt, timeout_s=timeout_s, **options), seen.append)
    return found, seen


def sent(server: Script) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])
    return body


# The answer


def check_whole(found: Answer, seen: list[str]) -> None:
    assert found.text == "Héllo 🦙" == "".join(seen)
    assert found.finish_reason == "stop"
    assert (found.prompt_tokens, found.completion_tokens, found.cached_tokens) == (11, 3, 4)
    assert found.tokens_per_s == 1600
    assert found.prompt_tokens_per_s == 800.0


def test_answer(server, client):
    server.replies[CHAT] = stream(*WHOLE.splitlines(keepends=True))
    found, seen = ask(client)
    check_whole(found, seen)
    assert seen == ["Hé", "llo ", "🦙"]
    assert found.server == "a"


def test_chunks_may_be_cut_anywhere(server, client):
    for cut in range(1, len(WHOLE)):
        server.replies[CHAT] = stream(WHOLE[:cut], WHOLE[cut:])
        check_whole(*ask(client))


def test_byte_by_byte(server, client):
    server.replies[CHAT] = stream(*(bytes([byte]) for byte in WHOLE))
    check_whole(*ask(client))


@pytest.mark.parametrize(
    "data",
    [
        WHOLE,
        WHOLE.replace(b"\n", b"\r\n"),
        WHOLE.replace(b"data: ", b"data:"),
        b": a comment\n\nevent: x\nid: 1\nretry: 5\n" + WHOLE,
        WHOLE + event("after the end"),
        WHOLE.replace(DONE, b""),
    ],
    ids=["one chunk", "CRLF", "no space", "other fields", "after DONE", "no DONE"],
)
def test_event_streams_as_the_standard_allows_them(server, client, data):
    server.replies[CHAT] = stream(data)
    check_whole(*ask(client))


def test_answer_that_ends_with_the_connection(server, client):
    server.replies[CHAT] = send(HEAD + b"\r\n", WHOLE)
    check_whole(*ask(client))


def test_unknown_figures_stay_unknown(server, client):
    server.replies[CHAT] = stream(event("one"), STOP, DONE)
    found, _ = ask(client)
    assert found.prompt_tokens is None
    assert found.completion_tokens is None
    assert found.client_tokens_per_s is None
    assert found.tokens_per_s is None
    assert found.cached_tokens is None


def test_an_answer_without_text_has_no_first_token(server, client):
    server.replies[CHAT] = stream(ROLE, event(""), STOP, USAGE, DONE)
    found, seen = ask(client)
    assert (found.text, seen, found.ttft_s, found.client_tokens_per_s) == ("", [], None, None)


def test_first_token_is_the_first_piece_of_text(server, client):
    """The chunk with the role and empty chunks do not count."""

    def pause(_: socket.socket) -> None:
        time.sleep(0.15)

    server.replies[CHAT] = then(
        send(CHUNKED, chunk(ROLE), chunk(event(""))),
        pause,
        send(chunk(event("text")), chunk(STOP + DONE), END),
    )
    began = time.perf_counter()
    found, _ = ask(client)
    assert found.ttft_s is not None
    assert 0.15 <= found.ttft_s <= time.perf_counter() - began


def test_rate_is_of_the_tokens_after_the_first(server, client):
    moments = []

    def pause(_: socket.socket) -> None:
        time.sleep(0.1)

    server.replies[CHAT] = then(
        send(CHUNKED, chunk(event("a"))), pause, send(chunk(event("b"))), pause,
        send(chunk(event("c")), chunk(STOP + USAGE + DONE), END),
    )  # fmt: skip
    found = client.chat(ChatRequest(prompt="x"), lambda _: moments.append(time.perf_counter()))
    assert found.ttft_s is not None
    assert found.client_tokens_per_s == pytest.approx((3 - 1) / (found.total_s - found.ttft_s))
    # The last piece of text ends the measurement, not the events after it.
    assert found.total_s - found.ttft_s == pytest.approx(moments[-1] - moments[0], abs=0.05)


def test_no_rate_is_made_up_when_all_is_read_at_once(server, client):
    server.replies[CHAT] = stream(WHOLE)
    found, _ = ask(client)
    assert found.completion_tokens == 3
    assert found.client_tokens_per_s is None
    assert found.tokens_per_s == 1600


# The request


def test_request(server, client):
    server.replies[CHAT] = stream(WHOLE)
    prompt = "{braces} $dollars \"quotes\" 'too'\nnewline \\ ü 🦙 \x00"
    ask(client, prompt, system="be brief", max_tokens=7, temperature=0.5, seed=3)
    assert sent(server) == {
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": prompt}],
        "max_tokens": 7,
        "temperature": 0.5,
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    head = server.requests[0].partition(b"\r\n\r\n")[0].decode().lower()
    assert "host: localhost" in head
    assert "connection: close" in head
    assert "authorization" not in head


def test_nothing_is_sent_that_was_not_asked_for(server, client):
    server.replies[CHAT] = stream(WHOLE)
    ask(client)
    assert "seed" not in sent(server)
    assert [message["role"] for message in sent(server)["messages"]] == ["user"]


def test_a_long_prompt_arrives(server, client):
    server.replies[CHAT] = stream(WHOLE)
    prompt = "{long} $prompt\n" * 7000
    ask(client, prompt)
    assert sent(server)["messages"][0]["content"] == prompt


def test_key_comes_from_its_file(server, isolated_runtime, tmp_path):
    server.replies[CHAT] = stream(WHOLE)
    key = tmp_path / "key"
    key.write_text("s3cret\n")
    ask(Client("a", Endpoint(socket=server.path, key_file=key)))
    assert b"\r\nAuthorization: Bearer s3cret\r\n" in server.requests[0]


def test_loopback(server):
    """The same over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_once, args=(listener,))
        thread.start()
        check_whole(*ask(Client("a", Endpoint(port=listener.getsockname()[1]))))
        thread.join()


def _answer_once(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(CHUNKED + chunk(WHOLE) + END)


# A fixed number of tokens


def data(**said: Any) -> bytes:
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def piece(text: str, count: int, finish: str | None = None, **more: Any) -> bytes:
    """An event as llmlab's launcher of llama-cpp-python has them."""
    return data(choices=[{"text": text, "finish_reason": finish}], tokens_predicted=count, **more)


NATIVE = [
    data(content="a", tokens=[7], tokens_predicted=1),
    data(content="b", tokens=[8], tokens_predicted=2),
]
TIMES = data(
    content="", tokens=[], tokens_predicted=2, timings={"prompt_n": 3, "prompt_ms": 4.0, "predicted_ms": 5.0}
)
PYTHON = [piece("a", 1), piece("b", 2)]
TOLD = piece("", 2, "length", tokens=[7, 8], tokens_evaluated=3)


def paused(pieces: list[bytes], last: bytes, pause_s: float = 0.05) -> Any:
    """A stream in which each piece comes alone."""
    pauses = [then(lambda _: time.sleep(pause_s), send(chunk(each))) for each in pieces[1:]]
    return then(send(CHUNKED, chunk(pieces[0])), *pauses, send(chunk(last), END))


def test_llama_server_is_asked_for_exactly_so_many_tokens(server, client):
    server.replies["/completion"] = paused(NATIVE, TIMES)
    found = client.complete([1, 2, 3], tokens=2)
    body = sent(server)
    assert (body["prompt"], body["n_predict"], body["ignore_eos"], body["cache_prompt"]) == (
        [1, 2, 3], 2, True, False,
    )  # fmt: skip
    assert (found.tokens, found.generated, found.prompt_tokens) == ((7, 8), 2, 3)
    assert (found.prompt_s, found.generated_s) == (0.004, 0.005)
    assert found.client_generated_s == pytest.approx(found.total_s - (found.ttft_s or 0))
    assert found.client_generated_s >= 0.04


def test_llama_cpp_python_is_asked_in_its_own_words(server, client):
    server.replies["/v1/completions"] = paused(PYTHON, TOLD)
    found = client.complete("hi", tokens=2, engine="llama-cpp-python")
    body = sent(server)
    assert (body["prompt"], body["max_tokens"], body["temperature"]) == ("hi", 2, 0.0)
    assert b"x-llmlab-exact: 1\r\n" in server.requests[-1]
    assert (found.tokens, found.generated, found.prompt_tokens, found.pieces) == ((7, 8), 2, 3, 2)
    assert (found.prompt_s, found.generated_s) == (None, None), "unknown, not 0"
    assert (found.client_generated_s or 0) >= 0.04  # a pause of 0.05 s, as two clocks see it


@pytest.mark.parametrize(
    ("path", "pieces", "last", "engine"),
    [
        ("/completion", NATIVE, TIMES, "llama-server"),
        ("/v1/completions", PYTHON, TOLD, "llama-cpp-python"),
    ],
)
def test_tokens_that_are_read_together_tell_no_rate(server, client, path, pieces, last, engine):
    server.replies[path] = stream(b"".join([*pieces, last]))
    found = client.complete("hi", tokens=2, engine=engine)
    assert found.client_generated_s is None
    assert found.tokens == (7, 8)


def test_a_first_token_that_was_held_back_is_told(server, client):
    server.replies["/v1/completions"] = paused(
        [piece("🦙", 3), piece("b", 4)], piece("", 4, "length", tokens=[1, 2, 3, 4], tokens_evaluated=3)
    )
    found = client.complete("hi", tokens=4, engine="llama-cpp-python")
    assert found.first == 3
    assert found.client_generated_s is None


@pytest.mark.parametrize(
    ("path", "said", "engine"),
    [
        ("/completion", b"".join(NATIVE), "llama-server"),
        ("/completion", TIMES, "llama-server"),
        ("/v1/completions", b"".join([*PYTHON, piece("", 2, "length")]), "llama-cpp-python"),
        ("/v1/completions", data(choices=[{}], tokens_predicted=2), "llama-cpp-python"),
    ],
)
def test_who_does_not_tell_what_it_did_is_not_believed(server, client, path, said, engine):
    server.replies[path] = stream(said)
    with pytest.raises(RequestError, match="did not tell"):
        client.complete("hi", tokens=2, engine=engine)


def test_a_completion_that_fails_in_the_middle_is_told(server, client):
    server.replies["/completion"] = stream(NATIVE[0], data(error={"code": 500, "message": "no more"}))
    with pytest.raises(RequestError, match="no more"):
        client.complete([1], tokens=2)
    server.replies["/completion"] = answer(404, b"{}")
    with pytest.raises(RequestError, match="404"):
        client.complete([1], tokens=2)
    with pytest.raises(RequestError, match="takes no token ids"):
        client.complete([1], tokens=2, engine="llama-cpp-python")


def test_tokens_of_a_text_are_asked_for_in_each_engine_s_words(server, client):
    server.replies["/tokenize"] = server.replies["/extras/tokenize"] = answer(200, b'{"tokens": [1, 2]}')
    assert client.tokens_of("hi") == [1, 2]
    assert sent(server) == {"content": "hi"}
    client.tokens_of("hi", whole=True)
    assert sent(server) == {"content": "hi", "add_special": True}
    client.tokens_of("hi", engine="llama-cpp-python")
    assert sent(server) == {"input": "hi"}
    server.replies["/tokenize"] = answer(200, b"[]")
    with pytest.raises(RequestError, match="did not tell the tokens"):
        client.tokens_of("hi")


# Refusals


def refusal(server: Script, client: Client, status: int, body: bytes) -> LabError:
    server.replies[CHAT] = answer(status, body)
    with pytest.raises(RequestError) as caught:
        ask(client)
    return caught.value


CONTEXT = {
    "error": {
        "code": 400,
        "message": "request (5000 tokens) exceeds the available context size (1024 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 5000,
        "n_ctx": 1024,
    }
}


def test_prompt_that_is_too_long(server, client):
    error = refusal(server, client, 400, json.dumps(CONTEXT).encode())
    assert type(error) is ContextError
    assert "5000 tokens, and the context has 1024" in error.message
    assert "--context" in error.hint


def test_prompt_that_is_too_long_without_figures(server, client):
    error = refusal(server, client, 400, b'{"error":{"message":"too much for the context"}}')
    assert type(error) is ContextError
    assert "None" not in str(error)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b'{"error":{"message":"bad grammar"}}', "bad grammar"),
        (401, b'{"error":{"message":"Invalid API Key"}}', "refused the key (401)"),
        (403, b"", "refused the key (403)"),
        (404, b"File Not Found", "(404): File Not Found"),
        (500, b'{"error":"a text, no object"}', "a text, no object"),
        (400, b'{"error":"context, as a text"}', "too long"),
        (500, b'{"error":null}', "(500)"),
        (500, b'["a", "list"]', "list"),
        (500, b"\xff\xfe not UTF-8", "not UTF-8"),
        (500, b"[" * 60_000, "(500)"),
        (503, b'{"error":{"message":"Loading model"}}', "not ready: Loading model"),
    ],
)
def test_refusal_is_told(server, client, status, body, message):
    error = refusal(server, client, status, body)
    assert message in error.message
    assert "'a'" in error.message
    assert len(error.message) < 700


def test_refusal_in_mid_stream(server, client):
    server.replies[CHAT] = stream(
        event("so far"), b'data: {"error":{"code":500,"message":"out of slots"}}\n\n'
    )
    with pytest.raises(RequestError, match="out of slots"):
        ask(client)


@pytest.mark.parametrize(
    "data",
    [
        b"data: {not json\n\n",
        b"data: [1]\n\n",
        b"data: 5\n\n",
        b"data: " + b"[" * 50_000 + b"\n\n",
        b'data: {"choices":5}\n\n',
        b'data: {"choices":[5]}\n\n',
        b'data: {"choices":[{"delta":"text"}]}\n\n',
        b'data: {"choices":[{"delta":{"content":5}}]}\n\n',
        b'data: {"choices":[],"usage":"many"}\n\n',
        b'data: {"error":"a text"}\n\n',
        b'data: {"error":{"code":"a_text","message":"m"}}\n\n',
        b"data: " + b"x" * 3_000_000,
        b"x" * 3_000_000,
    ],
    ids=range(13),
)
def test_what_is_no_event_is_refused(server, client, data):
    server.replies[CHAT] = stream(event("so far"), data, STOP)
    with pytest.raises(RequestError):
        ask(client)


@given(data=st.binary(max_size=60) | st.text("data: {}[]\"'choiesltnr,0\n").map(str.encode))
def test_whatever_a_server_sends_is_an_answer_or_an_error_of_ours(data):
    here, there = socket.socketpair()
    with here, there:
        there.sendall(CHUNKED + (chunk(data) if data else b"") + END)
        there.shutdown(socket.SHUT_WR)

        class Paired(Client):
            def _open(self, timeout_s: float) -> socket.socket:
                return here

        with suppress(RequestError, ServerStoppedError):
            ask(Paired("a", Endpoint(port=1)))


# Servers that are gone, or silent


@pytest.mark.parametrize(
    "reply",
    [
        send(CHUNKED, chunk(event("partial ")), chunk(event("answer"))),
        send(HEAD + b"\r\n", event("partial "), event("answer")),
        send(CHUNKED, chunk(event("partial ") + event("answer")), b"ff\r\ndata: {"),
        stream(event("partial "), event("answer")),
    ],
    ids=["between chunks", "without chunks", "inside a chunk", "ended without a reason"],
)
def test_server_that_dies_in_mid_answer(server, client, reply):
    server.replies[CHAT] = reply
    with pytest.raises(ServerStoppedError, match="mid-answer") as caught:
        ask(client)
    assert caught.value.answer is not None
    assert caught.value.answer.text == "partial answer"
    assert caught.value.answer.completion_tokens == 2
    assert caught.value.answer.finish_reason == "died"
    assert "logs a" in caught.value.hint


def test_server_that_dies_before_it_answers(server, client):
    server.replies[CHAT] = send(b"")
    with pytest.raises(ServerStoppedError, match="does not answer") as caught:
        ask(client)
    assert caught.value.answer is not None
    assert caught.value.answer.text == ""
    assert caught.value.answer.ttft_s is None


def test_what_is_not_http(server, client):
    server.replies[CHAT] = send(b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(ServerStoppedError):
        ask(client)


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "in mid-answer"])
def test_silent_server(server, client, begun):
    released = threading.Event()
    server.replies[CHAT] = then(send(CHUNKED + chunk(event("so far")) if begun else b""), hang(released))
    try:
        with pytest.raises(ServerBusyError, match=r"sent nothing for 0\.2 s") as caught:
            ask(client, timeout_s=0.2)
    finally:
        released.set()
    assert caught.value.answer is not None
    assert caught.value.answer.text == ("so far" if begun else "")


def test_no_server(isolated_runtime):
    client = Client("a", Endpoint(socket=isolated_runtime / "none"))
    assert not client.healthy()
    with pytest.raises(ServerStoppedError):
        ask(client)
    with pytest.raises(ServerStoppedError):
        client.get_json("/props")


def test_socket_that_nobody_listens_on(isolated_runtime):
    path = isolated_runtime / "dead"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    client = Client("a", Endpoint(socket=path))
    assert not client.healthy()
    with pytest.raises(ServerStoppedError):
        ask(client)
    path.unlink()


# Who is asked


@promise(
    part="Disk and files",
    fault="A file, a directory or a pipe stands in place of a socket",
    sees="`ask` refuses: it is not a socket",
    keeps="The prompt: nothing was sent",
    cleans="`stop`, as always",
    within_s=20,
)
@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling link", "pipe"])
def test_only_a_socket_is_spoken_to(server, tmp_path, kind):
    path = tmp_path / "s"
    make = {
        "file": path.touch,
        "directory": path.mkdir,
        "link": lambda: path.symlink_to(server.path),
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    client = Client("a", Endpoint(socket=path))
    for call in (lambda: ask(client), client.healthy, lambda: client.get_json("/props")):
        with pytest.raises(EndpointError, match="not a socket"):
            call()
    assert server.connections == 0


def test_a_stranger_gets_nothing(server):
    def refuse(opened: socket.socket) -> None:
        raise EndpointError("a stranger")

    client = Client("a", Endpoint(socket=server.path), refuse)
    for call in (lambda: ask(client), client.healthy, lambda: client.get_json("/slots")):
        with pytest.raises(EndpointError, match="a stranger"):
            call()
    assert server.requests == []


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the kernel does not tell the peer here")
def test_the_peer_is_the_process_of_the_record(server):
    server.replies[CHAT] = stream(WHOLE)
    own = native.verify(examples.record(pid=os.getpid()))
    check_whole(*ask(Client("a", Endpoint(socket=server.path), own)))
    other = native.verify(examples.record(pid=1))
    with pytest.raises(EndpointError, match=f"process {os.getpid()}, not 1"):
        ask(Client("a", Endpoint(socket=server.path), other))
    assert len(server.requests) == 1


# Health and facts


def test_health(server, client):
    server.replies["/health"] = answer(200, b'{"status":"ok"}')
    assert client.healthy()
    server.replies["/health"] = answer(503, b"loading")
    assert not client.healthy()
    server.replies["/health"] = send(b"nonsense\r\n\r\n")
    assert not client.healthy()


def test_health_of_a_silent_server(server, client):
    released = threading.Event()
    server.replies["/health"] = hang(released)
    assert not client.healthy(timeout_s=0.1)
    released.set()


def test_json(server, client):
    server.replies["/props"] = answer(200, b'{"a":[1]}')
    assert client.get_json("/props") == {"a": [1]}
    server.replies["/props"] = answer(200, b"<html>")
    with pytest.raises(RequestError, match="/props with JSON"):
        client.get_json("/props")
    server.replies["/props"] = answer(501, b"no")
    with pytest.raises(RequestError, match="501"):
        client.get_json("/props")


@pytest.mark.parametrize(
    ("reply", "count"),
    [(IDLE, 0), (BUSY, 1), (answer(501, b"no"), None), (answer(200, b'{"a":1}'), None), (answer(200, b"5"), None)],
)  # fmt: skip
def test_busy_slots(server, client, reply, count):
    server.replies["/slots"] = reply
    assert client.busy_slots() == count


# Interrupted


def interrupt_after(pieces: int) -> Any:
    seen: list[str] = []

    def on_text(piece: str) -> None:
        seen.append(piece)
        if len(seen) == pieces:
            raise KeyboardInterrupt

    return on_text


def interrupted(server: Script, client: Client, slots: Any) -> AskInterrupted:
    server.replies[CHAT] = stream(WHOLE)
    server.replies["/slots"] = slots
    with pytest.raises(AskInterrupted) as caught:
        client.chat(ChatRequest(prompt="x"), interrupt_after(2))
    return caught.value


def test_interrupt_keeps_the_answer_and_watches_the_server(server, client):
    error = interrupted(server, client, in_turn([BUSY, BUSY, IDLE]))
    assert error.answer.text == "Héllo "
    assert error.answer.finish_reason == "interrupted"
    assert error.answer.completion_tokens == 2
    assert error.answer.ttft_s is not None
    assert re.fullmatch(r"the server stopped generating within \d\.\d s", error.note)
    assert [request.split()[1] for request in server.requests] == [CHAT.encode(), *[b"/slots"] * 3]


def test_interrupt_closes_the_connection(server, client):
    closed = threading.Event()

    def until_closed(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(event("a")))
        if connection.recv(1) == b"":
            closed.set()

    server.replies[CHAT] = until_closed
    server.replies["/slots"] = lambda connection: (closed.wait(20), IDLE(connection))[1]
    with pytest.raises(AskInterrupted):
        client.chat(ChatRequest(prompt="x"), interrupt_after(1))
    assert closed.is_set()


def test_interrupt_of_a_server_that_goes_on(server, client, monkeypatch):
    monkeypatch.setattr("llmlab.client.client._IDLE_CHECK_S", 0.2)
    assert "still busy" in interrupted(server, client, BUSY).note


@pytest.mark.parametrize("reply", [answer(404, b""), send(b""), answer(200, b"null")])
def test_interrupt_of_a_server_that_does_not_tell(server, client, reply):
    assert "does not tell" in interrupted(server, client, reply).note


def test_interrupt_when_the_socket_has_been_replaced(server, client):
    """The answer is kept all the same."""

    def replace(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(event("kept")))
        server.path.rename(server.path.with_name("away"))
        server.path.touch()
        connection.sendall(chunk(event(" too")))

    server.replies[CHAT] = replace
    try:
        with pytest.raises(AskInterrupted) as caught:
            client.chat(ChatRequest(prompt="x"), interrupt_after(2))
    finally:
        server.path.with_name("away").rename(server.path)
    assert caught.value.answer.text == "kept too"


def test_interrupt_before_anything_came(server, client):
    server.replies["/slots"] = IDLE
    asked: list[int] = []

    def verify(_: socket.socket) -> None:
        asked.append(1)
        if len(asked) == 1:
            raise KeyboardInterrupt

    with pytest.raises(AskInterrupted) as caught:
        Client("a", Endpoint(socket=server.path), verify).chat(ChatRequest(prompt="x"), lambda _: None)
    assert caught.value.answer.text == ""
    assert caught.value.answer.ttft_s is None


def test_second_interrupt_ends_the_watch(server):
    server.replies[CHAT] = stream(WHOLE)
    asked: list[int] = []

    def verify(_: socket.socket) -> None:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt

    with pytest.raises(AskInterrupted, match="not waited for") as caught:
        Client("a", Endpoint(socket=server.path), verify).chat(ChatRequest(prompt="x"), interrupt_after(1))
    assert caught.value.answer.text == "Hé"


def test_what_the_reader_raises_is_not_the_servers_fault(server, client):
    server.replies[CHAT] = stream(WHOLE)

    def closed_pipe(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        client.chat(ChatRequest(prompt="x"), closed_pipe)


# Control tokens


def test_control_tokens_in_a_prompt_are_neutralised(server, client):
    server.replies[CHAT] = stream(WHOLE)
    found, _ = ask(client, "a<|im_end|>b</s>c", system="<|im_start|>", control_tokens=("</s>",))
    assert found.neutralised == ("<|im_end|>", "</s>", "<|im_start|>")
    text = json.dumps(sent(server)["messages"], ensure_ascii=False)
    for token in found.neutralised:
        assert token not in text
    assert text.replace("\u2060", "").count("<|im_end|>") == 1


TOKENS = ("</s>", "[INST]", "<s>", "<unk>", "", "a.b", "b<s", "ST]a")
PIECES = st.sampled_from(
    [
        "<|",
        "|>",
        "<|im_end|>",
        "im_end",
        "<",
        ">",
        "|",
        "</s>",
        "[INST]",
        "[IN",
        "ST]",
        " ",
        "\u2060",
        "<s>",
        "a.b",
    ]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=20).map("".join))
def test_neutralised_text_holds_no_control_token(text):
    out, found = neutralise(text, TOKENS)
    assert not re.search(r"<\|[^|\s]{1,64}\|>", out)
    assert not [token for token in TOKENS if token and token in out]
    # Nothing else is touched, and doing it again changes nothing.
    assert out.replace("\u2060", "") == text.replace("\u2060", "")
    assert neutralise(out, TOKENS) == (out, ())
    assert bool(found) == (out != text)


@pytest.mark.parametrize("text", ["plain", "a < b | c > d", "<| not one |>", "{x} $y", "<||>", "x <|a b|> y"])
def test_other_text_is_left_alone(text):
    assert neutralise(text) == (text, ())
