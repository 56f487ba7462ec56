"""What these views have in common."""

from __future__ import annotations

from typing import Any

from llmlab import render
from llmlab.results import Result
from llmlab.specs import to_dict

COLUMNS = 100
"""Of a terminal: no line of a table is wider."""
SYNTHETIC = (
    "synthetic",
    "random numbers in the shape of this model: to measure with; its text means nothing",
)
"""The label of synthetic models, and what it means."""


class View(Result):
    """Base of these results: paths become strings in plain data."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON data."""
        data: dict[str, Any] = to_dict(self)
        return data


def rate_text(value: float | None) -> str:
    """Tokens per second, with the digits that are known at most."""
    if value is None:
        return render.UNKNOWN
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"  # noqa: PLR2004 - two digits are known, at most
