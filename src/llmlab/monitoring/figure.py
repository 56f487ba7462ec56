"""The same charts as a figure of plotly's, to zoom into and to point at; the only door to plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmlab import render
from llmlab.errors import UsageError
from llmlab.monitoring.panels import Panel
from llmlab.monitoring.views.courses import (
    Look,
    looks,
    panels_of,
    phases,
    series_of,
    thinned,
    with_pauses,
)
from llmlab.monitoring.views.words import newest, recorded

if TYPE_CHECKING:
    from llmlab.monitoring.results import Monitoring

# More points than a screen has columns are not seen, more requests make it slow.
_POINTS, _BANDS = 2000, 100
_ROW_PX, _LEGEND_PX = 150, 20
# Of a row, what its title takes.
_TITLE = 0.22
# Read on a white page and on a dark one.
_INK, _GRID, _NONE = "#7f7f7f", "rgba(127,127,127,0.25)", "rgba(0,0,0,0)"
_SHADES = {"queue": 0.08, "wait": 0.2, "prefill": 0.3, "decode": 0.13}


def figure(seen: Monitoring, *, everything: bool = False) -> Any:
    """Charts under each other with one time axis, requests as bands behind them.

    Args:
        seen: What was measured.
        everything: All charts; otherwise those that say most.

    Returns:
        A `plotly.graph_objects.Figure`. Where nothing is known, lines have gaps; of
        more than 2000 looks, the highest value of each 2000th part is drawn, and of
        more than 100 requests, the newest.

    Raises:
        UsageError: If plotly is not installed.
    """
    try:
        # It takes a second, and may be missing.
        from plotly import graph_objects  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("a figure needs plotly", hint="pip install plotly") from error
    panels = panels_of(seen)
    panels = panels if everything else tuple(panel for panel in panels if panel.first) or panels
    looks_of = looks([each.subject for each in seen.series])
    named: set[str] = set()
    lines = [
        line
        for row, panel in enumerate(panels, start=1)
        for line in _lines(panel, seen, looks_of, named, _axis("y", row))
    ]
    drawn = graph_objects.Figure(
        data=[graph_objects.Scatter(**line) for line in lines],
        layout={**_layout(seen, len(panels), len(looks_of)), **_axes(seen, panels)},
    )
    drawn.update_layout(shapes=_bands(seen, looks_of))
    for row, panel in enumerate(panels):
        drawn.add_annotation(
            _words(_title(panel), size=13, x=0, y=_domain(row, len(panels))[1], anchor="bottom")
        )
    if not panels:
        drawn.add_annotation(_words("nothing could be measured", size=16, x=0.5, y=0.5, anchor="middle"))
    for words in recorded(seen):
        drawn.add_annotation(_words("RECORDING", size=64, x=0.5, y=0.5, anchor="middle"), opacity=0.25)
        above = {"yref": "container", "yanchor": "top", "y": 1.0, "x": 0.0, "xref": "container"}
        drawn.update_layout(
            title={"text": _text(words), "font": {"size": 12}, "pad": {"t": 8, "l": 8}, **above}
        )
    return drawn


def _lines(
    panel: Panel, seen: Monitoring, looks_of: Mapping[str, Look], named: set[str], axis: str
) -> list[dict[str, Any]]:
    """A line for each row of a chart; the legend names each subject once."""
    known, found = series_of(seen), []
    for where in dict.fromkeys(panel.rows):
        each = with_pauses(thinned(known[where], _POINTS))
        look = looks_of[each.subject]
        found.append(
            {
                "x": list(each.times_s),
                "y": list(each.values),
                "xaxis": "x",
                "yaxis": axis,
                "name": _text(each.subject),
                "legendgroup": each.subject,
                "showlegend": each.subject not in named,
                # A single value between two unknown ones is no line.
                "mode": "lines+markers" if _lonely(each.values) else "lines",
                "marker": {"size": 4},
                "line": {
                    "color": look.colour,
                    "dash": look.dash.replace(" ", "px,") + "px" if look.dash else "solid",
                },
                "connectgaps": False,
                "hovertemplate": f"{_text(panel.title)} %{{y:.5~r}} {_text(panel.unit)}".rstrip(),
            }
        )
        named.add(each.subject)
    return found


def _bands(seen: Monitoring, looks_of: Mapping[str, Look]) -> list[dict[str, Any]]:
    """Requests from top to bottom, behind all charts, in their server's colour."""
    found = []
    begun_s = seen.series[0].times_s[0] if seen.series else 0.0
    for band in newest(seen.requests, _BANDS):
        look = looks_of.get(band.subject)
        for name, begin_s, end_s in phases(band):
            if end_s > begun_s:
                found.append(
                    {
                        "type": "rect",
                        "xref": "x",
                        "yref": "paper",
                        "x0": max(begin_s, begun_s),
                        "x1": end_s,
                        "y0": 0,
                        "y1": 1,
                        "fillcolor": look.colour if look else _INK,
                        "opacity": _SHADES[name],
                        "line": {"width": 0},
                        "layer": "below",
                    }
                )
    return found


def _layout(seen: Monitoring, rows: int, subjects: int) -> dict[str, Any]:
    head = 30 if seen.replayed else 8
    margin = {"l": 60, "r": 20, "t": head + 34 + _LEGEND_PX * math.ceil(subjects / 5), "b": 50}
    height = margin["t"] + margin["b"] + max(rows, 1) * _ROW_PX
    legend = {"orientation": "h", "yref": "container", "yanchor": "top", "y": 1 - head / height, "x": 0}
    return {
        "height": height,
        "margin": margin,
        "legend": legend,
        "paper_bgcolor": _NONE,
        "plot_bgcolor": _NONE,
        "font": {"color": _INK},
        "hovermode": "x unified",
        # One label for all charts: they have one time axis.
        "hoversubplots": "axis",
    }


def _axes(seen: Monitoring, panels: Sequence[Panel]) -> dict[str, Any]:
    """One time axis below all charts, and for each chart an axis with its unit."""
    times = seen.series[0].times_s if seen.series else ()
    lines = {"gridcolor": _GRID, "zerolinecolor": _GRID}
    found: dict[str, Any] = {
        "xaxis": {
            **lines,
            "anchor": _axis("y", max(len(panels), 1)),
            "range": [times[0], times[-1]] if times else [0, 1],
            "title": {"text": "seconds since the first look"},
            "visible": bool(panels),
        }
    }
    for row, panel in enumerate(panels):
        found[_axis("yaxis", row + 1)] = {
            **lines,
            "anchor": "x",
            "domain": _domain(row, len(panels)),
            "rangemode": "tozero",
            "title": {"text": _text(panel.unit)},
        }
    return found if panels else {**found, "yaxis": {"visible": False}}


def _axis(name: str, row: int) -> str:
    """The name of an axis, as plotly has it: the first has no number."""
    return name if row == 1 else f"{name}{row}"


def _domain(row: int, rows: int) -> tuple[float, float]:
    """From where to where a row reaches, as shares of the height from the bottom; room for its title above."""
    return 1 - (row + 1) / rows, 1 - (row + _TITLE) / rows


def _words(text: str, *, size: int, x: float, y: float, anchor: str) -> dict[str, Any]:
    """Words on the figure, which no pointer meets."""
    return {
        "text": _text(text),
        "xref": "paper",
        "yref": "paper",
        "x": x,
        "y": y,
        "xanchor": "center" if anchor == "middle" else "left",
        "yanchor": anchor,
        "showarrow": False,
        "font": {"size": size},
    }


def _title(panel: Panel) -> str:
    return f"the machine: {panel.title}" if panel.group == "machine" else panel.title


def _text(text: str) -> str:
    """Text of which plotly makes no markup: it knows a few tags, and links among them."""
    return render.plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _lonely(values: Sequence[float | None]) -> bool:
    padded = [None, *values, None]
    return any(
        value is not None and before is None and after is None
        for before, value, after in zip(padded, padded[1:], padded[2:], strict=False)
    )
