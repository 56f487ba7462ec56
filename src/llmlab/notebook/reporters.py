"""Showing what verbs do: as outputs of a notebook's cell, or in an IPython terminal."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from IPython.core.getipython import get_ipython
from IPython.display import display

from llmlab import render
from llmlab.notebook import cards, watching
from llmlab.notebook.outputs import LiveOutput
from llmlab.reporting import Lines, Repainter, Reporter, Transfer

if TYPE_CHECKING:
    from llmlab.monitoring import Watch
    from llmlab.monitoring.painting import Painting
    from llmlab.reporting import Course
    from llmlab.results import Answer, Result

# What a page takes to draw a picture that it is sent, on a slow machine.
_DRAWN_S = 0.2
_LOOK_S, _PIPE_S = 1.0, 15.0  # where lines cannot be written over: how often to look, and to print one


class _Active(threading.local):
    """What goes on in one thread; threads may start and ask at the same time."""

    python = ""
    progress: cards.Progress | None = None
    output: LiveOutput | None = None  # of the progress, once there is any
    reply: tuple[cards.Reply, LiveOutput] | None = None


class ScreenReporter(Reporter):
    """What the notebook's and the terminal's reporter have in common.

    Attributes:
        streamed: The last result that was shown while it came in, and the
            number of the execution that it was shown in.
    """

    streamed: tuple[Result | None, int] = (None, -1)

    def announce(self, python: str) -> None:
        """The Python line that does what begins next."""

    def settle(self, *_: object) -> None:
        """The cell is over: nothing may look as if it still went on."""
        self.streamed = (None, -1)

    def answered(self, answer: Answer) -> None:
        """Remember what was shown, so that it is not shown twice."""
        self._remember(answer)

    def _remember(self, result: Result) -> None:
        shell = get_ipython()
        self.streamed = (result, shell.execution_count if shell else -1)


class KernelReporter(ScreenReporter):
    """Shows one output per start and one per answer, each updated in place."""

    def __init__(self) -> None:
        self._active = _Active()
        self._shown: list[tuple[cards.Progress, LiveOutput]] = []  # of all threads

    def announce(self, python: str) -> None:
        """Shown with the next `begin`."""
        self._active.python = python

    def begin(self, title: str, stages: Sequence[str] = ()) -> None:
        """Remember it; it is shown with its first stage, and not at all if it gets to none.

        What begins inside of it only adds stages to it.
        """
        if self._active.progress is None:
            self._active.progress = cards.Progress(title, self._active.python, stages)

    def stage(self, stage: str, detail: str = "") -> None:
        """Move the progress line on."""
        if self._active.progress is not None:
            self._active.progress.stage(stage, detail)
            self._show_progress()

    def course(self, course: Course) -> None:
        """Show the picture under the progress line, and wait until it has been drawn."""
        if self._active.progress is None:
            return
        self._active.progress.follow(course)
        if self._active.output is None:
            self._show_progress(still=True)
        else:
            self._active.output.paint()
        time.sleep(_DRAWN_S)

    def progress(self, done: int, total: int | None) -> None:
        """Move the bar on.

        A library's own thread may tell: what it tells belongs to the thread that
        waits for it, and where several threads wait, nobody could say to which.
        """
        shown = self._shown
        if self._active.progress is not None and self._active.output is not None:
            progress, output = self._active.progress, self._active.output
        elif self._active.progress is None and len(shown) == 1:
            progress, output = shown[0]
        else:
            return
        progress.transfer(done, total)
        output.changed()

    def end(self, *, failed: bool) -> None:
        """Close the progress line; it stays as a record of what was done."""
        progress, output = self._active.progress, self._active.output
        self._shown = [item for item in self._shown if item[0] is not progress]
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

    def watching(self, watch: Watch) -> None:
        """Show it live; what comes of it is shown in the same place."""
        watching.show_live(watch)
        self._remember(watch)

        def over() -> None:
            if self.streamed[0] is watch:
                self._remember(watch.snapshot())

        watch.when_over(over)

    def _show_progress(self, *, still: bool = False) -> None:
        if self._active.output is not None:
            self._active.output.changed()
        elif self._active.progress is not None:
            self._active.output = LiveOutput(self._active.progress.bundle, still=still)
            self._shown = [*self._shown, (self._active.progress, self._active.output)]

    def asked(self, prompt: str, server: str) -> None:  # noqa: ARG002 - the prompt is in the cell already
        """Open the output of the answer."""
        if self._active.reply is None:
            reply = cards.Reply(server)
            self._active.reply = (reply, LiveOutput(reply.bundle))

    def waiting(self, why: str) -> None:
        """Say so beside the clock."""
        if self._active.reply is not None:
            reply, output = self._active.reply
            reply.waits = why
            output.changed()

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
        self._title = self._waits = ""
        self._stage = self._detail = ""
        self._lock = threading.Lock()  # of what is printed
        self._thread = threading.current_thread()
        self._printed = 0.0
        self._transfer: tuple[Transfer, Repainter] | None = None
        self._painting: Painting | None = None
        self._lines: Lines | None = None  # of a course

    def announce(self, python: str) -> None:
        """Printed with the title of what begins next."""
        self._python = python

    def begin(self, title: str, stages: Sequence[str] = ()) -> None:  # noqa: ARG002 - printed when they come
        """Printed with the first stage, and not at all if it gets to none."""
        self._title = title + (f"  (in Python: {self._python})" if self._python else "")
        self._python = self._stage = ""

    def stage(self, stage: str, detail: str = "") -> None:
        """One line per stage; where the terminal can, its detail changes in place."""
        self._open()
        changed = stage != self._stage
        if changed:
            self._close_transfer()
            if self._stage and sys.stdout.isatty():
                print()  # noqa: T201
        self._stage, self._detail, self._thread = stage, detail, threading.current_thread()
        if changed or sys.stdout.isatty():
            self._print_stage()

    def course(self, course: Course) -> None:
        """Painted in place; elsewhere one line per stage."""
        if not sys.stdout.isatty():
            super().course(course)
            return
        self._open()
        self._lines = self._lines or Lines(sys.stdout)
        self._lines.paint(course.lines(self._lines.columns))

    def progress(self, done: int, total: int | None) -> None:
        """The same line, with a bar and the rate."""
        if not self._stage:
            return
        if self._transfer is None:
            live = sys.stdout.isatty()
            painter = Repainter(self._repaint, pause_s=0.1 if live else _LOOK_S, owner=self._thread)
            self._transfer = Transfer(), painter
        transfer, painter = self._transfer
        transfer.update(done, total)
        painter.changed()

    def watching(self, watch: Watch) -> None:
        """Painted in place while the verb waits for its end; beside other cells nothing can be."""
        from llmlab.monitoring.painting import Painting  # noqa: PLC0415 - only this verb needs it

        self._painting = Painting(watch, sys.stdout) if sys.stdout.isatty() else None

    def looked(self, watch: Watch) -> None:  # noqa: ARG002 - it is the one that is painted
        """Paint it again."""
        if self._painting:
            self._painting.looked()

    def end(self, *, failed: bool) -> None:
        """Print how it went."""
        self._close_transfer()
        lines, self._lines = self._lines, None
        if lines:
            lines.paint(())
        if self._stage or lines:
            newline = "\n" if self._stage and sys.stdout.isatty() else ""
            print(f"{newline}  {'failed' if failed else 'done'}")  # noqa: T201
        self._title = self._stage = ""

    def settle(self, *_: object) -> None:
        """The cell is over: no thread of it may go on printing."""
        super().settle()
        self._close_transfer()
        self._stage, self._waits, self._lines = "", "", None

    def note(self, message: str) -> None:
        """Print it."""
        self._open()
        newline = "\n" if self._stage and sys.stdout.isatty() else ""
        with self._lock:
            print(f"{newline}  note: {render.plain(message)}")  # noqa: T201

    def _close_transfer(self) -> None:
        """Print the last figures of a transfer."""
        closing, self._transfer = self._transfer, None
        if closing:
            closing[1].close()
            self._print_stage(render.moved_text(*closing[0].outcome))

    def _repaint(self) -> None:
        if self._transfer and (sys.stdout.isatty() or time.monotonic() - self._printed > _PIPE_S):
            transfer = self._transfer[0]
            bar = render.text_bar(transfer.done / transfer.total, width=12) if transfer.total else ""
            self._print_stage(bar + render.transfer_text(*transfer.figures))

    def _print_stage(self, figures: str = "") -> None:
        with self._lock:
            self._printed = time.monotonic()
            if sys.stdout.isatty():
                columns = shutil.get_terminal_size().columns - 1
                line = render.progress_line(f"  {self._stage} ", self._detail, figures, columns)
                print(f"\r\x1b[K{line}", end="", flush=True)  # noqa: T201
            else:
                line = f"  {self._stage} {render.plain(self._detail)}  {figures}"
                print(line.rstrip(), flush=True)  # noqa: T201

    def _open(self) -> None:
        if self._title:
            print(self._title)  # noqa: T201
            self._title = ""

    def waiting(self, why: str) -> None:
        """Print what is new."""
        if why != self._waits:
            self._waits = why
            print(f"  {why}", flush=True)  # noqa: T201

    def text(self, piece: str) -> None:
        """Print it as it comes; escape sequences in it become visible."""
        print(render.plain(piece), end="", flush=True)  # noqa: T201

    def answered(self, answer: Answer) -> None:
        """Print the figures."""
        super().answered(answer)
        self._waits = ""
        print(f"\n[{render.plain(answer.summary())}]")  # noqa: T201
