"""What a container uses, as its engine says: for one whose control group cannot be read from here."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Protocol

from llmlab.telemetry.metrics import Metric, Rate, Throttling

METHOD = "the container engine's stats stream"
"""Every metric's method begins with this."""

_MIB = 1024 * 1024
_EVERY_S = 1.0
_STALE_S = 3.0
# After a stream that broke: an engine that is gone is not asked all the time.
_PAUSE_S = 3.0
_MOST = 1 << 64
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


class Stream(Protocol):
    """What the engine says of one container, about once a second."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """The decoded objects; may raise whatever it likes."""

    def close(self) -> None:
        """End it, from any thread: what waits for the next object goes on at once."""


class ContainerStatsSource:
    """CPU, memory, block devices and processes of a container, as its engine tells them.

    The engine is listened to in a thread of its own. What it said last counts for
    three seconds and is unknown after that; a stream that breaks is opened again three
    seconds later. What it says may be anything.

    Args:
        subject: What it measures.
        open_stream: Opens `GET /containers/{id}/stats?stream=1`; may raise whatever it likes.
        most: The limits of the container, by the metric's key.
    """

    def __init__(
        self, subject: str, open_stream: Callable[[], Stream], most: Mapping[str, float | None] | None = None
    ) -> None:
        self.subject = subject
        self.metrics = _metrics({"throttled": 100.0, **(most or {})})
        self._open_stream = open_stream
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._stream: Stream | None = None
        self._said: tuple[float, Mapping[str, float | None]] | None = None
        self._thread = threading.Thread(target=self._listen, name=f"llmlab stats {subject}", daemon=True)
        self._thread.start()

    def read(self, now: float) -> Mapping[str, float | None]:
        """What the engine said last.

        Args:
            now: `time.monotonic()` of this look.
        """
        said = self._said
        return {} if said is None or now - said[0] > _STALE_S else said[1]

    def close(self) -> None:
        """End the stream and the thread; one that waits for the engine to answer ends when that does."""
        with self._guard:
            self._closed.set()
            self._said = None
            stream = self._stream
        if stream is not None:
            _end(stream)
        self._thread.join(1.0)

    def _listen(self) -> None:
        readings = _Readings()
        while not self._closed.is_set():
            stream: Stream | None = None
            # Whatever it is, the engine says nothing.
            with suppress(Exception):
                stream = self._open_stream()
                self._hear(stream, readings)
            if stream is not None:
                _end(stream)
            self._closed.wait(_PAUSE_S)

    def _hear(self, stream: Stream, readings: _Readings) -> None:
        """Take in what it says until it ends."""
        with self._guard:
            if self._closed.is_set():
                return
            self._stream = stream
        for data in stream:
            values = readings.of(data)
            with self._guard:
                if self._closed.is_set():
                    return
                self._said = time.monotonic(), values


class _Readings:
    """From the engine's objects to values; changes are from one to the next, by the engine's clock."""

    def __init__(self) -> None:
        self._rates = {key: Rate() for key in ("cpu", "read", "written")}
        self._throttling = Throttling()

    def of(self, data: Any) -> dict[str, float | None]:
        """The values of one object, which may be anything."""
        when = _time(_at(data, "read"))
        nanoseconds = _number(data, "cpu_stats", "cpu_usage", "total_usage")
        counts = {
            "cpu": None if nanoseconds is None else nanoseconds / 1e9,
            "read": _moved(data, "read"),
            "written": _moved(data, "write"),
        }
        return {
            **{
                key: rate.of(when or 0.0, None if when is None else counts[key])
                for key, rate in self._rates.items()
            },
            "throttled": self._throttling.of(*_periods(data)),
            "memory": _memory(data),
            "processes": _number(data, "pids_stats", "current"),
        }


def _periods(data: Any) -> tuple[float | None, float | None]:
    periods, throttled = (
        _number(data, "cpu_stats", "throttling_data", name) for name in ("periods", "throttled_periods")
    )
    return periods, throttled


def _memory(data: Any) -> float | None:
    """What cannot simply be dropped, in MiB."""
    usage = _number(data, "memory_stats", "usage")
    # In version 1 of control groups, the shorter name is of this group without those below it.
    found = (_number(data, "memory_stats", "stats", f"{total}inactive_file") for total in ("total_", ""))
    inactive = next((value for value in found if value is not None), None)
    if usage is None or inactive is None or inactive > usage:
        return None
    return (usage - inactive) / _MIB


def _moved(data: Any, way: str) -> float | None:
    """What was read or written, on all block devices, in MiB; unknown if one entry is not as it should be."""
    entries = _at(data, "blkio_stats", "io_service_bytes_recursive")
    if not isinstance(entries, list):
        return None
    sizes = [_number(entry, "value") for entry in entries if str(_at(entry, "op")).lower() == way]
    known = [size for size in sizes if size is not None]
    whole = len(known) == len(sizes) and all(isinstance(_at(entry, "op"), str) for entry in entries)
    return sum(known) / _MIB if whole else None


def _at(data: Any, *keys: str) -> Any:
    """What stands there in nested objects; None if nothing does."""
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _number(data: Any, *keys: str) -> float | None:
    """The count that stands there; None if it is none."""
    found = _at(data, *keys)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < _MOST:
        return None
    return float(found)


def _time(text: Any) -> float | None:
    """Seconds since the epoch, from a time with up to nine places, which Python's own reader has not."""
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    zone = "+00:00" if match[3] == "Z" else match[3]
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(match[1] + zone).timestamp() + float(match[2] or 0)
    return None


def _end(stream: Stream) -> None:
    with suppress(Exception):
        stream.close()


def _metrics(most: Mapping[str, float | None]) -> tuple[Metric, ...]:
    rows = (
        ("cpu", "CPU", "CPUs", "change of total_usage, by the engine's clock"),
        (
            "throttled",
            "throttled",
            "%",
            "throttled_periods of periods since it last told, in which its quota was used up; none without one",
        ),
        ("memory", "memory", "MiB", "usage less inactive_file: what cannot simply be dropped"),
        ("read", "read from disk", "MiB/s", "change of what was read, all block devices"),
        (
            "written",
            "written to disk",
            "MiB/s",
            "change of what was written, all block devices; what the kernel writes later is not counted",
        ),
        ("processes", "processes", "", "pids_stats.current, threads included"),
    )
    return tuple(
        Metric(
            key=key,
            title=title,
            unit=unit,
            method=f"{METHOD}: {method}",
            interval_s=_EVERY_S,
            most=most.get(key),
        )
        for key, title, unit, method in rows
    )
