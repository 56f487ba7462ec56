"""What a click has begun: it goes on in a thread of its own, and tells how far it is."""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

from llmlab.errors import LabError
from llmlab.notebook import cards
from llmlab.paneling import told
from llmlab.reporting import Reporter, reporting_to
from llmlab.verbs import Call

State = Literal["running", "done", "failed", "cancelled"]
# Here a server is written down already, and waited for: it is taken back whenever that ends.
_WAITED_FOR = "load"
_READY = "ready"
_numbers = itertools.count(1)


class Job(Reporter):
    """A verb that runs because of a click; it is what the verb reports to.

    Args:
        call: The verb with its arguments.
        server: The server it is about, "" if none.
        news: Called, from any thread, whenever there is something new to show.

    Attributes:
        number: Tells it from all others of this process.
        call: The verb with its arguments.
        server: The server it is about.
        state: How it stands.
    """

    def __init__(self, call: Call, server: str, news: Callable[[], None]) -> None:
        self.number = next(_numbers)
        self.call = call
        self.server = server
        self.state: State = "running"
        self._news = news
        self._progress: cards.Progress | None = None
        self._at = ""
        self._html = ""
        self._error: dict[str, Any] | None = None
        self._cancelled = self._interrupted = False
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"llmlab {call.verb.name}", daemon=True)

    def launch(self) -> Job:
        """Run it, in its own thread."""
        self._thread.start()
        return self

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until it is over."""
        self._thread.join(timeout_s)

    def cancel(self) -> None:
        """End it as Ctrl-C would: what was begun is taken back, or what was found by then is kept."""
        with self._guard:
            if self._cancelled or self.state != "running":
                return
            self._cancelled = True
            if self._at == _WAITED_FOR and self.call.verb.name == "start":
                # Nothing is reported meanwhile. Elsewhere no exception may fall from the sky:
                # of a container that is just being made nobody would know.
                self._interrupted = True
                ident = ctypes.c_ulong(self._thread.ident or 0)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(KeyboardInterrupt))
        self._news()

    def view(self) -> dict[str, Any]:
        """What the page shows of it, as plain JSON data; all HTML in it is escaped."""
        progress = self._progress
        return {
            "id": self.number,
            "verb": self.call.verb.name,
            "server": self.server,
            "magic": self.call.magic(),
            "state": self.state,
            "cancelling": self._cancelled and self.state == "running",
            "progress": progress.bundle()["text/html"] if progress else "",
            "html": self._html,
            "error": self._error,
        }

    def _run(self) -> None:
        state: State = "done"
        try:
            with reporting_to(self):
                result = self.call.run()
            # A server has a card among those that run.
            self._html = result.to_html() if hasattr(result, "to_html") else ""
        except KeyboardInterrupt:
            # One that was ready before the click arrived goes on.
            state = "done" if self._at == _READY else "cancelled"
        except LabError as error:
            state, self._error = "failed", _said(error, self.call)
        except Exception as error:  # noqa: BLE001 - shown, whatever it is: a thread has nobody else to tell
            state = "failed"
            self._error = {
                "message": f"{type(error).__name__}: {error}",
                "hint": "",
                "log": [],
                "remedy": None,
            }
        with self._guard:
            self.state = state
        self._news()

    # What the verb reports.

    def begin(self, title: str, stages: Sequence[str] = ()) -> None:
        """What begins inside of it adds only stages."""
        if self._progress is None:
            self._progress = cards.Progress(title, "", stages)

    def stage(self, stage: str, detail: str = "") -> None:
        """It is further."""
        with self._guard:
            self._at = stage
        if self._progress is not None:
            self._progress.stage(stage, detail)
        self._reported()

    def progress(self, done: int, total: int | None) -> None:
        """So many bytes are done."""
        if self._progress is not None:
            self._progress.transfer(done, total)
        self._reported()

    def note(self, message: str) -> None:
        """Shown with its stages."""
        if self._progress is not None:
            self._progress.note(message)
        self._reported()

    def end(self, *, failed: bool) -> None:
        """The clock stops."""
        if self._progress is not None and not self._progress.outcome:
            self._progress.end(failed=failed)

    def _reported(self) -> None:
        """Where something is reported it can be ended, once; not by a library's own threads."""
        if threading.current_thread() is not self._thread:
            return
        if self._cancelled and not self._interrupted and self._at != _READY:
            self._interrupted = True
            raise KeyboardInterrupt
        self._news()


def _said(error: LabError, call: Call) -> dict[str, Any]:
    """An error in plain words, and what of the form would mend it."""
    remedy = told(error).remedy if call.verb.name == "start" else None
    return {"message": error.message, "hint": error.hint, "log": list(error.log_tail), "remedy": remedy}
