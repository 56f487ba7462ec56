"""What the blocks of a ladder say: the steps of each metric, their sum, and what they are put down to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from llmlab.comparing import statistics
from llmlab.comparing.card import Block
from llmlab.comparing.design import FEWEST_BLOCKS
from llmlab.comparing.findings import Estimate
from llmlab.comparing.ladder.climbing import Rung
from llmlab.comparing.metrics import BY_KEY, Metric
from llmlab.comparing.reading import THROTTLED, values_of

CHAINED = tuple(BY_KEY[key] for key in ("total_s", "ttft_s", "generated", "start_s", "cold_ttft_s"))
LEVEL = 0.95
# Engines whose own rates are so close are alike.
_ALIKE = 0.03
# Pages for each request, and MiB at a start, from which on reading them takes a time that counts.
_FAULTS, _READ_MIB = 100, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From one rung to the next one that tells the metric.

    Attributes:
        below: Key of the rung below.
        above: Key of the rung above.
        found: Above over below, with the interval at 95 %.
        told: Whether that interval excludes 1.
        stands: Whether the one that holds all steps at once (Bonferroni) excludes it as well.
        evidence: What was counted meanwhile, in words.
    """

    below: str
    above: str
    found: Estimate
    told: bool
    stands: bool
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The gap between the ends of the ladder in one metric, and its steps.

    Attributes:
        metric: Which.
        rungs: Keys of the rungs that tell it, from the lowest on.
        steps: From each to the next; their logarithms add up to the whole's.
        whole: The highest over the lowest.
        blocks: How many blocks tell it.
        strict: Level of each interval that holds all steps at once.
    """

    metric: Metric
    rungs: tuple[str, ...]
    steps: tuple[Step, ...]
    whole: Estimate
    blocks: int
    strict: float

    def to_dict(self) -> dict[str, Any]:
        """It as plain JSON data, with the sum of the steps."""
        return {
            **asdict(self),
            "metric": self.metric.key,
            "sum_of_logs": math.fsum(step.found.log for step in self.steps),
        }


def worse(metric: Metric, ratio: float) -> bool:
    """Whether a ratio is a change for the worse."""
    return (ratio > 1) == (metric.better == "lower")


def complete(blocks: Sequence[Block]) -> list[Block]:
    """Those without trouble."""
    return [block for block in blocks if not block.trouble]


def gap(rungs: Sequence[Rung], blocks: Sequence[Block], metric: Metric) -> Gap | None:
    """The steps of a metric; None if fewer than three blocks or two rungs tell it, or they tell what cannot be.

    A rung that does not tell it in every complete block is gone over.

    Args:
        rungs: From the lowest on.
        blocks: What was measured.
        metric: Which.
    """
    whole = complete(blocks)
    keys = [rung.key for rung in rungs if all(_told(block, rung.key, metric) for block in whole)]
    if len(whole) < FEWEST_BLOCKS or len(keys) < 2:  # noqa: PLR2004 - a step has two ends
        return None
    logs = [[_mean_log(values_of(block, key, metric)) for key in keys] for block in whole]
    strict = 1 - (1 - LEVEL) / (len(keys) - 1)
    try:
        usual, held = statistics.chain(logs, level=LEVEL), statistics.chain(logs, level=min(strict, 0.999))
    except ValueError:  # factors that no machine has: a card may hold anything
        return None
    names = {rung.key: rung for rung in rungs}
    steps = []
    for (below, above), found, strictly in zip(pairwise(keys), usual.steps, held.steps, strict=True):
        steps.append(
            Step(
                below=below,
                above=above,
                found=found,
                told=_excludes(found),
                stands=_excludes(strictly),
                evidence=_evidence(whole, (names[below], names[above]), metric, found),
            )
        )
    return Gap(
        metric=metric,
        rungs=tuple(keys),
        steps=tuple(steps),
        whole=usual.whole,
        blocks=len(whole),
        strict=strict,
    )


def middle(blocks: Sequence[Block], key: str, metric: Metric) -> float | None:
    """The median of a rung's values in complete blocks."""
    values = [value for block in complete(blocks) for value in values_of(block, key, metric)]
    return median(values) if values else None


def same_files(rungs: Sequence[Rung]) -> bool | None:
    """Whether all rungs ran the same engine's files, by their hashes; None if one does not tell.

    A process without a server has only some of them.
    """
    found = [set(rung.facts.get("engine's files", "unknown").split()) for rung in rungs]
    if not found or any(each == {"unknown"} for each in found):
        return None
    most = max(found, key=len)
    return all(
        each <= most if rung.key == "process" else each == most
        for rung, each in zip(rungs, found, strict=True)
    )


def _told(block: Block, key: str, metric: Metric) -> bool:
    values = values_of(block, key, metric)
    return bool(values) and all(0 < value < math.inf for value in values)


def _mean_log(values: Sequence[float]) -> float:
    return math.fsum(map(math.log, values)) / len(values)


def _excludes(found: Estimate) -> bool:
    """Whether an interval excludes 1."""
    return found.low is not None and found.high is not None and not found.low <= 1 <= found.high


def _evidence(
    blocks: Sequence[Block], pair: tuple[Rung, Rung], metric: Metric, found: Estimate
) -> tuple[str, ...]:
    """What was counted that a step may be put down to."""
    below, above = pair
    words = []
    if same_files(pair) is False:
        words.append("the engine's files differ: another build")
    if not _excludes(found):
        return tuple(words)
    slow, fast = (above, below) if worse(metric, found.ratio) else (below, above)
    seen = _at_start(blocks, slow, fast) if metric.per == "start" else _meanwhile(blocks, slow, fast, metric)
    return (*words, *(seen or ["nothing that was counted explains it beyond the change itself"]))


def _at_start(blocks: Sequence[Block], slow: Rung, fast: Rung) -> list[str]:
    """What the slower one had to read from disk while it started."""
    read, other = (_of_starts(blocks, rung, "start_read_mib") for rung in (slow, fast))
    if (read or 0.0) < _READ_MIB or (read or 0.0) < 2 * (other or 0.0):
        return []
    faults, there = (_of_starts(blocks, slow, what) for what in ("start_faults", "cached_before"))
    said = f"{slow.title} read {read:.0f} MiB from disk since its start ({_beside(fast, other, ' MiB')})"
    if faults is not None:
        said += f", with {faults:.0f} major faults"
    if there is not None:
        said += f"; {100 * there:.0f} % of the file was in the page cache"
    return [f"{said}: the page cache"]


def _meanwhile(blocks: Sequence[Block], slow: Rung, fast: Rung, metric: Metric) -> list[str]:
    """What held the slower one back during requests."""
    held, free = (_of_requests(blocks, rung, "throttled", _mean) for rung in (slow, fast))
    read, other = (_of_requests(blocks, rung, "faults", median) for rung in (slow, fast))
    words = []
    if (held or 0.0) > THROTTLED and (held or 0.0) > 2 * (free or 0.0):
        words.append(
            f"{slow.title} was held back in {held:.0f} % of its periods ({_beside(fast, free, ' %')}): the CPU quota"
        )
    if (read or 0.0) > _FAULTS and (read or 0.0) > 2 * (other or 0.0):
        words.append(
            f"{slow.title} read {read:.0f} pages from disk in a request ({_beside(fast, other)}): the page cache"
        )
    if metric.key != "generated":
        words += _way(blocks, slow, fast)
    return words


def _way(blocks: Sequence[Block], slow: Rung, fast: Rung) -> list[str]:
    """Whether the engines' own rates are alike and only the client waits longer."""
    rates = [BY_KEY["generated"], BY_KEY["prompt"]]
    found = {metric.title: _ratio(blocks, slow, fast, metric) for metric in rates}
    if None in found.values():
        return []
    known: Mapping[str, Any] = found
    different = [
        f"{title} {each.ratio:.2f} times" for title, each in known.items() if each.verdict == "different"
    ]
    if different:
        return [f"by {slow.title}'s own clock, too: {', '.join(different)} that of {fast.title}"]
    if all(each.verdict in {"equivalent", "different but negligible"} for each in known.values()):
        return [
            f"the engine's own rates are equal within {100 * _ALIKE:g} %, the client waits longer: the way there"
        ]
    return []


def _ratio(blocks: Sequence[Block], slow: Rung, fast: Rung, metric: Metric) -> statistics.Finding | None:
    if not all(_told(block, rung.key, metric) for block in blocks for rung in (slow, fast)):
        return None
    d = [
        statistics.difference(values_of(block, fast.key, metric), values_of(block, slow.key, metric))
        for block in blocks
    ]
    try:
        return statistics.compare(d, margin=_ALIKE, level=LEVEL)
    except ValueError:  # as above
        return None


def _of_requests(blocks: Sequence[Block], rung: Rung, what: str, how: Any) -> float | None:
    values = [
        value
        for block in blocks
        for request in block.requests
        if request.arm == rung.key and (value := request.evidence.get(what)) is not None
    ]
    return float(how(values)) if values else None


def _of_starts(blocks: Sequence[Block], rung: Rung, what: str) -> float | None:
    values = [value for block in blocks if (value := block.starts.get(rung.key, {}).get(what)) is not None]
    return median(values) if values else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _beside(other: Rung, value: float | None, unit: str = "") -> str:
    return f"{other.title}: {'unknown' if value is None else f'{value:.0f}{unit}'}"
