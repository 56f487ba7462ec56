"""A comparison while it is measured: what each block came to, which are to come, and no verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.card import Card
from llmlab.comparing.reading import main_of, values_of
from llmlab.comparing.views.numbers import measured
from llmlab.comparing.views.pairs import paired
from llmlab.comparing.views.rows import Seen, names

if TYPE_CHECKING:
    from llmlab.comparing.card import Block
    from llmlab.comparing.metrics import Metric
    from llmlab.comparing.progress import ComparisonSoFar

LATER = "The verdict comes with the last block."
STILL = "Nothing is drawn while a block is measured."
_UNDECIDED = "How many blocks follow is decided by the spread of these."
_LEVELS = "▁▂▃▄▅▆▇█"
_FAILED, _UNKNOWN, AHEAD = "✖", "?", "·"


def html(it: ComparisonSoFar) -> str:
    """The picture of the pairs as far as they are, and what is not to be expected of it yet."""
    card = _card(it)
    seen = Seen(card=card, replayed=None, verdict="", names=names(card), rows=(), outliers={})
    ahead = (it.aa_planned - len(it.aa), max(0, (it.planned or 0) - len(it.blocks)))
    return paired(seen, ahead, now=it.stage != "start") + said(_sentences(it))


def lines(it: ComparisonSoFar, columns: int) -> list[str]:
    """Stage and time left, the course of each arm, a sentence.

    Args:
        it: What is known so far.
        columns: The width.
    """
    label = {arm: f"  {arm} {name}" for arm, name in names(_card(it)).items()}
    wide = max(map(render.columns_of, label.values()))
    blocks = (*it.aa, *it.blocks)
    metric = main_of(blocks)
    on = [value for block in blocks for arm in "ab" if (value := mean(block, arm, metric)) is not None]
    gap, ahead = "  ", AHEAD * max(0, (it.planned or 0) - len(it.blocks))
    head = f"{'A/A':<{it.aa_planned}}{gap}blocks"
    found = [f"{it.stage}: {it.detail}", f"{f'  {metric.title}':<{wide}}  {head}"]
    for arm, name in label.items():
        itself = course(it.aa, arm, metric, on) + AHEAD * (it.aa_planned - len(it.aa))
        found.append(
            f"{name}{' ' * (wide - render.columns_of(name))}  {itself:<3}{gap}{course(it.blocks, arm, metric, on)}{ahead}"
        )
    if on:
        found.append(f"  {_LEVELS[0]} {measured(min(on))}  {_LEVELS[-1]} {measured(max(on))} {metric.unit}")
    found.append(f"  {' '.join(_sentences(it))}")
    return [render.clipped(line, columns) for line in found]


def course(blocks: Sequence[Block], arm: str, metric: Metric, on: Sequence[float]) -> str:
    """A character for each block: how high an arm's mean is among all values."""
    return "".join(_FAILED if block.trouble else _level(mean(block, arm, metric), on) for block in blocks)


def mean(block: Block, arm: str, metric: Metric) -> float | None:
    """The geometric mean of an arm in a block, as the pictures have it; None where it is unknown."""
    values = [value for value in values_of(block, arm, metric) if value > 0]
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values and not block.trouble else None


def height(value: float, on: Sequence[float]) -> float:
    """Where a value is from the lowest, 0, to the highest, 1; in the middle where all are equal."""
    low, high = min(on), max(on)
    return (value - low) / (high - low) if high > low else 0.5


def _level(value: float | None, on: Sequence[float]) -> str:
    if value is None:
        return _UNKNOWN
    share = height(value, on)
    return _LEVELS[min(len(_LEVELS) - 1, int(share * len(_LEVELS)))]


def said(sentences: Sequence[str]) -> str:
    """What stands below a picture that is not finished."""
    return (
        f'<div style="{render.FONT};font-size:90%;{render.MUTED};margin:4px 0 6px">'
        f"{escape(' '.join(sentences))}</div>"
    )


def _sentences(it: ComparisonSoFar) -> list[str]:
    return [*([] if it.planned is not None else [_UNDECIDED]), LATER, STILL]


def _card(it: ComparisonSoFar) -> Card:
    """A run card as far as it is."""
    return Card(
        made="",
        arms=it.arms,
        seed=0,
        margin=1.0,
        prompt_tokens=0,
        tokens=0,
        aa=it.aa,
        blocks=it.blocks,
        planned=it.planned or 0,
        plan="",
    )
