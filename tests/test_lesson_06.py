"""Lesson 06: servers that are really broken, what tells of it, and that nothing of them stays."""

from __future__ import annotations

from typing import Any

import pytest

import llmlab
from llmlab import errors, workshop
from llmlab.workshop import breaking, faults, sitting
from tests.conftest import inventory

# A line that tells each fault, in what ps, inspect and logs show of it.
EVIDENCE = {
    faults.MEMORY: "out of memory (the limit is",
    faults.KILLED: "exit code 137",
    faults.PAUSED: "lets it go on",
    faults.TOLD: "cleaning up before exit",
    faults.CUT: "1.0 MB now; it was 3.1 MB when the server was started",
}


def verdict(task: str, *values: object, predicted: object = None) -> sitting.Checked:
    """What the lesson says, after a prediction if there is one."""
    lesson = workshop.lesson("06")
    if predicted is not None:
        assert lesson.predict(task, predicted).problem == ""
    return lesson.check(task, *values)


def shown(name: str) -> str:
    """All that a learner gets to see of a server."""
    return f"{llmlab.ps()}\n{llmlab.inspect(name)}\n{llmlab.logs(name)}"


def truths() -> list[str]:
    return [faults.truth(name) for name in faults.NAMES]


class Broken:
    """What holds wherever the servers run."""

    def test_what_ails_each_is_to_be_seen_and_diagnosed(self, place):
        for number in (1, 2):
            said = str(faults.seed(number, backend=place))
            assert not any(word in said for word in faults.CHOICES)
            for name in faults.NAMES:
                right = faults.truth(name)
                assert EVIDENCE[right] in shown(name), right
                assert verdict(name, right).passed
                for wrong in set(faults.CHOICES) - {right}:
                    checked = verdict(name, wrong)
                    assert not checked.passed
                    assert f"inspect {name}" in checked.verdict.hint
                    assert right not in checked.verdict.text, "a wrong diagnosis is not told the right one"
        faults.clear()

    def test_the_same_number_breaks_the_same(self, place):
        faults.seed(1, backend=place)
        first = truths()
        faults.seed(1, backend=place)
        assert truths() == first
        assert len(set(first)) == len(first)
        faults.clear()

    def test_a_stop_removes_it_whatever_its_state(self, place, isolated_runtime):
        faults.seed(2, backend=place)
        assert faults.PAUSED in truths(), "the hardest to stop is among them"
        for name in faults.NAMES:
            assert llmlab.stop(name).names == (name,)
        assert verdict("gone").passed
        assert inventory(isolated_runtime) == []

    def test_clearing_leaves_the_servers_of_others_alone(self, place, isolated_runtime):
        with llmlab.start("tiny", name="other", backend=place) as other:
            faults.seed(1, backend=place)
            assert other.status.state == "ready"
            assert faults.clear().names == faults.NAMES
            assert [one.name for one in llmlab.ps()] == ["other"]
        assert inventory(isolated_runtime) == []

    def test_a_server_of_that_name_that_is_not_the_lessons_is_not_touched(self, place):
        with llmlab.start("tiny", name="fault-2", backend=place) as mine:
            with pytest.raises(errors.NameTakenError, match="fault-2"):
                faults.seed(1, backend=place)
            assert mine.status.state == "ready"
            assert len(llmlab.ps()) == 1

    def test_one_that_was_started_again_is_mended_and_the_learners_own(self, place):
        faults.seed(1, backend=place)
        assert "not ready" in verdict("mended", "fault-1").verdict.text
        assert "none of the three" in verdict("mended", "tiny").verdict.text
        llmlab.stop("fault-1")
        again = llmlab.start("tiny", name="fault-1", backend=place)
        assert verdict("mended", again).passed
        assert faults.clear().names == ("fault-2", "fault-3")
        assert again.status.state == "ready"
        again.stop()

    def test_a_killed_server_is_exited_and_not_gone(self, place):
        server = llmlab.start("tiny", name="mine", backend=place)
        assert "nobody has killed it" in verdict("after-kill", "mine", predicted="exited").verdict.text
        assert "SIGKILL" in str(faults.kill("mine"))
        with pytest.raises(errors.UsageError, match="does not run"):
            faults.kill("mine")
        assert verdict("after-kill", server).passed
        wrong = verdict("after-kill", "mine", predicted="gone")
        assert not wrong.passed
        assert "record stays" in wrong.verdict.hint
        server.stop()
        assert verdict("after-kill", "mine", predicted="gone").passed


class TestNative(Broken):
    @pytest.fixture
    def place(self, require_engine):
        return "native"


class TestContainer(Broken):
    @pytest.fixture
    def place(self, require_engine, require_docker):
        return "container"

    def test_one_of_the_three_ran_into_its_memory_limit(self, place):
        faults.seed(3, backend=place)
        name = next(name for name in faults.NAMES if faults.truth(name) == faults.MEMORY)
        found = llmlab.inspect(name)
        limit = next(control for control in found.isolation if control.name == "memory")
        assert limit.recorded
        assert limit.recorded in found.status.detail
        faults.clear()


def test_only_numbers_choose():
    refused: tuple[Any, ...] = ("1", 1.5, True)
    for wrong in refused:
        with pytest.raises(errors.UsageError, match="no number"):
            faults.seed(wrong)


def test_without_patients_there_is_no_diagnosis():
    checked = verdict("fault-1", "killed")
    assert not checked.passed
    assert "faults.seed" in checked.verdict.hint
    assert "none of the diagnoses" in verdict("fault-1", "flu").verdict.text
    assert "none of the diagnoses" in verdict("fault-1", ["killed"]).verdict.text


def test_a_start_that_is_refused_leaves_nothing(require_engine, isolated_runtime):
    with pytest.raises(errors.DiskSpaceError, match="are free"):
        llmlab.start(faults.huge_model(), name="no-room", backend="native", force=True)
    with pytest.raises(errors.ModelFileError, match="truncated"):
        llmlab.start(faults.half_a_model(), name="half", backend="native")
    assert verdict("traces", "no-room", "half", predicted=0).passed
    checked = verdict("traces", "no-room", "half", predicted=2)
    assert not checked.passed
    assert "takes back" in checked.verdict.hint
    assert "names" in verdict("traces", predicted=0).verdict.text
    assert faults.clear().names == ()
    assert inventory(isolated_runtime) == []


def test_an_image_that_is_missing_is_named(require_engine, require_docker):
    with pytest.raises(errors.ImageError, match="localhost:1/not-here:1"):
        llmlab.start("tiny", name="no-image", image="localhost:1/not-here:1")
    assert verdict("traces", "no-image", predicted=0).passed


def test_servers_that_were_not_stopped_are_named(require_engine):
    with llmlab.start("tiny", name="mine", backend="native"):
        assert "mine" in verdict("gone").verdict.text


def test_an_engine_that_holds_no_limit_breaks_three_in_other_ways(
    require_engine, require_docker, monkeypatch
):
    # Large enough for everything, so that no question ends a server.
    monkeypatch.setattr(breaking, "_LEAST_MIB", 300)
    monkeypatch.setattr(breaking, "_ENOUGH_MIB", 302)
    faults.seed(1, backend="container")
    assert faults.MEMORY not in truths()
    faults.clear()


def test_what_was_begun_is_taken_back_when_it_cannot_be_broken(require_engine, isolated_runtime, monkeypatch):
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(breaking, "await_change", interrupted)
    with pytest.raises(KeyboardInterrupt):
        faults.seed(1, backend="native")
    assert inventory(isolated_runtime) == []
    assert "nothing was done" in verdict("fault-1", "killed").verdict.text
