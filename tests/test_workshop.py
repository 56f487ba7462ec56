"""Lessons: predictions are kept, checks look at what runs, a class is laid side by side."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest

import llmlab
from llmlab import workshop
from llmlab.errors import LabError, UnknownNameError, UsageError
from llmlab.workshop import keeping, progressing, recordings
from llmlab.workshop.lessons import NUMBERS, load
from llmlab.workshop.modes import Mode
from llmlab.workshop.progress_views import ClassProgress
from llmlab.workshop.sitting import Sitting
from llmlab.workshop.tasks import Lesson, Task, failed, passed

REPOSITORY = Path(__file__).parent.parent
NATIVE = Mode(container=False, no_container="none answers", gpus=(), binder=False)
CONTAINERS = Mode(container=True, no_container="", gpus=("a GPU",), binder=False)
HOSTILE = "<script>alert(1)</script>\x1b[31m"

LESSON = Lesson(
    number="99",
    title="A lesson",
    minutes=5,
    tasks=(
        Task(
            id="guess",
            title="A guess",
            judge=lambda given: (
                passed("So it is.") if given.predicted == given.value else failed("No.", "look again")
            ),
            key="It is what is measured.",
            unit="MiB",
            predicts=True,
        ),
        Task(
            id="choice",
            title="A choice",
            judge=lambda given: passed(str(given.predicted)),
            key="Any.",
            choices=("a", "b"),
            predicts=True,
        ),
        Task(
            id="sealed",
            title="In a container",
            judge=lambda given: passed(f"{given.value} is."),
            key="Yes.",
            needs="container",
        ),
    ),
)


@pytest.fixture
def sitting() -> Sitting:
    return Sitting(LESSON, NATIVE)


# Predicting and checking


def test_three_dots_are_no_answer_and_no_error(sitting):
    assert "three dots in MiB" in str(sitting.predict("guess", ...).problem).replace("the three", "three")
    checked = sitting.check("guess", ...)
    assert checked.verdict.outcome == "unanswered"
    assert not checked.passed
    assert sitting.progress.passed == ()


def test_a_check_asks_for_the_prediction_first(sitting):
    checked = sitting.check("guess", 3)
    assert checked.verdict.outcome == "unanswered"
    assert 'lesson.predict("guess"' in checked.verdict.hint
    sitting.predict("guess", 3)
    assert sitting.check("guess", 3).passed


def test_a_wrong_answer_fails_with_its_hint_and_a_right_one_stays_passed(sitting):
    sitting.predict("guess", 2)
    wrong = sitting.check("guess", 3)
    assert wrong.verdict.outcome == "failed"
    assert "look again" in str(wrong)
    assert "look again" in wrong.to_html()
    sitting.predict("guess", 3)
    assert sitting.check("guess", 3).passed
    sitting.check("guess", 4)
    assert sitting.progress.passed == ("guess",)
    kept = keeping.read("99")["guess"]
    assert (kept.predictions, kept.tries, kept.outcome) == (2, 3, "failed")


@pytest.mark.parametrize(("task", "value"), [("guess", "3"), ("guess", True), ("choice", "c"), ("choice", 1)])
def test_what_is_no_prediction_is_told_and_not_noted(sitting, task, value):
    noted = sitting.predict(task, value)
    assert repr(value) in noted.problem
    assert keeping.read("99") == {}


def test_what_the_machine_cannot_do_does_not_count(sitting):
    checked = sitting.check("sealed", "boxed")
    assert checked.verdict.outcome == "not here"
    assert "none answers" in str(checked)
    assert sitting.progress.not_here == ("sealed",)
    assert "0 of 2, 1 not possible here" in str(sitting.progress)
    assert Sitting(LESSON, CONTAINERS).check("sealed", "boxed").passed


def test_a_task_that_is_not_there_names_the_nearest(sitting):
    with pytest.raises(UnknownNameError, match="did you mean 'guess'"):
        sitting.predict("gues", 1)
    with pytest.raises(UnknownNameError, match="did you mean 'sealed'"):
        sitting.check("seeled")


def test_what_a_judge_cannot_use_is_a_failure_with_its_hint():
    def judge(_):
        raise UsageError("that is no figure", hint="give one")

    lesson = Lesson(number="98", title="", minutes=1, tasks=(Task(id="x", title="X", judge=judge, key="-"),))
    checked = Sitting(lesson, NATIVE).check("x", object())
    assert (checked.verdict.outcome, checked.verdict.hint) == ("failed", "give one")


def test_progress_survives_and_a_broken_file_is_laid_aside(sitting):
    sitting.predict("choice", "a")
    sitting.check("choice")
    assert Sitting(LESSON, NATIVE).progress.passed == ("choice",)
    path = keeping.folder() / "99.json"
    path.write_text('{"format": 1, "tasks": {"choice": {"tries": "many"}}}')
    assert sitting.progress.passed == ()
    assert (keeping.folder() / "99.unreadable.json").exists()
    assert sitting.check("choice").verdict.outcome == "unanswered"


def test_two_notebooks_do_not_take_each_others_answers_away():
    children = []
    for name in ("guess", "choice"):
        if (pid := os.fork()) == 0:
            for _ in range(30):
                keeping.change("99", name, tries=keeping.read("99").get(name, keeping.Kept()).tries + 1)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    assert {name: kept.tries for name, kept in keeping.read("99").items()} == {"guess": 30, "choice": 30}


# Real servers


def test_the_first_lesson_is_passed_by_doing_it(require_engine):
    lesson = workshop.lesson("01")
    missing = lesson.check("ready", "plain")
    assert "no server is called 'plain'" in str(missing)
    server = llmlab.start("tiny", backend="native", name="plain")
    assert lesson.check("ready", "plain").passed
    assert lesson.check("ready", server).passed
    answer = server.ask("What is a container?")
    assert lesson.check("rate", round(answer.tokens_per_s or 0), answer).passed
    mixed_up = lesson.check("rate", answer.ttft_s, answer)
    assert "TTFT is another figure" in mixed_up.verdict.hint
    assert lesson.check("rate", "fast", answer).verdict.outcome == "failed"
    lesson.predict("boxed", "slower")
    assert "chance" in lesson.check("boxed", answer, answer).verdict.hint
    lesson.predict("boxed", "about as fast")
    assert lesson.check("boxed", answer, answer).passed
    left = lesson.check("left")
    assert "plain" in left.verdict.text
    assert left.verdict.outcome == "failed"
    server.stop()
    assert lesson.check("left").passed
    assert lesson.progress.open == ("ttft",)


def test_a_server_that_has_ended_is_not_ready(require_engine):
    server = llmlab.start("tiny", backend="native", name="plain")
    assert server.record.process
    os.kill(server.record.process.pid, 9)
    lesson = workshop.lesson("01")
    end = time.monotonic() + 10
    while (checked := lesson.check("ready", "plain")).passed and time.monotonic() < end:
        time.sleep(0.05)
    assert checked.verdict.outcome == "failed"


def test_here_says_what_there_is(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
    monkeypatch.setenv("BINDER_SERVICE_HOST", "1")
    mode = workshop.here()
    assert (mode.container, mode.backend, mode.binder) == (False, "native", True)
    assert mode.no_container in str(mode)
    assert "Binder" in str(workshop.lesson("01"))


def test_a_cluster_takes_this_machine_s_engine_and_two_others():
    lesson = replace(LESSON, tasks=(replace(LESSON.tasks[-1], needs="cluster"),))
    nobody_looked, one = CONTAINERS, replace(CONTAINERS, nodes=("gpu1",))
    two = replace(CONTAINERS, nodes=("gpu1", "gpu2"))
    assert not one.cluster
    assert two.cluster
    assert not replace(NATIVE, nodes=two.nodes).cluster
    assert "gpu1" in str(Sitting(lesson, one).check("sealed", "x").verdict)
    # Who has not looked goes by what was said last.
    assert Sitting(lesson, nobody_looked).progress.not_here == ("sealed",)
    assert Sitting(lesson, two).check("sealed", "x").passed
    assert Sitting(lesson, nobody_looked).progress.passed == ("sealed",)
    assert ("other machines", "gpu1, gpu2") in two.facts()
    assert "other machines" not in str(nobody_looked)


def test_other_machines_are_looked_for_only_where_they_are_asked_for(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/docker.sock")
    assert workshop.here().nodes is None
    assert workshop.here(nodes=True).nodes == ()


# The lessons as they are written


@pytest.mark.parametrize("number", NUMBERS)
def test_a_lesson_and_its_notebook_say_the_same(number):
    lesson = load(number)
    (path,) = (REPOSITORY / "notebooks").glob(f"{number}-*.ipynb")
    notebook = nbformat.read(path, as_version=4)
    head = notebook.cells[0].source
    assert head.startswith(f"# {lesson.title}\n")
    assert f"*{lesson.minutes} minutes*" in head
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert f'workshop.lesson("{number}")' in code
    for task in lesson.tasks:
        assert f'lesson.check("{task.id}"' in code, f"{task.id} is never checked"
        assert (f'lesson.predict("{task.id}", ...)' in code) == task.predicts, task.id
        dots = f'("{task.id}", ...' in code
        assert bool(task.answer) == dots, f"{task.id}: three dots and an instructor's answer go together"
        assert bool(task.wrong) == dots, task.id
        assert task.key
        if task.choices and task.answer.startswith(("'", '"')):
            assert task.answer.strip("'\"") in task.choices


@pytest.mark.parametrize("name", recordings.names() or [pytest.param("", marks=pytest.mark.skip("none"))])
def test_a_recording_says_that_it_is_one(name):
    recording = recordings.load(name)
    assert str(recording).startswith("RECORDING")
    assert "recording" in recording.to_html()
    assert recording.made in recording.to_html()
    assert "/root" not in json.dumps(recording.to_dict())


def test_a_recording_that_is_not_there_names_what_is():
    with pytest.raises(UnknownNameError):
        recordings.load("no such")


# Progress


def of_class(folder: Path) -> ClassProgress:
    found = llmlab.progress(collect=str(folder))
    assert isinstance(found, ClassProgress)
    return found


def handed_in(folder: Path, name: str, *, tries: int = 0, done: bool = False, made: float = 1e9) -> Path:
    kept = {
        "ready": keeping.Kept(tries=tries, outcome="failed", text=HOSTILE, passed_at=1.0 if done else None)
    }
    path = folder / f"{name.replace('/', '_')[:40]}-{made:.0f}.json"
    data = {
        "format": progressing.FORMAT,
        "name": name,
        "made": made,
        "lessons": {"01": keeping.to_data("01", kept)},
    }
    path.write_text(json.dumps(data))
    return path


def test_progress_is_shown_saved_and_collected(tmp_path, require_engine):
    lesson = workshop.lesson("01")
    lesson.check("ttft", "reading the question")
    shown = llmlab.progress("1")
    assert "1 of 5" in str(shown)
    assert "ttft" in shown.to_html()
    file = tmp_path / "ada.json"
    assert str(file) in str(llmlab.progress(save=str(file), name="Ada"))
    llmlab.progress(save=str(file), name="Ada")
    table = of_class(tmp_path)
    assert table.learners[0].name == "Ada"
    assert "1/5" in str(table)
    assert table.to_frame().loc[0, "01"] == 1


def test_nothing_else_is_overwritten(tmp_path):
    file = tmp_path / "thesis.json"
    file.write_text("{}")
    with pytest.raises(UsageError, match="no progress file"):
        llmlab.progress(save=str(file))
    assert file.read_text() == "{}"
    with pytest.raises(UsageError, match="cannot be written"):
        llmlab.progress(save=str(tmp_path / "no" / "such" / "place.json"))


def test_who_is_stuck_comes_first_and_what_is_hard_is_named(tmp_path):
    handed_in(tmp_path, "Grace", done=True)
    handed_in(tmp_path, "Alan", tries=4)
    handed_in(tmp_path, "Edsger", tries=1)
    table = of_class(tmp_path)
    lines = str(table).splitlines()
    assert lines[0] == "3 learners, 1 of them stuck"
    assert lines[3].startswith("Alan")
    assert "01 ready, 4 tries" in lines[3]
    assert table.hard()[0][:4] == ("01 ready", "A model is ready to be asked", "1", "2")


def test_files_of_a_class_are_untrusted(tmp_path):
    handed_in(tmp_path, HOSTILE, tries=3)
    handed_in(tmp_path, "Grace", made=1e9)
    handed_in(tmp_path, "Grace", made=2e9, done=True)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "later.json").write_text('{"format": "llmlab progress 2"}')
    (tmp_path / "typed.json").write_text(
        json.dumps(
            {
                "format": progressing.FORMAT,
                "made": 1,
                "lessons": {"01": {"format": 1, "tasks": {"ready": {"tries": []}}}},
            }
        )
    )
    table = of_class(tmp_path)
    assert len(table.learners) == 2
    assert len(table.problems) == 5
    assert "<script" not in table.to_html()
    assert "\x1b" not in str(table)
    grace = next(learner for learner in table.learners if learner.name == "Grace")
    assert grace.standing(load("01")).passed == ("ready",)


def test_options_that_do_not_go_together_are_refused(tmp_path):
    cases: tuple[dict[str, Any], ...] = (
        {"collect": str(tmp_path), "save": "x.json"},
        {"name": "Ada"},
        {"collect": str(tmp_path)},
        {"collect": str(tmp_path / "nowhere")},
        {"lesson": "77"},
    )
    for wrong in cases:
        with pytest.raises(LabError):
            llmlab.progress(**wrong)


def test_the_key_has_each_answer_and_its_reason():
    key = llmlab.progress("01", key=True)
    for task in load("01").tasks:
        assert task.id in str(key)
        assert task.answer in str(key)
        assert task.id in key.to_html()
    assert set(workshop.answers("01")) == set(workshop.wrong_answers("01")) == {"ttft", "rate", "boxed"}
