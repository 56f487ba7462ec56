"""Values over time, as many as there is room for."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class History:
    """A bounded past: the oldest look makes room for the newest.

    Memory is taken once, 8 bytes for each value, and never grows.

    Args:
        capacity: How many looks are kept.
    """

    capacity: int
    began: float | None = None
    _times: array[float] = field(init=False)
    _columns: dict[Key, array[float]] = field(init=False, default_factory=dict)
    _metrics: dict[Key, Metric] = field(init=False, default_factory=dict)
    _count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Take the memory."""
        self._times = array("d", [math.nan]) * self.capacity

    def know(self, subject: str, metric: Metric) -> None:
        """There is such a metric; what was before it began is unknown."""
        key = (subject, metric.key)
        self._metrics[key] = metric
        if key not in self._columns:
            self._columns[key] = array("d", [math.nan]) * self.capacity

    def add(self, now: float, values: Mapping[Key, float | None]) -> None:
        """One look.

        Args:
            now: `time.monotonic()` of it.
            values: What was seen; what is missing is unknown.
        """
        if self.began is None:
            self.began = now
        place = self._count % self.capacity
        self._times[place] = now - self.began
        for key, column in self._columns.items():
            value = values.get(key)
            # A source's word is not taken for it: infinity would stretch an axis without end.
            column[place] = math.nan if value is None or not math.isfinite(value) else value
        self._count += 1

    def series(self) -> tuple[Series, ...]:
        """All series, oldest value first; those of which nothing was ever known are left out."""
        places = [i % self.capacity for i in range(max(0, self._count - self.capacity), self._count)]
        times = tuple(self._times[place] for place in places)
        found = []
        for key, column in self._columns.items():
            values = tuple(None if math.isnan(column[place]) else column[place] for place in places)
            if any(value is not None for value in values):
                found.append(Series(subject=key[0], metric=self._metrics[key], times_s=times, values=values))
        return tuple(found)
