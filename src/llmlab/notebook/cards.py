"""What a start and an ask look like while they go on: text and HTML, no IPython."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llmlab import render
from llmlab.reporting import STAGES, Transfer

if TYPE_CHECKING:
    from llmlab.reporting import Course
    from llmlab.results import Answer

Bundle = dict[str, str]
_LONG_S = 120
_COLUMNS = 100


@dataclass
class Progress:
    """A start, a build: its stages so far and how long each has taken.

    Attributes:
        title: What is going on, such as "start tiny".
        python: The Python line that does the same, or "".
        stages: The stages that lie ahead, as far as they are known.
        outcome: "" while it goes on.
    """

    title: str
    python: str = ""
    stages: Sequence[str] = ()
    outcome: Literal["", "done", "failed"] = ""
    _begun: float = field(default_factory=time.monotonic)
    _ended: float | None = None
    _stages: dict[str, tuple[float, str]] = field(default_factory=dict)  # name → seconds before, detail
    _transfers: dict[str, Transfer] = field(default_factory=dict)  # stage → its bytes
    _stage: str = ""  # the present one, and since when
    _since: float = 0.0
    _notes: list[str] = field(default_factory=list)
    _course: Course | None = None

    def stage(self, name: str, detail: str) -> None:
        """It is at stage `name` now."""
        if name != self._stage:
            now = time.monotonic()
            if self._stage:
                before, earlier_detail = self._stages[self._stage]
                self._stages[self._stage] = (before + now - self._since, earlier_detail)
            if paused := self._transfers.get(self._stage):
                paused.pause()
            self._stage, self._since = name, now
        self._stages[name] = (self._stages.get(name, (0.0, ""))[0], detail)

    def follow(self, course: Course) -> None:
        """It has got so far; until it is over, that is shown as well, and no running time."""
        self._course = course
        self.stage(course.stage, course.detail)

    def transfer(self, done: int, total: int | None) -> None:
        """So many bytes of the present stage are done, of so many; from any thread."""
        transfer = self._transfers.get(self._stage)
        if transfer is None:
            transfer = self._transfers.setdefault(self._stage, Transfer())
        transfer.update(done, total)

    def note(self, message: str) -> None:
        """Something the user should see."""
        self._notes.append(message)

    def end(self, *, failed: bool) -> None:
        """It is over; the clock stops."""
        self._ended = time.monotonic()
        self.outcome = "failed" if failed else "done"

    def bundle(self) -> Bundle:
        """How it looks now."""
        return render.bundle(self._text(), self._html())

    @property
    def _still(self) -> Course | None:
        """What is shown while nothing may move."""
        return None if self.outcome else self._course

    def _elapsed(self) -> str:
        if self._still:
            return ""  # a clock that stands looks as if all stood
        return _seconds((self._ended or time.monotonic()) - self._begun, exact=bool(self.outcome))

    def _steps(self) -> list[tuple[render.Step, str, str, str]]:
        """(look, name, seconds, detail) of each stage; those left out are not among them."""
        steps: list[tuple[render.Step, str, str, str]] = []
        for name, (before, detail) in list(self._stages.items()):
            present = name == self._stage
            look: render.Step = "done"
            if present and self.outcome != "done":
                look = "failed" if self.outcome else "now"
            took = before + ((self._ended or time.monotonic()) - self._since if present else 0.0)
            said = _seconds(took, exact=look != "now")
            if look != "now" and name in self._transfers:
                said += f", {render.moved_text(*self._transfers[name].outcome)}"
            if (name == STAGES[-1] and look == "done") or (present and self._still):
                said = ""  # being ready takes no time; of what stands still, none is shown
            steps.append((look, name, said, detail if present else ""))
        if not self.outcome:
            steps.extend(("ahead", name, "", "") for name in self._ahead())
        return steps

    def _ahead(self) -> list[str]:
        """Stages after the present one; after the last that is known, if that is none of them."""
        places = [self.stages.index(name) for name in self._stages if name in self.stages]
        place = self.stages.index(self._stage) if self._stage in self.stages else max(places, default=-1)
        return [name for name in self.stages[place + 1 :] if name not in self._stages]

    def _running(self) -> Transfer | None:
        """The transfer that goes on now."""
        return None if self.outcome else self._transfers.get(self._stage)

    def _text(self) -> str:
        mark = {"": "…", "done": "✓", "failed": "✗"}[self.outcome]
        stages = [
            f"{name} {seconds}{f' ({detail})' if detail and look != 'done' else ''}".rstrip()
            for look, name, seconds, detail in self._steps()
            if look != "ahead"
        ]
        title = f"{self.title}  {self._elapsed()}".rstrip()
        lines = [f"{mark} {title}{': ' if stages else ''}{' · '.join(stages)}"]
        if transfer := self._running():
            bar = render.text_bar(transfer.done / transfer.total, width=20) if transfer.total else ""
            lines.append(f"  {bar}{render.transfer_text(*transfer.figures)}")
        if still := self._still:
            lines += [f"  {line}" for line in still.lines(_COLUMNS)[1:]]
        lines += [f"  note: {note}" for note in self._notes]
        if self.python:
            lines.append(f"  in Python: {self.python}")
        return "\n".join(lines)

    def _html(self) -> str:
        look: render.Step = {"": "now", "done": "done", "failed": "failed"}[self.outcome]  # type: ignore[assignment]
        transfer = self._running()
        bar = ""
        if transfer:
            bar = render.html_transfer(transfer.done, transfer.total, render.transfer_text(*transfer.figures))
        line = render.html_progress(
            (look, self.title, self._elapsed()), self._steps(), bar=bar, notes=self._notes, python=self.python
        )
        return line + self._still.to_html() if self._still else line


@dataclass
class Reply:
    """An answer while it comes in.

    Attributes:
        server: Name of the server that answers.
        answer: The finished answer, once there is one.
        waits: What it does before the first piece comes.
    """

    server: str = ""
    answer: Answer | None = None
    _begun: float = field(default_factory=time.monotonic)
    _pieces: list[str] = field(default_factory=list)
    _abandoned: bool = False
    waits: str = "reading the prompt"

    def add(self, piece: str) -> None:
        """The next piece of text."""
        self._pieces.append(piece)

    def abandon(self) -> None:
        """No answer will come."""
        self._abandoned = True

    def bundle(self) -> Bundle:
        """How it looks now: always as text, whatever the model wrote."""
        if self.answer is not None:
            return answer_bundle(self.answer)
        text = "".join(self._pieces)
        chips = [("server", self.server, "the server that answers")] if self.server else []
        if self._abandoned:
            chips.append(("ended", "failed", "the answer broke off"))
            return render.bundle(_with_figures(text, chips), render.html_answer(text, chips))
        elapsed = time.monotonic() - self._begun
        chips.append(("writing" if text else self.waits, f"{elapsed:.0f} s", "since it was sent"))
        # The text alone: front-ends that only append can then append.
        return render.bundle(text, render.html_answer(text, chips, busy=True))


def answer_bundle(answer: Answer) -> Bundle:
    """A finished answer with its figures."""
    chips = answer.chips()
    return render.bundle(_with_figures(str(answer), chips), render.html_answer(str(answer), chips))


def note_bundle(message: str) -> Bundle:
    """One sentence from llmlab."""
    return render.bundle(f"note: {message}", render.html_note(message))


def _with_figures(text: str, chips: Sequence[tuple[str, str, str]]) -> str:
    figures = " · ".join(f"{label} {value}" for label, value, _ in chips)
    return f"{text}\n[{figures}]" if text else f"[{figures}]"


def _seconds(value: float, *, exact: bool = True) -> str:
    if value >= _LONG_S:
        return render.duration_text(value)
    # Milliseconds only of what is over: a running clock would flicker.
    return f"{value * 1000:.0f} ms" if exact and value < 1 else f"{value:.1f} s"
