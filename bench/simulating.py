"""Classes past this machine: simulated, fed with measured times, and first held against what was measured."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import common, service, serving
from bench.learners import jain
from bench.service import Service
from bench.simulation import Loss, Outcome, simulate
from bench.steps import Ask, Job
from llmlab.classrooms.quotas import Quota
from llmlab.comparing.design import t_quantile

LEARNERS = (30, 60, 100, 200, 500, 1000, 2000)
GPUS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 30, 40)
TTFT_S = 2.0  # what a class is promised: so long for 95 of 100 first tokens
_WARM_S, _SPAN_S = 120.0, 600.0
_SEEDS = {"case": 5, "sweep": 3}
# More demand than this part of what all slots can do is not simulated: what waits only grows.
_HOPELESS = 1.5
# Less than this is not simulated either: the same as with fewer GPUs.
_IDLE = 0.1


@dataclass(frozen=True)
class Case:
    """A class, and what it has.

    Attributes:
        learners: How many ask, a question at a time.
        gpus: How many servers, one for each GPU.
        think_s: Mean of the time before each question, which is exponential.
        prompt: Tokens of each prompt.
        tokens: Mean tokens of an answer, which are geometric, and cut off at `most`.
        most: The room's `--max-tokens`.
        scripts: Learners who, besides, run a program that asks `at_once` questions at a time without thinking.
        at_once: Questions of each such program.
        fair: Whether the room says whose turn it is; otherwise who comes first is served first.
        concurrent: The room's quota of requests at a time; None: without a quota.
        loss: A GPU that is lost.
    """

    learners: int
    gpus: int
    think_s: float = 30.0
    prompt: int = 512
    tokens: int = 256
    most: int = 1024
    scripts: int = 0
    at_once: int = 20
    fair: bool = True
    concurrent: int | None = None
    loss: Loss | None = None

    def demand(self, times: Service) -> float:
        """Requests per second if nobody had to wait, as a part of what all slots can do."""
        alone = self.prompt * times.prompt_token_s + self.tokens * times.step(1)
        return self.learners / (self.think_s + alone) / (self.gpus * times.capacity(self.prompt, self.tokens))


def run() -> dict[str, Any]:
    """Measure and simulate one server; then simulate classes on many GPUs."""
    measured = {**serving.measure(), "room": serving.measure_room()}
    found: dict[str, Any] = {
        "definition": _DEFINITION,
        "measured": measured,
        "check": serving.check(measured, service.from_dict(measured["service"])),
    }
    for count, each in found["check"].items():
        print(
            f"  {count:>3} learners at one server, simulated / measured: {each['tokens_per_s_ratio']:.3f} × the "
            f"tokens per second; TTFT p50/p95/p99 {_three(each['ttft_ms']['simulated'])} ms, measured "
            f"{_three(each['ttft_ms']['measured'])}",
            flush=True,
        )
    return {**found, **many(measured["room"])}


def many(room: dict[str, float]) -> dict[str, Any]:
    """Classes on many GPUs."""
    times, added_s = service.on_gpu(), _added_s()
    roof = service.at_the_roof()
    cases, sweep = {}, {}
    with ProcessPoolExecutor() as workers:
        for name, case in _CASES.items():
            served = roof if "roof" in name else times
            cases[name] = _many_seeds(workers, case, served, added_s, room)
            print(_case(name, cases[name]), flush=True)
        print("  TTFT p95 in s; '-': demand too high or too low to be simulated", flush=True)
        print("  learners" + "".join(f"{gpus:>7}" for gpus in GPUS) + f"  GPUs for p95 <= {TTFT_S:g} s")
        for learners in LEARNERS:
            row = {str(gpus): _cell(workers, Case(learners, gpus), times, added_s, room) for gpus in GPUS}
            sweep[str(learners)] = row
            print(_row(learners, row), flush=True)
    return {
        "services": [times.to_dict(), roof.to_dict()],
        "room_added_ms": round(1000 * added_s, 2),
        "cases": cases,
        "sweep": sweep,
        "needed": {learners: needed(row) for learners, row in sweep.items()},
    }


_LOST = Loss(_WARM_S + _SPAN_S / 4)
_CASES = {
    "1000 learners, 20 GPUs": Case(1000, 20),
    "... one lost for good, seen after 10 s": Case(1000, 20, loss=_LOST),
    "1000 learners, 15 GPUs": Case(1000, 15),
    "1000 learners, 15 GPUs, one lost for good": Case(1000, 15, loss=_LOST),
    "1000 learners, 12 GPUs": Case(1000, 12),
    "1000 learners, 12 GPUs, first come first served": Case(1000, 12, fair=False),
    "1000 learners, 20 GPUs, 20 with programs, first come first served": Case(
        1000, 20, scripts=20, fair=False
    ),
    "... the room's turns": Case(1000, 20, scripts=20),
    "... the room's turns, and 2 requests at a time": Case(1000, 20, scripts=20, concurrent=2),
    "1000 learners, 1 GPU at the roof (computed)": Case(1000, 1),
}

_DEFINITION = {
    "method": "discrete events (simpy), in steps as llama-server works: each reads up to 2048 tokens of the prompts "
    "that have come and gives each request a token; turns, quotas and the choice of the server are the room's own "
    "code (llmlab.classrooms)",
    "class": "each learner thinks (exponential, mean 30 s), asks 512 tokens, reads an answer of geometric length "
    "(mean 256, at most 1024), and so on",
    "window": f"{_SPAN_S:g} s after {_WARM_S:g} s; all that was asked in it counts, however late it was answered",
    "ttft_s": "from asking to the first token, refusals and lost servers in between included; without those with "
    "programs",
    "tokens_per_s": "of each learner: tokens of his answers / time from asking to the last token",
    "slots_taken": "share of all slots × time that was taken; working: share of GPUs × time that did anything",
    "waiting": "mean number of requests in the queue, and mean seconds there of a request",
    "fairness": "Jain's index of the learners' tokens per second, as in `learners`; those with programs included",
    "room_share": "of one CPU: requests and tokens per second, times what they take the room's process",
    "interval_95": "t interval of the mean over the seeds",
    "demand": "requests per second if nobody had to wait / requests per second with all slots taken",
    "check": "the same think times as the measured blocks, simulated / measured",
}


def plans(case: Case, seed: int) -> tuple[list[Iterator[Ask]], list[int]]:
    """What is asked, and whose each is."""
    whose = [
        *range(case.learners),
        *(learner for learner in range(case.scripts) for _ in range(case.at_once)),
    ]
    return [
        _asking(case, random.Random(1_000_003 * seed + number), number >= case.learners)  # noqa: S311 - no secrets
        for number in range(len(whose))
    ], whose


def _asking(case: Case, chance: random.Random, program: bool) -> Iterator[Ask]:  # noqa: FBT001
    rate = -math.log1p(-1 / case.tokens)
    while True:
        think_s = 0.0 if program else chance.expovariate(1 / case.think_s)
        tokens = 1 + int(chance.expovariate(rate))
        yield Ask(think_s, case.prompt, min(tokens, case.most))


def once(case: Case, times: Service, added_s: float, room: dict[str, float], seed: int) -> dict[str, float]:
    """One class, with one seed."""
    asking, whose = plans(case, seed)
    outcome = simulate(
        asking,
        times,
        servers=case.gpus,
        whose=whose,
        quota=Quota(concurrent=case.concurrent, queue=10**9) if case.concurrent else None,
        fair=case.fair,
        overhead_s=added_s if case.fair else 0.0,
        losses=(case.loss,) if case.loss else (),
        from_s=_WARM_S,
        until_s=_WARM_S + _SPAN_S,
    )
    return figures(outcome, case, room, slots=times.slots)


def figures(outcome: Outcome, case: Case, room: dict[str, float], slots: int) -> dict[str, float]:
    """What is told of an outcome."""
    jobs, span = outcome.jobs, outcome.span_s
    # Those with programs have no time to think: what they wait for is not what others wait for.
    ttft = [job.first - job.asked for job in jobs if job.learner >= case.scripts]
    rates = _rates(jobs)
    own = sorted(rate for learner, rate in rates.items() if learner >= case.scripts)
    per_s = len(jobs) / span
    tokens_per_s = sum(job.ask.tokens for job in jobs) / span
    return {
        **{f"ttft_s p{percent}": common.percentile(ttft, percent) for percent in (50, 95, 99)},
        "tokens_per_s p50": common.percentile(own, 50),
        "tokens_per_s p5": common.percentile(own, 5),
        "slots_taken": sum(taken for _, taken in outcome.servers) / span / slots / case.gpus,
        "working": sum(working for working, _ in outcome.servers) / span / case.gpus,
        "waiting": outcome.waiting_s / span,
        "waiting_s": statistics.fmean(job.granted - job.came for job in jobs),
        "fairness": jain(list(rates.values())),
        "requests_per_s": per_s,
        "tokens_per_s": tokens_per_s,
        "lost": float(sum(job.lost for job in jobs)),
        "refused": float(outcome.refused),
        "room_share": per_s * room["cpu_ms_per_request"] / 1e3
        + tokens_per_s * room["cpu_us_per_token"] / 1e6,
    }


def _rates(jobs: Sequence[Job]) -> dict[int, float]:
    tokens: dict[int, float] = {}
    seconds: dict[int, float] = {}
    for job in jobs:
        tokens[job.learner] = tokens.get(job.learner, 0.0) + job.ask.tokens
        seconds[job.learner] = seconds.get(job.learner, 0.0) + job.ended - job.asked
    return {learner: tokens[learner] / seconds[learner] for learner in tokens}


def _many_seeds(
    workers: ProcessPoolExecutor,
    case: Case,
    times: Service,
    added_s: float,
    room: dict[str, float],
    seeds: int = _SEEDS["case"],
) -> dict[str, Any]:
    found = list(workers.map(partial(once, case, times, added_s, room), range(1, seeds + 1)))
    return {
        "demand": round(case.demand(times), 3),
        "measured_times": times.measured,
        **{name: interval([each[name] for each in found]) for name in found[0]},
    }


def interval(values: Sequence[float]) -> dict[str, Any]:
    """The mean with its 95 % t interval."""
    mean = statistics.fmean(values)
    half = t_quantile(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": _short(mean), "interval_95": [_short(mean - half), _short(mean + half)]}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _cell(
    workers: ProcessPoolExecutor, case: Case, times: Service, added_s: float, room: dict[str, float]
) -> dict[str, Any]:
    demand = case.demand(times)
    if not _IDLE <= demand <= _HOPELESS and (demand > _IDLE or case.gpus > 1):
        return {"demand": round(demand, 3), "simulated": False}
    return {**_many_seeds(workers, case, times, added_s, room, _SEEDS["sweep"]), "simulated": True}


def needed(row: dict[str, dict[str, Any]]) -> int | None:
    """The fewest GPUs with which 95 of 100 first tokens come in time; None if none of the row does."""
    enough = (
        int(gpus)
        for gpus, cell in row.items()
        if cell["simulated"] and cell["ttft_s p95"]["interval_95"][1] <= TTFT_S
    )
    return min(enough, default=None)


def _added_s() -> float:
    """What the room adds to a first token, as `classroom` has measured it with one learner."""
    path = Path(__file__).parent / "results" / "classroom.json"
    added: float = json.loads(path.read_text(encoding="utf-8"))["1"]["ttft_added_ms"]["p50"]
    return added / 1000


def _three(values: dict[str, float]) -> str:
    return "/".join(f"{values[name]:g}" for name in ("p50", "p95", "p99"))


def _case(name: str, case: dict[str, Any]) -> str:
    def told(key: str) -> str:
        low, high = case[key]["interval_95"]
        return f"{case[key]['mean']:.3g} ({low:.3g} … {high:.3g})"

    return (
        f"  {name}: TTFT p50 {told('ttft_s p50')}, p95 {told('ttft_s p95')}, p99 {told('ttft_s p99')} s; tokens/s of "
        f"the slowest 5 % {told('tokens_per_s p5')}; slots taken {told('slots_taken')}; fairness {told('fairness')}; "
        f"room {case['room_share']['mean']:.2g} CPUs"
    )


def _row(learners: int, row: dict[str, dict[str, Any]]) -> str:
    cells = "".join(
        f"{cell['ttft_s p95']['mean']:>7.2g}" if cell["simulated"] else f"{'-':>7}" for cell in row.values()
    )
    return f"  {learners:>8}{cells}  {needed(row)}"
