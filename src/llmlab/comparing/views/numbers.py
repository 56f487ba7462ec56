"""Figures as they are read: values with their unit, ratios with as many digits as their interval allows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from llmlab import render

if TYPE_CHECKING:
    from llmlab.comparing.findings import Estimate, Finding, Floor
    from llmlab.comparing.metrics import Metric

_HASH = re.compile(r"\b[0-9a-f]{32,}\b")
_SHOWN_OF_HASH = 12
# More characters than are ever shown of a text.
_LONG = 2000


def number(value: float | None) -> str:
    """Three digits, or whole; a narrow space between thousands."""
    if value is None:
        return render.UNKNOWN
    size = abs(value)
    if not math.isfinite(size) or size >= 1e15:  # noqa: PLR2004 - more digits than a double has
        return f"{value:.3g}"
    if size >= 100:  # noqa: PLR2004 - three digits
        return f"{value:,.0f}".replace(",", "\u00a0")
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def measured(value: float | None) -> str:
    """What was measured, with three digits; zeros at the end are digits too."""
    if value is None or not 1e-3 <= abs(value) < 100:  # noqa: PLR2004 - three digits
        return number(value)
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"


def unit(metric: Metric, values: Sequence[float | None]) -> tuple[str, float]:
    """In what unit values are shown side by side, and what to multiply them by.

    Returns:
        The unit's name, the factor.
    """
    most = max((abs(value) for value in values if value is not None), default=0.0)
    if metric.unit == "s" and most < 1:
        return "ms", 1000.0
    if metric.unit == "MiB" and most >= 1024:  # noqa: PLR2004 - MiB in a GiB
        return "GiB", 1 / 1024
    return metric.unit, 1.0


def scaled(value: float | None, factor: float) -> str:
    """A value in a unit of `unit`."""
    return measured(None if value is None else value * factor)


def decimals(low: float, high: float) -> int:
    """Decimals that show an interval's half-width with two digits; at least two below 10."""
    half = (high - low) / 2
    if not 0 < half < math.inf:
        return 3
    return min(6, max(2 if high < 10 else 0, 1 - math.floor(math.log10(half))))  # noqa: PLR2004


def ratio(found: Finding | Estimate) -> str:
    """A ratio, as exact as its interval is wide."""
    ends = (found.ratio, found.ratio) if found.low is None or found.high is None else (found.low, found.high)
    return f"{found.ratio:.{decimals(*ends)}f}"


def interval(low: float | None, high: float | None) -> str:
    """An interval of ratios."""
    if low is None or high is None:
        return render.UNKNOWN
    digits = decimals(low, high)
    return f"{low:.{digits}f} … {high:.{digits}f}"


def floor_text(floor: Floor | None) -> str:
    """What something against itself came out as, such as 1.002 ± 1.4 %."""
    return render.UNKNOWN if floor is None else f"{floor.ratio:.3f} ± {percent(floor.half_width)}"


def percent(part: float) -> str:
    """A part of 1 as per cent: two digits below 1 %, a decimal below 100 %."""
    if abs(part) >= 1:
        return f"{number(100 * part)} %"
    return f"{100 * part:.1f} %" if abs(part) >= 0.01 else f"{100 * part:.2g} %"  # noqa: PLR2004


def when(moment: str) -> str:
    """A time as far as a minute; what is none stays as it is."""
    try:
        told = datetime.fromisoformat(moment)
    except ValueError:
        return short(moment)
    return f"{told:%Y-%m-%d %H:%M}{' UTC' if told.utcoffset() == timedelta(0) else ''}"


def shown(value: Any) -> str:
    """A fact of a run card, which may be anything, in words."""
    if value is None:
        return render.UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return str(value)


def short(text: str, columns: int = 80) -> str:
    """The same with hashes cut, in one plain line; what is longer is cut in the middle."""
    if len(text) > _LONG:
        text = f"{text[: _LONG // 2]}…{text[-_LONG // 2 :]}"
    cut = _HASH.sub(lambda found: f"{found[0][:_SHOWN_OF_HASH]}…", text)
    return render.clipped(cut, columns, middle=True)
