"""What a difference is put down to, as far as what was counted meanwhile says so."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from llmlab.comparing.reading import THROTTLED
from llmlab.comparing.views.numbers import number, percent

if TYPE_CHECKING:
    from llmlab.comparing.findings import Finding
    from llmlab.comparing.views.rows import Seen

# Pages for each request from which on reading them takes a time that counts: some ms.
_FAULTS = 100
_NEGLIGIBLE = {"equivalent", "different but negligible"}


def sentence(it: Seen) -> str:
    """The evidence in words; "" where there is no difference to explain."""
    found = it.main.found if it.main else None
    if found is None:
        return ""
    if found.verdict == "different":
        return _slow(it, *("ba" if found.ratio < 1 else "ab"))
    return _way(it)


def _slow(it: Seen, slow: str, fast: str) -> str:
    """Why an engine may generate slower: its quota, or a file that is read from disk again."""
    throttled = {arm: _counted(it, arm, "throttled") for arm in (slow, fast)}
    faults = {arm: _counted(it, arm, "faults") for arm in (slow, fast)}
    mine, other = it.names[slow], it.names[fast]
    seen = []
    if (held := throttled[slow] or 0.0) > THROTTLED and held > 2 * (throttled[fast] or 0.0):
        seen.append(
            f"{mine} was held back in {number(round(held))} % of its periods"
            f"{_beside(other, throttled[fast], ' %')}, which points to the CPU quota"
        )
    if (read := faults[slow] or 0.0) > _FAULTS and read > 2 * (faults[fast] or 0.0):
        seen.append(
            f"{mine} read {number(round(read))} pages from disk in a request{_beside(other, faults[fast])},"
            " which points to the page cache"
        )
    if seen:
        return f"Meanwhile {'; '.join(seen)}."
    known = [what for what, of in (("a quota", throttled), ("page faults", faults)) if of[slow] is not None]
    if not known:
        return "Throttled periods and major page faults were not counted, so no cause can be named."
    pointless = f"what was counted does not point to {' or '.join(known)}"
    if any(each.what == "engine" for each in it.card.inequalities):
        return f"The engines themselves differ: {pointless}."
    return f"No cause was seen: {pointless}."


def _way(it: Seen) -> str:
    """Whether the engines are alike and the client waits longer all the same; by one clock nobody can tell."""
    if it.card.clock == "client":
        return ""
    found = {row.metric.key: row.found for row in it.rows if row.found}
    engine = [found[key] for key in ("generated", "prompt") if key in found]
    client = [(row.metric.title, row.found) for row in it.rows if row.metric.key in {"ttft_s", "total_s"}]
    late = [(title, each) for title, each in client if each and each.verdict == "different"]
    if not late or not all(each.verdict in _NEGLIGIBLE for each in engine):
        return ""
    longer = " and ".join(_longer(it, title, each) for title, each in late)
    return (
        f"The engine's own rates do not differ by more than {percent(it.card.margin)}, but by the client's clock"
        f" {longer}, which points to the way between client and engine."
    )


def _longer(it: Seen, title: str, found: Finding) -> str:
    slow, factor = ("b", found.ratio) if found.ratio > 1 else ("a", 1 / found.ratio)
    return f"the {title} of {it.names[slow]} is {percent(factor - 1)} longer"


def _counted(it: Seen, arm: str, what: str) -> float | None:
    """The median over an arm's requests; None if nobody counted."""
    values = [
        value
        for block in it.complete
        for request in block.requests
        if request.arm == arm and (value := request.evidence.get(what)) is not None
    ]
    return median(values) if values else None


def _beside(other: str, value: float | None, unit: str = "") -> str:
    return f" ({other}: {'unknown' if value is None else number(round(value)) + unit})"
