"""Progress shown: of a learner, of a class, and the instructor's answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from llmlab import render
from llmlab.render import frames
from llmlab.results import Result
from llmlab.workshop.keeping import Kept, to_data
from llmlab.workshop.sitting import Standing, standing
from llmlab.workshop.tasks import Lesson, Task

_STUCK = 2
"""So many tries without success are a reason to walk over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonProgress:
    """A learner's progress in one lesson.

    Attributes:
        lesson: The lesson.
        standing: How far they have got.
        kept: What is kept of each task.
    """

    lesson: Lesson
    standing: Standing
    kept: dict[str, Kept]

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Task, title, state, prediction and number of tries of each task."""
        return [
            (
                task.id,
                task.title,
                self._state(task),
                "" if (kept := self.kept.get(task.id, Kept())).predicted is None else str(kept.predicted),
                str(kept.tries or ""),
            )
            for task in self.lesson.tasks
        ]

    def _state(self, task: Task) -> str:
        if task.id in self.standing.passed:
            return "passed"
        return "not here" if task.id in self.standing.not_here else "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Result):
    """A learner's progress.

    Attributes:
        lessons: Each lesson.
        detailed: Whether each task is shown.
        saved: The file it was written to; "" if it was not.
    """

    lessons: tuple[LessonProgress, ...]
    detailed: bool = False
    saved: str = ""

    HEADER = ("task", "what is to be reached", "state", "predicted", "tries")

    def to_dict(self) -> dict[str, Any]:
        """Standing and what is kept, lesson by lesson."""
        return {
            "lessons": [
                {**one.standing.to_dict(), **to_data(one.lesson.number, one.kept), "title": one.lesson.title}
                for one in self.lessons
            ],
            "saved": self.saved,
        }

    def _lines(self) -> Iterator[str]:
        width = max(len(one.lesson.title) for one in self.lessons)
        for one in self.lessons:
            yield f"{one.lesson.title:<{width}}  {one.standing}"

    def __str__(self) -> str:
        """A line for each lesson, or a table of the tasks."""
        parts = list(self._lines())
        if self.detailed:
            rows = [[render.plain(cell) for cell in row] for one in self.lessons for row in one.rows()]
            parts.append(render.text_table(self.HEADER, rows))
        if self.saved:
            parts.append(f"written to {render.plain(self.saved)}")
        return "\n".join(parts)

    def to_html(self) -> str:
        """The same as tables."""
        if self.detailed:
            body = "".join(one.standing.to_html() + self._tasks(one) for one in self.lessons)
        else:
            rows = [
                (
                    one.lesson.number,
                    one.lesson.title,
                    "●" * len(one.standing.passed) + "○" * len(one.standing.open),
                    f"{len(one.standing.passed)} of {len(one.standing.passed) + len(one.standing.open)}",
                    str(len(one.standing.not_here) or ""),
                )
                for one in self.lessons
            ]
            body = render.html_table(("", "lesson", "", "passed", "not possible here"), rows)
        if self.saved:
            body += render.html_small(f"written to {self.saved}")
        return body

    def _tasks(self, one: LessonProgress) -> str:
        looks: dict[str, render.Step] = {"passed": "done"}
        rows = [
            (
                escape(task),
                escape(title),
                render.html_mark(state, looks.get(state, "ahead")),
                escape(predicted),
                escape(tries),
            )
            for task, title, state, predicted, tries in one.rows()
        ]
        return render.html_grid(self.HEADER, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """What one learner has handed in. All of it is untrusted.

    Attributes:
        name: The learner's name, or the file's.
        made: When it was saved, seconds since the epoch.
        kept: Number of a lesson → id of a task → what is kept of it.
    """

    name: str
    made: float
    kept: dict[str, dict[str, Kept]]

    def standing(self, lesson: Lesson) -> Standing:
        """How far they have got in a lesson."""
        return standing(lesson, self.kept.get(lesson.number, {}))

    def stuck(self, lessons: tuple[Lesson, ...]) -> tuple[Lesson, Task, Kept] | None:
        """The task that was tried most often without success, or None."""
        tried = [
            (lesson, task, kept)
            for lesson in lessons
            for task in lesson.tasks
            if (kept := self.kept.get(lesson.number, {}).get(task.id))
            and kept.passed_at is None
            and kept.tries >= _STUCK
        ]
        return max(tried, key=lambda each: each[2].tries, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassProgress(Result):
    """The progress of a class.

    Attributes:
        lessons: The lessons that are shown.
        learners: Who has handed something in.
        problems: Files that do not count, and why.
    """

    lessons: tuple[Lesson, ...]
    learners: tuple[Learner, ...]
    problems: tuple[str, ...]

    @property
    def _header(self) -> tuple[str, ...]:
        return ("learner", *(lesson.number for lesson in self.lessons), "saved", "stuck at")

    def _rows(self) -> list[list[str]]:
        """Those who are stuck first, then those who have passed least."""
        found = []
        for learner in self.learners:
            standings = [learner.standing(lesson) for lesson in self.lessons]
            stuck = learner.stuck(self.lessons)
            where = (
                f"{stuck[0].number} {stuck[1].id}, {stuck[2].tries} tries: {stuck[2].text}" if stuck else ""
            )
            order = (stuck is None, sum(len(one.passed) for one in standings), learner.name)
            cells = [f"{len(one.passed)}/{len(one.passed) + len(one.open)}" for one in standings]
            saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(learner.made))
            found.append((order, [learner.name, *cells, saved, render.clipped(where, 70)]))
        return [row for _, row in sorted(found, key=lambda each: each[0])]

    def hard(self) -> list[tuple[str, str, str, str, str]]:
        """The tasks that were tried without success, the hardest first.

        Returns:
            Of each: lesson and id, title, how many have passed it, how many are
            at it, and what the check most often said to these.
        """
        found = []
        for lesson in self.lessons:
            for task in lesson.tasks:
                kept = [learner.kept.get(lesson.number, {}).get(task.id, Kept()) for learner in self.learners]
                done = sum(one.passed_at is not None for one in kept)
                trying = [one for one in kept if one.passed_at is None and one.tries]
                if not trying:
                    continue
                said, _ = Counter(one.text for one in trying).most_common(1)[0]
                row = (
                    f"{lesson.number} {task.id}",
                    task.title,
                    str(done),
                    str(len(trying)),
                    render.clipped(said, 60),
                )
                found.append((-len(trying), row))
        return [row for _, row in sorted(found)]

    def summary(self) -> str:
        """One sentence."""
        stuck = sum(learner.stuck(self.lessons) is not None for learner in self.learners)
        return f"{len(self.learners)} learners, {stuck} of them stuck"

    def to_dict(self) -> dict[str, Any]:
        """Each learner's standings."""
        return {
            "learners": [
                {
                    "name": learner.name,
                    "made": learner.made,
                    "lessons": [learner.standing(lesson).to_dict() for lesson in self.lessons],
                    "stuck": f"{stuck[0].number} {stuck[1].id}"
                    if (stuck := learner.stuck(self.lessons))
                    else None,
                }
                for learner in self.learners
            ],
            "problems": list(self.problems),
        }

    def to_frame(self) -> Any:
        """A pandas data frame: a row for each learner, a column for each lesson's passed tasks.

        Raises:
            UsageError: If pandas is not installed.
        """
        rows = [
            {
                "name": learner.name,
                **{lesson.number: len(learner.standing(lesson).passed) for lesson in self.lessons},
            }
            for learner in self.learners
        ]
        return frames.frame(rows, {"name": str, **{lesson.number: int for lesson in self.lessons}})

    _HARD = ("task", "what is to be reached", "passed", "at it", "the check says most often")

    def __str__(self) -> str:
        """The class, the hardest tasks, and files that do not count."""
        rows = [[render.plain(cell) for cell in row] for row in self._rows()]
        parts = [self.summary(), "", render.text_table(self._header, rows)]
        if hard := self.hard():
            parts += [
                "",
                render.text_table(self._HARD, [[render.plain(cell) for cell in row] for row in hard]),
            ]
        parts += ["", *map(render.plain, self.problems)] if self.problems else []
        return "\n".join(parts)

    def to_html(self) -> str:
        """The same as tables."""
        body = render.html_table(self._header, self._rows())
        if hard := self.hard():
            body += render.html_section("Where help is wanted", render.html_table(self._HARD, hard))
        body += "".join(map(render.html_note, self.problems))
        return render.html_card(self.summary(), body, wide=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerKey(Result):
    """The instructor's answers.

    Attributes:
        lessons: The lessons.
    """

    lessons: tuple[Lesson, ...]

    def to_dict(self) -> dict[str, Any]:
        """Lesson → task → what the instructor should know."""
        return {
            lesson.number: {
                task.id: {"title": task.title, "answer": task.answer, "key": task.key}
                for task in lesson.tasks
            }
            for lesson in self.lessons
        }

    def __str__(self) -> str:
        """Task by task."""
        lines = []
        for lesson in self.lessons:
            lines += [f"{lesson.number} {lesson.title}"]
            for task in lesson.tasks:
                lines.append(f"  {task.id}: {task.title}")
                if task.answer:
                    lines.append(f"      in place of the dots: {task.answer}")
                lines += [f"      {line}" for line in render.wrapped(task.key, 90)]
        return "\n".join(lines)

    def to_html(self) -> str:
        """The same as a card for each lesson."""
        return "".join(self._card(lesson) for lesson in self.lessons)

    def _card(self, lesson: Lesson) -> str:
        body = "".join(
            render.html_section(
                f"{task.id}: {task.title}",
                (f"<div><code>{escape(task.answer)}</code></div>" if task.answer else "")
                + render.html_text(task.key),
            )
            for task in lesson.tasks
        )
        return render.html_card(f"{lesson.number} {lesson.title}", body)
