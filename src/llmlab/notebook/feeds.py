"""What a live view is fed with: a watch that goes on, or a recording.

`static/live.js` reads what is made here; the layout of the bytes is theirs together.
"""

from __future__ import annotations

import math
import struct
import threading
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any, Protocol

from llmlab.monitoring import Monitoring, Watch
from llmlab.monitoring.panels import group_of, panels
from llmlab.telemetry.bands import Band
from llmlab.telemetry.history import Key
from llmlab.telemetry.metrics import Metric

_REQUESTS = 200
Known = Sequence[tuple[str, Metric]]


class Feed(Protocol):
    """What a live view asks for."""

    def spec(self) -> dict[str, Any]:
        """What is drawn: series, charts, words."""

    def history(self) -> bytes:
        """All looks, as `packed` makes them."""

    def requests(self) -> list[dict[str, Any]]:
        """The newest requests."""


class WatchFeed:
    """A watch.

    Series that are first known later get their chart then: the version of the spec
    grows, and what is sent is laid out anew.

    Attributes:
        count: Looks that the page has been told of.
    """

    def __init__(self, watch: Watch) -> None:
        self.count = 0
        self._watch = watch
        self._guard = threading.Lock()
        self._known: Known = watch.known()
        self._version = 1
        self._asked = 0

    def spec(self) -> dict[str, Any]:
        """What is drawn."""
        watch = self._watch
        seen = watch.snapshot()
        with self._guard:
            return {
                **_drawn(self._known),
                "version": self._version,
                "title": watch.title,
                "hz": watch.hz,
                "state": "live" if watch.running else "stopped",
                "why": watch.why,
                "epoch_s": _epoch_s(seen),
                "recording": "",
                "compact": watch.compact,
                "notes": list(seen.recorded.notes),
            }

    def grown(self) -> bool:
        """Whether there are series of which nothing was known before; they are from now on in the spec."""
        known = self._watch.known()
        with self._guard:
            if len(known) == len(self._known):
                return False
            self._known = known
            self._version += 1
            return True

    def history(self) -> bytes:
        """All looks that are kept."""
        with self._guard:
            known, version = self._known, self._version
        count, times, columns = self._watch.looks(_keys(known), 0)
        self.count = count
        return packed(version, count, times, columns)

    def news(self) -> tuple[dict[str, Any], bytes] | None:
        """The message on the looks that the page has not been told of, and its bytes; None if there are none."""
        with self._guard:
            known, version = self._known, self._version
        count, times, columns = self._watch.looks(_keys(known), self.count)
        self.count = count
        if not times:
            return None
        values = array("f", (value for look in zip(*columns, strict=True) for value in look))
        head = {"t": "append", "v": version, "seq": count, "n": len(times)}
        return head, array("d", times).tobytes() + values.tobytes()

    def requests(self) -> list[dict[str, Any]]:
        """The newest requests."""
        return _asked(self._watch.asked()[1])

    def new_requests(self) -> list[dict[str, Any]]:
        """The requests that the page has not been told of."""
        self._asked, found = self._watch.asked(self._asked)
        return _asked(found)


class RecordingFeed:
    """A recording, which says wherever it is drawn that it is one."""

    def __init__(self, seen: Monitoring) -> None:
        self._seen = seen
        self._known: Known = [(each.subject, each.metric) for each in seen]

    def spec(self) -> dict[str, Any]:
        """What is drawn."""
        seen, times = self._seen, self._times()
        machine = seen.recorded.machine.get("cpu", "another machine")
        return {
            **_drawn(self._known),
            "version": 1,
            "title": ", ".join(dict.fromkeys(s for s, _ in self._known if group_of(s) == "servers")),
            "hz": (len(times) - 1) / seen.seconds if len(times) > 1 and seen.seconds else 2.0,
            "state": "recording",
            "why": "",
            "epoch_s": _epoch_s(seen),
            "recording": f"A recording of {seen.recorded.began}, on {machine}: not what happens now",
            "compact": False,
            "notes": list(seen.recorded.notes),
        }

    def history(self) -> bytes:
        """All looks."""
        columns = [[math.nan if value is None else value for value in each.values] for each in self._seen]
        times = self._times()
        return packed(1, len(times), times, columns)

    def requests(self) -> list[dict[str, Any]]:
        """The newest requests."""
        return _asked(self._seen.requests)

    def _times(self) -> Sequence[float]:
        return self._seen.series[0].times_s if self._seen.series else ()


def packed(version: int, count: int, times: Sequence[float], columns: Iterable[Sequence[float]]) -> bytes:
    """Looks as the page reads them.

    Args:
        version: Of the spec whose series these are.
        count: The number of the last look.
        times: When each look was, in seconds, as 64-bit floats.
        columns: The values of each series, as 32-bit floats; NaN is unknown.

    Returns:
        Four 32-bit numbers (version, count, series, looks), then the times, then one
        series after the other. All in this machine's order, which is little endian wherever
        a browser runs.
    """
    values = [array("f", column) for column in columns]
    head = struct.pack("=4I", version, count, len(values), len(times))
    return b"".join([head, array("d", times).tobytes(), *(column.tobytes() for column in values)])


def _drawn(known: Known) -> dict[str, Any]:
    places = {key: row for row, key in enumerate(_keys(known))}
    subjects: dict[str, dict[str, Any]] = {}
    for subject, _ in known:
        if subject not in subjects:
            group = group_of(subject)
            colour = sum(other["group"] == group for other in subjects.values())
            subjects[subject] = {"name": subject, "group": group, "colour": colour}
    return {
        "subjects": list(subjects.values()),
        "rows": [{"subject": subject, **asdict(metric)} for subject, metric in known],
        "panels": [{**asdict(panel), "rows": [places[key] for key in panel.rows]} for panel in panels(known)],
    }


def _keys(known: Known) -> list[Key]:
    return [(subject, metric.key) for subject, metric in known]


def _asked(bands: Sequence[Band]) -> list[dict[str, Any]]:
    return [
        {**asdict(band), "queue_s": band.queue_s, "joules_per_token": band.joules_per_token}
        for band in bands[-_REQUESTS:]
    ]


def _epoch_s(seen: Monitoring) -> float:
    try:
        began = datetime.fromisoformat(seen.recorded.began)
    except ValueError:
        return 0.0
    return (began if began.tzinfo else began.replace(tzinfo=timezone.utc)).timestamp()
