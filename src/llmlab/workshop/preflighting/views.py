"""The preflight's one screen, as text and as a card."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

from llmlab import render
from llmlab.checkup.rows import Diagnosis
from llmlab.results import Result
from llmlab.workshop.preflighting.lines import Line, LineState
from llmlab.workshop.preflighting.needs import ModelNeed
from llmlab.workshop.preflighting.trying import Try

Mode = Literal["container", "native", "none"]
MARKS: dict[LineState, tuple[str, str]] = {
    "ok": ("✓", "var(--jp-success-color1, #2e7d32)"),
    "to do": ("✗", "var(--jp-error-color1, #c62828)"),
    "advice": ("▲", "var(--jp-warn-color1, #b26a00)"),
    "none": ("–", "var(--jp-ui-font-color2, #757575)"),
    "skipped": ("–", "var(--jp-ui-font-color2, #757575)"),
    "unknown": ("?", "var(--jp-warn-color1, #b26a00)"),
}
"""A mark and a colour for each state; the word is always beside them."""
_COLUMNS, _LEFT = 100, 29
_ONE = 1


def verdict(lines: tuple[Line, ...], gpu: str) -> tuple[Mode, str]:
    """Whether the workshop can be followed here, and how: the mode, and the same in words.

    Args:
        lines: What was found.
        gpu: The GPU in a few words.
    """
    blocked = {way for line in lines for way in line.blocks}
    if "container" not in blocked:
        return "container", f"Ready: containers, {gpu}"
    if "native" not in blocked:
        more = _things([line for line in lines if "container" in line.blocks])
        return "native", f"Ready natively; {f'containers: {more}' if more else 'no containers here'}"
    return "none", f"Not ready: {_things([line for line in lines if line.blocks]) or 'see below'}"


def _things(lines: list[Line]) -> str:
    count = sum(bool(line.fix) for line in lines)
    return "one thing to do" if count == _ONE else f"{count} things to do" if count else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight(Result):
    """Whether a workshop can be followed on this machine.

    Attributes:
        verdict: The answer in a few words.
        mode: How: in containers, natively, or not at all.
        lines: What was looked at, each with its one command where there is something to do.
        models: What the workshop's models need.
        tries: What came of starting a model.
        report: What `--save` writes.
        diagnosis: All that the doctor has seen.
        saved: Where the report was written; None if it was not.
    """

    verdict: str
    mode: Mode
    lines: tuple[Line, ...]
    models: tuple[ModelNeed, ...]
    tries: tuple[Try, ...]
    report: dict[str, Any] = field(repr=False)
    diagnosis: Diagnosis = field(repr=False)
    saved: Path | None = None

    @property
    def exit_status(self) -> int:
        """1 if the workshop cannot be followed in any mode."""
        return int(self.mode == "none")

    def to_dict(self) -> dict[str, Any]:
        """The report, and all rows and facts of the doctor's: these may name directories."""
        saved = None if self.saved is None else str(self.saved)
        return {**self.report, "saved": saved, "doctor": self.diagnosis.to_dict()}

    def _mark(self) -> LineState:
        return "to do" if self.mode == "none" else "ok"

    def _tail(self) -> list[str]:
        found = [f"The report is in {self.saved}."] if self.saved else []
        if any(line.fix for line in self.lines):
            found.append(
                "Type the commands in a terminal (JupyterLab: File, New, Terminal), then look again."
            )
        return [*found, "All that was looked at: llmlab doctor --all"]

    def __str__(self) -> str:
        """The verdict, and a line for each thing; each command on a line of its own."""
        parts = [f"{MARKS[self._mark()][0]} {self.verdict}", ""]
        for line in self.lines:
            head = f"  {MARKS[line.state][0]} {line.name}".ljust(20) + line.state
            wrapped = render.wrapped(" ".join(line.seen.split()), _COLUMNS - _LEFT) or [""]
            parts.append(head.ljust(_LEFT) + wrapped[0])
            parts += [" " * _LEFT + more for more in wrapped[1:]]
            if line.fix:
                # A command stays on one line: it is to be copied.
                parts.append(f"{' ' * _LEFT}→ {render.plain(line.fix)}")
        return "\n".join([*parts, "", *self._tail()])

    def to_html(self) -> str:
        """The same as a card."""
        mark, colour = MARKS[self._mark()]
        head = (
            f'<div style="font-size:120%;font-weight:600;margin:2px 0 8px"><span aria-hidden="true" '
            f'style="color:{colour};display:inline-block;width:1.2em">{mark}</span>{escape(self.verdict)}</div>'
        )
        body = "".join(_html_line(line) for line in self.lines)
        tail = "".join(render.html_small(text) for text in self._tail())
        return render.html_card("Preflight", f'{head}{body}<div style="margin-top:8px">{tail}</div>')


def html_mark(state: LineState) -> str:
    """The mark of a state, in its colour."""
    mark, colour = MARKS[state]
    return f'<span aria-hidden="true" style="color:{colour};display:inline-block;width:1.3em">{mark}</span>'


def html_command(command: str) -> str:
    """A command to copy: a click selects all of it."""
    return (
        f'<code style="display:block;margin:4px 0 2px;padding:5px 10px;border:1px solid {render.LINE};'
        "border-radius:4px;background:var(--jp-cell-editor-background, transparent);color:inherit;"
        f'overflow-wrap:anywhere;font-size:90%;user-select:all">{escape(render.plain(command))}</code>'
    )


def _html_line(line: Line) -> str:
    weight = "font-weight:600" if line.state in {"to do", "advice", "unknown"} else ""
    fix = html_command(line.fix) if line.fix else ""
    return (
        f'<div style="display:flex;flex-wrap:wrap;gap:0 12px;padding:4px 0;border-top:1px solid {render.LINE}">'
        f'<div style="flex:0 0 14em;display:flex"><span style="flex:1;{weight}">{html_mark(line.state)}{escape(line.name)}</span>'
        f'<span style="{render.MUTED}">{escape(line.state)}</span></div>'
        '<div style="flex:1 1 22em;min-width:0;overflow-wrap:anywhere;line-height:1.4">'
        f"{escape(render.plain(line.seen))}{fix}</div></div>"
    )
