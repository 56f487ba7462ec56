"""What a watch sees, a JSON object for each look: for programs that read along."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import Any

from llmlab.monitoring.watch import Watch


class Samples:
    """Hands out each look of a watch once.

    Args:
        watch: The watch.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._looks = self._asked = 0
        self._began = datetime.now(timezone.utc) - timedelta(seconds=watch.now_s)

    def news(self) -> list[dict[str, Any]]:
        """The looks since the last time.

        Each has `t_s` (seconds since the first look), `time` (ISO 8601), `values` (of
        each subject each metric that was ever known, None where it is unknown now) and
        `requests` (those of which it was heard since the look before).
        """
        keys = [(subject, metric.key) for subject, metric in self._watch.known()]
        self._looks, times, columns = self._watch.looks(keys, self._looks)
        self._asked, bands = self._watch.asked(self._asked)
        found: list[dict[str, Any]] = []
        for number, when in enumerate(times):
            values: dict[str, dict[str, float | None]] = {}
            for (subject, key), column in zip(keys, columns, strict=True):
                value = column[number]
                values.setdefault(subject, {})[key] = None if math.isnan(value) else value
            moment = self._began + timedelta(seconds=when)
            found.append(
                {
                    "t_s": round(when, 3),
                    "time": moment.isoformat(timespec="milliseconds"),
                    "values": values,
                    "requests": [],
                }
            )
        if found:
            found[-1]["requests"] = [
                {**asdict(band), "queue_s": band.queue_s, "joules_per_token": band.joules_per_token}
                for band in bands
            ]
        return found
