"""What stands under folds: what was measured on, how each metric is defined, every value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from llmlab import render
from llmlab.comparing.views.numbers import measured, short, shown, unit
from llmlab.comparing.views.words import counted

if TYPE_CHECKING:
    from llmlab.comparing.card import Block
    from llmlab.comparing.views.rows import Seen

# Of more requests in a block, their median is shown.
_SINGLE = 4
# Two for each block.
_MOST_ROWS = 120
# Of a fact, in the words that appear where one points at it.
_LONGEST = 400


def facts(it: Seen) -> str:
    """Machine, and the two arms side by side: how they were started, and what came of it."""
    card = it.card
    machine = [(str(key), value) for key, value in card.machine.items()]
    sides = [(arm.options, arm.facts) for arm in card.arms]
    rows = [
        *_side_by_side("asked for", sides[0][0], sides[1][0]),
        *_side_by_side("is", sides[0][1], sides[1][1]),
    ]
    parts = []
    if rows:
        parts.append(compact(("", "", f"a: {it.names['a']}", f"b: {it.names['b']}", ""), rows))
    if machine:
        parts.append(
            compact(("the machine", ""), [(escape(short(key)), _cell(value)) for key, value in machine])
        )
    return render.html_fold("What was measured, and on what", "".join(map(_gap, parts))) if parts else ""


def definitions(it: Seen) -> str:
    """How each metric is defined."""
    rows = [
        (
            escape(row.metric.title),
            escape(row.metric.unit),
            "each request" if row.metric.per == "request" else "each start",
            escape(row.metric.definition),
        )
        for row in it.rows
    ]
    said = (
        "A block's difference is mean(log b) − mean(log a). The ratio is exp(mean difference), its interval Student's t."
        " Equivalent: the 90 % interval lies within the margin. Different: the 95 % interval excludes 1."
        " Each metric's interval is for itself: of ten that do not differ, one or more excludes 1"
        " in up to four comparisons of ten."
    )
    header = ("metric", "unit", "measured at", "definition")
    return render.html_fold("Definitions", compact(header, rows) + render.html_small(said))


def raw(it: Seen) -> str:
    """Every value, block by block; "" if there is no block."""
    units = {row.metric.key: unit(row.metric, (row.a, row.b)) for row in it.rows}
    metrics = [row.metric for row in it.rows]
    header = ("block", "order", "arm", *(f"{m.title}, {units[m.key][0]}" for m in metrics))
    rows = []
    for blocks, kind in ((it.card.aa, "A/A "), (it.card.blocks, "")):
        for block in blocks:
            for arm in "ab":
                cells = [
                    _values(block, arm, metric.key, metric.per, units[metric.key][1]) for metric in metrics
                ]
                rows.append((f"{kind}{block.number}", short(block.order, 8), arm, *cells))
    if not rows or not metrics:
        return ""
    more = f"; the first {_MOST_ROWS // 2} are shown, .save(FILE) keeps all" if len(rows) > _MOST_ROWS else ""
    # As text: hundreds of cells would take several times as much.
    text = escape(render.text_table(header, rows[:_MOST_ROWS], gap=2))
    table = f'<pre style="margin:4px 0;padding:0;background:none;color:inherit;font-size:85%;line-height:1.35;overflow-x:auto;white-space:pre">{text}</pre>'
    count = len(it.card.aa) + len(it.card.blocks)
    return render.html_fold(f"All values ({counted(count, 'block')}{more})", table)


def compact(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> str:
    """A table in few bytes: hundreds of cells stay in the notebook.

    Args:
        header: Names of the columns, as text.
        rows: The cells, HTML already.
        right: Columns of figures.
    """
    sides = ["right" if column in right else "left" for column in range(len(header))]
    head = "".join(
        f'<th scope="col" style="text-align:{side}">{escape(name)}</th>'
        for name, side in zip(header, sides, strict=True)
    )
    # Where all are on one side the row says it, for all of its cells.
    body = "".join(
        f"{render.ROW}{''.join(_td(cell, side) for cell, side in zip(row, sides, strict=True))}</tr>"
        for row in rows
    )
    return (
        f'<table cellpadding="3" style="border-collapse:collapse;{render.FONT};font-size:90%;margin:0;'
        f'font-variant-numeric:tabular-nums"><thead>{render.ROW}{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def _td(cell: str, side: str) -> str:
    return f'<td style="text-align:{side}">{cell}</td>'


def _side_by_side(
    what: str, a: Mapping[str, Any], b: Mapping[str, Any]
) -> list[tuple[str, str, str, str, str]]:
    """A row for each fact; what differs is marked."""
    rows: list[tuple[str, str, str, str, str]] = []
    for key in dict.fromkeys((*a, *b)):
        differs = a.get(key) != b.get(key)
        rows.append(
            (
                what if not rows else "",
                escape(short(str(key).replace("_", " "))),
                _cell(a.get(key)),
                _cell(b.get(key)),
                "<b>≠</b>" if differs else "",
            )
        )
    return rows


def _cell(value: Any) -> str:
    """A fact, shortened; all of it where one points at it."""
    whole = shown(value)
    cut = short(whole)
    inner = escape(cut) or render.UNKNOWN
    if cut == whole:
        return inner
    return f'<span title="{escape(render.clipped(whole[:_LONGEST], _LONGEST))}">{inner}</span>'


def _values(block: Block, arm: str, key: str, per: str, factor: float) -> str:
    """What a block holds of an arm's metric, complete or not."""
    if per == "start":
        values = [block.starts.get(arm, {}).get(key)]
    else:
        values = [request.values.get(key) for request in block.requests if request.arm == arm]
    known = [value * factor for value in values if value is not None]
    if len(values) > _SINGLE and known:
        return f"{measured(median(known))} (median of {len(known)})"
    told = [measured(None if value is None else value * factor) for value in values]
    return " · ".join(told) or render.UNKNOWN


def _gap(html: str) -> str:
    return f'<div style="margin-top:6px;overflow-x:auto">{html}</div>'
