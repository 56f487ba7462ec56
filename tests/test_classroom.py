"""A room in front of real servers, asked by OpenAI's client."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

import llmlab
from llmlab import runtime
from llmlab.classrooms import opening, places
from llmlab.classrooms.ledger import Ledger
from llmlab.errors import LabError, RequestError, UsageError
from tests.classrooms import QUESTION, Opened, halted, opened, read_events, stream_of, texts, under_way
from tests.classrooms import room as verb
from tests.conftest import eventually, run_cli

pytestmark = pytest.mark.usefixtures("require_engine")


@pytest.fixture
def server() -> Iterator[llmlab.Server]:
    with llmlab.start("tiny", backend="native", slots=1) as started:
        yield started


@pytest.fixture
def room(server: llmlab.Server) -> Iterator[Opened]:
    with opened("ada", "grace", "alan") as found:
        yield found


def test_a_learner_with_a_key_is_answered_in_one_piece_and_in_many(room):
    whole = room.ask("ada")
    assert whole.choices[0].message.content
    pieces = room.stream("ada")
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert all(piece.choices for piece in pieces), "figures that were not asked for were passed on"
    with_usage = room.stream("ada", stream_options={"include_usage": True})
    assert with_usage[-1].usage.completion_tokens == 4
    with room.client("ada") as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.completions.create(model="tiny", prompt="A container", max_tokens=3).choices[0].text
    charges = room.charges("ada")
    assert [charge.completion for charge in charges] == [4, 4, 4, 3]
    assert charges[0].prompt == whole.usage.prompt_tokens == charges[1].prompt
    assert verb("usage").learners[0].completion_tokens == 15


def test_who_has_no_key_or_a_revoked_one_or_wants_another_model_is_told_so(room):
    with pytest.raises(openai.AuthenticationError, match="opens no door here") as unknown:
        Opened(room.url, {"eve": "llm-guessed"}).ask("eve")
    assert unknown.value.status_code == 401
    with room.bare() as nobody:
        answer = nobody.get("/v1/models")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "Authorization: Bearer KEY" in answer.json()["error"]["message"]
    with pytest.raises(
        openai.PermissionDeniedError, match="'gpt-9' is not approved in this room; there are: tiny"
    ):
        room.ask("ada", model="gpt-9")
    verb("keys", revoke="ada")
    with pytest.raises(openai.PermissionDeniedError, match="the key of ada has been revoked"):
        room.ask("ada")
    assert room.ask("grace").choices
    assert "ada" not in [charge.learner for charge in Ledger(places.folder()).read()]


def test_a_revoked_key_ends_a_stream_in_flight_at_once(server, room):
    with room.bare("ada") as client, stream_of(client) as response:
        events = read_events(response)
        next(event for event in events if texts(event))
        with halted(server):
            verb("keys", revoke="ada")
            last = list(events)[-1]
    assert last["error"]["code"] == "revoked_api_key"
    charge = eventually(lambda: room.charges("ada"))[0]
    assert charge.outcome == "stopped"
    assert 1 <= charge.completion < 900


def test_over_quota_is_a_429_that_says_when_to_come_back(server):
    with opened("ada", "grace", requests=2, tokens=60, window_s=3600) as room:
        room.ask("ada", max_tokens=1)
        room.ask("ada", max_tokens=1)
        with pytest.raises(openai.RateLimitError, match="2 of 2 requests within 1 h") as over:
            room.ask("ada")
        assert 3000 < int(over.value.response.headers["retry-after"]) <= 3600
        assert over.value.code == "requests_quota"
        answer = room.ask("grace", max_tokens=500, extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == 60, "more than was left"
        with pytest.raises(openai.RateLimitError, match="of 60 tokens"):
            room.ask("grace", max_tokens=1)
        with room.bare("grace") as client:
            standing = client.get("/room/usage").json()
        assert standing["tokens"]["used"] == 60 + answer.usage.prompt_tokens
        assert standing["requests"] == {"used": 1, "allowed": 2}


def test_learners_are_served_in_turn_and_one_has_so_many_requests_at_a_time(server):
    done: list[str] = []
    with opened("ada", "grace", concurrent=3) as room, ThreadPoolExecutor(8) as pool:

        def ask(name: str) -> None:
            room.ask(name, max_tokens=2)
            done.append(name)

        with halted(server):
            asked = []
            for name in ("ada", "ada", "ada", "grace"):
                before = sum(under_way(room, name))
                asked.append(pool.submit(ask, name))
                eventually(partial(_has, room, name, before + 1))
            assert under_way(room, "ada") == (1, 2)
            with pytest.raises(openai.RateLimitError, match="3 requests under way") as over:
                room.ask("ada")
            assert over.value.response.headers["retry-after"] == "1"
        for each in asked:
            each.result()
    assert done.index("grace") < 2, f"whoever asked most was served first: {done}"


def _has(room: Opened, name: str, requests: int) -> bool:
    return sum(under_way(room, name)) == requests


def test_a_full_queue_says_so_and_who_waits_is_told_the_place(server):
    with (
        opened("ada", "grace", "alan", queue=1) as room,
        ThreadPoolExecutor(2) as pool,
        room.bare("grace") as second,
    ):
        with halted(server):
            first = pool.submit(room.ask, "ada")
            eventually(lambda: under_way(room, "ada") == (1, 0))
            with stream_of(second, max_tokens=2) as response:
                lines = response.iter_lines()
                assert next(lines) == ": waiting, position 1"
                with pytest.raises(openai.RateLimitError, match="1 requests wait already"):
                    room.ask("alan")
            # Who goes away leaves the queue.
            eventually(lambda: under_way(room, "grace") == (0, 0))
        assert first.result().choices
    assert not room.charges("grace"), "waiting costs nothing"


def test_requests_that_no_browser_page_or_careless_client_should_send_are_refused(room):
    with room.bare("ada") as client:

        def status(body: Any = None, **headers: str) -> int:
            answer = client.post(
                "/v1/chat/completions", json=body or {"messages": QUESTION, "max_tokens": 1}, headers=headers
            )
            assert "message" in answer.json().get("error", {"message": ""})
            return int(answer.status_code)

        assert status() == 200
        assert status(Host="evil.example") == 421
        assert status(Origin="http://evil.example") == 403
        assert status(Origin=room.url) == 200
        assert status({"messages": "x" * (1 << 20)}) == 413
        assert status({"messages": QUESTION, "n": 2}) == 400
        assert status({"messages": QUESTION, "max_tokens": -1}) == 400
        assert status({"prompt": "no messages"}) == 400
        assert client.post("/v1/chat/completions", content=b"[" * 100000).status_code == 400
        assert client.get("/slots").status_code == 404
        assert client.get("/v1/chat/completions").status_code == 405
        # Another engine's name for max_tokens goes past the limit no more than the usual one.
        many = client.post(
            "/v1/chat/completions", json={"messages": QUESTION, "max_tokens": 2, "n_predict": 50}
        )
        assert many.json()["usage"]["completion_tokens"] == 2


def test_keys_are_in_no_command_line_and_no_file_but_as_hashes(server, room, isolated_runtime):
    key = room.keys["ada"].encode()
    room.ask("ada")
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if key in _bytes(path)]
    folders = [places.folder(), isolated_runtime]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert places.folder() / "keys.json" in files
    assert not [path for path in files if key in _bytes(path)]
    assert {path.stat().st_mode & 0o077 for path in files if path.parent == places.folder()} == {0}
    assert places.folder().stat().st_mode & 0o077 == 0


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_learner_joins_from_python_and_from_a_terminal(room, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMLAB_CLASSROOM_KEY", room.keys["ada"])
    joined = llmlab.join(room.url)
    monkeypatch.delenv("LLMLAB_CLASSROOM_KEY")
    assert joined.models() == ("tiny",)
    answer = joined.ask("What is a container?", max_tokens=4)
    assert (answer.completion_tokens, answer.finish_reason) == (4, "length")
    assert joined.usage().requests == 1
    with openai.OpenAI(**joined.openai_kwargs()) as client:
        assert client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=2).choices
    assert room.keys["ada"] not in f"{joined!r} {joined} {joined.to_dict()} {vars(joined)}"
    kept = runtime.state_dir() / "rooms.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert run_cli("join").stdout.startswith("you             ada")
    verb("keys", revoke="ada")
    with pytest.raises(RequestError, match="the key of ada has been revoked"):
        joined.ask("What is a container?")
    with pytest.raises(RequestError, match="opens no door here"):
        llmlab.join(room.url, key_file=str(_written(tmp_path / "key", "llm-guessed")))


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_what_does_not_fit_is_said_in_a_line(server):
    for options, message in (
        ({"host": "192.0.2.1"}, "unencrypted"),
        ({"requests": 0}, "--requests is 0"),
        ({"tls_cert": "a.pem"}, "go together"),
        ({"servers": "other"}, "no server 'other'"),
        ({"add": "ada"}, "--add is for classroom keys"),
    ):
        with pytest.raises(UsageError, match=message):
            verb("open", **options)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match="the port is taken"),
    ):
        verb("open", port=taken.getsockname()[1])
    assert opening.opened() is None


def test_unknown_actions_and_lab_errors_have_hints():
    with pytest.raises(UsageError, match="did you mean 'keys'"):
        verb("key")
    with pytest.raises(LabError):
        verb("board")
