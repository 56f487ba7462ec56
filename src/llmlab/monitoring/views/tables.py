"""What stands below the charts: the newest requests, how each thing is measured, and the data."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.monitoring.views.words import newest, number, seconds
from llmlab.telemetry import recording

if TYPE_CHECKING:
    from llmlab.monitoring.results import Monitoring
    from llmlab.telemetry.bands import Band
    from llmlab.telemetry.metrics import Metric
    from llmlab.telemetry.recording import Recording

_ROWS = 20
# What a card may carry of its own data: characters of base64, and values that are worth the try.
_MOST_DATA, _MOST_VALUES = 60_000, 300_000
_SAVE = "Keep the data: .save(FILE) of this result writes them, monitor --replay FILE shows them again."


def requests(seen: Monitoring) -> str:
    """The newest requests, in a table under a fold; "" if there was none."""
    bands = newest(seen.requests, _ROWS)
    if not bands:
        return ""
    header = ("server", "sent at", "TTFT", "in the queue", "tokens", "tokens/s", "J/token", "ended")
    rows = [_cells(band) for band in bands]
    notes = dict.fromkeys(band.energy_note for band in bands if band.energy_note)
    table = _table(header, rows, right=range(1, 7))
    below = "".join(render.html_small(f"J/token: {note}") for note in notes)
    count = len(seen.requests)
    title = f"Requests ({count})" if count <= _ROWS else f"Requests (the newest {_ROWS} of {count})"
    return render.html_fold(title, table + below)


def methods(seen: Monitoring) -> str:
    """How each thing is measured, in a table under a fold; what is measured alike is one row."""
    alike: dict[Metric, list[str]] = {}
    for each in seen:
        # Limits differ without a difference in how it is measured.
        alike.setdefault(replace(each.metric, most=None), []).append(each.subject)
    rows = [
        (
            ", ".join(dict.fromkeys(subjects)),
            metric.title,
            metric.unit,
            metric.method,
            _interval(metric),
            _error(metric),
        )
        for metric, subjects in alike.items()
    ]
    header = ("of", "what", "unit", "how", "sensor", "known error")
    return render.html_fold("How each is measured", _table(header, rows))


def data(seen: Monitoring) -> str:
    """The recording itself as a link, where it is small; else how to keep it."""
    if not seen.series:
        return ""
    packed = _packed(seen.recorded)
    if packed is None:
        return render.html_small(_SAVE)
    coded = base64.b64encode(packed).decode()
    return (
        f'<div style="{render.MUTED};font-size:90%"><a style="color:inherit" download="monitor.jsonl.gz" '
        f'href="data:application/gzip;base64,{coded}">data ({render.bytes_text(len(packed))})</a> '
        f"monitor --replay FILE shows them again</div>"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """A table in few bytes: hundreds of cells stay in the notebook."""
    sides = ["right" if column in right else "left" for column in range(len(header))]

    def line(cells: Sequence[str], tag: str) -> str:
        found = "".join(
            f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )
        return f"{render.ROW}{found}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f'<table cellpadding="4" style="border-collapse:collapse;{render.FONT};font-size:90%;margin:0;'
        f'font-variant-numeric:tabular-nums"><thead>{line(header, "th")}</thead><tbody>{body}</tbody></table>'
    )


def _cells(band: Band) -> tuple[str, ...]:
    sent = f"{band.began_s:.1f} s".replace("-", "−")
    tokens = render.UNKNOWN if band.tokens is None else str(band.tokens)
    energy = number(band.joules_per_token)
    return (
        band.subject,
        sent,
        seconds(band.ttft_s),
        seconds(band.queue_s),
        tokens,
        number(band.tokens_per_s),
        energy,
        band.outcome or render.UNKNOWN,
    )


def _packed(recorded: Recording) -> bytes | None:
    """The recording as a file has it; None if it is not a small one."""
    values = sum(len(each.values) for each in recorded.series)
    if values > _MOST_VALUES:
        return None
    packed = recording.packed(recorded)
    return packed if len(packed) * 4 / 3 < _MOST_DATA else None


def _interval(metric: Metric) -> str:
    if metric.interval_s is None:
        return "new at each look"
    every = metric.interval_s
    return f"one value per {number(every)} s" if every >= 1 else f"one value per {number(every * 1000)} ms"


def _error(metric: Metric) -> str:
    if metric.error is None:
        return render.UNKNOWN
    below, above = metric.error
    return f"−{number(100 * below)} … +{number(100 * above)} %"
