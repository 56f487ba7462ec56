"""The servers that run, as a panel shows them: all that does not change by itself from second to second."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from llmlab.lab import registry
from llmlab.results import ServerStatus, State
from llmlab.specs import Record

# A classroom is asked over the network, by the panel of each learner in it.
_ROOM_S = 10.0
_rooms: dict[tuple[str, float], tuple[float, ServerStatus]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One server.

    Attributes:
        name: Its name.
        model: Short name of its model.
        reference: What names the model in `start`.
        engine: The program that serves it.
        backend: "native", "container", or "room" for a classroom that was joined.
        state: See `llmlab.results.State`.
        detail: More on the state: when and why it ended, what lets it go on.
        remedy: What to do about it, "" for nothing.
        isolation: The profile's name, or that it is not isolated.
        endpoint: How it is reached.
        context: Tokens of context for each slot.
        slots: Requests answered at the same time.
        created: When it was started, or joined, in seconds since the epoch.
        memory_mib: Memory limit of its container; None without one.
        cpus: CPU limit of its container; None without one.
        notes: What to know about how it was started.
    """

    name: str
    model: str
    reference: str
    engine: str
    backend: str
    state: State
    detail: str
    remedy: str
    isolation: str
    endpoint: str
    context: int
    slots: int
    created: float
    memory_mib: int | None
    cpus: float | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The server as plain JSON data."""
        return {**asdict(self), "notes": list(self.notes)}


def running() -> tuple[Running, ...]:
    """All servers of this user, newest first, whoever started them.

    Raises:
        LabError: If a container engine answers and refuses.
    """
    return tuple(_running(record) for record in registry.find_all())


def _status(record: Record) -> ServerStatus:
    """How a server fares; of a classroom, as it was some seconds ago."""
    if not record.endpoint.url:
        return registry.status(record)
    key, now = (record.name, record.created), time.monotonic()
    if key not in _rooms or now - _rooms[key][0] > _ROOM_S:
        _rooms[key] = (now, registry.status(record))
    return _rooms[key][1]


def _running(record: Record) -> Running:
    status = _status(record)
    limits = record.limits
    return Running(
        name=status.name,
        model=status.model,
        reference=record.spec.model.reference,
        engine=status.engine,
        backend=status.backend,
        state=status.state,
        detail=status.detail,
        remedy=status.remedy,
        isolation=status.isolation,
        endpoint=status.endpoint,
        context=status.context,
        slots=status.slots,
        created=record.created,
        memory_mib=limits.memory_mib if limits else None,
        cpus=limits.cpus if limits else None,
        notes=record.notes,
    )
