"""An output of a cell that changes in place: painted by a thread of its own, or only when it is told to."""

from __future__ import annotations

from collections.abc import Callable

from IPython.display import display

from llmlab.notebook import cards
from llmlab.reporting import Repainter


class LiveOutput:
    """One output of a cell, painted again in place.

    Args:
        paint: How it looks now.
        still: Whether no thread is to paint it.
    """

    def __init__(self, paint: Callable[[], cards.Bundle], *, still: bool = False) -> None:
        self._paint = paint
        self._handle = display(paint(), raw=True, display_id=True)
        self._painter = None if still else Repainter(self._update)

    def changed(self) -> None:
        """There is something new to show: soon, or when `paint` is called where no thread paints."""
        if self._painter is not None:
            self._painter.changed()

    def paint(self) -> None:
        """Paint now, and from now on only here."""
        self.close()

    def close(self) -> None:
        """Paint for the last time."""
        try:
            if self._painter is not None:
                self._painter.close()
                self._painter = None
        finally:  # also when a second interrupt falls into it
            self._update()

    def _update(self) -> None:
        if self._handle is not None:
            self._handle.update(self._paint(), raw=True)
