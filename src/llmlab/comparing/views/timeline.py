"""A picture of each request over the time since the beginning, so that a drift is seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.views.drawing import (
    LEFT,
    dots,
    drawable,
    figure,
    rounder,
    scaled,
    svg,
    word,
)
from llmlab.comparing.views.numbers import measured
from llmlab.comparing.views.words import counted

if TYPE_CHECKING:
    from llmlab.comparing.views.rows import Seen

_WIDTH, _HEIGHT, _BASE = 720, 150, 124
_FIRST, _LAST = LEFT + 8, _WIDTH - 10


@dataclass(frozen=True, slots=True)
class Spot:
    """A request.

    Attributes:
        arm: Whose: "a" or "b".
        itself: Whether arm a was against itself.
        time_s: Seconds since the first block began.
        value: Of the main metric.
    """

    arm: str
    itself: bool
    time_s: float
    value: float


def over_time(it: Seen) -> str:
    """The picture; "" if the times are not known."""
    found = spots(it)
    if not found:
        return ""
    on, last = scaled([spot.value for spot in found], _BASE), max(spot.time_s for spot in found) or 1.0

    def x(time_s: float) -> float:
        return _FIRST + (_LAST - _FIRST) * time_s / last

    drawn = [on.lines(_WIDTH)]
    for itself in (True, False):
        for arm in "ab":
            path = "".join(
                f"M{x(spot.time_s):.4g} {on.y(spot.value):g}h0"
                for spot in found
                if spot.arm == arm and spot.itself == itself
            )
            if path:
                drawn.append(dots(path, "a" if itself else arm, size=7, faint=itself))
    unit, seconds = ("min", 60.0) if last >= 120 else ("s", 1.0)  # noqa: PLR2004 - two minutes
    step = rounder(last / seconds / 6)
    drawn += [
        word(x(i * step * seconds), _BASE + 16, f"{i * step:g} {unit}")
        for i in range(int(last / seconds / step) + 1)
    ]
    values = [spot.value for spot in found]
    words = (
        f"{it.metric.title} of {counted(len(found), 'request')} over {render.duration_text(last)}, from"
        f" {measured(min(values))} to {measured(max(values))} {it.metric.unit}"
    )
    title = f"{it.metric.title.capitalize()} of each request since the beginning, {it.metric.unit}"
    return figure(it, title, svg("".join(drawn), _WIDTH, _HEIGHT, words))


def spots(it: Seen) -> list[Spot]:
    """Each request of which the main metric is known; none where the card's times cannot be read."""
    groups = ((True, it.card.aa), (False, it.card.blocks))
    found = []
    try:
        blocks = [(aa, block, datetime.fromisoformat(block.began)) for aa, each in groups for block in each]
        first = min((began for _, _, began in blocks), default=None)
        for aa, block, began in blocks:
            for request in block.requests:
                value, time_s = request.values.get(it.metric.key), request.began_s
                if first is not None and value is not None and drawable(value) and 0 <= time_s < 1e9:  # noqa: PLR2004
                    since_s = (began - first).total_seconds() + time_s
                    found.append(Spot(request.arm, aa, since_s, value))
    except (ValueError, TypeError):  # no times, or some with a zone and some without
        return []
    return found
