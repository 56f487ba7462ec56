"""How answers are shown: with their figures, and not twice in the cell that asked.

`%llm ask "…"` streams the answer and returns it, so that it can be assigned.
At the end of a cell IPython would show the returned value once more. It is
this echo, and nothing else, that is left out: the same object, in the same
execution, shown by the display hook. `answer` in a later cell shows it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmlab.notebook import cards

if TYPE_CHECKING:
    from llmlab.notebook.reporters import ScreenReporter
    from llmlab.results import Answer

_TYPE = ("llmlab.results", "Answer")  # by name: nothing is imported for it


def register(shell: Any, reporter: ScreenReporter) -> None:
    """Show answers as cards in `shell`, and leave out the echo of what `reporter` has streamed."""

    def leave_out(answer: Answer) -> None:
        streamed, execution = reporter.streamed
        if not (answer is streamed and execution == shell.execution_count and _echoes(shell)):
            # IPython's way for a formatter to decline: the others take over.
            raise NotImplementedError

    shell.display_formatter.ipython_display_formatter.for_type_by_name(*_TYPE, leave_out)
    shell.display_formatter.mimebundle_formatter.for_type_by_name(*_TYPE, cards.answer_bundle)


def _echoes(shell: Any) -> bool:
    """Whether the display hook is at work: a terminal's says so, a kernel's has a message open."""
    hook = shell.displayhook
    if getattr(hook, "is_active", False) or getattr(hook, "msg", None):
        return True
    # IPython 8's terminal does not say; a value shown by hand in the same input is rare.
    return not hasattr(hook, "is_active") and not hasattr(hook, "session")


def unregister(shell: Any) -> None:
    """Show answers as IPython would."""
    formatters = shell.display_formatter
    for formatter in (formatters.ipython_display_formatter, formatters.mimebundle_formatter):
        formatter.pop(".".join(_TYPE), None)
