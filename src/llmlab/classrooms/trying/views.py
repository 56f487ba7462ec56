"""What attempts on a room have shown, as text and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from llmlab import render
from llmlab.lab.doors import Secret
from llmlab.results import Result

_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled(Result):
    """Learners who have just got a key; `[name]` is the key, which is not shown.

    Attributes:
        keys: Learner → key.
    """

    keys: dict[str, Secret] = field(repr=False)

    def __getitem__(self, name: str) -> Secret:
        """The key of one of them."""
        return self.keys[name]

    def to_dict(self) -> dict[str, Any]:
        """Who they are; not the keys."""
        return {"learners": list(self.keys)}

    def __str__(self) -> str:
        """Who they are."""
        return f"{', '.join(self.keys)}: a key each, which is not shown here"

    def to_html(self) -> str:
        """The same."""
        return render.html_small(str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What the room said to one.

    Attributes:
        who: Who asked.
        status: HTTP's.
        code: The room's word for the reason; "" if the question was answered.
        message: The reason in a sentence; "" likewise.
        retry_after_s: When to ask again, seconds; None if the room does not say.
    """

    who: str
    status: int
    code: str
    message: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors(Result):
    """Who was let in.

    Attributes:
        doors: What each was told.
    """

    doors: tuple[Door, ...]

    HEADER = ("who", "status", "code", "what the room says")

    def _rows(self) -> list[list[str]]:
        return [
            [each.who, str(each.status), each.code or "answered", each.message or ""] for each in self.doors
        ]

    def to_dict(self) -> dict[str, Any]:
        """Who → what was said."""
        return {"doors": {each.who: asdict(each) for each in self.doors}}

    def __str__(self) -> str:
        """A table."""
        return _table(self.HEADER, self._rows())

    def to_html(self) -> str:
        """The same."""
        cells = [
            [
                f'<span style="white-space:nowrap">{escape(row[0])}</span>',
                render.html_finding(row[1], "good" if row[1] == str(_OK) else "bad"),
                *map(escape, row[2:]),
            ]
            for row in self._rows()
        ]
        return render.html_card("At the room's door", render.html_grid(self.HEADER, cells), wide=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent(Result):
    """A quota that was used up.

    Attributes:
        answered: Requests that were answered.
        code: Why the next one was not; "" if all were.
    """

    answered: int
    code: str

    def __str__(self) -> str:
        """One line."""
        reason = f"the next one was refused: {self.code}" if self.code else "and none was refused"
        return f"{self.answered} answered; {reason}"

    def to_html(self) -> str:
        """The same."""
        return render.html_small(str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """An answer that was complete.

    Attributes:
        who: Whose it was.
        after_s: Seconds after the single request was sent; negative if it was complete before.
    """

    who: str
    after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Race(Result):
    """Many requests of one learner, and a single one of another after them.

    Attributes:
        many: Who sent many.
        one: Who sent one.
        ahead: How many of the first learner's were waiting or being answered when the other one asked.
        finishes: All answers, in the order in which they were complete.
    """

    many: str
    one: str
    ahead: int
    finishes: tuple[Finish, ...]

    @property
    def before(self) -> int:
        """How many of the many were complete after the single one was sent and before it was."""
        last = next(each.after_s for each in self.finishes if each.who == self.one)
        return sum(each.who == self.many and 0 <= each.after_s < last for each in self.finishes)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON data."""
        return {**asdict(self), "before": self.before}

    def _summary(self) -> str:
        return (
            f"{self.ahead} of {self.many}'s requests were there when {self.one} asked; "
            f"{self.before} of them were answered before {self.one}"
        )

    def __str__(self) -> str:
        """The order of the answers."""
        rows = [
            [str(place), each.who, f"{each.after_s:.2f} s"]
            for place, each in enumerate(self.finishes, start=1)
        ]
        return "\n".join([_table(("place", "who", f"after {self.one} asked"), rows), self._summary()])

    def to_html(self) -> str:
        """The same as bars in that order."""
        longest = max(abs(each.after_s) for each in self.finishes) or 1.0
        rows = []
        for each in self.finishes:
            width = max(2, round(220 * max(0.0, each.after_s) / longest))
            colour = render.SERIES_COLOURS[each.who == self.one]
            bar = f'<div style="width:{width}px;height:10px;border-radius:2px;background:{colour}"></div>'
            rows.append([escape(each.who), bar, f"{each.after_s:.2f} s"])
        header = ("answered", "", f"after {self.one} asked")
        body = render.html_grid(header, rows, right=header[2:])
        return render.html_card("Whose turn it was", body + render.html_small(self._summary()))


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenOff(Result):
    """An answer whose reader went away. Unknown is None.

    Attributes:
        who: The learner.
        asked: Tokens of the whole answer.
        received: Pieces of it that were read.
        prompt: Tokens of the prompt that were charged.
        charged: Tokens of the answer that were charged.
    """

    who: str
    asked: int
    received: int
    prompt: int | None
    charged: int | None

    def _pairs(self) -> list[tuple[str, str]]:
        return [
            ("asked for", f"{self.asked} tokens"),
            ("read, then gone", f"{self.received} pieces"),
            ("charged", f"{_count(self.charged)} tokens of the answer, {_count(self.prompt)} of the prompt"),
        ]

    def __str__(self) -> str:
        """A line for each figure."""
        return "\n".join(f"{label:<16} {value}" for label, value in self._pairs())

    def to_html(self) -> str:
        """The same as a card."""
        return render.html_card(f"An answer broken off by {self.who}", render.html_pairs(self._pairs()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheard(Result):
    """What somebody between a learner and the room could read.

    Attributes:
        tls: Whether the connection was encrypted.
        bytes_heard: How much passed, in both directions.
        question: Whether the question stood in it.
        key: Whether the learner's key stood in it.
    """

    tls: bool
    bytes_heard: int
    question: bool
    key: bool

    def _pairs(self) -> list[tuple[str, str]]:
        return [
            ("connection", "TLS" if self.tls else "plain HTTP"),
            ("passed", f"{self.bytes_heard} bytes"),
            ("the question", "readable" if self.question else "not in what passed"),
            ("the key", "readable" if self.key else "not in what passed"),
        ]

    def __str__(self) -> str:
        """A line for each."""
        return "\n".join(f"{label:<13} {value}" for label, value in self._pairs())

    def to_html(self) -> str:
        """The same as a card."""
        return render.html_card("What a listener hears", render.html_pairs(self._pairs()))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return render.text_table(
        [name.upper() for name in header], [[render.plain(cell) for cell in row] for row in rows]
    )


def _count(number: int | None) -> str:
    return render.UNKNOWN if number is None else str(number)
