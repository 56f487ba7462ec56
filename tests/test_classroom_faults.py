"""What a room does when a learner, a server or the room itself goes away or halts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import openai
import pytest

import llmlab
from llmlab.classrooms import opening
from llmlab.errors import UsageError
from tests.classrooms import QUESTION, Opened, halted, opened, read_events, stream_of, texts, under_way
from tests.classrooms import room as verb
from tests.conftest import eventually

pytestmark = pytest.mark.usefixtures("require_engine")


@pytest.fixture
def server() -> Iterator[llmlab.Server]:
    with llmlab.start("tiny", backend="native", slots=1) as started:
        yield started


@pytest.fixture
def room(server: llmlab.Server) -> Iterator[Opened]:
    with opened("ada", "grace", "alan") as found:
        yield found


def test_who_goes_away_frees_the_slot_and_is_charged_what_came(server, room):
    came = 0
    with room.bare("ada") as client, stream_of(client) as response:
        events = read_events(response)
        while came < 3:
            came += texts(next(events))
        with halted(server):
            response.close()
            eventually(lambda: opening.board()["servers"][0]["busy"] == 0)
    charge = eventually(lambda: room.charges("ada"))[0]
    assert charge.outcome == "gone"
    assert charge.prompt is not None
    assert 3 <= charge.completion < 900
    assert room.ask("grace").choices


def test_a_gateway_killed_in_mid_stream_loses_no_charge_and_doubles_none(server):
    came = 0
    with opened("ada") as room, room.bare("ada") as client:
        room.ask("ada")
        with stream_of(client) as response:
            events = read_events(response)
            while came < 5:
                came += texts(next(events))
            with halted(server):
                os.kill(room.pid, signal.SIGKILL)
                with pytest.raises(httpx.HTTPError):
                    came += sum(texts(event) for event in events)
        eventually(lambda: opening.opened() is None)
    for _ in range(2):
        with opened() as again:
            charges = again.charges("ada")
            assert [charge.outcome for charge in charges] == ["answered", "killed"]
            assert charges[1].prompt == charges[0].prompt
            assert came <= (charges[1].completion or 0) <= 900
            used = again.learner("ada")
            assert used["tokens"] == sum(charge.tokens for charge in charges)
            assert used["requests"] == 1, "what the room cut off is no request of the learner's"


def test_a_retry_of_what_was_cut_off_takes_its_place(server, room):
    with room.bare("ada") as client:
        client.headers["Idempotency-Key"] = "exercise-1"
        with stream_of(client, max_tokens=300, seed=1, temperature=0) as response:
            next(event for event in read_events(response) if texts(event))
        eventually(lambda: room.charges("ada"))
        with stream_of(client, max_tokens=300, seed=1, temperature=0) as response:
            assert sum(map(texts, read_events(response))) == 300
        cut, whole = eventually(lambda: found if len(found := room.charges("ada")) == 2 else None)
        standing = client.get("/room/usage").json()
    assert cut.retried == whole.retried != ""
    assert standing["tokens"]["used"] == whole.tokens
    assert standing["requests"]["used"] == 1


def test_a_server_killed_in_mid_stream_is_an_error_event_and_the_others_go_on(server):
    with (
        llmlab.start("tiny", name="second", backend="native", slots=1) as second,
        opened("ada", "grace") as room,
    ):
        with room.bare("ada") as one, room.bare("grace") as two:
            with stream_of(one) as first, stream_of(two) as other:
                begun = [read_events(first), read_events(other)]
                for events in begun:
                    next(event for event in events if texts(event))
                busy = {each["name"]: each["busy"] for each in opening.board()["servers"]}
                assert busy == {"tiny": 1, "second": 1}, "not the least busy one was asked"
                process = server.record.process
                assert process is not None
                os.kill(process.pid, signal.SIGKILL)
                ends = [list(events)[-1] for events in begun]
            failed = [end["error"]["code"] for end in ends if "error" in end]
            assert failed == ["server_died"]
        charges = eventually(lambda: found if len(found := _all(room)) == 2 else None)
        assert sorted(charge.outcome for charge in charges) == ["answered", "died"]
        # The next ones reach the server that is left.
        assert {room.ask(name).model for name in ("ada", "grace", "ada")} == {"tiny"}
        second.stop()
        server.stop()
        eventually(lambda: not opening.board()["servers"])
        with pytest.raises(openai.PermissionDeniedError, match="there are: none yet"):
            room.ask("ada")


def _all(room: Opened) -> list[Any]:
    return [*room.charges("ada"), *room.charges("grace")]


def test_a_drained_server_gets_no_more_and_ends_what_it_has(server, room):
    with room.bare("ada") as client, stream_of(client, max_tokens=400) as response:
        events = read_events(response)
        next(event for event in events if texts(event))
        assert "no more requests" in str(verb("drain", servers="tiny"))
        with pytest.raises(openai.InternalServerError, match="no server with 'tiny' answers now"):
            room.ask("grace")
        assert list(events)[-1]["choices"][0]["finish_reason"] == "length"
    with pytest.raises(UsageError, match="no server in the room 'other'"):
        verb("drain", servers="other")


def test_who_sends_nothing_or_reads_nothing_is_cut_off_and_others_are_served(server, room):
    host, port = httpx.URL(room.url).host, httpx.URL(room.url).port
    assert port is not None
    began = time.monotonic()
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((host, port))) for _ in range(50)]
        for each in silent[25:]:
            each.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        reader = stack.enter_context(socket.socket())
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, port))
        long = {"messages": QUESTION, "max_tokens": 900, "ignore_eos": True, "stream": True}
        body = json.dumps({**long, "logprobs": True, "top_logprobs": 20}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {room.keys['grace']}\r\n"
        reader.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        eventually(lambda: under_way(room, "grace") == (1, 0))
        # It holds the only slot, but not for long.
        assert room.ask("ada").choices
        assert eventually(lambda: room.charges("grace"))[0].outcome == "gone"
        for each in silent:
            each.settimeout(60)
            with suppress(ConnectionResetError):
                assert each.recv(100) == b""
    assert time.monotonic() - began > 5, "whoever is a little slow is cut off as well"


def test_a_room_closes_with_its_owner_and_only_one_is_open(server):
    with opened("ada") as room:
        with pytest.raises(UsageError, match="a room is open at"):
            verb("open")
        assert room.ask("ada").choices
    assert verb("close").url is None
    with pytest.raises(UsageError, match="no room is open"):
        verb("board")
    code = "import llmlab; print(llmlab.classroom('open').url)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    eventually(lambda: opening.opened() is None)
    verb("close")


def test_a_closing_room_ends_what_is_under_way_with_a_word(server):
    with opened("ada") as room, room.bare("ada") as client, stream_of(client) as response:
        events = read_events(response)
        next(event for event in events if texts(event))
        with halted(server):
            closing = threading.Thread(target=verb, args=("close",))
            closing.start()
            last = list(events)[-1]
            closing.join()
        assert last["error"]["code"] == "room_closing"
        assert room.charges("ada")[0].outcome == "stopped"
