"""Joules per token, from a counter of energy that was looked at while requests were answered.

    J/token = (E(end) - E(begin)) / tokens

E(t) lies on the line between the looks before and after t:

    E(t) = E1 + (E2 - E1) · (t - t1) / (t2 - t1)

The counter is the one of the GPUs that hold the server; of a server that holds no memory
of any GPU, the one of the CPU packages. Nothing is taken away for what else runs there, nor
for what an idle machine takes.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from llmlab.telemetry import container_stats
from llmlab.telemetry.bands import Band, per_token
from llmlab.telemetry.history import Series
from llmlab.telemetry.metrics import HOST

LEAST_S = 10.0
"""The shortest window that a figure is given for: NVML's counter ticks about every 100 ms."""

# At both ends together, so much of the window may lie between two looks, where power is guessed to be even.
_MOST_BETWEEN = 0.2
_OF_GPUS = "energy counter of the GPUs that hold this server, all that runs on them, idle power included"
_OF_CPUS = "energy counter of the CPU packages, all that runs on this machine, idle power included"
_NO_COUNTER = (
    "no energy counter: needs an NVIDIA GPU of the Volta generation or later, or RAPL readable (root)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """The energy of some requests of one server, from the first one's begin to the last one's end.

    Attributes:
        joules: Energy that was counted in that time, pauses included; None if there is no figure.
        tokens: Tokens that were written; None if one of the requests does not tell.
        window_s: How long that time is.
        method: Which counter, and what is counted besides; "" without one.
        note: What else is in the figure, or why there is none.
    """

    joules: float | None
    tokens: int | None
    window_s: float
    method: str
    note: str

    @property
    def joules_per_token(self) -> float | None:
        """Joules divided by tokens; None if either is unknown, or no token was written."""
        return per_token(self.joules, self.tokens)


def with_energy(bands: Iterable[Band], series: Sequence[Series]) -> tuple[Band, ...]:
    """The same requests, each with the energy that was counted while it was under way.

    Args:
        bands: The requests.
        series: What was seen meanwhile; begins of requests are on the same clock.
    """
    every = tuple(bands)
    found = []
    for band in every:
        joules, method, problem = _counted(band.subject, band.began_s, _end(band), series)
        shared = "" if problem else _others(every, [band], band.began_s, _end(band))
        note = _joined(problem or method, shared)
        found.append(replace(band, joules=joules, energy_note=note))
    return tuple(found)


def over_window(
    subject: str,
    bands: Iterable[Band],
    series: Sequence[Series],
    *,
    begin_s: float = -math.inf,
    end_s: float = math.inf,
) -> Energy:
    """The energy of all requests of a server that lie within a span: short ones make a window together.

    Args:
        subject: The server.
        bands: Requests, of others too.
        series: What was seen meanwhile; begins of requests are on the same clock.
        begin_s: No request that began earlier is counted.
        end_s: No request that ended later is counted.
    """
    every = tuple(bands)
    chosen = [b for b in every if b.subject == subject and begin_s <= b.began_s and _end(b) <= end_s]
    if not chosen:
        return Energy(joules=None, tokens=None, window_s=0.0, method="", note="no request")
    begin, end = min(band.began_s for band in chosen), max(map(_end, chosen))
    joules, method, problem = _counted(subject, begin, end, series)
    told = [band.tokens for band in chosen if band.tokens is not None]
    silent = len(chosen) - len(told)
    shared = "" if problem else _others(every, chosen, begin, end)
    untold = f"{silent} of {len(chosen)} do not tell their tokens" if silent else ""
    return Energy(
        joules=joules,
        tokens=None if silent else sum(told),
        window_s=end - begin,
        method=method,
        note=_joined(problem, shared, untold),
    )


def _counted(
    subject: str, begin: float, end: float, series: Sequence[Series]
) -> tuple[float | None, str, str]:
    """Joules of a server in a span of time, how they were counted, and why there are none."""
    counter, method, problem = _counter(subject, begin, end, series)
    if counter is None:
        return None, "", problem
    grown = _grown(counter, begin, end)
    return (None, method, grown) if isinstance(grown, str) else (grown, method, "")


def _grown(counter: Series, begin: float, end: float) -> float | str:
    """What a counter has grown by in a span of time, or why that cannot be told."""
    if end - begin < LEAST_S:
        tenths = math.floor(10 * (end - begin)) / 10
        return f"window too short: {tenths} s of the {LEAST_S:g} s that a figure needs"
    first, last = _around(counter, begin), _around(counter, end)
    if first is None or last is None:
        return "it was under way before the first look or after the last one"
    if (between := _length(counter, first) + _length(counter, last)) > _MOST_BETWEEN * (end - begin):
        return f"too few looks: those around its begin and its end are {between:.1f} s apart together"
    edges = _at(counter, first, begin), _at(counter, last, end)
    if edges[0] is None or edges[1] is None:
        return "the energy counter could not be read when it began or ended"
    known = [value for value in counter.values[first[0] : last[1] + 1] if value is not None]
    if any(later < before for before, later in pairwise(known)):
        return "the energy counter began anew meanwhile"
    return edges[1] - edges[0]


def _counter(
    subject: str, begin: float, end: float, series: Sequence[Series]
) -> tuple[Series | None, str, str]:
    """The counter that a server's energy is in, how it counts, and why there is none."""
    kept = {(each.subject, each.metric.key): each for each in series}
    gpu = kept.get((subject, "gpu_energy"))
    if gpu and _known(gpu, begin, end):
        return gpu, _OF_GPUS, ""
    cpu, memory = kept.get((HOST, "energy_j")), kept.get((subject, "gpu_memory"))
    held = _known(memory, begin, end) if memory else []
    problem = ""
    if any(held) or not (cpu and _known(cpu, begin, end)):
        problem = _NO_COUNTER
    elif not held and any(_is_gpu(each.subject) for each in series):
        problem = "not known whether it was on a GPU"
    elif not _is_here(subject, series):
        problem = "not known whether it runs on this machine's CPUs"
    return (None, "", problem) if problem else (cpu, _OF_CPUS, "")


def _is_here(subject: str, series: Iterable[Series]) -> bool:
    """Whether this machine's kernel has told of it: an engine may tell of another machine."""
    return any(
        each.subject == subject
        and each.metric.key in {"cpu", "memory"}
        and not each.metric.method.startswith(container_stats.METHOD)
        for each in series
    )


def _is_gpu(subject: str) -> bool:
    """Whether it is a GPU of any maker: only a server's name has no space in it."""
    return " " in subject and "gpu" in subject.split()


def _around(series: Series, time_s: float) -> tuple[int, int] | None:
    """The looks before and after a time, the same one if it was just then; None outside of them all."""
    times = series.times_s
    before, after = bisect_right(times, time_s) - 1, bisect_left(times, time_s)
    # A look at that very time is both.
    return (min(before, after), max(before, after)) if before >= 0 and after < len(times) else None


def _length(series: Series, looks: tuple[int, int]) -> float:
    return series.times_s[looks[1]] - series.times_s[looks[0]]


def _at(series: Series, looks: tuple[int, int], time_s: float) -> float | None:
    """The counter at a time between two looks; None if it is unknown at one of them."""
    before, after = (series.values[look] for look in looks)
    if before is None or after is None:
        return None
    length = _length(series, looks)
    share = (time_s - series.times_s[looks[0]]) / length if length > 0 else 0.0
    return before + (after - before) * share


def _known(series: Series, begin: float, end: float) -> list[float]:
    """What is known of it from the look before a span of time to the one after it."""
    first, last = bisect_right(series.times_s, begin) - 1, bisect_left(series.times_s, end)
    return [value for value in series.values[max(0, first) : last + 1] if value is not None]


def _end(band: Band) -> float:
    return band.began_s + band.total_s


def _others(every: Iterable[Band], mine: Iterable[Band], begin: float, end: float) -> str:
    """How many other requests, of any server, were under way in a span of time; "" for none."""
    kept = {id(band) for band in mine}
    count = sum(id(band) not in kept and band.began_s < end and _end(band) > begin for band in every)
    return f"shared with {count} other request{'s' if count > 1 else ''}" if count else ""


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
