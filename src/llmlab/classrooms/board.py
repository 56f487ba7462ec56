"""The room's board, for the teacher: who is green, stuck, waiting."""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape
from typing import Any

from llmlab import render
from llmlab.results import Result
from llmlab.workshop.lessons import NUMBERS, load
from llmlab.workshop.progress_views import ClassProgress, Learner
from llmlab.workshop.tasks import Lesson

_LOOKS: dict[str, render.Finding] = {
    "stuck": "bad",
    "waiting": "open",
    "answering": "good",
    "all passed": "good",
    "at work": "good",
    "quiet": "plain",
}
_QUIET_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Board(Result):
    """A room at a glance.

    Attributes:
        url: Where learners reach it.
        found: What its process says.
        learners: What learners have sent of their progress.
        at: When, seconds since the epoch.
    """

    url: str
    found: dict[str, Any]
    learners: tuple[Learner, ...]
    at: float

    HEADER = ("learner", "now", "requests", "tokens", "refused", "tasks", "stuck at")

    @property
    def _lessons(self) -> tuple[Lesson, ...]:
        return tuple(load(number) for number in NUMBERS)

    def state(self, learner: dict[str, Any], sent: Learner | None) -> str:
        """How a learner fares, in a word or two."""
        if sent and sent.stuck(self._lessons):
            return "stuck"
        if learner["waiting"]:
            return "waiting"
        if learner["answering"]:
            return "answering"
        if sent and all(not sent.standing(lesson).open for lesson in self._lessons):
            return "all passed"
        return "at work" if learner["seen"] and self.at - learner["seen"] < _QUIET_S else "quiet"

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each learner: who needs help first."""
        sent = {each.name: each for each in self.learners}
        rows = []
        for learner in self.found["learners"]:
            handed = sent.get(learner["name"])
            state = self.state(learner, handed)
            rows.append(
                (
                    list(_LOOKS).index(state),
                    (
                        learner["name"],
                        state,
                        _of(learner["requests"], self.found["allowed"]["requests"]),
                        _of(learner["tokens"], self.found["allowed"]["tokens"]),
                        str(learner["refused"] or ""),
                        self._passed(handed),
                        self._stuck_at(handed),
                    ),
                )
            )
        return [row for _, row in sorted(rows, key=lambda each: (each[0], each[1][0]))]

    def summary(self) -> str:
        """One sentence."""
        rows = self.rows()
        counts = [(state, sum(row[1] == state for row in rows)) for state in _LOOKS]
        who = "1 learner" if len(rows) == 1 else f"{len(rows)} learners"
        return who + "".join(f", {count} {state}" for state, count in counts if count)

    def to_dict(self) -> dict[str, Any]:
        """What the process says, and each learner's progress."""
        handed = ClassProgress(lessons=self._lessons, learners=self.learners, problems=())
        states = {row[0]: row[1] for row in self.rows()}
        learners = [{**each, "state": states[each["name"]]} for each in self.found["learners"]]
        return {
            "url": self.url,
            "at": self.at,
            **self.found,
            "learners": learners,
            "progress": handed.to_dict(),
        }

    def __str__(self) -> str:
        """Tables of learners and servers."""
        rows = [[render.plain(cell) for cell in row] for row in self.rows()]
        parts = [self.summary(), "", render.text_table(self.HEADER, rows)] if rows else [self.summary()]
        parts += ["", *(f"{name}: {text}" for name, text, _ in self._servers())]
        return "\n".join(parts)

    def to_html(self) -> str:
        """The same as a card."""
        body = render.html_chips(self._servers())
        if rows := self.rows():
            cells = [
                [_one_line(row[0]), render.html_finding(row[1], _LOOKS[row[1]]), *map(escape, row[2:])]
                for row in rows
            ]
            body += render.html_grid(self.HEADER, cells, right=self.HEADER[2:5])
        handed = ClassProgress(lessons=self._lessons, learners=self.learners, problems=())
        if hard := handed.hard():
            body += render.html_section(
                "Where help is wanted",
                render.html_table(ClassProgress._HARD, hard),  # noqa: SLF001 - its words
            )
        side = render.html_muted(time.strftime("%H:%M:%S", time.localtime(self.at)))
        return render.html_card(self.summary(), body, side=side, wide=True)

    def _servers(self) -> list[tuple[str, str, str]]:
        found = []
        for each in self.found["servers"]:
            text = f"{each['model']}, {each['state']}, {each['busy']} of {each['slots']} slots"
            whose = f"started for {each['owner']}" if each["owner"] else "for all"
            found.append((each["name"], text, whose))
        return [*found, ("waiting", str(self.found["waiting"]), "requests that have no slot yet")]

    def _passed(self, handed: Learner | None) -> str:
        if handed is None:
            return ""
        standings = [handed.standing(lesson) for lesson in self._lessons]
        passed = sum(len(each.passed) for each in standings)
        return f"{passed} of {passed + sum(len(each.open) for each in standings)}"

    def _stuck_at(self, handed: Learner | None) -> str:
        stuck = handed.stuck(self._lessons) if handed else None
        if stuck is None:
            return ""
        lesson, task, kept = stuck
        return render.clipped(f"{lesson.number} {task.id}, {kept.tries} tries: {kept.text}", 60)


def _one_line(text: str) -> str:
    return f'<span style="white-space:nowrap">{escape(text)}</span>'


def _of(used: int, allowed: int | None) -> str:
    return str(used) if allowed is None else f"{used} of {allowed}"
