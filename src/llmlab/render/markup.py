"""HTML: tables, chips, cards. Escapes everything that it is not told to be HTML already."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from llmlab.render.style import (
    ACCENT,
    FIGURES,
    FONT,
    LINE,
    MUTED,
    ROW,
    SMALL,
    STATE_COLOURS,
    Finding,
    Step,
)
from llmlab.render.texts import UNTYPESET, capped, clipped, plain

_PART_COLUMNS = 88
# A mark and a colour for each step of something that takes a while.
_STEPS: dict[Step, tuple[str, str]] = {
    "done": ("✓", STATE_COLOURS["ready"]),
    "now": ("●", ACCENT),
    "ahead": ("○", STATE_COLOURS["stopped"]),
    "failed": ("✗", STATE_COLOURS["exited"]),
}

# The shape says it as well as the colour: filled, empty, a ring, a filled cross.
_FINDINGS: dict[Finding, tuple[str, str]] = {
    "good": ("✓", STATE_COLOURS["ready"]),
    "plain": ("·", STATE_COLOURS["stopped"]),
    "open": ("○", STATE_COLOURS["loading"]),
    "bad": ("✖", STATE_COLOURS["exited"]),
}


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """The same table for a notebook. A cell in a column `state` gets its colour."""
    states = {i for i, name in enumerate(header) if name == "state"}
    cells = [
        [html_state(text) if i in states else escape(text) for i, text in enumerate(row)] for row in rows
    ]
    return html_grid(header, cells, caption=caption)


def html_grid(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    caption: str = "",
) -> str:
    """A table whose cells are HTML already.

    Args:
        header: Names of the columns, as text.
        rows: The cells.
        right: Columns of figures, which are aligned to the right.
        caption: What stands above it, as text.
    """
    cell = f"padding:4px 16px 4px 0;border-bottom:1px solid {LINE};vertical-align:top"
    sides = [f"text-align:right;{FIGURES}" if name in right else "text-align:left" for name in header]
    head = "".join(
        f'<th scope="col" style="{cell};{side};{MUTED};font-weight:600">{escape(h)}</th>'
        for h, side in zip(header, sides, strict=True)
    )
    body = "".join(
        ROW
        + "".join(f'<td style="{cell};{side}">{html}</td>' for html, side in zip(row, sides, strict=True))
        + "</tr>"
        for row in rows
    )
    title = (
        f'<caption style="text-align:left;padding-bottom:4px;{MUTED}">{escape(caption)}</caption>'
        if caption
        else ""
    )
    return f'<table style="border-collapse:collapse;{FONT};margin:0">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def html_state(state: str) -> str:
    """A state as a coloured dot and its word."""
    colour = STATE_COLOURS.get(state.split(" ", 1)[0], STATE_COLOURS["stopped"])
    return f'<span style="white-space:nowrap"><span aria-hidden="true" style="color:{colour}">●</span> {escape(state)}</span>'


def html_chips(chips: Sequence[tuple[str, str, str]]) -> str:
    """Small labelled figures: (label, value, what it means)."""
    style = (
        f"display:inline-block;border:1px solid {LINE};border-radius:10px;padding:1px 9px;"
        "margin:4px 6px 0 0;font-size:85%;white-space:nowrap"
    )
    return "".join(
        f'<span style="{style}" title="{escape(meaning)}"><span style="{MUTED}">{escape(label)}</span> {escape(value)}</span>'
        for label, value, meaning in chips
    )


def html_findings(header: Sequence[str], rows: Sequence[tuple[Sequence[str], Finding]]) -> str:
    """A table whose last column is a verdict; what is bad stands out by mark, weight and colour."""
    cells = []
    for row, look in rows:
        *texts, verdict = row
        html = [
            escape(texts[0]),
            *(f'<span style="overflow-wrap:anywhere">{escape(text)}</span>' for text in texts[1:]),
        ]
        if look == "bad":
            red = f"color:{_FINDINGS['bad'][1]};font-weight:600"
            html = [f'<span style="{red}">{text}</span>' for text in html]
        html[0] = f'<span style="white-space:nowrap">{html[0]}</span>'
        cells.append([*html, html_finding(verdict, look)])
    return html_grid(header, cells)


def html_reasons(rows: Sequence[tuple[str, str, str]]) -> str:
    """A command, part by part, with what is to be said beside each: (part, reason, number).

    What is beside it is not selected with it, so that the command can be copied.
    """
    cell = f"padding:2px 16px 2px 0;text-align:left;vertical-align:top;border-bottom:1px solid {LINE}"
    aside = f"{cell};user-select:none;-webkit-user-select:none"
    lines = []
    for i, (part, why, number) in enumerate(rows):
        shown = clipped(part, _PART_COLUMNS, middle=True)
        indent = 0 if i == 0 or not part.startswith("-") else 2
        cis = f"CIS {number}" if number else ""
        lines.append(
            f'{ROW}<td style="{cell};padding-left:{indent}ch;font-family:var(--jp-code-font-family, monospace);'
            f'font-size:95%;overflow-wrap:anywhere;min-width:24em" title="{escape(part)}">{escape(shown)}</td>'
            f'<td style="{aside}">{escape(why)}</td><td style="{aside};{MUTED};white-space:nowrap">{escape(cis)}</td></tr>'
        )
    return f'<table style="border-collapse:collapse;{FONT};{SMALL};margin:6px 0"><tbody>{"".join(lines)}</tbody></table>'


def html_finding(word: str, look: Finding) -> str:
    """A verdict with its mark."""
    mark, colour = _FINDINGS[look]
    style = f"color:{colour};font-weight:700" if look == "bad" else MUTED if look == "plain" else ""
    return (
        f'<span style="white-space:nowrap;{style}"><span aria-hidden="true" style="color:{colour}">{mark}</span> '
        f"{escape(word)}</span>"
    )


def html_meanings(entries: Sequence[tuple[str, Finding, str]]) -> str:
    """What the verdicts of a table mean: (verdict, mark, meaning)."""
    html = "".join(
        f'<span style="margin-right:16px">{html_finding(word, look)} <span style="{MUTED}">{escape(meaning)}</span></span>'
        for word, look, meaning in entries
    )
    return f'<div style="{FONT};font-size:90%;line-height:1.6;margin:4px 0">{html}</div>'


def html_card(title: str, body: str, *, side: str = "", wide: bool = False) -> str:
    """A box with a title; `body` and `side` are HTML already. A table of many columns wants a wide one."""
    return (
        f'<div style="{FONT};border:1px solid {LINE};border-radius:6px;padding:8px 14px;'
        f'max-width:{"76em" if wide else "52em"};margin:2px 0"><div style="display:flex;gap:1em;align-items:baseline">'
        f'<strong style="flex:1">{escape(title)}</strong>{side}</div>{body}</div>'
    )


def html_text(text: str) -> str:
    """Untrusted text: nothing in it becomes markup, line breaks stay."""
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0">{escape(text)}</div>'


def html_untrusted(html: str) -> str:
    """HTML with text of others in it: formulas in it are not typeset, since MathJax knows links and more."""
    return f'<div class="{UNTYPESET}">{html}</div>'


def html_answer(text: str, chips: Sequence[tuple[str, str, str]], *, busy: bool = False) -> str:
    """What a model wrote, set apart by a bar from what llmlab says about it. Of a huge text, the beginning."""
    caret = f'<span aria-hidden="true" style="color:{ACCENT}">▍</span>' if busy else ""
    shown, more = capped(text)
    body = f'<div style="white-space:pre-wrap">{escape(plain(shown))}{caret}</div>'
    return html_reply(body, chips, below=html_note(more) if more else "")


def html_reply(body: str, chips: Sequence[tuple[str, str, str]], *, below: str = "") -> str:
    """The same for a text that is HTML already; `below`, HTML too, is what llmlab says about it."""
    return (
        f'<div style="{FONT};border-left:3px solid {ACCENT};padding:1px 0 1px 12px;max-width:52em;margin:4px 0">'
        f'<div style="overflow:hidden;overflow-wrap:anywhere;line-height:1.5;'
        f'font-size:var(--jp-content-font-size1, 14px)">{body}</div>'
        f"{below}<div>{html_chips(chips)}</div></div>"
    )


def html_progress(
    head: tuple[Step, str, str],
    steps: Sequence[tuple[Step, str, str, str]],
    *,
    bar: str = "",
    notes: Sequence[str] = (),
    python: str = "",
) -> str:
    """Something that takes a while, on one line.

    Args:
        head: How it stands, its title, the time it has taken.
        steps: The same of each step, and what is to be said on it.
        bar: HTML of `html_transfer`, where bytes are counted.
        notes: Sentences that the user should see.
        python: The Python line that does the same.
    """
    look, title, elapsed = head
    parts = [f"<span>{_mark(look)} <strong>{escape(title)}</strong></span>"]
    parts += [
        f'<span style="{MUTED if kind in ("done", "ahead") else ""}">{_mark(kind)} {escape(name)}'
        f"{f' <small>{escape(time)}</small>' if time else ''}</span>"
        for kind, name, time, _ in steps
    ]
    parts.append(f'<span style="font-variant-numeric:tabular-nums">{escape(elapsed)}</span>')
    line = (
        f'<div style="display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline">{" ".join(parts)}</div>'
    )
    details = "".join(
        f'<div style="{MUTED};padding-left:1.3em;overflow-wrap:anywhere">{escape(detail)}</div>'
        for kind, _, _, detail in steps
        if detail and kind != "done"
    )
    said = "".join(html_note(note) for note in notes)
    same = (
        f'<div style="{MUTED};padding-left:1.3em;margin-top:2px">in Python: '
        f'<code style="color:inherit;background:none">{escape(python)}</code></div>'
        if python
        else ""
    )
    return f'<div style="{FONT};{SMALL};margin:4px 0">{line}{details}{bar}{said}{same}</div>'


def html_note(message: str) -> str:
    """One sentence that the user should see."""
    return (
        f'<div style="{FONT};{SMALL};border-left:3px solid {STATE_COLOURS["loading"]};'
        f'padding:2px 0 2px 12px;max-width:60em;margin:4px 0;overflow-wrap:anywhere">'
        f"<strong>Note</strong> {escape(message)}</div>"
    )


def _mark(look: Step) -> str:
    mark, colour = _STEPS[look]
    return f'<span aria-hidden="true" style="color:{colour}">{mark}</span>'


def html_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """Labelled values, one under the other."""
    rows = "".join(
        f'{ROW}<th scope="row" style="text-align:left;padding:1px 14px 1px 0;font-weight:400;white-space:nowrap;vertical-align:top;{MUTED}">{escape(k)}</th>'
        f'<td style="text-align:left;padding:1px 0;overflow-wrap:anywhere">{escape(v)}</td></tr>'
        for k, v in pairs
    )
    return f'<table style="border-collapse:collapse;margin:4px 0;{FONT}"><tbody>{rows}</tbody></table>'


def html_fold(title: str, body: str) -> str:
    """HTML that is shown when its title is clicked."""
    return (
        f'<details style="{FONT};margin:6px 0"><summary style="cursor:pointer;{MUTED}">{escape(title)}</summary>'
        f"{body}</details>"
    )


def html_section(title: str, body: str) -> str:
    """A part of a card; `body` is HTML already."""
    return (
        f'<div style="margin-top:10px;padding-top:6px;border-top:1px solid {LINE}">'
        f'<div style="{MUTED};font-weight:600;margin-bottom:2px">{escape(title)}</div>{body}</div>'
    )


def html_facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Many short labelled values, side by side."""
    facts = "".join(
        f'<span style="margin:0 18px 2px 0"><span style="{MUTED}">{escape(k)}</span> '
        f'<span style="overflow-wrap:anywhere">{escape(v)}</span></span>'
        for k, v in pairs
    )
    return f'<div style="{FONT};{SMALL};display:flex;flex-wrap:wrap">{facts}</div>'


def html_mark(word: str, look: Step) -> str:
    """A word with the mark of how it stands."""
    return f"{_mark(look)} {escape(word)}"


def html_tag(word: str, meaning: str) -> str:
    """A word that must not be overlooked, such as "synthetic"."""
    return (
        '<span style="display:inline-block;border:1px dashed var(--jp-warn-color1, #b26a00);border-radius:3px;'
        "padding:0 5px;margin-right:6px;font-size:85%;font-weight:400;white-space:nowrap"
        f'" title="{escape(meaning)}">{escape(word)}</span>'
    )


def html_muted(text: str) -> str:
    """Text that stands back, within a line."""
    return f'<span style="{MUTED};font-size:90%">{escape(text)}</span>'


def html_small(text: str, *, one_line: bool = False) -> str:
    """A line that explains what stands above it."""
    wrapping = "white-space:nowrap" if one_line else "overflow-wrap:anywhere"
    return f'<div style="{FONT};{MUTED};font-size:90%;{wrapping}">{escape(text)}</div>'


def html_code(lines: Sequence[str]) -> str:
    """Log lines or a command, in fixed width."""
    return (
        f'<pre style="margin:4px 0;padding:6px 10px;border:1px solid {LINE};border-radius:4px;'
        "background:var(--jp-cell-editor-background, transparent);color:inherit;white-space:pre-wrap;"
        f'overflow-wrap:anywhere;font-size:90%">{escape(chr(10).join(lines))}</pre>'
    )
