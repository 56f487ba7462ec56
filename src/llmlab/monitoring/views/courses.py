"""What all drawings share: series thinned to pixels, pauses, and a look for each subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.monitoring.panels import Group, Panel, group_of, panels

if TYPE_CHECKING:
    from llmlab.monitoring.results import Monitoring
    from llmlab.telemetry.bands import Band
    from llmlab.telemetry.history import Key, Series

GROUPS: dict[Group, str] = {"servers": "Servers", "gpus": "GPUs", "machine": "The machine"}
# Looks that lie further apart than that many of the usual steps have a pause between them.
_PAUSE = 2.5


@dataclass(frozen=True, slots=True)
class Look:
    """How the lines of one subject are drawn: colour, and dashes in pixels ("" for none)."""

    colour: str
    dash: str


def series_of(seen: Monitoring) -> dict[Key, Series]:
    """All series of which something is known, by subject and metric."""
    return {(each.subject, each.metric.key): each for each in seen.series if each.known}


def panels_of(seen: Monitoring) -> tuple[Panel, ...]:
    """The charts of what was measured."""
    found = series_of(seen)
    return panels((subject, each.metric) for (subject, _), each in found.items())


def looks(subjects: Sequence[str]) -> dict[str, Look]:
    """A look for each subject: its colour is its own, the first of each group has a whole line.

    Args:
        subjects: In the order in which they were met.
    """
    found: dict[str, Look] = {}
    for group in GROUPS:
        members = [subject for subject in dict.fromkeys(subjects) if group_of(subject) == group]
        for place, subject in enumerate(members):
            colour = render.SERIES_COLOURS[len(found) % len(render.SERIES_COLOURS)]
            found[subject] = Look(colour, render.SERIES_DASHES[place % len(render.SERIES_DASHES)])
    return found


def thinned(each: Series, columns: int) -> Series:
    """At most a value for each column: of several the highest, so that no peak is lost."""
    count = len(each.values)
    if count <= columns:
        return each
    cuts = [i * count // columns for i in range(columns + 1)]
    parts = [each.values[begin:end] for begin, end in pairwise(cuts)]
    values = [max((v for v in part if v is not None), default=None) for part in parts]
    # The newest as it is: it is shown as a number.
    return replace(
        each,
        times_s=(*(each.times_s[cut] for cut in cuts[:-1]), each.times_s[-1]),
        values=(*values, each.values[-1]),
    )


def with_pauses(each: Series) -> Series:
    """The same with an unknown value wherever nobody looked for long."""
    steps = [after - before for before, after in pairwise(each.times_s)]
    usual = median(steps) if steps else 0.0
    if not any(step > _PAUSE * usual for step in steps):
        return each
    times, values = [each.times_s[0]], [each.values[0]]
    for step, time, value in zip(steps, each.times_s[1:], each.values[1:], strict=True):
        if step > _PAUSE * usual:
            times += [times[-1] + usual, time - usual]
            values += [None, None]
        times.append(time)
        values.append(value)
    return replace(each, times_s=tuple(times), values=tuple(values))


def phases(band: Band) -> list[tuple[str, float, float]]:
    """What a request was busy with, from when until when: queue, prefill, decode.

    Where the engine does not tell how long it read, waiting and reading are one: "wait".
    """
    first = band.total_s if band.ttft_s is None else band.ttft_s
    if band.queue_s is None:
        found = [("wait", 0.0, first)]
    else:
        found = [("queue", 0.0, band.queue_s), ("prefill", band.queue_s, first)]
    found.append(("decode", first, band.total_s))
    return [(name, band.began_s + begin, band.began_s + end) for name, begin, end in found if end > begin]
