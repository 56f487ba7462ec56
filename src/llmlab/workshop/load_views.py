"""A load as text and as a picture: what all get above, what each waits below."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from llmlab import render

if TYPE_CHECKING:
    from llmlab.workshop.loads import Level, Load

_LEFT, _RIGHT, _COLUMN, _HEIGHT, _TOP = 44, 12, 74, 130, 24
_ALL, _EACH = render.SERIES_COLOURS[0], render.SERIES_COLOURS[1]
_DASHED = 'stroke="currentColor" stroke-width="1.5" stroke-dasharray="6 4"'
_HEADER = (
    "learners",
    "requests",
    "tokens/s, all",
    "tokens/s, each",
    "TTFT p50",
    "whole p50",
    "whole p95",
    "together",
)


def text(load: Load) -> str:
    """The table, under a line that says what it is of."""
    table = render.text_table([name.upper() for name in _HEADER], [_row(level) for level in load.levels])
    return f"{_title(load)}\n{table}\n{_meaning(load)}"


def html(load: Load) -> str:
    """Picture and table in a card."""
    cells = [[escape(text) for text in _row(level)] for level in load.levels]
    tag = render.html_tag("synthetic", "random weights") if load.model.startswith("synthetic:") else ""
    drawn = f'<div style="display:flex;flex-wrap:wrap;gap:0 26px">{_throughput(load)}{_waiting(load)}</div>'
    grid = f'<div style="overflow-x:auto">{render.html_grid(_HEADER, cells, right=_HEADER)}</div>'
    return render.html_card(
        _title(load), drawn + grid + render.html_small(_meaning(load)), side=tag, wide=True
    )


def _title(load: Load) -> str:
    slots = "slot" if load.slots == 1 else "slots"
    return f"{load.server}: {load.model}, {load.slots} {slots}, context {load.context}"


def _meaning(load: Load) -> str:
    line = ""
    if load.limit_s is not None:
        first = load.levels[0].learners
        line = (
            f" The line at {_time(load.limit_s)} is {load.limit:g} times the p95 of {first}"
            f" {'learner' if first == 1 else 'learners'}."
        )
    return (
        f"Answers of at most {load.tokens} tokens. tokens/s, all: generated tokens / time of the level. tokens/s, each:"
        " median of the requests' own rates, by the engine's clock. Whole: from sending a request to its last token,"
        " by the client's clock; p95 by nearest rank. together: requests in one pass through the model, on average,"
        f" as the engine counts.{line}"
    )


def _row(level: Level) -> list[str]:
    return [
        str(level.learners),
        str(level.requests),
        _number(level.tokens_per_s),
        _number(level.each_tokens_per_s),
        _time(level.ttft_p50_s),
        _time(level.p50_s),
        _time(level.p95_s),
        render.UNKNOWN if level.together is None else f"{level.together:.1f}",
    ]


def _number(value: float | None) -> str:
    return render.UNKNOWN if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"  # noqa: PLR2004


def _time(seconds: float | None) -> str:
    if seconds is None:
        return render.UNKNOWN
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _throughput(load: Load) -> str:
    """A bar for each level."""
    known = [level.tokens_per_s or 0.0 for level in load.levels]
    axis = _Axis(len(known), max(known))
    bars = "".join(
        axis.bar(i, 0, value, f'fill="{_ALL}"')
        + _label(axis.x(i), axis.y(value) - 5, _number(level.tokens_per_s))
        for i, (value, level) in enumerate(zip(known, load.levels, strict=True))
    )
    told = "; ".join(f"{level.learners}: {_number(level.tokens_per_s)}" for level in load.levels)
    words = f"tokens/s of all learners together, by their number: {told}"
    key = _key(f"background:{_ALL}", "tokens/s of all together")
    return _figure("What all get", key, axis.lines("{:g}") + bars + axis.names(load), axis, words)


def _waiting(load: Load) -> str:
    """A bar up to the median, parted at the first token, and the p95 above; what is over the line is hollow."""
    known = [(level.ttft_p50_s, level.p50_s or 0.0, level.p95_s or 0.0) for level in load.levels]
    most = load.limit_s or math.inf
    axis = _Axis(len(known), max(*(last for *_, last in known), load.limit_s or 0.0))
    marks = ""
    for i, (first, middle, last) in enumerate(known):
        x, fill = axis.x(i), "none" if last > most else "currentColor"
        if first is None:
            marks += axis.bar(i, 0, middle, f'fill="none" stroke="{_EACH}"')
        else:
            marks += axis.bar(i, 0, first, f'fill="{_EACH}" opacity=".45"')
            marks += axis.bar(i, first, middle, f'fill="{_EACH}"')
        marks += f'<path d="M{x:g} {axis.y(middle):g}V{axis.y(last) + 5:g}" stroke="currentColor"/>'
        marks += f'<circle cx="{x:g}" cy="{axis.y(last):g}" r="5" fill="{fill}" stroke="currentColor" stroke-width="2"/>'
        marks += _label(x, axis.y(last) - 9, _time(last))
    key = _key(f"background:{_EACH};opacity:.45", "until the first token, p50")
    key += _key(f"background:{_EACH}", "until the last, p50")
    key += _key("background:currentColor;border-radius:50%", "p95")
    told = "; ".join(f"{level.learners}: {_time(level.p95_s)}" for level in load.levels)
    words = f"p95 of a whole request by the number of learners: {told}"
    if load.limit_s is not None:
        y, name = axis.y(load.limit_s), f"{load.limit:g} × the first p95: {_time(load.limit_s)}"
        marks += f'<path d="M{_LEFT} {y:g}H{axis.width - _RIGHT}" {_DASHED}/>'
        key += _key("border-top:2px dashed;height:0;width:18px;vertical-align:middle", name)
        key += _key("border:2px solid;box-sizing:border-box;border-radius:50%", "p95 over it")
        words += f"; the line is at {_time(load.limit_s)}"
    return _figure("What each waits", key, axis.lines("{:g} s") + marks + axis.names(load), axis, words)


class _Axis:
    """Columns for the levels, and a scale from 0 to a round number above the most."""

    def __init__(self, columns: int, most: float) -> None:
        self.width = _LEFT + _COLUMN * columns + _RIGHT
        most = max(most, 1e-9) * 1.05
        rough = most / 4
        size = 10.0 ** math.floor(math.log10(rough))
        self._step = next(step * size for step in (1, 2, 2.5, 5, 10) if step * size >= rough * (1 - 1e-9))
        self._top = math.ceil(most / self._step - 1e-9) * self._step

    def x(self, column: int) -> float:
        """The middle of a column."""
        return _LEFT + _COLUMN * (column + 0.45)

    def y(self, value: float) -> float:
        """The place of a value."""
        return round(_TOP + _HEIGHT * (1 - value / self._top), 1)

    def bar(self, column: int, low: float, high: float, look: str) -> str:
        """A bar in a column from one value to another."""
        top, height = self.y(high), self.y(low) - self.y(high)
        return (
            f'<rect x="{self.x(column) - 18:g}" y="{top:g}" width="36" height="{max(height, 0):g}" {look}/>'
        )

    def lines(self, form: str) -> str:
        """Lines at round values."""
        values = [i * self._step for i in range(round(self._top / self._step) + 1)]
        paths = "".join(f"M{_LEFT} {self.y(value):g}H{self.width - _RIGHT}" for value in values)
        labels = "".join(
            _label(_LEFT - 6, self.y(value) + 4, form.format(round(value, 9)), anchor="end", faint=True)
            for value in values
        )
        return f'<path d="{paths}" stroke="currentColor" opacity=".18"/>{labels}'

    def names(self, load: Load) -> str:
        """The number of learners under each column."""
        found = [
            _label(self.x(i), _TOP + _HEIGHT + 16, str(level.learners)) for i, level in enumerate(load.levels)
        ]
        middle = (_LEFT + self.width - _RIGHT) / 2
        return "".join(found) + _label(middle, _TOP + _HEIGHT + 32, "learners at once", faint=True)


def _label(x: float, y: float, words: str, *, anchor: str = "middle", faint: bool = False) -> str:
    dim = ' opacity=".75"' if faint else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="currentColor"{dim}>{escape(words)}</text>'


def _key(look: str, name: str) -> str:
    """What a mark stands for."""
    return (
        f'<span style="white-space:nowrap;margin-right:14px"><span aria-hidden="true" style="display:inline-block;'
        f'width:10px;height:10px;margin-right:5px;{look}"></span>{escape(name)}</span>'
    )


def _figure(title: str, key: str, drawn: str, axis: _Axis, words: str) -> str:
    height = _TOP + _HEIGHT + 40
    return (
        f'<figure style="margin:8px 0 4px;flex:1 1 {axis.width}px;max-width:34em"><figcaption style="font-size:90%;line-height:1.6">'
        f'<strong style="margin-right:14px">{escape(title)}</strong> {key}</figcaption>'
        f'<svg role="img" aria-label="{escape(words)}" viewBox="0 0 {axis.width} {height}" width="{axis.width}" '
        f'height="{height}" font-size="11" style="display:block;max-width:100%">{drawn}</svg></figure>'
    )
