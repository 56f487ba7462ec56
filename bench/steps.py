"""A server as discrete events: it works in steps as llama-server does.

Each step reads the prompts that have come, up to a batch, and gives every request that is being
answered a token. Between two changes all steps take the same time, so that many are one event.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from bench.service import Service

Events = Generator[simpy.Event, Any, None]
_EARLY = 1e-9  # of a step: what is so near to its end has ended


@dataclass(frozen=True)
class Ask:
    """A question that a learner is going to ask.

    Attributes:
        think_s: After the answer before it.
        prompt: Tokens of the prompt.
        tokens: Tokens of the answer.
    """

    think_s: float
    prompt: float
    tokens: int


@dataclass(slots=True)
class Job:
    """A request under way. Times are those of the simulation; NaN: not yet.

    Attributes:
        learner: Who asks.
        ask: What.
        asked: When first.
        done: Fires with whether it was answered.
        came: When it came to the room.
        granted: When it got a slot.
        first: When its first token came.
        ended: When its last token came.
        unread: Tokens of the prompt to be read.
        left: Tokens to be generated.
        lost: How often its server was lost.
    """

    learner: int
    ask: Ask
    asked: float
    done: simpy.Event
    came: float = math.nan
    granted: float = math.nan
    first: float = math.nan
    ended: float = math.nan
    unread: float = 0.0
    left: int = 0
    lost: int = 0


@dataclass
class Server:
    """A server: its slots, and the requests in them.

    Attributes:
        env: The simulation.
        service: Its times.
        name: Its name.
        released: Called with a request that has left its slot, and whether it was answered.
        owner: None: it is everybody's.
        busy: Requests that have a slot.
        up: Whether it is given requests.
        working_s: Seconds in which it did anything.
        slots_s: Slots × seconds that were taken.
    """

    env: simpy.Environment
    service: Service
    name: str
    released: Callable[..., None]
    owner: str | None = None
    busy: int = 0
    up: bool = True
    working_s: float = 0.0
    slots_s: float = 0.0
    _reading: deque[Job] = field(default_factory=deque)
    _writing: list[Job] = field(default_factory=list)
    _changed: simpy.Event = field(init=False)
    _dead: bool = False

    def __post_init__(self) -> None:
        """Begin to work."""
        self._changed = self.env.event()
        self.env.process(self._work())

    @property
    def slots(self) -> int:
        """How many requests it answers at a time."""
        return self.service.slots

    def begin(self, job: Job) -> None:
        """Put a request into a slot, which `busy` already counts."""
        job.unread, job.left = job.ask.prompt, job.ask.tokens
        self._reading.append(job)
        self._tell()

    def lose(self) -> None:
        """Do nothing any more."""
        self._dead = True
        self._tell()

    def give_up(self) -> None:
        """Tell all who wait for a lost server."""
        self.up = False
        for job in (*self._reading, *self._writing):
            self.released(self, job, answered=False)
        self._reading.clear()
        self._writing.clear()

    def come_back(self) -> None:
        """Work again."""
        self._dead, self.up = False, True
        self._tell()

    def _tell(self) -> None:
        if not self._changed.triggered:
            self._changed.succeed()

    def _work(self) -> Events:
        while True:
            if self._dead or not (self._reading or self._writing):
                self._changed = self.env.event()
                yield self._changed
                continue
            yield from self._read() if self._reading else self._write()
            # A slot that was given back is given away before the next step begins.
            yield self.env.timeout(0)

    def _read(self) -> Events:
        """One step with prompts in it."""
        room, finished = float(self.service.batch), []
        amount = 0.0
        while self._reading and room > 0:
            job = self._reading[0]
            part = min(job.unread, room)
            job.unread -= part
            amount += part
            room -= part
            if job.unread > 0:
                break
            finished.append(self._reading.popleft())
        others = list(self._writing)
        self._writing.extend(finished)
        seconds = (
            self.service.reading_s
            + amount * self.service.prompt_token_s
            + (self.service.step(len(others)) if others else 0.0)
        )
        yield from self._spend(seconds)
        if not self._dead:
            self._hand_out(1)

    def _write(self) -> Events:
        """As many steps as go by until something changes."""
        step, most = self.service.step(len(self._writing)), min(job.left for job in self._writing)
        began = self.env.now
        self._changed = self.env.event()
        yield self.env.timeout(most * step) | self._changed
        passed = self.env.now - began
        steps = min(most, math.ceil(passed / step - _EARLY)) if step else most
        self._count(passed)
        if not self._dead:
            yield from self._spend(max(steps * step - passed, 0.0))
        if not self._dead:
            self._hand_out(steps)

    def _spend(self, seconds: float) -> Events:
        if seconds > 0:
            yield self.env.timeout(seconds)
            self._count(seconds)

    def _count(self, seconds: float) -> None:
        self.working_s += seconds
        self.slots_s += seconds * (len(self._writing) + len(self._reading))

    def _hand_out(self, steps: int) -> None:
        """Tokens for all who are being answered."""
        for job in list(self._writing):
            if math.isnan(job.first):
                job.first = self.env.now
            job.left -= steps
            if job.left <= 0:
                self._writing.remove(job)
                self.released(self, job, answered=True)
