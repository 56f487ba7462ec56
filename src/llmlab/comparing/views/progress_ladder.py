"""A ladder while it is measured: its rungs, what they reached in each block, which blocks are to come."""

from __future__ import annotations

from html import escape
from statistics import median
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.metrics import BY_KEY
from llmlab.comparing.reading import values_of
from llmlab.comparing.views.drawing import dots, place, svg
from llmlab.comparing.views.numbers import measured
from llmlab.comparing.views.progress import AHEAD, STILL, course, height, mean, said

if TYPE_CHECKING:
    from llmlab.comparing.progress import LadderSoFar, RungSoFar, State
    from llmlab.render.style import Step

_METRIC = BY_KEY["generated"]
LATER = "The steps come with the last block."
_TITLE_COLUMNS, _WHY_COLUMNS = 28, 72
_LOOKS: dict[State, Step] = {"ahead": "ahead", "now": "now", "done": "done", "left out": "failed"}
_MARKS: dict[State, str] = {"ahead": "○", "now": "●", "done": "✓", "left out": "✗"}
_COLUMN, _NARROWEST, _WIDEST, _HEIGHT, _EDGE = 22.0, 4.0, 460.0, 20, 4


def html(it: LadderSoFar) -> str:
    """A row for each rung: how it stands, its rate so far, its blocks."""
    rows = []
    for key, rung in it.rungs.items():
        name = render.html_mark(render.clipped(rung.title, _TITLE_COLUMNS), _LOOKS[_state(it, rung)])
        if rung.why:
            why = render.clipped(f"left out: {rung.why}", _WHY_COLUMNS)
            rows.append(
                f'{_cell(name)}<td colspan="2" style="{_CELL};{render.MUTED}" title="{escape(rung.why)}">{escape(why)}</td>'
            )
        else:
            rate = _rate(it, key)
            figure = "" if rate is None else f"{measured(rate)} {_METRIC.unit}"
            rows.append(f"{_cell(name)}{_cell(escape(figure), right=True)}{_cell(_strip(it, key))}")
    body = "".join(f"{render.ROW}{row}</tr>" for row in rows)
    head = f"{_METRIC.title.capitalize()} so far, median; a dot for each block"
    return (
        f'<table style="border-collapse:collapse;{render.FONT};font-size:90%;margin:10px 0 0">'
        f'<caption style="text-align:left;{render.MUTED};font-size:90%">{escape(head)}</caption>'
        f"<tbody>{body}</tbody></table>{said([LATER, STILL])}"
    )


def lines(it: LadderSoFar, columns: int) -> list[str]:
    """Stage and time left, a line for each rung, a sentence.

    Args:
        it: What is known so far.
        columns: The width.
    """
    on = _all(it)
    wide = max(
        (render.columns_of(render.clipped(rung.title, _TITLE_COLUMNS)) for rung in it.rungs.values()),
        default=0,
    )
    found = [f"{it.stage}: {it.detail}"]
    for key, rung in it.rungs.items():
        title = render.clipped(rung.title, _TITLE_COLUMNS)
        head = f"  {_MARKS[_state(it, rung)]} {title}{' ' * (wide - render.columns_of(title))}"
        rate = _rate(it, key)
        figure = "" if rate is None else f"{measured(rate)} {_METRIC.unit}"
        ahead = AHEAD * max(0, (it.planned or 0) - len(it.blocks))
        rest = (
            f"left out: {rung.why}"
            if rung.why
            else f"{figure:>16}  {course(it.blocks, key, _METRIC, on)}{ahead}"
        )
        found.append(f"{head}  {rest}".rstrip())
    found.append(f"  {LATER} {STILL}")
    return [render.clipped(line, columns) for line in found]


_CELL = "padding:1px 14px 1px 0;height:20px;text-align:left;white-space:nowrap;vertical-align:middle"


def _cell(html: str, *, right: bool = False) -> str:
    return f'<td style="{_CELL}{";text-align:right;font-variant-numeric:tabular-nums" if right else ""}">{html}</td>'


def _state(it: LadderSoFar, rung: RungSoFar) -> State:
    """In a block all rungs are measured; one that was only tried is not done."""
    return "now" if it.stage == "blocks" and rung.state == "done" else rung.state


def _rate(it: LadderSoFar, key: str) -> float | None:
    values = [value for block in it.blocks if not block.trouble for value in values_of(block, key, _METRIC)]
    return median(values) if values else None


def _all(it: LadderSoFar) -> list[float]:
    means = (mean(block, key, _METRIC) for block in it.blocks for key in it.rungs)
    return [value for value in means if value is not None]


def _strip(it: LadderSoFar, key: str) -> str:
    """A rung's blocks from left to right: a dot at its height among all values, or an empty place."""
    count = max(it.planned or 0, len(it.blocks))
    if not count:
        return ""
    column = min(_COLUMN, max(_NARROWEST, _WIDEST / count))
    on, found, words = _all(it), "", []
    places = "".join(
        place(i * column, column, 0, _HEIGHT, now=i == len(it.blocks) and it.warmed)
        for i in range(len(it.blocks), count)
    )
    for i, block in enumerate(it.blocks):
        value = mean(block, key, _METRIC)
        if value is not None:
            y = _HEIGHT - _EDGE - height(value, on) * (_HEIGHT - 2 * _EDGE)
            found += f"M{(i + 0.5) * column:.5g} {y:.4g}h0"
        words.append(measured(value))
    told = f"block by block: {', '.join(words) or 'none yet'}; {count - len(it.blocks)} to come"
    return svg(places + dots(found, "a", size=7, faint=False), round(count * column), _HEIGHT, told)
