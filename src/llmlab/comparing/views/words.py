"""A comparison in sentences: the outcome, what the machine can tell apart, what it may be blamed on, the method."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmlab.comparing.design import FEWEST_BLOCKS
from llmlab.comparing.metrics import MAIN
from llmlab.comparing.views import blame
from llmlab.comparing.views.numbers import interval, number, percent, ratio, short
from llmlab.comparing.views.rows import Seen, complete, seen

if TYPE_CHECKING:
    from llmlab.comparing.card import Inequality
    from llmlab.comparing.findings import Finding, Floor
    from llmlab.comparing.results import Comparison

_TWICE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """The verdict's parts, each "" where there is nothing to say.

    Attributes:
        outcome: What came out for the main rate, with its interval.
        floor: What the machine can tell apart.
        besides: In what the arms differ besides what is compared.
        blame: What a difference is put down to, as far as the evidence goes.
        method: How it was measured.
    """

    outcome: str
    floor: str
    besides: str
    blame: str
    method: str


def verdict(comparison: Comparison) -> str:
    """One paragraph for a report, with its method."""
    said = sentences(seen(comparison))
    parts = (said.outcome, said.floor, said.besides, said.blame, said.method)
    return " ".join(part for part in parts if part)


def sentences(it: Seen) -> Sentences:
    """The verdict in its parts."""
    fatal = [each for each in it.unwanted if each.fatal]
    outcome = _not_comparable(it, fatal) if fatal else _outcome(it)
    return Sentences(
        outcome=outcome,
        floor="" if fatal else _floor(it),
        besides=_besides(it),
        blame="" if fatal else blame.sentence(it),
        method=_method(it),
    )


def unequal(it: Seen, each: Inequality) -> str:
    """In what the arms differ, with what each of them has."""
    return f"{short(each.what)} ({it.names['a']}: {short(each.a)}, {it.names['b']}: {short(each.b)})"


def blocks_of(it: Seen) -> str:
    """How many blocks the main figure rests on, and how many it should have been."""
    count = it.main.found.n if it.main and it.main.found else len(it.complete)
    if count < it.card.planned:
        return f"{count} of the {it.card.planned} planned blocks"
    return counted(count, "block")


def counted(count: int, what: str) -> str:
    """A number with its noun: 1 block, 2 blocks."""
    return f"{number(count)} {what}{'' if count == 1 else 's'}"


def margin(it: Seen) -> str:
    """What counts as negligible: ±3 %."""
    return f"±{100 * it.card.margin:g} %"


def _not_comparable(it: Seen, fatal: list[Inequality]) -> str:
    found = "; ".join(unequal(it, each) for each in fatal)
    return f"Not comparable: the arms differ in {found}. Nothing can be concluded from their figures."


def _outcome(it: Seen) -> str:
    a, b = it.names["a"], it.names["b"]
    if it.main is None or it.main.found is None:
        return _too_few(it)
    found = it.main.found
    figures = (
        f"ratio {ratio(found)}, {100 * found.level:g} % interval {interval(found.low, found.high)},"
        f" {blocks_of(it)}"
    )
    if found.verdict == "equivalent":
        said = f"The {it.metric.title} of {b} is equivalent to that of {a} within {margin(it)}: {figures}."
    elif found.verdict == "inconclusive":
        said = f"It cannot be told at {margin(it)} whether {b} differs from {a} in the {it.metric.title}: {figures}."
        if found.more_blocks is not None:
            said += f" A new run would need about {counted(found.n + found.more_blocks, 'block')}."
    else:
        within = f", which is within {margin(it)}" if found.verdict == "different but negligible" else ""
        said = f"The {it.metric.title} of {b} is {_size(found, a)}{within}: {figures}."
    return said + _second_opinion(found)


def _too_few(it: Seen) -> str:
    """That nothing can be said, and why."""
    a, b, count = it.names["a"], it.names["b"], len(it.complete)
    why = (
        f"{blocks_of(it)} {'is' if count == 1 else 'are'} complete, and it takes at least {FEWEST_BLOCKS}"
        if count < FEWEST_BLOCKS
        else f"it is known of both in fewer than {FEWEST_BLOCKS} of {counted(count, 'complete block')}"
    )
    return f"Nothing can be said about the {it.metric.title} of {b} against {a}: {why}."


def _size(found: Finding, other: str) -> str:
    if found.ratio >= _TWICE:
        return f"{number(found.ratio)} times that of {other}"
    if found.ratio <= 1 / _TWICE:
        return f"{percent(found.ratio)} of that of {other}"
    return f"{percent(abs(found.ratio - 1))} {'higher' if found.ratio > 1 else 'lower'} than that of {other}"


def _second_opinion(found: Finding) -> str:
    """Where ranks say something else than means, it is said."""
    if found.robust_agrees is not False:
        return ""
    ends = interval(found.robust_low, found.robust_high)
    return f" The signed-rank interval, {ends}, does not lead to the same verdict."


def _floor(it: Seen) -> str:
    found = it.main.floor if it.main else None
    if found is not None:
        return _told(found)
    if it.main is None:
        return ""
    count = len(complete(it.card.aa))
    how = (
        f"measured against itself in {counted(count, 'block')} only"
        if count
        else "not measured against itself"
    )
    return f"It is not known what this machine can tell apart: {it.names['a']} was {how}."


def _told(found: Floor) -> str:
    apart = f"{100 * found.margin:g} %"
    said = (
        f"The same against itself gives {found.ratio:.3f} ± {percent(found.half_width)}"
        f" ({counted(found.n, 'block')}), "
    )
    if found.resolves:
        said += f"so this machine can tell {apart} apart"
    else:
        said += f"which does not hold ±{apart}, so it is not shown that this machine can tell {apart} apart"
    if not found.resolves and found.resolution < 1:
        said += f"; so many blocks resolve ±{percent(found.resolution)}"
    if found.biased:
        said += "; it differs from itself, so something besides the arms makes a difference"
    return f"{said}."


def _besides(it: Seen) -> str:
    """The other inequalities; what is fatal has been said."""
    wanted = [short(each.what) for each in it.card.inequalities if each.wanted and not each.fatal]
    others = [unequal(it, each) for each in it.unwanted if not each.fatal]
    compared = f" ({', '.join(wanted)})" if wanted else ""
    if others:
        return f"Besides what is compared{compared}, the arms differ in {'; '.join(others)}."
    if it.verdict == "not comparable":
        return ""
    return f"Besides what is compared{compared}, no difference of the arms was found."


def _method(it: Seen) -> str:
    card = it.card
    counts = Counter(
        sum(request.arm == arm for request in block.requests) for block in it.complete for arm in "ab"
    )
    each = counts.most_common(1)[0][0] if counts else 0
    requests = (
        f"{counted(each, 'request')} of {counted(card.tokens, 'token')} after a prompt of"
        f" {number(card.prompt_tokens)} per arm and block"
        if each
        else f"requests of {counted(card.tokens, 'token')} after a prompt of {number(card.prompt_tokens)}"
    )
    clock = "" if card.clock == "engine" else f" rates by the client's clock, because {_silent(it)} no times;"
    return (
        f"Method: {blocks_of(it)} of fresh starts of both, ABBA or BAAB by coin; {requests};{clock}"
        f" the block is the sample; t interval on logarithms; TOST at {margin(it)}."
    )


def _silent(it: Seen) -> str:
    """Who tells no times of its own, which the client's clock stands in for."""
    told = {row.metric.key: (row.a, row.b) for row in it.rows}.get(MAIN, (None, None))
    silent = [it.names[arm] for arm, value in zip("ab", told, strict=True) if value is None]
    return f"{silent[0]} tells" if len(silent) == 1 else "the engines tell"
