"""The form that takes a guess, then measures: an anywidget."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextvars import copy_context
from functools import partial
from importlib import resources
from typing import Any
from weakref import WeakKeyDictionary

import traitlets
from anywidget import AnyWidget
from IPython.display import DisplayHandle, display

from llmlab import render
from llmlab.comparing.predicting import Guessing, views
from llmlab.errors import LabError
from llmlab.reporting import Reporter, reporting_to

_VIEW = "application/vnd.jupyter.widget-view+json"
_STATIC = resources.files("llmlab.notebook") / "static"


class _Cancelled(KeyboardInterrupt):
    """The learner wants no measurement any more; like Ctrl-C, what was begun is taken back."""


class _Telling(Reporter):
    """Tells a form what its measurement is doing, and ends it when that is wanted."""

    def __init__(self, form: GuessForm) -> None:
        self._form = form
        self._thread = threading.current_thread()
        self._stage = ""

    def stage(self, stage: str, detail: str = "") -> None:
        self._look()
        self._stage = f"{stage}: {detail}" if detail else stage
        self._form.progress = render.plain(self._stage)

    def progress(self, done: int, total: int | None) -> None:
        self._look()
        share = f" of {render.bytes_text(total)}" if total else ""
        # As bytes_text rounds, the page is told some thousand times at most.
        self._form.progress = render.plain(f"{self._stage}, {render.bytes_text(done)}{share}")

    def _look(self) -> None:
        # A library's own thread may tell, too: it has nothing to take back.
        if self._form.cancelled.is_set() and threading.current_thread() is self._thread:
            raise _Cancelled


class GuessForm(AnyWidget):
    """What the page knows.

    Attributes:
        facts: What may be reasoned from, in words.
        stage: "asking", "measuring", "measured", or "over".
        guess: The guess that is being measured, or was; tokens per second.
        progress: What the measurement is doing.
        error: Why there is no measurement, in words.
        hint: The hint, once it was asked for.
        outcome: HTML of what came out.
        pages: How often a page has loaded it.
        cancelled: Set when the measurement is to end.
    """

    # Texts and not paths: the instances of a widget of paths are never freed.
    _esm = (_STATIC / "predict.js").read_text(encoding="utf-8")
    _css = (_STATIC / "predict.css").read_text(encoding="utf-8")
    facts = traitlets.Dict().tag(sync=True)
    stage = traitlets.Unicode("asking").tag(sync=True)
    guess = traitlets.Float(None, allow_none=True).tag(sync=True)
    progress = traitlets.Unicode("").tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)
    hint = traitlets.Dict().tag(sync=True)
    outcome = traitlets.Unicode("").tag(sync=True)

    def __init__(self, asked: Guessing) -> None:
        self.pages = 0
        self.cancelled = threading.Event()
        self._asked = asked
        self._lock = threading.Lock()
        self._handles: list[DisplayHandle] = []
        super().__init__(facts=_facts(asked))
        if asked.guesses:
            self._show_outcome()
        self.on_msg(self._heard)

    def show(self) -> None:
        """Show it in the present cell."""
        handle = display(self._bundle(), raw=True, display_id=True)
        if handle is not None:
            self._handles.append(handle)

    def _bundle(self) -> dict[str, Any]:
        # Where there is no kernel any more, readers of the file take what stands beside the view.
        view = {_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}
        return {**_card(self._asked), **view}

    def _heard(self, _: Any, content: Mapping[str, Any], __: Any) -> None:
        match content.get("t"):
            case "hello":
                self.pages += 1
            case "measure":
                self._begin(content.get("guess"))
            case "cancel":
                self.cancelled.set()
            case "hint" if not self.hint:
                self.hint = {"state": "measuring"}
                self._aside(self._hint)
            case "again" if self.stage == "measured":
                self.stage = "asking"
            case "done" if self.stage == "measured":
                self._finish()

    def _begin(self, guess: Any) -> None:
        """Lock the guess, and measure."""
        with self._lock:  # of two pages only one may
            if self.stage != "asking":
                return
            self.cancelled.clear()
            self.error, self.progress, self.stage = "", "", "measuring"
        self._aside(partial(self._measure, guess))

    def _aside(self, what: Any) -> None:
        """Do something in a thread of its own, for this cell."""
        run = partial(copy_context().run, what)
        threading.Thread(target=run, name="llmlab predict", daemon=True).start()

    def _measure(self, guess: Any) -> None:
        try:
            with reporting_to(_Telling(self)):
                self.guess = self._asked.measure(guess).guess
        except _Cancelled:
            self.stage = "asking"
        except LabError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - nobody else would see it
            self._failed(f"{type(error).__name__}: {error}")
        else:
            self._show_outcome()
            for handle in self._handles:  # the file's: whoever opens it sees what came out
                handle.update(self._bundle(), raw=True)

    def _failed(self, why: str) -> None:
        self.error = render.plain(why)
        self.stage = "asking"

    def _show_outcome(self) -> None:
        *earlier, latest = self._asked.guesses
        with self.hold_sync():
            self.guess = latest.guess
            self.outcome = views.outcome_html(latest, earlier)
            self.stage = "measured"

    def _hint(self) -> None:
        self.hint = {
            "state": "known",
            "bandwidth": views.bandwidth(self._asked.bandwidth_bytes_per_s()),
            "formula": views.FORMULA,
            "reason": views.REASON,
        }

    def _finish(self) -> None:
        """It is over: put the picture in the place of the form, in the page and in the file."""
        self.stage = "over"
        _forms.pop(self._asked, None)
        for handle in self._handles:
            handle.update(_card(self._asked), raw=True)
        if self.pages <= 1:
            self.close()
        # Else a page was loaded anew, which no update reaches: it keeps the form, with what it holds.


_forms: WeakKeyDictionary[Guessing, GuessForm] = WeakKeyDictionary()


def show(asked: Guessing) -> None:
    """Show the form of a question in the present cell; in two cells it is the same form.

    Args:
        asked: The question.
    """
    form = _forms.get(asked)
    if form is None:
        form = _forms[asked] = GuessForm(asked)
    form.show()


def _card(asked: Guessing) -> dict[str, str]:
    return render.bundle(str(asked), asked.to_html())


def _facts(asked: Guessing) -> dict[str, Any]:
    facts = asked.facts
    return {
        "question": views.question(facts.model),
        "synthetic": facts.synthetic,
        "model": views.model_facts(facts),
        "machine": views.machine_facts(facts),
    }
