"""The notebooks run from the first to the last cell, with containers and without, and say what they should."""

from __future__ import annotations

import ast
import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from tools import answers, notebooks, rehearsal
from tools.rehearsal import shown

from llmlab import workshop
from llmlab.workshop import lessons
from tests.conftest import eventually, long_ones_slow

REPOSITORY = Path(__file__).parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
FIRST = REPOSITORY / "notebooks" / "01-first-model.ipynb"
# Places of one person's machine; /proc and /etc are on all of them.
_OWN_PLACE = re.compile(r"(?<![\w.~:/])/(?:home|root|Users|tmp|mnt|work|opt)/\w|[A-Z]:\\")
_MINUTES = re.compile(r"^\*(\d+) minutes\*$", re.MULTILINE)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    """A notebook as it is committed."""
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[nbformat.NotebookNode]:
    """Its code cells."""
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


# What is committed


@every_notebook
def test_a_notebook_is_committed_as_it_was_written(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    for cell in code(path):
        assert cell.outputs == [], cell.id
        assert cell.execution_count is None, cell.id
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))
    assert not any(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f-]+)?", name) for name in ids), "ids are words"


@every_notebook
def test_a_notebook_says_what_it_is_for_how_long_it_takes_and_what_it_needs(path):
    start = read(path).cells[0].source
    assert start.startswith(f"# {read(path).metadata.title}\n")
    for part in ("**Questions**", "**Objectives**", "**You need**"):
        assert part in start, part
    assert _MINUTES.search(start), "how long it takes stands in a line of its own: *20 minutes*"
    last = read(path).cells[-1]
    assert last.id == "key-points"
    assert last.source.startswith("## ")
    assert last.source.count("\n- ") >= 2


@every_notebook
def test_title_and_minutes_are_those_of_the_lesson(path):
    number = path.stem[:2]
    assert answers.lesson_of(read(path)) == number
    lesson = lessons.load(number)
    assert read(path).metadata.title == lesson.title
    assert f"\n*{lesson.minutes} minutes*\n" in read(path).cells[0].source


def test_every_lesson_has_its_notebook():
    assert [path.stem[:2] for path in NOTEBOOKS] == list(lessons.NUMBERS)


@every_notebook
def test_a_notebook_names_no_place_of_one_machine(path):
    for cell in read(path).cells:
        assert not _OWN_PLACE.search(cell.source), cell.id


@every_notebook
def test_a_notebooks_code_is_short_enough_to_be_read(path):
    for cell in code(path):
        lines = cell.source.splitlines()
        assert max(map(len, lines)) <= 110, cell.id
        assert len(lines) <= 30, cell.id
        ast.parse(TransformerManager().transform_cell(cell.source))


@every_notebook
def test_a_notebook_asks_for_each_answer_that_there_is_and_checks_each_task(path):
    number = path.stem[:2]
    asked = {task for cell in code(path) for task in answers.asked(cell.source)}
    judged = {task for cell in code(path) for task in answers.checked(cell.source)}
    assert asked == set(workshop.answers(number)), "what is asked for and what the instructor has"
    assert asked == set(workshop.wrong_answers(number)), "there is a wrong answer to each"
    assert judged == {task.id for task in lessons.load(number).tasks}


# Putting answers in


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('lesson.check("kv", ...)', 'lesson.check("kv", 2 * 3)'),
        ("lesson.predict('kv',...)", "lesson.predict('kv',2 * 3)"),
        ('lesson.check("kv", ..., answer)', 'lesson.check("kv", 2 * 3, answer)'),
        ('lesson.check(\n    "kv",\n    ...,\n)', 'lesson.check(\n    "kv",\n    2 * 3,\n)'),
        ('%llm ps\nx = %llm ask "a"\nlesson.check("kv", ...)', None),
        ('first = lesson.check("kv", ...)\nfirst', 'first = lesson.check("kv", 2 * 3)\nfirst'),
        ('lesson.check("other", ...)', 'lesson.check("other", ...)'),
        ('lesson.check("kv", 4)', 'lesson.check("kv", 4)'),
        ('%%llm ask\nlesson.check("other", ...)', '%%llm ask\nlesson.check("other", ...)'),
    ],
)
def test_an_answer_is_put_in_place_of_the_dots_and_nothing_else_changes(source, expected):
    expected = expected or source.replace("...", "2 * 3")
    assert answers.filled(source, {"kv": "2 * 3"}) == expected


def test_an_answer_that_has_no_place_is_an_error():
    with pytest.raises(ValueError, match="no answer could be put in for kv"):
        answers.filled('lesson.check("kv", 1, ...)', {"kv": "2"})


def test_what_is_asked_is_told_from_what_is_answered():
    source = (
        '%llm ps\nlesson.predict("a", ...)\nlesson.check("b", 1)\nlesson.check("c", value=...)\nf("d", ...)'
    )
    assert answers.asked(source) == {"a", "c"}
    assert answers.checked(source) == {"b", "c"}


# Runs


@functools.cache
def rehearsed(
    path: Path, mode: rehearsal.Mode, variant: answers.Variant
) -> tuple[rehearsal.Run, dict[str, nbformat.NotebookNode]]:
    """A run, and the cells by their ids; each is run once."""
    run, notebook = rehearsal.rehearse(path, mode, variant)
    return run, {cell.id: cell for cell in notebook.cells}


# `make notebooks` has all combinations; these are those that differ.
@pytest.mark.parametrize("path", long_ones_slow(NOTEBOOKS))
def test_a_notebook_runs_as_it_is_committed(path, require_engine):
    run, _ = rehearsed(path, "native", "as committed")
    assert run.ok, run.problem


# Natively they are answered in the tests of Binder's sessions.
@every_notebook
def test_the_instructors_answers_pass_every_task(path, require_engine, require_docker):
    run, _ = rehearsed(path, "container", "answered")
    assert run.ok, run.problem
    assert not run.open
    # Three machines are for `make cluster-test`.
    assert set(run.not_here) == {
        task.id for task in lessons.load(path.stem[:2]).tasks if task.needs == "cluster"
    }


@pytest.mark.parametrize("path", long_ones_slow(NOTEBOOKS))
def test_each_wrong_answer_fails_and_a_hint_says_why(path, require_engine):
    run, _ = rehearsed(path, "native", "answered wrongly")
    assert run.ok, run.problem
    needing = {task.id for task in lessons.load(path.stem[:2]).tasks if task.needs}
    assert set(run.not_here) == needing


def check_first_notebook(cells: dict[str, nbformat.NotebookNode]) -> None:
    """What holds with containers and without."""
    assert "✓ start tiny" in shown(cells["start-plain"])
    assert "llmlab.start('tiny', backend='native', name='plain')" in shown(cells["start-plain"])
    for name in ("ask", "assign", "off-subject", "long-ask", "ask-plain", "ask-boxed"):
        assert len(cells[name].outputs) == 1, f"{name}: an answer is shown once"
        assert "TTFT" in shown(cells[name])
    assert "container" in shown(cells["ask"]).lower()
    assert shown(cells["ask-plain"]).split("\n")[0]
    assert "ended length" in shown(cells["short"])
    assert shown(cells["typo"]).strip().count("\n") == 0
    assert "did you mean 'tiny'?" in shown(cells["typo"])
    assert "→" in shown(cells["no-file"]), "an error says what to do next"
    assert "stopped boxed, plain" in shown(cells["stop-all"])


def test_the_first_notebook_with_containers(require_engine, require_docker):
    run, cells = rehearsed(FIRST, "container", "as committed")
    assert run.ok, run.problem
    check_first_notebook(cells)
    assert "image" in shown(cells["start-boxed"])
    assert "note:" not in shown(cells["start-boxed"])
    assert "sealed" in shown(cells["ps"])
    receipt = shown(cells["inspect"])
    assert "DIFFERS" not in receipt
    assert "only loopback" in receipt
    assert "dropped ALL" in receipt


def test_the_first_notebook_without_a_container_engine(require_engine):
    run, cells = rehearsed(FIRST, "native", "as committed")
    assert run.ok, run.problem
    check_first_notebook(cells)
    note = shown(cells["start-boxed"])
    assert "note:" in note
    assert "install" in note, "it says how to get a container engine"
    assert "container" not in shown(cells["ps"])


# The runner itself: what it must not let pass


def made(tmp_path: Path, *cells: str) -> Path:
    """A notebook of these cells."""
    path = tmp_path / "99-made.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    return path


def test_a_cell_that_fails_is_named_by_its_number(tmp_path):
    run, _ = rehearsal.rehearse(made(tmp_path, "1 + 1", "1 / 0", "2"), "native", "as committed")
    assert not run.ok
    assert (run.failed_at, run.cells) == (2, 2)
    assert "ZeroDivisionError: division by zero" in run.problem


def test_a_server_that_is_left_running_is_a_failure_and_is_stopped(require_engine, tmp_path):
    path = made(tmp_path, "%load_ext llmlab", "%llm start tiny --native --name forgotten")
    run, notebook = rehearsal.rehearse(path, "native", "as committed")
    assert run.problem == "left running: forgotten"
    assert run.peak_mib is not None
    assert run.peak_mib > 50, "a kernel with an engine takes more"
    assert "ready" in shown(notebook.cells[1])


def test_a_process_that_is_left_running_is_a_failure(tmp_path):
    start = "import subprocess\nsubprocess.Popen(['sleep', '60'], start_new_session=True).pid"
    run, notebook = rehearsal.rehearse(made(tmp_path, start), "native", "as committed")
    assert re.fullmatch(r"left running: process \d+ \(sleep\)", run.problem)
    pid = int(shown(notebook.cells[0]))
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_task_that_stays_open_with_the_right_answers_is_a_failure(tmp_path):
    path = made(tmp_path, 'from llmlab import workshop\nlesson = workshop.lesson("01")')
    run, _ = rehearsal.rehearse(path, "native", "answered")
    assert "not passed with the instructor's answers: " in run.problem
    assert set(run.open) == {task.id for task in lessons.load("01").tasks} - set(run.not_here)


def test_a_wrong_answer_that_nothing_refuses_is_a_failure(tmp_path):
    path = made(tmp_path, 'from llmlab import workshop\nlesson = workshop.lesson("01")')
    run, _ = rehearsal.rehearse(path, "native", "answered wrongly")
    assert "a wrong answer to ttft is not refused: None" in run.problem


def test_a_hint_that_is_not_shown_is_a_failure(tmp_path):
    sit = 'from llmlab import workshop\nlesson = workshop.lesson("01")'
    run, _ = rehearsal.rehearse(
        made(tmp_path, sit, 'lesson.check("ttft", ...);'), "native", "answered wrongly"
    )
    assert "no hint is shown for a wrong answer to ttft" in run.problem
    run, _ = rehearsal.rehearse(
        made(tmp_path, sit, 'lesson.check("ttft", ...)'), "native", "answered wrongly"
    )
    assert "ttft" not in run.problem


@pytest.mark.slow
def test_the_command_runs_what_is_named_and_leaves_copies(require_engine, tmp_path):
    command = [sys.executable, "-m", "tools.notebooks", "--mode", "native", "--out", str(tmp_path), "01"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("01-first-model")]
    for row, variant in zip(rows, answers.VARIANTS, strict=True):
        assert re.match(rf"01-first-model +native +{variant} +\d+ ", row), row
    copy = read(tmp_path / "01-first-model.ipynb")
    assert any("TTFT" in shown(cell) for cell in copy.cells if cell.cell_type == "code")
    assert "<script" not in (tmp_path / "01-first-model.html").read_text()
    left = {path.name for path in (tmp_path / "native").iterdir()}
    assert {"01-first-model.ipynb", "01-first-model.answered.ipynb"} <= left


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["--mode", "swarm"], "no mode is called swarm"), (["77"], "no notebook is called 77")],
)
def test_a_mode_or_notebook_that_is_not_there_is_an_error(words, reason, capsys):
    with pytest.raises(SystemExit) as stopped:
        notebooks.main(words)
    assert stopped.value.code != 0
    assert reason in f"{stopped.value.code} {capsys.readouterr().err}"


def test_a_mode_that_was_asked_for_and_is_not_here_is_a_failure(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", rehearsal.NOWHERE)
    assert notebooks.main(["--mode", "container", "--out", str(tmp_path), "01"]) == 1
    assert "mode container was not run: " in capsys.readouterr().out


def test_the_demo_shows_the_notebook_and_leaves_a_page_without_foreign_scripts(require_engine, tmp_path):
    page = tmp_path / "page.html"
    command = [sys.executable, "tools/demo.py", str(FIRST), "--html", str(page)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '%llm ask "What is a container?"' in done.stdout
    assert "TTFT" in done.stdout
    html = page.read_text()
    assert "TTFT" in html
    assert "<script" not in html


def test_the_demo_fails_when_a_cell_fails(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps(notebook))
    command = [sys.executable, str(REPOSITORY / "tools" / "demo.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout
