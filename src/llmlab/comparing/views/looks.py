"""How verdicts and arms look; a colour never stands alone."""

from __future__ import annotations

from html import escape

from llmlab import render

# The mark says it as well as the colour: a tick, an approximate sign, an unequal sign, a question, a cross.
MARKS = {
    "equivalent": "✓",
    "different but negligible": "≈",
    "different": "≠",
    "inconclusive": "?",
    "not comparable": "✖",
    "too few blocks": "?",
    "unknown of a": "?",
    "unknown of b": "?",
}
_ACCENT = "var(--jp-brand-color1, #1976d2)"
COLOURS = {
    "equivalent": render.STATE_COLOURS["ready"],
    "different but negligible": render.STATE_COLOURS["ready"],
    "different": _ACCENT,
    "inconclusive": render.STATE_COLOURS["loading"],
    "not comparable": render.STATE_COLOURS["exited"],
    "too few blocks": render.STATE_COLOURS["stopped"],
    "unknown of a": render.STATE_COLOURS["stopped"],
    "unknown of b": render.STATE_COLOURS["stopped"],
}
# Of arms: a colour and a shape; ends of lines of no length are dots and squares.
ARM_COLOURS = {"a": render.SERIES_COLOURS[0], "b": render.SERIES_COLOURS[1]}
ARM_CAPS = {"a": "round", "b": "square"}


def chip(verdict: str) -> str:
    """A verdict that is seen at once."""
    colour = COLOURS[verdict]
    return (
        f'<span style="display:inline-block;border:1.5px solid {colour};border-radius:12px;padding:2px 12px;'
        f'font-weight:700;white-space:nowrap"><span aria-hidden="true" style="color:{colour}">{MARKS[verdict]}</span> '
        f"{escape(verdict)}</span>"
    )


def marked(verdict: str) -> str:
    """A verdict in a table."""
    return (
        f'<span aria-hidden="true" style="color:{COLOURS[verdict]};font-weight:700">{MARKS[verdict]}</span> '
        f"{escape(verdict)}"
    )


def arm_key(arm: str, name: str) -> str:
    """An arm's dot and its name."""
    return (
        f'<span style="white-space:nowrap;margin-right:16px"><svg aria-hidden="true" width="11" height="11" viewBox="0 0 22 22">'
        f'<path d="M11 11h0" stroke="{ARM_COLOURS[arm]}" stroke-width="{16 if arm == "a" else 14}" '
        f'stroke-linecap="{ARM_CAPS[arm]}"/></svg> <b>{arm}</b> {escape(name)}</span>'
    )
