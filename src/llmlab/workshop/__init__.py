"""Lessons: predictions before measurements, and checks of what really runs.

    from llmlab import workshop
    lesson = workshop.lesson("02")
    lesson.predict("network", "none")
    lesson.check("sealed", "boxed")

A check looks at the learner's own servers and figures, on this machine and at
once; nothing is sent anywhere. What was reached is kept in the user's state
directory, and `llmlab progress` shows it, saves it to be handed in, and lays
those of a class side by side.
"""

from __future__ import annotations

from llmlab.errors import UnknownNameError
from llmlab.workshop.lessons import NUMBERS, load
from llmlab.workshop.modes import Mode, here
from llmlab.workshop.recordings import Recording
from llmlab.workshop.sitting import Sitting
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict

__all__ = [
    "Given",
    "Lesson",
    "Mode",
    "Recording",
    "Sitting",
    "Task",
    "Verdict",
    "answers",
    "here",
    "lesson",
    "wrong_answers",
]


def lesson(number: str) -> Sitting:
    """Sit down to a lesson; what was reached before is still there.

    Args:
        number: Such as "02".

    Raises:
        UnknownNameError: There is no such lesson.
    """
    wanted = _lesson(number)
    return Sitting(wanted, here(nodes="cluster" in wanted.needs))


def answers(number: str) -> dict[str, str]:
    """The instructor's answers: id of a task → Python expression, as it is put in place of `...`.

    Raises:
        UnknownNameError: There is no such lesson.
    """
    return {task.id: task.answer for task in _lesson(number).tasks if task.answer}


def wrong_answers(number: str) -> dict[str, str]:
    """Answers that must not pass: id of a task → Python expression.

    Raises:
        UnknownNameError: There is no such lesson.
    """
    return {task.id: task.wrong for task in _lesson(number).tasks if task.wrong}


def _lesson(number: str) -> Lesson:
    if number not in NUMBERS:
        raise UnknownNameError("lesson", number, NUMBERS)
    return load(number)
