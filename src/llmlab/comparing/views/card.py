"""A card of HTML: what differs, the verdict, the metrics with their intervals, pictures, facts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.views import forest, looks, tables
from llmlab.comparing.views.numbers import short
from llmlab.comparing.views.pairs import paired
from llmlab.comparing.views.rows import Row, Seen, seen
from llmlab.comparing.views.terminal import cells, failed, flagged, made, word
from llmlab.comparing.views.timeline import over_time
from llmlab.comparing.views.words import sentences, unequal

if TYPE_CHECKING:
    from llmlab.comparing.results import Comparison

_TEXT = "max-width:56em;overflow-wrap:anywhere"
_CELL = "padding:0 14px 0 0;text-align:left;vertical-align:middle;white-space:nowrap;line-height:1.25"
_FIGURE = f"{_CELL};text-align:right"
_COLUMNS = (
    ("metric", "", _CELL),
    ("a", "median", _FIGURE),
    ("b", "median", _FIGURE),
    ("ratio b/a", "less in b ◂ 1 ▸ more in b", f"{_CELL};text-align:center"),
    ("b/a", "95 % interval", _CELL),
    ("verdict", "A/A floor", _CELL),
)


def html(comparison: Comparison) -> str:
    """The card. Without its drawings everything is still said, in figures and words."""
    it = seen(comparison)
    said = sentences(it)
    more = " ".join(part for part in (said.floor, said.blame) if part)
    parts = [
        *(_unequal(unequal(it, each), fatal=each.fatal) for each in it.unwanted),
        f'<div style="margin:8px 0 2px">{looks.chip(it.verdict)}</div>',
        f'<div style="{_TEXT};font-size:125%;line-height:1.4;margin:4px 0">{escape(said.outcome)}</div>',
        f'<div style="{_TEXT};margin:4px 0">{escape(more)}</div>' if more else "",
        f'<div style="{_TEXT};{render.MUTED};margin:4px 0">{escape(said.method)}</div>',
        _metrics(it),
        paired(it),
        *(_remark("◯", line) for line in flagged(it)),
        *(_remark("✖", line) for line in failed(it)),
        *(render.html_note(short(note, 400)) for note in it.card.notes),
        _later(it),
        tables.facts(it),
        tables.definitions(it) if it.rows else "",
        tables.raw(it),
        render.html_small(" ".join(made(it))),
    ]
    title = f"comparison: {it.names['b']} against {it.names['a']}"
    return render.html_card(title, "".join(parts), side=_side(it), wide=True)


def _side(it: Seen) -> str:
    if it.replayed is None:
        return ""
    return render.html_tag("RUN CARD", f"read from {short(it.replayed)}: it was not measured just now")


def _unequal(what: str, *, fatal: bool) -> str:
    """A difference that nobody wanted: a bar, a word, what each arm has."""
    colour = render.STATE_COLOURS["exited" if fatal else "loading"]
    words = "Not comparable" if fatal else "Not equal"
    return (
        f'<div style="{_TEXT};border-left:4px solid {colour};padding:2px 0 2px 10px;margin:6px 0">'
        f'<span aria-hidden="true" style="color:{colour};font-weight:700">{"✖" if fatal else "▲"}</span> '
        f"<strong>{words}</strong> {escape(what)}</div>"
    )


def _metrics(it: Seen) -> str:
    """A row for each metric: figures, and its strip of the forest plot."""
    if not it.rows:
        return render.html_text("Nothing was measured.")
    on = forest.axis(it)
    heads = "".join(_head(*each) for each in _COLUMNS)
    body = "".join(_row(it, row, on) for row in it.rows)
    foot = f'{render.ROW}<td colspan="3" style="padding:0"></td><td style="padding:0 14px 0 0">{forest.scale(on)}</td><td colspan="2" style="padding:0"></td></tr>'
    arms = "".join(looks.arm_key(arm, name) for arm, name in it.names.items())
    return (
        f'<div style="margin-top:12px;padding-top:8px;border-top:1px solid {render.LINE}">'
        f'<div style="font-size:90%;line-height:1.7">{arms}{forest.key(on)}</div>'
        f'<div style="overflow-x:auto"><table style="border-collapse:collapse;{render.FONT};margin:6px 0 0;'
        f'font-size:95%;font-variant-numeric:tabular-nums"><thead>{render.ROW}{heads}</tr></thead>'
        f"<tbody>{body}{foot}</tbody></table></div></div>"
    )


def _head(title: str, second: str, style: str) -> str:
    below = f'<div style="font-size:85%;font-weight:400">{escape(second)}</div>' if second else ""
    return (
        f'<th scope="col" style="{style};{render.MUTED};font-weight:600;padding-bottom:4px">'
        f"{escape(title)} {below}</th>"
    )


def _row(it: Seen, row: Row, on: forest.Axis) -> str:
    unit, a, b, ratio, ends, floor = cells(row)
    better = "less is better" if row.metric.better == "lower" else "more is better"
    dim = ";opacity:.4" if it.verdict == "not comparable" else ""
    metric = (
        f'<span style="font-weight:600" title="{escape(row.metric.definition)}">{escape(row.metric.title)}</span> '
        f"{_second(f'{unit}, {better}')}"
    )
    return (
        f'{render.ROW}<th scope="row" style="{_CELL};font-weight:400">{metric}</th>'
        f'<td style="{_FIGURE}">{escape(a)}</td><td style="{_FIGURE}">{escape(b)}</td>'
        f'<td style="padding:0 14px 0 0;line-height:0{dim}">{forest.strip(row, on)}</td>'
        f'<td style="{_CELL}"><b>{escape(ratio)}</b> {_second(ends)}</td>'
        f'<td style="{_CELL}">{looks.marked(word(it, row))} {_second(f"A/A {floor}")}</td></tr>'
    )


def _second(text: str) -> str:
    """The second line of a cell."""
    return f'<div style="{render.MUTED};font-size:85%">{escape(text)}</div>'


def _remark(mark: str, line: str) -> str:
    colour = render.STATE_COLOURS["loading"]
    return (
        f'<div style="{_TEXT};font-size:90%;margin:3px 0"><span aria-hidden="true" style="color:{colour}">{mark}</span> '
        f"{escape(line)}</div>"
    )


def _later(it: Seen) -> str:
    drawn = over_time(it)
    return render.html_fold("Requests over time", drawn) if drawn else ""
