"""One server, measured: its times by the number of requests at a time, in turns with learners who think."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import psutil

import llmlab
from bench import common, crowds
from bench.crowds import Crowd, Work
from bench.service import Service
from bench.simulation import Outcome, simulate
from bench.steps import Ask
from llmlab.classrooms import opening

SLOTS, TOKENS, THINK_S = 4, 32, 0.25
_LONG = 96  # tokens of the answers whose pace is measured
_ROUNDS = 6
_ALONE = Work(learners=1, requests=8, think_s=0, tokens=TOKENS)
# Learners → requests of each, as in `learners`.
LEVELS = {1: 5, 4: 4, 16: 3, 30: 3}


def measure() -> dict[str, Any]:
    """Times of a native server of `tiny`, and of learners at it, in turns."""
    steps: dict[int, list[float]] = {busy: [] for busy in range(1, SLOTS + 1)}
    firsts: dict[int, list[float]] = {busy: [] for busy in steps}
    blocks: dict[int, list[Crowd]] = {learners: [] for learners in LEVELS}
    with llmlab.start("tiny", name="simulated", backend="native", slots=SLOTS) as server:
        path = server.record.endpoint.socket
        assert path is not None
        prompts = [server.ask(prompt, max_tokens=1) for _, prompt in replace(_ALONE, seed=99).plan(0)]
        for number in range(_ROUNDS + 1):  # the first is thrown away
            for busy in steps:
                together = replace(_ALONE, learners=busy, requests=1, tokens=_LONG)
                for seed in range(10 * number, 10 * number + 5):
                    crowd = crowds.meet([path], replace(together, seed=seed), per_process=1)
                    if number:
                        steps[busy] += [each.stream_s / (each.pieces - 1) for each in crowd.asked]
                        firsts[busy] += crowd.ttft_s
            for learners, requests in LEVELS.items():
                crowd = crowds.meet([path], work(learners, requests, number))
                if number:
                    blocks[learners].append(crowd)
    prompt = statistics.fmean(answer.prompt_tokens or 0 for answer in prompts)
    return {
        "machine": common.machine(),
        "service": _service(steps, firsts, prompt).to_dict(),
        "prompt_tokens": prompt,
        "learners": {str(count): [_block(each) for each in found] for count, found in blocks.items()},
    }


def work(learners: int, requests: int, seed: int) -> Work:
    """What the learners of `learners` do."""
    return Work(learners=learners, requests=requests, think_s=THINK_S, tokens=TOKENS, seed=seed)


def _service(steps: dict[int, list[float]], firsts: dict[int, list[float]], prompt: float) -> Service:
    means = [statistics.fmean(each) for each in firsts.values()]
    # Means, since disturbances are in what learners wait for, too. All prompts of a round are read one after the
    # other, and nobody has a token before.
    prompt_s, reading_s = statistics.linear_regression(list(firsts), means)
    return Service(
        name="tiny on the CPU",
        step_s={busy: statistics.fmean(found) for busy, found in steps.items()},
        prompt_token_s=prompt_s / prompt,
        reading_s=max(reading_s, 0.0),
        source=f"means of this run: answers of {_LONG} tokens, so many at a time; times to first token "
        "on a straight line over their number",
    )


def _block(crowd: Crowd) -> dict[str, Any]:
    return {
        "tokens_per_s": round(crowd.tokens_per_s, 1),
        "ttft_ms": [round(1000 * each, 2) for each in crowd.ttft_s],
        "failed": len(crowd.failed),
    }


def predict(service: Service, prompt_tokens: float, learners: int, seed: int) -> Outcome:
    """The same block, simulated: the same think times, the engine's own queue."""
    planned = work(learners, LEVELS[learners], seed)
    plans = [
        [Ask(think_s, prompt_tokens, TOKENS) for think_s, _ in planned.plan(number)]
        for number in range(learners)
    ]
    return simulate(plans, service, fair=False)


def check(measured: dict[str, Any], service: Service) -> dict[str, Any]:
    """Simulated over measured, for each number of learners."""
    return {
        count: _against(blocks, service, measured["prompt_tokens"], int(count))
        for count, blocks in measured["learners"].items()
    }


def _against(
    blocks: Sequence[dict[str, Any]], service: Service, prompt_tokens: float, learners: int
) -> dict[str, Any]:
    simulated = [predict(service, prompt_tokens, learners, seed + 1) for seed in range(len(blocks))]
    rates = [
        sum(job.ask.tokens for job in each.jobs) / each.seconds / block["tokens_per_s"]
        for each, block in zip(simulated, blocks, strict=True)
    ]
    ours = crowds.milliseconds([job.first - job.asked for each in simulated for job in each.jobs])
    theirs = crowds.milliseconds([value / 1000 for block in blocks for value in block["ttft_ms"]])
    return {
        "tokens_per_s_ratio": round(math.exp(statistics.fmean(map(math.log, rates))), 3),
        "ratios": [round(rate, 3) for rate in rates],
        "ttft_ms": {"measured": theirs, "simulated": ours},
    }


def measure_room() -> dict[str, float]:
    """CPU time of the room's process: of a request, and of each token that it passes on."""
    names = ",".join(f"learner {number}" for number in range(SLOTS))
    taken: dict[int, list[float]] = {TOKENS: [], 8 * TOKENS: []}
    with llmlab.start("tiny", name="simulated", backend="native", slots=SLOTS):
        keys: Any = llmlab.classroom("keys", add=names)
        room: Any = llmlab.classroom("open", requests=None, queue=1000)
        try:
            address = urlsplit(room.url)
            opened = opening.opened()
            assert opened is not None
            assert opened.process is not None
            process = psutil.Process(opened.process.pid)
            for seed in range(2 * _ROUNDS):
                for tokens, found in taken.items():
                    before = sum(process.cpu_times()[:2])
                    crowds.meet(
                        [(str(address.hostname), int(address.port or 0))],
                        Work(learners=SLOTS, requests=4, think_s=0, tokens=tokens, seed=seed),
                        [str(key) for key in keys.made.values()],
                    )
                    if seed:  # the first is thrown away
                        found.append((sum(process.cpu_times()[:2]) - before) / (4 * SLOTS))
        finally:
            llmlab.classroom("close")
    per_token, per_request = statistics.linear_regression(
        list(taken), [statistics.median(each) for each in taken.values()]
    )
    return {"cpu_us_per_token": round(1e6 * per_token, 1), "cpu_ms_per_request": round(1000 * per_request, 2)}
