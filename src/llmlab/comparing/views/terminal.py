"""A comparison as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.views.numbers import floor_text, interval, ratio, scaled, short, unit, when
from llmlab.comparing.views.rows import Row, Seen, seen
from llmlab.comparing.views.words import counted, sentences, unequal

if TYPE_CHECKING:
    from llmlab.comparing.results import Comparison

_COLUMNS = 100
# What others have written, at the most.
_SENTENCE = 400


def text(comparison: Comparison) -> str:
    """What differs, the verdict, a line for each metric, remarkable blocks, how it was made, notes."""
    it = seen(comparison)
    said = sentences(it)
    parts = [
        [f"{'NOT COMPARABLE' if each.fatal else 'NOT EQUAL'}: {unequal(it, each)}" for each in it.unwanted],
        [
            said.outcome if it.verdict == "not comparable" else f"{it.verdict.upper()}. {said.outcome}",
            *filter(None, (said.floor, said.blame)),
        ],
        _table(it),
        [*flagged(it), *failed(it)],
        [said.method, *made(it)],
        [short(note, _SENTENCE) for note in it.card.notes],
    ]
    return "\n\n".join("\n".join(_wrapped(part)) for part in parts if part)


def flagged(it: Seen) -> list[str]:
    """Blocks that lie far from the others, with the cause as far as known."""
    return [f"Block {number} lies far from the others: {why}." for number, why in it.outliers.items()]


def failed(it: Seen) -> list[str]:
    """Blocks that are not complete, with the reason."""
    found = []
    for blocks, kind in ((it.card.aa, "A/A block"), (it.card.blocks, "Block")):
        found += [
            f"{kind} {block.number} is not complete: {short(block.trouble, _SENTENCE)}"
            for block in blocks
            if block.trouble
        ]
    return found


def made(it: Seen) -> list[str]:
    """When, on what, in which order."""
    card = it.card
    orders = " ".join(short(block.order) for block in card.blocks)
    machine = short(str(card.machine.get("cpu", "an unknown machine")))
    source = f"Read from {short(it.replayed)}, made" if it.replayed is not None else "Made"
    found = [f"{source} {when(card.made)} on {machine}."]
    found.append(
        f"Planned: {short(card.plan, _SENTENCE)}."
        if card.plan
        else f"Planned: {counted(card.planned, 'block')}."
    )
    return [*found, f"Orders: {orders or 'none'}, drawn from seed {card.seed}."]


def cells(row: Row) -> tuple[str, str, str, str, str, str]:
    """A metric's unit, a, b, ratio, interval and floor, as text."""
    name, factor = unit(row.metric, (row.a, row.b))
    found = row.found
    return (
        name,
        scaled(row.a, factor),
        scaled(row.b, factor),
        ratio(found) if found else render.UNKNOWN,
        interval(found.low, found.high) if found else render.UNKNOWN,
        floor_text(row.floor),
    )


def word(it: Seen, row: Row) -> str:
    """A metric's verdict; of too few blocks there is none, and none of what is not comparable."""
    if it.verdict == "not comparable":
        return it.verdict
    return row.found.verdict if row.found else row.nothing


def _table(it: Seen) -> list[str]:
    if not it.rows:
        return ["Nothing was measured."]
    header = ("metric", "unit", "a (median)", "b (median)", "b/a", "95 % interval", "verdict", "A/A floor")
    rows = []
    for row in it.rows:
        name, a, b, ratio_, ends, floor = cells(row)
        rows.append((row.metric.title, name, a, b, ratio_, ends, word(it, row), floor))
    return [f"a = {it.names['a']}, b = {it.names['b']}", render.text_table(header, rows)]


def _wrapped(lines: Sequence[str]) -> list[str]:
    """Sentences broken into lines; a table, which has line ends already, stays as it is."""
    return [
        piece
        for line in lines
        for piece in (line.split("\n") if "\n" in line else render.wrapped(line, _COLUMNS))
    ]
