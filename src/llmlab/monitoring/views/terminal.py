"""Lines for a terminal that is painted anew in place: what runs now, and the last minute of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.monitoring.panels import Panel
from llmlab.monitoring.views.courses import GROUPS, panels_of, series_of
from llmlab.monitoring.views.words import newest, number, recorded, seconds, spark, top

if TYPE_CHECKING:
    from llmlab.monitoring.results import Monitoring
    from llmlab.telemetry.bands import Band
    from llmlab.telemetry.history import Key, Series

_LAST_S = 60.0
_SPARKS = (16, 12, 8, 5, 0)
_GAP, _FEWEST = "   ", 2


@dataclass(frozen=True, slots=True)
class _Cell:
    """One metric of one subject: its title, its course, its newest value."""

    title: str
    values: Sequence[float | None]
    most: float
    value: str

    def parts(self, spark_columns: int) -> tuple[str, str, str]:
        course = spark(self.values, self.most, spark_columns)
        return self.title, course.rjust(spark_columns), self.value


def live_block(seen: Monitoring, columns: int, rows: int) -> list[str]:
    """What a live display in a terminal shows: a line a server, then GPUs, the machine, the newest request.

    Args:
        seen: What was measured so far.
        columns: How wide a line may be.
        rows: How many lines there may be.
    """
    columns, rows = max(columns, _FEWEST), max(rows, 1)
    known = series_of(seen)
    panels = [panel for panel in panels_of(seen) if panel.first]
    names = list(dict.fromkeys(render.clipped(subject, columns) for subject, _ in known))
    room = min(max((render.columns_of(name) for name in names), default=0), max(columns // 4, _FEWEST))
    body: list[str] = []
    for group in GROUPS:
        body += _lines([panel for panel in panels if panel.group == group], known, room, columns)
    if not body:
        body = ["nothing could be measured so far"]
    head = [render.clipped(f"RECORDING: {line}", columns) for line in recorded(seen)]
    tail = [render.clipped(_request(band), columns) for band in newest(seen.requests, 1)]
    left = max(rows - len(head) - len(tail), 1)
    if len(body) > left:
        body = [*body[: left - 1], f"… and {len(body) - left + 1} more"]
    return [*head, *(render.clipped(line, columns) for line in body), *tail][:rows]


def _lines(panels: Sequence[Panel], known: dict[Key, Series], room: int, columns: int) -> list[str]:
    """A line for each subject of a group, with as many metrics as there is room for."""
    subjects = list(dict.fromkeys(subject for panel in panels for subject, _ in panel.rows))
    table: dict[str, list[_Cell | None]] = {subject: [] for subject in subjects}
    for panel in panels:
        cells = {subject: _cell(panel, known[subject, key]) for subject, key in panel.rows}
        for subject, row in table.items():
            row.append(cells.get(subject))
    for metrics in range(len(panels), 0, -1):
        for spark_columns in _SPARKS if metrics == 1 else _SPARKS[:-1]:
            lines = _laid_out({subject: row[:metrics] for subject, row in table.items()}, room, spark_columns)
            if all(render.columns_of(line) <= columns for line in lines):
                return lines
    return lines if panels else []


def _laid_out(table: dict[str, list[_Cell | None]], room: int, spark_columns: int) -> list[str]:
    """The cells in columns that stand under each other."""
    texts = {
        subject: [cell.parts(spark_columns) if cell else ("", "", "") for cell in row]
        for subject, row in table.items()
    }
    widths = [
        [max(render.columns_of(cell[part]) for cell in column) for part in range(3)]
        for column in zip(*texts.values(), strict=True)
    ]
    lines = []
    for subject, row in texts.items():
        name = render.clipped(subject, room)
        found = [name + " " * (room - render.columns_of(name))]
        for cell, width in zip(row, widths, strict=True):
            parts = [
                text + " " * (wide - render.columns_of(text)) for text, wide in zip(cell, width, strict=True)
            ]
            found.append(" ".join(part for part, wide in zip(parts, width, strict=True) if wide))
        lines.append(_GAP.join(found).rstrip())
    return lines


def _cell(panel: Panel, each: Series) -> _Cell:
    since = each.times_s[-1] - _LAST_S
    recent = [value for time, value in zip(each.times_s, each.values, strict=True) if time >= since]
    # "CPU 1.9": what else would it be?
    unit = "" if panel.unit == "CPUs" else panel.unit
    value = render.UNKNOWN if each.last is None else f"{number(each.last, top(each))} {unit}".strip()
    title = render.clipped(_short(panel.title), 24)
    return _Cell(title, recent, top(each), render.clipped(value, 24))


def _short(title: str) -> str:
    """A title without what the name of the line says already."""
    return title.removeprefix("GPU ") if title != "GPU memory" else title


def _request(band: Band) -> str:
    parts = [f"newest request: {band.subject}"]
    if band.ttft_s is not None:
        parts.append(f"TTFT {seconds(band.ttft_s)}")
    if band.tokens_per_s is not None:
        parts.append(f"{number(band.tokens_per_s)} tokens/s")
    if band.joules_per_token is not None:
        parts.append(f"{number(band.joules_per_token)} J/token")
    return ", ".join([*parts, band.outcome] if band.outcome else parts)
