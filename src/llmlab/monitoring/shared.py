"""One sampler for all who look at this machine from this process.

It begins with the first who looks and ends with the last. Which servers there are
is looked up again and again: those that come are added, those that go are removed.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from llmlab import backends
from llmlab.errors import LabError
from llmlab.lab import holding, registry, requests, sources
from llmlab.specs import Record
from llmlab.telemetry.bands import Band
from llmlab.telemetry.metrics import Source
from llmlab.telemetry.sampler import Sampler

_SCAN_S = 2.0
_REQUESTS = 5000


class Looker(Protocol):
    """Someone who looks.

    Attributes:
        names: The servers that are looked at, None for all.
        hz: Looks per second that are wanted.
        capacity: Looks that are to be kept.
    """

    names: frozenset[str] | None
    hz: float
    capacity: int

    def lost(self, why: str) -> None:
        """It cannot go on: the servers that were named have ended, or Python does."""


@dataclass(frozen=True, slots=True, eq=False)
class _Watched:
    """A server that is looked at."""

    record: Record
    sources: list[Source]
    reader: requests.Reader


class Shared:
    """The sampler, the servers it looks at, and what was asked of them."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Nobody looks: at first, and in a forked child, whose parent's threads and locks are none of its own."""
        self._guard = threading.RLock()
        self._lookers: weakref.WeakSet[Looker] = weakref.WeakSet()
        self._watched: dict[str, _Watched] = {}
        self._gone: dict[str, int] = {}  # subject → looks at the time when it went
        self._asked: deque[Band] = deque(maxlen=_REQUESTS)
        self._count = 0  # of all that were ever in there
        self._sampler: Sampler | None = None
        self._beside: list[Source] = []
        self._notes: dict[str, None] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known: sources that could not be had."""
        return tuple(self._notes)

    def open(self, looker: Looker) -> Sampler:
        """Begin to look.

        Args:
            looker: Who; held weakly, so that whoever forgets it ends it.

        Returns:
            The sampler, which looks already.

        Raises:
            BackendError: If the container engine does not say which process is a server's.
        """
        try:
            with self._guard:
                self._lookers.add(looker)
                sampler = self._sampler or self._made()
                sampler.reserve(looker.capacity)
                # Before the first look, so that it sees the servers, too.
                self._follow(sampler, registry.find_all(), strict=True)
                self._pace(sampler)
                if self._thread is None:
                    self._start(sampler)
                return sampler
        except BaseException:
            self.close(looker)
            raise

    def close(self, looker: Looker) -> None:
        """Look no more; with the last who looked everything ends."""
        with self._guard:
            self._lookers.discard(looker)
            if self._sampler and self._lookers:
                self._pace(self._sampler)
        self._end_if_alone()

    def _end_if_alone(self) -> None:
        # What waits for a thread must not have the guard, which that thread may want.
        with self._guard:
            if self._lookers or self._sampler is None:
                return
            stopping, self._sampler = self._sampler, None
            thread, self._thread = self._thread, None
            self._over.set()
            for kept in (self._watched, self._gone, self._asked, self._notes):
                kept.clear()
        stopping.stop()
        if thread and thread is not threading.current_thread():
            thread.join()

    def asked(self, after: int = 0) -> tuple[int, list[Band]]:
        """The requests that have ended, but for the first `after` ones.

        Returns:
            How many there were so far, and these, as far as they are kept; their `began_s`
            is `time.monotonic()`.
        """
        with self._guard:
            for watched in self._watched.values():
                self._note(watched)
            kept, news = list(self._asked), self._count - after
            return self._count, kept[max(0, len(kept) - news) :] if news > 0 else []

    def leave(self) -> None:
        """Python ends: let everyone who looks come to an end."""
        for looker in list(self._lookers):
            looker.lost("the kernel has ended")

    def _note(self, watched: _Watched) -> None:
        news = watched.reader.news()
        self._asked.extend(news)
        self._count += len(news)

    def _made(self) -> Sampler:
        self._beside, notes = sources.beside()
        self._notes = dict.fromkeys(notes)
        self._sampler = Sampler(self._beside, capacity=1)
        return self._sampler

    def _start(self, sampler: Sampler) -> None:
        self._over = over = threading.Event()
        self._thread = threading.Thread(target=self._scan, args=(over,), name="llmlab servers", daemon=True)
        sampler.start()
        self._thread.start()

    def _pace(self, sampler: Sampler) -> None:
        sampler.hz = max(looker.hz for looker in self._lookers)

    def _scan(self, over: threading.Event) -> None:
        """See which servers there are, until it is over."""
        while not over.wait(_SCAN_S):
            self._end_if_alone()  # who looked may have been forgotten without a word
            with suppress(LabError, OSError):
                records = registry.find_all()
                running = {record.name for record in records if _runs(record)}
                with self._guard:
                    if self._sampler is None or over.is_set():
                        return
                    self.asked()
                    self._follow(self._sampler, records, strict=False)
                    lost = [each for each in self._lookers if each.names and not each.names & running]
                for looker in lost:
                    looker.lost("the server has ended")

    def _follow(self, sampler: Sampler, records: Iterable[Record], *, strict: bool) -> None:
        """Look at the servers that there are, and no longer at those that there were."""
        oldest_first = sorted(records, key=lambda record: record.created)
        wanted = {record.name: record for record in oldest_first if self._wants(record.name)}
        for name, watched in list(self._watched.items()):
            if name not in wanted or wanted[name].created != watched.record.created:
                self._note(watched)
                sampler.change(remove=watched.sources)
                del self._watched[name]
                self._gone[name] = sampler.looks
        for name, record in wanted.items():
            if name in self._watched:
                continue
            try:
                found = sources.of_server(record, holding.gpus_in(self._beside))
            except LabError as error:
                if strict:
                    raise
                self._notes[f"{name} cannot be looked at: {error.message}"] = None
                continue
            self._gone.pop(name, None)
            self._watched[name] = _Watched(record, found, requests.Reader(record))
            sampler.change(add=found)
        for name, looks in list(self._gone.items()):
            # When nothing of it is kept any more.
            if sampler.looks - looks > sampler.capacity:
                sampler.forget(name)
                del self._gone[name]

    def _wants(self, name: str) -> bool:
        return any(looker.names is None or name in looker.names for looker in self._lookers)


def _runs(record: Record) -> bool:
    try:
        return backends.backend(record.backend).look(record).running
    except LabError:
        # A container engine that does not answer has stopped nothing.
        return True


SHARED = Shared()
"""This process's."""

atexit.register(SHARED.leave)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=SHARED.begin_anew)
