"""What watching costs: CPU time of the sampler, at several rates and with several servers."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import llmlab
from bench import common
from llmlab.monitoring import sources
from llmlab.telemetry.sampler import Sampler

_SECONDS, _ROUNDS = 5.0, 5
_RATES = (2.0, 10.0)
_SERVERS = (1, 4)


def run() -> dict[str, Any]:
    """Measure in turns with a process that only waits."""
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        started = [
            stack.enter_context(llmlab.start("tiny", backend="native", name=f"bench-{i}", slots=1))
            for i in range(max(_SERVERS))
        ]
        records = [server.record for server in started]
        shares: dict[tuple[int, float], list[float]] = {(n, hz): [] for n in _SERVERS for hz in _RATES}
        idle: list[float] = []
        for _ in range(_ROUNDS):
            idle.append(_share(lambda: time.sleep(_SECONDS)))
            for (count, hz), values in shares.items():
                values.append(_watching(records[:count], hz))
    for (count, hz), values in shares.items():
        name = f"{count} {'server' if count == 1 else 'servers'} at {hz:g} Hz"
        spread = common.spread([100 * value for value in values], 3)
        budget = "≤ 1" if (count, hz) == (1, 2.0) else "–"
        common.show(f"CPU of the sampler, {name}", spread, "% of a core", budget)
        results[name] = spread
    results["waiting only"] = common.spread([100 * value for value in idle], 3)
    return {
        "definition": "CPU time of the whole process over wall time, while it watches and does nothing else",
        "shares_percent": results,
        "budget": "<= 1 % of a core for one server at 2 Hz",
    }


def _watching(records: list[Any], hz: float) -> float:
    with Sampler(sources.of(records), hz=hz):
        # The first look makes connections and opens files.
        time.sleep(1.0)
        return _share(lambda: time.sleep(_SECONDS))


def _share(work: Any) -> float:
    began, used = time.perf_counter(), time.process_time()
    work()
    return (time.process_time() - used) / (time.perf_counter() - began)
