"""What a lesson asks of a learner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from llmlab.workshop.modes import Mode

Outcome = Literal["passed", "failed", "unanswered", "not here"]
Need = Literal["", "container", "cluster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a check says.

    Attributes:
        outcome: How it stands.
        text: What was found, in a sentence.
        hint: What to look at next; "" if it is passed.
    """

    outcome: Outcome
    text: str
    hint: str = ""


def passed(text: str) -> Verdict:
    """The task is done."""
    return Verdict(outcome="passed", text=text)


def failed(text: str, hint: str) -> Verdict:
    """It is not, and this is where to look."""
    return Verdict(outcome="failed", text=text, hint=hint)


def unanswered(text: str, hint: str) -> Verdict:
    """Nothing was answered yet."""
    return Verdict(outcome="unanswered", text=text, hint=hint)


def not_here(text: str) -> Verdict:
    """It cannot be done on this machine, which is no fault of the learner's."""
    return Verdict(outcome="not here", text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a task is judged by.

    Attributes:
        values: What `check` was given.
        predicted: What was predicted; None if nothing was.
        mode: What there is on this machine.
    """

    values: tuple[Any, ...]
    predicted: Any
    mode: Mode

    @property
    def value(self) -> Any:
        """The first value; None if there is none."""
        return self.values[0] if self.values else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to predict or to bring about, and how it is judged.

    Attributes:
        id: Its name in the notebook, such as "sealed".
        title: What is to be reached, in a few words.
        judge: Says how it stands. Quick, and without changing anything. May
            raise a `LabError`, which is shown as a failure with its hint.
        key: What the instructor should know: the answer, why, and the usual mistake.
        choices: The predictions there are, if they are few.
        unit: Unit of a predicted number, which must then be a number.
        predicts: Whether a prediction comes first.
        needs: What the machine must have; without it, the task does not count.
        answer: A right answer as Python, put in place of `...` in the notebook.
        wrong: A wrong one, which must fail.
    """

    id: str
    title: str
    judge: Callable[[Given], Verdict]
    key: str
    choices: tuple[str, ...] = ()
    unit: str = ""
    predicts: bool = False
    needs: Need = ""
    answer: str = ""
    wrong: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One notebook of the workshop.

    Attributes:
        number: Such as "02".
        title: Its title.
        minutes: How long it takes in a class.
        tasks: What it asks, in the order of the notebook.
    """

    number: str
    title: str
    minutes: int
    tasks: tuple[Task, ...]

    def task(self, name: str) -> Task | None:
        """The task of that id."""
        return next((task for task in self.tasks if task.id == name), None)

    @property
    def needs(self) -> frozenset[Need]:
        """What its tasks need."""
        return frozenset(task.needs for task in self.tasks)
