"""Checks that several lessons share. Each looks at what runs now, and changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from llmlab import lab
from llmlab.errors import UsageError
from llmlab.results import ServerStatus
from llmlab.results_isolation import Control, Inspection
from llmlab.workshop.tasks import Verdict, failed, passed


def server(name: Any) -> ServerStatus:
    """The server of that name, or that a handle stands for; it must be ready.

    Raises:
        UsageError: There is none, or it is not ready.
    """
    wanted = getattr(name, "name", name)
    found = [one for one in lab.ps() if one.name == wanted]
    if not found:
        running = ", ".join(one.name for one in lab.ps()) or "none"
        raise UsageError(
            f"no server is called {wanted!r}; running: {running}",
            hint="start it, in the cell above, and check again",
        )
    if found[0].state != "ready":
        raise UsageError(
            f"the server {wanted!r} is {found[0].state}, not ready",
            hint=f"what it said last: %llm logs {wanted}",
        )
    return found[0]


def inspected(name: Any) -> Inspection:
    """What is in force on a running server.

    Raises:
        UsageError: There is none, or it is not ready.
    """
    return lab.inspect(server(name).name)


def control(inspection: Inspection, name: str) -> Control | None:
    """The line of the receipt with that name."""
    return next((one for one in inspection.isolation if one.name == name), None)


def number(value: Any, what: str) -> float:
    """A figure that was given.

    Raises:
        UsageError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UsageError(
            f"{what} is {value!r}, which is no number", hint="give the figure that you have measured"
        )
    return float(value)


def near(predicted: Any, seen: float, *, share: float, unit: str, hint: str) -> Verdict:
    """Whether a prediction is within a share of what was seen.

    Raises:
        UsageError: The prediction is no number, or nothing was seen.
    """
    guess = number(predicted, "the prediction")
    if seen <= 0:
        raise UsageError(f"{seen:g} {unit} was seen", hint="measure it first, in the cell above")
    off = guess / seen - 1
    how = (
        "right"
        if round(off * 100) == 0
        else f"{off:+.0%}"
        if abs(off) < 1
        else f"{guess / seen:.3g} times that"
    )
    text = f"You predicted {guess:.4g} {unit}; it is {seen:.4g} {unit}: {how}."
    return passed(text) if abs(off) <= share else failed(text, hint)


def nothing_left(names: Iterable[str] = ()) -> Verdict:
    """Whether servers are gone: those named, or all."""
    wanted = set(names)
    left = [one.name for one in lab.ps() if not wanted or one.name in wanted]
    if left:
        return failed(f"Still there: {', '.join(left)}.", ", ".join(f"%llm stop {name}" for name in left))
    return passed(f"{' and '.join(sorted(wanted)) or 'All servers'}: gone, and nothing is left of them.")
