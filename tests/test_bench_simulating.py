"""The simulated class: against closed forms of queueing theory, against a plain reckoning, against what was measured."""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from bench import cluster, crowds, learners, service, serving, simulating
from bench.service import Service
from bench.simulating import Case
from bench.simulation import Loss, simulate
from bench.steps import Ask, Job
from hypothesis import given, settings
from hypothesis import strategies as st

import llmlab
from llmlab.classrooms.quotas import Quota

RESULTS = Path(__file__).parents[1] / "bench" / "results"
STORED = json.loads((RESULTS / "simulating.json").read_text(encoding="utf-8"))
ONE = Service("one at a time", step_s={1: 0.01}, prompt_token_s=1.0)
"""A prompt's tokens are the seconds that it takes; an answer of one token comes with its end."""
FOUR = Service(
    "four at a time", step_s={1: 0.2, 2: 0.25, 3: 0.3, 4: 0.4}, prompt_token_s=0.01, reading_s=0.03, batch=25
)
ROOM = {"cpu_us_per_token": 100.0, "cpu_ms_per_request": 3.0}


def drawn(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secrets


def arriving(rate: float, count: int, seed: int, prompt_s=None) -> list[list[Ask]]:
    """Learners who come one after the other, and ask once; a prompt of one second if none is given."""
    chance, now, plans = drawn(seed), 0.0, []
    for _ in range(count):
        now += chance.expovariate(rate)
        plans.append([Ask(now, prompt_s(chance) if prompt_s else 1.0, 1)])
    return plans


def waits(jobs: list[Job]) -> list[float]:
    return [job.granted - job.came for job in jobs]


def erlang_c(servers: int, load: float) -> float:
    """The chance that who comes has to wait (M/M/c)."""
    most = load**servers / math.factorial(servers) / (1 - load / servers)
    return most / (sum(load**k / math.factorial(k) for k in range(servers)) + most)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_with_equal_requests_waits_as_m_d_1_says(load):
    outcome = simulate(arriving(load, 10_000, seed=1), ONE, fair=False)
    assert statistics.fmean(waits(outcome.jobs)) == pytest.approx(load / (2 * (1 - load)), rel=0.15)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (3, 0.8)])
def test_servers_with_one_slot_wait_as_m_m_c_says(servers, load):
    plans = arriving(load * servers, 40_000, seed=2, prompt_s=lambda chance: chance.expovariate(1.0))
    service_of_all = replace(ONE, batch=10**9)
    outcome = simulate(plans, service_of_all, servers=servers, fair=False)
    expected = erlang_c(servers, load * servers) / (servers * (1 - load))
    assert statistics.fmean(waits(outcome.jobs)) == pytest.approx(expected, rel=0.15)
    working = sum(seconds for seconds, _ in outcome.servers) / servers / outcome.span_s
    assert working == pytest.approx(load, rel=0.03)


def test_each_of_many_servers_takes_the_next_request_as_soon_as_it_is_free():
    plans = arriving(19.0, 5_000, seed=4, prompt_s=lambda chance: chance.expovariate(1.0))
    outcome = simulate(plans, replace(ONE, batch=10**9), servers=20, fair=False)
    free, expected = [0.0] * 20, []
    for (ask,) in plans:
        began = max(ask.think_s, heapq.heappop(free))
        expected.append(pytest.approx(began - ask.think_s, abs=1e-6))
        heapq.heappush(free, began + ask.prompt)
    assert waits(sorted(outcome.jobs, key=lambda job: job.learner)) == expected
    assert max(waits(outcome.jobs)) > 0


def test_slots_that_do_not_slow_each_other_wait_as_m_m_c_says():
    chance, now, plans = drawn(3), 0.0, []
    for _ in range(10_000):
        now += chance.expovariate(3.2)
        plans.append([Ask(now, 0.0, 1 + int(chance.expovariate(1 / 200)))])
    free = Service("slots", step_s=dict.fromkeys(range(1, 5), 0.005), prompt_token_s=0.0)
    outcome = simulate(plans, free, fair=False)
    mean_s = statistics.fmean(plan[0].tokens for plan in plans) * 0.005
    load = 3.2 * mean_s
    expected = erlang_c(4, load) * mean_s / (4 - load)
    assert statistics.fmean(waits(outcome.jobs)) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("fair", [True, False])
def test_a_class_that_thinks_works_as_the_machine_repairman_model_says(fair):
    """N learners think and are served, both exponentially: the share of time that the server works (M/M/1//N)."""
    count, think_s = 12, 10.0
    chances = [drawn(number) for number in range(count)]
    plans = [
        [Ask(chance.expovariate(1 / think_s), chance.expovariate(1.0), 1) for _ in range(1000)]
        for chance in chances
    ]
    outcome = simulate(plans, replace(ONE, batch=10**9), fair=fair)
    weights = [math.perm(count, k) / think_s**k for k in range(count + 1)]
    working = sum(seconds for seconds, _ in outcome.servers) / outcome.span_s
    assert working == pytest.approx(1 - weights[0] / sum(weights), rel=0.03)


@pytest.mark.parametrize("fair", [True, False])
def test_littles_law_holds(fair):
    case = Case(300, 4, fair=fair, scripts=3)
    plans, whose = simulating.plans(case, seed=1)
    outcome = simulate(plans, service.on_gpu(), servers=4, whose=whose, fair=fair, until_s=400.0)
    rate = len(outcome.jobs) / outcome.seconds
    mean_wait = statistics.fmean(waits(outcome.jobs))
    # The queue's length was summed up until the last might ask; in the end it runs empty.
    assert outcome.waiting_s / outcome.span_s == pytest.approx(
        rate * mean_wait * outcome.seconds / outcome.span_s, rel=0.1
    )
    assert mean_wait > 0.5


def stepped(plans: list[list[Ask]], times: Service) -> list[tuple[float, float]]:
    """First and last token of each request at one server, reckoned step by step; first come first served."""
    now, waiting = 0.0, sorted((plan[0].think_s, number) for number, plan in enumerate(plans))
    reading: list[list[float]] = []
    writing: list[list[float]] = []
    found: dict[int, list[float]] = {}
    while waiting or reading or writing:
        if not reading and not writing:
            now = max(now, waiting[0][0])
        while waiting and waiting[0][0] <= now and len(reading) + len(writing) < times.slots:
            number = waiting.pop(0)[1]
            reading.append([number, plans[number][0].prompt, plans[number][0].tokens])
        room, read = float(times.batch), 0.0
        seconds = (times.step(len(writing)) if writing else 0.0) + (times.reading_s if reading else 0.0)
        while reading and room > 0:
            part = min(room, reading[0][1])
            reading[0][1] -= part
            room, read = room - part, read + part
            if reading[0][1] > 0:
                break
            writing.append(reading.pop(0))
        now += seconds + read * times.prompt_token_s
        for each in list(writing):
            found.setdefault(int(each[0]), []).append(now)
            each[2] -= 1
            if not each[2]:
                writing.remove(each)
    return [(found[number][0], found[number][-1]) for number in range(len(plans))]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=12)
)
def test_many_steps_at_once_come_to_the_same_as_one_after_the_other(asks):
    # No two come at the same time, nor just when a step ends: who is first then is left open.
    plans = [
        [Ask(0.0711317 * came + 0.0000173 * number, prompt, tokens)]
        for number, (came, prompt, tokens) in enumerate(asks)
    ]
    outcome = simulate(plans, FOUR, fair=False)
    jobs = sorted(outcome.jobs, key=lambda job: job.learner)
    expected = stepped(plans, FOUR)
    assert [job.first for job in jobs] == pytest.approx([first for first, _ in expected])
    assert [job.ended for job in jobs] == pytest.approx([last for _, last in expected])


@settings(max_examples=40, deadline=None)
@given(
    servers=st.integers(1, 4),
    fair=st.booleans(),
    limited=st.booleans(),
    losses=st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 60), st.floats(0.1, 9)),
        max_size=3,
        unique_by=lambda each: each[0],
    ),
    seed=st.integers(0, 1000),
)
def test_every_question_is_answered_once_whatever_is_lost(servers, fair, limited, losses, seed):
    chance = drawn(seed)
    plans = [
        [Ask(chance.uniform(0, 5), chance.randint(1, 60), chance.randint(1, 40)) for _ in range(4)]
        for _ in range(20)
    ]
    outcome = simulate(
        plans,
        FOUR,
        servers=servers,
        whose=[number // 4 for number in range(20)],
        quota=Quota(concurrent=2, queue=6) if limited else None,
        fair=fair,
        losses=[
            Loss(at, seen_s=seen, back_s=seen + 20, server=server)
            for server, at, seen in losses
            if server < servers
        ],
    )
    assert sorted((job.learner, id(job.ask)) for job in outcome.jobs) == sorted(
        (number // 4, id(ask)) for number, plan in enumerate(plans) for ask in plan
    )
    for job in outcome.jobs:
        assert job.asked <= job.came <= job.granted <= job.first <= job.ended
        assert job.left == 0
    for working, slots in outcome.servers:
        assert 0 <= working <= outcome.seconds + 1e-6
        assert slots <= working * FOUR.slots + 1e-6


def test_the_same_seed_gives_the_same_class_and_another_seed_another():
    case, times = Case(100, 2), service.on_gpu()
    first, again, other = (simulating.once(case, times, 0.003, ROOM, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_with_the_rooms_turns_a_program_that_asks_without_end_holds_up_nobody():
    case, times = Case(150, 4, scripts=4), service.on_gpu()
    queue, turns, quota = (
        simulating.once(each, times, 0.0, ROOM, 1)
        for each in (replace(case, fair=False), case, replace(case, concurrent=2))
    )
    assert turns["ttft_s p95"] < queue["ttft_s p95"] / 3
    assert quota["ttft_s p95"] < queue["ttft_s p95"] / 3
    assert quota["refused"] > 0 == turns["refused"]


def test_who_was_answered_by_a_lost_server_waits_until_it_is_noticed_and_is_answered_by_another():
    case = Case(100, 3, loss=Loss(300.0, seen_s=10.0))
    times = service.on_gpu()
    whole, lost = (simulating.once(each, times, 0.0, ROOM, 1) for each in (replace(case, loss=None), case))
    assert whole["lost"] == 0 < lost["lost"]
    assert lost["ttft_s p99"] > whole["ttft_s p99"]
    assert lost["working"] < whole["working"]
    plans, _ = simulating.plans(case, 1)
    jobs = simulate(plans, times, servers=3, losses=[Loss(300.0, seen_s=10.0)], until_s=400.0).jobs
    assert all(job.first - job.asked > 0 for job in jobs if job.lost)
    assert max(job.first - job.asked for job in jobs if job.lost) > 5


def test_all_that_was_asked_counts_however_late_it_was_answered():
    """Twice as many learners as a GPU can serve: the waiting is as long as the balance of all says."""
    case, times = Case(140, 1, tokens=256, most=10**6), service.on_gpu()
    plans, _ = simulating.plans(case, 1)
    outcome = simulate(plans, times, fair=False, from_s=300.0, until_s=2000.0)
    rate = len(outcome.jobs) / outcome.span_s
    response = statistics.fmean(job.ended - job.asked for job in outcome.jobs)
    assert rate == pytest.approx(times.capacity(case.prompt, case.tokens), rel=0.05)
    assert response == pytest.approx(case.learners / rate - case.think_s, rel=0.1)


def test_times_between_those_that_are_known_lie_on_a_line_and_none_is_made_up_beyond():
    times = Service("", step_s={1: 1.0, 8: 8.0}, prompt_token_s=0.0)
    assert times.step(3) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="nothing is known of 9"):
        times.step(9)
    assert service.from_dict(times.to_dict()) == times


def test_the_gpus_times_are_those_that_were_measured_and_computed_ones_say_so():
    summary = (RESULTS / "gpu" / "summary.md").read_text(encoding="utf-8")
    measured, computed = service.on_gpu(), service.at_the_roof()
    assert f"| {8 / measured.step(8):.0f} |" in summary
    assert f"| {1 / measured.step(1):.0f} |" in summary
    assert measured.measured
    assert not computed.measured
    assert computed.source.startswith("computed")
    assert all(computed.step(busy) < measured.step(busy) for busy in (1, 2, 4, 8))


@pytest.mark.parametrize("count", list(STORED["measured"]["learners"]))
def test_one_server_simulated_does_what_was_measured(count):
    """The stored run: its service times, its think times; what 1 to 30 learners got."""
    measured = STORED["measured"]
    times = service.from_dict(measured["service"])
    blocks = {count: measured["learners"][count]}
    found = serving.check({**measured, "learners": blocks}, times)[count]
    assert found == STORED["check"][count]
    assert found["tokens_per_s_ratio"] == pytest.approx(1, abs=0.05)
    simulated, real = found["ttft_ms"]["simulated"], found["ttft_ms"]["measured"]
    assert simulated["p50"] == pytest.approx(real["p50"], rel=0.25)
    assert simulated["p95"] == pytest.approx(real["p95"], rel=0.25)


def test_the_stored_table_follows_from_its_cells_and_more_gpus_make_nobody_wait_longer():
    for row in STORED["sweep"].values():
        cells = [cell for cell in row.values() if cell["simulated"]]
        assert cells
        for fewer, more in itertools.pairwise(cells):
            assert more["ttft_s p95"]["mean"] <= fewer["ttft_s p95"]["mean"] * 1.05
    assert {learners: simulating.needed(row) for learners, row in STORED["sweep"].items()} == STORED["needed"]


def test_a_stored_cell_can_be_had_again():
    cell = STORED["sweep"]["60"]["2"]
    times, added_s = service.on_gpu(), STORED["room_added_ms"] / 1000
    found = [
        simulating.once(Case(60, 2), times, added_s, STORED["measured"]["room"], seed) for seed in (1, 2, 3)
    ]
    assert simulating.interval([each["ttft_s p95"] for each in found]) == cell["ttft_s p95"]


def test_a_real_crowd_thinks_and_asks_as_the_benchmark_of_learners_does(require_engine):
    work = crowds.Work(learners=5, requests=2, think_s=0.02, tokens=8, seed=3)
    chance = drawn(3002)
    assert work.plan(2)[0][0] == chance.expovariate(1 / 0.02)
    assert learners._THINK_S == serving.THINK_S
    with llmlab.start("tiny", backend="native", slots=2) as server:
        path = server.record.endpoint.socket
        assert path is not None
        crowd = crowds.meet([path], work)
    assert [each.problem for each in crowd.asked] == [""] * 10
    assert sorted(each.learner for each in crowd.asked) == sorted(2 * list(range(5)))
    assert crowd.tokens_per_s > 0
    gone = crowds.meet([path], work)
    assert len(gone.failed) == 10
    assert gone.ttft_s == []


def test_what_a_fault_did_is_read_off_the_answers():
    def asked(at_s: float, problem: str = "") -> crowds.Asked:
        return crowds.Asked(0, at_s, 0.5, None if problem else 0.1, 0.4, 0 if problem else 32, problem)

    crowd = crowds.Crowd(
        (asked(1.0), asked(4.8, "lost"), asked(6.0, "lost"), asked(9.0), asked(9.3)), 0.0, 10.0
    )
    found = cluster.missed(crowd, 5.0)
    assert (found["requests"], found["after_the_fault"], found["failed"]) == (5, 4, 2)
    assert found["seconds"] == pytest.approx(1.5)
    assert found["quiet_s"] == pytest.approx(4.5)
    assert found["problems"] == ["lost"]
    well = cluster.missed(crowds.Crowd((asked(1.0), asked(6.0)), 0.0, 7.0), 5.0)
    assert (well["failed"], well["seconds"], well["quiet_s"]) == (0, 0.0, 1.5)
