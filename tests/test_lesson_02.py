"""Lesson 02: its checks on real servers, isolated and not, and on recordings where there are none."""

from __future__ import annotations

import pytest

import llmlab
from llmlab import workshop
from llmlab.errors import UsageError
from llmlab.workshop import isolation_judges, looking, recordings
from llmlab.workshop.lessons import lesson_02

NOWHERE = "unix:///no/such/docker.sock"
RECORDED = ("02-receipts", "02-audit", "02-against", "02-kept-apart")


@pytest.fixture
def lesson():
    return workshop.lesson("02")


@pytest.fixture
def servers(require_engine, require_docker):
    """The three of the notebook."""
    llmlab.start("tiny", name="plain", backend="native")
    llmlab.start("tiny", name="boxed", backend="container")
    llmlab.start("tiny", name="leaky", backend="container", network="bridge", root="writable")


def said(checked):
    return checked.verdict.outcome, f"{checked.verdict.text} → {checked.verdict.hint}"


# On running servers


def test_a_sealed_server_passes_and_each_weaker_one_fails_for_what_it_lacks(servers, lesson):
    assert lesson.check("sealed", "boxed").passed
    outcome, text = said(lesson.check("sealed", "leaky"))
    assert outcome == "failed"
    assert "leaky has a network: interfaces: lo, eth0" in text
    assert "line 'network'" in text
    outcome, text = said(lesson.check("sealed", "plain"))
    assert outcome == "failed"
    assert "plain runs natively: it may do what you may" in text
    assert "container" in text


def test_a_server_started_without_isolation_fails_every_wall_and_its_hint_says_why(
    require_engine, require_docker, lesson
):
    llmlab.start("tiny", name="boxed", backend="container", profile="none")
    assert lesson.check("sealed", "boxed").verdict.outcome == "failed"
    for judge, line in (
        (isolation_judges.no_network, "network"),
        (isolation_judges.read_only_root, "root file system"),
        (isolation_judges.no_capabilities, "capabilities"),
        (isolation_judges.memory_limited, "memory"),
    ):
        verdict = judge("boxed")
        assert verdict.outcome == "failed", line
        assert f"line '{line}'" in verdict.hint
        assert "profile" in verdict.hint, "it says where that comes from"


def test_a_native_server_fails_every_wall_because_nothing_was_asked_for(require_engine):
    handle = llmlab.start("tiny", name="plain", backend="native")
    for judge in (
        isolation_judges.no_network,
        isolation_judges.read_only_root,
        isolation_judges.no_capabilities,
        isolation_judges.memory_limited,
    ):
        verdict = judge(handle)
        assert verdict.outcome == "failed"
        assert "nothing was asked for" in verdict.hint
    assert isolation_judges.limits("plain", memory_mib=384, cpus=1.5).outcome == "failed"


def test_walls_are_judged_one_by_one(servers):
    assert isolation_judges.no_network("leaky").outcome == "failed"
    assert isolation_judges.read_only_root("leaky").outcome == "failed"
    assert isolation_judges.no_capabilities("leaky").outcome == "passed"
    assert isolation_judges.memory_limited("leaky").outcome == "passed"
    assert isolation_judges.in_container("leaky").outcome == "passed"


def test_no_server_of_that_name_says_which_there_are(servers, lesson):
    outcome, text = said(lesson.check("sealed", "bowed"))
    assert outcome == "failed"
    assert "running: leaky, boxed, plain" in text
    assert said(lesson.check("sealed", 7))[0] == "failed"


def test_limits_pass_only_as_they_were_wanted_and_in_force(require_engine, require_docker, lesson):
    llmlab.start("tiny", name="boxed", backend="container")
    assert "not 384 MiB" in said(lesson.check("limits", "boxed"))[1]
    llmlab.start("tiny", name="threads", backend="container", memory="384m", threads=1, cpus=1)
    assert "a limit of 1 CPUs, not 1.5 CPUs" in said(lesson.check("limits", "threads"))[1]
    mine = llmlab.start("tiny", name="mine", backend="container", memory="384m", cpus=1.5)
    done = lesson.check("limits", mine)
    assert done.passed
    assert "both are in force" in done.verdict.text
    assert lesson.check("limits", "mine").passed


def test_the_receipts_lie_side_by_side_and_tell_what_is_held(servers, lesson):
    seen = looking.receipts("plain", "boxed", "leaky")
    assert list(seen.cells) == ["plain", "boxed", "leaky"]
    assert seen.cells["boxed"]["network"] == looking.Cell(seen="only loopback", verdict="as asked")
    assert seen.cells["leaky"]["network"].verdict == "left open"
    assert seen.cells["plain"]["root file system"].seen in {"writable", "read-only"}
    assert "only loopback" in str(seen)
    assert "boxed: sealed" in seen.to_html()
    lesson.predict("write", "one directory in memory")
    assert lesson.check("write", seen).passed
    assert lesson.check("capabilities", ["leaky", "boxed"], seen).passed
    assert "has some" in said(lesson.check("capabilities", ["plain", "boxed", "leaky"], seen))[1]


def test_the_audit_of_the_weak_one_answers_the_predictions(servers, lesson):
    found = llmlab.audit("boxed", against="leaky", checks="N,F,P1,P4,R1")
    for task, right, wrong in (
        ("fails", ["files", "network"], ["network"]),
        ("door", "no", "yes"),
        ("memory", "it is stopped", "it gets slow"),
    ):
        lesson.predict(task, wrong)
        assert lesson.check(task, found).verdict.outcome == "failed", task
        lesson.predict(task, right)
        assert lesson.check(task, found).passed, task
    assert lesson.check("evidence", "erofs", found).passed
    shown = looking.evidence(found, "boxed", "F1")
    assert shown.verdict == "pass"
    assert all("EROFS" in seen and control == "created" for _, seen, control in shown.attempts)


def test_a_container_shares_kernel_and_clock_and_has_its_own_process_numbers(servers, lesson):
    boxed, plain = looking.kept_apart("boxed"), looking.kept_apart("plain")
    assert boxed.parts["pid"] == "its own"
    assert boxed.parts["net"] == "its own"
    assert boxed.parts["time"] in {"shared", "unknown"}, "unknown on kernels without time namespaces"
    assert set(plain.parts.values()) <= {"shared", "unknown"}
    assert plain.kernel.startswith("shared")
    lesson.predict("apart", "process numbers")
    assert lesson.check("apart", boxed).passed
    assert "runs natively" in said(lesson.check("apart", plain))[1]
    assert said(lesson.check("gone"))[0] == "failed"


# Without a container engine


@pytest.fixture
def alone(monkeypatch):
    """The lesson where no container engine answers."""
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    return workshop.lesson("02")


def test_what_needs_a_container_is_not_asked_where_there_is_none(alone):
    for task in ("sealed", "limits"):
        assert alone.check(task, "boxed").verdict.outcome == "not here"
    assert set(alone.progress.not_here) == {"sealed", "limits"}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_says_that_it_is_one_and_names_no_machine(name):
    recording = recordings.load(name)
    assert str(recording).startswith("RECORDING: ")
    assert "not this machine" in recording.to_html()
    assert "/home/" not in recording.html
    assert "/work/" not in f"{recording.text}{recording.html}{recording.data}"
    assert "<script" not in recording.html


def test_predictions_are_judged_by_the_recordings(alone):
    seen, found = alone.recorded("02-receipts"), alone.recorded("02-against")
    apart = alone.recorded("02-kept-apart")
    for task, right, value in (
        ("write", "one directory in memory", seen),
        ("fails", ["network", "files"], found),
        ("door", "no", found),
        ("memory", "it is stopped", found),
        ("apart", "process numbers", apart),
    ):
        alone.predict(task, right)
        assert alone.check(task, value).passed, task
    assert alone.check("capabilities", ["boxed", "leaky"], seen).passed
    assert alone.check("evidence", "EROFS", found).passed


@pytest.mark.parametrize(
    ("task", "guess", "recorded", "hint"),
    [
        ("write", "nowhere", "02-receipts", "two lines"),
        ("write", "everywhere", "02-receipts", "two lines"),
        ("fails", ["network"], "02-against", "left out"),
        ("fails", ["network", "files", "privileges"], "02-against", "privileges"),
        ("fails", ["network", "fires"], "02-against", "they are network, files"),
        ("fails", "everything", "02-against", "they are network, files"),
        ("fails", 9, "02-against", "in brackets and quotes"),
        ("fails", ["network", "files"], "02-audit", "both servers side by side"),
        ("fails", ["network", "files"], "02-receipts", "the cell with the audit"),
        ("door", "yes", "02-against", "published port"),
        ("memory", "it gets slow", "02-against", "SIGKILL"),
        ("memory", "it gets an error", "02-against", "SIGKILL"),
        ("apart", "the clock", "02-kept-apart", "namespace"),
        ("apart", "process numbers", "02-receipts", "kept_apart"),
    ],
)
def test_a_wrong_prediction_fails_with_its_hint(alone, task, guess, recorded, hint):
    alone.predict(task, guess)
    outcome, text = said(alone.check(task, alone.recorded(recorded)))
    assert outcome == "failed"
    assert hint in text


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["boxed"], "to its end"),
        (["boxed", "plain"], "bounding"),
        (["boxed", "sealed"], "they are of plain, boxed, leaky"),
        (None, "in brackets and quotes"),
        ([1], "in brackets and quotes"),
    ],
)
def test_wrong_names_for_the_capabilities_fail_with_their_hint(alone, names, hint):
    outcome, text = said(alone.check("capabilities", names, alone.recorded("02-receipts")))
    assert outcome == "failed"
    assert hint in text


@pytest.mark.parametrize(
    ("word", "hint"), [("EPERM", "filter of system calls"), ("EIEIO", "middle column"), (30, "middle column")]
)
def test_a_wrong_reason_of_the_kernels_fails_with_its_hint(alone, word, hint):
    outcome, text = said(alone.check("evidence", word, alone.recorded("02-against")))
    assert outcome == "failed"
    assert hint in text


def test_values_that_are_no_results_are_refused_in_words(alone):
    alone.predict("door", "no")
    for value in (None, "found", 3):
        outcome, text = said(alone.check("door", value))
        assert outcome == "failed"
        assert "without quotes" in text
    assert "names and receipts" in said(alone.check("capabilities", ["boxed"]))[1]
    assert "a word and the audit" in said(alone.check("evidence", "EROFS"))[1]


def test_evidence_of_what_is_not_in_an_audit_is_refused():
    found = recordings.load("02-against")
    with pytest.raises(UsageError, match="no server 'plain'"):
        looking.evidence(found, "plain", "F1")
    with pytest.raises(UsageError, match="no check 'Z9'"):
        looking.evidence(found, "boxed", "Z9")
    assert "no GPU" in str(looking.evidence(found, "boxed", "G1")), "what was not attempted says why"


def test_receipts_of_nothing_are_refused():
    with pytest.raises(UsageError, match="no server is named"):
        looking.receipts()


def test_every_task_tells_the_instructor_the_answer_and_the_mistake():
    for task in lesson_02.LESSON.tasks:
        assert len(task.key) > 20, task.id
        assert bool(task.answer) == bool(task.wrong), task.id


def test_an_engine_that_holds_no_limit_does_not_make_the_right_prediction_wrong(alone):
    found = alone.recorded("02-against")
    for each in found["audits"][0]["findings"]:
        if each["id"] == "R1":
            each.update(verdict="fail", observed="allocated 80 MiB")
    alone.predict("memory", "it is stopped")
    done = alone.check("memory", found)
    assert done.passed
    assert "does not hold it" in done.verdict.text
    alone.predict("memory", "it gets slow")
    assert alone.check("memory", found).verdict.outcome == "failed"
