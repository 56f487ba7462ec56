"""Three nodes: what each adds, what the gateway costs, and how long a lost node is missed; real learners.

The nodes are engines of `tools.three_engines` on this machine, and the server on each has its share of the CPUs.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from tools.engines_apart.commands import EnginesError, check
from tools.three_engines import NODES, ThreeEngines

import llmlab
from bench import crowds
from bench.crowds import Crowd, Work
from bench.learners import interval

_CPUS = 0.4  # of each server: three of them, and the learners, share two
# The limit is each server's: one of a whole node would have to leave room for sidecars, which have a CPU each.
_OPTIONS: dict[str, Any] = {"slots": 4, "cpus": _CPUS}
_ROUNDS = 4
# A class of 100, with think times that are as much shorter as `tiny` is quicker than a large model.
_CLASS = Work(learners=100, requests=3, think_s=1.0, tokens=32)
_ALONE = Work(learners=1, requests=20, think_s=0.02, tokens=32)
_FAULTY = Work(learners=12, requests=60, think_s=0.3, tokens=32)
_FAULT_AFTER_S = 5.0

_DEFINITION = {
    "nodes": f"container engines in namespaces of this machine, a server with {_CPUS} CPUs on each; they share "
    "its caches, its memory bandwidth and its disk, which nodes of their own would not",
    "scaling": f"{_CLASS.learners} learners (think: exponential, mean {_CLASS.think_s:g} s; {_CLASS.tokens} tokens), "
    "tokens per second with so many replicas / with one, in rounds; mean of the logarithms with a 95 % t interval",
    "gateway": "one learner, in turns: a server with three replicas through its gateway, which stands on n1; a server "
    "on n1 (near) and one on n2 (far), each as llmlab reaches it",
    "failing_over": "seconds from the fault to the last request that failed; failed: requests not answered to their "
    "end; quiet_s: the longest time after the fault in which no answer ended",
}


def run() -> dict[str, Any]:
    """Measure on three nodes that are made for it."""
    try:
        check()
    except EnginesError as error:
        print(f"  not measured: {error}")
        return {"not_measured": str(error)}
    with _nodes() as engines:
        found = {
            "definition": _DEFINITION,
            "cpus_per_server": _CPUS,
            "scaling": _scaling(),
            "gateway": _gateway(),
            "failing_over": {
                "daemon killed": _failing_over("killed", engines.kill, engines.revive),
                "link cut": _failing_over("cut", engines.cut, engines.mend),
            },
        }
    _show(found)
    return found


@contextmanager
def _nodes() -> Iterator[ThreeEngines]:
    with ThreeEngines(name="llmbench") as engines, mock.patch.dict(os.environ, engines.env()):
        llmlab.cluster("init", on=NODES[0])
        llmlab.cluster("join", ",".join(NODES[1:]), on=NODES[0])
        yield engines


def _scaling() -> dict[str, Any]:
    counts = range(1, len(NODES) + 1)
    rates: dict[int, list[float]] = {count: [] for count in counts}
    ttft: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as stack:
        servers = {
            count: stack.enter_context(
                llmlab.start("tiny", name=f"nodes-{count}", replicas=count, **_OPTIONS)
            )
            for count in counts
        }
        for number in range(_ROUNDS + 1):
            for count in sorted(counts, key=lambda each: (each + number) % len(counts)):
                crowd = crowds.meet([servers[count]], replace(_CLASS, seed=number + 1))
                if number:  # the first is thrown away
                    rates[count].append(crowd.tokens_per_s)
                    ttft[count] += crowd.ttft_s
    return {
        str(count): {
            "against_one": interval([own / one for own, one in zip(rates[count], rates[1], strict=True)])
            if count > 1
            else None,
            "tokens_per_s": [round(rate, 1) for rate in rates[count]],
            "ttft_ms": crowds.milliseconds(ttft[count]),
        }
        for count in counts
    }


def _gateway() -> dict[str, Any]:
    with (
        llmlab.start("tiny", name="behind", replicas=len(NODES), **_OPTIONS) as gateway,
        llmlab.start("tiny", name="near", on=NODES[0], **_OPTIONS) as near,
        llmlab.start("tiny", name="far", on=NODES[1], **_OPTIONS) as far,
    ):
        sides: dict[str, llmlab.Server] = {"gateway": gateway, "near": near, "far": far}
        found: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(_ROUNDS + 1):
            for side in (*sides, *reversed(list(sides))):
                crowd = crowds.meet([sides[side]], replace(_ALONE, seed=number + 1))
                if number:
                    found[side] += crowd.ttft_s
    told = {side: crowds.milliseconds(values) for side, values in found.items()}
    return {
        "ttft_ms": told,
        "added_ms": {
            side: {p: round(told["gateway"][p] - told[side][p], 2) for p in told[side]}
            for side in ("near", "far")
        },
    }


def _failing_over(name: str, break_it: Callable[[str], None], mend: Callable[[str], None]) -> dict[str, Any]:
    """A node is lost while learners ask; it comes back when they are done."""
    moments: list[float] = []

    def strike() -> None:
        time.sleep(_FAULT_AFTER_S)
        moments.append(time.perf_counter())
        break_it(NODES[1])

    with llmlab.start("tiny", name=name, replicas=len(NODES), **_OPTIONS) as server:
        thread = threading.Thread(target=strike)
        thread.start()
        crowd = crowds.meet([server], _FAULTY)
        thread.join()
        mend(NODES[1])
    return missed(crowd, moments[0] - crowd.began)


def missed(crowd: Crowd, fault_s: float) -> dict[str, Any]:
    """What a fault did to a crowd.

    Args:
        crowd: What the learners got.
        fault_s: When it struck, on the crowd's clock.
    """
    failed = [each.at_s + each.seconds for each in crowd.failed]
    answered: Sequence[float] = sorted(
        each.at_s + each.seconds
        for each in crowd.asked
        if not each.problem and each.at_s + each.seconds > fault_s
    )
    edges = [fault_s, *answered]
    return {
        "requests": len(crowd.asked),
        "after_the_fault": sum(each.at_s + each.seconds > fault_s for each in crowd.asked),
        "failed": len(failed),
        "problems": sorted({each.problem for each in crowd.failed}),
        "seconds": round(max(failed) - fault_s, 2) if failed else 0.0,
        "quiet_s": round(max(later - before for before, later in itertools.pairwise(edges)), 2)
        if answered
        else None,
    }


def _show(found: Mapping[str, Any]) -> None:
    for count, each in found["scaling"].items():
        ratio = each["against_one"]
        told = (
            f"{ratio['mean']:.2f} × one ({ratio['interval_95'][0]:.2f} … {ratio['interval_95'][1]:.2f})"
            if ratio
            else ""
        )
        print(f"  {count} nodes: {told} TTFT {each['ttft_ms']}", flush=True)
    print(f"  TTFT through the gateway, ms more than direct: {found['gateway']['added_ms']}", flush=True)
    for fault, each in found["failing_over"].items():
        print(
            f"  {fault}: {each['failed']} of {each['requests']} requests failed, the last {each['seconds']} s after it; "
            f"quiet for {each['quiet_s']} s",
            flush=True,
        )
