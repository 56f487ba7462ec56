"""How results are shown: with their figures, live if they are, and not twice in the cell that made them.

`%llm ask "…"` streams the answer and returns it, so that it can be assigned.
At the end of a cell IPython would show the returned value once more. It is
this echo, and nothing else, that is left out: the same object, in the same
execution, shown by the display hook. `answer` in a later cell shows it again.
The same goes for what `%llm monitor` shows and returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmlab.notebook import cards, watching

if TYPE_CHECKING:
    from llmlab.notebook.reporters import ScreenReporter
    from llmlab.results import Answer

# By name: nothing is imported for them.
_ANSWER = ("llmlab.results", "Answer")
_SEEN = (("llmlab.monitoring.watch", "Watch"), ("llmlab.monitoring.results", "Monitoring"))


def register(shell: Any, reporter: ScreenReporter) -> None:
    """Show results in `shell`, and leave out the echo of what `reporter` has shown."""

    def echo(result: Any) -> bool:
        shown, execution = reporter.streamed
        return result is shown and execution == shell.execution_count and _echoes(shell)

    def leave_out(answer: Answer) -> None:
        if not echo(answer):
            # IPython's way for a formatter to decline: the others take over.
            raise NotImplementedError

    def live(seen: Any) -> None:
        if not echo(seen) and not (hasattr(shell, "kernel") and watching.show_live(seen)):
            raise NotImplementedError

    formatters = shell.display_formatter
    formatters.ipython_display_formatter.for_type_by_name(*_ANSWER, leave_out)
    formatters.mimebundle_formatter.for_type_by_name(*_ANSWER, cards.answer_bundle)
    for type_ in _SEEN:
        formatters.ipython_display_formatter.for_type_by_name(*type_, live)


def _echoes(shell: Any) -> bool:
    """Whether the display hook is at work: a terminal's says so, a kernel's has a message open."""
    hook = shell.displayhook
    if getattr(hook, "is_active", False) or getattr(hook, "msg", None):
        return True
    # IPython 8's terminal does not say; a value shown by hand in the same input is rare.
    return not hasattr(hook, "is_active") and not hasattr(hook, "session")


def unregister(shell: Any) -> None:
    """Show results as IPython would."""
    formatters = shell.display_formatter
    for formatter in (formatters.ipython_display_formatter, formatters.mimebundle_formatter):
        for type_ in (_ANSWER, *_SEEN):
            formatter.pop(".".join(type_), None)
