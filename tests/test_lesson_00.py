"""Lesson 00: its checks pass what is right, refuse what is wrong, and say where to look."""

from __future__ import annotations

from dataclasses import replace

import pytest

import llmlab
from llmlab import machine, workshop
from llmlab.checkup import Diagnosis, Facts, Row
from llmlab.workshop.lessons import lesson_00

NOWHERE = "unix:///no/such/docker.sock"


def report(**states: str) -> Diagnosis:
    rows = tuple(
        Row(group="Machine", name=name, state=state, seen="something")  # type: ignore[arg-type]
        for name, state in states.items()
    )
    return Diagnosis(rows=rows, facts=Facts())


@pytest.fixture
def lesson():
    return workshop.lesson("00")


def said(checked):
    return checked.verdict.outcome, f"{checked.verdict.text} → {checked.verdict.hint}"


def test_a_report_without_failing_rows_passes_without_a_reason(lesson):
    assert lesson.check("rows", {}, report(memory="ok", engine="warning")).passed


def test_each_failing_row_wants_a_reason_of_its_own(lesson):
    both = report(engine="fail", disk="fail", memory="ok")
    why = "this laptop may not install anything"
    assert said(lesson.check("rows", {"engine": why}, both))[0] == "failed"
    assert "disk" in said(lesson.check("rows", {"engine": why}, both))[1]
    done = lesson.check("rows", {"engine": why, "disk": why}, both)
    assert done.passed
    assert "engine, disk" in done.verdict.text


@pytest.mark.parametrize(
    ("reasons", "hint"),
    [
        ({}, "behind the arrow"),
        ({"engine": "no"}, "a reason is a sentence"),
        ({"engine": "no container engine here", "memory": "it is fine as it is"}, "copy the row's name"),
        ("the engine is missing", "name of a row and reason"),
        (None, "name of a row and reason"),
    ],
)
def test_what_is_no_reason_is_refused_with_a_hint(lesson, reasons, hint):
    outcome, text = said(lesson.check("rows", reasons, report(engine="fail", memory="ok")))
    assert outcome == "failed"
    assert hint in text


def test_reasons_without_a_report_are_refused_with_the_call_that_makes_one(lesson):
    assert "llmlab.doctor()" in said(lesson.check("rows", {}, "fine"))[1]
    assert 'lesson.check("rows", {}, report)' in said(lesson.check("rows", {}))[1]


def test_three_dots_as_a_reason_are_no_answer_yet(lesson):
    assert lesson.check("rows", {"engine": ...}, report(engine="fail")).verdict.outcome == "unanswered"


def test_the_doctors_report_without_an_engine_wants_the_engine_explained(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    lesson, found = workshop.lesson("00"), llmlab.doctor()
    assert "engine" in lesson.check("rows", {}, found).verdict.text
    reasons = {row.name: "not wanted on this machine" for row in found.rows if row.state == "fail"}
    assert lesson.check("rows", reasons, found).passed


def test_cpus_are_those_that_a_program_may_use(lesson):
    now = replace(machine.look(), cpus=3)
    lesson.predict("cpus", 3)
    assert lesson.check("cpus", now).passed
    lesson.predict("cpus", 64)
    outcome, text = said(lesson.check("cpus", now))
    assert outcome == "failed"
    assert "may use 3" in text
    assert "two hardware threads" in text


def test_memory_is_what_is_free_and_may_be_off_by_two_fifths(lesson):
    now = replace(machine.look(), total_mib=16 * 1024, available_mib=10 * 1024)
    for guess, passes in ((10, True), (13.9, True), (6.1, True), (16, False), (5, False)):
        lesson.predict("memory", guess)
        assert lesson.check("memory", now).passed is passes, guess
    assert "what is left" in lesson.check("memory", now).verdict.hint


@pytest.mark.parametrize("task", ["cpus", "memory"])
def test_a_figure_in_place_of_the_measurement_is_refused(lesson, task):
    lesson.predict(task, 2)
    assert "machine.look()" in said(lesson.check(task, 2))[1]


def test_a_prediction_that_is_no_number_is_not_noted(lesson):
    assert "CPUs" in lesson.predict("cpus", "two").problem
    assert lesson.check("cpus", machine.look()).verdict.outcome == "unanswered"


def test_the_place_is_judged_by_the_server_that_runs(require_engine, lesson):
    lesson.predict("backend", "native")
    assert "no server is called 'first'" in said(lesson.check("backend", "first"))[1]
    llmlab.start("tiny", name="first", backend="native")
    assert lesson.check("backend", "first").passed
    lesson.predict("backend", "container")
    outcome, text = said(lesson.check("backend", "first"))
    assert (outcome, "natively" in text, "Container engine" in text) == ("failed", True, True)
    assert said(lesson.check("gone")) == ("failed", "Still there: first. → %llm stop first")
    llmlab.stop("first")
    assert lesson.check("gone").passed


def test_the_reason_is_whether_a_container_engine_answers(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    without = workshop.lesson("00")
    assert without.check("why", "b").passed
    assert without.check("why", " B ").passed
    assert "row 'engine'" in said(without.check("why", "a"))[1]
    assert "small and large models" in said(without.check("why", "c"))[1]
    assert "one letter" in said(without.check("why", "because"))[1]


def test_with_a_container_engine_that_is_the_reason(require_docker, lesson):
    assert lesson.check("why", "a").passed
    assert lesson.check("why", "b").verdict.outcome == "failed"


def test_every_task_tells_the_instructor_the_answer_and_the_mistake():
    for task in lesson_00.LESSON.tasks:
        assert len(task.key) > 20, task.id
        assert bool(task.answer) == bool(task.wrong), task.id
