"""The command line: `llmlab VERB …`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llmlab import render, runtime, verbs
from llmlab.errors import AskInterrupted, LabError, UsageError
from llmlab.reporting import Lines, Repainter, Reporter, Transfer, reporting_to
from llmlab.results import Answer

if TYPE_CHECKING:
    from llmlab.monitoring import Watch
    from llmlab.monitoring.painting import Painting
    from llmlab.monitoring.samples import Samples
    from llmlab.reporting import Course

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130
_PROG = "llmlab"
# A line this often shows, in a log, that a long stage goes on.
_PIPE_S = 15.0
_LIVE_S, _LOOK_S = 0.1, 1.0


class TerminalReporter(Reporter):
    """Progress on standard error, answers on standard output as they come."""

    def __init__(self, *, quiet: bool) -> None:
        # With --json, standard output is the result and nothing else.
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._began = self._written = time.monotonic()
        self._stage = self._detail = self._waits = ""
        self._lock = threading.Lock()  # of what is written
        self._thread = threading.current_thread()
        self._transfer: tuple[Transfer, Repainter] | None = None
        self._samples: Samples | None = None
        self._painting: Painting | None = None
        self._lines = Lines(sys.stderr)  # of a course

    @property
    def streamed(self) -> bool:
        """Whether the result has been written already, line by line."""
        return self._samples is not None

    def begin(self, title: str, stages: Sequence[str] = ()) -> None:  # noqa: ARG002 - it has just been typed
        """Remember when it began."""
        self._began = time.monotonic()
        self._stage = ""

    def stage(self, stage: str, detail: str = "") -> None:
        """One line that is written over; in a pipe one for each stage, and of a long one now and then."""
        changed = stage != self._stage
        if changed:
            self._close_transfer()
        self._stage, self._detail = stage, detail
        self._paint(at_once=changed)

    def course(self, course: Course) -> None:
        """Lines that are written over; in a pipe one for each stage."""
        if self._live:
            self._lines.paint(course.lines(self._lines.columns))
        else:
            super().course(course)

    def progress(self, done: int, total: int | None) -> None:
        """The same line, with a bar and the rate."""
        if not self._stage:
            return
        if self._transfer is None:
            painter = Repainter(self._paint, pause_s=_LIVE_S if self._live else _LOOK_S, owner=self._thread)
            self._transfer = Transfer(), painter
        transfer, painter = self._transfer
        transfer.update(done, total)
        painter.changed()

    def watching(self, watch: Watch) -> None:
        """With --json a line for each look; else its course is painted over and over."""
        from llmlab.monitoring.painting import Painting  # noqa: PLC0415 - only this verb needs it
        from llmlab.monitoring.samples import Samples  # noqa: PLC0415 - likewise

        self.begin("")
        if self._quiet:
            self._samples = Samples(watch)
        elif self._live:
            self._painting = Painting(watch, sys.stderr)

    def looked(self, watch: Watch) -> None:
        """Show what is new."""
        if self._samples:
            for sample in self._samples.news():
                _print_json(sample)
            sys.stdout.flush()
        elif self._painting:
            self._painting.looked()
        else:
            self.stage("watch", watch.present())

    def end(self, *, failed: bool) -> None:
        """Close the line, or wipe it when all went well."""
        self._close_transfer()
        if self._live:
            self._lines.paint(())
        if self._live and self._stage:
            sys.stderr.write("\n" if failed else "\r\033[K")
            sys.stderr.flush()
        self._stage = ""

    def _close_transfer(self) -> None:
        """Show the last figures of a transfer; a log keeps them."""
        closing, self._transfer = self._transfer, None
        if closing:
            closing[1].close()
            self._paint(render.moved_text(*closing[0].outcome), at_once=True)

    def _paint(self, tail: str = "", *, at_once: bool = False) -> None:
        if self._transfer:
            transfer = self._transfer[0]
            bar = render.text_bar(transfer.done / transfer.total, width=12) if transfer.total else ""
            tail = f"{bar}{render.transfer_text(*transfer.figures)}"
        with self._lock:
            now = time.monotonic()
            head = f"{now - self._began:5.1f} s  {self._stage}: "
            if self._live:
                sys.stderr.write(f"\r\033[K{render.progress_line(head, self._detail, tail, _columns() - 1)}")
            elif at_once or now - self._written > _PIPE_S:
                sys.stderr.write(f"{head}{render.plain(self._detail)}{f'  {tail}' if tail else ''}\n")
                self._written = now
            sys.stderr.flush()

    def note(self, message: str) -> None:
        """A line of its own."""
        with self._lock:
            sys.stderr.write(("\r\033[K" if self._live else "") + f"note: {render.plain(message)}\n")

    def waiting(self, why: str) -> None:
        """A line that the answer writes over; in a pipe a line when there is something new."""
        if self._live:
            sys.stderr.write(f"\r\033[K{render.clipped(why, _columns() - 1)}")
        elif why != self._waits:
            sys.stderr.write(f"{why}\n")
        sys.stderr.flush()
        self._waits = why

    def _waited(self) -> None:
        if self._waits and self._live:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
        self._waits = ""

    def text(self, piece: str) -> None:
        """The answer, with control characters made visible."""
        self._waited()
        if not self._quiet:
            sys.stdout.write(render.plain(piece))
            sys.stdout.flush()

    def answered(self, answer: Answer) -> None:
        """The figures under the answer."""
        self._waited()
        if not self._quiet:
            sys.stdout.write(f"{answer if answer.synthetic else ''}\n")
            sys.stdout.flush()
            sys.stderr.write(f"[{render.plain(answer.summary())}]\n")


def _columns() -> int:
    """Width of the terminal that standard error is."""
    with suppress(OSError, ValueError):
        if found := os.get_terminal_size(sys.stderr.fileno()).columns:
            return found
    return 80


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    Args:
        argv: The words after the command's name; those of the process if None.

    Returns:
        0 if it worked, 1 if it failed, 2 for a usage error, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    runtime.keep_servers()
    try:
        status = _run(words)
        sys.stdout.flush()
    except OSError as error:
        # Who read the output has gone (`llmlab ps | head -1`), or a disk is full.
        # Python would try to write the rest when it ends, and complain.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"{_PROG}: the output cannot be written: {error.strerror}", file=sys.stderr)
        return _FAILED
    return status


def _run(words: Sequence[str]) -> int:
    if words == ["--version"]:
        from llmlab import __version__  # noqa: PLC0415 - not needed otherwise

        print(f"{_PROG} {__version__}")
        return 0
    try:
        call = verbs.parse(words, prog=_PROG)
        with reporting_to(TerminalReporter(quiet=call.json)) as reporter:
            result = call.run()
            if hasattr(result, "follow"):  # a watch goes on; here nothing else does
                result = result.follow(None, reporter.looked)
            if hasattr(result, "converse"):  # so does a conversation, until the input ends
                return int(result.converse(_print_json if call.json else None))
    except verbs.HelpShown as shown:
        print(shown.text)
        return 0
    except BrokenPipeError:
        raise
    except (LabError, OSError, KeyboardInterrupt) as error:
        return _failed(error, json_wanted="--json" in words)
    if call.json and not reporter.streamed:
        _print_json(result.to_dict())
    elif not call.json and not isinstance(result, Answer):  # which has been shown as it came
        print(render.plain(str(result)))
    return int(getattr(result, "exit_status", 0))


def _failed(error: BaseException, *, json_wanted: bool) -> int:
    """Show what went wrong; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        status, start, message = _INTERRUPTED, "\n", str(error) or "interrupted"
    else:
        status, start, message = _USAGE if isinstance(error, UsageError) else _FAILED, "", str(error)
    if json_wanted:
        if isinstance(error, AskInterrupted):
            _print_json(error.answer.to_dict())
        elif isinstance(error, LabError):
            _print_json({"error": error.to_dict()})
        else:
            _print_json({"error": {"type": type(error).__name__, "message": message}})
    else:
        print(f"{start}{_PROG}: {render.plain(message)}", file=sys.stderr)
    return status


def _print_json(data: Any) -> None:
    # JSON leaves some control characters as they are; a terminal would obey them.
    text = "".join(
        c if c.isprintable() else json.dumps(c)[1:-1] for c in json.dumps(data, ensure_ascii=False)
    )
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # An ASCII terminal, or a path that is not valid UTF-8.
        text = json.dumps(data)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
