"""Predict, then measure: how many tokens per second will a model generate here?

The package is not called as its verb is: `llmlab.predict` would be the package
as soon as it is imported.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated, overload

from llmlab import render
from llmlab.arguments import Arg
from llmlab.comparing.predicting import views
from llmlab.comparing.predicting.guess import Guess, checked
from llmlab.comparing.predicting.guessing import Guessing
from llmlab.errors import UsageError

__all__ = ["Guess", "Guessing", "predict"]


@overload
def predict(model: str, *, guess: float) -> Guess: ...
@overload
def predict(model: str, *, guess: None = None) -> Guess | Guessing: ...
def predict(
    model: Annotated[str, Arg(completes="model")],
    *,
    guess: Annotated[float | None, Arg(metavar="TOKENS/S")] = None,
) -> Guess | Guessing:
    """Guess how many tokens per second a model generates here, then measure it.

    Your guess, what a roofline predicts, and what was measured are laid side by side.
    In a notebook, a form shows what you may reason from and takes the guess; a
    terminal asks for it. The model is started natively for it, and stopped.

    Args:
        model: A model, as `start` takes it.
        guess: Your guess, in tokens per second: measure at once, and show how far off it was.

    Returns:
        How far off the guess was; without one, the question, whose `guesses` are those made in the notebook.

    Raises:
        UsageError: There is no such model, or the guess is no number above 0.
        LabError: The model cannot be read or started, or its engine does not tell its rates.
    """
    if guess is not None:
        checked(guess)
        return Guessing(model).measure(guess)
    asked = Guessing(model)
    # A notebook's kernel has no terminal, though its standard input may be one.
    answer = _typed(asked) if sys.stdin.isatty() and sys.stderr.isatty() else None
    return asked if answer is None else asked.measure(answer)


def _typed(asked: Guessing) -> float | None:
    """Ask for the guess in a terminal until it is a number; None for an empty line, or none at all.

    Standard output is kept for the result.
    """
    words = f"{views.facts_text(asked.facts)}\n\n{views.question(asked.model)} "
    with suppress(EOFError):
        while True:
            sys.stderr.write(render.plain(words))
            sys.stderr.flush()
            if not (line := input().strip()):
                return None
            try:
                return checked(float(line))
            except (ValueError, UsageError):
                words = "A number above 0, such as 20 (empty: leave it): "
    sys.stderr.write("\n")
    return None
