"""A ladder's figures and sentences, the same for text and HTML."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.ladder.steps import CHAINED, Gap, Step, middle, same_files, worse
from llmlab.comparing.metrics import Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmlab.comparing.findings import Estimate
    from llmlab.comparing.ladder import Ladder

_TITLE, _NOTE = 40, 500
# From here on a factor is easier to read than per cent.
_FACTOR = 3


def title(text: str) -> str:
    """A rung's or a model's name, plain and short."""
    return render.clipped(text, _TITLE, middle=True).strip() or "?"


def note(text: str) -> str:
    """A sentence out of a card, plain and not endless."""
    return render.clipped(text, _NOTE)


def titles(ladder: Ladder) -> dict[str, str]:
    """Key → title of each rung."""
    return {rung.key: title(rung.title) for rung in ladder.rungs}


def change(ratio: float) -> str:
    """A ratio as a change in per cent; as a factor where that is large."""
    part = 100 * (ratio - 1)
    if not math.isfinite(part):
        return render.UNKNOWN
    if ratio >= _FACTOR or ratio <= 1 / _FACTOR:
        return f"× {ratio:.3g}"
    # Rounded first: 0.2 is not exactly a fifth.
    size = abs(round(part, 6))
    digits = 0 if size >= 20 else 1 if size >= 1 else 2  # noqa: PLR2004 - per cent
    said = f"{part:+.{digits}f} %".replace("-", "−")
    return said if float(f"{part:.{digits}f}") else "±0 %"


def interval(found: Estimate) -> str:
    """An interval of changes."""
    if found.low is None or found.high is None:
        return render.UNKNOWN
    return f"{change(found.low)} … {change(found.high)}"


def outcome(gap: Gap, step: Step) -> str:
    """Gain or loss, and how sure that is."""
    if not step.told:
        return "not told apart"
    word = "loss" if worse(gap.metric, step.found.ratio) else "gain"
    return word if step.stands else f"{word}?"


def better(metric: Metric) -> str:
    """Which way is good."""
    return f"{metric.better} is better"


def headline(ladder: Ladder) -> str:
    """What was measured, in a line."""
    told = len([block for block in ladder.blocks if not block.trouble])
    of = "" if told == ladder.planned else f" of the {ladder.planned} planned"
    ends = [title(rung.title) for rung in ladder.rungs]
    way = f": {ends[0]} to {ends[-1]}" if ends else ""
    return f"{title(ladder.model)}{way}, {len(ladder.rungs)} rungs, {told}{of} blocks"


def whole(ladder: Ladder, gap: Gap) -> str:
    """The whole gap in a sentence, in logarithms as well."""
    names = titles(ladder)
    logs = " ".join(f"{step.found.log:+.4f}".replace("-", "−") for step in gap.steps)
    total = math.fsum(step.found.log for step in gap.steps)
    factors = " × ".join(f"{step.found.ratio:.4g}" for step in gap.steps)
    return (
        f"The whole gap, {names[gap.rungs[0]]} to {names[gap.rungs[-1]]}: {change(gap.whole.ratio)}"
        f" ({interval(gap.whole)}). In logarithms the steps add up to it: {logs} = {_minus(total)}, the gap is"
        f" {_minus(gap.whole.log)}; percentages do not add, their factors multiply: {factors} = {gap.whole.ratio:.4g}."
    )


def skipped(ladder: Ladder, gap: Gap) -> str:
    """Which rungs this metric goes over; "" if none."""
    over = [title(rung.title) for rung in ladder.rungs if rung.key not in gap.rungs]
    return f"Gone over, since it is not known of them: {', '.join(over)}." if over else ""


def seen(ladder: Ladder, gap: Gap) -> list[str]:
    """What was counted that steps may be put down to, a sentence each."""
    names = titles(ladder)
    return [
        f"{names[step.below]} → {names[step.above]}: {'; '.join(map(note, step.evidence))}."
        for step in gap.steps
        if step.evidence
    ]


def together(gaps: Sequence[Gap]) -> str:
    """That several steps are judged at once; "" without any."""
    if not gaps:
        return ""
    steps = max(len(gap.steps) for gap in gaps)
    strict = min(100 * gap.strict for gap in gaps if len(gap.steps) == steps)
    return (
        f"Each interval is at 95 % for itself. {steps} steps are judged at once: of steps that do nothing, one or more"
        f" would be told apart in up to {100 * min(1.0, 0.05 * steps):.0f} % of ladders. A gain or loss without a"
        f" question mark holds for all of them together (Bonferroni, intervals at {strict:.1f} %)."
    )


def files(ladder: Ladder) -> str:
    """Whether all rungs ran the same files."""
    same = same_files(ladder.rungs)
    if same is None:
        return "It is not known whether all rungs ran the same engine's files."
    if same:
        return "All rungs ran the same engine's files, by their sha256; in process its libraries alone."
    return "NOT EQUAL: the rungs did not run the same engine's files."


def method(ladder: Ladder) -> str:
    """How it was measured."""
    return (
        f"Method: {note(ladder.plan) or 'the number of blocks was never fixed'}. In each, all rungs are started anew and run"
        " at the same time, warmed with a request each, and asked in a random order and its reverse;"
        f" {ladder.tokens} tokens after a prompt of {ladder.prompt_tokens}, temperature 0, nothing cached."
        f" The block is the sample; t intervals on logarithms; seed {ladder.seed}."
    )


def failed(ladder: Ladder) -> list[str]:
    """Blocks that are not complete, with the reason."""
    return [
        f"Block {block.number} is not complete: {note(block.trouble)}"
        for block in ladder.blocks
        if block.trouble
    ]


def rung_rows(ladder: Ladder) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of rungs: medians of complete blocks."""
    known = {metric: [middle(ladder.blocks, rung.key, metric) for rung in ladder.rungs] for metric in CHAINED}
    units = {metric: _unit(metric, values) for metric, values in known.items()}
    header = ["rung", *(f"{metric.title}, {units[metric][0]}" for metric in CHAINED)]
    rows = []
    for place, rung in enumerate(ladder.rungs):
        cells = [_figure(known[metric][place], units[metric][1]) for metric in CHAINED]
        rows.append([title(rung.title), *cells])
    return header, rows


def _unit(metric: Metric, values: Sequence[float | None]) -> tuple[str, float]:
    most = max((value for value in values if value is not None), default=0.0)
    return ("ms", 1000.0) if metric.unit == "s" and most < 1 else (metric.unit, 1.0)


def _figure(value: float | None, factor: float) -> str:
    if value is None or not math.isfinite(value):
        return render.UNKNOWN
    value *= factor
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def _minus(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")
