"""A roofline as a picture: both axes logarithmic, a line for each roof, dots for each phase.

What it says stands in words and tables, too: a page that does not trust a notebook
takes drawings away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from llmlab import render

if TYPE_CHECKING:
    from llmlab.comparing.roofline import Roofline
    from llmlab.comparing.roofline.compute import Name, Phase, Roofs

WIDTH, HEIGHT, _WIDEST = 520, 320, 600
_LEFT, _RIGHT, _TOP, _BASE = 48, WIDTH - 8, 10, HEIGHT - 38
_WORD = 122  # so long is what stands along the slope
_DOT = 5.5
_COLOURS: dict[Name, str] = {"decode": render.SERIES_COLOURS[0], "prefill": render.SERIES_COLOURS[1]}
_DASH = "7 5"
_UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def number(value: float | None) -> str:
    """A value with three digits, or whole."""
    if value is None:
        return render.UNKNOWN
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 or value == round(value) else f"{value:.3g}"  # noqa: PLR2004 - three digits


def scaled(value: float | None, unit: str) -> str:
    """A large value with three digits, in thousands, millions … of a unit: "186 G operations/s"."""
    if value is None:
        return render.UNKNOWN
    prefix, size = next(((p, s) for p, s in _UNITS if value >= 0.9995 * s), ("", 1.0))
    return f"{number(value / size)} {prefix}{' ' if prefix and not unit.startswith('B') else ''}{unit}"


def tokens(rate: float | None) -> str:
    """A rate in tokens per second."""
    return render.UNKNOWN if rate is None else f"{number(rate)} tokens/s"


def share(phase: Phase) -> str:
    """What was reached of the lower roof, per cent."""
    return render.UNKNOWN if phase.share is None else f"{100 * phase.share:.0f} %"


@dataclass(frozen=True)
class _Axes:
    """Where values lie in the drawing.

    Attributes:
        x: Operations per byte, from and to.
        y: Operations per second, from and to.
    """

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, intensity: float) -> float:
        """The place of so many operations per byte."""
        return round(_LEFT + _part(intensity, self.x) * (_RIGHT - _LEFT), 1)

    def intensity(self, x: float) -> float:
        """The operations per byte at a place: the inverse of `across`."""
        low, high = map(math.log10, self.x)
        return float(10 ** (low + (x - _LEFT) / (_RIGHT - _LEFT) * (high - low)))

    def down(self, rate: float) -> float:
        """The place of so many operations per second."""
        return round(_BASE - _part(rate, self.y) * (_BASE - _TOP), 1)


def _part(value: float, ends: tuple[float, float]) -> float:
    """How far along a logarithmic axis."""
    low, high = map(math.log10, ends)
    return (math.log10(value) - low) / (high - low)


def _ticks(ends: tuple[float, float]) -> list[float]:
    """Powers of ten within an axis, and where these are few, what lies between."""
    low, high = map(math.log10, ends)
    steps = (1, 2, 5) if high - low < 2.2 else (1,)  # noqa: PLR2004 - powers of ten
    every = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [value for value in every if ends[0] <= value <= ends[1]]


def picture(seen: Roofline, sentence: str) -> str:
    """The drawing and its legend; "" if there is nothing to draw.

    Args:
        seen: What to draw.
        sentence: What it comes to, for those who do not see it.
    """
    rates = [
        rate
        for phase in seen.phases
        for each in (phase.predicted_tokens_per_s, *phase.measured)
        if (rate := phase.operations_per_s(each))
    ]
    roofs = [each for each in (seen.machine, seen.engine) if each]
    if not rates or not seen.decode.work.intensity:
        return ""
    across = [phase.work.intensity for phase in seen.phases] + [each.ridge for each in roofs if each.ridge]
    up = rates + [each.operations_per_s for each in roofs if each.operations_per_s]
    # Below and on the right there has to be room for words.
    axes = _Axes((min(across) / 3, max(across) * 3), (min(up) / 6, max(up) * 1.8))
    drawn = _grid(axes) + _roof(seen.machine, axes, "")
    if seen.engine:
        drawn += _roof(seen.engine, axes, _DASH)
    drawn += _words(seen.machine, axes) + "".join(_dots(phase, axes, seen.engine) for phase in seen.phases)
    label = f"roofline of {seen.model}, operations per second over operations per byte: {sentence}"
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12.5" '
        f'fill="currentColor" style="{render.FONT};width:100%;max-width:{_WIDEST}px;height:auto;display:block;'
        f'margin:6px 0">{drawn}</svg>{_legend(seen)}'
    )


def _grid(axes: _Axes) -> str:
    """Both axes, a line for each power of ten, and what they stand for."""
    lines, words = [], []
    for value in _ticks(axes.x):
        x = axes.across(value)
        lines.append(f"M{x:g} {_TOP}V{_BASE}")
        words.append(_text(x, _BASE + 16, f"{value:g}", "middle"))
    for value in _ticks(axes.y):
        y = axes.down(value)
        lines.append(f"M{_LEFT} {y:g}H{_RIGHT}")
        words.append(_text(_LEFT - 6, y + 4, scaled(value, "").strip(), "end"))
    words += [
        _text((_LEFT + _RIGHT) / 2, HEIGHT - 6, "operations per byte", "middle"),
        _text(_LEFT + 6, _TOP + 14, "operations per second", "start"),
    ]
    return (
        f'<path d="{"".join(lines)}" stroke="currentColor" opacity=".13" fill="none"/>'
        f'<g opacity=".72">{"".join(words)}</g>'
    )


def _roof(roofs: Roofs, axes: _Axes, dash: str) -> str:
    """The line that no dot of plain programs lies above: memory's slope, then computing's height."""
    (left, right), (low, high) = axes.x, axes.y
    peak = roofs.operations_per_s or high
    points: list[tuple[float, float]] = []
    if pace := roofs.bytes_per_s:
        begin = max(left, low / pace)
        ridge = min(right, peak / pace)
        points += [(begin, begin * pace), (ridge, ridge * pace)] if begin < ridge else []
    if roofs.operations_per_s:
        points += [] if points else [(left, peak)]
        points.append((right, peak))
    if not points:
        return ""
    path = "L".join(f"{axes.across(x):g} {axes.down(y):g}" for x, y in points)
    look = f'stroke-dasharray="{dash}" opacity=".75" stroke-width="1.6"' if dash else 'stroke-width="2.2"'
    return f'<path d="M{path}" stroke="currentColor" fill="none" stroke-linejoin="round" {look}/>'


def _words(roofs: Roofs, axes: _Axes) -> str:
    """What the roofs are, beside their lines, and the ridge."""
    found = []
    if roofs.ridge is None or not roofs.bytes_per_s or not roofs.operations_per_s:
        return ""
    x, y = axes.across(roofs.ridge), axes.down(roofs.operations_per_s)
    found.append(
        f'<path d="M{x:g} {y:g}V{_BASE}" stroke="currentColor" stroke-dasharray="2 4" opacity=".6" fill="none"/>'
    )
    found.append(_text(x + 6, _BASE - 8, f"ridge {number(roofs.ridge)}", "start"))
    found.append(
        _text(
            _RIGHT - 4, y - 9, f"computing {scaled(roofs.operations_per_s, '')}/s".replace(" /s", "/s"), "end"
        )
    )
    return "".join(found) + _slope_word(roofs.bytes_per_s, roofs.ridge, axes)


def _slope_word(pace: float, ridge: float, axes: _Axes) -> str:
    """Along memory's slope, above its middle."""
    begin = max(axes.x[0], axes.y[0] / pace)
    middle = math.sqrt(begin * ridge)
    x, y = axes.across(middle), axes.down(middle * pace)
    run = axes.across(ridge) - axes.across(begin)
    rise = axes.down(ridge * pace) - axes.down(begin * pace)
    if math.hypot(run, rise) < _WORD:
        return ""
    angle = math.degrees(math.atan2(rise, run))
    return (
        f'<text x="{x:g}" y="{y - 8:g}" text-anchor="middle" transform="rotate({angle:.1f} {x:g} {y:g})">'
        f"memory {escape(scaled(pace, 'B/s'))}</text>"
    )


def _dots(phase: Phase, axes: _Axes, engine: Roofs | None) -> str:
    """A hollow dot where a phase is predicted, a full one where it was measured, and what they are."""
    colour = _COLOURS[phase.name]
    x = axes.across(phase.work.intensity)
    found, heights = [], []
    if predicted := phase.operations_per_s(phase.predicted_tokens_per_s):
        heights.append(axes.down(predicted))
        found.append(
            f'<circle cx="{x:g}" cy="{heights[-1]:g}" r="{_DOT}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
    if measured := phase.operations_per_s(phase.measured_tokens_per_s):
        heights.append(axes.down(measured))
        low, high = (axes.down(phase.operations_per_s(f(phase.measured)) or measured) for f in (min, max))
        found.append(f'<path d="M{x:g} {low:g}V{high:g}" stroke="{colour}" stroke-width="2" fill="none"/>')
        found.append(f'<circle cx="{x:g}" cy="{heights[-1]:g}" r="{_DOT}" fill="{colour}"/>')
    if not found:
        return ""
    lines = [f"{phase.name} {tokens(phase.measured_tokens_per_s or phase.predicted_tokens_per_s)}"]
    lines.append("predicted" if phase.share is None else f"{share(phase)} of the roof")
    # Beside the range, to the right of memory's slope, to the left of the drawing's edge.
    anchor, place = ("start", x + 12) if phase.name == "decode" else ("end", x - 10)
    below = _clear(max(heights) + 20, place, phase, axes, engine)
    words = [_text(place, below + 16 * i, line, anchor) for i, line in enumerate(lines)]
    return "".join(found + words)


def _clear(below: float, x: float, phase: Phase, axes: _Axes, engine: Roofs | None) -> float:
    """Where two lines of words begin, so that the engine's roof does not run through them."""
    if engine is None or not engine.bytes_per_s or not engine.operations_per_s:
        return below
    roof = axes.down(min(axes.intensity(x) * engine.bytes_per_s, engine.operations_per_s))
    above = roof <= below - 16
    # The slope rises towards the right: where it begins below the words it runs through them.
    under = phase.name == "prefill" and roof >= below + 22
    return below if above or under else min(roof + 16, _BASE - 22)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def _legend(seen: Roofline) -> str:
    """What lines and dots mean."""
    line = '<path d="M1 6h24" stroke="currentColor" stroke-width="2" fill="none"{}/>'
    hollow = '<circle cx="13" cy="6" r="4.5" fill="none" stroke="currentColor" stroke-width="1.8"/>'
    entries = [(line.format(""), "roofs of this machine")]
    if seen.engine:
        entries.append((line.format(f' stroke-dasharray="{_DASH}"'), "roofs that the engine has reached"))
    entries.append((hollow, "predicted"))
    if any(phase.measured for phase in seen.phases):
        entries.append(('<circle cx="13" cy="6" r="4.5" fill="currentColor"/>', "measured, median and range"))
    html = "".join(
        f'<span style="white-space:nowrap;margin-right:16px"><svg width="26" height="12" aria-hidden="true">{drawn}</svg> '
        f"{escape(meaning)}</span>"
        for drawn, meaning in entries
    )
    return f'<div style="{render.FONT};{render.MUTED};font-size:90%;line-height:1.7">{html}</div>'
