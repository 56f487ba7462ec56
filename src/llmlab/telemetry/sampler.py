"""One thread that looks at all sources, so many times a second."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Container, Iterable, Sequence

from llmlab.telemetry.history import History, Key, Series
from llmlab.telemetry.metrics import Metric, Source

# Between two readings of two clocks.
_JITTER_S = 0.5


class Sampler:
    """Looks at sources at a steady rate, in a thread of its own; a context manager.

    A look that comes late does not push the later ones back: they stay on the
    same clock, and those that were missed are left out, which shows as a gap.

    Args:
        sources: What to look at; they are closed at the end.
        hz: Looks per second; may be changed while it looks.
        capacity: How many looks are kept.

    Attributes:
        missed: Looks that were left out so far.
        slept_s: How long the machine has slept meanwhile, in seconds; no time passes in the series then.
    """

    def __init__(self, sources: Iterable[Source] = (), *, hz: float = 2.0, capacity: int = 3600) -> None:
        self.hz = hz
        self.missed = 0
        self.slept_s = 0.0
        self._slept = slept_s()
        self._sources = list(sources)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="llmlab sampler", daemon=True)
        self._turn = threading.Lock()  # of whoever reads the sources, or changes which there are
        self._news = threading.Condition()  # and the guard of what was seen
        self._history = History(capacity)
        self._latest: dict[Key, float | None] = {}
        for source in self._sources:
            for metric in source.metrics:
                self._history.know(source.subject, metric)

    def __enter__(self) -> Sampler:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Begin to look."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking, and close the sources."""
        self.stop()

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; no look is under way any more when this returns."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.change(remove=list(self._sources))
        with self._news:
            self._news.notify_all()

    def change(self, *, add: Collection[Source] = (), remove: Collection[Source] = ()) -> None:
        """Look at other sources from the next look on.

        Args:
            add: Those that come; their series begin here.
            remove: Those that go, and are closed; what they have told is kept.
        """
        with self._turn:
            self._sources = [source for source in self._sources if source not in remove] + list(add)
            for source in remove:
                source.close()
        with self._news:
            for source in add:
                for metric in source.metrics:
                    self._history.know(source.subject, metric)

    def forget(self, subject: str) -> None:
        """Drop what was seen of a subject that is not looked at any more."""
        with self._news:
            self._history.forget(subject)

    def reserve(self, capacity: int) -> None:
        """Keep at least so many looks."""
        with self._news:
            self._history.reserve(capacity)

    def series(self, since: float | None = None, keys: Container[Key] | None = None) -> tuple[Series, ...]:
        """What was seen so far; see `History.series`."""
        with self._news:
            return self._history.series(since, keys)

    def latest(self) -> dict[Key, float | None]:
        """What the newest look has seen."""
        with self._news:
            return self._latest

    def wait(self, looks: int, timeout_s: float) -> int:
        """Wait for a look that is not among the first `looks` ones.

        Args:
            looks: How many looks are known already.
            timeout_s: How long to wait, in seconds.

        Returns:
            How many looks there were so far; not more than `looks` after the time, or
            when it was stopped.
        """
        with self._news:
            self._news.wait_for(lambda: self._history.count > looks or self._stop.is_set(), timeout_s)
            return self._history.count

    @property
    def looks(self) -> int:
        """How many looks there were."""
        with self._news:
            return self._history.count

    @property
    def capacity(self) -> int:
        """How many are kept."""
        with self._news:
            return self._history.capacity

    def known(self) -> dict[Key, Metric]:
        """The series of which something was ever known."""
        with self._news:
            return self._history.known

    def began(self, since: float) -> float | None:
        """`time.monotonic()` of the first look that is kept and not before `since`; None if there is none."""
        with self._news:
            return self._history.began(since)

    def rows(self, keys: Sequence[Key], after: int) -> tuple[int, list[float], list[list[float]]]:
        """What the looks after the first `after` ones have seen; see `History.rows`.

        Returns:
            How many looks there were so far; when each of these was; and for each key its values.
        """
        with self._news:
            return self._history.count, *self._history.rows(keys, after)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            began = self._look()
            period_s = 1.0 / self.hz
            due += period_s
            # The next look is half a period away at least: over less time no rate can be told.
            late = max(0, math.ceil((began - due) / period_s + 0.5))
            self.missed += late
            due += late * period_s
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _look(self) -> float:
        with self._turn:
            now = time.monotonic()
            slept = slept_s()
            self.slept_s += max(0.0, slept - self._slept - _JITTER_S)
            self._slept = slept
            seen: dict[Key, float | None] = {}
            for source in self._sources:
                for key, value in source.read(now).items():
                    seen[source.subject, key] = value
        with self._news:
            self._history.add(now, seen)
            self._latest = seen
            self._news.notify_all()
        return now


def slept_s() -> float:
    """How long this machine has slept since it was booted: the monotonic clock stands still then."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
