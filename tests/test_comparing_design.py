"""The order of measurements and the number of blocks."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower

from llmlab.comparing import design
from llmlab.comparing.design import blocks_needed, ladder_order, order, planned_blocks, resolution

EDGE = math.log(1.03)
fractions = st.fractions(min_value=-100, max_value=100, max_denominator=1000)


def error(places: str, drift: Callable[[int], Fraction]) -> Fraction:
    """What a drift adds to the block's difference, B − A, if the arms are equal."""
    means = {
        arm: sum((drift(place) for place, at in enumerate(places) if at == arm), Fraction(0))
        / places.count(arm)
        for arm in "AB"
    }
    return means["B"] - means["A"]


# The order.


@given(start=fractions, slope=fractions)
def test_a_linear_drift_cancels_exactly_in_both_orders_and_not_in_a_plain_one(
    start: Fraction, slope: Fraction
):
    def drift(place: int) -> Fraction:
        return start + slope * place

    assert error("ABBA", drift) == error("BAAB", drift) == 0
    assert error("AB", drift) == error("ABAB", drift) == slope
    assert error("AABB", drift) == 2 * slope


@pytest.mark.parametrize("before", [1, 2, 3])
def test_a_step_in_the_machines_speed_is_only_reduced(before: int):
    def drift(place: int) -> Fraction:
        return Fraction(int(place >= before))

    expected = {1: Fraction(1, 2), 2: Fraction(0), 3: Fraction(-1, 2)}[before]
    assert error("ABBA", drift) == expected
    assert error("BAAB", drift) == -expected
    assert abs(expected) < error("AABB", lambda place: Fraction(int(place >= 2))) == 1


@given(blocks=st.integers(1, 30).map(lambda half: 2 * half), seed=st.integers(), bend=fractions)
def test_a_curved_drift_cancels_over_an_even_number_of_blocks(blocks: int, seed: int, bend: Fraction):
    errors = [error(places, lambda place: bend * place**2) for places in order(blocks, seed)]
    assert {abs(e) for e in errors} == {2 * abs(bend)}
    assert sum(errors) == 0


@given(blocks=st.integers(1, 60), seed=st.integers())
def test_both_orders_occur_equally_often_up_to_one(blocks: int, seed: int):
    drawn = order(blocks, seed)
    count = Counter(drawn)
    assert len(drawn) == blocks
    assert set(count) <= {"ABBA", "BAAB"}
    assert abs(count["ABBA"] - count["BAAB"]) == blocks % 2


def test_an_order_is_the_same_for_the_same_seed_in_every_version_of_python():
    assert order(8, 1) == order(8, 1)
    assert order(8, 1) == ("ABBA", "BAAB", "BAAB", "ABBA", "BAAB", "ABBA", "ABBA", "BAAB")
    assert ladder_order(4, 2, 1) == ((0, 3, 2, 1, 1, 2, 3, 0), (1, 0, 2, 3, 3, 2, 0, 1))


def test_which_order_comes_first_is_a_fair_coin():
    first = sum(order(1, seed) == ("ABBA",) for seed in range(4000))
    assert abs(first - 2000) < 3.5 * math.sqrt(1000)


# The order of a ladder.


@given(
    rungs=st.integers(2, 7), blocks=st.integers(1, 5), seed=st.integers(), start=fractions, slope=fractions
)
def test_a_linear_drift_shifts_all_rungs_alike(
    rungs: int, blocks: int, seed: int, start: Fraction, slope: Fraction
):
    drawn = ladder_order(rungs, blocks, seed)
    assert len(drawn) == blocks
    for places in drawn:
        assert sorted(places) == sorted([*range(rungs)] * 2)
        shifts = {
            sum(start + slope * place for place, at in enumerate(places) if at == rung) / 2
            for rung in range(rungs)
        }
        assert shifts == {start + slope * (rungs - Fraction(1, 2))}


def test_every_permutation_of_a_ladder_is_as_likely():
    drawn = Counter(places[:3] for places in ladder_order(3, 6000, 5))
    assert len(drawn) == 6
    assert stats.chisquare(list(drawn.values())).pvalue > 0.001


@pytest.mark.parametrize(
    "wrong", [lambda: order(0, 1), lambda: ladder_order(1, 3, 1), lambda: ladder_order(3, 0, 1)]
)
def test_an_order_of_nothing_is_refused(wrong: Callable[[], object]):
    with pytest.raises(ValueError, match="must be at least"):
        wrong()


# The power.


@pytest.mark.parametrize(
    ("cv", "subjects", "expected"),
    # Of R's package PowerTOST, from the examples in its manual: limits 0.80 … 1.25, true ratio 0.95.
    [(0.25, 24, 0.7391155), (0.25, 22, 0.6953401), (0.3, 40, 0.8158453)],
)
def test_the_power_is_the_published_one_of_a_two_period_crossover(cv: float, subjects: int, expected: float):
    spread = math.sqrt(2 * math.log1p(cv**2) / subjects)
    power = design._power(spread, subjects - 2, math.log(1.25), math.log(0.95), 0.95)
    assert power == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("n", [3, 4, 6, 12, 40])
@pytest.mark.parametrize("effect", [0.0, 0.01])
@pytest.mark.parametrize("sd", [0.01, 0.03, 0.08])
def test_the_power_is_phillips_integral(n: int, effect: float, sd: float):
    """The integral over s in the units of d, adaptively, with scipy's own distributions."""
    t, root = stats.t.ppf(0.95, n - 1), math.sqrt(n)

    def inside(s: float) -> float:
        room = EDGE - t * s / root
        mean = stats.norm(effect, sd / root)
        density = stats.chi.pdf(s, n - 1, scale=sd / math.sqrt(n - 1))
        return float(density * (mean.cdf(room) - mean.cdf(-room)))

    exact = integrate.quad(inside, 0, EDGE * root / t, limit=200)[0]
    assert design._power(sd / root, n - 1, EDGE, effect, 0.95) == pytest.approx(exact, abs=2e-5)


@pytest.mark.parametrize("n", [4, 8, 20])
@pytest.mark.parametrize("effect", [0.005, 0.02, 0.03])
def test_the_chance_of_a_difference_is_statsmodels_where_nothing_can_be_equivalent(n: int, effect: float):
    expected = TTestPower().power(effect / 0.03, n, 0.05, alternative="two-sided")
    found = design._deciding(0.03 / math.sqrt(n), n - 1, 1e-12, effect, 0.95)
    assert found == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("sd", [0.02, 0.03, 0.05, 0.08])
@pytest.mark.parametrize("effect", [0.0, 0.01])
def test_the_blocks_needed_reach_the_stated_power_and_one_less_does_not(sd: float, effect: float):
    n, runs = blocks_needed(sd, effect=effect), 60_000
    rng = np.random.default_rng(11)

    def shown(blocks: int) -> float:
        mean = rng.normal(effect, sd / math.sqrt(blocks), runs)
        s = sd * np.sqrt(rng.chisquare(blocks - 1, runs) / (blocks - 1))
        p = np.maximum(
            stats.t.sf((mean + EDGE) / (s / math.sqrt(blocks)), blocks - 1),
            stats.t.cdf((mean - EDGE) / (s / math.sqrt(blocks)), blocks - 1),
        )
        return float(np.mean(p < 0.05))

    error = 3 * math.sqrt(0.8 * 0.2 / runs)
    assert shown(n) > 0.8 - error
    assert shown(n - 1) < 0.8 + error


@pytest.mark.parametrize(
    ("sd", "exact", "large_sample"), [(0.02, 6, 4), (0.03, 11, 9), (0.05, 26, 25), (0.08, 65, 63)]
)
def test_the_exact_number_of_blocks_is_above_the_large_sample_one(sd: float, exact: int, large_sample: int):
    z = stats.norm.ppf(0.95) + stats.norm.ppf(0.9)
    assert math.ceil((z * sd / EDGE) ** 2) == large_sample
    assert blocks_needed(sd) == exact
    powers = [design._power(sd / math.sqrt(n), n - 1, EDGE, 0.0, 0.95) for n in range(3, exact + 1)]
    assert all(power < 0.8 for power in powers[:-1]) or exact == 3
    assert powers[-1] >= 0.8


@given(n=st.integers(3, 200), sd=st.floats(0.001, 0.5), effect=st.floats(-1, 1))
def test_no_more_than_5_percent_are_called_equivalent_at_the_margins_edge_or_beyond(n, sd, effect):
    beyond = math.copysign(EDGE + abs(effect), effect)
    assert design._power(sd / math.sqrt(n), n - 1, EDGE, beyond, 0.95) <= 0.05 + 1e-5


def test_blocks_that_do_not_spread_are_few():
    assert blocks_needed(0.0) == 3
    assert resolution(0.0, 5) == 0.0


def test_what_no_float_can_hold_is_infinite():
    assert resolution(1e4, 3) == math.inf


@given(sd=st.floats(0.002, 0.2), margin=st.floats(0.01, 0.2))
def test_what_the_blocks_needed_resolve_is_the_margin_and_one_less_does_not_resolve_it(
    sd: float, margin: float
):
    n = blocks_needed(sd, margin=margin)
    assert resolution(sd, n) <= margin * (1 + 1e-9)
    if n > 3:
        assert resolution(sd, n - 1) > margin * (1 - 1e-9)


@given(n=st.integers(3, 100), power=st.floats(0.05, 0.99))
def test_the_resolution_has_the_stated_power(n: int, power: float):
    edge = math.log1p(resolution(0.02, n, power=power))
    assert design._power(0.02 / math.sqrt(n), n - 1, edge, 0.0, 0.95) == pytest.approx(power, abs=1e-6)


def test_more_power_a_stricter_level_or_a_true_effect_take_more_blocks():
    assert blocks_needed(0.03) < blocks_needed(0.03, power=0.9)
    assert blocks_needed(0.03) < blocks_needed(0.03, level=0.99)
    assert blocks_needed(0.03) < blocks_needed(0.03, effect=0.01) == blocks_needed(0.03, effect=-0.01)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: blocks_needed(0.02, effect=0.03), "not within the margin"),
        (lambda: blocks_needed(0.02, effect=-0.03), "not within the margin"),
        (lambda: blocks_needed(0.02, effect=math.nan), "not within the margin"),
        (lambda: blocks_needed(19.0, margin=1e-6), "more than 1000000"),
        (lambda: blocks_needed(-0.1), "sd_log"),
        (lambda: blocks_needed(math.nan), "sd_log"),
        (lambda: blocks_needed(0.1, margin=0.0), "margin"),
        (lambda: blocks_needed(0.1, power=1.0), "power"),
        (lambda: blocks_needed(0.1, level=0.5), "level"),
        (lambda: resolution(0.1, 2), "at least 3"),
        (lambda: planned_blocks([0.1, 0.2]), "at least 3"),
        (lambda: planned_blocks([0.1, 0.2, 0.1], most=2), "at least 3"),
        (lambda: planned_blocks([0.1, 0.2, math.inf]), "finite"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_the_reason(wrong: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        wrong()


# The plan after a pilot.

PILOT = (0.012, -0.021, 0.034, 0.005, -0.018)


def test_a_plan_takes_the_upper_limit_of_the_pilots_spread():
    plan = planned_blocks(PILOT, 0.03, 100)
    s = np.std(PILOT, ddof=1)
    assert plan.sd_log == pytest.approx(s)
    assert plan.sd_upper == pytest.approx(s * math.sqrt(4 / stats.chi2.ppf(0.2, 4)))
    assert plan.blocks == blocks_needed(plan.sd_upper) > blocks_needed(plan.sd_log)
    assert not plan.capped
    assert plan.resolution <= 0.03
    assert f"{plan.blocks} blocks resolve ±3 %" in plan.reason


def test_a_plan_that_needs_more_than_there_may_be_says_what_it_can_resolve():
    plan = planned_blocks(PILOT, 0.03, 8)
    assert (plan.blocks, plan.capped) == (8, True)
    assert plan.resolution == resolution(plan.sd_upper, 8) > 0.03
    assert f"would take {planned_blocks(PILOT, 0.03, 100).blocks} blocks" in plan.reason
    assert f"resolve ±{100 * plan.resolution:.1f} %" in plan.reason


def test_a_plan_has_enough_blocks_for_a_second_opinion_if_there_may_be_so_many():
    assert planned_blocks([0.0, 0.0, 0.0]).blocks == 6
    short = planned_blocks([0.0, 0.0, 0.0], most=4)
    assert (short.blocks, short.capped) == (4, False)


def test_a_hopeless_plan_is_capped():
    plan = planned_blocks([-19.0, 19.0, 0.0], 1e-6, 2_000_000)
    assert plan.capped
    assert "more than 1000000" in plan.reason


def test_a_plan_is_plain_data_for_json():
    plan = planned_blocks(PILOT)
    assert json.loads(json.dumps(plan.to_dict()))["blocks"] == plan.blocks


@pytest.mark.parametrize("pilot", [4, 8])
def test_in_4_of_5_pilots_the_plan_is_large_enough(pilot: int):
    rng, sd, runs = np.random.default_rng(2), 0.03, 700
    enough = sum(
        planned_blocks(rng.normal(0, sd, pilot).tolist(), 0.03, 10_000).blocks >= blocks_needed(sd)
        for _ in range(runs)
    )
    assert enough / runs > 0.8 - 3 * math.sqrt(0.8 * 0.2 / runs)
