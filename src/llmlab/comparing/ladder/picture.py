"""The waterfall: a bar for each step on a logarithmic scale, from left to right, and the whole gap last.

On it lengths add up, as logarithms do. What it shows stands beside it in a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.ladder import words
from llmlab.comparing.ladder.steps import Gap, worse

if TYPE_CHECKING:
    from llmlab.comparing.findings import Estimate
    from llmlab.comparing.ladder import Ladder

_COLUMN, _BAR, _LEFT, _RIGHT = 104, 52, 58, 8
_TOP, _HEIGHT, _FOOT = 52, 190, 62
# No axis is shorter than this, in logarithms: noise alone would fill it.
_LEAST = 0.04
_LABEL_COLUMNS, _LABEL_LINES = 15, 3
_TICKS = 5
_STEPS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_FACTORS = (1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)
_LOSS, _GAIN = render.STATE_COLOURS["exited"], render.STATE_COLOURS["ready"]
_WHOLE = "var(--jp-brand-color1, #1976d2)"
_Y = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class _Bar:
    """From where to where a bar goes, in logarithms, and what is said of it."""

    begin: float
    found: Estimate
    colour: str
    filled: bool
    word: str
    label: str

    @property
    def end(self) -> float:
        return self.begin + self.found.log

    def whisker(self, low: float, high: float) -> tuple[float, float] | None:
        """Ends of its interval, within the axis."""
        if self.found.low is None or self.found.high is None:
            return None
        ends = (self.begin + _log(end) for end in (self.found.low, self.found.high))
        first, last = (min(max(end, low), high) for end in ends)
        return first, last


def waterfall(ladder: Ladder, gap: Gap) -> str:
    """The picture of a metric, with what it says in words."""
    bars = _bars(ladder, gap)
    low, high = _range(bars)
    width = _LEFT + len(bars) * _COLUMN + _RIGHT

    def y(log: float) -> float:
        return round(_TOP + _HEIGHT * (high - log) / (high - low), 1)

    drawn = _axis(ladder, gap, (low, high), width, y)
    for place, bar in enumerate(bars):
        middle = _LEFT + place * _COLUMN + _COLUMN // 2
        drawn += _drawn(bar, middle, (low, high), y)
        if place < len(bars) - 1:
            # To the next bar; the last one begins at 0 again and ends where the steps have led.
            drawn += (
                f'<path d="M{middle + _BAR // 2} {y(bar.end)}h{_COLUMN - _BAR}" stroke="currentColor" '
                'stroke-dasharray="3 3" opacity=".55"/>'
            )
    return (
        f'<div style="overflow-x:auto"><svg role="img" aria-label="{escape(described(ladder, gap))}" '
        f'viewBox="0 0 {width} {_TOP + _HEIGHT + _FOOT}" width="{width}" '
        f'style="max-width:100%;min-width:{min(width, 720)}px;height:auto;display:block" font-size="12" '
        f'fill="none">{drawn}</svg></div>'
    )


def described(ladder: Ladder, gap: Gap) -> str:
    """What the picture shows."""
    names = words.titles(ladder)
    steps = ", ".join(
        f"{names[step.above]} {words.change(step.found.ratio)} ({words.outcome(gap, step)})"
        for step in gap.steps
    )
    return (
        f"Waterfall of {gap.metric.title} from {names[gap.rungs[0]]}, {words.better(gap.metric)}: {steps};"
        f" the whole gap {words.change(gap.whole.ratio)}"
    )


def _bars(ladder: Ladder, gap: Gap) -> list[_Bar]:
    names = words.titles(ladder)
    begins = accumulate((step.found.log for step in gap.steps), initial=0.0)
    bars = [
        _Bar(
            begin=begin,
            found=step.found,
            colour=(
                "currentColor" if not step.told else _LOSS if worse(gap.metric, step.found.ratio) else _GAIN
            ),
            filled=step.told,
            word=words.outcome(gap, step),
            label=names[step.above],
        )
        for step, begin in zip(gap.steps, begins, strict=False)
    ]
    return [
        *bars,
        _Bar(begin=0.0, found=gap.whole, colour=_WHOLE, filled=True, word="all steps", label="the whole gap"),
    ]


def _range(bars: list[_Bar]) -> tuple[float, float]:
    """Lowest and highest logarithm on the axis: all bars, and whiskers unless they are far longer."""
    places = [0.0, *(bar.end for bar in bars)]
    low, high = min(places), max(places)
    room = max(high - low, _LEAST)
    ends = [end for bar in bars if (found := bar.whisker(low - room, high + room)) for end in found]
    low, high = min([low, *ends]), max([high, *ends])
    spare = max((high - low) * 0.06, (_LEAST - (high - low)) / 2)
    return low - spare, high + spare


def _axis(ladder: Ladder, gap: Gap, ends: tuple[float, float], width: int, y: _Y) -> str:
    """The ticks, with 0 for the lowest rung."""
    drawn = ""
    for ratio in _ticks(*ends):
        at = y(math.log(ratio))
        drawn += (
            f'<path d="M{_LEFT} {at}H{width - _RIGHT}" stroke="currentColor" opacity="{".6" if ratio == 1 else ".16"}"/>'
            f'<text x="{_LEFT - 6}" y="{at + 4}" text-anchor="end" fill="currentColor" opacity=".75">'
            f"{escape('0 %' if ratio == 1 else words.change(ratio))}</text>"
        )
    way = "▼ better" if gap.metric.better == "lower" else "▲ better"
    said = f"{way}, 0 % is {words.titles(ladder)[gap.rungs[0]]}"
    return drawn + f'<text x="2" y="11" fill="currentColor" opacity=".75">{escape(said)}</text>'


def _drawn(bar: _Bar, middle: int, ends: tuple[float, float], y: _Y) -> str:
    top, bottom = y(max(bar.begin, bar.end)), y(min(bar.begin, bar.end))
    height = max(round(bottom - top, 1), 2)
    fill = f'fill="{bar.colour}" fill-opacity=".75"' if bar.filled else 'stroke-dasharray="4 3"'
    drawn = (
        f'<rect x="{middle - _BAR // 2}" y="{top}" width="{_BAR}" height="{height}" {fill} '
        f'stroke="{bar.colour}" stroke-width="1.5"/>'
    )
    above = top
    if whisker := bar.whisker(*ends):
        first, last = (y(end) for end in whisker)
        above = min(above, last)
        drawn += (
            f'<path d="M{middle} {first}V{last}M{middle - 6} {first}h12M{middle - 6} {last}h12" '
            'stroke="currentColor" stroke-width="1.5"/>'
        )
    lines = (words.change(bar.found.ratio), bar.word)
    drawn += _text(middle, above - 22, lines, "font-weight:600")
    return drawn + _text(middle, _TOP + _HEIGHT + 16, _lines(bar.label), "")


def _text(x: int, y: float, lines: tuple[str, ...] | list[str], style: str) -> str:
    spans = "".join(
        f'<tspan x="{x}" dy="{0 if place == 0 else 14}">{escape(line)}</tspan>'
        for place, line in enumerate(lines)
    )
    return f'<text x="{x}" y="{max(y, 26)}" text-anchor="middle" fill="currentColor" style="{style}">{spans}</text>'


def _lines(label: str) -> list[str]:
    """A label in as few short lines as it takes; what does not fit is cut."""
    found = render.wrapped(label, _LABEL_COLUMNS)
    return (
        found
        if len(found) <= _LABEL_LINES
        else [*found[: _LABEL_LINES - 1], f"{found[_LABEL_LINES - 1][:-1]}…"]
    )


def _ticks(low: float, high: float) -> list[float]:
    """Round ratios within the axis: per cent, or factors where it is long."""
    if high - low > math.log(_TICKS):
        factors = [*(1 / each for each in reversed(_FACTORS[1:])), *map(float, _FACTORS)]
        inside = [each for each in factors if low <= math.log(each) <= high]
        every = -(-len(inside) // (2 * _TICKS))
        zero = inside.index(1.0)
        return [each for place, each in enumerate(inside) if (place - zero) % every == 0]
    for step in _STEPS:
        first, last = math.ceil(math.expm1(low) / step), math.floor(math.expm1(high) / step)
        if last - first <= _TICKS:
            return [1 + place * step for place in range(first, last + 1)]
    return [1.0]


def _log(ratio: float) -> float:
    return math.log(ratio) if ratio > 0 else -math.inf
