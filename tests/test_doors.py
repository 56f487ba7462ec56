"""Other packages speak to a server: httpx, and what is built on it."""

from __future__ import annotations

import asyncio
import importlib
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import llmlab
from llmlab.client import httpx_transport
from llmlab.client.httpx_transport import LIBRARIES, Reached
from llmlab.errors import UnknownNameError, UsageError
from llmlab.specs import Endpoint
from tests.conftest import kill
from tests.scripted_server import CHUNKED, Script, answer, chunk, hang, scripted, send, stream, then

PLACES: dict[str, dict[str, Any]] = {
    "native": {"backend": "native"},
    "sealed": {"backend": "container"},
    "relayed": {"backend": "container", "transport": "relay"},
}
QUESTION: list[Any] = [{"role": "user", "content": "What is a container?"}]
CHAT = "/v1/chat/completions"
LONG = {"messages": QUESTION, "stream": True, "max_tokens": 4000, "ignore_eos": True}


@pytest.fixture(params=PLACES)
def server(request, require_engine):
    if request.param != "native":
        request.getfixturevalue("require_docker")
    with llmlab.start("tiny", name="door", **PLACES[request.param]) as started:
        yield started


@pytest.fixture
def native(require_engine):
    with llmlab.start("tiny", name="door", backend="native") as started:
        yield started


@pytest.fixture(params=LIBRARIES)
def library(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def script(tmp_path):
    with scripted(tmp_path / "s") as script:
        yield script


def client_of(script: Script, library: Any = None, timeout_s: float = 20.0, **endpoint: Any) -> Any:
    reached = Reached(name="scripted", endpoint=Endpoint(socket=script.path, **endpoint))
    return httpx_transport.client(reached, library, timeout_s=timeout_s)


# openai and its like


def test_openai_gets_an_answer_and_a_stream(server):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(**server.openai_kwargs()) as client:
        asked = {"model": "tiny", "messages": QUESTION, "temperature": 0}
        whole = client.chat.completions.create(**asked)
        pieces = list(client.chat.completions.create(stream=True, **asked))
    text = whole.choices[0].message.content
    assert text == server.ask("What is a container?", temperature=0).text
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == text
    assert len(pieces) > 10


def test_openai_gets_both_with_asyncio(server):
    openai = pytest.importorskip("openai")

    async def ask() -> tuple[str, str]:
        async with openai.AsyncOpenAI(**server.async_openai_kwargs()) as client:
            asked = {"model": "tiny", "messages": QUESTION, "temperature": 0}
            whole, pieces = await asyncio.gather(
                client.chat.completions.create(**asked), client.chat.completions.create(stream=True, **asked)
            )
            texts = [piece.choices[0].delta.content async for piece in pieces if piece.choices]
            return whole.choices[0].message.content, "".join(text or "" for text in texts)

    text, streamed = asyncio.run(ask())
    assert text == streamed == server.ask("What is a container?", temperature=0).text


def test_openai_says_in_words_that_a_server_is_gone(native):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(max_retries=0, **native.openai_kwargs()) as client:
        native.stop()
        with pytest.raises(openai.APIConnectionError) as caught:
            client.models.list()
    assert "server 'door' does not answer" in str(caught.value.__cause__)


def test_langchain_asks_a_server(native):
    langchain_openai = pytest.importorskip("langchain_openai")
    given = native.openai_kwargs()
    with given["http_client"]:
        model = langchain_openai.ChatOpenAI(model="tiny", temperature=0, **given)
        whole = model.invoke("What is a container?").content
        assert "".join(piece.content for piece in model.stream("What is a container?")) == whole
    assert whole == native.ask("What is a container?", temperature=0).text


# httpx


def test_a_client_of_either_library_reads_and_streams(server, library):
    with server.http_client(library=library) as client:
        assert type(client).__module__ == library
        assert client.get("/health").json() == {"status": "ok"}
        body = {"messages": QUESTION, "stream": True, "max_tokens": 5}
        with client.stream("POST", CHAT, json=body) as response:
            lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["choices"]


def test_an_asynchronous_client_of_either_library(native, library):
    async def read() -> list[Any]:
        async with native.async_http_client(library=library) as client:
            found = await asyncio.gather(*(client.get("/health") for _ in range(20)))
            async with client.stream("POST", CHAT, json={**LONG, "max_tokens": 5}) as response:
                lines = [line async for line in response.aiter_lines() if line]
            return [*(each.json() for each in found), lines[-1]]

    assert asyncio.run(read()) == [{"status": "ok"}] * 20 + ["data: [DONE]"]


def test_requests_from_many_threads_do_not_get_in_each_others_way(native):
    found: list[str] = []
    with native.http_client() as client:

        def ask(word: str) -> None:
            asked = client.post("/tokenize", json={"content": word}).json()["tokens"]
            found.append(client.post("/detokenize", json={"tokens": asked}).json()["content"].strip())

        words = [f"word{number}" for number in range(12)]
        threads = [threading.Thread(target=ask, args=(word,)) for word in words]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == sorted(words)


def test_what_is_meant_for_somebody_else_is_not_sent_to_the_server(script, library):
    httpx = importlib.import_module(library)
    moved = answer(302, b"", "Location: http://elsewhere.example/x")
    script.replies = {"/moved": moved, "/x": answer(200, b"secret")}
    with client_of(script, library, timeout_s=5) as client:
        for url in ("http://elsewhere.example/x", "https://scripted.llmlab.invalid/x"):
            with pytest.raises(httpx.UnsupportedProtocol, match="reaches server 'scripted' only"):
                client.get(url)
        with pytest.raises(httpx.UnsupportedProtocol, match="elsewhere"):
            client.get("/moved", follow_redirects=True)
    assert len(script.requests) == 1


def test_a_proxy_of_the_environment_is_not_used(native, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with native.http_client() as client:
        assert client.get("/health").status_code == 200


def test_each_request_has_a_connection_of_its_own_and_leaves_none(script):
    script.replies = {"/a": answer(200, b"A"), "/b": stream(b"B", b"C")}
    with client_of(script) as client:
        assert [client.get(path).text for path in ("/a", "/b", "/a")] == ["A", "BC", "A"]
        assert script.connections == 3
        assert client._transport._pool.connections == []


def test_a_stranger_at_the_socket_gets_nothing(native, library):
    httpx = importlib.import_module(library)
    path = native.record.endpoint.socket
    path.rename(path.with_name("aside"))
    stranger = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
        "print('ready', flush=True); c, _ = s.accept(); print(len(c.recv(9)), flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", stranger, path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with native.http_client(library=library) as client:
            with pytest.raises(httpx.ConnectError, match="is not that server"):
                client.post(CHAT, json=LONG)
            assert other.stdout.readline() == "0\n", "the connection was closed, and nothing sent"
    path.unlink()
    path.with_name("aside").rename(path)


def test_a_server_that_says_nothing_is_not_waited_for_longer_than_asked(script, library):
    httpx = importlib.import_module(library)
    released = threading.Event()
    script.replies = {"/": hang(released), "/half": then(send(CHUNKED, chunk(b"a")), hang(released))}
    with client_of(script, library, timeout_s=0.2) as client:
        with pytest.raises(httpx.ReadTimeout, match="server 'scripted' did not answer in time"):
            client.get("/")
        with pytest.raises(httpx.ReadTimeout), client.stream("GET", "/half") as response:
            assert list(response.iter_bytes(1)) == [b"never"]
        released.set()


def test_an_asynchronous_client_does_not_wait_longer_either(script, library):
    httpx = importlib.import_module(library)
    released = threading.Event()
    script.replies = {"/": hang(released)}

    async def wait() -> None:
        reached = Reached(name="scripted", endpoint=Endpoint(socket=script.path))
        async with httpx_transport.async_client(reached, library, timeout_s=0.2) as client:
            with pytest.raises(httpx.ReadTimeout, match="did not answer in time"):
                await client.get("/")

    asyncio.run(wait())
    released.set()


def test_a_server_that_dies_in_mid_stream_is_an_error_after_what_had_come(native, library):
    httpx = importlib.import_module(library)
    seen: list[str] = []

    def read(response: Any) -> None:
        for line in response.iter_lines():
            if not seen:
                kill(native.record.process.pid)
            seen.append(line)

    with (
        native.http_client(library=library) as client,
        client.stream("POST", CHAT, json=LONG) as response,
        pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)),
    ):
        read(response)
    assert seen
    assert "data: [DONE]" not in seen


@pytest.mark.parametrize("asynchronous", [False, True])
def test_closing_a_response_closes_the_connection(script, asynchronous):
    hung_up = threading.Event()

    def until_closed(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(b"a"))
        assert connection.recv(1) == b""
        hung_up.set()

    script.replies = {"/": until_closed}
    reached = Reached(name="scripted", endpoint=Endpoint(socket=script.path))

    async def begin() -> None:
        client = httpx_transport.async_client(reached, None, timeout_s=20)
        async with client, client.stream("GET", "/") as response:
            pieces = response.aiter_bytes()
            assert await pieces.__anext__() == b"a"
            assert not hung_up.is_set()

    if asynchronous:
        asyncio.run(begin())
    else:
        with client_of(script) as client, client.stream("GET", "/") as response:
            pieces = response.iter_bytes()
            assert next(pieces) == b"a"
            assert not hung_up.is_set()
    assert hung_up.wait(20)


def test_an_interrupt_closes_the_connection(script):
    closed = threading.Event()

    def interrupting(connection: socket.socket) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert connection.recv(1) == b""
        closed.set()

    script.replies = {"/": interrupting}
    with client_of(script) as client:
        with pytest.raises(KeyboardInterrupt):
            client.get("/")
        assert closed.wait(20)


def test_settings_that_do_not_fit(native):
    with pytest.raises(UsageError, match="timeout is 0"):
        native.http_client(timeout_s=0)
    with pytest.raises(UnknownNameError, match="did you mean 'httpx'"):
        native.http_client(library="http")


def test_a_library_that_is_not_here_is_named(native, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UsageError, match="pip install httpx"):
        native.http_client(library="httpx")


def test_nothing_of_it_is_imported_before_it_is_used():
    code = (
        "import sys, llmlab, llmlab.lab.server;"
        "print(sorted({'httpx', 'httpx2', 'httpcore', 'openai', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Keys


def test_a_server_without_an_endpoint_for_others_has_an_address_that_leads_nowhere(native):
    assert native.base_url == "http://door.llmlab.invalid/v1"
    assert native.api_key is None


def test_the_engine_gets_neither_a_key_nor_a_name_that_was_made_up(script, tmp_path):
    key_file = tmp_path / "key"
    key_file.write_text("sesame\n")
    script.replies = {"/": answer(200, b"")}
    for endpoint in ({"key_file": key_file, "exposed_port": 7}, {}, {"key_file": key_file}):
        with client_of(script, **endpoint) as client:
            client.get("/", headers={"Authorization": "Bearer made-up"})
    heads = [request.decode().lower() for request in script.requests]
    assert all("host: localhost\r\n" in head for head in heads)
    assert all("made-up" not in head for head in heads)
    assert ["sesame" in head for head in heads] == [False, False, True], "only an engine that asks for it"


@pytest.fixture
def exposed(require_engine, require_docker):
    with llmlab.start("tiny", name="door", backend="container", expose=0) as started:
        yield started


def test_an_exposed_endpoint_opens_with_its_key_and_not_without(exposed):
    openai = pytest.importorskip("openai")
    assert exposed.base_url == f"http://127.0.0.1:{exposed.record.endpoint.exposed_port}/v1"
    with openai.OpenAI(base_url=exposed.base_url, api_key=exposed.api_key) as client:
        assert client.models.list().data[0].id == "tiny"
    given = exposed.openai_kwargs()
    with (
        openai.OpenAI(base_url=exposed.base_url, api_key=given["api_key"]) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()
    with openai.OpenAI(**given) as client:
        assert client.models.list().data[0].id == "tiny", "over the client that comes with it"


def test_llm_asks_at_an_exposed_endpoint(exposed, tmp_path):
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: door\n  model_name: tiny\n  api_base: {exposed.base_url}\n  api_key_name: door\n"
    )
    command = [sys.executable, "-m", "llm", "-m", "door", "-o", "temperature", "0", "What is a container?"]
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "--key", exposed.api_key],
        capture_output=True, text=True, check=False, env=environment, timeout=100,
    )  # fmt: skip
    assert done.stdout.strip() == exposed.ask("What is a container?", temperature=0).text, done.stderr


def test_a_key_is_never_shown(exposed, capsys, caplog, monkeypatch):
    key = Path(exposed.record.endpoint.key_file).read_text().strip()
    assert exposed.api_key == key
    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    shell.user_ns["server"] = exposed
    sources = (
        "server.api_key",
        "server.openai_kwargs()",
        "[server.api_key, {1: server.api_key}]",
        "server",
        "server.record",
        "%xmode Verbose",
        "def f(key, given):\n    return key / given\nf(server.api_key, server.openai_kwargs())",
        "c = server.http_client()\nc.get('/nothing', headers={'Authorization': server.api_key}).raise_for_status()",
    )
    with caplog.at_level(logging.DEBUG):
        outcomes = [shell.run_cell(source) for source in sources]
    InteractiveShell.clear_instance()
    shown = capsys.readouterr()
    assert [outcome.success for outcome in outcomes][-2:] == [False, False]
    assert f"<a key of {len(key)} characters>" in shown.out
    for text in (shown.out, shown.err, caplog.text, repr(exposed.api_key), repr([exposed.api_key])):
        assert key not in text
    stream = io.StringIO()
    print(exposed.api_key, file=stream)
    assert stream.getvalue() == f"{key}\n", "who prints it wants it"
