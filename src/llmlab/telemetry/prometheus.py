"""Series for those who have a dashboard: Prometheus' text format, version 0.0.4."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llmlab.telemetry.history import Series

_NO_NAME = re.compile(r"[^a-zA-Z0-9_]")


def text(series: Iterable[Series]) -> str:
    """The newest value of each series that is known; one that is unknown now is left out.

    Args:
        series: The series.
    """
    lines: dict[str, list[str]] = {}
    for each in series:
        if each.last is None:
            continue
        name = f"llmlab_{_NO_NAME.sub('_', each.metric.key)}"
        head = [f"# HELP {name} {_help(each.metric.method)}", f"# TYPE {name} gauge"]
        labels = f'of="{_label(each.subject)}",unit="{_label(each.metric.unit)}"'
        lines.setdefault(name, head).append(f"{name}{{{labels}}} {each.last!r}")
    return "".join(f"{line}\n" for group in lines.values() for line in group)


def _help(method: str) -> str:
    return " ".join(method.split()).replace("\\", "\\\\")


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
