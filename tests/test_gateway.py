"""The gateway of replicated servers: the relay's program between clients and several servers."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from llmlab.builds import static
from llmlab.errors import LabError
from tests.conftest import REPOSITORY, eventually, missing
from tests.gateways import (
    HEALTHY,
    LOADING,
    Gateway,
    asked,
    read_all,
    request,
    running_gateway,
)
from tests.scripted_server import (
    CHUNKED,
    END,
    Reply,
    Script,
    answer,
    chunk,
    hang,
    in_turn,
    scripted_port,
    send,
    stream,
    then,
)

OK = answer(200, b"ok")


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return static.program("relay")
    except LabError as error:
        missing("compiler", str(error))


@pytest.fixture
def gateway(program: Path) -> Iterator[Gateway]:
    with running_gateway(program) as made:
        yield made


@contextmanager
def servers(gateway: Gateway, *replies: Reply, weights: Sequence[int] = ()) -> Iterator[list[Script]]:
    """Servers a, b, … that answer /v1/x so; all are ready."""
    with ExitStack() as stack:
        made = [stack.enter_context(scripted_port()) for _ in replies]
        names = "abcdefgh"[: len(made)]
        for script, reply in zip(made, replies, strict=True):
            script.replies = {"/health": HEALTHY, "/v1/x": reply}
        gateway.targets(
            *(
                f"{name} {script.address} {weight}"
                for name, script, weight in zip(names, made, weights or [1] * len(made), strict=True)
            )
        )
        gateway.become(**dict.fromkeys(names, "ready"))
        yield made


def has_open(gateway: Gateway, count: int) -> bool:
    return bool(gateway.status()["open"] >= count)


@contextmanager
def held(count: int, gateway: Gateway, released: threading.Event) -> Iterator[list[socket.socket]]:
    """Clients whose requests are being worked on; `released` lets them go in the end."""
    with ExitStack() as stack:
        stack.callback(released.set)
        clients = []
        for at in range(1, count + 1):
            clients.append(stack.enter_context(gateway.begin()))
            eventually(partial(has_open, gateway, at))
        yield clients


def status(answered: bytes) -> int:
    return int(answered.split(b" ", 2)[1]) if answered else 0


def error(answered: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(answered.partition(b"\r\n\r\n")[2])["error"]
    return found


def mem_kib(gateway: Gateway) -> int:
    lines = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


# Which server is chosen.


def test_those_with_the_fewest_open_connections_for_their_weight_are_next(gateway):
    released = threading.Event()
    slow = then(hang(released), OK)
    with servers(gateway, slow, slow, slow, weights=[4, 2, 2]), held(8, gateway, released) as clients:
        # Until their requests have come to them they count as well.
        assert [entry["open"] for entry in gateway.status()["targets"]] == [4, 2, 2]
        released.set()
        assert [status(read_all(client)) for client in clients] == [200] * 8
        eventually(lambda: [entry["served"] for entry in gateway.status()["targets"]] == [4, 2, 2])
    eventually(lambda: gateway.status()["open"] == 0)


def test_equals_take_turns(gateway):
    with servers(gateway, OK, OK, OK, weights=[1, 1, 5]) as scripts:
        for _ in range(9):
            assert status(gateway.ask()) == 200
        assert [asked(script) for script in scripts] == [3, 3, 3]


def test_a_connection_that_is_kept_stays_with_its_server(gateway):
    def kept(connection: socket.socket) -> None:
        for _ in range(3):
            connection.sendall(b"HTTP/1.1 200 Told\r\nContent-Length: 4\r\n\r\nkept")
            if not connection.recv(65536):
                return

    with servers(gateway, kept, kept) as scripts:
        client = http.client.HTTPConnection("localhost")
        client.sock = gateway.connect()
        for _ in range(3):
            client.request("GET", "/v1/x")
            assert client.getresponse().read() == b"kept"
        client.close()
        assert sorted(asked(script) for script in scripts) == [0, 1]
        eventually(lambda: sorted(entry["served"] for entry in gateway.status()["targets"]) == [0, 3])
        assert sum(entry["failed"] for entry in gateway.status()["targets"]) == 0


# A server that cannot be reached: nothing has been sent, so another one is asked.


def test_a_refused_connection_goes_to_the_next_server(gateway):
    with servers(gateway, OK) as (living,):
        with scripted_port() as dying:
            dying.replies = {"/health": HEALTHY}
            gateway.targets(f"a {living.address} 1", f"dying {dying.address} 1")
            gateway.become(a="ready", dying="ready")
        # At once: to lose it by its health takes two failures, a second apart.
        assert [status(gateway.ask()) for _ in range(4)] == [200] * 4
        gone = gateway.target("dying")
        assert gone["state"] == "lost"
        assert "refused" in gone["error"]
        assert gone["failed"] == 0
        assert asked(living) == 4


def test_a_server_that_does_not_take_connections_is_passed_over_after_a_second(gateway):
    with servers(gateway, OK) as (living,), socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        gateway.targets(
            f"a {living.address} 1", "full {}:{} 100".format(*full.getsockname()), "# nobody else"
        )
        full.settimeout(10)
        first, _ = full.accept()
        with first:
            first.recv(1000)
            first.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            eventually(lambda: gateway.target("full")["state"] == "ready")
        with ExitStack() as stack:
            for _ in range(4):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            began = time.monotonic()
            assert [status(gateway.ask()) for _ in range(2)] == [200] * 2
            # One of the two was tried there first.
            assert time.monotonic() - began > 0.9
            assert asked(living) == 2
            gateway.become(a="ready", full="lost")


# A server that is lost later: no other one is ever asked.


def died(connection: socket.socket) -> None:
    """Ends without a word."""


def broke(connection: socket.socket) -> None:
    """Ends with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize("ending", [died, broke])
def test_a_request_is_never_sent_twice(gateway, ending):
    with servers(gateway, ending, ending) as scripts:
        answered = gateway.ask()
        assert status(answered) == 502
        told = error(answered)
        assert (told["type"], told["code"]) == ("upstream_lost", 502)
        counts = [asked(script) for script in scripts]
        assert sorted(counts) == [0, 1]
        name = "ab"[counts.index(1)]
        assert f"server {name} was lost" in str(told["message"])
        assert gateway.target(name)["failed"] == 1
        assert gateway.target(name)["served"] == 0


@contextmanager
def impatient(taken: list[str], name: str) -> Iterator[str]:
    """A server that is well, but goes at the first bytes of a request; yields its address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if self.request.recv(1000).startswith(b"GET"):
                HEALTHY(self.request)
            else:
                taken.append(name)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()
        thread.join()


def test_a_request_of_which_a_part_was_sent_is_not_sent_again(gateway):
    taken: list[str] = []
    with impatient(taken, "a") as a, impatient(taken, "b") as b:
        gateway.targets(f"a {a} 1", f"b {b} 1")
        gateway.become(a="ready", b="ready")
        answered = gateway.ask(body=b"y" * 3_000_000)
        assert status(answered) == 502
        (name,) = taken
        assert f"server {name} was lost" in str(error(answered)["message"])


@pytest.mark.parametrize("ending", [died, broke])
@pytest.mark.parametrize("place", ["", "127.0.0.1:0"], ids=["socket", "port"])
def test_a_stream_that_breaks_is_seen_to_be_broken(program, ending, place):
    seen = threading.Event()
    begun = then(send(CHUNKED + chunk(b"once ")), hang(seen), ending)
    with running_gateway(program, place=place) as gateway, servers(gateway, begun, begun) as scripts:
        with gateway.begin() as hurt:
            received = b""
            while b"once" not in received:
                received += hurt.recv(1000)
            seen.set()
            reset = False
            try:
                received += read_all(hurt)
            except ConnectionResetError:
                reset = True
        assert not received.endswith(END)
        # A unix socket knows no reset: its end comes too early.
        assert reset == bool(place)
        assert [asked(script) for script in scripts] == [1, 0]
        lost = eventually(lambda: (found := gateway.target("a"))["failed"] == 1 and found)
        assert "in the middle of an answer" in lost["error"]
        assert (lost["served"], lost["open"]) == (0, 0)


WHOLE: dict[str, Reply] = {
    "with its length": OK,
    "in chunks": stream(b"once ", b"upon ", b"a time\r\n0\r\n\r\n"),
    "in pieces": send(*(bytes([byte]) for byte in CHUNKED + chunk(b"a\r\nb") + END)),
    "with a trailer": send(CHUNKED, chunk(b"x"), b"0\r\nX-Sum: 1\r\n\r\n"),
    "until the end": send(b"HTTP/1.1 200 OK\r\n\r\nonce upon a time"),
    "without a body": send(b"HTTP/1.1 204 None\r\nConnection: close\r\n\r\n"),
    "announced": send(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "with long headers": send(
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"y" * 5000 + b"\r\nContent-Length: 2\r\n\r\nok"
    ),
    "with an error of its own": answer(500, b"no"),
    "not HTTP": send(b"SSH-2.0-other\r\n"),
}


@pytest.mark.parametrize("what", WHOLE)
def test_whole_answers_come_as_they_are(gateway, what):
    left, right = socket.socketpair()
    with right:
        with left:
            WHOLE[what](left)
        sent = read_all(right)
    with servers(gateway, WHOLE[what]) as (script,):
        assert gateway.ask() == sent
        eventually(lambda: gateway.target("a")["served"] == 1)
        assert gateway.target("a")["failed"] == 0
        assert asked(script) == 1


def test_an_answer_without_a_body_is_whole(gateway):
    """The length that it names is that of another request's answer."""
    with (
        servers(gateway, send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")),
        gateway.connect() as opened,
    ):
        opened.sendall(b"HEAD /v1/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status(read_all(opened)) == 200
        assert gateway.target("a")["failed"] == 0


# No server.


def test_without_a_server_a_client_is_told_to_come_again(gateway):
    gateway.targets("a 127.0.0.1:9 1", "# b is being repaired", "", "c 127.0.0.1:10 1 # later")
    gateway.become(a="lost", c="lost")
    answered = gateway.ask()
    assert status(answered) == 503
    assert b"\r\nRetry-After: 1\r\n" in answered
    assert error(answered) == {
        "message": "no server is ready: a is lost, c is lost",
        "type": "no_target",
        "code": 503,
    }
    assert gateway.status()["refused"] == 1


def test_a_client_waits_for_a_server_that_is_about_to_be_ready(gateway):
    with scripted_port() as script:
        script.replies = {"/health": LOADING, "/v1/x": OK}
        gateway.targets(f"a {script.address} 1")
        eventually(lambda: gateway.target("a")["error"] == "it is loading")
        assert gateway.target("a")["state"] == "loading"
        with gateway.begin() as opened:
            eventually(lambda: gateway.status()["waiting"] == 1)
            script.replies["/health"] = HEALTHY
            assert status(read_all(opened)) == 200


# Health.


def test_two_failures_in_a_row_lose_a_server_and_one_success_brings_it_back(gateway):
    with servers(gateway, OK) as (script,):
        script.replies["/health"] = in_turn([answer(500, b""), HEALTHY, answer(500, b""), answer(500, b"")])
        since = gateway.target("a")["since"]
        eventually(lambda: gateway.target("a")["state"] == "lost")
        lost = gateway.target("a")
        assert lost["error"] == "asked for its health, it answers with status: 500"
        assert lost["since"] > since
        # One of each kind first: the third and the fourth were in a row.
        assert sum(sent.startswith(b"GET /health") for sent in script.requests) >= 4
        script.replies["/health"] = HEALTHY
        gateway.become(a="ready")
        assert status(gateway.ask()) == 200


def test_a_server_whose_health_is_no_answer_is_lost(gateway):
    noise, half = send(b"\0\xff garbage \n" * 9), send(b"HTTP/1.1 2")
    other = send(b"HTTP/9 200 OK\r\n\r\n")
    with servers(gateway, OK, OK, OK, OK, OK) as scripts:
        for script, health in zip(scripts, [noise, half, other, died, broke], strict=True):
            script.replies["/health"] = health
        gateway.become(**dict.fromkeys("abcde", "lost"))


def test_another_path_may_be_asked_for(program):
    with running_gateway(program, "health=/v1/models") as gateway, scripted_port() as script:
        script.replies = {"/v1/models": HEALTHY, "/v1/x": OK}
        gateway.targets(f"a {script.address} 1")
        gateway.become(a="ready")


def test_a_server_that_hangs_is_lost_and_one_that_is_busy_is_not(gateway):
    """All its threads are taken by streams: that it answers them shows that it lives."""
    released = threading.Event()

    def busy(connection: socket.socket) -> None:
        connection.sendall(CHUNKED)
        while not released.wait(0.1):
            connection.sendall(chunk(b"word"))
        connection.sendall(END)

    with servers(gateway, busy, then(hang(released), OK)) as scripts, held(2, gateway, released):
        for script in scripts:
            script.replies["/health"] = hang(released)
        gateway.become(a="ready", b="lost")
        assert gateway.target("b")["error"] == "no answer for its health in 2 s"


# The file of targets.


def test_a_drained_server_finishes_what_it_has_begun(gateway):
    released = threading.Event()
    slow = then(hang(released), OK)
    with servers(gateway, slow, slow) as (old, new), held(2, gateway, released) as clients:
        eventually(lambda: asked(old) == asked(new) == 1)
        new.replies["/v1/x"] = OK
        # By its weight it would be the next one.
        gateway.targets(f"a {old.address} 100 drain", f"b {new.address} 1")
        gateway.become(a="draining", b="ready")
        for _ in range(3):
            assert status(gateway.ask()) == 200
        assert asked(old) == 1
        assert gateway.target("a")["open"] == 1
        released.set()
        assert [status(read_all(client)) for client in clients] == [200, 200]
        gateway.targets(f"a {old.address} 1", f"b {new.address} 1")
        gateway.become(a="ready", b="ready")


def test_a_server_that_is_taken_from_the_file_finishes_what_it_has_begun(gateway):
    released = threading.Event()
    with (
        servers(gateway, then(hang(released), OK)),
        held(1, gateway, released) as (client,),
        scripted_port() as new,
    ):
        new.replies = {"/health": HEALTHY, "/v1/x": OK}
        gateway.targets(f"b {new.address} 1")
        gateway.become(a="draining", b="ready")
        assert status(gateway.ask()) == 200
        released.set()
        assert status(read_all(client)) == 200
        gateway.become(b="ready")


def test_a_new_address_is_a_new_server(gateway):
    with servers(gateway, OK), scripted_port() as new:
        new.replies = {"/health": LOADING}
        gateway.targets(f"a {new.address} 1")
        gateway.become(a="loading")


DAMAGED: dict[str, tuple[str, str]] = {
    "empty": ("", "it is empty"),
    "cut off": ("a 127.0.0.1:9 1\nb 127.0.0.1:1", "line 2: its end is missing"),
    "an id of other characters": ('a" 127.0.0.1:9 1\n', "line 1: an ID is made of"),
    "an endless id": ("a" * 65 + " 127.0.0.1:9 1\n", "line 1: an ID is too long"),
    "no weight": ("# one\na 127.0.0.1:9\n", "line 2: a line is"),
    "a weight of nothing": ("a 127.0.0.1:9 0\n", "line 1: a weight is"),
    "a weight below": ("a 127.0.0.1:9 -1\n", "line 1: a weight is"),
    "an endless weight": ("a 127.0.0.1:9 99999999999999999999\n", "line 1: a weight is"),
    "another word": ("a 127.0.0.1:9 1 drained\n", "line 1: only 'drain'"),
    "one word more": ("a 127.0.0.1:9 1 drain now\n", "line 1: a line is"),
    "a name": ("a localhost:9 1\n", "line 1: an address is"),
    "no port": ("a 127.0.0.1 1\n", "line 1: an address is"),
    "another port": ("a 127.0.0.1:65536 1\n", "line 1: an address is"),
    "an endless address": ("a " + "1" * 500 + ":9 1\n", "line 1: an address is"),
    "one twice": ("a 127.0.0.1:9 1\na 127.0.0.1:10 1\n", "line 2: this ID stands there twice"),
    "a zero byte": ("a 127.0.0.1:9 1\n\0", "it is not a text"),
    "too many": ("".join(f"t{at} 127.0.0.1:{at + 1} 1\n" for at in range(65)), "line 65: there are too many"),
    "too large": ("#" * 20_000 + "\n", "it is too large"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_of_a_damaged_file_nothing_is_taken(gateway, what):
    text, wrong = DAMAGED[what]
    with servers(gateway, OK):
        read = gateway.status()["file"]["read"]
        gateway.targets(text=text)
        told = eventually(lambda: (found := gateway.status()["file"])["error"] and found)
        assert wrong in told["error"]
        assert told["read"] == read
        assert gateway.states() == {"a": "ready"}
        assert status(gateway.ask()) == 200


def test_a_file_that_is_missing_or_no_file_is_told(gateway):
    assert "No such file" in gateway.status()["file"]["error"]
    assert gateway.status()["file"]["read"] is None
    with servers(gateway, OK):
        (gateway.folder / "targets").unlink()
        eventually(lambda: "No such file" in (gateway.status()["file"]["error"] or ""))
        (gateway.folder / "targets").mkdir()
        eventually(lambda: "cannot be read" in (gateway.status()["file"]["error"] or ""))
        assert status(gateway.ask()) == 200
        (gateway.folder / "targets").rmdir()
        gateway.targets("# nobody")
        gateway.become()
        assert gateway.status()["file"]["error"] is None
        assert error(gateway.ask())["message"] == "there is no server"


def test_the_file_is_looked_at_when_a_client_comes(gateway):
    with servers(gateway, OK) as (script,):
        gateway.targets(f"a {script.address} 7")
        assert status(gateway.ask()) == 200
        assert gateway.target("a")["weight"] == 7


# What flows through it.


def test_a_large_prompt_comes_whole(gateway):
    with servers(gateway, OK) as (script,):
        body = bytes(range(256)) * 20_000
        assert status(gateway.ask(body=body)) == 200
        (sent,) = [sent for sent in script.requests if sent.startswith(b"POST")]
        assert sent == request("/v1/x", body)


def test_a_slow_reader_holds_its_server_back(gateway):
    """What it does not take is not kept in the gateway's memory."""
    pieces = [bytes([at % 256]) * 100_000 for at in range(300)]
    sent: list[int] = []

    def much(connection: socket.socket) -> None:
        connection.sendall(CHUNKED)
        for piece in pieces:
            connection.sendall(chunk(piece))
            sent.append(len(piece))
        connection.sendall(END)

    with servers(gateway, much), gateway.begin() as opened:
        before = -1
        while len(sent) != before:
            before = len(sent)
            time.sleep(0.5)
        assert 0 < len(sent) < 200
        assert mem_kib(gateway) < 20_000
        response = http.client.HTTPResponse(opened)
        response.begin()
        assert response.read() == b"".join(pieces)


def test_a_server_that_reads_nothing_for_a_while_gets_its_request(gateway):
    """It is well, only its queue is long: longer than a cut link would be given."""

    with socket.create_server(("127.0.0.1", 0)) as queue:
        queue.settimeout(20)
        gateway.targets("a {}:{} 1".format(*queue.getsockname()))
        health, _ = queue.accept()
        with health:
            health.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            gateway.become(a="ready")
        body = b"y" * 20_000_000
        answers: list[bytes] = []
        client = threading.Thread(target=lambda: answers.append(gateway.ask(body=body)))
        client.start()
        peer = None
        while not peer:
            taken, _ = queue.accept()
            if taken.recv(4, socket.MSG_PEEK) == b"POST":
                peer = taken
            else:
                taken.close()
        with peer:
            time.sleep(8)
            left = len(request("/v1/x", body))
            while left:
                got = len(peer.recv(65536))
                assert got, f"{left} bytes are missing"
                left -= got
            OK(peer)
        client.join()
        assert status(answers[0]) == 200


def test_an_answer_before_the_end_of_the_request_comes_through(gateway):
    with socket.create_server(("127.0.0.1", 0)) as early:
        early.settimeout(20)
        gateway.targets("a {}:{} 1".format(*early.getsockname()))
        health, _ = early.accept()
        with health:
            health.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            gateway.become(a="ready")
        with gateway.connect() as opened:
            opened.sendall(request("/v1/x", b"y" * 1_000_000)[:1000])
            peer, _ = early.accept()
            while not peer.recv(1000).startswith(b"POST"):
                peer.close()
                peer, _ = early.accept()
            with peer:
                answer(413, b"too large")(peer)
                assert status(opened.recv(65536)) == 413
        assert gateway.target("a")["failed"] == 0


def test_a_client_that_goes_away_stops_its_server(gateway):
    gone = threading.Event()

    def watching(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + chunk(b"once"))
        connection.settimeout(20)
        if connection.recv(1) == b"":
            gone.set()

    with servers(gateway, watching):
        with gateway.begin() as opened:
            assert opened.recv(1000)
        assert gone.wait(20)
        eventually(lambda: gateway.status()["open"] == 0)
        assert gateway.target("a")["failed"] == 0


def test_a_client_that_has_said_all_still_gets_its_answer(gateway):
    ended = threading.Event()

    def late(connection: socket.socket) -> None:
        if connection.recv(1) == b"":
            ended.set()
        OK(connection)

    with servers(gateway, late), gateway.begin() as opened:
        opened.shutdown(socket.SHUT_WR)
        assert status(read_all(opened)) == 200
        assert ended.is_set()


def test_there_may_be_no_more_connections_than_there_are_descriptors_for(program):
    """Those above wait for their turn; those who say nothing give way to them."""
    released = threading.Event()
    with ExitStack() as stack:
        gateway = stack.enter_context(running_gateway(program, open_files=32 + 64 + 2 * 8))
        stack.enter_context(servers(gateway, then(hang(released), OK)))
        clients = stack.enter_context(held(6, gateway, released))
        silent = [stack.enter_context(gateway.connect()) for _ in range(10)]
        clients += [stack.enter_context(gateway.begin()) for _ in range(2)]
        eventually(lambda: gateway.target("a")["open"] == 8)
        # All have made way for those who came with a request, or for each other.
        clients.append(stack.enter_context(gateway.begin()))
        assert [one.recv(1) for one in silent] == [b""] * 10
        assert gateway.status()["open"] == 8
        released.set()
        assert [status(read_all(client)) for client in clients] == [200] * 9


GARBAGE = {
    "nothing": b"",
    "one byte": b"\0",
    "zeros": b"\0" * 100_000,
    "noise": bytes((at * 7919 + at // 3) % 256 for at in range(200_000)),
    "half a head": b"POST /v1/x HTTP/1.1\r\nContent-Le",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
}


def test_garbage_does_it_no_harm(gateway):
    """From clients, from servers, from who asks for the status."""
    with servers(gateway, OK, send(b"\0\r\n" * 9), send(b"HTTP/1.1 999999999999 \r\n\r\n" * 9), broke):
        for data in GARBAGE.values():
            for ending in (socket.SHUT_WR, socket.SHUT_RDWR, None):
                with gateway.connect() as opened, suppress(OSError):
                    opened.sendall(data)
                    if ending is not None:
                        opened.shutdown(ending)
            with socket.socket(socket.AF_UNIX) as asking, suppress(BrokenPipeError):
                asking.connect(str(gateway.folder / "status.sock"))
                asking.sendall(data)
        for _ in range(8):
            with suppress(ConnectionResetError):
                gateway.ask()
        gateway.become(a="ready", b="ready", c="ready", d="ready")
        eventually(lambda: gateway.status()["open"] == 0)
        assert gateway.target("a")["served"] >= 2


def test_who_asks_for_the_status_may_write_first(gateway):
    """A relay passes nothing on before the first byte."""
    for _ in range(200):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(gateway.folder / "status.sock"))
            asking.sendall(b"\n")
            assert json.loads(read_all(asking))["version"] == 1


# The machine of a server is gone without a word.

SILENT = """
import socket, sys, threading
def serve(peer):
    asked = peer.recv(1000)
    if asked.startswith(b"GET"):
        peer.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
    elif b"/v1/deaf" in asked:
        threading.Event().wait()
    else:
        peer.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n4\\r\\nonce\\r\\n")
        threading.Event().wait()
    peer.close()
with socket.create_server((sys.argv[1], 8080)) as listener:
    while True:
        threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


@pytest.fixture
def far_server() -> Iterator[tuple[str, Callable[[], None]]]:
    """A server in a network of its own: its address, and what cuts the link to it."""
    if os.geteuid() or not shutil.which("ip"):
        missing("network", "to make and cut links takes root and the program ip")
    name = f"lg{os.getpid()}"
    ours, its = "198.18.213.1", "198.18.213.2"

    def run(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)

    run("netns", "add", name)
    try:
        run("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("addr", "add", f"{ours}/30", "dev", name)
        run("link", "set", name, "up")
        run("-n", name, "addr", "add", f"{its}/30", "dev", "eth0")
        run("-n", name, "link", "set", "eth0", "up")
        command = ["ip", "netns", "exec", name, sys.executable, "-c", SILENT, its]
        with subprocess.Popen(command) as process:
            try:
                yield f"{its}:8080", lambda: run("-n", name, "link", "set", "eth0", "down")
            finally:
                process.kill()
    finally:
        # The link goes with the network that it leads to.
        run("netns", "del", name)


def test_a_cut_link_ends_what_waits_behind_it(gateway, far_server):
    """A stream that is silent, a request that nobody takes any more, and one that comes."""
    address, cut = far_server
    with ExitStack() as stack:
        near = stack.enter_context(scripted_port())
        near.replies = {"/health": HEALTHY, "/v1/x": OK}
        gateway.targets(f"far {address} 1")
        gateway.become(far="ready")
        silent = stack.enter_context(gateway.begin())
        received = b""
        while b"once" not in received:
            received += silent.recv(1000)
        halfway = stack.enter_context(gateway.connect())
        halfway.sendall(request("/v1/deaf", b"y" * 10_000)[:5_000])
        eventually(lambda: gateway.target("far")["open"] == 2)
        gateway.targets(f"far {address} 1", f"near {near.address} 1")
        gateway.become(far="ready", near="ready")
        cut()
        halfway.sendall(b"y" * 5_000)
        assert [status(gateway.ask()) for _ in range(2)] == [200] * 2
        began = time.monotonic()
        assert read_all(silent) == b""
        assert status(read_all(halfway)) == 502
        # Seconds, not the quarter of an hour that the system gives it.
        assert time.monotonic() - began < 25
        gateway.become(far="lost", near="ready")
        assert gateway.target("far")["failed"] == 2
        assert asked(near) == 2


# With the real thing.


@contextmanager
def llama_servers(count: int, build: Any) -> Iterator[list[tuple[str, subprocess.Popen[bytes]]]]:
    """Real servers of the built-in model on ports of their own."""
    tiny = files("llmlab.weights") / "builtin" / "tiny.gguf"
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            options = ["--parallel", "4", "--threads", "1", "--threads-http", "80", "--ctx-size", "4096"]
            command = [build.server, "--model", str(tiny), "--port", str(port), *options, "--device", "none"]
            environment = {
                **os.environ,
                "LD_LIBRARY_PATH": str(build.library_dir),
                "OMP_WAIT_POLICY": "passive",
            }
            process = stack.enter_context(
                subprocess.Popen(
                    command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
            stack.callback(process.kill)
            started.append((f"127.0.0.1:{port}", process))
        yield started


def streaming(gateway: Gateway, tokens: int) -> http.client.HTTPResponse:
    """A streamed answer of a real server that has begun."""
    wanted = {"prompt": "Once upon a time", "n_predict": tokens, "stream": True, "ignore_eos": True}
    opened = gateway.begin("/completion", json.dumps(wanted).encode(), "Content-Type: application/json")
    with opened:
        response = http.client.HTTPResponse(opened)
        response.begin()
    return response


def is_whole(response: http.client.HTTPResponse) -> bool:
    try:
        return response.status == 200 and b'"stop":true' in response.read()
    except http.client.IncompleteRead:
        return False


def test_two_hundred_streams_of_real_servers_and_the_death_of_one(gateway, require_engine):
    whole: list[bool] = []

    def ask() -> None:
        with closing(streaming(gateway, 16)) as response:
            whole.append(is_whole(response))

    with llama_servers(3, require_engine) as started:
        lines = [f"{name} {address} 4" for name, (address, _) in zip("abc", started, strict=True)]
        gateway.targets(*lines)
        gateway.become(a="ready", b="ready", c="ready")
        clients = [threading.Thread(target=ask) for _ in range(200)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert whole == [True] * 200
        served = [entry["served"] for entry in gateway.status()["targets"]]
        assert sum(served) == 200
        assert min(served) > 30
        with ExitStack() as stack:
            streams = [stack.enter_context(closing(streaming(gateway, 900))) for _ in range(3)]
            assert [entry["open"] for entry in gateway.status()["targets"]] == [1, 1, 1]
            started[1][1].kill()
            assert sorted(is_whole(each) for each in streams) == [False, True, True]
        for _ in range(4):
            ask()
        assert whole == [True] * 204
        assert [entry["failed"] for entry in gateway.status()["targets"]] == [0, 1, 0]
        gateway.become(a="ready", b="lost", c="ready")


def test_it_keeps_to_its_memory(tmp_path):
    """Compiled with what notices wrong uses of memory, and undefined behaviour, under mixed load."""
    if not shutil.which("gcc"):
        missing("compiler", "no gcc")
    tools = REPOSITORY / "src/llmlab/isolation/tools"
    units = [str(tools / name) for name in static._TOOLS["relay"] if name.endswith(".c")]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    made = subprocess.run(
        ["gcc", "-std=c11", "-O1", "-g", *checks, "-o", str(tmp_path / "relay"), *units],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in made.stderr:
        missing("sanitizers", made.stderr)
    assert made.returncode == 0, made.stderr

    def ask(gateway: Gateway) -> None:
        for data in (*GARBAGE.values(), request("/v1/x", b"y" * 200_000)):
            with gateway.connect() as opened, suppress(OSError):
                opened.sendall(data)
                opened.shutdown(socket.SHUT_WR)
                read_all(opened)

    with running_gateway(tmp_path / "relay") as gateway:
        answers = [
            OK,
            died,
            broke,
            WHOLE["with long headers"],
            stream(b"a", b"b"),
            send(CHUNKED, b"ffffffffffffffffff\r\n"),
        ]
        with servers(gateway, *answers) as scripts:
            lines = [f"{at} {script.address} 1" for at, script in enumerate(scripts)]
            clients = [threading.Thread(target=ask, args=(gateway,)) for _ in range(20)]
            for client in clients:
                client.start()
            for text, _ in DAMAGED.values():
                gateway.targets(text=text)
                gateway.status()
                gateway.targets(*lines)
                gateway.status()
            for client in clients:
                client.join()
            eventually(lambda: gateway.status()["open"] == 0)


# Its own end.


def test_at_its_end_it_finishes_what_has_begun(program):
    released = threading.Event()
    with ExitStack() as stack:
        gateway = stack.enter_context(running_gateway(program))
        stack.enter_context(servers(gateway, then(hang(released), OK)))
        (client,) = stack.enter_context(held(1, gateway, released))
        silent = stack.enter_context(gateway.connect())
        eventually(lambda: gateway.status()["open"] == 2)
        gateway.process.send_signal(signal.SIGTERM)
        assert silent.recv(1) == b""
        eventually(lambda: gateway.status()["stopping"])
        with pytest.raises(FileNotFoundError):
            gateway.connect()
        assert gateway.process.poll() is None
        released.set()
        assert status(read_all(client)) == 200
        assert gateway.process.wait(30) == 0
        assert sorted(path.name for path in gateway.folder.iterdir()) == ["targets"]


def test_what_does_not_end_is_broken_off(program):
    released = threading.Event()
    with ExitStack() as stack:
        gateway = stack.enter_context(running_gateway(program))
        stack.enter_context(servers(gateway, then(hang(released), OK)))
        (client,) = stack.enter_context(held(1, gateway, released))
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.send_signal(signal.SIGTERM)
        eventually(lambda: gateway.process.poll() is not None or gateway.status()["stopping"])
        # The second signal, or ten seconds.
        assert read_all(client) == b""
        assert gateway.process.wait(30) == 0


def test_it_takes_the_place_of_one_that_was_killed_and_of_no_other(program, gateway):
    with (
        pytest.raises(AssertionError, match="Address already in use"),
        running_gateway(program, folder=gateway.folder),
    ):
        pass
    assert gateway.status()["open"] == 0
    folder = gateway.folder / "second"
    folder.mkdir()
    with ExitStack() as stack:
        killed = stack.enter_context(running_gateway(program, folder=folder))
        killed.process.kill()
        with pytest.raises(AssertionError, match="ended with -9"):
            stack.close()
    assert (folder / "g.sock").exists()
    with running_gateway(program, folder=folder) as second:
        assert second.status()["open"] == 0
        assert (folder / "g.sock").stat().st_mode & 0o777 == 0o700


WRONG: list[Callable[[str], tuple[str, ...]]] = [
    lambda _: (),
    lambda path: (path,),
    lambda path: (path, path),
    lambda path: (path, path, path, "/health"),
    lambda path: (path, path, path, "health=no path"),
    lambda path: (path, path, path, "health=/with space"),
    lambda path: (path, path, path, "health=/" + "x" * 500),
]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words(program, words, tmp_path):
    command = [program, "balance", *words(str(tmp_path / "s"))]
    done = subprocess.run(command, capture_output=True, check=False, timeout=10)
    assert done.returncode == 2
    assert b"usage" in done.stderr
