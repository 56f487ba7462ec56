"""A class as discrete events: learners, the room's own turns and quotas, servers that answer in slots."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import simpy

from bench.service import Service
from bench.steps import Ask, Events, Job, Server
from llmlab.classrooms.ledger import Charge
from llmlab.classrooms.quotas import Meter, Quota
from llmlab.classrooms.refusals import Refusal
from llmlab.classrooms.servers import least_busy
from llmlab.classrooms.turns import Turns


@dataclass(frozen=True)
class Loss:
    """A server that is lost.

    Attributes:
        at_s: When.
        seen_s: Seconds until the room and those whom it answered notice.
        back_s: Seconds until it is there again; infinite: never.
        server: Which.
    """

    at_s: float
    seen_s: float = 10.0
    back_s: float = math.inf
    server: int = 0


@dataclass
class Outcome:
    """What has happened.

    Attributes:
        jobs: All requests in the order of their ends, but those of the beginning that are not counted.
        seconds: Until the last had ended.
        servers: Of each, seconds in which it worked, and slots × seconds that were taken, within the span.
        waiting_s: Requests × seconds in the queue, summed up as time went by, within the span.
        refused: How often somebody was told to come again, within the span.
        span_s: From `from_s` until nobody asked any more.
    """

    jobs: list[Job]
    seconds: float
    servers: list[tuple[float, float]]
    waiting_s: float
    refused: int
    span_s: float


class _Class:
    """The learners, the room and the servers."""

    def __init__(
        self, service: Service, servers: int, quota: Quota | None, *, fair: bool, overhead_s: float
    ) -> None:
        self.env = simpy.Environment()
        self.overhead_s = overhead_s
        self.servers = [
            Server(self.env, service, f"{number:03}", self._released) for number in range(servers)
        ]
        self.meter = Meter(quota, clock=lambda: self.env.now) if quota else None
        self.turns: Turns[Server] = Turns(quota.queue if quota else sys.maxsize)
        self.fair = fair
        self.jobs: list[Job] = []
        self.waiting_s = 0.0
        self.refused = 0
        self._free = servers * service.slots
        self._waiting, self._since, self._number = 0, 0.0, 0

    def ask(self, learner: int, plan: Iterable[Ask], until_s: float) -> Events:
        """Think, ask, read, and so on."""
        for ask in plan:
            if self.env.now + ask.think_s > until_s:
                return
            if ask.think_s:
                yield self.env.timeout(ask.think_s)
            job = Job(learner, ask, self.env.now, self.env.event())
            yield from self._until_answered(job)
            self.jobs.append(job)

    def _until_answered(self, job: Job) -> Events:
        while True:
            if self.overhead_s:
                yield self.env.timeout(self.overhead_s)
            if again_s := self._come(job):
                self.refused += 1
                yield self.env.timeout(again_s)
            elif (yield job.done):
                return
            else:
                job.lost += 1
                job.first, job.done = math.nan, self.env.event()

    def _come(self, job: Job) -> float | None:
        """Into the room; seconds after which to ask again if that is refused."""
        self._number += 1
        # The engine's own queue knows no learners: all are as one, whose requests are served as they come.
        name, request = str(job.learner) if self.fair else "all", f"{self._number}"
        job.came = self.env.now
        try:
            if self.meter:
                self.meter.reserve(str(job.learner), request, job.ask.tokens)
            self._queue(1)
            self.turns.join(name, lambda: self._pick(job))
        except Refusal as refusal:
            if self.meter and refusal.code == "queue_full":
                self.meter.forget(str(job.learner), request)
                self._queue(-1)
            return refusal.retry_after_s or 1.0
        # simpy gives no other way to act at once, before those who wait for the same event.
        assert job.done.callbacks is not None
        job.done.callbacks.append(lambda _: self._left(name, request, job))
        return None

    def _pick(self, job: Job) -> Server | None:
        server = least_busy(each for each in self.servers if each.up) if self._free else None
        if server:
            server.busy += 1
            self._free -= 1
            self._queue(-1)
            job.granted = self.env.now
            server.begin(job)
        return server

    def _released(self, server: Server, job: Job, *, answered: bool) -> None:
        server.busy -= 1
        self._free += server.up
        if answered:
            job.ended = self.env.now
        job.done.succeed(answered)

    def _left(self, name: str, request: str, job: Job) -> None:
        if self.meter:
            self.meter.add(
                Charge(
                    id=request,
                    learner=str(job.learner),
                    at=self.env.now,
                    model="",
                    server="",
                    prompt=int(job.ask.prompt),
                    completion=job.ask.tokens - max(job.left, 0),
                    outcome="answered" if job.done.value else "died",
                )
            )
        self.turns.ended(name)

    def _queue(self, change: int) -> None:
        self.waiting_s += self._waiting * (self.env.now - self._since)
        self._waiting, self._since = self._waiting + change, self.env.now

    def lose(self, loss: Loss) -> Events:
        """A server goes, and may come back."""
        server = self.servers[loss.server]
        yield self.env.timeout(loss.at_s)
        server.lose()
        yield self.env.timeout(loss.seen_s)
        self._free -= server.slots - server.busy
        server.give_up()
        if math.isfinite(loss.back_s):
            yield self.env.timeout(max(loss.back_s - loss.seen_s, 0.0))
            server.come_back()
            self._free += server.slots
            self.turns.serve()

    def seen(self) -> tuple[list[tuple[float, float]], float, int]:
        """What the servers have done so far, how much waiting there was, and how many refusals."""
        self._queue(0)
        return [(each.working_s, each.slots_s) for each in self.servers], self.waiting_s, self.refused


def simulate(
    plans: Sequence[Iterable[Ask]],
    service: Service,
    *,
    servers: int = 1,
    whose: Sequence[int] = (),
    quota: Quota | None = None,
    fair: bool = True,
    overhead_s: float = 0.0,
    losses: Sequence[Loss] = (),
    from_s: float = 0.0,
    until_s: float = math.inf,
) -> Outcome:
    """Let a class ask, and wait until all have been answered.

    Args:
        plans: What is asked, one question after the other in each.
        service: The servers' times; they are all alike.
        servers: How many there are.
        whose: The learner of each plan; (): each has a learner of its own.
        quota: What each learner may use; None: without limits.
        fair: Whether the room says whose turn it is; otherwise who comes first is served first.
        overhead_s: Seconds that the room adds to each request.
        losses: Servers that are lost.
        from_s: What was asked before is not counted.
        until_s: When the last may ask; infinite: when all is asked.
    """

    async def within_a_loop() -> Outcome:  # the room's turns are asyncio's futures
        room = _Class(service, servers, quota, fair=fair, overhead_s=overhead_s)
        for plan, learner in zip(plans, whose or range(len(plans)), strict=True):
            room.env.process(room.ask(learner, plan, until_s))
        for loss in losses:
            room.env.process(room.lose(loss))
        if from_s:
            room.env.run(until=from_s)
        before, waited_s, told = room.seen()
        if math.isfinite(until_s):
            room.env.run(until=until_s)
            after, waiting_s, refused = room.seen()
            room.env.run()
        else:
            room.env.run()
            after, waiting_s, refused = room.seen()
        ended = max((job.ended for job in room.jobs), default=0.0)
        return Outcome(
            jobs=[job for job in room.jobs if job.asked >= from_s],
            seconds=ended,
            servers=[(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, after, strict=True)],
            waiting_s=waiting_s - waited_s,
            refused=refused - told,
            span_s=min(until_s, ended) - from_s,
        )

    return asyncio.run(within_a_loop())
