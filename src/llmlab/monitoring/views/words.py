"""Series in words: numbers, courses of blocks, a table, and what is to be said besides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from llmlab import render

if TYPE_CHECKING:
    from llmlab.monitoring.results import Monitoring
    from llmlab.telemetry.bands import Band
    from llmlab.telemetry.history import Key, Series

_BLOCKS = "▁▂▃▄▅▆▇█"
_UNKNOWN = "·"
_COLUMNS = 32
_MANY = 10_000
# What a line has room for, and its unit.
_LIVE = {"cpu": "CPUs", "utilisation": "%", "memory": "MiB", "power": "W", "generated": "tokens/s"}


def text(seen: Monitoring) -> str:
    """A line for each series: its course, its newest value, its range."""
    rows = [
        (
            render.plain(each.subject),
            each.metric.title,
            spark(each.values, top(each), _COLUMNS),
            number(each.last, top(each)),
            extent(each, top(each)),
            each.metric.unit or "",
        )
        for each in seen
    ]
    header = ("of", "what", f"{seen.seconds:.0f} s", "now", "range", "unit")
    lines = [render.text_table(header, rows)] if rows else ["nothing could be measured"]
    for subject, summary in asked(seen).items():
        lines += ["", *render.wrapped(f"{subject}: {summary}", 100)]
    lines += ["", *(render.plain(line) for line in [*recorded(seen), *remarks(seen)])]
    return "\n".join(lines).rstrip()


def live(values: Mapping[Key, float | None]) -> str:
    """The present in one line: of each subject what says most.

    Args:
        values: What the newest look has seen.
    """
    found = []
    for subject in dict.fromkeys(subject for subject, _ in values):
        parts = [
            f"{number(value)} {unit}"
            for key, unit in _LIVE.items()
            if (value := values.get((subject, key))) is not None
        ]
        if parts:
            found.append(f"{subject}: {', '.join(parts)}")
    return " · ".join(found)


def spark(values: Sequence[float | None], most: float, width: int) -> str:
    """A line of blocks, from 0 to `most`; of several values in one column the highest.

    Args:
        values: The values, None for unknown.
        most: What the highest block stands for.
        width: Columns at the most.
    """
    columns = min(width, len(values))
    found = []
    for column in range(columns):
        part = values[column * len(values) // columns : (column + 1) * len(values) // columns]
        known = [value for value in part if value is not None]
        if not known:
            found.append(_UNKNOWN)
        else:
            place = int(max(known) / most * len(_BLOCKS)) if most > 0 else 0
            found.append(_BLOCKS[min(max(place, 0), len(_BLOCKS) - 1)])
    return "".join(found)


def top(each: Series) -> float:
    """Where a chart ends: what cannot be exceeded, where that is near; else the highest value."""
    highest = max(each.known, default=0.0)
    most = each.metric.most
    # A course along the bottom of a large range would say nothing.
    return most if most is not None and highest > most / 4 else highest or 1.0


def number(value: float | None, beside: float = 0.0) -> str:
    """A value as it is read: three digits, or whole.

    Args:
        value: The value, None for unknown.
        beside: A value of the same chart; what is small beside it has fewer digits.
    """
    if value is None:
        return render.UNKNOWN
    if beside > 0:
        value = round(value, max(0, 2 - math.floor(math.log10(beside))))
    size = abs(value)
    if size >= _MANY:
        return f"{value:,.0f}".replace(",", "\u00a0")
    return f"{value:.0f}" if size >= 100 or value == int(value) else f"{value:.3g}"  # noqa: PLR2004 - three digits


def extent(each: Series, beside: float = 0.0, between: str = " … ") -> str:
    """The lowest and the highest value."""
    known = each.known
    if not known:
        return render.UNKNOWN
    return f"{number(min(known), beside)}{between}{number(max(known), beside)}"


def seconds(value: float | None) -> str:
    """A time of a request: in ms below a second."""
    if value is None:
        return render.UNKNOWN
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def asked(seen: Monitoring) -> dict[str, str]:
    """What was asked of each server, in one sentence."""
    found = {}
    for subject in dict.fromkeys(band.subject for band in seen.requests):
        bands = [band for band in seen.requests if band.subject == subject]
        parts = [f"{len(bands)} {'request' if len(bands) == 1 else 'requests'}"]
        for what, unit, values in (
            ("TTFT", "ms", [band.ttft_s * 1000 for band in bands if band.ttft_s is not None]),
            ("of it in the queue", "ms", [band.queue_s * 1000 for band in bands if band.queue_s is not None]),
            ("rate", "tokens/s", [band.tokens_per_s for band in bands if band.tokens_per_s is not None]),
        ):
            if values:
                parts.append(f"{what} {number(median(values))} {unit}")
        found[subject] = ", ".join(parts) + (" (medians)" if len(bands) > 1 else "")
    return found


def newest(bands: Sequence[Band], count: int) -> list[Band]:
    """The requests that were sent last, the newest first."""
    return sorted(bands, key=lambda band: band.began_s, reverse=True)[:count]


def recorded(seen: Monitoring) -> list[str]:
    """Of a recording, that it is one."""
    if not seen.replayed:
        return []
    machine = seen.recorded.machine.get("cpu", "another machine")
    return [
        f"A recording of {seen.recorded.began}, on {machine}: not what happens now ({seen.replayed})",
    ]


def remarks(seen: Monitoring) -> list[str]:
    """What should be known besides."""
    missed = [f"{seen.missed} looks were left out: the machine was too busy"] if seen.missed else []
    return [*missed, *seen.recorded.notes]
