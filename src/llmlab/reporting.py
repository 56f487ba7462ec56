"""How verbs tell what they are doing while they do it.

A verb does not know whether it runs in a cell, in a terminal or in a script.
It reports to the current `Reporter`; the doors put theirs in place.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Literal, Protocol, TextIO, TypeVar

if TYPE_CHECKING:
    from llmlab.monitoring import Watch
    from llmlab.results import Answer

Stage = Literal["pull", "engine", "image", "model", "load", "ready"]
STAGES: tuple[Stage, ...] = ("pull", "engine", "image", "model", "load", "ready")
"""The stages of a start, in their order."""

_SAMPLE_S = 0.1
_WINDOW_S = 5.0
_SHORTEST_S = 0.5  # of less, a rate would be chance


class Course(Protocol):
    """How far something has got that is disturbed by whoever draws meanwhile, such as a measurement.

    Attributes:
        stage: Where it is, one of the stages that were given to `Reporter.begin`.
        detail: Where in it, and how long it will still take.
    """

    @property
    def stage(self) -> str: ...  # noqa: D102 - above

    @property
    def detail(self) -> str: ...  # noqa: D102 - above

    def lines(self, columns: int) -> list[str]:
        """It as lines of at most so many columns."""

    def to_html(self) -> str:
        """It as a picture, without its stage and detail."""


class Reporter:
    """The silent reporter, and the interface of all others.

    Methods are called from the thread that runs the verb (`progress` from any). For one `start`:
    `begin`, then `stage` once or more per stage in the order of `STAGES`
    (stages that a backend does not have are left out), then `end` once, also
    after a failure. For one `ask`: `waiting` now and then
    while nothing has come, `text` per piece of text as it is read,
    then `answered` once, also when interrupted.
    """

    def begin(self, title: str, stages: Sequence[str] = ()) -> None:
        """Something that takes a while begins, such as "start tiny".

        `stages` are those that lie ahead, if they are known.
        """

    def stage(self, stage: str, detail: str = "") -> None:
        """It is at `stage`; called again with a new `detail` as that goes on."""

    def progress(self, done: int, total: int | None) -> None:
        """So many bytes of the present stage are done, of so many (None: not known).

        The first call of a stage says what was there before: only what comes
        after it counts for the rate. Called as often as one likes, from any
        thread; it may go back where something begins anew.
        """

    def course(self, course: Course) -> None:
        """It has got so far, and does not want to be disturbed until the next call.

        In place of `stage`, from the first one to `end`. All is shown before this
        returns; from then on no thread draws anything of it, and no clock ticks.
        """
        self.stage(course.stage, course.detail)

    def end(self, *, failed: bool) -> None:
        """It is over."""

    def watching(self, watch: Watch) -> None:
        """Servers are looked at from now on, beyond the end of the verb; show it as it goes on."""

    def looked(self, watch: Watch) -> None:
        """The verb waits for the end of `watch`, which has just seen something new."""

    def note(self, message: str) -> None:
        """One sentence the user should see, whatever happens next."""

    def asked(self, prompt: str, server: str) -> None:
        """A prompt was sent."""

    def waiting(self, why: str) -> None:
        """Nothing has come yet, and why, as far as that is known; called again with what has changed."""

    def text(self, piece: str) -> None:
        """The next piece of the answer. Untrusted: show it as text only."""

    def answered(self, answer: Answer) -> None:
        """The answer is complete, or as complete as it will get."""


R = TypeVar("R", bound=Reporter)

_current: ContextVar[Reporter | None] = ContextVar("llmlab_reporter", default=None)
_default = Reporter()


def reporter() -> Reporter:
    """The reporter to report to now."""
    return _current.get() or _default


def set_default_reporter(value: Reporter) -> None:
    """Put a reporter in place for this process (a notebook kernel does)."""
    global _default  # noqa: PLW0603 - one per process is what is meant
    _default = value


@contextmanager
def reporting_to(value: R) -> Iterator[R]:
    """Report to `value` inside the `with` block."""
    token = _current.set(value)
    try:
        yield value
    finally:
        _current.reset(token)


class Transfer:
    """How far a transfer is, how fast it goes, and how long it will still take.

    `update` may be called from any thread; it keeps at most ten points a
    second, so that calling it for each block costs next to nothing.

    Attributes:
        done: Bytes so far, with those that were there before.
        total: Bytes in all, or None.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = 0
        self.total: int | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._points: deque[tuple[float, int]] = deque()  # of the last seconds, and one before them
        self._began = self._news = self._sampled = clock()
        self._before = 0
        self._earlier = (0, 0.0)  # bytes and seconds before the last pause

    def update(self, done: int, total: int | None) -> None:
        """So many bytes are done, of so many."""
        now = self._clock()
        # Half of what there was: not late news of another thread, but a new beginning.
        back = done < self.done / 2
        anew = back or not self._points
        self.done, self.total, self._news = done, total, now
        if not anew and now - self._sampled < _SAMPLE_S:
            return
        self._sampled = now
        with self._lock:
            if back:
                self._earlier = (0, 0.0)
            if anew:
                self._points = deque()
                self._began, self._before = now, done
            self._points.append((now, done))
            self._forget(now)

    def pause(self) -> None:
        """Something else comes first: the time until the next news does not count."""
        with self._lock:
            self._earlier = (self.moved, self._took())
            self._points = deque()
            self._began, self._before = self._news, self.done

    @property
    def moved(self) -> int:
        """Bytes that have come since it began."""
        return self._earlier[0] + max(self.done - self._before, 0)

    @property
    def rate(self) -> float | None:
        """Bytes per second over the last seconds; None while that cannot be said."""
        now = self._clock()
        with self._lock:
            if not self._points:
                return None
            self._forget(now)
            since, then = self._points[0]
        if now - since < _SHORTEST_S:
            return None
        # To this moment and not to the last news: what has stopped slows down.
        return max(self.done - then, 0) / (now - since)

    @property
    def left_s(self) -> float | None:
        """Seconds it will still take at that rate; None while that cannot be said."""
        rate = self.rate
        return (self.total - self.done) / rate if rate and self.total is not None else None

    @property
    def figures(self) -> tuple[int, int | None, float | None, float | None]:
        """Done, total, rate, seconds left: what `render.transfer_text` takes."""
        return self.done, self.total, self.rate, self.left_s

    @property
    def outcome(self) -> tuple[int, float | None]:
        """Done and the mean rate: what `render.moved_text` takes when it is over."""
        return self.done, self.mean_rate

    @property
    def mean_rate(self) -> float | None:
        """Bytes per second from its beginning to its last news; None if that was no time."""
        took = self._took()
        return self.moved / took if took > 0 else None

    def _took(self) -> float:
        return self._earlier[1] + self._news - self._began

    def _forget(self, now: float) -> None:
        """Drop what is older than the window, but for the point that it begins with."""
        while len(self._points) > 1 and self._points[1][0] <= now - _WINDOW_S:
            self._points.popleft()


class Repainter:
    """Calls `paint` in a thread of its own: soon after a change, and now and then without one.

    Who reports changes never waits for who shows them, and the last change
    before a pause is shown as well.

    Args:
        paint: Called by that thread.
        pause_s: Shortest time between two calls.
        tick_s: Longest time between two calls.
        owner: The thread that the work belongs to; when it has died, nothing
            is painted any more. Unset: the one that makes this.
    """

    def __init__(
        self,
        paint: Callable[[], None],
        *,
        pause_s: float = 0.1,  # a front-end drops what comes much faster
        tick_s: float = 0.5,
        owner: threading.Thread | None = None,
    ) -> None:
        self._paint = paint
        self._pause_s, self._tick_s = pause_s, tick_s
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._owner = owner or threading.current_thread()
        # The context carries the cell that an output belongs to.
        run = copy_context().run
        self._thread = threading.Thread(target=run, args=(self._repaint,), name="llmlab-output", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """There is something new to show."""
        if not self._changed.is_set():  # much quicker than setting it again
            self._changed.set()

    def close(self) -> None:
        """Stop; nothing is painted after this."""
        self._closed.set()
        self._changed.set()
        self._thread.join()

    def _repaint(self) -> None:
        while not self._closed.is_set() and self._owner.is_alive():
            self._changed.wait(self._tick_s)
            self._changed.clear()
            if not self._closed.is_set():
                self._paint()
            self._closed.wait(self._pause_s)


class Lines:
    """Lines at the end of a terminal that are written over in place; by no thread of its own.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._count = 0

    @property
    def columns(self) -> int:
        """So many fit into a line: one less than there are, for in some terminals a full line wraps."""
        return self._size()[0] - 1

    def paint(self, lines: Sequence[str]) -> None:
        """Show these in place of the last ones; none to take them away."""
        if not lines and not self._count:
            return
        shown = lines[: self._size()[1] - 1]
        up = f"\033[{self._count}A" if self._count else ""
        self._stream.write(up + "".join(f"\r\033[K{line}\n" for line in shown) + "\033[J")
        self._stream.flush()
        self._count = len(shown)

    def _size(self) -> tuple[int, int]:
        with suppress(OSError, ValueError):
            columns, lines = os.get_terminal_size(self._stream.fileno())
            if columns and lines:
                return columns, lines
        return 80, 24
