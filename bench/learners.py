"""A class at one server: its tokens per second through llmlab, and through bare sockets with the same requests."""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import llmlab
from bench import common, raw
from bench.raw import Reading
from llmlab.backends import backend
from llmlab.client import ChatRequest
from llmlab.comparing.design import t_quantile

Side = Literal["llmlab", "bare"]

# Learners → requests of each, pairs of blocks.
_LEVELS = {1: (5, 4), 4: (4, 4), 16: (3, 4), 30: (3, 6), 64: (1, 5)}
_SLOTS, _TOKENS, _THINK_S = 4, 32, 0.25
# A class is a process each. So many learners share one, and its lock: the same on both sides.
_PER_PROCESS = 4
_ORDERS: tuple[tuple[Side, Side], ...] = (("llmlab", "bare"), ("bare", "llmlab"))
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class _Learner:
    """What a learner got in a block.

    Attributes:
        readings: One for each request.
        began: When the first was sent, `time.perf_counter()`, which all processes share.
        ended: When the last was answered.
    """

    readings: tuple[Reading, ...]
    began: float
    ended: float


@dataclass(frozen=True)
class _Block:
    """All learners of one side, once.

    Attributes:
        tokens_per_s: Pieces of text of all / seconds from the first think time's begin to the last answer's end.
        ttft_s: Of all requests.
        fair_rates: Jain's index of the learners' pieces per second of waiting and reading.
        fair_ttft: The same of their mean time to first token.
    """

    tokens_per_s: float
    ttft_s: tuple[float, ...]
    fair_rates: float
    fair_ttft: float


def run() -> dict[str, Any]:
    """Measure natively, and in a container if a container engine answers."""
    found: dict[str, Any] = {"definition": _DEFINITION}
    for place in ("native", "container"):
        if place == "container" and (problem := backend("container").unavailable()):
            print(f"  {place}: not measured: {problem.message}")
            continue
        with llmlab.start("tiny", name=f"class-{place}", backend=place, slots=_SLOTS) as server:
            found[place] = {str(count): _level(server, place, count) for count in _LEVELS}
    return found


_DEFINITION = {
    "work": f"each learner thinks (exponential, mean {_THINK_S} s, seeded), asks, reads {_TOKENS} tokens, and so "
    f"on; 'tiny' with {_SLOTS} slots, over the unix socket, the bytes of a request the same on both sides",
    "learners": f"threads, {_PER_PROCESS} in a process: in a class each has a kernel of his own",
    "throughput_ratio": "pieces of text per second until the last has ended, llmlab / bare, one block after the "
    "other with the same think times, in turns ABBA; mean of the logarithms with a 95 % t interval; "
    "budget at 30: >= 0.95",
    "ttft_ms": "from before connecting to the first piece of text, all requests of all blocks",
    "fairness": "Jain's index (sum x)^2 / (n sum x^2): 1 if all get the same, 1/n if one gets all (R. Jain, "
    "D.-M. Chiu, W. Hawe: A Quantitative Measure of Fairness and Discrimination for Resource Allocation in "
    "Shared Computer Systems, DEC-TR-301, 1984); of each learner's tokens per second of waiting and reading, and of "
    "his mean TTFT; median of the blocks",
}


def _level(server: llmlab.Server, place: str, count: int) -> dict[str, Any]:
    """So many learners, in pairs of blocks."""
    _, pairs = _LEVELS[count]
    _block(server, "bare", count, seed=0)
    blocks: dict[Side, list[_Block]] = {"llmlab": [], "bare": []}
    for pair in range(pairs):
        for side in _ORDERS[pair % 2]:
            blocks[side].append(_block(server, side, count, seed=pair + 1))
    ours, bare = blocks["llmlab"], blocks["bare"]
    ratio = interval([a.tokens_per_s / b.tokens_per_s for a, b in zip(ours, bare, strict=True)])
    found: dict[str, Any] = {
        "throughput_ratio": ratio,
        "bare_tokens_per_s": common.spread([block.tokens_per_s for block in bare], 0),
        **{side: _summed(blocks[side]) for side in blocks},
    }
    low, high = ratio["interval_95"]
    ttft = {
        side: "/".join(f"{found[side]['ttft_ms'][p]:g}" for p in ("p50", "p95", "p99")) for side in blocks
    }
    print(
        f"  {place:<9} {count:>3} learners: {ratio['mean']:.3f} × bare ({low:.3f} … {high:.3f}, {pairs} pairs"
        f"{'; budget ≥ 0.95' if count == 30 else ''}), TTFT p50/p95/p99 {ttft['llmlab']} ms, "  # noqa: PLR2004
        f"bare {ttft['bare']}; fairness of tokens {found['llmlab']['jain_tokens_per_s']:g}, "
        f"bare {found['bare']['jain_tokens_per_s']:g}; of TTFT {found['llmlab']['jain_ttft']:g}, "
        f"bare {found['bare']['jain_ttft']:g}",
        flush=True,
    )
    return found


def _summed(blocks: Sequence[_Block]) -> dict[str, Any]:
    ttft = [seconds * 1000 for block in blocks for seconds in block.ttft_s]
    return {
        "ttft_ms": {f"p{p}": round(common.percentile(ttft, p), 1) for p in (50, 95, 99)},
        "requests": len(ttft),
        "jain_tokens_per_s": round(statistics.median(block.fair_rates for block in blocks), 3),
        "jain_ttft": round(statistics.median(block.fair_ttft for block in blocks), 3),
    }


def interval(ratios: Sequence[float]) -> dict[str, Any]:
    """The mean of the ratios' logarithms with its 95 % t interval, as a ratio."""
    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    half = t_quantile(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return {
        "mean": round(math.exp(mean), 4),
        "interval_95": [round(math.exp(mean - half), 4), round(math.exp(mean + half), 4)],
        "values": [round(ratio, 4) for ratio in ratios],
    }


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 if all are the same, 1 / their number if one has all."""
    squares = math.fsum(value * value for value in values)
    return math.fsum(values) ** 2 / (len(values) * squares) if squares else math.nan


def _block(server: llmlab.Server, side: Side, count: int, *, seed: int) -> _Block:
    """All learners at once, in processes of their own that are there before the clock runs."""
    numbers = [range(first, min(first + _PER_PROCESS, count)) for first in range(0, count, _PER_PROCESS)]
    start, results = _FORK.Barrier(len(numbers)), _FORK.SimpleQueue()
    crowd = [
        _FORK.Process(
            target=_some_learners, args=(server, side, own, seed, _LEVELS[count][0], start, results)
        )
        for own in numbers
    ]
    for process in crowd:
        process.start()
    found = [results.get() for _ in crowd]
    for process in crowd:
        process.join()
    if failed := [problem for problem in found if isinstance(problem, str)]:
        raise RuntimeError(failed[0])
    learners: list[_Learner] = [learner for some in found for learner in some]
    seconds = max(each.ended for each in learners) - min(each.began for each in learners)
    pieces = [sum(reading.pieces for reading in each.readings) for each in learners]
    asking = [math.fsum(reading.total_s for reading in each.readings) for each in learners]
    waits = [statistics.fmean(reading.ttft_s for reading in each.readings) for each in learners]
    return _Block(
        tokens_per_s=sum(pieces) / seconds,
        ttft_s=tuple(reading.ttft_s for each in learners for reading in each.readings),
        fair_rates=jain([own / spent for own, spent in zip(pieces, asking, strict=True)]),
        fair_ttft=jain(waits),
    )


def _some_learners(
    server: llmlab.Server, side: Side, own: range, seed: int, requests: int, start: Any, results: Any
) -> None:
    """In a process: what its learners got, or what went wrong."""
    found: list[_Learner] = []
    problems: list[str] = []
    ask = _asked if side == "llmlab" else _bare

    def learn(number: int) -> None:
        try:
            found.append(_learn(server, ask, random.Random(1000 * seed + number), requests))  # noqa: S311
        except Exception as error:  # noqa: BLE001 - told to who measures
            problems.append(f"{side}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=learn, args=(number,)) for number in own]
    start.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(problems[0] if problems else found)


def _learn(
    server: llmlab.Server,
    ask: Callable[[llmlab.Server, ChatRequest], Reading],
    chance: random.Random,
    requests: int,
) -> _Learner:
    began = time.perf_counter()
    readings = []
    for _ in range(requests):
        time.sleep(chance.expovariate(1 / _THINK_S))
        # Nonsense, of which no two are the same: nothing is found in a cache.
        prompt = "".join(chance.choice("abcdefghij ") for _ in range(60)) + "?"
        request = server.request(prompt, max_tokens=_TOKENS, temperature=0, seed=1)
        readings.append(ask(server, replace(request, ignore_eos=True)))
    return _Learner(tuple(readings), began, time.perf_counter())


def _asked(server: llmlab.Server, request: ChatRequest) -> Reading:
    moments: list[float] = []
    cpu, began = time.thread_time(), time.perf_counter()
    server.send(request, lambda _: moments.append(time.perf_counter()))
    return Reading(
        ttft_s=moments[0] - began,
        stream_s=moments[-1] - moments[0],
        total_s=time.perf_counter() - began,
        cpu_s=time.thread_time() - cpu,
        pieces=len(moments),
    )


def _bare(server: llmlab.Server, request: ChatRequest) -> Reading:
    path = server.record.endpoint.socket
    assert path is not None
    return raw.chat(path, json.dumps(request.body()[0]).encode())
