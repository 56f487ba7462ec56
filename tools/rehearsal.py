"""One run of a notebook: its answers put in, its memory watched, what it leaves behind found."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tools.answers import Variant, answers_of, checked, filled, lesson_of
from tools.leftovers import Memory, stop_what_is_left

from llmlab import workshop

Mode: TypeAlias = Literal["native", "container", "binder"]
MODES: tuple[Mode, ...] = get_args(Mode)

NOWHERE = "unix:///no/such/docker.sock"
_CELL_S = 600
# Asked in the notebook's own kernel, after its last cell.
_PROBE = """
import json as _json
from llmlab import workshop as _workshop
from llmlab.workshop import keeping as _keeping
_now = _workshop.lesson({number!r}).progress
print(_json.dumps({{
    "passed": _now.passed, "open": _now.open, "not_here": _now.not_here,
    "outcomes": {{task: kept.outcome for task, kept in _keeping.read({number!r}).items()}},
}}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How one run of a notebook went.

    Attributes:
        notebook: Its name, without the ending.
        mode: Where its servers could run.
        variant: With which answers.
        problem: What went wrong; "" if nothing did.
        failed_at: Number of the code cell that failed, from 1; None if none did.
        cells: Code cells that were run.
        seconds: From the kernel's start to its end.
        peak_mib: Most memory that kernel and engines held at one time (resident, MiB); None if unseen.
        passed: Ids of the lesson's tasks that were passed.
        open: Of those that were not.
        not_here: Of those that do not apply in this mode.
        session_mib: Most memory that the whole session held, Jupyter's server included (MiB); None
            where there was no session.
    """

    notebook: str
    mode: Mode
    variant: Variant
    problem: str = ""
    failed_at: int | None = None
    cells: int = 0
    seconds: float = 0.0
    peak_mib: int | None = None
    passed: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    not_here: tuple[str, ...] = ()
    session_mib: int | None = None

    @property
    def ok(self) -> bool:
        """Whether all went as it should."""
        return not self.problem

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def run_from_dict(data: Mapping[str, Any]) -> Run:
    """A run from its JSON."""
    lists = {name: tuple(data[name]) for name in ("passed", "open", "not_here")}
    return Run(**{**data, **lists})


# Running


def rehearse(path: Path, mode: Mode, variant: Variant) -> tuple[Run, nbformat.NotebookNode]:
    """Run a notebook in a kernel and directories of its own.

    Args:
        path: The notebook; files beside it are there, too, as copies.
        mode: "native" hides the container engine; the others take what there is.
        variant: Which answers stand in place of `...`.

    Returns:
        How it went, and the notebook with its outputs.
    """
    notebook = nbformat.read(path, as_version=4)
    number = lesson_of(notebook)
    run = Run(notebook=path.stem, mode=mode, variant=variant)
    if number:
        answers = answers_of(number, variant)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = filled(cell.source, answers)
    # Short, because a unix socket's path has at most 103 bytes.
    folder = Path(tempfile.mkdtemp(prefix="llm-"))
    try:
        environment = _environment(mode, folder)
        with Memory(environment["LLMLAB_RUNTIME_DIR"]) as memory:
            shutil.copytree(path.parent, folder / "n", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
            run = _execute(notebook, run, number, folder / "n", environment)
        run = replace(run, peak_mib=memory.peak_mib)
        if left := stop_what_is_left(environment):
            run = replace(run, problem="; ".join(filter(None, [run.problem, f"left running: {left}"])))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return run, notebook


def _environment(mode: Mode, folder: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"}
    own |= {"LLMLAB_RUNTIME_DIR": str(folder / "r"), "LLMLAB_STATE_DIR": str(folder / "s")}
    if mode == "native":
        own.pop("DOCKER_CONTEXT", None)
        own |= {"DOCKER_HOST": NOWHERE, "CONTAINER_HOST": NOWHERE}
    return own


def _execute(
    notebook: nbformat.NotebookNode, run: Run, number: str | None, folder: Path, environment: dict[str, str]
) -> Run:
    """Run the cells, then ask what was reached."""
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=_CELL_S,
        store_widget_state=False,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    began, count = time.monotonic(), 0
    with (
        (folder.parent / "kernel.log").open("w") as log,
        client.setup_kernel(env=environment, stderr=log),
    ):
        for index, cell in enumerate(notebook.cells):
            count += cell.cell_type == "code"
            try:
                client.execute_cell(cell, index)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                run = replace(run, failed_at=count, problem=f"cell {count} ({cell.id}): {_last_line(error)}")
                break
        run = replace(run, cells=count)
        if number and run.ok:
            run = _judged(run, number, notebook, _probed(client, notebook, number))
    return replace(run, seconds=round(time.monotonic() - began, 1))


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\x1b\[[0-9;]*m", "", lines[-1])[:300] if lines else type(error).__name__


def _probed(client: NotebookClient, notebook: nbformat.NotebookNode, number: str) -> dict[str, Any]:
    """What the lesson says in the notebook's kernel; the cell that asks does not stay in the notebook."""
    cell = nbformat.v4.new_code_cell(_PROBE.format(number=number))
    notebook.cells.append(cell)
    try:
        client.execute_cell(cell, len(notebook.cells) - 1)
    finally:
        notebook.cells.pop()
    return dict(json.loads(shown(cell).splitlines()[-1]))


def _judged(run: Run, number: str, notebook: nbformat.NotebookNode, found: dict[str, Any]) -> Run:
    """The run with its tasks, and with what they should have been."""
    run = replace(
        run,
        passed=tuple(found["passed"]),
        open=tuple(found["open"]),
        not_here=tuple(found["not_here"]),
    )
    problems = []
    if run.variant == "answered" and run.open:
        problems.append(f"not passed with the instructor's answers: {', '.join(run.open)}")
    if run.variant == "answered wrongly":
        for task in workshop.wrong_answers(number):
            if task in run.not_here:
                continue
            if (outcome := found["outcomes"].get(task)) != "failed":
                problems.append(f"a wrong answer to {task} is not refused: {outcome}")
            elif not _hinted(notebook, task):
                problems.append(f"no hint is shown for a wrong answer to {task}")
    return replace(run, problem="; ".join(problems))


def _hinted(notebook: nbformat.NotebookNode, task: str) -> bool:
    """Whether the cell that judges a task shows a hint: a line that begins with an arrow."""
    judging = (cell for cell in notebook.cells if cell.cell_type == "code" and task in checked(cell.source))
    return any(re.search(r"^\s*→ \S", shown(cell), re.MULTILINE) for cell in judging)


def shown(cell: nbformat.NotebookNode) -> str:
    """What a cell shows, as text."""
    parts = []
    for output in cell.outputs:
        parts.append(output.get("text", ""))
        parts += output.get("traceback", [])
        parts.append(output.get("data", {}).get("text/plain", ""))
    return "\n".join(filter(None, parts))
