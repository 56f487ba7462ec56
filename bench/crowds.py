"""Learners with real requests: who think, ask and read, in processes that are there before the clock runs."""

from __future__ import annotations

import json
import multiprocessing
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llmlab
from bench import common, raw
from bench.raw import Reading

Place = Path | tuple[str, int] | llmlab.Server
"""A unix socket, an address and a port, or a server, which is asked through llmlab."""

_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Work:
    """What each learner does.

    Attributes:
        learners: How many there are.
        requests: How often each asks.
        think_s: Mean of the time before each question, which is exponential; 0: nobody thinks.
        tokens: Of each answer.
        characters: Of each prompt.
        seed: The same seed, the same think times and prompts; the first learners' are those of `learners`.
    """

    learners: int
    requests: int
    think_s: float
    tokens: int
    characters: int = 60
    seed: int = 1

    def plan(self, learner: int) -> list[tuple[float, str]]:
        """A learner's think times and prompts: nonsense, of which no two are the same."""
        chance = random.Random(1000 * self.seed + learner)  # noqa: S311 - think times
        return [
            (
                chance.expovariate(1 / self.think_s) if self.think_s else 0.0,
                "".join(chance.choice("abcdefghij ") for _ in range(self.characters)) + "?",
            )
            for _ in range(self.requests)
        ]


@dataclass(frozen=True)
class Asked:
    """A request and what came of it.

    Attributes:
        learner: Whose it is.
        at_s: When it was sent, since the clock ran.
        seconds: How long it took.
        ttft_s: Until the first piece of text; None if none came.
        stream_s: From the first piece to the last.
        pieces: Pieces of text.
        problem: What went wrong; "" if it was answered to its end.
    """

    learner: int
    at_s: float
    seconds: float
    ttft_s: float | None
    stream_s: float
    pieces: int
    problem: str = ""


@dataclass(frozen=True)
class Crowd:
    """All requests of all learners.

    Attributes:
        asked: The requests, in the order of their times.
        began: When the clock ran, `time.perf_counter()`.
        seconds: From then until the last had ended.
    """

    asked: tuple[Asked, ...]
    began: float
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Pieces of text of all per second."""
        return sum(each.pieces for each in self.asked) / self.seconds

    @property
    def ttft_s(self) -> list[float]:
        """Times to first token of those that had one."""
        return [each.ttft_s for each in self.asked if each.ttft_s is not None]

    @property
    def failed(self) -> list[Asked]:
        """Requests that were not answered to their end."""
        return [each for each in self.asked if each.problem]


def meet(places: Sequence[Place], work: Work, keys: Sequence[str] = (), *, per_process: int = 4) -> Crowd:
    """All learners at once.

    Args:
        places: Where they ask: a learner at the place of his number, in turn.
        work: What they do.
        keys: Theirs; () where none is asked for.
        per_process: How many share a process, and its lock.
    """
    groups = [
        range(first, min(first + per_process, work.learners))
        for first in range(0, work.learners, per_process)
    ]
    start, results = _FORK.Barrier(len(groups)), _FORK.SimpleQueue()
    crowd = [_FORK.Process(target=_some, args=(places, work, keys, own, start, results)) for own in groups]
    for process in crowd:
        process.start()
    found = [results.get() for _ in crowd]
    for process in crowd:
        process.join()
    began = min(each for each, _ in found)
    asked = sorted((each for _, some in found for each in some), key=lambda each: (each.at_s, each.learner))
    ended = max(each.at_s + each.seconds for each in asked)
    return Crowd(tuple(replace(each, at_s=each.at_s - began) for each in asked), began, ended - began)


def _some(
    places: Sequence[Place], work: Work, keys: Sequence[str], own: range, start: Any, results: Any
) -> None:
    """In a process: what its learners got."""
    found: list[Asked] = []

    def learn(learner: int) -> None:
        place, key = places[learner % len(places)], keys[learner] if keys else ""
        for think_s, prompt in work.plan(learner):
            time.sleep(think_s)
            found.append(_ask(place, key, learner, prompt, work.tokens))

    threads = [threading.Thread(target=learn, args=(number,)) for number in own]
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((began, found))


def _ask(place: Place, key: str, learner: int, prompt: str, tokens: int) -> Asked:
    began = time.perf_counter()
    reading, problem = Reading(ttft_s=0, stream_s=0, total_s=0, cpu_s=0, pieces=0), ""
    try:
        if isinstance(place, llmlab.Server):
            reading = through_llmlab(place, prompt, tokens)
        else:
            reading = raw.chat(place, _body(prompt, tokens), key=key)
    except (OSError, llmlab.LabError) as error:
        problem = f"{type(error).__name__}: {error}"
    if not problem and not reading.pieces:
        problem = "no token came"
    return Asked(
        learner=learner,
        at_s=began,
        seconds=time.perf_counter() - began,
        ttft_s=reading.ttft_s if reading.pieces else None,
        stream_s=reading.stream_s,
        pieces=reading.pieces,
        problem=problem,
    )


def _body(prompt: str, tokens: int) -> bytes:
    body = json.loads(raw.payload(prompt, max_tokens=tokens, temperature=0, seed=1))
    return json.dumps({**body, "ignore_eos": True}).encode()


def through_llmlab(server: llmlab.Server, prompt: str, tokens: int) -> Reading:
    """The same request as `raw.chat` sends, through the server's handle."""
    moments: list[float] = []
    request = replace(server.request(prompt, max_tokens=tokens, temperature=0, seed=1), ignore_eos=True)
    cpu, began = time.thread_time(), time.perf_counter()
    server.send(request, lambda _: moments.append(time.perf_counter()))
    ended = time.perf_counter()
    if not moments:
        return Reading(ttft_s=0, stream_s=0, total_s=ended - began, cpu_s=0, pieces=0)
    return Reading(
        ttft_s=moments[0] - began,
        stream_s=moments[-1] - moments[0],
        total_s=ended - began,
        cpu_s=time.thread_time() - cpu,
        pieces=len(moments),
    )


def milliseconds(seconds: Sequence[float]) -> Mapping[str, float]:
    """The percentiles that are shown."""
    return {f"p{p}": round(common.percentile([1000 * each for each in seconds], p), 2) for p in (50, 95, 99)}
