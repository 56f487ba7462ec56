"""What a ladder looks like: tables for terminals, a card with waterfalls."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.ladder import words
from llmlab.comparing.ladder.picture import waterfall
from llmlab.comparing.ladder.steps import CHAINED, Gap, worse
from llmlab.comparing.reading import values_of

if TYPE_CHECKING:
    from llmlab.comparing.ladder import Ladder

_COLUMNS = 110
_LOOKS = {"loss": render.STATE_COLOURS["exited"], "gain": render.STATE_COLOURS["ready"]}


def text(ladder: Ladder) -> str:
    """The rungs, a line for each step of each metric, how it was measured, notes."""
    gaps = list(ladder.gaps.values())
    header, rows = words.rung_rows(ladder)
    parts = [f"ladder of {words.headline(ladder)}"]
    if rows:
        parts.append(render.text_table(header, rows))
    parts += [_text_gap(ladder, gap) for gap in gaps] or [_nothing(ladder)]
    lines = [words.together(gaps), words.files(ladder), words.method(ladder)]
    lines += [*words.failed(ladder), *map(words.note, ladder.notes)]
    parts.append("\n".join(_wrapped([line for line in lines if line])))
    return "\n\n".join(parts)


def html(ladder: Ladder) -> str:
    """A card: the waterfall and the table of the whole request, the other metrics folded, then how and what."""
    gaps = list(ladder.gaps.values())
    parts = []
    for place, gap in enumerate(gaps):
        body = _html_gap(ladder, gap)
        heading = f"{gap.metric.title}: {words.change(gap.whole.ratio)} in all ({words.better(gap.metric)})"
        parts.append(render.html_section(heading, body) if place == 0 else render.html_fold(heading, body))
    if not gaps:
        parts.append(render.html_text(_nothing(ladder)))
    parts += [render.html_note(line) for line in (*words.failed(ladder), *map(words.note, ladder.notes))]
    parts += [
        _small(line) for line in (words.together(gaps), words.files(ladder), words.method(ladder)) if line
    ]
    header, rows = words.rung_rows(ladder)
    cells = [[escape(cell) for cell in row] for row in rows]
    medians = render.html_grid(header, cells, right=header[1:])
    parts += [
        render.html_fold("Rungs: medians", medians),
        render.html_fold("What each rung changes", _changes(ladder)),
        render.html_fold("Definitions", _definitions()),
        render.html_fold("All values", _values(ladder)),
    ]
    side = render.html_muted(ladder.made[:16].replace("T", " "))
    return render.html_card(f"ladder of {words.headline(ladder)}", "".join(parts), side=side, wide=True)


def _text_gap(ladder: Ladder, gap: Gap) -> str:
    names = words.titles(ladder)
    rows = [
        [
            f"{names[step.below]} → {names[step.above]}",
            words.change(step.found.ratio),
            words.interval(step.found),
            words.outcome(gap, step),
        ]
        for step in gap.steps
    ]
    rows.append(["the whole gap", words.change(gap.whole.ratio), words.interval(gap.whole), ""])
    table = render.text_table(("step", "change", "95 % interval", ""), rows)
    lines = [*words.seen(ladder, gap), words.whole(ladder, gap), words.skipped(ladder, gap)]
    head = f"{gap.metric.title} ({words.better(gap.metric)})"
    return "\n".join([head, table, *_wrapped([line for line in lines if line])])


def _html_gap(ladder: Ladder, gap: Gap) -> str:
    names = words.titles(ladder)
    rows = []
    for step in gap.steps:
        word = words.outcome(gap, step)
        kind = ("loss" if worse(gap.metric, step.found.ratio) else "gain") if step.told else ""
        mark = _mark(step.found.ratio, kind)
        rows.append(
            [
                f"{escape(names[step.below])} → {escape(names[step.above])}",
                escape(words.change(step.found.ratio)),
                escape(words.interval(step.found)),
                f'<span style="white-space:nowrap">{mark} {escape(word)}</span>',
            ]
        )
    rows.append(
        [
            "<b>the whole gap</b>",
            f"<b>{escape(words.change(gap.whole.ratio))}</b>",
            escape(words.interval(gap.whole)),
            "",
        ]
    )
    table = render.html_grid(("step", "change", "95 % interval", ""), rows, right=("change", "95 % interval"))
    evidence = "".join(render.html_text(f"Seen: {line}") for line in words.seen(ladder, gap))
    said = "".join(_small(line) for line in (words.whole(ladder, gap), words.skipped(ladder, gap)) if line)
    return f'{waterfall(ladder, gap)}<div style="overflow-x:auto">{table}</div>{evidence}{said}'


def _mark(ratio: float, kind: str) -> str:
    """Up or down, in the colour of a gain or a loss."""
    sign = "○" if not kind else "▲" if ratio > 1 else "▼"
    colour = _LOOKS.get(kind, "inherit")
    return f'<span aria-hidden="true" style="color:{colour}">{sign}</span>'


def _nothing(ladder: Ladder) -> str:
    complete = sum(not block.trouble for block in ladder.blocks)
    blocks = "1 block is" if complete == 1 else f"{complete} blocks are"
    return f"Nothing can be said: {blocks} complete, and it takes at least 3."


def _changes(ladder: Ladder) -> str:
    pairs = []
    for rung in ladder.rungs:
        facts = [f"{name} {rung.facts[name]}" for name in _FACTS if name in rung.facts]
        pairs.append((words.title(rung.title), words.note(f"{rung.change}. {', '.join(facts)}")))
    return render.html_pairs(pairs)


_FACTS = ("way there", "isolation", "CPU limit", "memory limit", "threads", "page cache")


def _definitions() -> str:
    pairs = [(metric.title, f"{metric.definition}; {words.better(metric)}") for metric in CHAINED]
    pairs += [
        (
            "change",
            "exp(mean over blocks of the difference of mean logarithms) − 1, the rung above over the one below",
        ),
        ("gap", "the highest rung over the lowest; the steps' logarithms add up to its logarithm"),
    ]
    return render.html_pairs(pairs)


def _values(ladder: Ladder) -> str:
    """What was measured, a row for each block and rung."""
    header = ("block", "rung", *(f"{metric.title}, {metric.unit}" for metric in CHAINED))
    rows = []
    for block in ladder.blocks:
        for rung in ladder.rungs:
            cells = [
                escape(
                    " ".join(f"{value:.4g}" for value in values_of(block, rung.key, metric)) or render.UNKNOWN
                )
                for metric in CHAINED
            ]
            wide = [f'<span style="white-space:normal">{cell}</span>' for cell in cells]
            rows.append([str(block.number), escape(words.title(rung.title)), *wide])
    return f'<div style="overflow:auto;max-height:30em">{render.html_grid(header, rows)}</div>'


def _small(line: str) -> str:
    return render.html_small(line)


def _wrapped(lines: list[str]) -> list[str]:
    return [part for line in lines for part in render.wrapped(line, _COLUMNS)]
