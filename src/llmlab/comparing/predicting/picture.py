"""Guess, roofline and measurement on one logarithmic axis: a row each, so that no label hides another.

Each row says its rate in words; a page that does not trust a notebook takes drawings
away. Places are shares of the width, so that words keep their size in a narrow cell.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.roofline.picture import number, tokens

if TYPE_CHECKING:
    from llmlab.comparing.predicting.guess import Guess

_HEIGHT, _AXIS = 44, 34
_MIDDLE = _HEIGHT / 2
_LEAST_DECADES, _MARGIN_DECADES = 1.0, 0.12
_STEPS = ((1, 2, 5), (1,))  # of each power of ten: in a short axis, in a long one
_SHORT_DECADES = 2.2
# Shape and row say it as well as the colour.
_DIAMOND = '<path d="M0-7L7 0L0 7L-7 0Z" fill="{0}"/>'
_RING = '<circle r="6" fill="none" stroke="{0}" stroke-width="2.4"/>'
_DOT = '<circle r="6.5" fill="{0}"/>'
_MARKS = (
    _DIAMOND.format(render.SERIES_COLOURS[1]),
    _RING.format(render.SERIES_COLOURS[0]),
    _DOT.format(render.SERIES_COLOURS[2]),
)
_COLOURS = tuple(render.SERIES_COLOURS[n] for n in (1, 0, 2))


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis.

    Attributes:
        low: Its beginning, tokens per second.
        high: Its end.
    """

    low: float
    high: float

    @classmethod
    def around(cls, rates: Iterable[float]) -> Axis:
        """One that holds all of these, with some room around them."""
        known = [math.log10(rate) for rate in rates]
        low, high = min(known) - _MARGIN_DECADES, max(known) + _MARGIN_DECADES
        missing = max(0.0, _LEAST_DECADES - (high - low)) / 2
        return cls(10 ** (low - missing), 10 ** (high + missing))

    def across(self, rate: float) -> float:
        """The place of a rate, per cent of the width."""
        return round(100 * math.log(rate / self.low) / math.log(self.high / self.low), 2)

    @property
    def ticks(self) -> list[float]:
        """Round values on it; on a long one powers of ten, not too many."""
        decades = math.log10(self.high / self.low)
        steps = _STEPS[decades > _SHORT_DECADES]
        every = max(1, math.ceil(decades / 6))
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [step * 10.0**power for power in powers if power % every == 0 for step in steps]
        return [value for value in values if self.low <= value <= self.high]


def rows_html(seen: Guess, rows: Sequence[tuple[str, float | None, str]], earlier: Sequence[Guess]) -> str:
    """A table of guess, roofline and measurement, each with its mark on the common axis.

    Args:
        seen: The latest guess.
        rows: (name, tokens per second, how far off) of guess, roofline and measurement.
        earlier: Guesses before it: faint marks.
    """
    tries = [_rates(each) for each in (*earlier, seen)]
    axis = Axis.around(rate for rates in tries for rate in rates if rate is not None)
    lines = "".join(
        _row(axis, place, row, [rates[place] for rates in tries[:-1]], seen.measured)
        for place, row in enumerate(rows)
    )
    blank = '<td style="padding:0;border:0"></td>'
    lane = f'<td style="{_LANE}">{_scale(axis)}</td>'
    return (
        f'<table style="border-collapse:collapse;table-layout:auto;width:100%;max-width:46em;{render.FONT};margin:0">'
        f"<tbody>{lines}{render.ROW}{blank}{lane}</tr></tbody></table>"
    )


_LANE = "width:100%;padding:0 20px 0 14px;border:0;line-height:0;vertical-align:middle"


def _rates(seen: Guess) -> tuple[float | None, ...]:
    return seen.guess, seen.predicted, seen.measured


def _row(
    axis: Axis,
    place: int,
    row: tuple[str, float | None, str],
    before: Sequence[float | None],
    measured: float,
) -> str:
    name, rate, how = row
    swatch = (
        f'<svg width="18" height="16" viewBox="-9 -8 18 16" aria-hidden="true" '
        f'style="vertical-align:-3px;margin-right:5px">{_MARKS[place]}</svg>'
    )
    words = (
        f'<th scope="row" style="text-align:left;font-weight:400;padding:0;border:0;white-space:nowrap;'
        f'line-height:1.35;font-variant-numeric:tabular-nums">{swatch}{escape(name)} '
        f"<strong>{escape(tokens(rate))}</strong>"
        f'<div style="{render.MUTED};font-size:90%;padding-left:23px">{escape(how)}&nbsp;</div></th>'
    )
    return f'{render.ROW}{words}<td style="{_LANE}">{_lane(axis, place, rate, before, measured)}</td></tr>'


def _lane(axis: Axis, place: int, rate: float | None, before: Sequence[float | None], measured: float) -> str:
    """The row's part of the drawing: its marks, and how far it is to what was measured."""
    goal = axis.across(measured)
    drawn = [
        _line(axis.across(tick), axis.across(tick), 0, _HEIGHT, 'stroke="currentColor" opacity=".12"')
        for tick in axis.ticks
    ]
    drawn.append(
        _line(goal, goal, 0, _HEIGHT, f'stroke="{_COLOURS[2]}" stroke-width="1.5" stroke-dasharray="4 4"')
    )
    drawn += [
        _mark(axis.across(old), _MARKS[place], f'opacity=".32" data-earlier="{number(old)}"')
        for old in before
        if old is not None
    ]
    if rate is not None:
        here = axis.across(rate)
        if here != goal:
            look = f'stroke="{_COLOURS[place]}" stroke-width="2.5" opacity=".55"'
            drawn.append(_line(here, goal, _MIDDLE, _MIDDLE, look))
        drawn.append(_mark(here, _MARKS[place], f'data-rate="{number(rate)}"'))
    return _svg(_HEIGHT, "".join(drawn))


def _scale(axis: Axis) -> str:
    """The axis with its numbers."""
    line = _line(0, 100, 0.5, 0.5, 'stroke="currentColor" opacity=".45"')
    words = "".join(
        f'<text x="{axis.across(tick)}%" y="15" text-anchor="middle">{tick:,g}</text>' for tick in axis.ticks
    )
    title = '<text x="50%" y="30" text-anchor="middle">tokens per second, logarithmic</text>'
    return _svg(_AXIS, f'{line}<g fill="currentColor" opacity=".72" font-size="11">{words}{title}</g>')


def _svg(height: float, drawn: str) -> str:
    return f'<svg width="100%" height="{height:g}" style="overflow:visible;display:block" aria-hidden="true">{drawn}</svg>'


def _line(x1: float, x2: float, y1: float, y2: float, look: str) -> str:
    return f'<line x1="{x1}%" x2="{x2}%" y1="{y1:g}" y2="{y2:g}" {look}/>'


def _mark(x: float, shape: str, more: str) -> str:
    """A shape at a share of the width: only a nested drawing can be placed so."""
    return f'<svg x="{x}%" y="{_MIDDLE:g}" style="overflow:visible" {more}>{shape}</svg>'
