"""Sources that other packages bring: GPUs of other makers, power meters.

A package names, in the entry points of the group `llmlab.telemetry_sources`, something
that is called without arguments and returns `llmlab.telemetry.metrics.Source`s. What it
returns, tells or raises may be anything, and harms nobody else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from numbers import Real
from typing import Any

from llmlab.telemetry.metrics import HOST, Metric, Source

GROUP = "llmlab.telemetry_sources"

# A plug-in that wants to end Python is as broken as any other.
_ANYTHING = (Exception, SystemExit)
_LONG = 200


def plugin_sources() -> tuple[list[Source], list[str]]:
    """The sources of all plug-ins, and a sentence on each thing that cannot be used.

    Whoever gets them has to close them.
    """
    found: list[Source] = []
    notes: list[str] = []
    taken: set[tuple[str, str]] = set()
    try:
        for point in _entry_points(notes):
            name = f"telemetry plug-in {point.name}"
            for source in _called(point, name, notes):
                guarded, problem = _guarded(source, taken)
                if guarded is None:
                    notes.append(f"{name}: a source is left out: {problem}")
                    with suppress(*_ANYTHING):
                        source.close()
                else:
                    taken |= {(guarded.subject, metric.key) for metric in guarded.metrics}
                    found.append(guarded)
    except BaseException:
        for each in found:
            each.close()
        raise
    return found, notes


class _Guarded:
    """A source of a plug-in: what it raises or tells that is no number is unknown."""

    def __init__(self, source: Any, subject: str, metrics: tuple[Metric, ...]) -> None:
        self.subject, self.metrics = subject, metrics
        self._source = source

    def read(self, now: float) -> Mapping[str, float | None]:
        """What it tells.

        Args:
            now: `time.monotonic()` of this look.
        """
        with suppress(*_ANYTHING):
            told = self._source.read(now)
            return {metric.key: _number(told, metric.key) for metric in self.metrics}
        return {}

    def close(self) -> None:
        """Close it."""
        with suppress(*_ANYTHING):
            self._source.close()


def _entry_points(notes: list[str]) -> Iterable[metadata.EntryPoint]:
    try:
        return sorted(metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    except _ANYTHING as error:
        notes.append(f"telemetry plug-ins cannot be listed: {_words(error)}")
        return ()


def _called(point: metadata.EntryPoint, name: str, notes: list[str]) -> list[Any]:
    """What a plug-in returns; of one that fails midway, what came before."""
    made: list[Any] = []
    try:
        made.extend(point.load()())
    except _ANYTHING as error:
        notes.append(f"{name} failed: {_words(error)}")
    return made


def _guarded(source: Any, taken: set[tuple[str, str]]) -> tuple[_Guarded | None, str]:
    """The source made safe, or why it cannot be used."""
    try:
        subject, metrics = source.subject, tuple(source.metrics)
        whole = callable(source.read) and callable(source.close) and all(map(_is_metric, metrics))
    except _ANYTHING as error:
        return None, f"it is no source: {_words(error)}"
    problem = ""
    if not whole or not isinstance(subject, str):
        problem = "it is no source: it needs a subject, metrics of llmlab's kind, read and close"
    elif " " not in subject or subject != " ".join(subject.split()) or not subject.isprintable():
        problem = f"{subject!r} could be a server's name: a subject needs a space, such as 'amd gpu 0'"
    elif subject == HOST or subject.startswith("gpu "):
        problem = f"{subject!r} is what llmlab itself looks at: name it otherwise, such as 'amd gpu 0'"
    elif (keys := [(subject, metric.key) for metric in metrics]) and (
        len(set(keys)) < len(keys) or not taken.isdisjoint(keys)
    ):
        problem = f"something of {subject!r} is told twice"
    return (None, problem) if problem else (_Guarded(source, subject, metrics), "")


def _is_metric(metric: Any) -> bool:
    """Whether all in it is of the kind that a view can show."""
    return (
        isinstance(metric, Metric)
        and all(isinstance(text, str) for text in (metric.key, metric.title, metric.unit, metric.method))
        and all(value is None or _finite(value) is not None for value in (metric.interval_s, metric.most))
        and (metric.error is None or [_finite(share) is not None for share in metric.error] == [True, True])
    )


def _number(told: Any, key: str) -> float | None:
    with suppress(*_ANYTHING):
        return _finite(told.get(key))
    return None


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    with suppress(OverflowError):
        return float(value) if math.isfinite(value) else None
    return None


def _words(error: BaseException) -> str:
    text = ""
    with suppress(*_ANYTHING):
        text = " ".join(str(error).split())[:_LONG]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
