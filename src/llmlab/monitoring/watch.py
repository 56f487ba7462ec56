"""A look that still goes on."""

from __future__ import annotations

import math
import os
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from llmlab import machine
from llmlab.errors import LabError
from llmlab.monitoring import views
from llmlab.monitoring.results import Monitoring, Seen
from llmlab.monitoring.shared import SHARED
from llmlab.telemetry import energy
from llmlab.telemetry.bands import Band
from llmlab.telemetry.history import Key
from llmlab.telemetry.metrics import Metric
from llmlab.telemetry.recording import Recording

_KEPT = 7200  # looks: an hour at 2 Hz
_STEP_S = 0.25
# What tells the energy of a request, and whose it is.
_ENERGY = {"energy_j", "gpu_energy"}
_OWNERS = {"gpu_memory", "cpu", "memory"}


class Watch(Seen):
    """Servers and their machine, looked at until `stop()`, or until they have ended.

    What was seen so far can be asked for at any time, and is asked for in the same
    way when it is over: `watch["tiny", "cpu"]`, `watch.to_frame()`. As a context
    manager it stops at the end of the block.

    Args:
        names: The servers; None for all that there are or will be.
        hz: Looks per second.
        kept_s: How long the past is to be kept, in seconds; None for an hour at 2 Hz.
        save: Write a recording into this file when it is over.

    Attributes:
        title: What is looked at, in words.
        compact: Whether it is to be shown in a line for each server.
        why: Why it is over, "" as long as it is not.

    Raises:
        BackendError: If the container engine does not say which process is a server's.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        *,
        hz: float = 2.0,
        kept_s: float | None = None,
        save: Path | None = None,
        compact: bool = False,
    ) -> None:
        self.names = None if names is None else frozenset(names)
        self.hz = hz
        self.capacity = _KEPT if kept_s is None else math.ceil(kept_s * hz) + 2
        self.title = "all servers" if names is None else ", ".join(names)
        self.compact = compact
        self.why = ""
        self._save = save
        self._process = os.getpid()
        self._over = threading.Condition()
        self._when_over: list[Callable[[], None]] = []
        self._final: Monitoring | None = None
        self._machine = machine.look()
        self._zero: float | None = None
        self._until = math.inf
        self._opened = time.monotonic()
        self._sampler = SHARED.open(self)
        self._ready = time.monotonic()
        self._missed, self._slept = self._sampler.missed, self._sampler.slept_s

    def __enter__(self) -> Watch:  # noqa: PYI034 - typing.Self needs Python 3.11
        """It looks already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; a forked child that leaves the block, as by `sys.exit`, has not begun it."""
        if self._process == os.getpid():
            self.stop()

    @property
    def running(self) -> bool:
        """Whether it still goes on."""
        return self._final is None

    @property
    def began(self) -> float:
        """`time.monotonic()` of time 0 of its series: its first look, or when it was ready for one."""
        if self._zero is None and (first := self._sampler.began(self._opened)) is not None:
            # A sampler that others have begun looks when it is due; what is asked before is seen, too.
            self._zero = min(first, self._ready)
        return self._ready if self._zero is None else self._zero

    @property
    def now_s(self) -> float:
        """Seconds since its first look."""
        return time.monotonic() - self.began

    def stop(self, why: str = "stopped") -> Monitoring:
        """Look no more; what was seen is kept. Doing it twice is the same as once.

        Args:
            why: Why, for whoever sees that it is over.

        Raises:
            LabError: If a recording was asked for and cannot be written.
        """
        with self._over:
            if self._final is not None:
                return self._final
            self._until = time.monotonic()
            final = self._final = self.snapshot()
            self.why = why
            self._over.notify_all()
        SHARED.close(self)
        for shown in self._when_over:
            shown()
        if self._save is not None:
            final.save(self._save)
        return final

    def lost(self, why: str) -> None:
        """What was looked at is no longer there: stop, and let nothing be raised."""
        try:
            self.stop(why)
        except LabError as error:
            self.why = f"{why}; {error}"

    def when_over(self, shown: Callable[[], None]) -> None:
        """Have something called when it is over, in the thread that ends it; at once if it is over."""
        with self._over:
            if self._final is None:
                self._when_over.append(shown)
                return
        shown()

    def wait(self, looks: int, timeout_s: float) -> int:
        """Wait for news; see `Sampler.wait`."""
        return self._sampler.wait(looks, timeout_s) if self.running else looks

    def follow(self, for_s: float | None, told: Callable[[Watch], None]) -> Monitoring:
        """Wait until it is over, or Ctrl-C; then stop.

        Args:
            for_s: How long at the most, in seconds; None for no such time.
            told: Called with itself after each look.

        Raises:
            LabError: If a recording was asked for and cannot be written.
        """
        until = math.inf if for_s is None else self._opened + for_s
        looks = 0
        with suppress(KeyboardInterrupt):
            while self.running and (left := until - time.monotonic()) > 0:
                # In small steps, so that Ctrl-C is heard.
                looks, before = self.wait(looks, min(left, _STEP_S)), looks
                if looks > before:
                    told(self)
        return self.stop("the time is over" if time.monotonic() >= until else "stopped")

    def present(self) -> str:
        """The newest look in one line."""
        return views.live({key: v for key, v in self._sampler.latest().items() if self._shows(key[0])})

    def known(self) -> list[tuple[str, Metric]]:
        """Subject and metric of the series of which something was ever known."""
        return [(key[0], metric) for key, metric in self._sampler.known().items() if self._shows(key[0])]

    def looks(self, keys: Sequence[Key], after: int) -> tuple[int, list[float], list[list[float]]]:
        """Its looks after the first `after` ones of the sampler.

        Args:
            keys: Which series.
            after: How many looks are known already.

        Returns:
            How many there were so far; when each of these was, in seconds since its first
            look; and for each key the values, NaN where one is unknown.
        """
        zero = self.began
        count, times, columns = self._sampler.rows(keys, after)
        # The sampler may have begun before, and go on for others when this is over.
        first, end = bisect_left(times, zero), bisect_right(times, self._until)
        return count, [when - zero for when in times[first:end]], [column[first:end] for column in columns]

    def asked(self, after: int = 0) -> tuple[int, list[Band]]:
        """The requests that have ended, after the first `after` ones.

        Returns:
            How many there were so far; and these, with their energy where it is known.
        """
        if self._final is not None:
            asked = self._final.recorded.requests
            return len(asked), [*asked[after:]]
        zero, now = self.began, time.monotonic()
        count, found = SHARED.asked(after)
        bands = [
            replace(band, began_s=band.began_s - zero)
            for band in found
            if self._shows(band.subject) and band.began_s < now and band.began_s + band.total_s > zero
        ]
        if not bands:
            return count, []
        known = self._sampler.known()
        counted = any(key[1] in _ENERGY for key in known)
        keys = {key for key in known if counted and key[1] in _ENERGY | _OWNERS}
        return count, [*energy.with_energy(bands, self._sampler.series(zero, keys))]

    def recent(self, last_s: float) -> Monitoring:
        """What has been seen in the last seconds, without what was asked before them."""
        zero = max(self.began, time.monotonic() - last_s)
        return self._since(zero)

    def snapshot(self) -> Monitoring:
        """What has been seen until now."""
        return self._final or self._since(self.began)

    def _since(self, zero: float) -> Monitoring:
        found = self._sampler.series(zero)
        seconds = time.monotonic() - zero
        late = zero - self.began
        wall = datetime.now(timezone.utc) - timedelta(seconds=seconds)
        here = self._machine
        recorded = Recording(
            began=wall.isoformat(timespec="seconds"),
            machine={"cpu": here.cpu, "cpus": here.cpus, "memory_mib": here.total_mib},
            series=tuple(each for each in found if self._shows(each.subject)),
            requests=tuple(
                replace(band, began_s=band.began_s - late)
                for band in self.asked()[1]
                if band.began_s + band.total_s > late
            ),
            notes=(*SHARED.notes, *self._remarks()),
        )
        return Monitoring(recorded=recorded, seconds=seconds, missed=self._sampler.missed - self._missed)

    def _remarks(self) -> Iterator[str]:
        if slept := round(self._sampler.slept_s - self._slept):
            yield f"The machine slept for {slept} s meanwhile; the time line leaves that out."

    def __repr__(self) -> str:
        """What it is, without what it has seen."""
        state = "goes on; stop() ends it" if self.running else self.why
        return f"<monitor of {self.title}: {state}>"

    def __str__(self) -> str:
        """What was seen so far, and that it goes on."""
        return f"{super().__str__()}\n\n{self!r}" if self.running else super().__str__()

    def _shows(self, subject: str) -> bool:
        return self.names is None or " " in subject or subject in self.names
