"""Which series share a chart: the same metric of all servers, of all GPUs, of the machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmlab.telemetry.history import Key
from llmlab.telemetry.metrics import Metric

Group = Literal["servers", "gpus", "machine"]

# What says most, in the order in which it is looked at. The rest comes after it, where there is room.
_FIRST: dict[Group, tuple[str, ...]] = {
    "servers": ("generated", "cpu", "memory", "gpu_memory"),
    "gpus": ("utilisation", "memory", "power", "temperature"),
    "machine": ("cpu", "memory", "temperature"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart.

    Attributes:
        group: What its subjects are.
        title: What is measured.
        unit: Its unit.
        rows: The series in it, a colour each.
        first: Whether it is among those that say most.
    """

    group: Group
    title: str
    unit: str
    rows: tuple[Key, ...]
    first: bool


def group_of(subject: str) -> Group:
    """What a subject is: only a server's name has no space in it."""
    if " " not in subject:
        return "servers"
    return "gpus" if "gpu" in subject.split() else "machine"


def panels(known: Iterable[tuple[str, Metric]]) -> tuple[Panel, ...]:
    """The charts of some series: those of servers first, then of GPUs, then of the machine.

    Args:
        known: Each series' subject and metric.
    """
    found: dict[tuple[Group, str], list[tuple[str, Metric]]] = {}
    for subject, metric in known:
        found.setdefault((group_of(subject), metric.key), []).append((subject, metric))

    def place(item: tuple[Group, str]) -> tuple[int, int]:
        group, key = item
        first = _FIRST[group]
        return list(_FIRST).index(group), first.index(key) if key in first else len(first)

    return tuple(
        Panel(
            group=group,
            title=members[0][1].title,
            unit=members[0][1].unit,
            rows=tuple((subject, metric.key) for subject, metric in members),
            first=key in _FIRST[group],
        )
        for (group, key), members in sorted(found.items(), key=lambda item: place(item[0]))
    )
