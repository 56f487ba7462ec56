"""What a conversation is made of: settings, exchanges, the reply of each server."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from llmlab import render
from llmlab.errors import LabError, UsageError
from llmlab.render.markdown import safe_markdown
from llmlab.results import Answer, Result

State = Literal["waiting", "writing", "stopping", "done", "stopped", "failed"]
"""waiting: nothing has come yet. stopping: the connection is closed, the server is looked at.
stopped: cut short by the user. failed: cut short by an error, or not answered at all."""

_OVER = frozenset({"done", "stopped", "failed"})
_MAX_TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How answers are asked for.

    Attributes:
        system: Instructions that stand before everything else; "" for none.
        temperature: 0 picks the likeliest token each time; at most 2.
        top_p: Probability of the tokens that are chosen from, above 0 and at most 1;
            None for the engine's own.
        max_tokens: Most tokens of an answer; None for 512, or 64 from synthetic weights.
        seed: Seed of the random choice; None for another one each time.
        probabilities: Whether to ask how likely each token was.
        timeout_s: Longest wait for the next piece of an answer, in seconds.

    Raises:
        UsageError: If one is out of range, or of another type.
    """

    system: str = ""
    temperature: float = 0.2
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    probabilities: bool = False
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        if not isinstance(self.system, str):
            raise UsageError("system is no text", hint="put it in quotes")
        if not _number(self.temperature) or not 0 <= self.temperature <= _MAX_TEMPERATURE:
            raise UsageError(f"temperature is {self.temperature}", hint="it must be between 0 and 2")
        if self.top_p is not None and not (_number(self.top_p) and 0 < self.top_p <= 1):
            raise UsageError(f"top_p is {self.top_p}", hint="it must be more than 0, and at most 1")
        if self.max_tokens is not None and not (_whole(self.max_tokens) and self.max_tokens >= 1):
            raise UsageError(f"max_tokens is {self.max_tokens}", hint="it must be a whole number, 1 or more")
        if self.seed is not None and not (_whole(self.seed) and self.seed >= 0):
            raise UsageError(f"seed is {self.seed}", hint="it must be a whole number, 0 or more")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(slots=True, kw_only=True)
class Reply:
    """What one server says to one question. It grows while it is being written.

    Attributes:
        server: Name of the server.
        state: How it stands.
        note: What else is to be said of it: what did not fit, why it ended.
        answer: The answer with its figures, once it is over; None if nothing came.
        seen_stopped: Of one that was cut short: True if the server was seen to have
            stopped, None if that cannot be said.
        joules: Energy that was counted meanwhile; None if there is no figure.
        energy_note: How that was counted, or why there is no figure.
        error: Why it failed.
        began: `time.monotonic()` when it was asked for.
        told: How many characters a reporter was told; -1 when it was told all, None before.
    """

    server: str
    state: State = "waiting"
    note: str = ""
    answer: Answer | None = None
    seen_stopped: bool | None = None
    joules: float | None = None
    energy_note: str = ""
    error: LabError | None = None
    began: float = field(default_factory=time.monotonic)
    told: int | None = None
    _text: str = ""

    def add(self, piece: str) -> None:
        """The next piece of text."""
        self._text += piece
        if self.state == "waiting":
            self.state = "writing"

    def add_note(self, note: str) -> None:
        """Something that is to be said of it."""
        self.note = f"{self.note}; {note}" if self.note else note

    def finish(self, state: State, answer: Answer | None) -> None:
        """Nothing more will come."""
        self.answer = answer
        self.state = state

    @property
    def text(self) -> str:
        """What was written so far. Untrusted."""
        return self._text if self.answer is None else self.answer.text

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in _OVER

    @property
    def joules_per_token(self) -> float | None:
        """Joules divided by tokens; None if either is unknown."""
        tokens = self.answer.completion_tokens if self.answer else None
        return None if self.joules is None or not tokens else self.joules / tokens

    def chips(self) -> list[tuple[str, str, str]]:
        """The figures to show: (label, value, definition)."""
        chips = [("server", self.server, "the server that answered")]
        if self.answer is not None:
            chips = self.answer.chips()
        if self.state == "failed":
            chips = [chip for chip in chips if chip[0] != "ended"]
            chips.append(("ended", "failed", "the answer broke off"))
        if self.state == "stopped":
            seen = ("stopped", "the server was seen to have stopped generating")
            unseen = ("cut off", "the connection was closed; the server was not seen to stop")
            ended = ("ended", *(seen if self.seen_stopped else unseen))
            chips = [ended if chip[0] == "ended" else chip for chip in chips]
        if self.joules_per_token is not None:
            chips.append(("energy", f"{self.joules_per_token:.2g} J/token", self.energy_note))
        return chips

    def to_dict(self) -> dict[str, Any]:
        """Everything known of it, as plain JSON data."""
        return {
            "server": self.server,
            "state": self.state,
            "text": self.text,
            "note": self.note,
            "seen_stopped": self.seen_stopped,
            "answer": self.answer.to_dict() if self.answer else None,
            "joules": self.joules,
            "joules_per_token": self.joules_per_token,
            "energy_note": self.energy_note,
        }

    def shown(self) -> str:
        """The text for a person: control characters made visible, random weights' left out."""
        return render.plain(self.text) or (str(self.answer) if self.answer and self.answer.synthetic else "")

    def to_html(self) -> str:
        """The text as safe Markdown, the note and the figures."""
        noise = self.answer is not None and self.answer.synthetic
        body = safe_markdown(str(self.answer) if noise else self.text).html
        return render.html_reply(body, self.chips(), below=render.html_note(self.note) if self.note else "")


@dataclass(slots=True, kw_only=True)
class Exchange(Result):
    """A question, and what each server said to it.

    Attributes:
        prompt: The question.
        replies: One for each server, in their order.
        settings: How it was asked.
    """

    prompt: str
    replies: tuple[Reply, ...]
    settings: Settings

    @property
    def over(self) -> bool:
        """Whether all replies are complete, or as complete as they will get."""
        return all(reply.over for reply in self.replies)

    @property
    def answer(self) -> Answer | None:
        """The answer of the first server."""
        return self.replies[0].answer

    @property
    def streamed(self) -> Answer | None:
        """The answer that was shown last while it came."""
        return self.replies[-1].answer

    @property
    def text(self) -> str:
        """What the first server wrote. Untrusted."""
        return self.replies[0].text

    def __str__(self) -> str:
        """What was said, with the figures."""
        return "\n".join([f"> {render.plain(self.prompt)}", *map(_lines, self.replies)])

    def to_html(self) -> str:
        """Question and answers; those of two servers side by side."""
        columns = "".join(
            f'<div style="flex:1 1 20em;min-width:0">{reply.to_html()}</div>' for reply in self.replies
        )
        return (
            f'<div style="{render.FONT};margin:10px 0 2px"><div style="{render.MUTED};font-size:85%">You</div>'
            f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{render.html_text(render.plain(self.prompt))}</div></div>'
            f'<div style="display:flex;flex-wrap:wrap;gap:0 24px">{columns}</div>'
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data."""
        return {
            "prompt": self.prompt,
            "settings": asdict(self.settings),
            "replies": [reply.to_dict() for reply in self.replies],
        }


def _lines(reply: Reply) -> str:
    figures = " · ".join(f"{label} {value}" for label, value, _ in reply.chips())
    notes = f"note: {reply.note}\n" if reply.note else ""
    return f"{reply.shown()}\n{notes}[{figures}]"
