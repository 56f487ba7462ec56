"""The servers behind a room: which of them has a model, a free slot, and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from llmlab import engines
from llmlab.classrooms.refusals import Refusal
from llmlab.errors import LabError, UnknownNameError
from llmlab.lab import Server, registry
from llmlab.specs import Model, Record, ServeSpec

State = Literal["ready", "down", "draining"]
PATIENCE_S = 300.0
_MISSES = 2  # looks in a row that a server may not answer


@dataclass(slots=True, kw_only=True)
class Upstream:
    """A server behind the room.

    Attributes:
        record: What was written down when it was started.
        client: An `httpx.AsyncClient` over llmlab's own connections.
        owner: The learner whose server it is; None if it is everybody's.
        state: Whether it is given requests.
        busy: Requests that it answers for the room.
        misses: Looks in a row at which it did not answer.
    """

    record: Record
    client: Any
    owner: str | None = None
    state: State = "ready"
    busy: int = 0
    misses: int = 0

    @property
    def name(self) -> str:
        """The server's name."""
        return self.record.name

    @property
    def model(self) -> str:
        """Its model's name."""
        return self.record.spec.model.name

    @property
    def slots(self) -> int:
        """How many requests it answers at a time."""
        return self.record.spec.slots


class Busy(Protocol):
    """What is known of a server when one is chosen."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def owner(self) -> str | None:
        """The learner whose server it is; None if it is everybody's."""

    @property
    def busy(self) -> int:
        """Requests that it answers."""

    @property
    def slots(self) -> int:
        """How many it answers at a time."""


B = TypeVar("B", bound=Busy)


def least_busy(servers: Iterable[B]) -> B | None:
    """The server with the smallest share of its slots taken; None while all are."""
    free = [each for each in servers if each.busy < each.slots]
    # A learner's own server first: nobody else can use it.
    return min(free, key=lambda each: (each.owner is None, each.busy / each.slots, each.name), default=None)


class Pool:
    """The servers of a room.

    Args:
        names: Those that were named; None for all of the teacher's, also later ones.
    """

    def __init__(self, names: tuple[str, ...] | None) -> None:
        self._names = names
        self._owners: dict[str, str] = {}
        self._all: dict[str, Upstream] = {}

    def __iter__(self) -> Any:
        """The servers, by name."""
        return iter(sorted(self._all.values(), key=lambda each: each.name))

    async def refresh(self) -> None:
        """Look which servers are there, and which of them answer."""
        looked = await asyncio.to_thread(_look)
        if looked is None:  # the container engine does not say: what was true stays
            return
        found = {
            record.name: (record, healthy)
            for record, healthy in looked
            if self._names is None or record.name in self._names or record.name in self._owners
        }
        for name in [each for each in self._all if each not in found]:
            await self._remove(name)
        for name, (record, healthy) in found.items():
            known = self._all.get(name)
            if known and known.record.created != record.created:
                await self._remove(name)
                known = None
            if known is None and healthy:
                self._add(record)
            elif known:
                known.misses = 0 if healthy else known.misses + 1
                if known.state != "draining":
                    known.state = (
                        "down"
                        if known.misses >= _MISSES or (not healthy and known.state == "down")
                        else "ready"
                    )

    def own(self, record: Record, learner: str) -> None:
        """Take in a server that was started for one learner."""
        self._owners[record.name] = learner
        self._add(record)

    def disown(self, name: str) -> None:
        """Such a server is about to be stopped."""
        self._owners.pop(name, None)
        self._all.pop(name, None)

    def drain(self, name: str) -> None:
        """Give a server no more requests; those that it has go on.

        Raises:
            UnknownNameError: If it is none of the room's.
        """
        if name not in self._all:
            raise UnknownNameError("server in the room", name, self._all)
        self._all[name].state = "draining"

    def models(self, learner: str) -> list[str]:
        """The models that a learner may ask."""
        return sorted({each.model for each in self._of(learner)})

    def served(self, learner: str) -> list[ServeSpec]:
        """How each of these is served, without where its files lie.

        Of several servers with one model: the smallest context, and the slots of all.
        """
        found: dict[str, ServeSpec] = {}
        for each in self._of(learner):
            spec, known = each.record.spec, found.get(each.model)
            if known:
                context, slots = min(known.context, spec.context), known.slots + spec.slots
                found[each.model] = replace(known, context=context, slots=slots)
            else:
                found[each.model] = replace(spec, model=_without_files(spec.model))
        return [found[name] for name in sorted(found)]

    def take(self, model: str, learner: str, without: Iterable[str] = ()) -> Upstream | None:
        """A slot of the least busy server that has the model; None while all are taken.

        Raises:
            Refusal: If no server has it, or none of these answers.
        """
        having = [each for each in self._of(learner) if each.model == model]
        if not having:
            raise Refusal(
                403,
                f"model {model[:80]!r} is not approved in this room; there are: "
                f"{', '.join(self.models(learner)) or 'none yet'}",
                "model_not_approved",
            )
        skipped = set(without)
        able = [each for each in having if each.state == "ready" and each.name not in skipped]
        if not able:
            raise Refusal(
                503, f"no server with {model!r} answers now; ask again soon", "no_server", retry_after_s=5
            )
        if chosen := least_busy(able):
            chosen.busy += 1
        return chosen

    def give_back(self, upstream: Upstream) -> None:
        """A request has ended."""
        upstream.busy -= 1

    def missed(self, upstream: Upstream) -> None:
        """It did not answer a request: no more of them until it is seen to be well."""
        upstream.misses = _MISSES
        if upstream.state == "ready":
            upstream.state = "down"

    def _of(self, learner: str) -> list[Upstream]:
        return [each for each in self._all.values() if each.owner in {None, learner}]

    def _add(self, record: Record) -> None:
        client = Server(record).async_http_client(library="httpx", timeout_s=PATIENCE_S)
        owner = self._owners.get(record.name)
        self._all[record.name] = Upstream(record=record, client=client, owner=owner)

    async def _remove(self, name: str) -> None:
        # Requests under way hold its client, and see for themselves that it is gone.
        self._all.pop(name)


def _without_files(model: Model) -> Model:
    """A model as others may know it: where its files lie is the teacher's business."""
    reference = model.reference
    if not reference.startswith(("hf:", "ollama:")):  # these are the same everywhere
        scheme = "synthetic:" if reference.startswith("synthetic:") else ""
        reference = scheme + Path(reference.removeprefix(scheme)).name
    return replace(model, reference=reference, path=Path(model.path.name), files=())


def _look() -> list[tuple[Record, bool]] | None:
    """All servers of the user, and whether each answers; not those of rooms, which would go round in circles."""
    try:
        return [(record, _healthy(record)) for record in registry.find_all() if not record.endpoint.url]
    except LabError:
        return None


def _healthy(record: Record) -> bool:
    try:
        return registry.client(record).healthy(path=engines.engine(record.spec.engine).HEALTH_PATH)
    except LabError:
        return False
