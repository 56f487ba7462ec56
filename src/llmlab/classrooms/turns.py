"""Whose turn it is: more requests than slots wait, and learners are served in turn, not requests."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from llmlab.classrooms.refusals import Refusal

S = TypeVar("S")

Pick = Callable[[], "S | None"]
"""Takes a free slot; None if there is none yet. Raises `Refusal` if there will be none."""


class Waiter(Generic[S]):
    """A request that waits.

    Args:
        learner: Whose it is.
        pick: Takes a slot for it.
        number: Of its coming.
    """

    def __init__(self, learner: str, pick: Pick[S], number: int) -> None:
        self.number = number
        self.learner = learner
        self.pick = pick
        self.granted: asyncio.Future[S] = asyncio.get_running_loop().create_future()


class Turns(Generic[S]):
    """The queue of a room.

    Who has the fewest requests being answered is next; among those, whose last turn
    is the longest ago. So a learner with a hundred requests holds up nobody with one.

    Args:
        most: Most requests that may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[str, deque[Waiter[S]]] = {}
        self._answering: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        self._turn = self._came = 0

    def __len__(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._waiting.values()))

    def of(self, learner: str) -> tuple[int, int]:
        """How many requests of a learner are being answered, and how many wait."""
        return self._answering[learner], len(self._waiting.get(learner, ()))

    def join(self, learner: str, pick: Pick[S]) -> Waiter[S]:
        """Wait for a turn; `granted` of what is returned is the slot.

        Raises:
            Refusal: If too many wait already, or no slot will ever come.
        """
        self._came += 1
        waiter = Waiter(learner, pick, self._came)
        self._waiting.setdefault(learner, deque()).append(waiter)
        self.serve()
        if not waiter.granted.done() and len(self) > self._most:
            self.leave(waiter)
            raise Refusal(
                429,
                f"{self._most} requests wait already, which is the most that this room keeps; ask again soon",
                "queue_full",
                retry_after_s=5,
            )
        return waiter

    def leave(self, waiter: Waiter[S]) -> None:
        """Wait no more."""
        queue = self._waiting.get(waiter.learner)
        if queue and waiter in queue:
            queue.remove(waiter)
            if not queue:
                del self._waiting[waiter.learner]

    def ended(self, learner: str) -> None:
        """A request has been answered, and its slot given back."""
        self._answering[learner] -= 1
        if self._answering[learner] <= 0:
            del self._answering[learner]
        self.serve()

    def serve(self) -> None:
        """Give slots to those whose turn it is, until none is free for anybody."""
        # Who is given a slot changes nobody else's order: each learner is asked once, and once more per slot.
        order = [(self._order(name), name) for name in self._waiting]
        heapify(order)
        while order:
            _, learner = heappop(order)
            waiter = self._waiting[learner][0]
            try:
                slot = None if waiter.granted.done() else waiter.pick()
            except Refusal as refusal:
                self.leave(waiter)
                waiter.granted.set_exception(refusal)
            else:
                if slot is None:
                    continue
                self.leave(waiter)
                self._turn += 1
                self._last[learner] = self._turn
                self._answering[learner] += 1
                waiter.granted.set_result(slot)
            if learner in self._waiting:
                heappush(order, (self._order(learner), learner))

    def ahead(self, waiter: Waiter[S]) -> int:
        """How many requests will be served before this one, as things stand."""
        queue = self._waiting.get(waiter.learner)
        if not queue or waiter not in queue:
            return 0
        place, own = queue.index(waiter), self._order(waiter.learner)
        others: Iterable[tuple[str, deque[Waiter[S]]]] = (
            each for each in self._waiting.items() if each[0] != waiter.learner
        )
        return place + sum(min(len(each), place + (self._order(name) < own)) for name, each in others)

    def _order(self, learner: str) -> tuple[int, int, int]:
        """The smallest is next; of those who had no turn yet, whoever came first."""
        return self._answering[learner], self._last.get(learner, 0), self._waiting[learner][0].number
