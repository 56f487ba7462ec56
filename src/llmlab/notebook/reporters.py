"""Showing what verbs do: as outputs of a notebook's cell, or in an IPython terminal."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from IPython.core.getipython import get_ipython
from IPython.display import display

from llmlab import render
from llmlab.notebook import cards
from llmlab.reporting import Reporter

if TYPE_CHECKING:
    from llmlab.results import Answer

_PAUSE_S = 0.1  # at most ten updates a second: a front-end drops what comes faster
_TICK_S = 0.5  # and two a second for the clock where nothing else happens


class _LiveOutput:
    """One output of a cell, painted again in place by a thread of its own.

    The thread that runs the verb only says that something has changed, so that
    reading a stream never waits for a front-end, and the last piece before a
    pause is shown as well.
    """

    def __init__(self, paint: Callable[[], cards.Bundle]) -> None:
        self._paint = paint
        self._changed = threading.Event()
        self._closed = threading.Event()
        self._owner = threading.current_thread()
        self._handle = display(paint(), raw=True, display_id=True)
        # The context carries the cell that the output belongs to.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._repaint,), name="llmlab-output", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """There is something new to show."""
        self._changed.set()

    def close(self) -> None:
        """Paint for the last time."""
        self._closed.set()
        self._changed.set()
        try:
            self._thread.join()
        finally:  # also when a second interrupt falls into it
            self._update()

    def _repaint(self) -> None:
        while not self._closed.is_set() and self._owner.is_alive():
            self._changed.wait(_TICK_S)
            self._changed.clear()
            if not self._closed.is_set():
                self._update()
            self._closed.wait(_PAUSE_S)

    def _update(self) -> None:
        if self._handle is not None:
            self._handle.update(self._paint(), raw=True)


class _Active(threading.local):
    """What goes on in one thread; threads may start and ask at the same time."""

    python = ""
    progress: cards.Progress | None = None
    output: _LiveOutput | None = None  # of the progress, once there is any
    reply: tuple[cards.Reply, _LiveOutput] | None = None


class ScreenReporter(Reporter):
    """What the notebook's and the terminal's reporter have in common.

    Attributes:
        streamed: The last answer that was shown while it came in, and the
            number of the execution that it was shown in.
    """

    streamed: tuple[Answer | None, int] = (None, -1)

    def announce(self, python: str) -> None:
        """The Python line that does what begins next."""

    def settle(self, *_: object) -> None:
        """The cell is over: nothing may look as if it still went on."""
        self.streamed = (None, -1)

    def answered(self, answer: Answer) -> None:
        """Remember what was shown, so that it is not shown twice."""
        shell = get_ipython()
        self.streamed = (answer, shell.execution_count if shell else -1)


class KernelReporter(ScreenReporter):
    """Shows one output per start and one per answer, each updated in place."""

    def __init__(self) -> None:
        self._active = _Active()

    def announce(self, python: str) -> None:
        """Shown with the next `begin`."""
        self._active.python = python

    def begin(self, title: str) -> None:
        """Remember it; it is shown with its first stage, and not at all if it gets to none.

        What begins inside of it only adds stages to it.
        """
        if self._active.progress is None:
            self._active.progress = cards.Progress(title, self._active.python)

    def stage(self, stage: str, detail: str = "") -> None:
        """Move the progress line on."""
        if self._active.progress is not None:
            self._active.progress.stage(stage, detail)
            self._show_progress()

    def end(self, *, failed: bool) -> None:
        """Close the progress line; it stays as a record of what was done."""
        progress, output = self._active.progress, self._active.output
        self._active.progress = self._active.output = None
        self._active.python = ""
        if progress is not None and output is not None:
            progress.end(failed=failed)
            output.close()

    def note(self, message: str) -> None:
        """Into the progress line where there is one, else an output of its own."""
        if self._active.progress is not None:
            self._active.progress.note(message)
            self._show_progress()
        else:
            display(cards.note_bundle(message), raw=True)

    def _show_progress(self) -> None:
        if self._active.output is not None:
            self._active.output.changed()
        elif self._active.progress is not None:
            self._active.output = _LiveOutput(self._active.progress.bundle)

    def asked(self, prompt: str, server: str) -> None:  # noqa: ARG002 - the prompt is in the cell already
        """Open the output of the answer."""
        if self._active.reply is None:
            reply = cards.Reply(server)
            self._active.reply = (reply, _LiveOutput(reply.bundle))

    def text(self, piece: str) -> None:
        """Show the next piece, soon."""
        self.asked("", "")
        if self._active.reply is not None:
            reply, output = self._active.reply
            reply.add(piece)
            output.changed()

    def answered(self, answer: Answer) -> None:
        """Show the answer with its figures."""
        if self._active.reply is not None:
            super().answered(answer)
            reply, output = self._active.reply
            self._active.reply = None
            reply.answer = answer
            output.close()

    def settle(self, *_: object) -> None:
        """Close what an error has left open."""
        super().settle()
        self._active.python = ""
        self.end(failed=True)
        if self._active.reply is not None:
            reply, output = self._active.reply
            self._active.reply = None
            reply.abandon()
            output.close()


class TerminalReporter(ScreenReporter):
    """Prints, for IPython in a terminal."""

    def __init__(self) -> None:
        self._python = ""
        self._title = ""
        self._stage = ""

    def announce(self, python: str) -> None:
        """Printed with the title of what begins next."""
        self._python = python

    def begin(self, title: str) -> None:
        """Printed with the first stage, and not at all if it gets to none."""
        self._title = title + (f"  (in Python: {self._python})" if self._python else "")
        self._python = self._stage = ""

    def stage(self, stage: str, detail: str = "") -> None:
        """One line per stage; where the terminal can, its detail changes in place."""
        self._open()
        if sys.stdout.isatty():
            newline = "\n" if self._stage not in {"", stage} else ""
            print(f"{newline}\r\x1b[K  {stage} {render.plain(detail)}", end="", flush=True)  # noqa: T201
        elif stage != self._stage:
            print(f"  {stage} {render.plain(detail)}".rstrip())  # noqa: T201
        self._stage = stage

    def end(self, *, failed: bool) -> None:
        """Print how it went."""
        if self._stage:
            print(("\n" if sys.stdout.isatty() else "") + f"  {'failed' if failed else 'done'}")  # noqa: T201
        self._title = self._stage = ""

    def note(self, message: str) -> None:
        """Print it."""
        self._open()
        newline = "\n" if self._stage and sys.stdout.isatty() else ""
        print(f"{newline}  note: {render.plain(message)}")  # noqa: T201

    def _open(self) -> None:
        if self._title:
            print(self._title)  # noqa: T201
            self._title = ""

    def text(self, piece: str) -> None:
        """Print it as it comes; escape sequences in it become visible."""
        print(render.plain(piece), end="", flush=True)  # noqa: T201

    def answered(self, answer: Answer) -> None:
        """Print the figures."""
        super().answered(answer)
        print(f"\n[{render.plain(answer.summary())}]")  # noqa: T201
