"""An open room: who is in it, what goes on, what was used."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from llmlab.classrooms.broker import Broker
from llmlab.classrooms.identity import Identity, Who
from llmlab.classrooms.ledger import Charge, Ledger
from llmlab.classrooms.progress import Handed
from llmlab.classrooms.quotas import Meter, Quota
from llmlab.classrooms.refusals import Refusal
from llmlab.classrooms.servers import Pool, Upstream
from llmlab.classrooms.turns import Turns

CLOSING = Refusal(503, "the room is closing", "room_closing")


@dataclass(eq=False, slots=True, kw_only=True)
class Active:
    """A request under way.

    Attributes:
        id: Its own.
        who: The learner.
        began: When, `time.monotonic()`.
        work: What answers it.
        refusal: Why it was ended, if it was.
    """

    id: str
    who: Who
    began: float = field(default_factory=time.monotonic)
    work: asyncio.Task[None] | None = None
    refusal: Refusal | None = None

    def end(self, refusal: Refusal | None) -> None:
        """End it; None if there is nobody to tell why."""
        self.refusal = self.refusal or refusal
        if self.work:
            self.work.cancel()


class Room:
    """What all requests share.

    Args:
        identity: Tells whose a key is.
        quota: What each learner may use.
        pool: The servers.
        ledger: The charges.
        broker: Starts approved models.
        handed: The learners' progress, as far as they send it.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        quota: Quota,
        pool: Pool,
        ledger: Ledger,
        broker: Broker,
        handed: Handed,
    ) -> None:
        self.identity = identity
        self.quota = quota
        self.pool = pool
        self.ledger = ledger
        self.broker = broker
        self.handed = handed
        self.turns: Turns[Upstream] = Turns(quota.queue)
        self.active: set[Active] = set()
        self.closing = False
        charges = ledger.open()
        self.meter = Meter(quota, charges)
        self._names = {charge.learner for charge in charges}
        self._refused: Counter[str] = Counter()
        self._seen: dict[str, float] = {}

    async def who(self, authorization: str, *, works: bool = True) -> Who:
        """Whose request it is.

        Args:
            authorization: The header of that name.
            works: Whether it shows that the learner is at work; a control panel that looks
                every few seconds does not.

        Raises:
            Refusal: If nobody's who is let in.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refusal(401, "this room asks for a key: Authorization: Bearer KEY", "missing_api_key")
        found = await self.identity.identify(token.strip())
        now = time.time()
        self._seen[found.name] = now if works else self._seen.get(found.name, now)
        return found

    def charge(self, charge: Charge) -> None:
        """A request is over."""
        self._names.add(charge.learner)
        self.meter.add(charge)

    def refused(self, who: Who) -> None:
        """A request was not served."""
        self._refused[who.name] += 1

    async def watch(self) -> None:
        """End what goes on for somebody who is no longer let in."""
        for active in list(self.active):
            if refusal := await self._no_longer(active.who):
                active.end(refusal)

    async def _no_longer(self, who: Who) -> Refusal | None:
        """Why somebody is no longer let in; None if that is not so."""
        try:
            await self.identity.identify(who.token)
        except Refusal as refusal:
            # A hub that is silent has revoked nothing.
            return refusal if refusal.status < 500 else None  # noqa: PLR2004 - HTTP's
        return None

    async def refresh(self) -> None:
        """Look which servers are there; who waits for one that is gone is told."""
        await self.pool.refresh()
        self.turns.serve()

    async def close(self, grace_s: float) -> None:
        """Let no more in, wait for those under way, end the rest, stop what was started for learners."""
        self.closing = True
        if works := [active.work for active in self.active if active.work]:
            _, left = await asyncio.wait(works, timeout=grace_s)
            for active in list(self.active):
                active.end(CLOSING)
            if left:
                await asyncio.wait(left)
        await self.broker.close()

    def standing(self, who: Who) -> dict[str, Any]:
        """What a learner may know: what was used, what is allowed."""
        requests, tokens = self.meter.used(who.name)
        answering, waiting = self.turns.of(who.name)
        quota = self.quota
        return {
            "learner": who.name,
            "requests": {"used": requests, "allowed": quota.requests},
            "tokens": {"used": tokens, "allowed": quota.tokens},
            "window_s": quota.window_s,
            "free_in_s": self.meter.free_in_s(who.name),
            "concurrent": {"answering": answering, "waiting": waiting, "allowed": quota.concurrent},
            "max_tokens": quota.max_tokens,
            "models": self.pool.models(who.name),
            "approved": list(self.broker.approved),
            "own_server": self.broker.of(who.name),
        }

    def board(self) -> dict[str, Any]:
        """What the teacher sees."""
        names = {*self.identity.names(), *self._names, *self._seen, *self.handed.names()}
        learners = []
        for name in sorted(names):
            requests, tokens = self.meter.used(name)
            answering, waiting = self.turns.of(name)
            learners.append(
                {
                    "name": name,
                    "answering": answering,
                    "waiting": waiting,
                    "requests": requests,
                    "tokens": tokens,
                    "refused": self._refused[name],
                    "seen": self._seen.get(name),
                    "own_server": self.broker.of(name),
                }
            )
        servers = [
            {
                "name": each.name,
                "model": each.model,
                "state": each.state,
                "busy": each.busy,
                "slots": each.slots,
                "owner": each.owner,
            }
            for each in self.pool
        ]
        return {
            "learners": learners,
            "servers": servers,
            "waiting": len(self.turns),
            "allowed": {"requests": self.quota.requests, "tokens": self.quota.tokens},
            "window_s": self.quota.window_s,
        }
