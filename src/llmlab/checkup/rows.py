"""The doctor's findings, shown as text and as a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from llmlab import render
from llmlab.checkup.facts import Facts
from llmlab.render import frames
from llmlab.results import Result

RowState = Literal["ok", "warning", "fail", "not applicable", "unknown"]
STATES: tuple[RowState, ...] = ("fail", "warning", "unknown", "ok", "not applicable")
"""The worst first."""
_FOLDED: tuple[RowState, ...] = ("ok", "not applicable")
_QUIET = frozenset(_FOLDED)
# A mark and a colour; the word is always beside them.
_MARKS: dict[RowState, tuple[str, str]] = {
    "ok": ("✓", "var(--jp-success-color1, #2e7d32)"),
    "warning": ("▲", "var(--jp-warn-color1, #b26a00)"),
    "fail": ("✗", "var(--jp-error-color1, #c62828)"),
    "not applicable": ("–", "var(--jp-ui-font-color2, #757575)"),
    "unknown": ("?", "var(--jp-warn-color1, #b26a00)"),
}
_COUNTED: dict[RowState, str] = {
    "ok": "ok",
    "warning": "warnings",
    "fail": "failed",
    "not applicable": "not applicable",
    "unknown": "unknown",
}
_COLUMNS, _LEFT = 100, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Result):
    """One thing that was looked at.

    Attributes:
        group: What it belongs to.
        name: What was looked at.
        state: How it is.
        seen: What was seen. May hold text of other programs: untrusted.
        why: Why it matters.
        details: More that was seen, a line each.
        fix: Commands that mend it; a comment where no command does.
    """

    group: str
    name: str
    state: RowState
    seen: str
    why: str = ""
    details: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The row as lines of text."""
        return "\n".join(_lines(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(Result):
    """All that the doctor has found.

    Attributes:
        rows: What was looked at, group by group.
        facts: What it was concluded from.
        verbose: Whether text shows the healthy rows, too.
    """

    rows: tuple[Row, ...]
    facts: Facts
    verbose: bool = False

    @property
    def exit_status(self) -> int:
        """1 if a row fails."""
        return int(any(row.state == "fail" for row in self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Rows and facts as plain JSON data."""
        return {"rows": [row.to_dict() for row in self.rows], "facts": self.facts.to_dict()}

    def to_frame(self) -> Any:
        """A pandas data frame: a row for each thing that was looked at.

        Raises:
            UsageError: If pandas is not installed.
        """
        return frames.frame_of(self.rows, Row)

    def summary(self) -> str:
        """How many rows are in which state."""
        counts = [(state, sum(row.state == state for row in self.rows)) for state in STATES]
        words = [
            f"{n} {'warning' if state == 'warning' and n == 1 else _COUNTED[state]}"
            for state, n in counts
            if n
        ]
        return " · ".join(words)

    def _groups(self) -> list[tuple[str, list[Row], list[Row]]]:
        """Group, its problems, and the rest; in the order in which one thing rests on another."""
        groups = dict.fromkeys(row.group for row in self.rows)
        found = []
        for group in groups:
            rows = [row for row in self.rows if row.group == group]
            problems = [row for row in rows if row.state not in _QUIET]
            found.append((group, problems, [row for row in rows if row.state in _QUIET]))
        return found

    def __str__(self) -> str:
        """The problems in full, and a line for what is healthy."""
        lines = [self.summary()]
        if self.facts.note:
            lines.append(render.plain(self.facts.note))
        for group, problems, quiet in self._groups():
            lines += ["", group]
            for row in problems:
                lines += _lines(row)
            if self.verbose:
                for row in quiet:
                    lines += _lines(row)
                continue
            for state in _FOLDED:
                names = ", ".join(row.name for row in quiet if row.state == state)
                if names:
                    lines += _hung(f"  {_MARKS[state][0]} ", f"{state}: {names}", 4)
        if not self.verbose:
            lines += ["", "what was seen of each: llmlab doctor --all"]
        return "\n".join(lines)

    def to_html(self) -> str:
        """The same as a card."""
        parts = [render.html_small(self.facts.note)] if self.facts.note else []
        for group, problems, quiet in self._groups():
            body = "".join(_html_problem(row) for row in problems)
            if quiet:
                body += render.html_fold(_fold_title(quiet), _html_quiet(quiet))
            parts.append(render.html_section(group, body))
        worst: RowState = next(
            (state for state in STATES if any(row.state == state for row in self.rows)), "ok"
        )
        side = f'<span style="font-variant-numeric:tabular-nums">{_html_mark(worst)} {escape(self.summary())}</span>'
        return render.html_card("Doctor", "".join(parts), side=side)


def _lines(row: Row) -> list[str]:
    head = f"  {_MARKS[row.state][0]} {render.clipped(row.name, _LEFT - 5)}".ljust(_LEFT)
    word = f"{row.state}: " if row.state not in _QUIET else ""
    lines = _hung(head, word + row.seen, _LEFT)
    if row.state in _QUIET:
        return lines
    for detail in row.details:
        lines += _hung(f"{' ' * _LEFT}· ", detail, _LEFT + 2)
    if row.why:
        lines += _hung(" " * _LEFT, row.why, _LEFT)
    # A command stays on one line: it is to be copied.
    lines += [f"{' ' * _LEFT}→ {render.plain(command)}" for command in row.fix]
    return lines


def _hung(head: str, text: str, indent: int) -> list[str]:
    """Text behind a head, its further lines below its first."""
    wrapped = render.wrapped(" ".join(text.split()), _COLUMNS - indent) or [""]
    return [head + wrapped[0], *(" " * indent + line for line in wrapped[1:])]


def _html_mark(state: RowState) -> str:
    mark, colour = _MARKS[state]
    return f'<span aria-hidden="true" style="color:{colour};display:inline-block;width:1.2em">{mark}</span>'


def _html_problem(row: Row) -> str:
    why = render.html_small(row.why) if row.why else ""
    items = "".join(f"<li>{escape(detail)}</li>" for detail in row.details)
    details = f'<ul style="margin:2px 0 2px 0;padding-left:1.4em;font-size:95%">{items}</ul>' if items else ""
    fix = _html_fix(row.fix) if row.fix else ""
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:0 12px;margin:6px 0 8px">'
        f'<div style="flex:0 0 13em">{_html_mark(row.state)}<strong style="font-weight:600">{escape(row.name)}</strong>'
        f'<div style="padding-left:1.2em">{render.html_muted(row.state)}</div></div>'
        '<div style="flex:1 1 22em;min-width:0;overflow-wrap:anywhere;line-height:1.4">'
        f"{escape(row.seen)}{details}{why}{fix}</div></div>"
    )


def _html_fix(commands: Sequence[str]) -> str:
    """Commands to copy; where one is wrapped, its further lines stand back."""
    lines = "".join(
        f'<div style="padding-left:1.5em;text-indent:-1.5em">{escape(command)}</div>' for command in commands
    )
    return (
        '<code style="display:block;margin:4px 0;padding:6px 10px;border:1px solid var(--jp-border-color2, #d0d0d0);'
        "border-radius:4px;background:var(--jp-cell-editor-background, transparent);color:inherit;"
        f'overflow-wrap:anywhere;font-size:90%">{lines}</code>'
    )


def _html_quiet(rows: Sequence[Row]) -> str:
    lines = "".join(
        '<div style="display:flex;flex-wrap:wrap;gap:0 12px;margin:2px 0">'
        f'<div style="flex:0 0 13em">{_html_mark(row.state)}{escape(row.name)}</div>'
        f'<div style="flex:1 1 22em;min-width:0;overflow-wrap:anywhere">{escape(row.seen)}</div></div>'
        for row in rows
    )
    return f'<div style="font-size:95%">{lines}</div>'


def _fold_title(rows: Sequence[Row]) -> str:
    parts = []
    for state in _FOLDED:
        names = [row.name for row in rows if row.state == state]
        if names:
            parts.append(f"{_MARKS[state][0]} {len(names)} {state}: {', '.join(names)}")
    return " · ".join(parts)
