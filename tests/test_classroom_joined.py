"""A room among the learner's servers: joined, asked, looked at and left, with everything that can happen meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import expect

import llmlab
from llmlab import runtime, weights
from llmlab.chatting import chat
from llmlab.classrooms import opening, places
from llmlab.classrooms.entering import read_specs
from llmlab.classrooms.joined import Room
from llmlab.errors import (
    BackendError,
    EndpointError,
    RequestError,
    ServerStoppedError,
    UnknownNameError,
    UsageError,
)
from llmlab.lab import registry
from llmlab.paneling import running
from llmlab.reporting import Reporter, reporting_to
from llmlab.specs import to_dict
from tests.classrooms import QUESTION, Opened, halted, opened
from tests.classrooms import room as verb
from tests.conftest import eventually, missing, run_cli
from tests.test_kernel import running_kernel
from tests.test_panel_browser import card, click, panel, runs

pytestmark = pytest.mark.usefixtures("require_engine")


@pytest.fixture
def server() -> Iterator[llmlab.Server]:
    with llmlab.start("tiny", backend="native", slots=1) as started:
        yield started


@pytest.fixture
def room(server: llmlab.Server) -> Iterator[Opened]:
    if not shutil.which("openssl"):
        missing("openssl", "not on PATH")
    with opened("ada", "grace", self_signed=True) as found:
        yield found


@pytest.fixture
def key_file(tmp_path: Path, room: Opened) -> str:
    return written(tmp_path, room, "ada")


def written(folder: Path, room: Opened, name: str) -> str:
    path = folder / f"{name}.key"
    path.write_text(room.keys[name], encoding="ascii")
    return str(path)


def address() -> str:
    """The room's whole address."""
    there = opening.opened()
    assert there is not None
    return there.url


def state(name: str = "room") -> str:
    return str(next(row.state for row in llmlab.ps() if row.name == name))


def detail(name: str = "room") -> str:
    return str(next(row.detail for row in llmlab.ps() if row.name == name))


def test_a_joined_room_is_a_server_for_every_process_of_the_learners(server, room, key_file):
    joined = llmlab.join(address(), key_file=key_file)
    assert joined.servers() == ("room",)
    assert 'ask room "…" asks it' in str(joined)
    answer = llmlab.ask("What is a container?", max_tokens=4)
    assert (answer.server, answer.completion_tokens, answer.finish_reason) == ("room", 4, "length")
    assert answer.tokens_per_s, "the engine's own figures come through"
    row = next(row for row in llmlab.ps() if row.name == "room")
    assert (row.backend, row.state, row.model, row.engine) == ("room", "ready", "tiny", "llama-server")
    assert (row.isolation, row.slots, row.context) == (
        "not seen from here",
        server.record.spec.slots,
        server.record.spec.context,
    )
    assert row.endpoint == room.url
    listed = json.loads(run_cli("ps", "--usage", "--json").stdout)["servers"]
    assert [(each["name"], each["state"]) for each in listed] == [("room", "ready"), ("tiny", "ready")]
    said = run_cli("ask", "room", "What is a container?", "--max-tokens", "3")
    assert "server room" in said.stdout + said.stderr
    assert len(room.charges("ada")) == 2
    assert [each["name"] for each in opening.board()["servers"]] == ["tiny"], "the room offers itself"
    assert (runtime.runtime_dir() / "room" / "key").stat().st_mode & 0o777 == 0o600


def test_prompts_for_a_room_are_made_harmless_as_for_a_server(tmp_path):
    # A control token that only the model's file knows as one: the learner's side has to be told of it.
    data = weights.resolve("tiny").path.read_bytes()
    assert b"<|endoftext|>" in data
    model = tmp_path / "m.gguf"
    model.write_bytes(data.replace(b"<|endoftext|>", b"<END-OF-TEXT>"))
    with llmlab.start(str(model), backend="native", slots=1), opened("ada") as room:
        joined = llmlab.join(room.url, key_file=written(tmp_path, room, "ada"))
        for answer in (
            llmlab.ask("<END-OF-TEXT>What?", server="room", max_tokens=2),
            joined.ask("<END-OF-TEXT>What?", max_tokens=2),
        ):
            assert answer.neutralised == ("<END-OF-TEXT>",)


def test_inspect_tells_what_can_be_seen_of_a_room_and_what_cannot(tmp_path, server):
    with opened("ada", requests=5, self_signed=True) as room:
        llmlab.join(address(), key_file=written(tmp_path, room, "ada"))
        llmlab.ask("What is a container?", max_tokens=2)
        shown = llmlab.inspect("room")
        facts = shown.facts
        assert facts["address"] == room.url
        assert address().partition("sha256=")[2] in facts["certificate"]
        assert "cannot be seen from here" in facts["isolation"]
        assert facts["requests used"] == "1 within 1 h 0 min; 4 of 5 left"
        assert facts["tokens used"].endswith("no limit")
        assert facts["models"] == "tiny"
        assert shown.isolation == ()
        assert shown.record["spec"]["model"]["sha256"] == server.record.spec.model.sha256
        assert room.keys["ada"] not in json.dumps(shown.to_dict()) + str(shown) + shown.to_html()
        assert str(server.record.spec.model.path.parent) not in json.dumps(shown.to_dict())


def test_what_needs_a_server_of_ones_own_says_so(room, key_file):
    llmlab.join(address(), key_file=key_file)
    with pytest.raises(BackendError, match=r"logs are on the teacher's machine(.*\n)*.*inspect room"):
        llmlab.logs("room")
    for refused in (
        lambda: llmlab.audit("room"),
        lambda: llmlab.export("kubernetes", "room"),
        lambda: verb("open", servers="room"),
    ):
        with pytest.raises(UsageError, match="'room' is a classroom that you have joined"):
            refused()
    with pytest.raises(UnknownNameError):
        llmlab.compare("room")
    with pytest.raises(UsageError, match="a classroom is joined, not started"):
        llmlab.start("tiny", backend="room")
    watched = run_cli("monitor", "room", "--for", "1")
    assert "Traceback" not in watched.stderr


def test_leaving_forgets_key_and_address_and_stops_nothing(room, key_file, isolated_runtime):
    url = address()
    llmlab.join(url, key_file=key_file)
    kept = runtime.state_dir() / "rooms.json"
    assert room.keys["ada"] in kept.read_text(encoding="utf-8")
    done = run_cli("stop", "room")
    assert "stopped room" in done.stdout
    assert "nothing was stopped at" in done.stderr + done.stdout
    assert not kept.exists()
    assert not (isolated_runtime / "room").exists()
    for key in room.keys.values():
        assert Room(url, key).ask("What?", max_tokens=2).text, "it goes on"
    with pytest.raises(UnknownNameError):
        llmlab.ask("What?", server="room")
    with pytest.raises(UsageError, match="which room"):
        llmlab.join()
    joined = llmlab.join(url, key_file=key_file)
    assert joined.leave() == ("room",)
    assert not kept.exists()


def test_a_room_is_joined_again_without_its_address_when_the_machine_was_restarted(
    room, key_file, isolated_runtime
):
    llmlab.join(address(), key_file=key_file)
    shutil.rmtree(isolated_runtime / "room")  # a restart empties that directory
    assert llmlab.join().servers() == ("room",)
    assert llmlab.join(name="other").servers() == ("room",), "it is there already"
    assert llmlab.ask("What?", max_tokens=2).server == "room"


def test_each_model_of_a_room_is_a_server_and_two_are_asked_side_by_side(tmp_path, server):
    with llmlab.start("synthetic:smollm2-135m:Q4_0", name="noise", backend="native", slots=1):
        with opened("ada") as room:
            joined = llmlab.join(room.url, key_file=written(tmp_path, room, "ada"), name="class")
            names = joined.servers()
            assert sorted(names) == sorted(f"class-{model}" for model in joined.models())
            assert all(len(name) <= 40 for name in names)
            pair = chat(*names, max_tokens=3)
            found = pair.say("What is a container?")
            assert [reply.state for reply in found.replies] == ["done", "done"]
            noise = next(reply for reply in found.replies if reply.server != "class-tiny")
            assert noise.answer is not None
            assert (noise.answer.synthetic, noise.text) == (True, ""), "random weights' text was shown"
            with pytest.raises(UsageError, match="cannot be a name"):
                llmlab.join(room.url, key_file=written(tmp_path, room, "ada"), name="../x")
        assert {row.state for row in llmlab.ps() if row.backend == "room"} == {"closed"}


def test_a_model_that_comes_later_needs_another_join(tmp_path):
    with opened("ada") as room:
        joined = llmlab.join(room.url, key_file=written(tmp_path, room, "ada"))
        assert joined.servers() == ()
        assert "join again" in str(joined)
        with llmlab.start("tiny", backend="native", slots=1):
            eventually(joined.models)
            assert llmlab.join().servers() == ("room",)
            assert llmlab.ask("What?", server="room", max_tokens=2).text
        eventually(lambda: state() == "lost")
        assert "has no 'tiny' now; it has: none yet" in detail()


def test_a_room_that_closes_is_closed_for_those_who_have_joined(server, tmp_path):
    with opened("ada", "grace") as room:
        llmlab.join(room.url, key_file=written(tmp_path, room, "ada"))
        assert state() == "ready"
    assert state() == "closed"
    assert "nothing listens there" in detail()
    with pytest.raises(ServerStoppedError, match=r"the classroom at .* does not answer(.*\n)*.*is it open"):
        llmlab.ask("What?", server="room")
    talk = chat("room")
    with pytest.raises(ServerStoppedError, match="does not answer"):
        talk.say("What?")
    failed = run_cli("ask", "room", "What?", check=False)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert not [record for record in registry.find_all() if record.name == "room" and record.owner]


def test_a_key_that_is_revoked_in_mid_answer_ends_it_with_the_reason(server, room, key_file):
    llmlab.join(address(), key_file=key_file)
    talk = chat("room", max_tokens=4)
    assert talk.say("What is a container?").text
    handle = llmlab.attach("room")
    request = replace(handle.request("What is a container?", max_tokens=900), ignore_eos=True)
    came = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(handle.send, request, lambda _: came.set())
        assert came.wait(30)
        with halted(server):
            verb("keys", revoke="ada")
            with pytest.raises(RequestError, match=r"\(403\): the key of ada has been revoked") as ended:
                asked.result()
    assert ended.value.answer is not None
    assert ended.value.answer.text, "what had come is kept"
    assert "with another key, join anew" in ended.value.hint
    with pytest.raises(RequestError, match="revoked"):
        talk.say("And a GPU?")
    assert [exchange.replies[0].state for exchange in talk.exchanges] == ["done", "failed"]
    assert state() == "refused"
    assert "the key of ada has been revoked" in detail()


def test_a_new_key_takes_the_place_of_one_that_was_taken_back(room, key_file, tmp_path):
    llmlab.join(address(), key_file=key_file)
    verb("keys", revoke="ada")
    # Nobody can be asked for a key here: the room's own word is said.
    failed = run_cli("join", check=False, stdin=subprocess.DEVNULL, start_new_session=True)
    assert failed.returncode == 1
    assert "the key of ada has been revoked" in failed.stderr
    typed = run_cli("join", input=room.keys["grace"] + "\n", start_new_session=True)
    assert typed.stdout.startswith("you             grace")
    assert llmlab.ask("What?", server="room", max_tokens=2).text
    assert [row.name for row in llmlab.ps() if row.backend == "room"] == ["room"]
    assert room.keys["ada"] not in (runtime.state_dir() / "rooms.json").read_text(encoding="utf-8")


def test_over_quota_is_said_with_the_time_at_which_to_come_back(server, tmp_path):
    with opened("ada", requests=1, window_s=3600) as room:
        llmlab.join(room.url, key_file=written(tmp_path, room, "ada"))
        llmlab.ask("What?", server="room", max_tokens=2)
        with pytest.raises(RequestError, match=r"\(429\): you have used 1 of 1 requests within 1 h") as over:
            llmlab.ask("What?", server="room")
        assert over.value.hint.startswith("ask again in ")
        assert over.value.retry_after_s is not None
        assert 3000 < over.value.retry_after_s <= 3600
        assert state() == "over quota"
        assert "1 of 1 requests within 1 h 0 min; some are free again in" in detail()


def test_who_waits_is_told_the_place_in_the_queue(server, room, key_file):
    llmlab.join(address(), key_file=key_file)
    told = Heard()
    with ThreadPoolExecutor(2) as pool:
        with halted(server):
            first = pool.submit(Room(address(), room.keys["grace"]).ask, "What?", max_tokens=2)
            eventually(lambda: room.learner("grace")["answering"] == 1)
            with reporting_to(told):
                second = pool.submit(
                    copy_context().run, partial(llmlab.ask, "What?", server="room", max_tokens=2)
                )
            eventually(lambda: "waiting for its turn in the classroom: place 1" in told.heard)
        assert first.result().text
        assert second.result().text


class Heard(Reporter):
    """Notes what is said of waiting."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def waiting(self, why: str) -> None:
        self.heard.append(why)


def test_another_certificate_is_refused_before_anything_is_sent(server, tmp_path):
    with opened("ada", self_signed=True) as room:
        port = int(room.url.rpartition(":")[2])
        llmlab.join(address(), key_file=written(tmp_path, room, "ada"))
    for path in places.folder().glob("tls-*"):
        path.unlink()
    with opened("grace", self_signed=True, port=port) as other:
        assert other.url == room.url
        with pytest.raises(EndpointError, match="not the room that you were given") as wrong:
            llmlab.ask("What?", server="room")
        assert "no key and no question was sent" in wrong.value.hint
        assert state() == "unreachable"
        assert "its certificate is another one" in detail()
        board = {each["name"]: each for each in opening.board()["learners"]}
        assert (board["ada"]["seen"], board["ada"]["refused"]) == (None, 0)
        # With the present address it is the same room again.
        joined = llmlab.join(address(), key_file=str(tmp_path / "ada.key"))
        assert joined.servers() == ("room",)
        assert state() == "ready"


def test_a_panel_that_looks_does_not_make_a_learner_look_busy(room, key_file):
    llmlab.join(address(), key_file=key_file)
    llmlab.ask("What?", server="room", max_tokens=2)
    before = room.learner("ada")["seen"]
    assert before
    row = next(each for each in running() if each.name == "room")
    assert (row.backend, row.state, row.memory_mib) == ("room", "ready", None)
    assert llmlab.inspect("room").facts["learner"] == "ada"
    assert room.learner("ada")["seen"] == before


def test_a_server_for_other_packages_reaches_the_room_with_its_key(room, key_file):
    llmlab.join(address(), key_file=key_file)
    handle = llmlab.attach("room")
    with openai.OpenAI(**handle.openai_kwargs()) as client:
        found = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=2)
    assert found.choices
    assert [charge.learner for charge in room.charges("ada")] == ["ada"]
    with pytest.raises(UsageError, match=r"asyncio.*TLS"):
        handle.async_http_client()


def test_a_room_that_says_nonsense_of_its_models_is_refused(server):
    good = to_dict(server.record.spec)
    assert read_specs({"models": [{**good, "later": 1}]})[0].model.name == "tiny"
    nonsense: tuple[Any, ...] = (
        None,
        {"models": 3},
        {"models": [{}]},
        {"models": [{**good, "context": "many"}]},
        {"models": [{**good, "model": {**good["model"], "name": "a\x1b[2J"}}]},
        {"models": [{**good, "model": {**good["model"], "name": "x" * 1000}}]},
        {"models": [{**good, "model": {**good["model"], "control_tokens": [""]}}]},
        {"models": [good] * 1000},
    )
    for bad in nonsense:
        with pytest.raises(RequestError, match="in a known form"):
            read_specs(bad)


def test_a_reset_leaves_rooms_and_forgets_their_keys(room, key_file):
    llmlab.join(address(), key_file=key_file)
    done = run_cli("reset")
    assert "room" in done.stdout
    assert "in a classroom, which goes on" in done.stdout
    assert not (runtime.state_dir() / "rooms.json").exists()
    assert not [record for record in registry.find_all() if record.backend == "room"]


def test_a_notebook_joins_asks_and_chats_and_still_does_after_a_restart_of_its_kernel(room, key_file):
    with running_kernel() as kernel:
        joined = kernel.run(f"%llm join {address()} --key-file {key_file}")
        assert joined.ok, joined.reply
        asked = kernel.run('%llm ask "What is a container?"')
        assert asked.ok, asked.reply
        assert "server room" in asked.texts("display_data")[0]
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=60)
        assert kernel.run("%load_ext llmlab\nimport llmlab").ok
        listed = kernel.run("%llm ps")
        assert "not seen from here" in "".join(listed.texts("execute_result"))
        talk = kernel.run("talk = llmlab.chat('room', max_tokens=3)\nsaid = talk.say('What is a container?')")
        assert talk.ok, talk.reply
        assert kernel.value("said.replies[0].state") == "done"
        shown = kernel.run("%llm chat room")
        assert shown.ok, shown.reply
        done = kernel.client.complete("%llm ask ro", reply=True, timeout=60)["content"]
        assert "room" in done["matches"]
        verb("keys", revoke="ada")
        failed = kernel.run('%llm ask "What is a container?"')
        assert not failed.ok
        assert "the key of ada has been revoked" in str(failed.reply["traceback"])


@pytest.mark.timeout(600)
def test_the_panel_shows_a_room_that_can_be_asked_and_left(
    room, key_file, tmp_path, require_browser, artifacts
):
    llmlab.join(address(), key_file=key_file)
    with panel(tmp_path, require_browser, theme="Light") as (page, _):
        found = runs(page, "room")
        expect(found).to_contain_text(f"in a classroom: {room.url}")
        expect(found).to_contain_text("isolation: not seen from here")
        expect(found.locator("button:visible")).to_have_text(["Chat", "Leave"])
        expect(found.locator(".llmlab-p-chart:visible")).to_have_count(0)
        expect(card(page, "tiny").locator("button:visible")).to_have_count(5)
        page.locator(".llmlab-panel").first.screenshot(path=artifacts / "panel-room.png")
        click(found, "chat")
        talk = page.locator(".llmlab-chat")
        talk.locator(".llmlab-c-input").fill("What is a container?")
        talk.locator(".llmlab-c-send").click()
        expect(talk.locator(".llmlab-c-chip").first).to_be_visible(timeout=60_000)
        assert [charge.outcome for charge in room.charges("ada")] == ["answered"]
        click(found, "stop")
        expect(card(page, "room")).to_have_count(0)
    assert [row.name for row in llmlab.ps()] == ["tiny"]
    assert not (runtime.state_dir() / "rooms.json").exists()
