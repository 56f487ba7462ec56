"""Keys, charges, quotas and turns, without a server."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.classrooms import asking, handing
from llmlab.classrooms.keys import Keys
from llmlab.classrooms.ledger import Charge, Ledger, new_id
from llmlab.classrooms.quotas import Meter, Quota
from llmlab.classrooms.refusals import Refusal
from llmlab.classrooms.turns import Turns
from llmlab.errors import LabError, UnknownNameError, UsageError


def _charge(**more):
    return Charge(**{"id": new_id(), "learner": "ada", "at": 0.0, "model": "tiny", "server": "tiny", **more})


def test_a_key_is_kept_as_a_hash_and_found_by_another_process_changes(tmp_path):
    keys, elsewhere = Keys(tmp_path), Keys(tmp_path)
    assert keys.find("llm-x") is None
    made = elsewhere.add(["ada", "grace hopper"])
    file = tmp_path / "keys.json"
    assert not any(key in file.read_text() for key in made.values())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = keys.find(made["ada"])
    assert found is not None
    assert (found.name, found.revoked) == ("ada", None)
    elsewhere.revoke(["ada"])
    again = keys.find(made["ada"])
    assert again is not None
    assert again.revoked is not None
    new = elsewhere.add(["ada"])["ada"]
    assert new != made["ada"]
    assert keys.find(new).revoked is None  # type: ignore[union-attr]


def test_names_that_do_not_fit_make_no_keys(tmp_path):
    keys = Keys(tmp_path)
    keys.add(["ada"])
    for names, message in (
        (["ada"], "has a key already"),
        (["bob", "bob"], "there twice"),
        (["=1+1"], "not a learner's name"),
        (["a\x1b[2J"], "not a learner's name"),
        ([""], "not a learner's name"),
        ([], "whose keys"),
    ):
        with pytest.raises(UsageError, match=message):
            keys.add(names)
    with pytest.raises(UnknownNameError, match="did you mean 'ada'"):
        keys.revoke(["adda"])
    assert [each.name for each in keys.all()] == ["ada"]
    (tmp_path / "keys.json").write_text("[]")
    with pytest.raises(LabError, match="cannot be read"):
        keys.all()


def test_a_hand_out_is_for_the_teacher_only_and_never_over_another_file(tmp_path):
    table, page = tmp_path / "k.csv", tmp_path / "k.html"
    handing.hand_out(table, {'A "B" C': "llm-1"}, "http://127.0.0.1:1")
    handing.hand_out(page, {"<b>": "llm-1"}, "http://127.0.0.1:1")
    assert table.read_text().splitlines()[1] == '"A ""B"" C","http://127.0.0.1:1","llm-1"'
    assert "&lt;b&gt;" in page.read_text()
    assert {stat.S_IMODE(each.stat().st_mode) for each in (table, page)} == {0o600}
    for path in (table, tmp_path / "k.txt", tmp_path / "no" / "k.csv"):
        with pytest.raises(UsageError):
            handing.check(path)


def test_charges_survive_a_kill_at_any_moment(tmp_path):
    script = """
import os, signal, sys
from pathlib import Path
from llmlab.classrooms.ledger import Charge, Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.open()
for number in range(2):
    flight = ledger.begin(Charge(id=f"{number}", learner="ada", at=1.0, model="m", server="s"))
    flight.note(prompt=10)
    for came in range(1, 4):
        flight.note(completion=came)
    if number == 0:
        flight.end("answered")
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, check=False)
    assert done.stdout == b"ready\n", done.stderr
    for _ in range(2):
        found = Ledger(tmp_path).open()
        assert [(each.outcome, each.tokens) for each in found] == [("answered", 13), ("killed", 13)]
    assert list(Ledger(tmp_path).read()) == found


def test_a_charge_that_was_written_but_whose_flight_was_left_counts_once(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.open()
    flight = ledger.begin(_charge())
    flight.note(prompt=1, completion=2)
    left = next((tmp_path / "flights").iterdir())
    content = left.read_bytes()
    flight.end("answered")
    left.write_bytes(content)  # killed between writing the line and removing the file
    assert [each.outcome for each in Ledger(tmp_path).open()] == ["answered"]


def test_a_torn_line_costs_no_other(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.open()
    ledger.write(_charge(completion=1))
    with (tmp_path / "charges.jsonl").open("a") as file:
        file.write('{"id": "torn", "lear')
    again = Ledger(tmp_path)
    again.open()
    again.write(_charge(completion=2))
    (tmp_path / "flights" / "empty").write_bytes(b"")
    assert [each.completion for each in Ledger(tmp_path).open()] == [1, 2]


def test_quotas_slide_with_the_clock_and_set_tokens_aside():
    now = [1000.0]
    meter = Meter(Quota(requests=3, tokens=100, window_s=60, concurrent=2), clock=lambda: now[0])
    assert meter.reserve("ada", "1", 80) == 80
    assert meter.reserve("ada", "2", 80) == 20, "what others may still take was given away"
    with pytest.raises(Refusal, match="2 at a time"):
        meter.reserve("ada", "3", 1)
    meter.forget("ada", "2")
    meter.add(_charge(id="1", at=now[0], prompt=60, completion=40, outcome="answered"))
    with pytest.raises(Refusal, match="100 of 100 tokens") as spent:
        meter.reserve("ada", "3", 1)
    assert spent.value.retry_after_s == 60
    assert meter.reserve("grace", "4", 5000) == 100
    now[0] += 61
    assert meter.used("ada") == (0, 0)
    assert meter.reserve("ada", "3", 7) == 7


def test_a_repetition_counts_once_and_what_the_room_cut_off_is_no_request():
    meter = Meter(Quota(requests=1), clock=lambda: 1.0)
    cut = _charge(at=1.0, prompt=10, completion=5, outcome="gone", retried="r")
    meter.add(cut)
    assert meter.reserve("ada", "again", 5, repeats="r") == 5
    meter.add(replace(cut, id="again", completion=9, outcome="answered"))
    assert meter.used("ada") == (1, 19)
    meter.add(_charge(at=1.0, completion=3, outcome="died"))
    assert meter.used("ada") == (1, 22)
    with pytest.raises(Refusal, match="1 of 1 requests"):
        meter.reserve("ada", "more", 5)


@settings(max_examples=200)
@given(
    asked=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    slots=st.integers(1, 4),
)
def test_everybody_gets_a_turn_before_anybody_gets_two_more(asked, slots):
    """Learners who all ask at once are served one each, then two each, whatever order they came in."""

    async def run() -> list[str]:
        free, served = [slots], []

        def pick() -> object | None:
            if not free[0]:
                return None
            free[0] -= 1
            return object()

        turns: Turns[object] = Turns(1000)
        held, free[0] = free[0], 0
        waiters = [turns.join(f"{number}", pick) for number in asked]
        places = sorted(map(turns.ahead, waiters))
        assert places == list(range(len(waiters))), "two were told the same place"
        free[0] = held
        turns.serve()
        under_way: list[str] = []
        pending = list(waiters)
        while pending:
            for waiter in [each for each in pending if each.granted.done()]:
                pending.remove(waiter)
                served.append(waiter.learner)
                under_way.append(waiter.learner)
            free[0] += 1
            turns.ended(under_way.pop(0))
        assert len(turns) == 0
        return served

    served = asyncio.run(run())
    assert sorted(served) == sorted(map(str, asked))
    for end in range(len(served)):
        counts = {name: served[: end + 1].count(name) for name in set(served)}
        left = {name: served[end + 1 :].count(name) for name in counts}
        for name, count in counts.items():
            if left[name]:  # still waits: nobody may be far ahead
                assert max(counts.values()) <= count + 1 + slots


def test_a_slot_that_will_never_come_is_told():
    async def run() -> None:
        turns: Turns[object] = Turns(1)

        def never() -> object:
            raise Refusal(503, "gone", "no_server")

        with pytest.raises(Refusal, match="gone"):
            await turns.join("ada", never).granted
        turns.join("ada", lambda: None)
        with pytest.raises(Refusal, match="1 requests wait already"):
            turns.join("grace", lambda: None)
        assert turns.of("grace") == (0, 0)

    asyncio.run(run())


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_body_is_read_or_refused(raw):
    for path in asking.PATHS:
        with suppress(Refusal):
            asking.read(path, raw)


def test_what_a_server_gets_has_nothing_that_goes_past_the_limits():
    body = {
        "messages": [],
        "max_completion_tokens": 5,
        "n_predict": 99,
        "id_slot": 3,
        "model": "tiny",
        "stream": True,
    }
    asked = asking.read("/v1/chat/completions", json.dumps(body).encode())
    assert asked.max_tokens == 5
    assert asked.body("llama-server", 4) == {
        "messages": [],
        "stream": True,
        "max_tokens": 4,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }
    assert "return_progress" not in asked.body("llama-cpp-python", 4)
    assert os.sep not in asked.retried
