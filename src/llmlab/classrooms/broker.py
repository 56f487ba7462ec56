"""Approved models, started for a learner who asks: learners never hold the container engine's socket."""

from __future__ import annotations

import asyncio
import hashlib
import re
from contextlib import suppress

from llmlab.classrooms.refusals import Refusal
from llmlab.classrooms.servers import Pool
from llmlab.errors import LabError, UnknownNameError
from llmlab.lab import Server, registry, start

_SLOTS, _GRACE_S = 2, 2.0


class Broker:
    """Starts, for each learner, at most one server of a model that the teacher approved.

    It runs sealed in a container, with the limits that its model needs, and ends with the room.

    Args:
        approved: References of models, as for `start`.
        pool: Where the servers are taken in.
    """

    def __init__(self, approved: tuple[str, ...], pool: Pool) -> None:
        self.approved = approved
        self._pool = pool
        self._servers: dict[str, str | None] = {}
        self._starting: set[asyncio.Future[Server]] = set()

    def of(self, learner: str) -> str | None:
        """The name of a learner's own server, if there is one."""
        return self._servers.get(learner)

    async def start(self, learner: str, model: str) -> dict[str, str]:
        """Start a model for a learner.

        Raises:
            Refusal: If it is not approved, the learner has one, or it does not come up.
        """
        if model not in self.approved:
            listed = ", ".join(self.approved) or "none"
            raise Refusal(
                403, f"{model[:80]!r} is not approved to be started; approved: {listed}", "model_not_approved"
            )
        if learner in self._servers:
            raise Refusal(409, "you have a server of your own already; end it first", "has_server")
        self._servers[learner] = None
        starting = asyncio.ensure_future(asyncio.to_thread(_started, model, server_name(learner)))
        self._starting.add(starting)
        starting.add_done_callback(lambda done: self._came(learner, done))
        try:
            # It goes on even if the learner does not wait for it: nobody could take it back half done.
            server = await asyncio.shield(starting)
        except LabError as error:
            raise Refusal(503, f"{model} did not start: {error.message}", "start_failed") from None
        return {"server": server.name, "model": server.record.spec.model.name}

    async def stop(self, learner: str) -> bool:
        """End a learner's own server; whether there was one.

        Raises:
            Refusal: If it cannot be ended now.
        """
        name = self._servers.get(learner)
        if name is None:
            return False
        self._pool.disown(name)
        try:
            await asyncio.to_thread(_stop, name)
        except LabError as error:
            raise Refusal(503, f"your server was not ended: {error.message}", "stop_failed") from None
        self._servers.pop(learner, None)
        return True

    async def close(self) -> None:
        """End them all, also those that are just being started."""
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*map(self.stop, list(self._servers)), return_exceptions=True)

    def _came(self, learner: str, done: asyncio.Future[Server]) -> None:
        self._starting.discard(done)
        if done.cancelled() or done.exception():
            self._servers.pop(learner, None)
            return
        self._servers[learner] = done.result().name
        self._pool.own(done.result().record, learner)


def server_name(learner: str) -> str:
    """What a learner's own server is called."""
    plain = re.sub(r"[^a-z0-9]+", "-", learner.lower()).strip("-")[:20]
    if plain == learner:
        return f"room-{plain}"
    return f"room-{plain or 'learner'}-{hashlib.sha256(learner.encode()).hexdigest()[:6]}"


def _started(model: str, name: str) -> Server:
    return start(model, backend="container", profile="sealed", name=name, slots=_SLOTS)


def _stop(name: str) -> None:
    with suppress(UnknownNameError):  # it has been stopped already
        registry.stop(registry.select(name), grace_s=_GRACE_S)
