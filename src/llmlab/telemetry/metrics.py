"""The words that sources, sampler and views share: what is measured, of what, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

HOST = "the machine"
"""The subject of what is measured of the whole machine; with a space, as no server has one in its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One thing that is measured.

    Attributes:
        key: Its name, unique within one subject, such as "cpu".
        title: What a view calls it.
        unit: Its unit: "CPUs", "MiB", "%", "W", "MHz", "°C", "1/s", "tokens/s", "".
        method: Where the value comes from and what it means, in one sentence.
        interval_s: How often the value behind it changes, in seconds; None if each
            look is a new one. Looking more often shows the same value again.
        most: What it cannot exceed, such as a limit; None where there is no such thing.
        error: How far such sensors were found to be off, as shares of the value, below and
            above it: (0.13, 0.08) is from −13 % to +8 %. None where nothing is known of it.
    """

    key: str
    title: str
    unit: str
    method: str
    interval_s: float | None = None
    most: float | None = None
    error: tuple[float, float] | None = None


class Source(Protocol):
    """Something that can be read again and again.

    Attributes:
        subject: What it measures: `HOST`, "gpu 0", or a server's name.
        metrics: All that it may ever tell, fixed when it is made.
    """

    @property
    def subject(self) -> str:
        """What it measures."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All that it may ever tell."""

    def read(self, now: float) -> Mapping[str, float | None]:
        """The present values; a key that is missing or None is unknown. It never raises.

        Args:
            now: `time.monotonic()` of this look, the same for all sources.
        """

    def close(self) -> None:
        """Let go of what it holds; reading afterwards tells nothing."""


class Rate:
    """From a counter that only grows to its change per second."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def of(self, now: float, count: float | None) -> float | None:
        """The change per second since the last look.

        None at the first look, after one that saw nothing, and where the counter has
        gone backwards: it belongs to something else then, or was set to zero.

        Args:
            now: `time.monotonic()` of this look.
            count: The counter, or None if it cannot be seen.
        """
        before, self._before = self._before, None if count is None else (now, count)
        if before is None or count is None:
            return None
        seconds, change = now - before[0], count - before[1]
        return change / seconds if seconds > 0 and change >= 0 else None


class Throttling:
    """From counters of a quota's periods to the share of them in which it was used up."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def of(self, periods: float | None, throttled: float | None) -> float | None:
        """Per cent of the periods since the last look.

        None at the first look, after one that saw nothing, and without a quota, where no
        period is ever counted and nothing can be said.

        Args:
            periods: The counter of periods.
            throttled: The counter of those in which the quota was used up.
        """
        before, self._before = self._before, None
        if not periods or throttled is None:
            return None
        self._before = periods, throttled
        if before is None:
            return None
        passed, held = periods - before[0], throttled - before[1]
        if not 0 <= held <= passed:
            return None
        return 100 * held / passed if passed else 0.0
