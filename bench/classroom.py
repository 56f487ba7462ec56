"""A class at a room: what the gateway adds to the first token, and takes from the throughput."""

from __future__ import annotations

import json
import multiprocessing
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import llmlab
from bench import common, raw
from bench.learners import interval
from bench.raw import Reading

Side = Literal["room", "direct"]

# Learners → requests of each, pairs of blocks.
_LEVELS = {1: (6, 4), 4: (4, 4), 16: (3, 4), 30: (3, 4)}
_SLOTS, _TOKENS, _THINK_S = 4, 32, 0.25
_PER_PROCESS = 4
_ORDERS: tuple[tuple[Side, Side], ...] = (("room", "direct"), ("direct", "room"))
_FORK = multiprocessing.get_context("fork")
_DEFINITION = {
    "work": f"each learner thinks (exponential, mean {_THINK_S} s, seeded), asks, reads {_TOKENS} tokens, and so "
    f"on; 'tiny' with {_SLOTS} slots, natively; the same bare reader and bodies on both sides",
    "room": "over TCP on loopback and without TLS through the room, each learner with a key; the room counts, "
    "queues and relays in one process",
    "direct": "over the server's unix socket, which learners of another machine do not have",
    "throughput_ratio": "pieces of text per second until the last has ended, room / direct, one block after the "
    "other with the same think times, in turns ABBA; mean of the logarithms with a 95 % t interval",
    "ttft_ms": "from before connecting to the first piece of text, all requests of all blocks, and the difference "
    "of the percentiles",
    "caution": "tiny answers in some ten ms, and a token of it costs the room more than the engine: a larger model "
    "leaves the room more time between tokens. Learners, room and engine share the machine",
}


def run() -> dict[str, Any]:
    """Measure with a native server."""
    names = [f"learner {number}" for number in range(max(_LEVELS))]
    with llmlab.start("tiny", name="class", backend="native", slots=_SLOTS) as server:
        made: Any = llmlab.classroom("keys", add=",".join(names))
        opened: Any = llmlab.classroom("open", requests=None, queue=1000)
        try:
            keys = [str(key) for key in made.made.values()]
            return {
                "definition": _DEFINITION,
                **{str(count): _level(server, opened.url, keys, count) for count in _LEVELS},
            }
        finally:
            llmlab.classroom("close")


def _level(server: llmlab.Server, url: str, keys: Sequence[str], count: int) -> dict[str, Any]:
    requests, pairs = _LEVELS[count]
    path = server.record.endpoint.socket
    assert path is not None
    blocks: dict[Side, list[tuple[float, list[float]]]] = {"room": [], "direct": []}
    for side in _ORDERS[0]:
        _block(side, path, url, keys[:count], requests, seed=0)
    for pair in range(pairs):
        for side in _ORDERS[pair % 2]:
            blocks[side].append(_block(side, path, url, keys[:count], requests, seed=pair + 1))
    ratio = interval([ours[0] / bare[0] for ours, bare in zip(blocks["room"], blocks["direct"], strict=True)])
    ttft = {side: _percentiles([each for _, some in blocks[side] for each in some]) for side in blocks}
    added = {name: round(ttft["room"][name] - ttft["direct"][name], 2) for name in ttft["room"]}
    low, high = ratio["interval_95"]
    print(
        f"  {count:>3} learners: {ratio['mean']:.3f} × direct ({low:.3f} … {high:.3f}, {pairs} pairs), TTFT added "
        f"p50/p95/p99 {'/'.join(f'{value:g}' for value in added.values())} ms",
        flush=True,
    )
    rates = {side: common.spread([rate for rate, _ in found], 0) for side, found in blocks.items()}
    return {"throughput_ratio": ratio, "ttft_ms": ttft, "ttft_added_ms": added, "tokens_per_s": rates}


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(common.percentile([each * 1000 for each in seconds], p), 2) for p in (50, 95, 99)}


def _block(
    side: Side, path: Path, url: str, keys: Sequence[str], requests: int, *, seed: int
) -> tuple[float, list[float]]:
    """All learners at once: pieces per second, and each request's time to first token."""
    groups = [
        range(first, min(first + _PER_PROCESS, len(keys))) for first in range(0, len(keys), _PER_PROCESS)
    ]
    start, results = _FORK.Barrier(len(groups)), _FORK.SimpleQueue()
    crowd = [
        _FORK.Process(target=_some, args=(side, path, url, keys, own, requests, seed, start, results))
        for own in groups
    ]
    for process in crowd:
        process.start()
    found = [results.get() for _ in crowd]
    for process in crowd:
        process.join()
    if failed := [problem for problem in found if isinstance(problem, str)]:
        raise RuntimeError(failed[0])
    spans = [span for group in found for span in group]
    seconds = max(end for _, end, _ in spans) - min(begin for begin, _, _ in spans)
    readings = [reading for *_, some in spans for reading in some]
    return sum(each.pieces for each in readings) / seconds, [each.ttft_s for each in readings]


def _some(
    side: Side,
    path: Path,
    url: str,
    keys: Sequence[str],
    own: range,
    requests: int,
    seed: int,
    start: Any,
    results: Any,
) -> None:
    """In a process: what its learners got, or what went wrong."""
    found: list[tuple[float, float, list[Reading]]] = []
    problems: list[str] = []

    def learn(number: int) -> None:
        chance = random.Random(1000 * seed + number)  # noqa: S311 - think times
        began, readings = time.perf_counter(), []
        try:
            for _ in range(requests):
                time.sleep(chance.expovariate(1 / _THINK_S))
                prompt = "".join(chance.choice("abcdefghij ") for _ in range(60)) + "?"
                body = {
                    **json.loads(raw.payload(prompt, max_tokens=_TOKENS, temperature=0, seed=1)),
                    "ignore_eos": True,
                }
                data = json.dumps(body).encode()
                address = urlsplit(url)
                place: Any = path if side == "direct" else (address.hostname, address.port)
                readings.append(raw.chat(place, data, key="" if side == "direct" else keys[number]))
            if not all(each.pieces for each in readings):
                problems.append(f"{side}: an answer without a token")
            found.append((began, time.perf_counter(), readings))
        except Exception as error:  # noqa: BLE001 - told to who measures
            problems.append(f"{side}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=learn, args=(number,)) for number in own]
    start.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(problems[0] if problems else found)
