"""One thread that looks at all sources, so many times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from llmlab.telemetry.history import History, Key, Series
from llmlab.telemetry.metrics import Source


class Sampler:
    """Looks at sources at a steady rate, in a thread of its own; a context manager.

    A look that comes late does not push the later ones back: they stay on the
    same clock, and those that were missed are left out, which shows as a gap.

    Args:
        sources: What to look at; they are closed at the end.
        hz: Looks per second.
        capacity: How many looks are kept.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        hz: float = 2.0,
        capacity: int = 3600,
    ) -> None:
        self.history = History(capacity)
        self.missed = 0
        self._sources = list(sources)
        self._period_s = 1.0 / hz
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llmlab sampler", daemon=True)
        self._guard = threading.Lock()
        self._latest: dict[Key, float | None] = {}
        for source in self._sources:
            for metric in source.metrics:
                self.history.know(source.subject, metric)

    def __enter__(self) -> Sampler:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking, and close the sources."""
        self.stop()

    def stop(self) -> None:
        """Stop looking; no look is under way any more when this returns."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for source in self._sources:
            source.close()
        self._sources.clear()

    def series(self) -> tuple[Series, ...]:
        """What was seen so far."""
        with self._guard:
            return self.history.series()

    def latest(self) -> dict[Key, float | None]:
        """What the newest look has seen."""
        with self._guard:
            return self._latest

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._look()
            due += self._period_s
            behind = time.monotonic() - due
            if behind > 0:
                late = int(behind / self._period_s)
                self.missed += late
                due += late * self._period_s
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _look(self) -> None:
        now = time.monotonic()
        seen: dict[Key, float | None] = {}
        for source in self._sources:
            for key, value in source.read(now).items():
                seen[source.subject, key] = value
        with self._guard:
            self.history.add(now, seen)
            self._latest = seen
