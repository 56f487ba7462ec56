"""What the verb `classroom` returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from llmlab import render
from llmlab.classrooms.ledger import FAILED, Charge
from llmlab.lab.doors import Secret
from llmlab.render import frames
from llmlab.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomOpened(Result):
    """A room that is open.

    Attributes:
        url: Where learners reach it; after `#` the certificate's fingerprint, if it signs for itself.
        models: The models behind it.
        learners: How many have a key; None if a hub's users are the learners.
        notes: What the teacher should know.
    """

    url: str
    models: tuple[str, ...]
    learners: int | None
    notes: tuple[str, ...] = ()

    def _pairs(self) -> list[tuple[str, str]]:
        learners = "users of the hub" if self.learners is None else f"{self.learners} with a key"
        address, _, pin = self.url.partition("/#sha256=")
        certificate = [("certificate", f"signs for itself; SHA-256 {pin}")] if pin else []
        return [
            ("address", address),
            *certificate,
            ("learners", learners),
            ("models", ", ".join(self.models) or "none yet; start one: start tiny"),
            ("a learner types", f'%llm join "{self.url}"'),
        ]

    def __str__(self) -> str:
        """Its address, and what to do next."""
        lines = ["the room is open"]
        lines += [f"  {key:<16} {render.plain(value)}" for key, value in self._pairs()]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_html(self) -> str:
        """The same as a card."""
        body = render.html_pairs(self._pairs()) + "".join(map(render.html_note, self.notes))
        return render.html_card("Classroom", body, side=render.html_mark("open", "done"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomClosed(Result):
    """A room that was closed.

    Attributes:
        url: Where it was; None if none was open.
    """

    url: str | None

    def __str__(self) -> str:
        """What was done."""
        return f"closed the room at {self.url}" if self.url else "no room was open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained(Result):
    """A server that gets no more requests from the room.

    Attributes:
        name: Its name.
    """

    name: str

    def __str__(self) -> str:
        """What was done, and what to do next."""
        name = self.name
        return f"{name} gets no more requests; the board shows when it is idle, then: llmlab stop {name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyList(Result):
    """Who has a key, and the keys that were just made: they are shown here and nowhere else.

    Attributes:
        learners: Who has a key.
        made: Learner → key, of those that were just made; {} if they were written to a file.
        revoked: Whose keys were just taken back.
        cards: The file with the new keys; "" if there is none.
    """

    learners: tuple[str, ...]
    made: dict[str, Secret]
    revoked: tuple[str, ...] = ()
    cards: str = ""

    def _rows(self) -> list[tuple[str, str]]:
        return [(name, str(key)) for name, key in self.made.items()]

    def _said(self) -> list[str]:
        said = []
        if self.revoked:
            said.append(f"revoked: {', '.join(self.revoked)}")
        if self.cards:
            said.append(
                f"the new keys are in {self.cards}, and nowhere else; delete it once they are handed out"
            )
        elif self.made:
            said.append("These keys are not shown again, and not kept.")
            said.append(
                "A notebook keeps what it shows: clear this output, or use --cards FILE in its place."
            )
        return said

    def __str__(self) -> str:
        """New keys, or who has one."""
        parts = [render.text_table(("learner", "key"), self._rows())] if self.made else []
        if not self.made:
            parts.append(f"{len(self.learners)} with a key: {', '.join(self.learners) or 'nobody'}")
        return render.plain("\n".join([*parts, *self._said()]))

    def to_html(self) -> str:
        """The same as a card."""
        cells = [(escape(name), f"<code>{escape(key)}</code>") for name, key in self._rows()]
        body = render.html_grid(("learner", "key"), cells) if cells else ""
        if not self.made:
            body += render.html_text(", ".join(self.learners) or "nobody")
        body += "".join(map(render.html_small, self._said()))
        return render.html_card(f"Keys: {len(self.learners)} learner{'s' * (len(self.learners) != 1)}", body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What one learner has used.

    Attributes:
        name: The learner's name.
        requests: Requests that a server has taken.
        prompt_tokens: Tokens of prompts, as far as they are known.
        completion_tokens: Tokens of answers.
        waited_s: Seconds in the queue, all requests together.
        errors: Requests that ended by no fault of the learner's going away: refused by the engine, or cut off.
    """

    name: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    waited_s: float
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassUsage(Result):
    """What each learner has used since the file of charges was begun.

    Attributes:
        learners: Each learner, who used most first.
    """

    learners: tuple[Used, ...]

    HEADER = ("learner", "requests", "prompt tokens", "answer tokens", "waited", "errors")

    def _rows(self) -> list[list[str]]:
        return [
            [
                each.name,
                str(each.requests),
                str(each.prompt_tokens),
                str(each.completion_tokens),
                f"{each.waited_s:.1f} s",
                str(each.errors or ""),
            ]
            for each in self.learners
        ]

    def __str__(self) -> str:
        """A table."""
        if not self.learners:
            return "nobody has used anything yet"
        return render.text_table(self.HEADER, [[render.plain(cell) for cell in row] for row in self._rows()])

    def to_html(self) -> str:
        """The same as a card."""
        rows = [[escape(cell) for cell in row] for row in self._rows()]
        return render.html_card("Usage", render.html_grid(self.HEADER, rows, right=self.HEADER[1:]))

    def to_frame(self) -> Any:
        """A pandas data frame with a row for each learner.

        Raises:
            UsageError: If pandas is not installed.
        """
        return frames.frame_of(self.learners, Used)


def usage_of(charges: Iterable[Charge]) -> ClassUsage:
    """Charges, summed up for each learner."""
    by_name: dict[str, list[Charge]] = {}
    for charge in charges:
        by_name.setdefault(charge.learner, []).append(charge)
    found = [
        Used(
            name=name,
            requests=len(own),
            prompt_tokens=sum(each.prompt or 0 for each in own),
            completion_tokens=sum(each.completion or 0 for each in own),
            waited_s=sum(each.waited_s or 0.0 for each in own),
            errors=sum(each.outcome in FAILED for each in own),
        )
        for name, own in by_name.items()
    ]
    found.sort(key=lambda each: (-each.prompt_tokens - each.completion_tokens, each.name))
    return ClassUsage(learners=tuple(found))
