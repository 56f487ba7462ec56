"""One chart of SVG: the courses of several subjects, requests behind them, gaps where nothing is known.

What is said in words and figures stands around the drawing and not in it: a page that does
not trust a notebook takes the drawing away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.monitoring.views.courses import Look, phases
from llmlab.monitoring.views.words import extent, number, top

if TYPE_CHECKING:
    from llmlab.monitoring.panels import Panel
    from llmlab.telemetry.bands import Band
    from llmlab.telemetry.history import Series

WIDTH, HEIGHT = 258, 90
# The drawing's own unit is half a pixel, so that whole numbers are fine enough, and short.
_UNIT = 2
_W, _H = WIDTH * _UNIT, HEIGHT * _UNIT
_TOP, _BASE = 5 * _UNIT, _H - _UNIT
_HATCH = 7 * _UNIT
_STEPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
# How much of its colour each part of a request has.
SHADES = {"queue": 0.4, "wait": 0.3, "prefill": 0.5, "decode": 0.15}
# Not a colour of its own: it follows every page's, and is short.
FAINT = "opacity:.68"
# Does not break.
_RANGE = "\u00a0…\u00a0"
Span = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """What the charts of one card have in common.

    Attributes:
        begin_s: The time at the left.
        end_s: The time at the right.
        looks: How each subject is drawn.
        bands: The requests.
        replayed: Whether it is a recording.
    """

    begin_s: float
    end_s: float
    looks: Mapping[str, Look]
    bands: Sequence[Band]
    replayed: bool

    def x(self, time_s: float) -> int:
        """The place of a time, within the drawing."""
        share = (time_s - self.begin_s) / ((self.end_s - self.begin_s) or 1.0)
        return round(min(max(share, 0.0), 1.0) * _W)

    @cached_property
    def spans(self) -> dict[str, dict[str, list[Span]]]:
        """Each server's requests, by what they were busy with; what lies together is one."""
        found: dict[str, dict[str, list[Span]]] = {}
        for band in self.bands:
            for name, begin_s, end_s in phases(band):
                if end_s > self.begin_s and begin_s < self.end_s:
                    left, right = self.x(begin_s), self.x(end_s)
                    # What is shorter than a pixel is one pixel wide.
                    span = (left, max(right, left + _UNIT))
                    found.setdefault(band.subject, {}).setdefault(name, []).append(span)
        return {
            subject: {name: joined(spans) for name, spans in parts.items()}
            for subject, parts in found.items()
        }


def chart(panel: Panel, rows: Sequence[Series], frame: Frame, *, named: bool) -> str:
    """A chart with its title, its axes, and each row's newest value and range.

    Args:
        panel: What it shows.
        rows: Its series, thinned.
        frame: What all charts of the card share.
        named: Whether to name the subjects; not needed where there is only one.
    """
    end = ceiling(rows)
    words = (
        f"{panel.title} of {', '.join(each.subject for each in rows)}, from 0 to {number(end)} {panel.unit}"
    )
    mark = (
        f'<text x="{_W // 2}" y="{_H // 2 + 10}" text-anchor="middle" font-size="34" fill="currentColor" '
        'opacity=".28" letter-spacing="7">RECORDING</text>'
        if frame.replayed
        else ""
    )
    drawing = (
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {_W} {_H}" width="{WIDTH}" '
        f'style="min-width:0;height:auto">'
        f"{_axes()}{_requests(panel, frame)}{_gaps(rows, frame)}{_courses(rows, frame, end)}{mark}</svg>"
    )
    return (
        f'<figure style="margin:0;width:300px;max-width:100%;font-size:90%">{_caption(panel, rows, end, named=named)}'
        f'<div style="display:flex;gap:5px"><div style="width:37px;flex:none;display:grid;'
        f'align-content:space-between;text-align:right;line-height:1;{FAINT}"><span>{escape(number(end))}</span> '
        f'<span>0</span></div>{drawing}</div><div style="margin-left:42px">{_times(frame)}'
        f"{_legend(rows, frame, end) if named else _range(rows[0], end)}</div></figure>"
    )


def swatch(look: Look) -> str:
    """A short piece of a subject's line."""
    return (
        f'<svg width="26" height="9"><path d="M1 5h24" stroke="{look.colour}" '
        f'stroke-width="2.5"{_dashed(look, 1)}/></svg>'
    )


def key(names: Sequence[str], *, unknown: bool) -> str:
    """What the shades of requests mean, and the hatching."""
    meant = {
        "queue": "in the queue",
        "wait": "until the first token",
        "prefill": "the prompt is read",
        "decode": "the answer is written",
    }
    entries = [
        (f"{_shade(name, [(0, 44)], (0, 20))}", meaning) for name, meaning in meant.items() if name in names
    ]
    if unknown:
        entries.append((_hatched(0, 44, 0, 20), "unknown; of some only: a strip in their colours"))
    return "".join(
        f'<span style="white-space:nowrap;margin-right:14px"><svg width="22" height="10" viewBox="0 0 44 20" stroke-width="20" '
        f'stroke="currentColor">{drawn}</svg> {meaning}</span>'
        for drawn, meaning in entries
    )


def joined(spans: Sequence[Span]) -> list[Span]:
    """The same pieces of a line, those that touch or overlap as one."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def ceiling(rows: Sequence[Series]) -> float:
    """Where the axis of a chart ends: at a limit that is near, or at a round number above all values."""
    ends = [top(each) for each in rows]
    end = max(ends)
    if any(each.metric.most == end for each in rows):
        return end
    size = 10.0 ** math.floor(math.log10(end)) if end > 0 else 1.0
    # Not compared exactly: 0.3 is not three times 0.1.
    return next((step * size for step in _STEPS if step * size >= end * (1 - 1e-9)), end)


def _caption(panel: Panel, rows: Sequence[Series], end: float, *, named: bool) -> str:
    limits = {each.metric.most for each in rows}
    limit = next(iter(limits)) if len(limits) == 1 else None
    unit = f"{'' if limit is None else f'of {number(limit)} '}{panel.unit}"
    now = "" if named else f"<b>{escape(number(rows[0].last, end))}</b> "
    return (
        '<figcaption style="display:flex;justify-content:space-between;gap:8px;margin-bottom:3px">'
        f'<span style="font-size:110%">{escape(panel.title)}</span> '
        f'<span>{now}<span style="{FAINT}">{escape(unit)}</span></span></figcaption>'
    )


def _range(each: Series, end: float) -> str:
    return f'<div style="{FAINT}">between {escape(extent(each, end, " and "))}</div>'


def _legend(rows: Sequence[Series], frame: Frame, end: float) -> str:
    """Each row's name, newest value and range."""
    cells = "".join(
        f"<span>{swatch(frame.looks[each.subject])} {escape(each.subject)}</span> "
        f"<b>{escape(number(each.last, end))}</b> "
        f'<span style="{FAINT}">{escape(extent(each, end, _RANGE))}</span> '
        for each in rows
    )
    return (
        '<div style="display:grid;grid-template-columns:minmax(0,1fr) auto auto;gap:0 10px;'
        f'overflow-wrap:anywhere;font-variant-numeric:tabular-nums">{cells}</div>'
    )


def _times(frame: Frame) -> str:
    return (
        f'<div style="display:flex;justify-content:space-between;{FAINT}">'
        f"<span>{moment(frame.begin_s)}</span> <span>{moment(frame.end_s)}</span></div>"
    )


def moment(time_s: float) -> str:
    """A time on the axis, in seconds or larger units since the first look."""
    return render.duration_text(time_s) if time_s >= 120 else f"{number(round(time_s, 1))} s"  # noqa: PLR2004 - two minutes


def _axes() -> str:
    return (
        f'<path d="M0 {_H - 1}h{_W}" stroke="currentColor" stroke-width="2" opacity=".5"/>'
        f'<path d="M0 {_TOP}h{_W}" stroke="currentColor" opacity=".2"/>'
    )


def _requests(panel: Panel, frame: Frame) -> str:
    """Requests behind the courses: in a servers' chart each server's in its own lane and colour."""
    if panel.group != "servers":
        together: dict[str, list[Span]] = {}
        for parts in frame.spans.values():
            for name, spans in parts.items():
                together.setdefault(name, []).extend(spans)
        merged = {name: joined(spans) for name, spans in together.items()}
        return _lane(merged, "currentColor", (_TOP, _BASE), dim=0.38)
    subjects = {subject for subject, _ in panel.rows}
    servers = [subject for subject in frame.looks if subject in frame.spans and subject in subjects]
    drawn = []
    for place, subject in enumerate(servers):
        height = (_BASE - _TOP) / len(servers)
        lane = (round(_TOP + place * height), round(_TOP + (place + 1) * height))
        drawn.append(_lane(frame.spans[subject], frame.looks[subject].colour, lane))
    return "".join(drawn)


def _lane(parts: Mapping[str, Sequence[Span]], colour: str, lane: Span, *, dim: float = 1.0) -> str:
    drawn = "".join(_shade(name, parts[name], lane) for name in SHADES if name in parts)
    faint = f' opacity="{dim}"' if dim < 1 else ""
    return f'<g stroke="{colour}" stroke-width="{lane[1] - lane[0]}"{faint}>{drawn}</g>' if drawn else ""


def _shade(name: str, spans: Sequence[Span], lane: Span) -> str:
    """Bars, each a thick line: that is the shortest way to say it, and dashes make it hatched."""
    above, below = lane
    path, pen = f"M0 {(above + below) // 2}", 0
    for left, right in spans:
        path += f"m{left - pen} 0h{right - left}"
        pen = right
    hatched = ' stroke-dasharray="1.5 3.5"' if name == "queue" else ""
    return f'<path d="{path}" opacity="{SHADES[name]}"{hatched}/>'


def _gaps(rows: Sequence[Series], frame: Frame) -> str:
    """Hatching over what is unknown of all, and a strip at the bottom for what is unknown of one."""
    places = [frame.x(time) for time in rows[0].times_s]
    all_unknown = [
        all(value is None for value in column) for column in zip(*(row.values for row in rows), strict=True)
    ]
    drawn = "".join(_hatched(left, right, _TOP, _BASE) for left, right in _runs(places, all_unknown))
    if len(rows) > 1:
        height = min(4 * _UNIT, max(28 * _UNIT // len(rows), 3))
        for place, row in enumerate(rows):
            only = [value is None and not every for value, every in zip(row.values, all_unknown, strict=True)]
            y = _BASE - place * height - height // 2
            if path := "".join(f"M{left} {y}h{right - left}" for left, right in _runs(places, only)):
                colour = frame.looks[row.subject].colour
                drawn += (
                    f'<path d="{path}" stroke="{colour}" stroke-width="{height - 2}" stroke-dasharray="3 4"/>'
                )
    return drawn


def _runs(places: Sequence[int], unknown: Sequence[bool]) -> list[Span]:
    """From where to where something is unknown, half a step further to each side."""
    half = _W // max(1, len(places) - 1) // 2
    found = []
    for is_unknown, run in groupby(range(len(places)), key=lambda i: unknown[i]):
        if is_unknown:
            inside = list(run)
            left, right = max(0, places[inside[0]] - half), min(_W, places[inside[-1]] + half)
            found.append((left, max(right, left + _UNIT)))
    return joined(found)


def _hatched(left: int, right: int, above: int, below: int) -> str:
    """Slanting lines within a rectangle, over a faint ground."""
    lines = []
    for foot in range(left - left % _HATCH, right + below - above, _HATCH):
        # From (foot, below) up to the left, cut off at the sides.
        begin, end = min(foot, right), max(foot - (below - above), left)
        if begin > end:
            lines.append(f"M{begin} {below - (foot - begin)}L{end} {below - (foot - end)}")
    return (
        f'<path d="M{left} {above}h{right - left}v{below - above}h{left - right}z" fill="currentColor" stroke="none" '
        f'opacity=".06"/><path d="{"".join(lines)}" stroke="currentColor" stroke-width="2" opacity=".35"/>'
    )


def _courses(rows: Sequence[Series], frame: Frame, end: float) -> str:
    """A line for each row; dashed ones lie on the whole one, round ends make a single value a dot."""
    lines = "".join(
        f'<path d="{_path(each, frame, end)}" stroke="{frame.looks[each.subject].colour}"'
        f"{_dashed(frame.looks[each.subject], _UNIT)}/>"
        for each in rows
    )
    return f'<g fill="none" stroke-width="3.5" stroke-linejoin="round" stroke-linecap="round">{lines}</g>'


def _dashed(look: Look, scale: int) -> str:
    lengths = " ".join(str(int(length) * scale) for length in look.dash.split())
    return f' stroke-dasharray="{lengths}"' if lengths else ""


def _path(each: Series, frame: Frame, end: float) -> str:
    """What is known as a path, with gaps where something is not; steps are relative, to stay short."""
    drawn: list[str] = []
    pen: tuple[int, int] | None = None
    for time, value in zip(each.times_s, each.values, strict=True):
        if value is None:
            pen = None
            continue
        x, y = frame.x(time), round(_BASE - min(max(value / end, 0.0), 1.0) * (_BASE - _TOP))
        if pen is None:
            drawn += [f"M{x} {y}", "h0"]
        elif y == pen[1]:
            # A level piece that goes on is one piece.
            before = int(drawn.pop()[1:]) if drawn[-1].startswith("h") else 0
            drawn.append(f"h{before + x - pen[0]}")
        else:
            drawn.append(f"l{x - pen[0]}{y - pen[1] if y < pen[1] else f' {y - pen[1]}'}")
        pen = (x, y)
    return "".join(drawn)
