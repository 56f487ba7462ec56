"""`%llm` and `%%llm` for IPython and Jupyter.

Only what `%load_ext llmlab` needs at once is imported here: Docker's library
and the verbs are loaded with the first `%llm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmlab.notebook import completion, echo, magics, questions
from llmlab.notebook.reporters import KernelReporter, ScreenReporter, TerminalReporter
from llmlab.reporting import Reporter, set_default_reporter

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

# One per shell, so that unloading takes away exactly what loading has added.
_loaded: dict[int, ScreenReporter] = {}


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Make `%llm` and `%%llm` known, and let every ask and start show itself."""
    reporter = KernelReporter() if getattr(shell, "kernel", None) else TerminalReporter()
    _loaded[id(shell)] = reporter
    set_default_reporter(reporter)
    shell.events.register("post_run_cell", reporter.settle)
    magics.register(shell, reporter)
    completion.register(shell)
    questions.register(shell)
    echo.register(shell, reporter)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take all of it away again; running servers go on."""
    reporter = _loaded.pop(id(shell), None)
    if reporter is None:
        return
    set_default_reporter(Reporter())
    shell.events.unregister("post_run_cell", reporter.settle)
    magics.unregister(shell)
    completion.unregister(shell)
    questions.unregister(shell)
    echo.unregister(shell)
