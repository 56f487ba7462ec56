"""What a run card's blocks say of a metric, and of what went on meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llmlab.comparing import statistics
from llmlab.comparing.card import Block, clock_of
from llmlab.comparing.metrics import BY_KEY, MAIN, MAIN_BY_CLIENT, Metric

THROTTLED = 5.0
"""Per cent of periods from which on a quota is said to have held a server back."""
# What is said to have disturbed a block: per cent of the CPUs, and a part of one CPU.
_STEAL, _OTHERS = 2.0, 0.25


_MOST = 20.0  # a logarithm


def main_of(blocks: Iterable[Block]) -> Metric:
    """What the verdict about some blocks is about: a rate that both arms tell."""
    return BY_KEY[MAIN_BY_CLIENT if clock_of(blocks) == "client" else MAIN]


def differences(blocks: Sequence[Block], metric: Metric) -> dict[int, float]:
    """Number of each block that tells a metric of both arms → mean log b − mean log a."""
    found = {}
    for block in blocks:
        if block.trouble:
            continue
        a, b = (values_of(block, arm, metric) for arm in "ab")
        if a and b and all(value > 0 for value in (*a, *b)):
            d = statistics.difference(a, b)
            # A factor of five hundred million between two arms is a damaged card.
            if abs(d) < _MOST:
                found[block.number] = d
    return found


def values_of(block: Block, arm: str, metric: Metric) -> list[float]:
    """What a block has measured of an arm; [] if any of it is unknown."""
    if metric.per == "start":
        values: list[float | None] = [block.starts.get(arm, {}).get(metric.key)]
    else:
        values = [request.values.get(metric.key) for request in block.requests if request.arm == arm]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def cause(block: Block) -> str:
    """What may have made a block unlike the others, in words; "no cause was seen" if there is nothing."""
    seen: Mapping[str, float | None] = block.evidence
    causes = []
    if (steal := seen.get("steal") or 0.0) > _STEAL:
        causes.append(f"other virtual machines took {steal:.0f} % of the CPUs")
    if (slept := seen.get("slept_s") or 0.0) > 1:
        causes.append(f"the machine slept for {slept:.0f} s")
    if (others := seen.get("others_cpus") or 0.0) > _OTHERS:
        causes.append(f"other programs used {others:.1f} CPUs")
    for arm in "ab":
        of_it = [request.evidence for request in block.requests if request.arm == arm]
        throttled = max((each.get("throttled") or 0.0 for each in of_it), default=0.0)
        if throttled > THROTTLED:
            causes.append(f"arm {arm} was held back by its quota in {throttled:.0f} % of periods")
        if faults := sum(each.get("faults") or 0.0 for each in of_it):
            causes.append(f"arm {arm} read {faults:.0f} pages from disk")
    return "; ".join(causes) or "no cause was seen"
