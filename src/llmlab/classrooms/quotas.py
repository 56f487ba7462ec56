"""What a learner may use: requests and tokens within a time, and requests at a time."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from llmlab.classrooms.ledger import BY_THE_ROOM, Charge
from llmlab.classrooms.refusals import Refusal
from llmlab.errors import UsageError
from llmlab.render import duration_text

_AGAIN_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What each learner of a room may use. None: as much as there is.

    Attributes:
        requests: Requests within the window.
        tokens: Tokens of prompts and answers within the window.
        window_s: Length of the window that slides along with the clock, seconds.
        concurrent: Requests that are answered or waiting at a time.
        max_tokens: Most tokens of one answer.
        queue: Requests of all learners that may wait.
    """

    requests: int | None = None
    tokens: int | None = None
    window_s: float = 3600.0
    concurrent: int = 2
    max_tokens: int = 1024
    queue: int = 100

    def __post_init__(self) -> None:
        """Refuse what no request could meet.

        Raises:
            UsageError: If a number is too small.
        """
        for name in ("requests", "tokens", "window_s", "concurrent", "max_tokens", "queue"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                option = name.removesuffix("_s").replace("_", "-")
                raise UsageError(f"--{option} is {value:g}", hint="it must be more than 0")


class Meter:
    """What each learner has used within the window.

    Args:
        quota: What each may use.
        charges: What was used before.
        clock: Tells seconds since the epoch.
    """

    def __init__(
        self, quota: Quota, charges: Iterable[Charge] = (), *, clock: Callable[[], float] = time.time
    ) -> None:
        self._quota = quota
        self._clock = clock
        self._charges: defaultdict[str, deque[Charge]] = defaultdict(deque)
        self._reserved: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for charge in sorted(charges, key=lambda each: each.at):
            self._charges[charge.learner].append(charge)

    def add(self, charge: Charge) -> None:
        """Charge what a request took; nothing is reserved for it any more."""
        self._reserved[charge.learner].pop(charge.id, None)
        self._charges[charge.learner].append(charge)

    def forget(self, learner: str, request: str) -> None:
        """A request was not served."""
        self._reserved[learner].pop(request, None)

    def under_way(self, learner: str) -> int:
        """How many requests are answered or waiting."""
        return len(self._reserved[learner])

    def used(self, learner: str) -> tuple[int, int]:
        """Requests and tokens within the window.

        What a server or the room cut off is no request of the learner's; its tokens count,
        since they came. A repetition of a request that was cut off takes its place: it counts as one, with the
        tokens of the longer of the two.
        """
        tokens: dict[str, int] = {}
        taken = set()
        for charge in self._kept(learner):
            name = charge.retried or charge.id
            tokens[name] = max(tokens.get(name, 0), charge.tokens)
            if charge.outcome not in BY_THE_ROOM:
                taken.add(name)
        return len(taken), sum(tokens.values())

    def reserve(self, learner: str, request: str, wanted: int, *, repeats: str = "") -> int:
        """Let a request in; returns how many tokens it may generate.

        Args:
            learner: Whose it is.
            request: Its id.
            wanted: Tokens that it asks for.
            repeats: The `retried` of its charge.

        Raises:
            Refusal: If the learner has used up a quota, or has too many requests under way.
        """
        quota, held = self._quota, self._reserved[learner]
        if len(held) >= quota.concurrent:
            raise Refusal(
                429,
                f"you have {len(held)} requests under way, and {quota.concurrent} at a time are allowed; "
                "wait until one has been answered",
                "concurrent_requests",
                retry_after_s=1,
            )
        requests, tokens = self.used(learner)
        again = any(charge.retried == repeats for charge in self._kept(learner)) if repeats else False
        if quota.requests is not None and not again and requests + len(held) >= quota.requests:
            raise self._spent(learner, f"{requests + len(held)} of {quota.requests} requests", "requests")
        may = min(wanted, quota.max_tokens)
        if quota.tokens is not None:
            left = quota.tokens - tokens - sum(held.values())
            if left <= 0:
                raise self._spent(learner, f"{quota.tokens - left} of {quota.tokens} tokens", "tokens")
            may = min(may, left)
        held[request] = may
        return may

    def free_in_s(self, learner: str) -> float | None:
        """When the oldest of what was used counts no longer, in seconds; None if nothing was used."""
        kept = self._kept(learner)
        return kept[0].at + self._quota.window_s - self._clock() if kept else None

    def _spent(self, learner: str, what: str, code: str) -> Refusal:
        free = self.free_in_s(learner)
        wait = _AGAIN_S if free is None else free
        window = duration_text(self._quota.window_s)
        return Refusal(
            429,
            f"you have used {what} within {window}, or they are set aside for requests under way; "
            f"some are free again in {duration_text(max(wait, 1))}",
            f"{code}_quota",
            retry_after_s=max(wait, 1),
        )

    def _kept(self, learner: str) -> deque[Charge]:
        kept = self._charges[learner]
        oldest = self._clock() - self._quota.window_s
        while kept and kept[0].at <= oldest:
            kept.popleft()
        return kept
