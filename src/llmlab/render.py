"""Plain text and HTML for results: tables, chips, cards. Escapes everything.

HTML uses JupyterLab's CSS variables with fallbacks, so that it follows the
light or dark theme there and stays readable where they are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal

Step = Literal["done", "now", "ahead", "failed"]

# A colour never stands alone: the word beside it says the same.
_STATE_COLOURS = {
    "ready": "var(--jp-success-color1, #2e7d32)",
    "loading": "var(--jp-warn-color1, #b26a00)",
    "stopped": "var(--jp-ui-font-color2, #757575)",
    "exited": "var(--jp-error-color1, #c62828)",
    "lost": "var(--jp-error-color1, #c62828)",
}
_FONT = "font-family:var(--jp-ui-font-family, system-ui, sans-serif)"
# Not printable by Python's account and wanted all the same: line ends, tabs, the
# space that does not break and the joiner inside of many emoji.
_HARMLESS = "\n\t\u00a0\u200d"
_MUTED = "color:var(--jp-ui-font-color2, #6b6b6b)"
_LINE = "var(--jp-border-color2, #d0d0d0)"
_ACCENT = "var(--jp-brand-color1, #1976d2)"
_SMALL = "font-size:var(--jp-ui-font-size1, 13px)"
# A mark and a colour for each step of something that takes a while.
_STEPS: dict[Step, tuple[str, str]] = {
    "done": ("✓", _STATE_COLOURS["ready"]),
    "now": ("●", _ACCENT),
    "ahead": ("○", _STATE_COLOURS["stopped"]),
    "failed": ("✗", _STATE_COLOURS["exited"]),
}


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as `docker ps` prints them; the header alone if there are no rows."""
    lines = [[name.upper() for name in header], *[[_one_line(cell) for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "") -> str:
    """The same table for a notebook. A cell in a column `state` gets its colour."""
    cell = f"padding:4px 16px 4px 0;border-bottom:1px solid {_LINE};text-align:left;vertical-align:top"
    head = "".join(
        f'<th scope="col" style="{cell};{_MUTED};font-weight:600">{escape(h)}</th>' for h in header
    )
    states = {i for i, name in enumerate(header) if name == "state"}
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{cell}">{html_state(text) if i in states else escape(text)}</td>'
            for i, text in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    title = (
        f'<caption style="text-align:left;padding-bottom:4px;{_MUTED}">{escape(caption)}</caption>'
        if caption
        else ""
    )
    return f'<table style="border-collapse:collapse;{_FONT};margin:0">{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def html_state(state: str) -> str:
    """A state as a coloured dot and its word."""
    colour = _STATE_COLOURS.get(state.split(" ", 1)[0], _STATE_COLOURS["stopped"])
    return f'<span style="white-space:nowrap"><span aria-hidden="true" style="color:{colour}">●</span> {escape(state)}</span>'


def html_chips(chips: Sequence[tuple[str, str, str]]) -> str:
    """Small labelled figures: (label, value, what it means)."""
    style = (
        f"display:inline-block;border:1px solid {_LINE};border-radius:10px;padding:1px 9px;"
        "margin:4px 6px 0 0;font-size:85%;white-space:nowrap"
    )
    return "".join(
        f'<span style="{style}" title="{escape(meaning)}"><span style="{_MUTED}">{escape(label)}</span> {escape(value)}</span>'
        for label, value, meaning in chips
    )


def html_card(title: str, body: str, *, side: str = "") -> str:
    """A box with a title; `body` and `side` are HTML already."""
    return (
        f'<div style="{_FONT};border:1px solid {_LINE};border-radius:6px;padding:8px 14px;'
        f'max-width:52em;margin:2px 0"><div style="display:flex;gap:1em;align-items:baseline">'
        f'<strong style="flex:1">{escape(title)}</strong>{side}</div>{body}</div>'
    )


def html_text(text: str) -> str:
    """Untrusted text: nothing in it becomes markup, line breaks stay."""
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0">{escape(text)}</div>'


def html_answer(text: str, chips: Sequence[tuple[str, str, str]], *, busy: bool = False) -> str:
    """What a model wrote, set apart by a bar from what llmlab says about it."""
    caret = f'<span aria-hidden="true" style="color:{_ACCENT}">▍</span>' if busy else ""
    return (
        f'<div style="{_FONT};border-left:3px solid {_ACCENT};padding:1px 0 1px 12px;max-width:52em;margin:4px 0">'
        f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.5;'
        f'font-size:var(--jp-content-font-size1, 14px)">{escape(text)}{caret}</div>'
        f"<div>{html_chips(chips)}</div></div>"
    )


def html_progress(
    head: tuple[Step, str, str],
    steps: Sequence[tuple[Step, str, str, str]],
    *,
    notes: Sequence[str] = (),
    python: str = "",
) -> str:
    """Something that takes a while, on one line.

    Args:
        head: How it stands, its title, the time it has taken.
        steps: The same of each step, and what is to be said on it.
        notes: Sentences that the user should see.
        python: The Python line that does the same.
    """
    look, title, elapsed = head
    parts = [f"<span>{_mark(look)} <strong>{escape(title)}</strong></span>"]
    parts += [
        f'<span style="{_MUTED if kind in ("done", "ahead") else ""}">{_mark(kind)} {escape(name)}'
        f"{f' <small>{escape(time)}</small>' if time else ''}</span>"
        for kind, name, time, _ in steps
    ]
    parts.append(f'<span style="font-variant-numeric:tabular-nums">{escape(elapsed)}</span>')
    line = (
        f'<div style="display:flex;flex-wrap:wrap;gap:2px 14px;align-items:baseline">{" ".join(parts)}</div>'
    )
    details = "".join(
        f'<div style="{_MUTED};padding-left:1.3em;overflow-wrap:anywhere">{escape(detail)}</div>'
        for kind, _, _, detail in steps
        if detail and kind != "done"
    )
    said = "".join(html_note(note) for note in notes)
    same = (
        f'<div style="{_MUTED};padding-left:1.3em;margin-top:2px">in Python: '
        f'<code style="color:inherit;background:none">{escape(python)}</code></div>'
        if python
        else ""
    )
    return f'<div style="{_FONT};{_SMALL};margin:4px 0">{line}{details}{said}{same}</div>'


def html_note(message: str) -> str:
    """One sentence that the user should see."""
    return (
        f'<div style="{_FONT};{_SMALL};border-left:3px solid {_STATE_COLOURS["loading"]};'
        f'padding:2px 0 2px 12px;max-width:60em;margin:4px 0;overflow-wrap:anywhere">'
        f"<strong>Note</strong> {escape(message)}</div>"
    )


def _mark(look: Step) -> str:
    mark, colour = _STEPS[look]
    return f'<span aria-hidden="true" style="color:{colour}">{mark}</span>'


def plain(text: str) -> str:
    """Untrusted text for a terminal: control characters become visible.

    Escape sequences could otherwise move the cursor, set the window title or
    write to the clipboard.
    """
    return "".join(c if c.isprintable() or c in _HARMLESS else repr(c)[1:-1] for c in text)


def html_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """Labelled values, one under the other."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;padding:1px 14px 1px 0;font-weight:400;white-space:nowrap;vertical-align:top;{_MUTED}">{escape(k)}</th>'
        f'<td style="text-align:left;padding:1px 0;overflow-wrap:anywhere">{escape(v)}</td></tr>'
        for k, v in pairs
    )
    return f'<table style="border-collapse:collapse;margin:4px 0;{_FONT}"><tbody>{rows}</tbody></table>'


def html_code(lines: Sequence[str]) -> str:
    """Log lines or a command, in fixed width."""
    return (
        f'<pre style="margin:4px 0;padding:6px 10px;border:1px solid {_LINE};border-radius:4px;'
        "background:var(--jp-cell-editor-background, transparent);color:inherit;white-space:pre-wrap;"
        f'overflow-wrap:anywhere;font-size:90%">{escape(chr(10).join(lines))}</pre>'
    )


def bundle(text: str, html: str) -> dict[str, str]:
    """A MIME bundle; the text always, so that every front-end shows something.

    A terminal prints the text, so what is in it is made plain.
    """
    return {"text/plain": plain(text), "text/html": html}


def _one_line(text: str) -> str:
    return " ".join(text.split())
