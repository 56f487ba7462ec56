"""A card of HTML: charts, figures and data, as they stay in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.monitoring.panels import Group, Panel
from llmlab.monitoring.views import tables
from llmlab.monitoring.views.charts import WIDTH, Frame, chart, key, swatch
from llmlab.monitoring.views.courses import GROUPS, looks, panels_of, phases, series_of, thinned, with_pauses
from llmlab.monitoring.views.words import asked, newest, recorded, remarks

if TYPE_CHECKING:
    from llmlab.monitoring.results import Monitoring
    from llmlab.telemetry.history import Key, Series

# Of more requests than that, the newest are drawn.
_BANDS = 300
# Values that are drawn in one card; of more series, each has fewer.
_VALUES, _FEWEST = 30_000, 80


def html(seen: Monitoring) -> str:
    """A card: the charts that say most, the others under a fold, requests, methods, the data."""
    known = series_of(seen)
    columns = min(WIDTH, max(_FEWEST, _VALUES // max(1, len(known))))
    drawn = {where: with_pauses(thinned(each, columns)) for where, each in known.items()}
    parts = [_recording(line) for line in recorded(seen)]
    if known:
        parts += _charts(seen, drawn)
        parts += [tables.requests(seen), tables.methods(seen), tables.data(seen)]
    else:
        parts.append(render.html_text("nothing could be measured"))
    parts += [render.html_small(line) for line in remarks(seen)]
    side = render.html_muted(f"{_began(seen)}{seen.seconds:.0f} s")
    return render.html_card("recording" if seen.replayed else "monitor", "".join(parts), side=side, wide=True)


def _charts(seen: Monitoring, drawn: Mapping[Key, Series]) -> list[str]:
    """The sections with the first charts, then the others."""
    every = panels_of(seen)
    times = next(iter(drawn.values())).times_s
    frame = Frame(
        begin_s=times[0],
        end_s=times[-1],
        looks=looks([each.subject for each in seen]),
        bands=newest(seen.requests, _BANDS),
        replayed=seen.replayed is not None,
    )
    quiet = [panel for panel in every if not any(any(drawn[row].known) for row in panel.rows)]
    shown = [panel for panel in every if panel not in quiet]
    # Where none is among the first, all are.
    first = [panel for panel in shown if panel.first] or shown
    more = [panel for panel in shown if panel not in first]
    parts = [_section(group, first, quiet, drawn, frame) for group in GROUPS]
    if shown:
        parts.append(_key(seen, shown, drawn))
    parts += [render.html_small(f"{subject}: {summary}") for subject, summary in asked(seen).items()]
    if more:
        body = "".join(_section(group, more, [], drawn, frame) for group in GROUPS)
        parts.append(render.html_fold(f"More charts ({len(more)})", body))
    return parts


def _section(
    group: Group, shown: Sequence[Panel], quiet: Sequence[Panel], drawn: Mapping[Key, Series], frame: Frame
) -> str:
    """The charts of servers, of GPUs or of the machine; "" if there is nothing of them."""
    subjects = [
        subject
        for subject in frame.looks
        if any(subject == row[0] for panel in (*shown, *quiet) if panel.group == group for row in panel.rows)
    ]
    charts = "".join(
        chart(panel, [drawn[row] for row in dict.fromkeys(panel.rows)], frame, named=len(subjects) > 1)
        for panel in shown
        if panel.group == group
    )
    words = [_zero(panel, len(subjects)) for panel in quiet if panel.group == group]
    if not subjects:
        return ""
    title = GROUPS[group] if len(subjects) > 1 else subjects[0]
    mark = "" if len(subjects) > 1 else f"{swatch(frame.looks[subjects[0]])} "
    said = render.html_small(f"0 throughout: {', '.join(words)}") if words else ""
    body = (
        f'<div style="{render.FONT};display:flex;flex-wrap:wrap;gap:12px 26px">{charts}</div>'
        if charts
        else ""
    )
    return _titled(f"{mark}{escape(title)}", body + said)


def _titled(title: str, body: str) -> str:
    return (
        f'<div style="margin-top:8px;padding-top:6px;border-top:1px solid {render.LINE}">'
        f'<div style="font-weight:600;margin-bottom:4px;overflow-wrap:anywhere">{title}</div>{body}</div>'
    )


def _zero(panel: Panel, subjects: int) -> str:
    """The title of what is 0, and of whom where that is not all."""
    names = list(dict.fromkeys(subject for subject, _ in panel.rows))
    return panel.title if len(names) == subjects else f"{panel.title} ({', '.join(names)})"


def _key(seen: Monitoring, shown: Sequence[Panel], drawn: Mapping[Key, Series]) -> str:
    """What is meant by what lies behind the courses."""
    names = dict.fromkeys(name for band in seen.requests for name, _, _ in phases(band))
    unknown = any(None in drawn[row].values for panel in shown for row in panel.rows)
    entries = key(list(names), unknown=unknown)
    if not entries:
        return ""
    head = "Requests: " if names else ""
    return f'<div style="{render.FONT};{render.MUTED};font-size:90%;margin-top:8px">{head}{entries}</div>'


def _recording(line: str) -> str:
    tag = render.html_tag("RECORDING", "it was read from a file, and is not what happens now")
    return f'<div style="{render.FONT};margin:4px 0;overflow-wrap:anywhere">{tag}{escape(line)}</div>'


def _began(seen: Monitoring) -> str:
    """When it began, as far as a minute."""
    moment = seen.recorded.began[:16].replace("T", " ")
    return f"{moment} UTC, " if moment and seen.recorded.began.endswith("+00:00") else ""
