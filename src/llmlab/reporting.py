"""How verbs tell what they are doing while they do it.

A verb does not know whether it runs in a cell, in a terminal or in a script.
It reports to the current `Reporter`; the doors put theirs in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from llmlab.results import Answer

Stage = Literal["engine", "image", "model", "load", "ready"]
STAGES: tuple[Stage, ...] = ("engine", "image", "model", "load", "ready")


class Reporter:
    """The silent reporter, and the interface of all others.

    Methods are called from the thread that runs the verb (`progress` from any). For one `start`:
    `begin`, then `stage` once or more per stage in the order of `STAGES`
    (stages that a backend does not have are left out), then `end` once, also
    after a failure. For one `ask`: `text` per piece of text as it is read,
    then `answered` once, also when interrupted.
    """

    def begin(self, title: str) -> None:
        """Something that takes a while begins, such as "start tiny"."""

    def stage(self, stage: str, detail: str = "") -> None:
        """It is at `stage`; called again with a new `detail` as that goes on."""

    def progress(self, done: int, total: int | None) -> None:
        """So many bytes of the present stage are done, of so many (None: not known).

        Called often, and it may go back where something begins anew.
        """

    def end(self, *, failed: bool) -> None:
        """It is over."""

    def note(self, message: str) -> None:
        """One sentence the user should see, whatever happens next."""

    def asked(self, prompt: str, server: str) -> None:
        """A prompt was sent."""

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
