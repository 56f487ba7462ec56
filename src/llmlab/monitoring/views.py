"""Series as text and as HTML: small charts in which what is unknown is seen to be unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from itertools import groupby, pairwise
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
_WIDTH, _HEIGHT = 220, 56
_MANY = 10_000
# What a line has room for, and its unit.
_LIVE = {"cpu": "CPUs", "utilisation": "%", "memory": "MiB", "power": "W", "generated": "tokens/s"}
# Of more requests than that, the newest are drawn.
_BANDS = 300
_ACCENT = "var(--jp-brand-color1, #1976d2)"


def text(seen: Monitoring) -> str:
    """A line for each series: its course, its newest value, its range."""
    rows = [
        (
            render.plain(each.subject),
            each.metric.title,
            spark(each.values, top(each), _COLUMNS),
            number(each.last),
            f"{number(min(each.known))} … {number(max(each.known))}",
            each.metric.unit or "",
        )
        for each in seen
    ]
    header = ("of", "what", f"{seen.seconds:.0f} s", "now", "range", "unit")
    lines = [render.text_table(header, rows)] if rows else ["nothing could be measured"]
    for subject, summary in _asked(seen).items():
        lines += ["", *render.wrapped(render.plain(f"{subject}: {summary}"), 100)]
    lines += ["", *(render.plain(line) for line in _remarks(seen))]
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


def html(seen: Monitoring) -> str:
    """A card: for each subject a chart of each series, and how it was measured."""
    parts, asked = [], _asked(seen)
    for subject, group in groupby(seen, key=lambda each: each.subject):
        bands = [band for band in seen.requests if band.subject == subject][-_BANDS:]
        of_it = [_thinned(each) for each in group]
        charts = "".join(
            _chart(each, bands, replayed=seen.replayed is not None) for each in of_it if any(each.known)
        )
        body = f'<div style="display:flex;flex-wrap:wrap;gap:10px 22px">{charts}</div>'
        if quiet := [each.metric.title for each in of_it if not any(each.known)]:
            body += render.html_small(f"0 throughout: {', '.join(quiet)}")
        if bands:
            body += render.html_small(asked[subject])
        parts.append(render.html_section(escape(subject), body))
    rows = [
        [
            escape(each.subject),
            escape(each.metric.title),
            escape(each.metric.unit),
            escape(each.metric.method),
        ]
        for each in seen
    ]
    if not parts:
        parts.append(render.html_text("nothing could be measured"))
    else:
        parts.append(
            render.html_fold("How each is measured", render.html_grid(("of", "what", "unit", "how"), rows))
        )
    parts += [render.html_small(line) for line in _remarks(seen)]
    title = "recording" if seen.replayed else "monitor"
    return render.html_card(title, "".join(parts), side=render.html_muted(f"{seen.seconds:.0f} s"), wide=True)


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


def number(value: float | None) -> str:
    """A value as it is read: three digits, or whole."""
    if value is None:
        return render.UNKNOWN
    size = abs(value)
    if size >= _MANY:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.0f}" if size >= 100 or value == int(value) else f"{value:.3g}"  # noqa: PLR2004 - three digits


def _chart(each: Series, bands: Sequence[Band], *, replayed: bool) -> str:
    """A chart with its title, its newest value and its range."""
    ceiling, unit = top(each), each.metric.unit
    last = f"{number(each.last)} {unit}".strip()
    limit = f" of {number(each.metric.most)}" if each.metric.most is not None else ""
    words = (
        f"{each.metric.title} of {each.subject}: now {last}{limit}, "
        f"between {number(min(each.known))} and {number(max(each.known))} {unit}"
    ).strip()
    mark = (
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2 + 5}" text-anchor="middle" font-size="15" '
        f'fill="currentColor" opacity="0.25" letter-spacing="3">RECORDING</text>'
        if replayed
        else ""
    )
    return (
        f'<figure style="margin:0;{render.FONT}" title="{escape(each.metric.method)}">'
        f'<figcaption style="display:flex;justify-content:space-between;width:{_WIDTH}px">'
        f'<span style="{render.MUTED}">{escape(each.metric.title)}</span>'
        f'<span style="font-variant-numeric:tabular-nums">{escape(last)}<span style="{render.MUTED}">{escape(limit)}</span></span>'
        f"</figcaption>"
        f'<svg role="img" aria-label="{escape(words)}" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'style="border-bottom:1px solid {render.LINE};display:block">'
        f"{_bands(each, bands)}{_unknown(each)}{_course(each, ceiling)}{mark}</svg></figure>"
    )


def _bands(each: Series, bands: Sequence[Band]) -> str:
    """Requests behind the course: until the first piece of text darker, then lighter."""
    begin = each.times_s[0]
    scale = _WIDTH / ((each.times_s[-1] - begin) or 1.0)
    drawn = []
    for band in bands:
        first = band.total_s if band.ttft_s is None else band.ttft_s
        for since, until, opacity in ((0.0, first, 0.3), (first, band.total_s, 0.14)):
            left = min(max((band.began_s + since - begin) * scale, 0.0), float(_WIDTH))
            right = min(max((band.began_s + until - begin) * scale, 0.0), float(_WIDTH))
            if right > left:
                drawn.append(
                    f'<rect x="{left:.1f}" y="0" width="{max(right - left, 0.7):.1f}" height="{_HEIGHT}" '
                    f'style="fill:{_ACCENT};opacity:{opacity}"></rect>'
                )
    return "".join(drawn)


def _asked(seen: Monitoring) -> dict[str, str]:
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


def _thinned(each: Series) -> Series:
    """At most a value for each pixel: of several the highest, so that no peak is lost."""
    count = len(each.values)
    if count <= _WIDTH:
        return each
    cuts = [i * count // _WIDTH for i in range(_WIDTH + 1)]
    parts = [each.values[begin:end] for begin, end in pairwise(cuts)]
    values = [max((v for v in part if v is not None), default=None) for part in parts]
    # The newest as it is: it is shown as a number.
    return replace(
        each,
        times_s=(*(each.times_s[cut] for cut in cuts[:-1]), each.times_s[-1]),
        values=(*values, each.values[-1]),
    )


def _places(each: Series) -> list[float]:
    """Where each look stands, from left to right."""
    begin, end = each.times_s[0], each.times_s[-1]
    span = (end - begin) or 1.0
    return [round((time - begin) / span * _WIDTH, 1) for time in each.times_s]


def _course(each: Series, ceiling: float) -> str:
    """A line through what is known, with gaps where something is not."""
    pieces: list[list[str]] = [[]]
    for x, value in zip(_places(each), each.values, strict=True):
        if value is None:
            pieces.append([])
        else:
            y = _HEIGHT - 2 - min(max(value / ceiling, 0.0), 1.0) * (_HEIGHT - 6)
            pieces[-1].append(f"{x},{y:.1f}")
    # Round ends, so that a single value between two unknown ones is a dot.
    look = f"fill:none;stroke:{_ACCENT};stroke-width:1.5;stroke-linejoin:round;stroke-linecap:round"
    return "".join(
        f'<polyline points="{" ".join(piece if len(piece) > 1 else piece * 2)}" style="{look}"></polyline>'
        for piece in pieces
        if piece
    )


def _unknown(each: Series) -> str:
    """Bars over what is unknown, dotted."""
    places = _places(each)
    half = _WIDTH / max(1, len(places) - 1) / 2
    drawn, since = [], None
    for x, value in [*zip(places, each.values, strict=True), (None, 0.0)]:
        if value is None and since is None:
            since = x
        elif value is not None and since is not None:
            begin = max(0.0, since - half)
            end = min(float(_WIDTH), (x if x is not None else float(_WIDTH) + half) - half)
            drawn.append(
                f'<rect x="{begin:.1f}" y="0" width="{max(1.0, end - begin):.1f}" height="{_HEIGHT}" '
                f'style="fill:currentColor;opacity:0.08"></rect>'
                f'<line x1="{begin:.1f}" y1="{_HEIGHT - 2}" x2="{end:.1f}" y2="{_HEIGHT - 2}" '
                f'style="stroke:currentColor;opacity:0.5;stroke-dasharray:1 3"></line>'
            )
            since = None
    return "".join(drawn)


def _remarks(seen: Monitoring) -> list[str]:
    """What should be known besides."""
    found = []
    if seen.replayed:
        machine = seen.recorded.machine
        found.append(
            f"A recording of {seen.recorded.began}, on {machine.get('cpu', 'another machine')}: "
            f"not what happens now ({seen.replayed})"
        )
    if seen.missed:
        found.append(f"{seen.missed} looks were left out: the machine was too busy")
    return [*found, *seen.recorded.notes]
