"""How results are shown: with their figures, live if they are, and not twice in the cell that made them.

`%llm ask "…"` streams the answer and returns it, so that it can be assigned.
At the end of a cell IPython would show the returned value once more. It is
this echo, and nothing else, that is left out: the same object, in the same
execution, shown by the display hook. `answer` in a later cell shows it again.
The same goes for what `%llm monitor` shows and returns.

What can be used, and not only read, is a widget where there are widgets: its class
and the module that shows it stand in `_WIDGETS`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llmlab.notebook import cards, watching

if TYPE_CHECKING:
    from llmlab.notebook.reporters import ScreenReporter
    from llmlab.results import Answer

# By name: nothing is imported for them.
_ANSWER = ("llmlab.results", "Answer")
_EXCHANGE = ("llmlab.chatting.turns", "Exchange")
_SEEN = (("llmlab.monitoring.watch", "Watch"), ("llmlab.monitoring.results", "Monitoring"))

# The class of a verb's result (the module that defines it, its name) → the module of this
# package whose `show(result)` shows it. Elsewhere its text is shown, which says what to do.
_WIDGETS: dict[tuple[str, str], str] = {
    ("llmlab.comparing.predicting.guessing", "Guessing"): "predicting",
    ("llmlab.paneling.snapshot", "Panel"): "panel",
    ("llmlab.chatting.conversation", "Chat"): "chat",
}


def register(shell: Any, reporter: ScreenReporter) -> None:
    """Show results in `shell`, and leave out the echo of what `reporter` has shown."""

    def echo(result: Any) -> bool:
        shown, execution = reporter.streamed
        # Of an exchange in a chat, the answers were shown.
        return (
            getattr(result, "streamed", result) is shown
            and execution == shell.execution_count
            and _echoes(shell)
        )

    def leave_out(answer: Answer) -> None:
        if not echo(answer):
            # IPython's way for a formatter to decline: the others take over.
            raise NotImplementedError

    def live(seen: Any) -> None:
        if not echo(seen) and not (hasattr(shell, "kernel") and watching.show_live(seen)):
            raise NotImplementedError

    formatters = shell.display_formatter
    formatters.ipython_display_formatter.for_type_by_name(*_ANSWER, leave_out)
    formatters.ipython_display_formatter.for_type_by_name(*_EXCHANGE, leave_out)
    formatters.mimebundle_formatter.for_type_by_name(*_ANSWER, cards.answer_bundle)
    for type_ in _SEEN:
        formatters.ipython_display_formatter.for_type_by_name(*type_, live)
    for type_, module in _WIDGETS.items():
        formatters.ipython_display_formatter.for_type_by_name(*type_, _shower(shell, module))


def _shower(shell: Any, module: str) -> Callable[[Any], None]:
    """Shows a result as a widget; declines, as IPython has it, where there are none."""

    def show(result: Any) -> None:
        try:
            shown_by = import_module(f"llmlab.notebook.{module}") if hasattr(shell, "kernel") else None
        except ImportError:  # anywidget is only there with the extra "lab"
            shown_by = None
        if shown_by is None:
            raise NotImplementedError
        shown_by.show(result)

    return show


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
        for type_ in (_ANSWER, _EXCHANGE, *_SEEN, *_WIDGETS):
            formatter.pop(".".join(type_), None)
