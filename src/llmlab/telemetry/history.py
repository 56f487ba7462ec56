"""Values over time, as many as there is room for."""

from __future__ import annotations

import math
from array import array
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from llmlab.telemetry.metrics import Metric

Key = tuple[str, str]
"""A subject, and a metric of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One metric of one subject over time.

    Attributes:
        subject: What was measured.
        metric: What of it.
        times_s: When, in seconds since the first look.
        values: The values; None where one is unknown.
    """

    subject: str
    metric: Metric
    times_s: tuple[float, ...]
    values: tuple[float | None, ...]

    @property
    def known(self) -> tuple[float, ...]:
        """The values that are known."""
        return tuple(value for value in self.values if value is not None)

    @property
    def last(self) -> float | None:
        """The newest value, None if that is unknown."""
        return self.values[-1] if self.values else None


class History:
    """A bounded past: the oldest look makes room for the newest.

    Memory is taken once for each metric, 8 bytes for each look, and never grows.

    Args:
        capacity: How many looks are kept.

    Attributes:
        count: Looks so far, with those that are not kept any more.
        first: `time.monotonic()` of the very first one, None before it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.count = 0
        self.first: float | None = None
        self._times = _empty(capacity)
        self._columns: dict[Key, array[float]] = {}
        self._metrics: dict[Key, Metric] = {}
        self._seen: set[Key] = set()

    @property
    def known(self) -> dict[Key, Metric]:
        """The series of which something was ever known, in the order in which their sources came."""
        return {key: metric for key, metric in self._metrics.items() if key in self._seen}

    def know(self, subject: str, metric: Metric) -> None:
        """There is such a metric; what was before it began is unknown."""
        key = (subject, metric.key)
        self._metrics[key] = metric
        self._columns.setdefault(key, _empty(self.capacity))

    def forget(self, subject: str) -> None:
        """Drop what was seen of a subject."""
        for key in [key for key in self._metrics if key[0] == subject]:
            del self._metrics[key], self._columns[key]
            self._seen.discard(key)

    def reserve(self, capacity: int) -> None:
        """Have room for so many looks, if there is less."""
        if capacity <= self.capacity:
            return
        places, self.capacity = self._places(0), capacity
        first = self.count - len(places)

        def moved(column: array[float]) -> array[float]:
            wider = _empty(capacity)
            for number, place in enumerate(places, start=first):
                wider[number % capacity] = column[place]
            return wider

        self._columns = {key: moved(column) for key, column in self._columns.items()}
        self._times = moved(self._times)

    def add(self, now: float, values: Mapping[Key, float | None]) -> None:
        """One look.

        Args:
            now: `time.monotonic()` of it.
            values: What was seen; what is missing is unknown.
        """
        place = self.count % self.capacity
        self._times[place] = now
        for key, column in self._columns.items():
            value = values.get(key)
            # A source's word is not taken for it: infinity would stretch an axis without end.
            if value is None or not math.isfinite(value):
                column[place] = math.nan
            else:
                column[place] = value
                self._seen.add(key)
        self.count += 1
        if self.first is None:
            self.first = now

    def began(self, since: float = -math.inf) -> float | None:
        """`time.monotonic()` of the first look that is kept and not before `since`; None if there is none."""
        return next((self._times[place] for place in self._places(0) if self._times[place] >= since), None)

    def rows(self, keys: Sequence[Key], after: int) -> tuple[list[float], list[list[float]]]:
        """What the looks after the first `after` ones have seen.

        Args:
            keys: Which series.
            after: How many looks to leave out, counted from the very first.

        Returns:
            `time.monotonic()` of each look, and for each key its values; NaN is unknown.
        """
        places = self._places(after)
        blank = _empty(self.capacity) if any(key not in self._columns for key in keys) else array("d")
        columns = [self._columns.get(key, blank) for key in keys]
        return [self._times[place] for place in places], [[c[place] for place in places] for c in columns]

    def series(self, since: float | None = None, keys: Container[Key] | None = None) -> tuple[Series, ...]:
        """Series, oldest value first; those of which nothing is known are left out.

        Args:
            since: Time 0 of the series, `time.monotonic()`; what was before it is left
                out. None: the very first look.
            keys: Which; None for all.
        """
        begin = since if since is not None else self.first or 0.0
        places = [place for place in self._places(0) if self._times[place] >= begin]
        times = tuple(self._times[place] - begin for place in places)
        found = []
        for key, metric in self.known.items():
            if keys is not None and key not in keys:
                continue
            column = self._columns[key]
            values = tuple(None if math.isnan(column[place]) else column[place] for place in places)
            if any(value is not None for value in values):
                found.append(Series(subject=key[0], metric=metric, times_s=times, values=values))
        return tuple(found)

    def _places(self, after: int) -> list[int]:
        """Where the looks after the first `after` ones are, as far as they are kept."""
        return [i % self.capacity for i in range(max(after, self.count - self.capacity, 0), self.count)]


def _empty(capacity: int) -> array[float]:
    return array("d", [math.nan]) * capacity
