"""A learner at a lesson: predicts, checks, and sees how far they have got."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from llmlab import render
from llmlab.errors import LabError, UnknownNameError
from llmlab.results import Result
from llmlab.workshop import keeping, recordings
from llmlab.workshop.modes import Mode
from llmlab.workshop.tasks import Given, Lesson, Outcome, Task, Verdict, failed, not_here, unanswered

_MARKS: dict[Outcome, tuple[str, str, render.Step]] = {
    "passed": ("✓", "passed", "done"),
    "failed": ("✗", "not yet", "failed"),
    "unanswered": ("○", "open", "ahead"),
    "not here": ("–", "not here", "ahead"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing(Result):
    """How far a learner has got in a lesson.

    Attributes:
        lesson: The lesson's number.
        passed: Ids of the tasks that are done.
        open: Of those that are not.
        not_here: Of those that this machine cannot do, which do not count.
    """

    lesson: str
    passed: tuple[str, ...]
    open: tuple[str, ...]
    not_here: tuple[str, ...]

    def __str__(self) -> str:
        """One line."""
        of = len(self.passed) + len(self.open)
        dots = "●" * len(self.passed) + "○" * len(self.open)
        rest = f", {len(self.not_here)} not possible here" if self.not_here else ""
        return f"lesson {self.lesson}  {dots}  {len(self.passed)} of {of}{rest}"

    def to_html(self) -> str:
        """The same line."""
        return render.html_small(str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Result):
    """What a check says, and how far the learner has got.

    Attributes:
        task: The task's id.
        title: What is to be reached.
        verdict: How it stands.
        standing: How far the learner has got.
    """

    task: str
    title: str
    verdict: Verdict
    standing: Standing

    @property
    def passed(self) -> bool:
        """Whether the task is done."""
        return self.verdict.outcome == "passed"

    def __str__(self) -> str:
        """Verdict, hint and progress."""
        mark, word, _ = _MARKS[self.verdict.outcome]
        lines = [f"{mark} {word}: {self.title}", f"  {render.plain(self.verdict.text)}"]
        if self.verdict.hint:
            lines.append(f"  → {render.plain(self.verdict.hint)}")
        return "\n".join([*lines, f"  {self.standing}"])

    def to_html(self) -> str:
        """The same as a card."""
        _, word, look = _MARKS[self.verdict.outcome]
        body = render.html_text(self.verdict.text)
        if self.verdict.hint:
            body += f'<div style="margin:4px 0"><strong>Hint</strong> {escape(self.verdict.hint)}</div>'
        return render.html_card(self.title, body + self.standing.to_html(), side=render.html_mark(word, look))


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted(Result):
    """A prediction that was noted, or why it was not.

    Attributes:
        task: The task's id.
        title: What is to be reached.
        value: What is noted now; None if nothing is.
        problem: Why it was not noted; "" if it was.
    """

    task: str
    title: str
    value: Any
    problem: str = ""

    def __str__(self) -> str:
        """One sentence."""
        if self.problem:
            return f"○ {self.title}\n  → {render.plain(self.problem)}"
        return f"✓ noted: {render.plain(_said(self.value))}. Now measure."

    def to_html(self) -> str:
        """The same as a card."""
        if self.problem:
            return render.html_card(
                self.title, render.html_text(self.problem), side=render.html_mark("open", "ahead")
            )
        text = f"You predict: {_said(self.value)}. Now measure."
        return render.html_card(self.title, render.html_text(text), side=render.html_mark("noted", "done"))


class Sitting(Result):
    """A learner at a lesson; shown, it is the lesson's card.

    Args:
        lesson: The lesson.
        mode: What there is on this machine.
    """

    def __init__(self, lesson: Lesson, mode: Mode) -> None:
        self._lesson, self._mode = lesson, mode

    @property
    def here(self) -> Mode:
        """What there is on this machine."""
        return self._mode

    @property
    def progress(self) -> Standing:
        """How far the learner has got."""
        kept = keeping.read(self._lesson.number)
        return standing(self._lesson, kept, self._mode)

    def predict(self, task: str, value: Any) -> Predicted:
        """Note a prediction, before anything is measured; the last one counts.

        Args:
            task: The task's id.
            value: The prediction; `...` stands for none yet.

        Raises:
            UnknownNameError: The lesson has no such task.
        """
        asked = self._task(task)
        if problem := _problem(asked, value):
            return Predicted(task=task, title=asked.title, value=None, problem=problem)
        before = keeping.read(self._lesson.number).get(task, keeping.Kept())
        now = keeping.change(
            self._lesson.number, task, predicted=keeping.plain(value), predictions=before.predictions + 1
        )
        return Predicted(task=task, title=asked.title, value=now.predicted)

    def check(self, task: str, *values: Any) -> Checked:
        """Judge a task by what runs on this machine and by the values given.

        Args:
            task: The task's id.
            values: What the notebook says: names of servers, results, figures;
                `...` stands for no answer yet.

        Raises:
            UnknownNameError: The lesson has no such task.
        """
        asked = self._task(task)
        number = self._lesson.number
        before = keeping.read(number).get(task, keeping.Kept())
        verdict = self._judged(asked, values, before)
        changes: dict[str, Any] = {"outcome": verdict.outcome, "text": verdict.text}
        if verdict.outcome in ("passed", "failed"):
            changes["tries"] = before.tries + 1
        now = keeping.change(number, task, **changes)
        if verdict.outcome == "passed" and before.passed_at is None:
            keeping.change(number, task, passed_at=now.changed_at)
        return Checked(task=task, title=asked.title, verdict=verdict, standing=self.progress)

    def recorded(self, name: str) -> recordings.Recording:
        """A result of another machine, where it cannot be had here; it says that it is one.

        Raises:
            UnknownNameError: There is no such recording.
        """
        return recordings.load(name)

    def to_dict(self) -> dict[str, Any]:
        """The lesson, the mode and the standing."""
        return {
            "lesson": self._lesson.number,
            "title": self._lesson.title,
            "mode": self._mode.to_dict(),
            "progress": self.progress.to_dict(),
        }

    def __str__(self) -> str:
        """The lesson, what there is here, and how far the learner has got."""
        head = f"{self._lesson.number} {self._lesson.title} ({self._lesson.minutes} minutes)"
        return f"{head}\n{self._mode}\n{self.progress}"

    def to_html(self) -> str:
        """The same as a card."""
        title = f"{self._lesson.number} · {self._lesson.title}"
        minutes = render.html_muted(f"{self._lesson.minutes} minutes")
        return render.html_card(title, self._mode.to_html() + self.progress.to_html(), side=minutes)

    def _task(self, name: str) -> Task:
        if task := self._lesson.task(name):
            return task
        known = [task.id for task in self._lesson.tasks]
        raise UnknownNameError(f"task of lesson {self._lesson.number}", name, known)

    def _judged(self, task: Task, values: tuple[Any, ...], kept: keeping.Kept) -> Verdict:
        if missing := _missing(task, self._mode):
            return not_here(missing)
        if any(value is ... for value in values):
            return unanswered(
                "There is no answer yet.", "put yours in place of the three dots, and run it again"
            )
        if task.predicts and kept.predicted is None:
            return unanswered(
                "You have not predicted it.",
                f'a guess first, right or wrong: lesson.predict("{task.id}", …), in a cell above',
            )
        try:
            return task.judge(Given(values=values, predicted=kept.predicted, mode=self._mode))
        except LabError as error:
            return failed(error.message, error.hint)


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def standing(lesson: Lesson, kept: dict[str, keeping.Kept], mode: Mode | None = None) -> Standing:
    """How far a learner has got; without a mode, what the checks said is not possible counts as such."""

    def impossible(task: Task) -> bool:
        if mode is not None and (task.needs != "cluster" or mode.nodes is not None):
            return bool(_missing(task, mode))
        return task.id in kept and kept[task.id].outcome == "not here"

    done = [task.id for task in lesson.tasks if task.id in kept and kept[task.id].passed_at is not None]
    left = [task for task in lesson.tasks if task.id not in done]
    return Standing(
        lesson=lesson.number,
        passed=tuple(done),
        open=tuple(task.id for task in left if not impossible(task)),
        not_here=tuple(task.id for task in left if impossible(task)),
    )


def _missing(task: Task, mode: Mode) -> str:
    """Why a task cannot be done here; "" if it can."""
    if task.needs and not mode.container:
        return f"This needs a container engine, and none answers here: {mode.no_container}"
    if task.needs == "cluster" and not mode.cluster:
        return f"This needs three machines; the others that answer: {', '.join(mode.nodes or ()) or 'none'}"
    return ""


def _problem(task: Task, value: Any) -> str:
    """Why a value is no prediction of this task; "" if it is one."""
    if value is ...:
        choices = (
            f": {', '.join(map(repr, task.choices))}"
            if task.choices
            else f" in {task.unit}"
            if task.unit
            else ""
        )
        return f"put your own guess in place of the three dots{choices}"
    if task.choices and value not in task.choices:
        return f"{value!r} is none of {', '.join(map(repr, task.choices))}"
    if task.unit and (isinstance(value, bool) or not isinstance(value, (int, float))):
        return f"a number in {task.unit} is wanted, not {value!r}"
    return ""
