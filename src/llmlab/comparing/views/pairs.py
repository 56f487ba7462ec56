"""A picture of both arms in each block: two dots joined by a line, blocks of a against itself apart."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.views.drawing import (
    LEFT,
    TOP,
    WIDEST,
    Scale,
    dots,
    figure,
    known,
    mean_of,
    place,
    scaled,
    svg,
    word,
)
from llmlab.comparing.views.numbers import measured, short

if TYPE_CHECKING:
    from llmlab.comparing.card import Block
    from llmlab.comparing.views.rows import Seen

_HEIGHT, _BASE = 190, 150
_COLUMN, _NARROW, _NARROWEST, _GAP = 46.0, 26.0, 3.0, 26
Look = tuple[str, int, bool]  # of dots: whose colour and shape, how large, whether faint


@dataclass
class _Drawn:
    """Paths by their look, so that each look is written once."""

    dots: dict[Look, list[str]] = field(default_factory=lambda: defaultdict(list))
    lines: list[str] = field(default_factory=list)
    rings: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def html(self) -> str:
        parts = [f'<path d="{"".join(self.lines)}" stroke="currentColor" stroke-width="1.5" opacity=".5"/>']
        parts += [
            dots("".join(path), arm, size=size, faint=faint)
            for (arm, size, faint), path in sorted(self.dots.items(), key=lambda each: each[0][1])
        ]
        if self.rings:
            parts.append(
                f'<path d="{"".join(self.rings)}" fill="none" stroke="currentColor" stroke-width="1.5" '
                'stroke-dasharray="4 3"/>'
            )
        return "".join([*parts, *self.others])


def paired(it: Seen, ahead: tuple[int, int] = (0, 0), *, now: bool = True) -> str:
    """The picture; "" if nothing is known that could be drawn.

    Args:
        it: What there is.
        ahead: How many blocks of a against itself, and of a against b, are to come.
        now: Whether the first of these is being measured.
    """
    groups = [(it.card.aa, ahead[0], True), (it.card.blocks, ahead[1], False)]
    groups = [group for group in groups if group[0] or group[1]]
    values = [
        value for blocks, *_ in groups for block in blocks for arm in "ab" for value in known(block, arm)
    ]
    if not values and not any(ahead):
        return ""
    count = sum(len(blocks) + more for blocks, more, _ in groups)
    column = min(_COLUMN, max(_NARROWEST, (WIDEST - LEFT - _GAP) / count))
    width = math.ceil(LEFT + count * column + _GAP * (len(groups) - 1) + 4)
    on, drawn, x = scaled(values or [1.0], _BASE), _Drawn(), float(LEFT)
    for blocks, more, itself in groups:
        drawn.others.append(_caption(it, blocks, more, x, column, itself=itself))
        for block in blocks:
            _pair(drawn, block, x + column / 2, column, on, itself=itself)
            if not itself and block.number in it.outliers:
                drawn.rings += _ring([on.y(value) for arm in "ab" for value in known(block, arm)], x, column)
            x += column
        for _ in range(more):
            drawn.others.append(place(x, column, TOP, _BASE, now=now))
            now, x = False, x + column
        x += _GAP
    title = f"{it.metric.title.capitalize()} in each block, {it.metric.unit}"
    return figure(
        it, title, svg((on.lines(width) if values else "") + drawn.html(), width, _HEIGHT, _described(it))
    )


def _pair(drawn: _Drawn, block: Block, x: float, column: float, on: Scale, *, itself: bool) -> None:
    """A block: two dots and a line, small dots for the single requests, and words for who points at it."""
    if block.trouble:
        drawn.others.append(word(x, _BASE - 6, "✖"))
        return
    wide, away = column > _NARROW, column / 6
    means = {arm: mean_of(block, arm) for arm in "ab"}
    places = {arm: x + (away if arm == "b" else -away) for arm in "ab"}
    if means["a"] and means["b"]:
        drawn.lines.append(f"M{places['a']:.5g} {on.y(means['a']):g}L{places['b']:.5g} {on.y(means['b']):g}")
    for arm, value in means.items():
        if value is None:
            continue
        whose, again = "a" if itself else arm, itself and arm == "b"
        size = 10 if wide else max(3, round(column / 3))
        drawn.dots[whose, size, again].append(f"M{places[arm]:.5g} {on.y(value):g}h0")
        if wide:
            beside = places[arm] + (away if arm == "b" else -away)
            drawn.dots[whose, 4, True] += [f"M{beside:.5g} {on.y(each):g}h0" for each in known(block, arm)]
    if wide:
        ratio = f", b/a {means['b'] / means['a']:.3f}" if means["a"] and means["b"] else ""
        words = f"{short(block.order, 8)}: a {measured(means['a'])}, b {measured(means['b'])}{ratio}"
        left = x - column / 2
        drawn.others.append(
            f'<path d="M{left:.5g} {TOP}h{column:.4g}V{_BASE}h-{column:.4g}z" fill="none" pointer-events="all">'
            f"<title>{escape(words)}</title></path>"
        )


def _ring(heights: Sequence[float], x: float, column: float) -> list[str]:
    """An ellipse around what lies far from the others."""
    if not heights:
        return []
    rx, ry = column / 2 - 1, (max(heights) - min(heights)) / 2 + 10
    y = (max(heights) + min(heights)) / 2
    return [
        f"M{x + 1:.5g} {y:.4g}a{rx:.4g} {ry:.4g} 0 1 0 {2 * rx:.4g} 0a{rx:.4g} {ry:.4g} 0 1 0 -{2 * rx:.4g} 0"
    ]


def _caption(it: Seen, blocks: Sequence[Block], more: int, x: float, column: float, *, itself: bool) -> str:
    """Numbers below the blocks, and what is against what."""
    every = max(1, math.ceil(22 / column))
    flagged = () if itself else it.outliers
    counted = [block.number for block in blocks] + [len(blocks) + i + 1 for i in range(more)]
    numbers = "".join(
        word(x + (i + 0.5) * column, _BASE + 15, str(number), bold=number in flagged)
        for i, number in enumerate(counted)
        if i % every == 0 or number in flagged
    )
    width = len(counted) * column
    # About six pixels a letter.
    itself_words = render.clipped(f"A/A: {it.names['a']} against itself", max(3, int(width / 6)))
    line = f'<path d="M{x:.5g} {_BASE + 20}h{width:.5g}" stroke="currentColor" opacity=".35"/>'
    return numbers + line + word(x + width / 2, _BASE + 32, itself_words if itself else "a against b")


def _described(it: Seen) -> str:
    """The picture in words."""
    told = [
        f"{block.number}: {measured(mean_of(block, 'a'))} and {measured(mean_of(block, 'b'))}"
        for block in it.complete
    ]
    flagged = f"; far from the others: {', '.join(map(str, it.outliers))}" if it.outliers else ""
    return f"{it.metric.title} of a and b in {it.metric.unit}, block by block: {'; '.join(told) or 'none'}{flagged}"
