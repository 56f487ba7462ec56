"""How far a comparison or a ladder has got; no verdict and no interval, which only a finished plan has.

Whoever looks at an interval while it is measured stops when it suits, and finds differences that
are not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmlab import render

if TYPE_CHECKING:
    from llmlab.comparing.card import Arm, Block

State = Literal["ahead", "now", "done", "left out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSoFar:
    """A comparison between two of its blocks; a `llmlab.reporting.Course`.

    Attributes:
        arms: The two sides.
        stage: Each arm is started once, arm a is measured against itself, or the blocks are.
        aa: Complete and failed blocks of arm a against itself.
        aa_planned: How many these will be.
        blocks: Those of a against b.
        planned: How many these will be; None while the blocks of a against itself have not told.
        left_s: Seconds that it will still take, as far as planned; None while nobody knows.
    """

    arms: tuple[Arm, Arm]
    stage: Literal["start", "A/A", "blocks"]
    aa: tuple[Block, ...]
    aa_planned: int
    blocks: tuple[Block, ...]
    planned: int | None
    left_s: float | None

    @property
    def detail(self) -> str:
        """Which block is measured now, and how long all will still take."""
        if self.stage == "start":
            return "each is started once"
        done, count = (self.aa, self.aa_planned) if self.stage == "A/A" else (self.blocks, self.planned or 0)
        if len(done) >= count:
            return f"{len(done)} of {count} blocks"
        return f"block {len(done) + 1} of {count}{_left(self.left_s, whole=self.planned is not None)}"

    def lines(self, columns: int) -> list[str]:
        """It for a terminal."""
        from llmlab.comparing.views import progress  # noqa: PLC0415 - only where it is shown

        return progress.lines(self, columns)

    def to_html(self) -> str:
        """Pairs of dots block by block, with empty places for those to come."""
        from llmlab.comparing.views import progress  # noqa: PLC0415 - likewise

        return progress.html(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RungSoFar:
    """A rung of a ladder that is not finished.

    Attributes:
        title: What it is called.
        state: Whether it has been tried.
        why: Why it is left out, "" if it is not.
    """

    title: str
    state: State
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderSoFar:
    """A ladder between two of its blocks, or two rungs that are tried; a `llmlab.reporting.Course`.

    Attributes:
        stage: The rungs are tried, or the blocks measured.
        rungs: By key, from the lowest on.
        warmed: Whether the block that is not counted is over.
        blocks: The others so far.
        planned: How many these will be; None while the first one has not told.
        left_s: Seconds that it will still take; None while nobody knows.
    """

    stage: Literal["rungs", "blocks"]
    rungs: Mapping[str, RungSoFar]
    warmed: bool
    blocks: tuple[Block, ...]
    planned: int | None
    left_s: float | None

    @property
    def detail(self) -> str:
        """Which rung is tried or which block measured, and how long all will still take."""
        if self.stage == "rungs":
            tried = [rung.title for rung in self.rungs.values() if rung.state == "now"]
            return tried[0] if tried else "each is tried once"
        if not self.warmed:
            return "warm-up"
        if len(self.blocks) >= (self.planned or 0):
            return f"{len(self.blocks)} of {self.planned} blocks"
        return f"block {len(self.blocks) + 1} of {self.planned}{_left(self.left_s, whole=True)}"

    def lines(self, columns: int) -> list[str]:
        """It for a terminal."""
        from llmlab.comparing.views import progress_ladder  # noqa: PLC0415 - only where it is shown

        return progress_ladder.lines(self, columns)

    def to_html(self) -> str:
        """The rungs, with a dot for what each reached in each block, and empty places for those to come."""
        from llmlab.comparing.views import progress_ladder  # noqa: PLC0415 - likewise

        return progress_ladder.html(self)


def _left(seconds: float | None, *, whole: bool) -> str:
    if seconds is None:
        return ""
    # Seconds of a time that is only estimated would look exact.
    about = f"{seconds / 60:.0f} min" if seconds > 90 else render.duration_text(seconds)  # noqa: PLR2004
    return f", about {about} left{'' if whole else ' of A/A'}"
