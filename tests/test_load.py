"""Many at one server, and one who means no good: who is answered, who is told to wait, what it costs in memory."""

from __future__ import annotations

import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import psutil
import pytest
from bench.learners import jain

import llmlab
from llmlab import backends
from llmlab.client import Client
from llmlab.engines import llama_server
from llmlab.errors import ServerBusyError
from llmlab.lab import registry
from llmlab.specs import Endpoint
from tests.conftest import eventually

NATIVE: dict[str, Any] = {"backend": "native"}
CONTAINER: dict[str, Any] = {"backend": "container"}
MANY = 64
MIB = 1 << 20
FEW = 100  # tokens: more than a start needs, fewer than a context has


@pytest.fixture(params=[NATIVE, CONTAINER], ids=["native", "container"])
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where the server runs."""
    request.getfixturevalue("require_engine")
    if request.param is CONTAINER:
        request.getfixturevalue("require_docker")
    found: dict[str, Any] = request.param
    return found


def long_request(server: llmlab.Server, **more: Any) -> bytes:
    """A request whose prompt fills half of the context, and whose answer the rest."""
    context = server.record.spec.context
    body = {
        "messages": [{"role": "user", "content": "x" * (context // 2)}],
        "max_tokens": 100 * context,
        "ignore_eos": True,
        "stream": True,
        **more,
    }
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def connected(server: llmlab.Server, within_s: float = 10.0) -> socket.socket:
    """A bare connection; the queue of those who want one may be full for a moment."""
    path = server.record.endpoint.socket
    deadline = time.monotonic() + within_s
    while True:
        opened = socket.socket(socket.AF_UNIX)
        try:
            opened.settimeout(within_s)
            opened.connect(str(path))
        except BlockingIOError:
            opened.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return opened


def resident(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


@contextmanager
def occupied(server: llmlab.Server, count: int) -> Iterator[None]:
    """All slots taken, and others waiting, by requests that are renewed as soon as they are answered."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with closing(connected(server)) as opened, suppress(OSError):
                opened.sendall(long_request(server))
                while opened.recv(65536) and not over.is_set():
                    pass

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: waiting(server) >= count - server.record.spec.slots)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def counted(server: llmlab.Server, name: str) -> float:
    """A figure of the engine's own; the tokens of a request are counted when it has ended."""
    page = registry.client(server.record).get_text("/metrics")
    return float(next(line.split()[1] for line in page.splitlines() if line.startswith(f"llamacpp:{name} ")))


def waiting(server: llmlab.Server) -> float:
    """How many requests have no slot."""
    return counted(server, "requests_deferred")


# Busy


@pytest.mark.parametrize("slots", [1, 4])
def test_who_gets_no_slot_in_time_is_told_how_many_wait(place, slots):
    server = llmlab.start("tiny", name="a", slots=slots, **place)
    # The first in line gets the next slot: some of those who ask at once wait behind others.
    with occupied(server, slots + 6), ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(server.ask, "hi", max_tokens=1, timeout_s=0.05) for _ in range(8)]
        said = [each.exception() for each in asked]
    told = [error for error in said if isinstance(error, ServerBusyError) and "is busy" in error.message]
    assert told, said
    slot = "1 slot answered" if slots == 1 else "4 slots answered"
    assert all(f"server 'a' is busy: its {slot} " in error.message for error in told)
    assert all("waited when this one had waited for 0.05 s" in error.message for error in told)
    assert {"--slots", "--timeout"} < set(
        told[0].hint.replace("(", "").replace(")", "").replace(",", "").split()
    )
    assert server.ask("hi", max_tokens=1).text is not None


def test_a_server_that_cannot_be_reached_for_others_is_busy_and_not_gone(isolated_runtime):
    path = isolated_runtime / "s"
    client = Client("a", Endpoint(socket=path))
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        first = stack.enter_context(socket.socket(socket.AF_UNIX))
        first.connect(str(path))
        with pytest.raises(ServerBusyError, match="more connections wait than it takes"):
            client.get_json("/props")
        assert not client.healthy()
    path.unlink()


def test_a_class_that_asks_at_once_hides_neither_health_nor_the_queue(place):
    server = llmlab.start("tiny", name="a", slots=4, **place)
    with ThreadPoolExecutor(MANY) as pool:
        asked = [pool.submit(server.ask, "x" * 300, max_tokens=80, temperature=0) for _ in range(MANY)]
        eventually(lambda: waiting(server) > MANY // 2)
        assert server.status.state == "ready"
    assert all(each.result().completion_tokens for each in asked)


# A hostile learner


def test_beside_one_who_floods_and_never_reads_the_others_are_answered_alike(place):
    server = llmlab.start("tiny", name="a", slots=4, **place)

    def learn(number: int) -> list[float]:
        answers = [server.ask(f"{number}.{turn}: hi", max_tokens=8, timeout_s=60) for turn in range(3)]
        return [answer.ttft_s or 0.0 for answer in answers]

    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(closing(connected(server))).sendall(long_request(server))
        with ThreadPoolExecutor(6) as pool:
            waits = list(pool.map(learn, range(6)))
        # None has waited for all of the flood with each request, as one who is passed over would.
        assert jain([statistics.fmean(own) for own in waits]) > 0.5
        eventually(lambda: registry.client(server.record).busy_slots() == 0)  # for nobody who does not read


@pytest.mark.parametrize("begun", [b"", b"P"], ids=["nothing", "half a request"])
def test_beside_connections_that_send_nothing_the_others_are_answered(place, begun):
    server = llmlab.start("tiny", name="a", **place)
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(closing(connected(server))).sendall(begun)
        assert server.ask("hi", max_tokens=1, timeout_s=20).completion_tokens == 1
        assert server.status.state == "ready"


def test_more_connections_than_a_container_may_have_threads_do_not_end_the_server(require_docker):
    server = llmlab.start("tiny", name="a", **CONTAINER)
    assert server.record.limits
    assert server.record.limits.pids
    with ExitStack() as stack:
        with suppress(BlockingIOError):
            for _ in range(server.record.limits.pids + 100):
                stack.enter_context(closing(connected(server, within_s=2))).sendall(b"P")
        with pytest.raises(ServerBusyError):
            server.ask("hi", max_tokens=1, timeout_s=1)
        assert server.status.state != "exited"
    assert eventually(lambda: server.status.state == "ready")
    assert server.ask("hi", max_tokens=1, timeout_s=60).completion_tokens == 1


# What a relay keeps for one who does not read


def large(server: llmlab.Server) -> bytes:
    """A request whose answer has many megabytes, for the probabilities of all tokens at each place."""
    return long_request(server, logprobs=True, top_logprobs=400)


@pytest.mark.parametrize("transport", ["relay", "sidecar"])
def test_a_relay_keeps_little_for_a_client_that_does_not_read(require_docker, transport):
    server = llmlab.start("tiny", name="a", slots=1, transport=transport, **CONTAINER)
    opener = backends.backend("container").opener(server.record)
    with closing(opener() if opener else connected(server)) as silent:
        silent.settimeout(60)
        before = resident(os.getpid())
        silent.sendall(large(server))
        # It holds its slot for as long as the context lasts, and no longer.
        eventually(lambda: counted(server, "tokens_predicted_total") > FEW, within_s=60)
        relays = [each for each in psutil.process_iter(["name"]) if each.info["name"] == "relay"]
        assert relays
        held = [resident(os.getpid()) - before, *(resident(each.pid) for each in relays)]
        size = 0
        while data := silent.recv(MIB):
            size += len(data)
            if b"[DONE]" in data:
                break
    assert size > 10 * MIB, "the answer is too small for this test"
    assert max(held) < size / 3


def test_who_neither_sends_nor_reads_is_given_up(require_engine, monkeypatch):
    monkeypatch.setattr(llama_server, "_STALLED_S", 1)
    server = llmlab.start("tiny", name="a", **NATIVE)
    with closing(connected(server, within_s=30)) as half, closing(connected(server, within_s=30)) as silent:
        half.sendall(b"POST /v1")
        silent.sendall(large(server))
        assert b"200" not in half.recv(100)  # an error or nothing, and not after an hour
        eventually(lambda: counted(server, "tokens_predicted_total") > FEW, within_s=60)
        time.sleep(3)  # longer than it waits until somebody reads
        found = b""
        while data := silent.recv(MIB):
            found = data
    assert b"[DONE]" not in found
