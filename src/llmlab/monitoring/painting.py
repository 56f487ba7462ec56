"""A watch in a terminal: a block of lines that is painted over as it goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import TextIO

from llmlab.monitoring import views
from llmlab.monitoring.watch import Watch

_PAUSE_S = 0.2
_SHOWN_S = 60.0


class Painting:
    """The course of the last minute, painted in place.

    Args:
        watch: What is painted; when it is over, the lines are taken away.
        stream: The terminal.
    """

    def __init__(self, watch: Watch, stream: TextIO) -> None:
        self._watch = watch
        self._stream = stream
        self._lines = 0
        self._painted = 0.0
        watch.when_over(lambda: self._paint(()))

    def looked(self) -> None:
        """There is something new; painted if the last time was not just now."""
        if (now := time.monotonic()) - self._painted > _PAUSE_S:
            self._painted = now
            size = shutil.get_terminal_size()
            seen = self._watch.recent(_SHOWN_S)
            # One column less: a full line would wrap in some terminals.
            self._paint(views.live_block(seen, size.columns - 1, size.lines - 1))

    def _paint(self, lines: Sequence[str]) -> None:
        up = f"\033[{self._lines}A" if self._lines else ""
        self._stream.write(up + "".join(f"\r\033[K{line}\n" for line in lines) + "\033[J")
        self._stream.flush()
        self._lines = len(lines)
