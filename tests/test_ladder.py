"""The ladder: real rungs, each step where it belongs, and what its card and views hold."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmlab import machine, weights
from llmlab.backends import backend
from llmlab.builds import find_build
from llmlab.comparing import ladder as ladders
from llmlab.comparing.ladder import Ladder, ladder, page_cache, rungs
from llmlab.comparing.ladder import process as rung_process
from llmlab.comparing.ladder import steps as ladder_steps
from llmlab.comparing.ladder.process import Child
from llmlab.comparing.ladder.rungs import Candidate, How
from llmlab.comparing.metrics import BY_KEY
from llmlab.comparing.reading import values_of
from llmlab.comparing.running import Started
from llmlab.errors import (
    DaemonError,
    LabError,
    MemoryFitError,
    ModelError,
    ServerStoppedError,
    StartError,
    UsageError,
)
from llmlab.reporting import Reporter, reporting_to
from llmlab.specs import ServeSpec

EVERY = ["process", "tcp", "socket", "host", "sealed", "port", "quota", "cold"]
SLEEP_S = 0.1


@pytest.fixture
def model(tmp_path: Path, require_engine: Any) -> str:
    """The built-in model as a file of the test's own: no other server has it mapped."""
    path = tmp_path / "copy.gguf"
    shutil.copyfile(weights.resolve("tiny").path, path)
    return str(path)


@pytest.fixture
def climb(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ladder]:
    """Measures some rungs, known by their keys or made by the test."""
    known = rungs.candidates

    def measured(model: str, *wanted: str | Candidate, **options: Any) -> Ladder:
        def chosen(spec: ServeSpec, cpus: float | None) -> tuple[Candidate, ...]:
            by_key = {each.key: each for each in known(spec, cpus)}
            return tuple(by_key[each] if isinstance(each, str) else each for each in wanted)

        monkeypatch.setattr(rungs, "candidates", chosen)
        return ladder(model, **{"blocks": 3, "tokens": 16, "seed": 1, **options})

    return measured


def candidate(key: str, changed: Callable[[How], How]) -> Candidate:
    return Candidate(key=key, title=key, change=f"{key} is changed", changed=changed)


def step_to(key: str, found: Ladder, metric: str) -> ladder_steps.Step:
    return next(step for step in found.gaps[metric].steps if step.above == key)


def test_every_rung_is_measured_and_the_steps_add_up(require_docker, require_llama_cpp, model):
    found = ladder(model, blocks=3, tokens=16, seed=3)
    keys = [rung.key for rung in found.rungs]
    # What a machine may lack is left out with a sentence.
    for key, title in (("quota", "quota of 1"), ("cold", "cold page cache")):
        assert (key in keys) != any(note.startswith(f"left out: {title}, because") for note in found.notes)
    assert keys == [key for key in EVERY if key in keys]
    assert {"process", "tcp", "socket", "host", "sealed", "port"} <= set(keys)
    assert [block.trouble for block in found.blocks] == ["", "", ""]
    for metric, gap in found.gaps.items():
        total = math.fsum(step.found.log for step in gap.steps)
        assert total == pytest.approx(gap.whole.log, abs=1e-9), metric
        assert gap.rungs == tuple(keys), metric
        assert len(gap.steps) == len(keys) - 1
    assert list(found.gaps) == ["total_s", "ttft_s", "generated", "start_s", "cold_ttft_s"]
    assert ladder_steps.same_files(found.rungs)
    assert not any("same tokens" in note for note in found.notes)
    _check_facts(found, keys)
    _check_blocks(found, keys)
    names = [rung.title for rung in found.rungs]
    for shown in (str(found), found.to_html()):
        assert all(f"{below} → {above}" in shown for below, above in pairwise(names))


def _check_facts(found: Ladder, keys: list[str]) -> None:
    facts = {rung.key: rung.facts for rung in found.rungs}
    assert {facts[key]["way there"] for key in ("socket", "host", "sealed")} == {"unix socket"}
    assert {facts[key]["way there"] for key in ("tcp", "port")} == {"TCP"}
    assert facts["host"]["isolation"] == "sealed + network host, seccomp default"
    assert facts["sealed"]["isolation"] == "sealed"
    assert "network bridge" in facts["port"]["isolation"]
    assert facts["port"]["CPU limit"] == facts["sealed"]["CPU limit"]
    if "quota" in keys:
        assert facts["quota"]["CPU limit"] == facts["quota"]["threads"] == "1"


def _check_blocks(found: Ladder, keys: list[str]) -> None:
    assert found.warm_up
    for block in (found.warm_up, *found.blocks):
        order = block.order.split()
        assert order == order[::-1]
        assert sorted(order) == sorted(2 * keys)
        assert len({sum(request.arm == key for request in block.requests) for key in keys}) == 1
        if "cold" in keys:
            cached, read = (block.starts["cold"][what] for what in ("cached_before", "start_read_mib"))
            assert cached is not None
            assert cached <= 0.1
            assert read is None or read > 1
    assert len({block.order for block in found.blocks}) > 1


def test_a_card_is_read_as_it_was_written(climb, model, tmp_path):
    found = climb(model, "tcp", "socket")
    path = tmp_path / "card.json"
    assert found.save(path) is found
    assert ladders.read(path) == found
    assert str(ladders.read(path)) == str(found)
    data = json.loads(path.read_text())
    assert (data["format"], data["version"]) == ("llmlab-ladder-card", 1)
    assert str(tmp_path) not in path.read_text()
    with pytest.raises(LabError, match="cannot be written"):
        found.save(tmp_path / "no" / "card.json")


class SlowClient:
    """Waits before each request."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def complete(self, *args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        time.sleep(SLEEP_S)
        waited = time.perf_counter() - began
        done = self._inner.complete(*args, **options)
        return replace(done, ttft_s=done.ttft_s + waited, total_s=done.total_s + waited)


@pytest.mark.slow
def test_a_slow_way_is_found_where_it_is(climb, model):
    def slow(made: Started) -> Started:
        return replace(made, client=SlowClient(made.client))

    found = climb(
        model,
        "tcp",
        candidate("slow", lambda how: replace(how, wrap=slow)),
        candidate("still", lambda how: replace(how, place="socket")),
    )
    assert [rung.key for rung in found.rungs] == ["tcp", "slow", "still"]
    there, beyond = (step_to(key, found, "ttft_s") for key in ("slow", "still"))
    assert there.told
    assert there.found.log > math.log(2)
    assert there.found.log > 2 * abs(beyond.found.log)
    # The engine is the same: its own rate does not tell of it.
    assert abs(step_to("slow", found, "generated").found.log) < there.found.log / 2
    assert not any("quota" in words or "page cache" in words for words in there.evidence)


@pytest.mark.slow
def test_a_quota_below_the_threads_is_blamed_for_what_it_does(require_docker, climb, model):
    found = climb(
        model, "sealed", candidate("tight", lambda how: replace(how, cpus=0.2)), tokens=80, threads=1
    )
    step = step_to("tight", found, "total_s")
    assert step.told
    assert step.found.ratio > 1.5
    assert any("tight was held back in" in words and "the CPU quota" in words for words in step.evidence)
    assert "the CPU quota" in " ".join(str(found).split())
    assert "the CPU quota" in found.to_html()


class Interrupting(Reporter):
    """Ctrl-C while the second block is measured."""

    def stage(self, stage: str, detail: str = "") -> None:
        if stage == "blocks" and detail.startswith("block 2"):
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_ctrl_c_keeps_the_blocks_that_are_complete(climb, model, require_llama_cpp):
    with reporting_to(Interrupting()):
        found = climb(model, "process", "tcp", "socket", blocks=4, tokens=200)
    assert [block.trouble for block in found.blocks] == [""]
    assert "interrupted after 1 of 4 blocks" in found.notes
    assert found.gaps == {}
    assert "Nothing can be said" in str(found)
    assert "1 of the 4 planned blocks" in str(found)


def _missing(how: How) -> How:
    model = replace(how.spec.model, reference="/nowhere/gone.gguf")
    return replace(how, spec=replace(how.spec, model=model))


def test_a_rung_that_cannot_start_is_gone_over(climb, model):
    found = climb(model, "tcp", candidate("broken", _missing), "socket")
    assert [rung.key for rung in found.rungs] == ["tcp", "socket"]
    assert [(step.below, step.above) for step in found.gaps["total_s"].steps] == [("tcp", "socket")]
    assert any(note.startswith("left out: broken, because") and "gone.gguf" in note for note in found.notes)


def test_without_two_rungs_there_is_no_ladder(climb, model):
    with pytest.raises(ModelError, match=r"gone\.gguf"):
        climb(model, "tcp", candidate("broken", _missing))


class Removing(Reporter):
    """Takes a file away before the second block."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stage(self, stage: str, detail: str = "") -> None:
        if stage == "blocks" and detail.startswith("block 2"):
            self.path.unlink()


def test_a_rung_that_fails_later_marks_its_blocks_and_two_end_it(climb, model, tmp_path):
    path = tmp_path / "other.gguf"
    shutil.copyfile(model, path)

    def other(how: How) -> How:
        return replace(how, spec=replace(how.spec, model=replace(how.spec.model, reference=str(path))))

    with reporting_to(Removing(path)):
        found = climb(model, "tcp", candidate("failing", other), blocks=5)
    troubles = [block.trouble for block in found.blocks]
    assert len(troubles) == 3
    assert troubles[0] == ""
    assert all(trouble.startswith("failing: ") and "other.gguf" in trouble for trouble in troubles[1:])
    assert any(note.startswith("2 blocks failed one after the other") for note in found.notes)
    assert "Block 2 is not complete" in str(found)


def test_without_a_container_engine_native_rungs_are_left(monkeypatch, model):
    problem = DaemonError("no container engine answers")
    monkeypatch.setattr(backend("container"), "unavailable", lambda: problem)
    found = ladder(model, blocks=3, tokens=8, seed=1)
    assert {rung.facts["backend"] for rung in found.rungs} == {"native"}
    assert {"tcp", "socket"} <= {rung.key for rung in found.rungs}
    for title in ("container, sealed", "published port", "quota of 1"):
        assert f"left out: {title}, because no container engine answers" in found.notes


def test_without_llama_cpp_the_ladder_begins_with_a_server(monkeypatch, require_engine):
    monkeypatch.setattr(rung_process, "importable", lambda: False)
    first = rungs.candidates(_spec("tiny"), None)[0]
    assert (first.key, first.missing) == ("process", "llama-cpp-python is not installed")


def test_a_quota_that_is_there_already_is_no_rung(require_docker, monkeypatch):
    monkeypatch.setattr(machine, "cpus", lambda: 2)
    by_key = {each.key: each for each in rungs.candidates(replace(_spec("tiny"), threads=2), 1.0)}
    assert "2 CPUs already" in by_key["quota"].missing
    assert not by_key["below"].missing
    assert by_key["below"].changed(How(spec=_spec("tiny"))).cpus == 1.0


def test_what_does_not_fit_together_is_refused_with_the_memory_it_takes(monkeypatch, model):
    look = machine.look
    monkeypatch.setattr(machine, "look", lambda: replace(look(), usable_mib=60))
    with pytest.raises(MemoryFitError, match=r"at the same time: that takes \d+ MiB .* give 60 MiB now"):
        ladder(model, blocks=3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": 2}, "blocks is 2"),
        ({"tokens": 1}, "tokens is 1"),
        ({"cpus": 0}, "cpus is 0"),
        ({"cpus": 1e6}, "cpus is 1e"),
        ({"minutes": 0}, "minutes is 0"),
        ({"minutes": math.nan}, "minutes is nan"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        ladder("tiny", **options)


def test_as_many_blocks_as_there_is_time_for(climb, model):
    found = climb(model, "tcp", "socket", blocks=None, minutes=1e-6)
    assert found.planned == len(found.blocks) == 3
    assert "for 1e-06 min" in found.plan


def _spec(model: str) -> ServeSpec:
    return ServeSpec(
        model=weights.resolve(model), engine="llama-server", context=512, slots=1, threads=1, kv_type="f16"
    )


def test_a_child_process_generates_what_a_server_does_and_ends_with_its_input(
    require_llama_cpp, require_engine, climb, model
):
    found = climb(model, "process", "tcp")
    answers = {request.answer for block in found.blocks for request in block.requests}
    assert len(answers) == 1
    assert "" not in answers


def test_a_child_process_that_dies_is_told(require_llama_cpp, require_engine):
    folder = find_build().library_dir
    assert folder
    child = Child(_spec("tiny"), folder, 60.0)
    try:
        assert set(child.libraries) <= {file.sha256 for file in find_build().files}
        assert child.libraries
        assert len(child.complete([1, 2, 3], tokens=5).tokens) == 5
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ServerStoppedError, match="exit code -9"):
            child.complete([1, 2, 3], tokens=5)
    finally:
        child.stop(1.0)


def test_a_child_process_that_cannot_load_says_why(require_llama_cpp, require_engine, write):
    folder = find_build().library_dir
    assert folder
    spec = _spec("tiny")
    broken = replace(spec, model=replace(spec.model, path=write(b"no model")))
    with pytest.raises(StartError, match="was not loaded") as caught:
        Child(broken, folder, 60.0)
    assert caught.value.log_tail


def test_the_page_cache_forgets_a_file_that_nobody_has_mapped(write):
    path = write(os.urandom(1 << 20))
    assert path.read_bytes()
    assert page_cache.share([path]) == 1.0
    page_cache.drop([path])
    if page_cache.share([path]) == 1.0:
        pytest.skip("the test's files lie in memory")
    assert page_cache.share([path]) == 0.0
    assert page_cache.share([path.with_name("none")]) is None
    assert page_cache.has_read(None) == {"start_faults": None, "start_read_mib": None}
    assert page_cache.has_read(os.getpid())["start_faults"] is not None


def card(**changes: Any) -> dict[str, Any]:
    """A ladder's card of three rungs and four blocks, without a machine."""

    def block(number: int) -> dict[str, Any]:
        requests = [
            {
                "arm": arm,
                "began_s": 0.0,
                "values": {"total_s": factor * (1 + number / 1000), "ttft_s": factor / 10, "generated": 9.0},
                "evidence": {},
                "answer": "",
                "tokens": 5,
            }
            for arm, factor in (("a", 1.0), ("b", 1.25), ("c", 1.1))
        ]
        return {
            "number": number,
            "order": "a b c c b a",
            "began": "2026-11-26T12:00:00",
            "starts": {"a": {"start_s": None}, "b": {"start_s": 2.0}, "c": {"start_s": 3.0 + number / 100}},
            "requests": requests,
            "evidence": {},
            "trouble": "",
        }

    made = {
        "format": "llmlab-ladder-card",
        "version": 1,
        "made": "2026-11-26T12:00:00",
        "model": "m",
        "rungs": [{"key": key, "title": f"rung {key}", "change": "", "facts": {}} for key in "abc"],
        "seed": 1,
        "prompt_tokens": 8,
        "tokens": 5,
        "warm_up": None,
        "blocks": [block(number) for number in range(1, 5)],
        "planned": 4,
        "plan": "4 blocks, as asked for",
        "machine": {},
        "notes": [],
    }
    return {**made, **changes}


def read(write: Callable[..., Path], data: dict[str, Any]) -> Ladder:
    return ladders.read(write(json.dumps(data).encode(), "card.json"))


def test_a_metric_goes_over_a_rung_that_does_not_tell_it(write):
    found = read(write, card())
    assert found.gaps["start_s"].rungs == ("b", "c")
    assert found.gaps["total_s"].rungs == ("a", "b", "c")
    assert "Gone over, since it is not known of them: rung a." in str(found)
    assert [step.found.ratio for step in found.gaps["total_s"].steps] == pytest.approx([1.25, 1.1 / 1.25])
    assert values_of(found.blocks[0], "a", BY_KEY["start_s"]) == []


def test_gain_and_loss_have_words_and_signs(write):
    shown = str(read(write, card()))
    assert re.search(r"rung a → rung b +\+25 % .* loss\n", shown)
    assert re.search(r"rung b → rung c +−12\.0 % .* gain\n", shown)
    assert "Bonferroni, intervals at 97.5 %" in shown


def test_without_drawings_the_card_says_all_the_same(write):
    found = read(write, card())
    shown = found.to_html()
    drawings = re.findall(r"<svg role=\"img\" aria-label=\"([^\"]+)\"", shown)
    assert len(drawings) == shown.count("<svg") == len(found.gaps)
    assert drawings[0].startswith(
        "Waterfall of whole request from rung a, lower is better: rung b +25 % (loss)"
    )
    left = re.sub(r"<svg.*?</svg>", "", shown, flags=re.DOTALL)
    for words in ("rung a → rung b", "+25 %", "−12.0 %", "loss", "gain", "the whole gap", "+10.0 %"):
        assert words in left


def test_what_a_card_holds_becomes_neither_markup_nor_a_terminals_command(write):
    evil = "<script>alert(1)</script>\x1b[2J\u202e"
    data = card(model=evil, plan=evil, notes=[evil], made=evil, machine={"cpu": evil})
    for rung in data["rungs"]:
        rung |= {"title": evil, "change": evil, "facts": {"way there": evil, "engine's files": evil}}
    data["blocks"][0]["trouble"] = evil
    found = read(write, data)
    shown = found.to_html()
    assert "<script" not in shown
    assert "\x1b" not in str(found)
    assert "\u202e" not in str(found)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e-300, 1e300, 5e-324])
def test_figures_that_cannot_be_are_shown_without_an_error(write, value):
    data = card()
    for block in data["blocks"]:
        block["requests"][1]["values"]["total_s"] = value
    found = read(write, data)
    assert str(found)
    assert found.to_html()
    assert json.dumps(found.to_dict())


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"rungs": 5},
        {"blocks": [{}]},
        {"blocks": [None]},
        {"seed": "x"},
        {"warm_up": [1]},
        {"machine": 3},
        {"tokens": None},
    ],
)
def test_other_files_are_no_cards(write, change):
    with pytest.raises(UsageError, match="no ladder's card"):
        read(write, card(**change))


def test_a_later_version_is_told_apart(write):
    with pytest.raises(UsageError, match="of version 2"):
        read(write, card(version=2))
    with pytest.raises(UsageError, match="there is no ladder's card"):
        ladders.read("/nowhere/card.json")
    with pytest.raises(UsageError, match="no ladder's card"):
        ladders.read(write(b"[", "card.json"))
