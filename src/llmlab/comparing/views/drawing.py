"""What pictures of the main metric share: the axis of values, dots, words, the frame around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.reading import main_of, values_of
from llmlab.comparing.views.looks import ARM_CAPS, ARM_COLOURS, arm_key

if TYPE_CHECKING:
    from llmlab.comparing.card import Block
    from llmlab.comparing.views.rows import Seen

LEFT, TOP, WIDEST = 46, 10, 860
STEPS = (1, 2, 2.5, 5, 10)
# Below that, squares of lines without a length would hardly be seen.
_TINY = 6


@dataclass(frozen=True)
class Scale:
    """The axis of values, from below the lowest to above the highest.

    Attributes:
        low: The value at the bottom.
        high: The value at the top.
        step: Between two lines.
        base: The bottom's place.
    """

    low: float
    high: float
    step: float
    base: int

    def y(self, value: float) -> float:
        """The place of a value, to a tenth of a pixel."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.base - share * (self.base - TOP), 1)

    def lines(self, width: int) -> str:
        """Lines at round values, with their labels."""
        count = round((self.high - self.low) / self.step)
        values = [self.low + i * self.step for i in range(count + 1)]
        paths = "".join(f"M{LEFT} {self.y(value):g}H{width}" for value in values)
        labels = "".join(
            f'<text x="{LEFT - 6}" y="{self.y(value) + 4:g}" text-anchor="end">{value:.6g}</text>'
            for value in values
        )
        return (
            f'<path d="{paths}" stroke="currentColor" opacity=".18"/>'
            f'<g fill="currentColor" opacity=".75">{labels}</g>'
        )


def scaled(values: Sequence[float], base: int) -> Scale:
    """An axis that ends at round values around the lowest and the highest, and not below 0."""
    low, high = min(values), max(values)
    room = max((high - low) * 0.06, high * 0.01)
    low, high = low - room, high + room
    rough = (high - low) / 4
    step = rounder(rough)
    bottom = max(0.0, math.floor(low / step) * step)
    return Scale(low=bottom, high=math.ceil(high / step) * step, step=step, base=base)


def rounder(rough: float) -> float:
    """The next round number: 1, 2, 2.5 or 5 times a power of ten."""
    size = 10.0 ** math.floor(math.log10(rough))
    # Not compared exactly: 0.3 is not three times 0.1.
    return next((each * size for each in STEPS if each * size >= rough * (1 - 1e-9)), 10 * size)


def known(block: Block, arm: str) -> list[float]:
    """What can be drawn of an arm's requests in a block; a card may hold anything."""
    return [value for value in values_of(block, arm, main_of((block,))) if drawable(value)]


def drawable(value: float) -> bool:
    """Whether it is a rate that can be."""
    return 1e-6 < value < 1e12  # noqa: PLR2004


def mean_of(block: Block, arm: str) -> float | None:
    """The geometric mean of an arm's requests in a block, whose logarithm the statistics take."""
    values = known(block, arm)
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else None


def figure(it: Seen, title: str, svg: str) -> str:
    """A picture with its title and what its dots mean."""
    key = "".join(arm_key(arm, name) for arm, name in it.names.items())
    return (
        f'<figure style="{render.FONT};margin:10px 0 0"><figcaption style="font-size:90%;margin-bottom:2px">'
        f'<span style="font-weight:600;margin-right:16px">{escape(title)}</span> {key}</figcaption>'
        f'<div style="overflow-x:auto">{svg}</div></figure>'
    )


def svg(drawn: str, width: int, height: int, words: str) -> str:
    """A drawing, and all of it in words."""
    return (
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-size="11" style="display:block">{drawn}</svg>'
    )


def dots(path: str, arm: str, *, size: int, faint: bool) -> str:
    """Dots or squares: lines of no length with ends of that shape."""
    less = size - 2 if ARM_CAPS[arm] == "square" and size > _TINY else size
    dim = ' opacity=".5"' if faint else ""
    return (
        f'<path d="{path}" stroke="{ARM_COLOURS[arm]}" stroke-width="{less}" '
        f'stroke-linecap="{ARM_CAPS[arm]}"{dim}/>'
    )


def place(x: float, column: float, top: float, bottom: float, *, now: bool) -> str:
    """An empty place for a block: the one that is measured now is outlined."""
    edge = column / 10
    outline = 'fill="none" stroke="currentColor" stroke-dasharray="3 3" opacity=".8"'
    look = outline if now else 'fill="currentColor" opacity=".1"'
    return (
        f'<rect x="{x + edge:.5g}" y="{top + 1:g}" width="{column - 2 * edge:.4g}" height="{bottom - top - 2:g}" '
        f'rx="{min(3, column / 4):g}" {look}/>'
    )


def word(x: float, y: float, text: str, *, bold: bool = False) -> str:
    """A word below the picture."""
    heavy = ' font-weight="700"' if bold else ' opacity=".75"'
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" fill="currentColor"{heavy}>{escape(text)}</text>'
