"""The forest plot: a strip of SVG in each row of the table, all on one logarithmic axis.

Strips lie against each other, so that margin and axis go through all rows. Whatever they
show stands in the same row as figures: a page that does not trust a notebook takes drawings away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from llmlab.comparing.views.numbers import decimals, floor_text, interval, ratio

if TYPE_CHECKING:
    from llmlab.comparing.findings import Finding, Floor
    from llmlab.comparing.views.rows import Row, Seen

WIDTH, HEIGHT = 380, 38
# The drawing's own unit is half a pixel, so that whole numbers are fine enough, and short.
_W, _H = WIDTH * 2, HEIGHT * 2
# Room at each side for arrows, and where the lines lie.
_SIDE = 30
_FLOOR_Y, _LINE_Y = 16, 44
_HALF_RANGES = (1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2, 3, 5, 10, 20, 50, 100)
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_DECADES = ((1.5, 2, 3, 5), (2, 5, 10, 20, 50, 100), (3, 10, 30, 100), (10, 100))
# Half pixels between two labels at least.
_APART = 60
# Of so many rows, intervals fit on the axis; those of the others end in an arrow.
_SHARE = 0.7


@dataclass(frozen=True)
class Axis:
    """The axis of ratios: logarithmic, 1 in the middle.

    Attributes:
        most: The ratio at its right end; 1/most is at the left.
        margin: What counts as negligible, a ratio − 1.
    """

    most: float
    margin: float

    def x(self, value: float) -> int:
        """The place of a ratio, also beyond the ends."""
        share = math.log(value) / math.log(self.most) if value > 0 else -9.0
        return round(_W / 2 + max(min(share, 9.0), -9.0) * (_W / 2 - _SIDE))

    @property
    def ends(self) -> tuple[int, int]:
        """Where the axis begins and ends."""
        return _SIDE, _W - _SIDE

    @cached_property
    def ticks(self) -> tuple[float, ...]:
        """Round ratios, as close together as their labels allow."""
        if self.most > 2:  # noqa: PLR2004 - steps of 0.5 would be too close
            return self._decades()
        for step in _STEPS:
            count = math.ceil(1 / step)
            found = [round(k * step, 2) for k in range(count // 2, 2 * count + 1)]
            inside = tuple(
                each for each in found if 1 / self.most <= each * 1.0001 and each <= self.most * 1.0001
            )
            places = [self.x(each) for each in inside]
            if all(after - before >= _APART for before, after in pairwise(places)):
                return inside
        return (1.0,)

    def _decades(self) -> tuple[float, ...]:
        above: tuple[float, ...] = ()
        for row in _DECADES:
            above = tuple(float(each) for each in row if each <= self.most * 1.0001)
            places = [self.x(each) for each in (1.0, *above)]
            close = any(after - before < _APART for before, after in pairwise(places))
            if not close and above[-1] > self.most / 3:
                break
        return (*(1 / each for each in reversed(above)), 1.0, *above)


def axis(it: Seen) -> Axis:
    """The axis on which the main interval and most others fit."""
    main = it.main
    edges = sorted(_reach(row.found) for row in it.rows if row.found)
    wanted = [1.7 * math.log1p(it.card.margin)]
    if edges:
        wanted.append(edges[math.ceil(_SHARE * len(edges)) - 1])
    if main and main.found:
        wanted.append(_reach(main.found))
    if main and main.floor:
        wanted.append(abs(math.log(main.floor.ratio)) + math.log1p(main.floor.half_width))
    most = next((each for each in _HALF_RANGES if math.log(each) >= max(wanted)), _HALF_RANGES[-1])
    return Axis(most=float(most), margin=it.card.margin)


def strip(row: Row, on: Axis) -> str:
    """A metric's intervals on the axis."""
    drawn = ""
    if row.floor:
        drawn += _hollow(row.floor, on)
    if row.found:
        drawn += _interval(row.found, on)
    better = "left" if row.metric.better == "lower" else "right"
    words = f"{row.metric.title}: {described(row)}; b is better to the {better}"
    return (
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {_W} {_H}" width="{WIDTH}" height="{HEIGHT}" '
        f'style="display:block">{_ground(on)}{_better(better)}{drawn}</svg>'
    )


def described(row: Row) -> str:
    """What a strip shows, in words."""
    floor = f"; a against itself {floor_text(row.floor)}" if row.floor else ""
    found = row.found
    if not found:
        return f"{row.nothing}{floor}"
    return (
        f"b over a {ratio(found)}, 95 % interval {interval(found.low, found.high)},"
        f" 90 % interval {interval(found.equivalence_low, found.equivalence_high)}, {found.verdict}{floor}"
    )


def scale(on: Axis) -> str:
    """The labels of the axis, which stand below the strips."""
    labels = "".join(
        f'<text x="{on.x(each)}" y="30" text-anchor="middle">{label(each)}</text>' for each in on.ticks
    )
    marks = "".join(f"M{on.x(each)} 0v7" for each in on.ticks)
    return (
        f'<svg aria-hidden="true" viewBox="0 0 {_W} 38" width="{WIDTH}" height="19" style="display:block">'
        f'<path d="M{on.ends[0]} 0H{on.ends[1]}{marks}" fill="none" stroke="currentColor" stroke-width="2" opacity=".5"/>'
        f'<g font-size="22" fill="currentColor" opacity=".75">{labels}</g></svg>'
    )


def key(on: Axis) -> str:
    """What the lines mean."""
    entries = (
        (f'<path d="M0 10h52" stroke-width="3"/><path d="M12 10h28" stroke-width="8"/>{_dot(26, 10)}',
         "ratio b/a, 95 % and 90 % interval"),
        ('<path d="M2 5h48v10h-48zM26 5v10" fill="none" stroke-width="2" opacity=".6"/>',
         "a against itself, 90 % interval"),
        ('<path d="M0 0h52v20h-52z" stroke="none" fill="currentColor" opacity=".13"/>',
         f"±{100 * on.margin:g} %, what counts as equivalent"),
    )  # fmt: skip
    return "".join(
        f'<span style="white-space:nowrap;margin-right:16px"><svg aria-hidden="true" width="26" height="10" viewBox="0 0 52 20" '
        f'fill="currentColor" stroke="currentColor">{drawn}</svg> {escape(meaning)}</span>'
        for drawn, meaning in entries
    )


def label(value: float) -> str:
    """A ratio on the axis; as a fraction where that is rounder."""
    return f"{value:g}" if math.isclose(value, round(value, 2)) else f"1/{round(1 / value, 2):g}"


def _reach(found: Finding) -> float:
    """How far an interval goes from 1, as a logarithm."""
    return max(abs(math.log(end)) if end > 0 else math.inf for end in (found.low, found.high))


def _ground(on: Axis) -> str:
    """The margin, the ticks, and 1."""
    left, right = on.x(1 / (1 + on.margin)), on.x(1 + on.margin)
    left, right = max(left, on.ends[0]), min(right, on.ends[1])
    lines = "".join(f"M{on.x(each)} 0v{_H}" for each in on.ticks if each != 1)
    return (
        f'<path d="M{left} 0H{right}V{_H}H{left}z" fill="currentColor" opacity=".1"/>'
        f'<path d="{lines}" stroke="currentColor" stroke-width="1" opacity=".18"/>'
        f'<path d="M{_W // 2} 0v{_H}" stroke="currentColor" stroke-width="2" opacity=".55"/>'
    )


def _better(side: str) -> str:
    x, anchor, words = (_W - 2, "end", "b better ▸") if side == "right" else (2, "start", "◂ b better")
    return f'<text x="{x}" y="{_H - 6}" font-size="17" text-anchor="{anchor}" fill="currentColor" opacity=".55">{words}</text>'


def _hollow(floor: Floor, on: Axis) -> str:
    low, high = (_within(on.x(floor.ratio * (1 + floor.half_width) ** sign), on) for sign in (-1, 1))
    return (
        f'<path d="M{low} {_FLOOR_Y - 5}H{high}v10H{low}zM{_within(on.x(floor.ratio), on)} {_FLOOR_Y - 5}v10" '
        'fill="none" stroke="currentColor" stroke-width="2" opacity=".6"/>'
    )


def _interval(found: Finding, on: Axis) -> str:
    """The interval as a line; what leaves the axis ends in an arrow with its value."""
    low, high = on.x(found.low), on.x(found.high)
    inner = [_within(on.x(each), on) for each in (found.equivalence_low, found.equivalence_high)]
    left, right = on.ends
    drawn = ""
    if low <= right and high >= left:
        drawn += f'<path d="M{_within(low, on)} {_LINE_Y}H{_within(high, on)}" stroke-width="3"/>'
        drawn += f'<path d="M{inner[0]} {_LINE_Y}H{inner[1]}" stroke-width="8"/>'
    point = on.x(found.ratio)
    if left <= point <= right:
        drawn += _dot(point, _LINE_Y)
    # Without a point, the arrow says where it would be.
    if low < left:
        drawn += _arrow(left, -1, found.ratio if point < left else found.low, found, alone=high < left)
    if high > right:
        drawn += _arrow(right, 1, found.ratio if point > right else found.high, found, alone=low > right)
    return f'<g stroke="currentColor" fill="currentColor">{drawn}</g>'


def _arrow(x: int, way: int, value: float, found: Finding, *, alone: bool) -> str:
    """An arrowhead, and what lies beyond it: beside it, or above the line where there is one."""
    digits = decimals(found.low, found.high)
    anchor = "end" if way > 0 else "start"
    y = _LINE_Y + (8 if alone else -12)
    return (
        f'<path d="M{x + 22 * way} {_LINE_Y}l{-22 * way}-10v20z" stroke="none"/>'
        f'<text x="{x - 8 * way}" y="{y}" font-size="21" text-anchor="{anchor}" stroke="none">'
        f"{value:.{digits}f}</text>"
    )


def _dot(x: int, y: int) -> str:
    return f'<path d="M{x} {y}h0" fill="none" stroke-width="16" stroke-linecap="round"/>'


def _within(x: int, on: Axis) -> int:
    left, right = on.ends
    return min(max(x, left), right)
