"""Bars of HTML: what something is made of, whether it fits, how far it has come."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from llmlab.render.style import (
    ACCENT,
    FONT,
    HATCHED,
    MUTED,
    SMALL,
    STATE_COLOURS,
)

# What a bar is made of. Each has at least three times the luminance of JupyterLab's
# dark page and a third of the white one's, so that both themes show it.
_SHADES = ("#3d7fd9", "#8a63d2", "#d0651b", "#1b8f7d", "#7c8590", "#b8578f", "#8a7a1f")

_MARKS = {"fits": "✓", "tight": "▲", "too big": "✗"}

_FAINT = f"background:repeating-linear-gradient(90deg,{_SHADES[0]} 0 1px,transparent 1px 4px)"

_BAR_PX, _OVER_PX = 150, 40
_PAGE = "var(--jp-layout-color0, #fff)"


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
            f'<span style="display:block;width:{min(max(over * _BAR_PX, 6), _OVER_PX):.0f}px;{HATCHED};'
            f'border:1px solid {STATE_COLOURS["too big"]};border-left-width:2px"></span>'
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
    border = f"{HATCHED};border:1px solid {STATE_COLOURS['too big']}"
    entries = [(f"background:{_shade(i)}", name, figure) for i, (name, figure) in enumerate(parts.items())]
    if spare:
        entries.append((_FAINT, *spare))
    if too_big:
        entries.append((border, "more than there is: too big", ""))
    html = "".join(
        f'<span style="white-space:nowrap;margin-right:14px"><span aria-hidden="true" style="display:inline-block;'
        f'box-sizing:border-box;width:10px;height:10px;margin-right:5px;{look}"></span>{escape(name)}'
        f"{f' <span style={chr(34)}{MUTED}{chr(34)}>{escape(figure)}</span>' if figure else ''}</span>"
        for look, name, figure in entries
    )
    return f'<div style="{FONT};font-size:90%;line-height:1.6;margin:2px 0">{html}</div>'


def html_verdict(verdict: str, more: str = "") -> str:
    """Whether something fits, as a mark and in words."""
    colour = STATE_COLOURS.get(verdict, STATE_COLOURS["stopped"])
    return (
        f'<span style="{SMALL};white-space:nowrap"><span aria-hidden="true" style="color:{colour}">{_MARKS.get(verdict, "")}</span> '
        f'<strong style="font-weight:600">{escape(verdict)}</strong>{f" · {escape(more)}" if more else ""}</span>'
    )


def html_transfer(done: int, total: int | None, text: str) -> str:
    """A bar that fills, and the same in words; hatched where the end is not known."""
    share = None if not total else min(max(done / total, 0.0), 1.0)
    now = "" if share is None else f'aria-valuenow="{100 * share:.0f}" '
    fill = (
        f'<span style="display:block;width:100%;opacity:0.5;background:repeating-linear-gradient(135deg,{ACCENT} 0 4px,transparent 4px 8px)"></span>'
        if share is None
        else f'<span style="display:block;width:{100 * share:.2f}%;background:{ACCENT}"></span>'
    )
    return (
        f'<div style="padding-left:1.3em;margin:3px 0;max-width:34em">'
        f'<div role="progressbar" aria-valuemin="0" aria-valuemax="100" {now}aria-valuetext="{escape(text)}" '
        f'style="display:flex;height:8px;border-radius:4px;overflow:hidden;background:var(--jp-layout-color3, #e0e0e0)">'
        f'{fill}</div><div style="{MUTED};font-variant-numeric:tabular-nums;margin-top:2px">{escape(text)}</div></div>'
    )


def _shade(index: int) -> str:
    return _SHADES[index % len(_SHADES)]
