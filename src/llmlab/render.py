"""Plain text and HTML for results: tables, chips, cards. Escapes everything.

HTML uses JupyterLab's CSS variables with fallbacks, so that it follows the
light or dark theme there and stays readable where they are missing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Literal

Step = Literal["done", "now", "ahead", "failed"]
Finding = Literal["good", "plain", "open", "bad"]
UNKNOWN = "–"
"""What stands in a table where a figure is not known."""

# A colour never stands alone: the word beside it says the same.
_STATE_COLOURS = {
    "ready": "var(--jp-success-color1, #2e7d32)",
    "loading": "var(--jp-warn-color1, #b26a00)",
    "stopped": "var(--jp-ui-font-color2, #757575)",
    "here": "var(--jp-success-color1, #2e7d32)",
    "built-in": "var(--jp-success-color1, #2e7d32)",
    "fits": "var(--jp-success-color1, #2e7d32)",
    "tight": "var(--jp-warn-color1, #b26a00)",
    "too big": "var(--jp-error-color1, #c62828)",
    "exited": "var(--jp-error-color1, #c62828)",
    "lost": "var(--jp-error-color1, #c62828)",
}
_HATCHED = (
    f"background:repeating-linear-gradient(135deg,{_STATE_COLOURS['too big']} 0 2px,transparent 2px 6px)"
)
_FONT = "font-family:var(--jp-ui-font-family, system-ui, sans-serif)"
# Not printable by Python's account and wanted all the same: line ends, tabs, the
# space that does not break and the joiner inside of many emoji.
_HARMLESS = "\n\t\u00a0\u200d"
_MUTED = "color:var(--jp-ui-font-color2, #6b6b6b)"
_LINE = "var(--jp-border-color2, #d0d0d0)"
_ACCENT = "var(--jp-brand-color1, #1976d2)"
# Without JupyterLab's stripes: on them, muted text would be too faint.
_ROW = '<tr style="background:none">'
# For views that draw tables of their own.
FONT, MUTED, LINE, ROW, STATE_COLOURS = _FONT, _MUTED, _LINE, _ROW, _STATE_COLOURS
_FIGURES = "font-variant-numeric:tabular-nums;white-space:nowrap"
_SMALL = "font-size:var(--jp-ui-font-size1, 13px)"
# What a bar is made of. Each has at least three times the luminance of JupyterLab's
# dark page and a third of the white one's, so that both themes show it.
_SHADES = ("#3d7fd9", "#8a63d2", "#d0651b", "#1b8f7d", "#7c8590", "#b8578f", "#8a7a1f")
_MARKS = {"fits": "✓", "tight": "▲", "too big": "✗"}
_FAINT = f"background:repeating-linear-gradient(90deg,{_SHADES[0]} 0 1px,transparent 1px 4px)"
_BAR_PX, _OVER_PX = 150, 40
_PART_COLUMNS = 88
_PAGE = "var(--jp-layout-color0, #fff)"
# A mark and a colour for each step of something that takes a while.
_STEPS: dict[Step, tuple[str, str]] = {
    "done": ("✓", _STATE_COLOURS["ready"]),
    "now": ("●", _ACCENT),
    "ahead": ("○", _STATE_COLOURS["stopped"]),
    "failed": ("✗", _STATE_COLOURS["exited"]),
}
# The shape says it as well as the colour: filled, empty, a ring, a filled cross.
_FINDINGS: dict[Finding, tuple[str, str]] = {
    "good": ("✓", _STATE_COLOURS["ready"]),
    "plain": ("·", _STATE_COLOURS["stopped"]),
    "open": ("○", _STATE_COLOURS["loading"]),
    "bad": ("✖", _STATE_COLOURS["exited"]),
}


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, gap: int = 3) -> str:
    """Columns as `docker ps` prints them; the header alone if there are no rows."""
    lines = [[name.upper() for name in header], *[[_one_line(cell) for cell in row] for row in rows]]
    widths = [max(_columns(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        (" " * gap)
        .join(cell + " " * (width - _columns(cell)) for cell, width in zip(line, widths, strict=True))
        .rstrip()
        for line in lines
    )


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
    cell = f"padding:4px 16px 4px 0;border-bottom:1px solid {_LINE};vertical-align:top"
    sides = [f"text-align:right;{_FIGURES}" if name in right else "text-align:left" for name in header]
    head = "".join(
        f'<th scope="col" style="{cell};{side};{_MUTED};font-weight:600">{escape(h)}</th>'
        for h, side in zip(header, sides, strict=True)
    )
    body = "".join(
        _ROW
        + "".join(f'<td style="{cell};{side}">{html}</td>' for html, side in zip(row, sides, strict=True))
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
    cell = f"padding:2px 16px 2px 0;text-align:left;vertical-align:top;border-bottom:1px solid {_LINE}"
    aside = f"{cell};user-select:none;-webkit-user-select:none"
    lines = []
    for i, (part, why, number) in enumerate(rows):
        shown = clipped(part, _PART_COLUMNS, middle=True)
        indent = 0 if i == 0 or not part.startswith("-") else 2
        cis = f"CIS {number}" if number else ""
        lines.append(
            f'{_ROW}<td style="{cell};padding-left:{indent}ch;font-family:var(--jp-code-font-family, monospace);'
            f'font-size:95%;overflow-wrap:anywhere;min-width:24em" title="{escape(part)}">{escape(shown)}</td>'
            f'<td style="{aside}">{escape(why)}</td><td style="{aside};{_MUTED};white-space:nowrap">{escape(cis)}</td></tr>'
        )
    return f'<table style="border-collapse:collapse;{_FONT};{_SMALL};margin:6px 0"><tbody>{"".join(lines)}</tbody></table>'


def html_finding(word: str, look: Finding) -> str:
    """A verdict with its mark."""
    mark, colour = _FINDINGS[look]
    style = f"color:{colour};font-weight:700" if look == "bad" else _MUTED if look == "plain" else ""
    return (
        f'<span style="white-space:nowrap;{style}"><span aria-hidden="true" style="color:{colour}">{mark}</span> '
        f"{escape(word)}</span>"
    )


def html_meanings(entries: Sequence[tuple[str, Finding, str]]) -> str:
    """What the verdicts of a table mean: (verdict, mark, meaning)."""
    html = "".join(
        f'<span style="margin-right:16px">{html_finding(word, look)} <span style="{_MUTED}">{escape(meaning)}</span></span>'
        for word, look, meaning in entries
    )
    return f'<div style="{_FONT};font-size:90%;line-height:1.6;margin:4px 0">{html}</div>'


def html_card(title: str, body: str, *, side: str = "", wide: bool = False) -> str:
    """A box with a title; `body` and `side` are HTML already. A table of many columns wants a wide one."""
    return (
        f'<div style="{_FONT};border:1px solid {_LINE};border-radius:6px;padding:8px 14px;'
        f'max-width:{"76em" if wide else "52em"};margin:2px 0"><div style="display:flex;gap:1em;align-items:baseline">'
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
    return f'<div style="{_FONT};{_SMALL};margin:4px 0">{line}{details}{bar}{said}{same}</div>'


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
        f'{_ROW}<th scope="row" style="text-align:left;padding:1px 14px 1px 0;font-weight:400;white-space:nowrap;vertical-align:top;{_MUTED}">{escape(k)}</th>'
        f'<td style="text-align:left;padding:1px 0;overflow-wrap:anywhere">{escape(v)}</td></tr>'
        for k, v in pairs
    )
    return f'<table style="border-collapse:collapse;margin:4px 0;{_FONT}"><tbody>{rows}</tbody></table>'


def html_fold(title: str, body: str) -> str:
    """HTML that is shown when its title is clicked."""
    return (
        f'<details style="{_FONT};margin:6px 0"><summary style="cursor:pointer;{_MUTED}">{escape(title)}</summary>'
        f"{body}</details>"
    )


def html_section(title: str, body: str) -> str:
    """A part of a card; `body` is HTML already."""
    return (
        f'<div style="margin-top:10px;padding-top:6px;border-top:1px solid {_LINE}">'
        f'<div style="{_MUTED};font-weight:600;margin-bottom:2px">{escape(title)}</div>{body}</div>'
    )


def html_facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Many short labelled values, side by side."""
    facts = "".join(
        f'<span style="margin:0 18px 2px 0"><span style="{_MUTED}">{escape(k)}</span> '
        f'<span style="overflow-wrap:anywhere">{escape(v)}</span></span>'
        for k, v in pairs
    )
    return f'<div style="{_FONT};{_SMALL};display:flex;flex-wrap:wrap">{facts}</div>'


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
    return f'<span style="{_MUTED};font-size:90%">{escape(text)}</span>'


def html_small(text: str, *, one_line: bool = False) -> str:
    """A line that explains what stands above it."""
    wrapping = "white-space:nowrap" if one_line else "overflow-wrap:anywhere"
    return f'<div style="{_FONT};{_MUTED};font-size:90%;{wrapping}">{escape(text)}</div>'


def html_code(lines: Sequence[str]) -> str:
    """Log lines or a command, in fixed width."""
    return (
        f'<pre style="margin:4px 0;padding:6px 10px;border:1px solid {_LINE};border-radius:4px;'
        "background:var(--jp-cell-editor-background, transparent);color:inherit;white-space:pre-wrap;"
        f'overflow-wrap:anywhere;font-size:90%">{escape(chr(10).join(lines))}</pre>'
    )


def html_bar(
    parts: Mapping[str, float], full: float, *, label: str, spare: float = 0.0, wide: bool = False
) -> str:
    """A bar of stacked parts whose length is what there is.

    What goes beyond it is drawn beyond its end, hatched, so that the length
    says it as well as the colour; the drawing ends where the room for it does.

    Args:
        parts: Name → amount, in the order of `html_legend`.
        full: The amount that the whole length stands for, in the same unit.
        label: All of it in words, for those who do not see the bar.
        spare: What is taken only as far as there is room; drawn faintly, never beyond the end.
        wide: As wide as there is room, in place of one for a table's cell.
    """
    full = max(full, 1e-9)
    drawn, segments = 0.0, []
    for i, amount in enumerate(parts.values()):
        share = min(max(amount / full, 0.0), 1 - drawn)
        if share > 0:
            # A gap between two shades, where there is room for one.
            gap = f";box-shadow:inset -1px 0 0 {_PAGE}" if share > 0.02 else ""  # noqa: PLR2004
            segments.append(
                f'<span style="display:block;width:{100 * share:.2f}%;min-width:1px;background:{_shade(i)}{gap}"></span>'
            )
        drawn += share
    if (share := min(spare / full, 1 - drawn)) > 0:
        segments.append(f'<span style="display:block;width:{100 * share:.2f}%;{_FAINT}"></span>')
    over = sum(parts.values()) / full - 1
    beyond = ""
    if over > 0:
        beyond = (
            f'<span style="display:block;width:{min(max(over * _BAR_PX, 6), _OVER_PX):.0f}px;{_HATCHED};'
            f'border:1px solid {_STATE_COLOURS["too big"]};border-left-width:2px"></span>'
        )
    track = (
        f'<span style="display:flex;{"flex:1;max-width:32em" if wide else f"width:{_BAR_PX}px"};overflow:hidden;'
        f"box-sizing:border-box;border:1px solid var(--jp-border-color1, #bdbdbd);"
        f'background:var(--jp-layout-color2, #eee)">{"".join(segments)}</span>'
    )
    room = "" if wide else f"width:{_BAR_PX + _OVER_PX}px;"
    return (
        f'<div role="img" aria-label="{escape(label)}" title="{escape(label)}" '
        f'style="display:flex;height:13px;margin:3px 0;{room}">{track}{beyond}</div>'
    )


def html_legend(
    parts: Mapping[str, str], *, spare: tuple[str, str] | None = None, too_big: bool = False
) -> str:
    """What the shades of `html_bar` stand for.

    Args:
        parts: Name → figure (or ""), in the same order.
        spare: Name and figure of what is drawn faintly, if anything.
        too_big: Whether to explain what goes beyond the end.
    """
    border = f"{_HATCHED};border:1px solid {_STATE_COLOURS['too big']}"
    entries = [(f"background:{_shade(i)}", name, figure) for i, (name, figure) in enumerate(parts.items())]
    if spare:
        entries.append((_FAINT, *spare))
    if too_big:
        entries.append((border, "more than there is: too big", ""))
    html = "".join(
        f'<span style="white-space:nowrap;margin-right:14px"><span aria-hidden="true" style="display:inline-block;'
        f'box-sizing:border-box;width:10px;height:10px;margin-right:5px;{look}"></span>{escape(name)}'
        f"{f' <span style={chr(34)}{_MUTED}{chr(34)}>{escape(figure)}</span>' if figure else ''}</span>"
        for look, name, figure in entries
    )
    return f'<div style="{_FONT};font-size:90%;line-height:1.6;margin:2px 0">{html}</div>'


def html_verdict(verdict: str, more: str = "") -> str:
    """Whether something fits, as a mark and in words."""
    colour = _STATE_COLOURS.get(verdict, _STATE_COLOURS["stopped"])
    return (
        f'<span style="{_SMALL};white-space:nowrap"><span aria-hidden="true" style="color:{colour}">{_MARKS.get(verdict, "")}</span> '
        f'<strong style="font-weight:600">{escape(verdict)}</strong>{f" · {escape(more)}" if more else ""}</span>'
    )


def html_transfer(done: int, total: int | None, text: str) -> str:
    """A bar that fills, and the same in words; hatched where the end is not known."""
    share = None if not total else min(max(done / total, 0.0), 1.0)
    now = "" if share is None else f'aria-valuenow="{100 * share:.0f}" '
    fill = (
        f'<span style="display:block;width:100%;opacity:0.5;background:repeating-linear-gradient(135deg,{_ACCENT} 0 4px,transparent 4px 8px)"></span>'
        if share is None
        else f'<span style="display:block;width:{100 * share:.2f}%;background:{_ACCENT}"></span>'
    )
    return (
        f'<div style="padding-left:1.3em;margin:3px 0;max-width:34em">'
        f'<div role="progressbar" aria-valuemin="0" aria-valuemax="100" {now}aria-valuetext="{escape(text)}" '
        f'style="display:flex;height:8px;border-radius:4px;overflow:hidden;background:var(--jp-layout-color3, #e0e0e0)">'
        f'{fill}</div><div style="{_MUTED};font-variant-numeric:tabular-nums;margin-top:2px">{escape(text)}</div></div>'
    )


def text_bar(share: float, spare: float = 0.0, width: int = 6) -> str:
    """A bar of text.

    Args:
        share: What is drawn of the whole; something is drawn of everything
            above 0, and more than 1 has a mark behind it.
        spare: What comes after it, drawn lightly and only as far as there is room.
        width: Columns.
    """
    filled = min(max(round(share * width), share > 0), width)
    light = min(round((share + spare) * width), width) - filled
    return ("▓" * filled + "▒" * light).ljust(width, "░") + ("»" if share > 1 else " ")


def transfer_text(done: int, total: int | None, rate: float | None, left_s: float | None) -> str:
    """How far a transfer is, such as "25 %, 1.2 of 4.7 GB, 34 MB/s, 1 min 40 s left".

    Args:
        done: Bytes.
        total: Bytes in all, or None.
        rate: Bytes per second, or None.
        left_s: Seconds it will still take, or None.
    """
    parts = []
    if total:
        whole, part = bytes_text(total), bytes_text(done)
        if part.rpartition(" ")[2] == whole.rpartition(" ")[2]:
            part = part.rpartition(" ")[0]
        parts += [f"{min(int(100 * done / total), 100)} %", f"{part} of {whole}"]
    else:
        parts.append(bytes_text(done))
    if rate is not None:
        parts.append(f"{bytes_text(rate)}/s")
    if total and done < total:
        parts.append("time left unknown" if left_s is None else f"{duration_text(left_s)} left")
    return ", ".join(parts)


def moved_text(done: int, rate: float | None) -> str:
    """What a transfer came to: bytes, and the mean rate if there is one."""
    return bytes_text(done) if rate is None else f"{bytes_text(done)}, {bytes_text(rate)}/s"


def progress_line(head: str, detail: str, tail: str, columns: int) -> str:
    """One line of a terminal; of `detail`, which is not trusted, as much as there is room for."""
    room = columns - _columns(head) - (_columns(tail) + 2 if tail else 0)
    return clipped(f"{head}{clipped(detail, max(room, 2))}{f'  {tail}' if tail else ''}", columns)


def bytes_text(number: float | None) -> str:
    """Bytes of files and transfers, in the decimal units that hubs print."""
    if number is None:
        return UNKNOWN
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        # What rounds up to the next unit is printed in it.
        if number >= 0.9995 * size:
            value = number / size
            return f"{value:.1f} {unit}" if value < (100 if unit == "GB" else 9.95) else f"{value:.0f} {unit}"
    return f"{number:.0f} B"


def mib_text(number: float | None) -> str:
    """MiB of memory, in the binary units of operating systems."""
    if number is None:
        return UNKNOWN
    return f"{number / 1024:.1f} GiB" if number >= 1024 else f"{number:.0f} MiB"  # noqa: PLR2004 - MiB in a GiB


def parameters_text(number: int | None) -> str:
    """Number of parameters, as models are named by it: 0.5 B."""
    if number is None:
        return UNKNOWN
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= (0.0995 if unit == "B" else 1) * size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def duration_text(seconds: float) -> str:
    """A time in the two largest units that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def clipped(text: str, columns: int, *, middle: bool = False) -> str:
    """One line of text that takes at most so many columns of a terminal, with … where it is cut.

    Args:
        text: The text; not trusted.
        columns: At least 2.
        middle: Cut in the middle: of a reference, the end says as much as the beginning.
    """
    text = plain(text).replace("\n", " ").replace("\t", " ")
    if _columns(text) <= columns:
        return text
    tail = _head(text[::-1], (columns - 1) // 2)[::-1] if middle else ""
    return f"{_head(text, columns - 1 - _columns(tail))}…{tail}"


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most so many columns; the text is not trusted."""
    text = plain(text)
    # Exact where all characters are as wide as each other.
    return wrap(text, columns if _columns(text) <= len(text) else columns // 2)


def _head(text: str, columns: int) -> str:
    taken = 0
    for i, character in enumerate(text):
        taken += _columns(character)
        if taken > columns:
            return text[:i]
    return text


def _columns(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def _shade(index: int) -> str:
    return _SHADES[index % len(_SHADES)]


def bundle(text: str, html: str) -> dict[str, str]:
    """A MIME bundle; the text always, so that every front-end shows something.

    A terminal prints the text, so what is in it is made plain.
    """
    return {"text/plain": plain(text), "text/html": html}


def _one_line(text: str) -> str:
    return " ".join(text.split())
