"""Plain text: tables, sizes, durations, and what makes untrusted text harmless."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from textwrap import wrap

UNKNOWN = "–"
"""What stands in a table where a figure is not known."""
# Not printable by Python's account and wanted all the same: line ends, tabs, the
# space that does not break and the joiner inside of many emoji.
_HARMLESS = "\n\t\u00a0\u200d"
UNTYPESET = "tex2jax_ignore mathjax_ignore"
"""The class of HTML that MathJax leaves alone, of versions 2 and 3: it knows links, and more."""
_SHOWN = 200_000


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, gap: int = 3) -> str:
    """Columns as `docker ps` prints them; the header alone if there are no rows."""
    lines = [[name.upper() for name in header], *[[_one_line(cell) for cell in row] for row in rows]]
    widths = [max(columns_of(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        (" " * gap)
        .join(cell + " " * (width - columns_of(cell)) for cell, width in zip(line, widths, strict=True))
        .rstrip()
        for line in lines
    )


def plain(text: str) -> str:
    """Untrusted text for a terminal: control characters become visible.

    Escape sequences could otherwise move the cursor, set the window title or
    write to the clipboard.
    """
    return "".join(c if c.isprintable() or c in _HARMLESS else repr(c)[1:-1] for c in text)


def capped(text: str, most: int = _SHOWN) -> tuple[str, str]:
    """The beginning of a text, and a note on how much more there is.

    Args:
        text: The text.
        most: Characters that are kept.

    Returns:
        The text, and "… 1.2 MB more", or "" if that is all.
    """
    if len(text) <= most:
        return text, ""
    rest = len(text[most:].encode("utf-8", errors="replace"))
    return text[:most], f"… {bytes_text(rest)} more"


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
    room = columns - columns_of(head) - (columns_of(tail) + 2 if tail else 0)
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
    if columns_of(text) <= columns:
        return text
    tail = _head(text[::-1], (columns - 1) // 2)[::-1] if middle else ""
    return f"{_head(text, columns - 1 - columns_of(tail))}…{tail}"


def wrapped(text: str, columns: int) -> list[str]:
    """Lines of at most so many columns; the text is not trusted."""
    text = plain(text)
    # Exact where all characters are as wide as each other.
    return wrap(text, columns if columns_of(text) <= len(text) else columns // 2)


def _head(text: str, columns: int) -> str:
    taken = 0
    for i, character in enumerate(text):
        taken += columns_of(character)
        if taken > columns:
            return text[:i]
    return text


def columns_of(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def bundle(text: str, html: str) -> dict[str, str]:
    """A MIME bundle; the text always, so that every front-end shows something.

    A terminal prints the text, so what is in it is made plain. Front-ends that typeset
    formulas leave the HTML alone: they would take `$` in a name or an answer for one.
    """
    shown, more = capped(text)
    shown = plain(f"{shown}\n{more}" if more else shown)
    return {"text/plain": shown, "text/html": f'<div class="{UNTYPESET}">{html}</div>'}


def _one_line(text: str) -> str:
    return " ".join(text.split())


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
