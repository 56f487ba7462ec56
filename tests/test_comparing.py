"""`compare`: real servers laid side by side; known slowdowns are found and blamed on the right thing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab import comparing
from llmlab.client import Client
from llmlab.comparing import arms, asking, card, protocol, running
from llmlab.comparing.card import Arm, Block
from llmlab.errors import LabError, RequestError, ServerStoppedError, UnknownNameError, UsageError
from llmlab.lab import registry
from llmlab.reporting import Reporter, reporting_to
from llmlab.specs import Endpoint
from llmlab.telemetry.metrics import Metric
from tests.conftest import run_cli

FEW: dict[str, Any] = {"blocks": 3, "tokens": 16}


@pytest.fixture
def quick(monkeypatch):
    """Fewer blocks of the same against itself."""
    monkeypatch.setattr(protocol, "AA_BLOCKS", 3)


# Measured for real


def test_native_and_container_are_compared_and_nothing_is_left(require_engine, require_docker, quick):
    mine = llmlab.start("tiny", name="mine", backend="native")
    seen = llmlab.compare("tiny", **FEW, seed=7)
    assert [row.name for row in llmlab.ps()] == ["mine"], "what ran before is left alone"
    assert mine.ask("What is a GPU?", max_tokens=3).completion_tokens == 3
    made = seen.card
    assert len(made.blocks) == made.planned == 3
    assert len(made.aa) == 3
    assert [arm.title for arm in made.arms] == ["native", "container"]
    assert "1 other server was running meanwhile" in made.notes
    assert seen.comparable, made.inequalities
    # The same work, token for token.
    assert len({request.answer for block in made.blocks for request in block.requests}) == 1
    assert {request.tokens for block in made.blocks for request in block.requests} == {16}
    for block in made.blocks:
        assert block.order in {"ABBA", "BAAB"}
        turns = [request.arm for request in block.requests]
        assert turns == sorted(turns, key=block.order.lower().index) or len(set(turns)) == 2
        assert turns == turns[::-1], "a drift that is linear falls out"
    assert {"generated", "prompt", "ttft_s", "total_s", "cpu_s", "start_s", "memory_mib"} <= set(
        seen.findings
    )
    assert set(seen.floors) >= {"generated", "total_s"}
    # A container takes longer to start than a process, on any machine.
    assert seen.findings["start_s"].ratio > 1
    # The same files, the same work: neither is twice the other.
    assert 0.5 < seen.findings["generated"].ratio < 2
    assert seen.verdict in {"equivalent", "different", "different but negligible", "inconclusive"}
    for shown in (str(seen), seen.to_html()):
        assert "generation rate" in shown
        assert "container" in shown


def test_a_quota_below_the_threads_is_found_and_blamed(require_engine, require_docker, quick):
    # Long enough for the quota to be used up in each period: shorter ones fit in between.
    seen = llmlab.compare("tiny", threads=2, cpus=0.5, blocks=3, tokens=200)
    found = seen.findings["total_s"]
    assert found.verdict == "different"
    assert found.low > 1.3
    limited = [request for block in seen.card.blocks for request in block.requests if request.arm == "b"]
    assert max(request.evidence.get("throttled") or 0.0 for request in limited) > 10
    assert "quota" in str(seen)
    (cpu,) = [each for each in seen.card.inequalities if each.what == "CPU limit"]
    assert (cpu.a, cpu.b, cpu.wanted, cpu.fatal) == ("none", "0.5", True, False)


class Slow:
    """Passes on what a server says in small pieces, each a little later: a known slowdown."""

    DELAY_S, BYTES = 0.01, 256

    def __init__(self, server: Path, path: Path) -> None:
        self.naps = self.requests = 0
        self._server = server
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                far = socket.socket(socket.AF_UNIX)
                far.connect(str(self._server))
                self.requests += 1
                for source, target, delay_s in ((near, far, 0.0), (far, near, self.DELAY_S)):
                    threading.Thread(
                        target=self._pass_on, args=(source, target, delay_s), daemon=True
                    ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, delay_s: float) -> None:
        with contextlib.suppress(OSError), target:
            while data := source.recv(self.BYTES):
                time.sleep(delay_s)
                self.naps += delay_s > 0
                target.sendall(data)


def test_a_slow_way_there_is_found_and_not_taken_for_a_slow_engine(
    require_engine, quick, monkeypatch, tmp_path
):
    entered = running.Running.__enter__
    doors: list[Slow] = []

    def behind_a_slow_door(self: running.Running) -> running.Running:
        found = entered(self)
        if "kv_type" not in self.arm.options:
            path = tmp_path / f"{len(doors)}.sock"
            doors.append(Slow(found.record.endpoint.socket, path))
            found._client = Client(self.name, Endpoint(socket=path))
        return found

    monkeypatch.setattr(running.Running, "__enter__", behind_a_slow_door)
    # Named differently, so that the same against itself has no such door.
    seen = llmlab.compare(
        "tiny", a="backend=native,threads=1,kv-type=q8_0", b="backend=native,threads=1", blocks=3, tokens=12
    )
    for door in doors:
        door.close()
    whole, engine = seen.findings["total_s"], seen.findings["generated"]
    assert whole.verdict == "different"
    added_s = Slow.DELAY_S * sum(door.naps for door in doors) / sum(door.requests for door in doors)
    before_s = statistics.median(
        value for block in seen.card.aa for request in block.requests if (value := request.values["total_s"])
    )
    # What comes after the last token, the engine's own figures, waits as well and is not in it.
    assert 0.2 * added_s / before_s < whole.ratio - 1 < 1.5 * added_s / before_s
    assert abs(math.log(engine.ratio)) < abs(math.log(whole.ratio)) / 4
    assert "quota" not in str(seen).partition("Method:")[0]


def test_the_command_line(require_engine, quick, tmp_path):
    path = tmp_path / "card.json"
    native = "backend=native"
    told = run_cli(
        "compare", "tiny", "--a", native, "--b", f"{native},threads=2", "--blocks", "3", "--tokens", "8",
        "--seed", "3", "--save", str(path), "--json",
    ).stdout  # fmt: skip
    data = json.loads(told)
    assert data["verdict"]
    assert data["card"]["arms"][1]["title"] == "threads 2"
    assert data["findings"]["generated"]["n"] == 3
    assert data["floors"]["generated"]["n"] == protocol.AA_BLOCKS + 1, "a process of its own: as shipped"
    again = json.loads(run_cli("compare", "--show", str(path), "--json").stdout)
    assert again["card"] == data["card"]
    assert again["findings"] == data["findings"]
    assert again["replayed"] == str(path)


# Two engines

TEXT = "<|im_start|>user\nWhat is a GPU?<|im_end|>\n<|im_start|>assistant\n"


def test_two_engines_are_given_the_same_work_and_timed_by_one_clock(
    require_engine, require_llama_cpp, quick, tmp_path
):
    path = tmp_path / "card.json"
    seen = llmlab.compare(
        "tiny", a="engine=llama-server", b="engine=llama-cpp-python", **FEW, seed=7, save=str(path)
    )
    made = seen.card
    assert [arm.title for arm in made.arms] == ["llama-server", "llama-cpp-python"]
    assert [arm.facts["engine"] for arm in made.arms] == ["llama-server", "llama-cpp-python"]
    assert [(each.what, each.wanted, each.fatal) for each in made.inequalities] == [("engine", True, False)]
    requests = [request for block in made.blocks for request in block.requests]
    assert {request.tokens for request in requests} == {16}
    assert len({request.answer for request in requests}) == 1, "token for token"
    assert "" not in {request.answer for request in requests}
    assert made.clock == "client"
    assert seen.main.key == "output"
    for blocks, unknown in ((made.aa, set()), (made.blocks, {"b"})):
        assert all(not block.trouble for block in blocks)
        for request in (request for block in blocks for request in block.requests):
            assert request.values["output"] == pytest.approx(16 / (request.values["total_s"] or 0))
            assert (request.values["generated"] is None) == (request.arm in unknown)
            assert (request.values["prompt"] is None) == (request.arm in unknown)
    assert {"output", "total_s", "ttft_s", "start_s"} <= set(seen.findings)
    assert "generated" not in seen.findings
    assert {"output", "generated"} <= set(seen.floors), "a against itself tells both"
    # Python takes a second to import.
    assert seen.findings["start_s"].ratio > 2

    again = llmlab.compare(replay=str(path), against=str(path))
    second: Any = again
    assert second.second.card.clock == "client"
    assert second.second.card.prompt_tokens == made.prompt_tokens
    assert [arm.options for arm in second.second.card.arms] == [arm.options for arm in made.arms]
    assert {each.metric.key for each in second.changes} >= {"output", "total_s"}
    assert llmlab.ps().servers == ()


@pytest.mark.slow
def test_an_engine_without_times_is_compared_with_itself(require_engine, require_llama_cpp, quick):
    arm_ = "engine=llama-cpp-python,threads="
    seen = llmlab.compare("tiny", a=f"{arm_}1", b=f"{arm_}2", **FEW)
    assert seen.card.clock == "client"
    assert [arm.title for arm in seen.card.arms] == ["threads 1", "threads 2"]
    assert "because the engines tell no times" in str(seen).replace("\n", " ")


def test_an_exact_request_goes_on_past_the_end_and_reuses_nothing(require_engine, require_llama_cpp):
    one, other = (
        llmlab.start("tiny", name=engine[:9], backend="native", engine=engine)
        for engine in ("llama-server", "llama-cpp-python")
    )
    near, far = (registry.client(server.record) for server in (one, other))
    ids = near.tokens_of(TEXT, whole=True)
    assert far.tokens_of(TEXT, engine="llama-cpp-python") == ids
    plain = one.ask("What is a GPU?", max_tokens=200, temperature=0.0)
    assert plain.finish_reason == "stop"
    count = (plain.completion_tokens or 0) + 30
    wanted = near.complete(TEXT, tokens=count)
    for _ in range(2):
        found = far.complete(TEXT, tokens=count, engine="llama-cpp-python")
        assert found.tokens == wanted.tokens
        assert len(found.tokens) == found.generated == count
        assert found.prompt_tokens == len(ids), "all of the prompt was read, also the second time"
        assert (found.prompt_s, found.generated_s) == (None, None)
        assert 0 < (found.ttft_s or 0) < found.total_s
    # Who does not ask for that still gets what the engine does.
    assert other.ask("What is a GPU?", max_tokens=200, temperature=0.0).finish_reason == "stop"


def test_the_prompt_is_whole_words_and_not_longer_than_asked_for(require_engine, require_llama_cpp):
    server = llmlab.start("tiny", name="x", backend="native", engine="llama-cpp-python")
    asked = asking.Asking(
        name="x", client=registry.client(server.record), engine="llama-cpp-python", context=1024, timeout_s=60
    )
    made = asked.setting(40, 8, 1.0)
    assert 30 < len(made.prompt) <= 40
    assert made.prompt == made.text_ids == tuple(asked.client.tokens_of(made.text, engine="llama-cpp-python"))
    assert asked.agreed(made) == made
    again = asked.setting(len(made.prompt), 8, 1.0)
    assert again.text == made.text, "a card that is measured again has the same prompt"
    with pytest.raises(UsageError, match="the same text as other tokens"):
        asked.agreed(replace(made, text_ids=made.text_ids[:-1]))
    with pytest.raises(RequestError, match="instead of 2000"):
        asked.complete(replace(made, tokens=2000))


# Ends


class Stages(Reporter):
    """Does something when a stage is reached."""

    def __init__(self, at: str, act: Any) -> None:
        self.at, self.act = at, act
        self.told: list[str] = []

    def stage(self, stage: str, detail: str = "") -> None:
        self.told.append(f"{stage}: {detail}")
        if self.told[-1].startswith(self.at):
            self.act()


def test_ctrl_c_keeps_the_blocks_that_are_complete(require_engine, quick):
    def interrupt() -> None:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    with reporting_to(Stages("blocks: block 3 of 9", interrupt)) as stages:
        seen = llmlab.compare("tiny", a="backend=native", b="backend=native", blocks=9, tokens=50)
    assert 2 <= len(seen.card.blocks) < 9
    assert any("interrupted after" in note for note in seen.card.notes)
    assert any("left" in each for each in stages.told), "how long it will take is told"
    assert llmlab.ps().servers == ()
    assert "interrupted" in str(seen)


def test_an_arm_that_cannot_start_is_told_and_nothing_is_left(require_engine):
    with pytest.raises(LabError):
        llmlab.compare("tiny", a="backend=native", b="backend=native,model=./nowhere.gguf", **FEW)
    assert llmlab.ps().servers == ()


def test_a_block_that_fails_is_told_and_two_end_it(require_engine, quick, monkeypatch):
    real = running.Running.measure
    blocks: list[float] = []

    def dying(self: running.Running, setting: running.Setting, began: float) -> Any:
        if began not in blocks:
            blocks.append(began)
        # The second of the three against itself, then all from the third of the others on.
        if len(blocks) == 2 or len(blocks) > 5:
            raise ServerStoppedError("it died")
        return real(self, setting, began)

    monkeypatch.setattr(running.Running, "measure", dying)
    seen = llmlab.compare("tiny", a="backend=native", b="backend=native", blocks=8, tokens=8)
    assert [block.trouble for block in seen.card.aa] == ["", "it died", ""]
    assert [block.trouble for block in seen.card.blocks] == ["", "", "it died", "it died"]
    assert any("failed one after the other" in note for note in seen.card.notes)
    assert seen.verdict == "inconclusive"
    assert "generated" not in seen.findings
    assert llmlab.ps().servers == ()


def test_a_card_is_measured_again_as_it_was(require_engine, quick, tmp_path):
    path = str(tmp_path / "card.json")
    first = llmlab.compare("tiny", a="backend=native", b="backend=native,threads=2", **FEW, seed=5, save=path)
    second = llmlab.compare(replay=path)
    assert second.replayed is None
    assert [(arm.options, arm.title) for arm in second.card.arms] == [
        (arm.options, arm.title) for arm in first.card.arms
    ]
    for made in ("seed", "tokens", "prompt_tokens", "planned", "margin"):
        assert getattr(second.card, made) == getattr(first.card, made)
    assert [block.order for block in second.card.blocks] == [block.order for block in first.card.blocks]
    both: Any = llmlab.compare(show=path, against=path)
    assert "Welch" in str(both)


def test_a_busy_machine_is_told_of():
    def block(**evidence: float | None) -> Block:
        return Block(number=1, order="ABBA", began="", evidence=evidence)

    assert comparing._busy([block(others_cpus=0.1, steal=0.0), block(others_cpus=None, steal=None)]) == []
    (busy,) = comparing._busy([block(others_cpus=0.8), block(others_cpus=0.9), block(others_cpus=0.0)])
    assert "0.8 CPUs" in busy
    (taken,) = comparing._busy([block(steal=12.0)])
    assert "12 %" in taken


# Arms


def test_an_arm_is_what_is_said_and_the_rest_is_shared():
    a, b = arms.pair("tiny", {"threads": 2, "cpus": 1.0}, None, None)
    assert a.options == {"model": "tiny", "backend": "native", "slots": 1, "threads": 2}
    assert b.options == {"model": "tiny", "backend": "container", "slots": 1, "threads": 2, "cpus": 1.0}
    assert (a.title, b.title) == ("native", "container cpus 1.0")
    a, b = arms.pair("tiny", {}, {"threads": 1}, {"model": "other", "threads": 2})
    assert (a.title, b.title) == ("tiny threads 1", "other threads 2")
    a, b = arms.pair("tiny", {}, {"backend": "native"}, {"backend": "native"})
    assert (a.title, b.title) == ("native (a)", "native (b)")
    a, b = arms.pair("tiny", {}, {"engine": "llama-cpp-python"}, None)
    assert (a.title, b.title) == ("native llama-cpp-python", "container llama-server")
    a, b = arms.pair("tiny", {}, {"threads": 2}, {"threads": 2, "engine": "llama-cpp-python"})
    assert a.options["engine"] == "llama-server", "what it is compared with is no accident of what is there"
    assert (a.title, b.title) == ("llama-server", "llama-cpp-python")
    assert arms.options("backend=container, cpus=0.5,kv-type=q8_0,memory=2g") == {
        "backend": "container",
        "cpus": 0.5,
        "kv_type": "q8_0",
        "memory": "2g",
    }
    assert arms.checked({"cpus": "0.5", "threads": "2"}) == {"cpus": 0.5, "threads": 2}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"a": "threads"}, UsageError, "no option of an arm"),
        ({"a": "thread=2"}, UnknownNameError, "thread"),
        ({"b": "threads=many"}, UsageError, "threads is 'many'"),
        ({"b": "backend=cloud"}, UnknownNameError, "cloud"),
        ({"a": "backend=native,cpus=1"}, UsageError, "cpus means nothing natively"),
        ({"a": "name=x"}, UnknownNameError, "name"),
        ({"a": "engine=exllama"}, UnknownNameError, "exllama"),
        (
            {"b": "engine=llama-cpp-python,backend=container"},
            UsageError,
            "llama-cpp-python does not run with",
        ),
        ({"blocks": 2}, UsageError, "blocks is 2"),
        ({"margin": 0.0}, UsageError, "margin is 0"),
        ({"tokens": 1}, UsageError, "tokens is 1"),
        ({"minutes": -1.0}, UsageError, "minutes is -1"),
        ({"replay": "/nowhere"}, UsageError, "there is no run card"),
        ({"show": "/nowhere"}, UsageError, "there is no run card"),
        ({"model": "nosuchmodel"}, LabError, "nosuchmodel"),
    ],
)
def test_bad_arguments_are_told(options, error, message):
    with pytest.raises(error, match=message) as caught:
        llmlab.compare(**options)
    assert caught.value.hint


FACTS = {
    "weights sha256": "1",
    "engine's files": "2",
    "threads": "2",
    "backend": "native",
    "CPU limit": "none",
    "way there": "unix socket",
}


def arm(key: str, options: dict[str, Any] | None = None, **facts: str) -> Arm:
    return Arm(key=key, title=key, options=options or {"backend": "native"}, facts={**FACTS, **facts})


def test_what_was_not_wanted_makes_them_not_comparable():
    other = {"backend": "container"}
    (found,) = arms.inequalities(arm("a"), arm("b", None, **{"weights sha256": "9"}))
    assert (found.what, found.wanted, found.fatal) == ("weights sha256", False, True)
    (found,) = arms.inequalities(arm("a"), arm("b", {"backend": "native", "threads": 3}, threads="3"))
    assert (found.what, found.wanted, found.fatal) == ("threads", True, False)
    several = arms.inequalities(arm("a"), arm("b", other, backend="container", **{"way there": "relay"}))
    assert [(each.what, each.wanted, each.fatal) for each in several] == [
        ("backend", True, False),
        ("way there", False, True),
    ]
    assert arms.inequalities(arm("a"), arm("b")) == ()
    one, other = {"engine": "llama-server"}, {"engine": "llama-cpp-python"}
    several = arms.inequalities(
        arm("a", one, **one), arm("b", other, **other, **{"engine's files": "3", "way there": "TCP"})
    )
    assert [(each.what, each.wanted, each.fatal) for each in several] == [
        ("engine", True, False),
        ("engine's files", False, True),
        ("way there", False, True),
    ]


def test_other_tokens_from_the_same_files_are_no_comparison():
    assert arms.answers(arm("a"), arm("b"), {"a": ["x", "x"], "b": ["x"]}) is None
    assert arms.answers(arm("a"), arm("b"), {"a": [""], "b": ["x"]}) is None, "nobody told"
    different = arms.answers(arm("a"), arm("b"), {"a": ["x"], "b": ["y"]})
    assert different
    assert different.fatal
    rounding = arms.answers(arm("a"), arm("b", threads="4"), {"a": ["x"], "b": ["y"]})
    assert rounding
    assert not rounding.fatal
    assert arms.answers(arm("a"), arm("b"), {"a": ["x", "y"], "b": ["x", "y"]}), "not even with itself"
    engines = arms.answers(
        arm("a", engine="llama-server"), arm("b", engine="llama-cpp-python"), {"a": ["x"], "b": ["y"]}
    )
    assert engines
    assert (engines.wanted, engines.fatal) == (False, False), "told, but the work was the same"


# Cards


def test_a_card_says_nothing_of_paths_and_comes_back(tmp_path, require_engine, quick):
    model = tmp_path / "secret-place" / "m.gguf"
    model.parent.mkdir()
    model.write_bytes(llmlab.start("tiny", name="x", backend="native").record.spec.model.path.read_bytes())
    llmlab.stop("x")
    seen = llmlab.compare(str(model), a="backend=native", b="backend=native", **FEW)
    path = tmp_path / "card.json"
    seen.save(path)
    assert "secret-place" not in path.read_text()
    assert card.read(path) == seen.card


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"format": "x"}', '{"format": "llmlab-run-card", "version": 1}', "[" * 100_000]
)
def test_what_is_no_card_is_told(tmp_path, text):
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no run card"):
        llmlab.compare(show=str(path))


def test_a_later_version_is_told(tmp_path):
    path = tmp_path / "card.json"
    path.write_text('{"format": "llmlab-run-card", "version": 2}')
    with pytest.raises(UsageError, match="version 2"):
        llmlab.compare(show=str(path))


def test_a_card_that_cannot_be_written_is_told(tmp_path):
    empty = card.Card(
        made="", arms=(arm("a"), arm("b")), seed=1, margin=0.03, prompt_tokens=1, tokens=1,
        aa=(), blocks=(), planned=0, plan="",
    )  # fmt: skip
    with pytest.raises(LabError, match="cannot be written"):
        comparing.Comparison(card=empty).save(tmp_path / "nowhere" / "card.json")
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_blocks_is_fixed_by_the_pilot_and_by_the_time(monkeypatch):
    def block(number: int, ratio: float) -> Block:
        requests = tuple(
            card.Request(arm=key, began_s=0.0, values={"generated": value})
            for key, value in (("a", 100.0), ("b", 100.0 * ratio))
        )
        return Block(number=number, order="ABBA", began="", requests=requests)

    steady = [block(n, 1 + 0.001 * (-1) ** n) for n in range(4)]
    noisy = [block(n, 1 + 0.1 * (-1) ** n) for n in range(4)]
    wanted = protocol.Wanted(blocks=None, margin=0.03, tokens=None, seed=1, minutes=100)
    now = time.monotonic()
    few, why = protocol._planned(steady, wanted, 1.0, now)
    many, why_many = protocol._planned(noisy, wanted, 1.0, now)
    assert 6 <= few < many == 40
    assert why != why_many
    assert protocol._planned(noisy, wanted, 600.0, now)[0] <= 10, "there is no time for more"
    assert protocol._planned(noisy, replace(wanted, blocks=5), 600.0, now)[0] == 5


# Energy


class Counting:
    """An instrument whose counters stand where a test puts them."""

    def __init__(self, **values: float | None) -> None:
        self.subject = "x"
        self.metrics: tuple[Metric, ...] = ()
        self.values = values

    def read(self, _: float) -> dict[str, float | None]:
        return dict(self.values)

    def close(self) -> None: ...


def counted(steps: list[tuple[float, float | None, float | None]], held: float | None) -> float | None:
    """Joules per token after requests of 50 tokens: of each its seconds, and what CPUs and GPUs have counted by then."""
    of_it = running.Running(arm=arm("a"), name="x", timeout_s=1.0)
    of_it._started = running.Started(record=None, client=None, pid=None, stop=lambda _: None, start_s=0.0)
    cpu, gpu = Counting(energy_j=0.0), Counting(gpu_memory=held, gpu_energy=0.0)
    of_it._instruments = {"rapl0": cpu, "share": gpu}
    for seconds, cpus_j, gpus_j in steps:
        before = of_it._read()
        cpu.values["energy_j"], gpu.values["gpu_energy"] = cpus_j, gpus_j
        of_it._count(before, of_it._read(), 50, seconds)
    return of_it.at_the_end()["joules_per_token"]


def test_energy_is_that_of_the_gpus_it_is_on_else_of_the_cpus_and_needs_ten_seconds():
    assert counted([(6.0, 100.0, 900.0), (6.0, 200.0, 1800.0)], held=None) == pytest.approx(2.0)
    assert counted([(6.0, 100.0, 900.0), (6.0, 200.0, 1800.0)], held=512.0) == pytest.approx(18.0)
    assert counted([(4.0, 100.0, 0.0), (4.0, 200.0, 0.0)], held=None) is None, "too short"
    assert counted([(6.0, None, 0.0), (6.0, 200.0, 0.0)], held=None) is None, "it was not seen at an edge"
