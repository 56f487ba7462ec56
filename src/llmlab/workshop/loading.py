"""Several learners at one server, at the same time: what each of them waits for, and what all get.

    from llmlab.workshop import loading
    seen = loading.load("shared", learners=(1, 2, 4, 8))

Each learner is a thread that sends one request after the other over a connection
of its own, and sends the next one as soon as the last is answered.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

from llmlab import lab
from llmlab.client import Cancel
from llmlab.errors import LabError, UsageError
from llmlab.lab import ledger, registry, replicas
from llmlab.reporting import reporter
from llmlab.results import Answer
from llmlab.telemetry.engine import parse
from llmlab.workshop.loads import Level, Load

__all__ = ["Level", "Load", "load"]

_MOST_LEARNERS, _MOST_REQUESTS, _MOST_TOKENS = 256, 10_000, 4096


def load(
    server: Any,
    *,
    learners: Sequence[int] = (1, 2, 4, 8),
    requests: int = 12,
    tokens: int = 32,
    limit: float = 3.0,
) -> Load:
    """Let more and more learners ask a server at once, and measure each level.

    A first request, which finds everything cold, is not counted. No two requests begin
    with the same words, so that none is answered from another's prompt cache.

    Args:
        server: The server's name, or its handle.
        learners: How many ask at once, a level each, from few to many.
        requests: How many requests there are at each level, together; at least one for each learner.
        tokens: Longest answer. Random weights never end by themselves: they write so many.
        limit: How many times the p95 of the first level is still acceptable; drawn as a line.

    Raises:
        UsageError: There is no such server, or a number is out of range.
        ServerError: It does not answer.
    """
    levels = _checked(learners, requests, tokens, limit)
    handle = lab.attach(getattr(server, "name", server))
    registry.require_here(handle.record, "a load")
    report = reporter()
    report.begin(f"load {handle.name}", [_stage(count) for count in levels])
    failed = True
    try:
        _ask(handle, "Are you awake?", tokens, Cancel())
        found = []
        for number, count in enumerate(levels):
            report.stage(_stage(count))
            each = -(-requests // count)
            found.append(_level(handle, count, each, tokens, mark=number))
        failed = False
    finally:
        report.end(failed=failed)
    spec = handle.record.spec
    return Load(
        server=handle.name,
        model=spec.model.reference,
        slots=spec.slots * (len(handle.record.replicas) or 1),
        context=spec.context,
        tokens=tokens,
        limit=limit,
        levels=tuple(found),
    )


class _Learner(threading.Thread):
    """Asks one question after the other."""

    def __init__(
        self, server: lab.Server, prompts: Sequence[str], tokens: int, start: threading.Event
    ) -> None:
        super().__init__(name=f"llmlab learner {prompts[0][:12]}", daemon=True)
        self._server, self._prompts, self._tokens, self._begin = server, prompts, tokens, start
        self.cancel = Cancel()
        self.answers: list[Answer] = []
        self.problem: LabError | None = None

    def run(self) -> None:
        self._begin.wait()
        try:
            for prompt in self._prompts:
                if self.cancel.wanted:
                    return
                self.answers.append(_ask(self._server, prompt, self._tokens, self.cancel))
        except LabError as error:
            self.problem = error


def _ask(server: lab.Server, prompt: str, tokens: int, cancel: Cancel) -> Answer:
    request = server.request(prompt, max_tokens=tokens, temperature=0.0)
    # What an answer takes beside others says nothing about how well rates are predicted for one.
    with ledger.paused():
        return server.send(request, lambda _: None, cancel)


def _level(server: lab.Server, count: int, each: int, tokens: int, *, mark: int) -> Level:
    """So many learners, each with so many requests."""
    start = threading.Event()
    prompts = [
        [f"{mark}.{learner}.{number}: what is a container good for, and what not?" for number in range(each)]
        for learner in range(count)
    ]
    crowd = [_Learner(server, own, tokens, start) for own in prompts]
    for learner in crowd:
        learner.start()
    before, began = _passes(server), time.perf_counter()
    start.set()
    try:
        for learner in crowd:
            learner.join()
    except BaseException:
        # Ctrl-C: nobody goes on asking behind the learner's back.
        for learner in crowd:
            learner.cancel.set()
        raise
    seconds = time.perf_counter() - began
    after = _passes(server)
    if problem := next((learner.problem for learner in crowd if learner.problem), None):
        raise problem
    together = None
    if before and after and after[0] > before[0]:
        together = (after[1] - before[1]) / (after[0] - before[0])
    return _summed(count, [answer for learner in crowd for answer in learner.answers], seconds, together)


def _passes(server: lab.Server) -> tuple[float, float] | None:
    """The engine's own count: passes through the model so far, and requests in them; None if it does not tell."""
    passes = inside = 0.0
    try:
        # A gateway passes the question on to one replica, and the next time to another.
        for record in replicas.of(server.record) or (server.record,):
            counters = parse(registry.client(record).get_text("/metrics"))
            passes += counters["n_decode_total"]
            inside += counters["n_decode_total"] * counters["n_busy_slots_per_decode"]
    except (LabError, KeyError):
        return None
    return passes, inside


def _summed(count: int, answers: Sequence[Answer], seconds: float, together: float | None) -> Level:
    known = [answer.completion_tokens for answer in answers if answer.completion_tokens is not None]
    total = sum(known) if len(known) == len(answers) else None
    whole = sorted(answer.total_s for answer in answers)
    first = sorted(answer.ttft_s for answer in answers if answer.ttft_s is not None)
    rates = sorted(answer.tokens_per_s for answer in answers if answer.tokens_per_s is not None)
    return Level(
        learners=count,
        requests=len(answers),
        seconds=seconds,
        requests_per_s=len(answers) / seconds,
        tokens_per_s=None if total is None else total / seconds,
        each_tokens_per_s=_percentile(rates, 50),
        ttft_p50_s=_percentile(first, 50),
        ttft_p95_s=_percentile(first, 95),
        mean_s=math.fsum(whole) / len(whole),
        p50_s=_percentile(whole, 50),
        p95_s=_percentile(whole, 95),
        together=together,
    )


def _percentile(values: Sequence[float], percent: int) -> float | None:
    """The nearest rank of values in ascending order: the smallest that so many percent do not exceed."""
    return values[math.ceil(percent / 100 * len(values)) - 1] if values else None


def _stage(count: int) -> str:
    return f"{count} at once"


def _checked(learners: Any, requests: Any, tokens: Any, limit: Any) -> list[int]:
    try:
        levels = [int(count) for count in learners]
    except (TypeError, ValueError):
        levels = []
    if not levels or levels != sorted(set(levels)) or not 1 <= levels[0] <= levels[-1] <= _MOST_LEARNERS:
        raise UsageError(
            f"learners is {learners!r}",
            hint=f"several numbers from 1 to {_MOST_LEARNERS}, ascending: (1, 2, 4, 8)",
        )
    for name, value, most in (("requests", requests, _MOST_REQUESTS), ("tokens", tokens, _MOST_TOKENS)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise UsageError(f"{name} is {value!r}", hint=f"a whole number from 1 to {most}")
    if not isinstance(limit, (int, float)) or not 1 <= limit < math.inf:
        raise UsageError(f"limit is {limit!r}", hint="how many times the p95 of the first level: 1 or more")
    return levels
