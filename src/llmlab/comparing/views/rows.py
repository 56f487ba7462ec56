"""A comparison worked out once for all views: a row for each metric, names, blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from llmlab.comparing.metrics import METRICS, Metric
from llmlab.comparing.reading import main_of, values_of
from llmlab.comparing.views.numbers import short

if TYPE_CHECKING:
    from llmlab.comparing.card import Block, Card, Inequality
    from llmlab.comparing.findings import Finding, Floor
    from llmlab.comparing.results import Comparison

# What of a title has room in a sentence.
_COLUMNS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of a metric.

    Attributes:
        metric: Which.
        a: Median of what was measured of arm a in complete blocks; None if nothing is known.
        b: The same of arm b.
        found: b over a; None where fewer than three blocks tell both.
        floor: Arm a against itself; None where that was not measured.
    """

    metric: Metric
    a: float | None
    b: float | None
    found: Finding | None
    floor: Floor | None

    @property
    def nothing(self) -> str:
        """Why there is no finding, in words."""
        untold = [arm for arm, value in (("a", self.a), ("b", self.b)) if value is None]
        return f"unknown of {untold[0]}" if untold else "too few blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A comparison as views need it.

    Attributes:
        card: What was measured.
        replayed: The file it was read from, or None.
        verdict: In a word or two.
        names: What the arms are called, plain and short: "a" and "b".
        rows: A row for each metric of which anything is known, in the order of `METRICS`.
        outliers: Number of each block that lies far from the others → its cause.
    """

    card: Card
    replayed: str | None
    verdict: str
    names: Mapping[str, str]
    rows: tuple[Row, ...]
    outliers: Mapping[int, str]

    @property
    def metric(self) -> Metric:
        """What the verdict is about."""
        return main_of((*self.card.aa, *self.card.blocks))

    @property
    def main(self) -> Row | None:
        """Its row; None if nothing of it is known."""
        return next((row for row in self.rows if row.metric.key == self.metric.key), None)

    @property
    def complete(self) -> tuple[Block, ...]:
        """The blocks of a against b without trouble."""
        return complete(self.card.blocks)

    @property
    def unwanted(self) -> tuple[Inequality, ...]:
        """In what the arms differ besides what is compared; what makes all of it meaningless first."""
        found = [each for each in self.card.inequalities if each.fatal or not each.wanted]
        return tuple(sorted(found, key=lambda each: not each.fatal))


def seen(comparison: Comparison) -> Seen:
    """Work it out."""
    findings, floors, card = comparison.findings, comparison.floors, comparison.card
    rows = []
    for metric in METRICS:
        a, b = (middle(card.blocks, arm, metric) for arm in "ab")
        if a is not None or b is not None:
            rows.append(
                Row(metric=metric, a=a, b=b, found=findings.get(metric.key), floor=floors.get(metric.key))
            )
    return Seen(
        card=card,
        replayed=comparison.replayed,
        verdict=comparison.verdict,
        names=names(card),
        rows=tuple(rows),
        outliers=comparison.outliers,
    )


def names(card: Card) -> dict[str, str]:
    """What the arms are called: plain, short, and not the same."""
    a, b = (short(arm.title, _COLUMNS).strip() for arm in card.arms)
    if a == b:
        return {"a": f"{a} (a)".strip(), "b": f"{b} (b)".strip()}
    return {"a": a or "a", "b": b or "b"}


def middle(blocks: Sequence[Block], arm: str, metric: Metric) -> float | None:
    """The median of an arm's values in complete blocks."""
    values = [value for block in complete(blocks) for value in values_of(block, arm, metric)]
    return median(values) if values else None


def complete(blocks: Sequence[Block]) -> tuple[Block, ...]:
    """Those without trouble."""
    return tuple(block for block in blocks if not block.trouble)
