"""The preflighting of a room as one table, the ones who need help first."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from llmlab import render
from llmlab.render import frames
from llmlab.results import Result
from llmlab.workshop.preflighting.lines import LineState
from llmlab.workshop.preflighting.reading import Learner, Readiness, reports
from llmlab.workshop.preflighting.views import MARKS, html_command, html_mark

_HEADER = ("learner", "ready", "first to do", "GPU", "memory", "disk", "platform", "versions")
_STATES: dict[Readiness, LineState] = {"needs help": "to do", "natively": "ok", "in containers": "ok"}
_NAMED = 8  # learners that are named beside a fix
_COLUMNS = 26  # of a text in the table


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """What several learners have to do.

    Attributes:
        topic: What it is, in a few words.
        command: The command; "" where it depends, and the learner's own screen says it.
        names: Whom it concerns.
        helps: Whether they cannot follow the workshop before that.
    """

    topic: str
    command: str
    names: tuple[str, ...]
    helps: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Room(Result):
    """The preflighting of a room.

    Attributes:
        folder: Where the reports lie.
        learners: One for each learner, those who need help first.
        notes: (file, what is wrong with it) of what was left out.
    """

    folder: str
    learners: tuple[Learner, ...]
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def exit_status(self) -> int:
        """1 if somebody needs help, or nobody is there."""
        return int(not self.learners or any(each.mode == "none" for each in self.learners))

    def to_dict(self) -> dict[str, Any]:
        """Learners, what they have to do, and what was left out."""
        return {
            "folder": self.folder,
            "summary": self.summary(),
            "learners": [asdict(each) for each in self.learners],
            "fixes": [asdict(each) for each in self.fixes()],
            "left_out": [{"file": file, "why": why} for file, why in self.notes],
        }

    def to_frame(self) -> Any:
        """A pandas data frame: a row for each learner.

        Raises:
            UsageError: If pandas is not installed.
        """
        return frames.frame_of(self.learners, Learner)

    def fixes(self) -> tuple[Fix, ...]:
        """What is to be done, what concerns most learners first, and first of all what keeps them out."""
        found: dict[tuple[bool, str, str], list[str]] = {}
        for each in self.learners:
            if each.topic:
                found.setdefault((each.mode == "none", each.topic, each.fix), []).append(each.name)
        made = [
            Fix(topic=topic, command=command, names=tuple(names), helps=helps)
            for (helps, topic, command), names in found.items()
        ]
        return tuple(sorted(made, key=lambda fix: (not fix.helps, -len(fix.names), fix.topic)))

    def summary(self) -> str:
        """The room in one sentence."""
        if not self.learners:
            return f"no preflight report in {render.plain(self.folder)}"
        count = Counter(each.readiness for each in self.learners)
        total, stuck = len(self.learners), count["needs help"]
        ways = [f"{count[way]} {way}" for way in ("in containers", "natively") if count[way]]
        parts = [f"{total - stuck} of {total} ready" + (f": {', '.join(ways)}" if ways else "")]
        if stuck:
            parts.append(f"{stuck} need{'s' if stuck == 1 else ''} help{self._reasons('none', ': ')}")
        if reasons := self._reasons("native", ""):
            parts.append(f"for containers: {reasons}")
        return "; ".join(parts)

    def _reasons(self, mode: str, before: str) -> str:
        counted = Counter(each.topic for each in self.learners if each.mode == mode and each.topic)
        reasons = ", ".join(f"{number} × {topic}" for topic, number in counted.most_common())
        return before + reasons if reasons else ""

    def _cells(self, each: Learner) -> list[str]:
        return [
            render.clipped(each.name, _COLUMNS),
            each.readiness,
            each.topic or "nothing",
            render.clipped(re.sub(r"NVIDIA |GeForce ", "", each.gpu), _COLUMNS) or render.UNKNOWN,
            render.mib_text(each.memory_mib),
            render.bytes_text(each.disk_bytes),
            render.clipped(each.platform.partition(" (")[0], _COLUMNS) or render.UNKNOWN,
            each.versions or render.UNKNOWN,
        ]

    def __str__(self) -> str:
        """The summary, the table, what is to be done, and what was left out."""
        parts = [self.summary()]
        if self.learners:
            rows = [self._cells(each) for each in self.learners]
            for row, each in zip(rows, self.learners, strict=True):
                row[1] = f"{MARKS[_STATES[each.readiness]][0]} {row[1]}"
            parts += ["", render.text_table(_HEADER, rows, gap=2)]
        else:
            parts.append(
                f"Learners write one each: llmlab preflight --name NAME --save {render.plain(self.folder)}"
            )
        if fixes := self.fixes():
            parts += ["", "What to do"]
            for fix in fixes:
                parts.append(f"  {_counted(fix)}")
                parts.append(f"    → {fix.command or 'their own screen says it: llmlab preflight'}")
        if self.notes:
            parts += ["", "Left out"]
            parts += [f"  {file}: {why}" if file else f"  {why}" for file, why in self.notes]
        return "\n".join(parts)

    def to_html(self) -> str:
        """The same as a card, with a bar."""
        parts = [
            f'<div style="font-size:115%;font-weight:600;margin:2px 0 6px">{escape(self.summary())}</div>'
        ]
        if self.learners:
            grid = render.html_grid(
                _HEADER, [self._html_cells(each) for each in self.learners], right=("memory", "disk")
            )
            parts.append(f'<div style="overflow-x:auto;font-size:92%">{grid}</div>')
        else:
            parts.append(
                render.html_small("Learners write one each: %llm preflight --name NAME --save FOLDER")
            )
        if fixes := self.fixes():
            parts.append(render.html_section("What to do", "".join(_html_fix(fix) for fix in fixes)))
        if self.notes:
            left = render.html_pairs([(file or "more", why) for file, why in self.notes])
            parts.append(render.html_section("Left out", left))
        return render.html_card("Preflight of the room", "".join(parts), wide=True)

    def _html_cells(self, each: Learner) -> list[str]:
        cells = [escape(cell) for cell in self._cells(each)]
        weight = ";font-weight:600" if each.mode == "none" else ""
        cells[0] = f'<span title="{escape(each.file)}" style="white-space:nowrap{weight}">{cells[0]}</span>'
        cells[1] = (
            f'<span style="white-space:nowrap{weight}">{html_mark(_STATES[each.readiness])}{cells[1]}</span>'
        )
        # What there is to do stands out from what there is.
        return [cell if i < (3 if each.topic else 2) else _muted(cell) for i, cell in enumerate(cells)]


def _muted(html: str) -> str:
    return f'<span style="{render.MUTED}">{html}</span>'


def gathered(folder: str) -> Room:
    """The reports of a folder as one table.

    Raises:
        UsageError: If there is no such folder.
    """
    learners, notes = reports(folder)
    return Room(folder=folder, learners=tuple(learners), notes=tuple(notes))


def _counted(fix: Fix) -> str:
    more = f" and {len(fix.names) - _NAMED} more" if len(fix.names) > _NAMED else ""
    return f"{len(fix.names)} × {fix.topic}: {', '.join(fix.names[:_NAMED])}{more}"


def _html_fix(fix: Fix) -> str:
    head, _, names = _counted(fix).partition(": ")
    state: LineState = "to do" if fix.helps else "advice"
    command = (
        html_command(fix.command)
        if fix.command
        else render.html_small("Their own screen says it: %llm preflight")
    )
    return (
        f'<div style="margin:4px 0 8px;max-width:60em">{html_mark(state)}<strong style="font-weight:600">{escape(head)}</strong> '
        f"{render.html_muted(names)}{command}</div>"
    )
