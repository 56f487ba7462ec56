"""The same pictures as a figure of plotly's, to zoom into and to point at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmlab import render
from llmlab.comparing.views import forest
from llmlab.comparing.views.drawing import mean_of
from llmlab.comparing.views.looks import ARM_COLOURS
from llmlab.comparing.views.numbers import floor_text, measured, ratio
from llmlab.comparing.views.rows import Row, Seen, complete, seen
from llmlab.errors import UsageError

if TYPE_CHECKING:
    from llmlab.comparing.results import Comparison

_ROW_PX, _PAIRS_PX, _GAP_PX = 44, 260, 90
_TOP_PX, _BOTTOM_PX = 70, 60
# Read on a white page and on a dark one.
_INK, _GRID, _NONE = "#7f7f7f", "rgba(127,127,127,0.25)", "rgba(0,0,0,0)"
_SHADE = "rgba(127,127,127,0.18)"
# How far the interval of a against itself lies above its row's line, in rows.
_ABOVE = 0.28


def figure(comparison: Comparison) -> Any:
    """Above the ratios with their intervals, below both arms in each block.

    Args:
        comparison: What was measured.

    Returns:
        A `plotly.graph_objects.Figure`. Intervals that leave the axis can be dragged into view.

    Raises:
        UsageError: If plotly is not installed.
    """
    try:
        # It takes a second, and may be missing.
        from plotly import graph_objects  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("a figure needs plotly", hint="pip install plotly") from error
    it = seen(comparison)
    rows = [row for row in it.rows if row.found or row.floor]
    traces = [*_forest(rows), *_pairs(it)]
    drawn = graph_objects.Figure(
        data=[graph_objects.Scatter(**trace) for trace in traces], layout=_layout(it, rows)
    )
    if not traces:
        drawn.add_annotation(_words("nothing could be measured", x=0.5, y=0.5))
    return drawn


def _forest(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Points with their 95 % intervals, 90 % intervals thicker, hollow ones for a against itself."""
    told = [(place, row, row.found) for place, row in enumerate(rows) if row.found]
    floors = [(place - _ABOVE, row, row.floor) for place, row in enumerate(rows) if row.floor]
    traces: list[dict[str, Any]] = []
    if told:
        places: list[tuple[float, float] | None] = []
        for place, _, found in told:
            places += [(found.equivalence_low, place), (found.equivalence_high, place), None]
        x, y = _broken(places)
        line = {"width": 6, "color": _INK}
        traces.append(
            {"x": x, "y": y, "mode": "lines", "name": "90 % interval", "line": line, "hoverinfo": "skip"}
        )
        points = [
            (f.ratio, float(place), f.low, f.high, f"{row.metric.title}: {forest.described(row)}")
            for place, row, f in told
        ]
        traces.append(_points("ratio b/a, 95 % interval", points, {"size": 10}))
    if floors:
        points = [
            (
                f.ratio,
                place,
                f.ratio / (1 + f.half_width),
                f.ratio * (1 + f.half_width),
                f"{row.metric.title}, a against itself: {floor_text(f)}",
            )
            for place, row, f in floors
        ]
        traces.append(
            _points("a against itself, 90 % interval", points, {"size": 8, "symbol": "circle-open"})
        )
    return [{**trace, "xaxis": "x", "yaxis": "y", "legend": "legend"} for trace in traces]


def _points(
    name: str, points: Sequence[tuple[float, float, float, float, str]], marker: dict[str, Any]
) -> dict[str, Any]:
    """Points with intervals: (ratio, place, low, high, words)."""
    return {
        "x": [point for point, *_ in points],
        "y": [place for _, place, *_ in points],
        "mode": "markers",
        "name": name,
        "marker": {**marker, "color": _INK},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [high - point for point, _, _, high, _ in points],
            "arrayminus": [point - low for point, _, low, _, _ in points],
            "color": _INK,
            "thickness": 1.5,
            "width": 0,
        },
        "text": [_text(words) for *_, words in points],
        "hoverinfo": "text",
    }


def _pairs(it: Seen) -> list[dict[str, Any]]:
    """Lines from a to b in each block, and the dots at their ends."""
    spots: dict[tuple[bool, str], list[tuple[str, float, str, bool]]] = {}
    lines: list[tuple[str, float] | None] = []
    for itself, blocks in ((True, it.card.aa), (False, it.card.blocks)):
        for block in complete(blocks):
            where = f"A/A {block.number}" if itself else str(block.number)
            why = None if itself else it.outliers.get(block.number)
            for arm in "ab":
                if (value := mean_of(block, arm)) is not None:
                    words = (
                        f"block {where}, {arm}: {measured(value)} {it.metric.unit}{f'; {why}' if why else ''}"
                    )
                    spots.setdefault((itself, arm), []).append((where, value, words, why is not None))
                    lines.append((where, value))
            lines.append(None)
    if not spots:
        return []
    x, y = _broken(lines)
    line = {"x": x, "y": y, "mode": "lines", "line": {"color": _INK, "width": 1}}
    traces = [{**line, "hoverinfo": "skip", "showlegend": False}]
    traces += [_dots(it, *key, spots[key]) for key in sorted(spots, key=lambda key: (not key[0], key[1]))]
    return [{**trace, "xaxis": "x2", "yaxis": "y2", "legend": "legend2"} for trace in traces]


def _dots(
    it: Seen,
    itself: bool,  # noqa: FBT001 - of a key
    arm: str,
    spots: Sequence[tuple[str, float, str, bool]],
) -> dict[str, Any]:
    """An arm's dots; those that lie far from the others have a ring."""
    look = "a" if itself else arm
    return {
        "x": [where for where, *_ in spots],
        "y": [value for _, value, *_ in spots],
        "mode": "markers",
        "name": _text(f"{it.names['a']} against itself" if itself else it.names[arm]),
        "legendgroup": "A/A" if itself else arm,
        "showlegend": not itself or arm == "a",
        "marker": {
            "color": ARM_COLOURS[look],
            "symbol": "circle" if look == "a" else "square",
            "size": 10,
            "opacity": 0.5 if itself else 1.0,
            "line": {"color": _INK, "width": [3 if flagged else 0 for *_, flagged in spots]},
        },
        "text": [_text(words) for _, _, words, _ in spots],
        "hoverinfo": "text",
    }


def _broken(places: Sequence[tuple[Any, float] | None]) -> tuple[list[Any], list[float | None]]:
    """A line that is interrupted wherever there is None."""
    return [each and each[0] for each in places], [None if each is None else each[1] for each in places]


def _layout(it: Seen, rows: Sequence[Row]) -> dict[str, Any]:
    above = max(len(rows), 1) * _ROW_PX
    height = _TOP_PX + above + _GAP_PX + _PAIRS_PX + _BOTTOM_PX
    inside = above + _GAP_PX + _PAIRS_PX
    on = forest.axis(it)
    lines = {"gridcolor": _GRID, "zeroline": False}
    legend = {"orientation": "h", "x": 0, "xref": "paper", "yanchor": "bottom"}
    margin = it.card.margin
    return {
        "height": height,
        "margin": {"l": 170, "r": 20, "t": _TOP_PX, "b": _BOTTOM_PX},
        "paper_bgcolor": _NONE,
        "plot_bgcolor": _NONE,
        "font": {"color": _INK},
        "title": {"text": _text(f"{it.names['b']} (b) against {it.names['a']} (a): {it.verdict}"), "font": {"size": 15}},
        "legend": {**legend, "y": 1.0},
        "legend2": {**legend, "y": _PAIRS_PX / inside},
        "shapes": [
            {
                "type": "rect", "xref": "x", "yref": "y domain", "x0": 1 / (1 + margin), "x1": 1 + margin,
                "y0": 0, "y1": 1, "fillcolor": _SHADE, "line": {"width": 0}, "layer": "below",
            },
            {
                "type": "line", "xref": "x", "yref": "y domain", "x0": 1, "x1": 1, "y0": 0, "y1": 1,
                "line": {"width": 1, "color": _INK}, "layer": "below",
            },
        ],
        "xaxis": {
            **lines, "type": "log", "anchor": "y", "visible": bool(rows),
            "range": [-math.log10(on.most), math.log10(on.most)],
            "tickvals": list(on.ticks), "ticktext": [forest.label(each) for each in on.ticks],
            "title": {"text": "ratio b/a"},
        },
        "yaxis": {
            **lines, "anchor": "x", "domain": [1 - above / inside, 1], "visible": bool(rows),
            "range": [len(rows) - 0.5, -0.5], "tickvals": list(range(len(rows))),
            "ticktext": [_label(row) for row in rows], "showgrid": False,
        },
        "xaxis2": {**lines, "anchor": "y2", "type": "category", "title": {"text": "block"}, "showgrid": False},
        "yaxis2": {
            **lines, "anchor": "x2", "domain": [0, _PAIRS_PX / inside],
            "title": {"text": _text(f"{it.metric.title}, {it.metric.unit}")},
        },
    }  # fmt: skip


def _label(row: Row) -> str:
    """A metric, its ratio (which may be beyond the axis), and which side is the better one for b."""
    side = "◂ b better" if row.metric.better == "lower" else "b better ▸"
    told = f"{ratio(row.found)}, {side}" if row.found else side
    return f"{_text(row.metric.title)}<br><sub>{told}</sub>"


def _words(text: str, *, x: float, y: float) -> dict[str, Any]:
    return {"text": text, "xref": "paper", "yref": "paper", "x": x, "y": y, "showarrow": False}


def _text(text: str) -> str:
    """Text of which plotly makes no markup: it knows a few tags, and links among them."""
    return render.plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
