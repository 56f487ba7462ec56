"""What the blocks of a comparison say, against scipy, statsmodels and simulated machines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from llmlab.comparing import statistics
from llmlab.comparing.statistics import (
    Finding,
    chain,
    compare,
    difference,
    floor,
    hodges_lehmann,
    outliers,
    resolution,
)

EDGE = math.log(1.03)
BLOCKS = (-0.011, 0.004, -0.019, 0.002, -0.008, 0.013, -0.016, -0.003)
# Hamilton's depression scale before and after, Hollander & Wolfe, Table 3.1.
BEFORE = (1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30)
AFTER = (0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29)

blocks_of_differences = st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=12)
NEGLIGIBLE = {"equivalent", "different but negligible"}
APART = {"different", "different but negligible"}


# Against scipy and statsmodels, on fixed data.


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_interval_and_p_are_scipys(level: float):
    found = compare(BLOCKS, level=level)
    theirs = stats.ttest_1samp(BLOCKS, 0)
    wide, narrow = theirs.confidence_interval(level), theirs.confidence_interval(2 * level - 1)
    assert found.n == 8
    assert found.ratio == pytest.approx(math.exp(np.mean(BLOCKS)))
    assert found.sd_log == pytest.approx(np.std(BLOCKS, ddof=1))
    assert found.p_different == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx((math.exp(wide.low), math.exp(wide.high)))
    assert (found.equivalence_low, found.equivalence_high) == pytest.approx(
        (math.exp(narrow.low), math.exp(narrow.high))
    )


@pytest.mark.parametrize("shift", [-0.2, -0.02, 0.0, 0.01, 0.03, 0.2])
@pytest.mark.parametrize("margin", [0.01, 0.03, 0.1])
def test_the_p_of_equivalence_is_statsmodels_and_agrees_with_the_verdict(shift: float, margin: float):
    d = np.array(BLOCKS) + shift
    found = compare(d.tolist(), margin=margin)
    p = DescrStatsW(d).ttost_mean(-math.log1p(margin), math.log1p(margin))[0]
    assert found.p_equivalent == pytest.approx(p)
    assert (found.verdict in NEGLIGIBLE) == (p < 0.05)
    assert (found.verdict in APART) == (stats.ttest_1samp(d, 0).pvalue < 0.05)


def test_the_signed_rank_interval_is_the_published_one():
    """Hollander & Wolfe, examples 3.1, 3.3 and 3.4: −0.46, and −0.786 … −0.010 at 96.1 %."""
    found = hodges_lehmann([after - before for before, after in zip(BEFORE, AFTER, strict=True)], 0.96)
    assert found.log == pytest.approx(-0.46)
    assert found.low == pytest.approx(math.exp(-0.786))
    assert found.high == pytest.approx(math.exp(-0.010))


@pytest.mark.parametrize("n", [6, 7, 10, 25, 50, 51, 80])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_signed_rank_interval_holds_what_scipys_test_does_not_reject(n: int, level: float):
    d = np.random.default_rng(n).standard_t(3, n) * 0.03
    found = hodges_lehmann(d.tolist(), level)
    assert found.low is not None
    assert found.high is not None

    def p(at: float) -> float:
        method = "exact" if n <= 50 else "asymptotic"
        return float(stats.wilcoxon(d - at, method=method, correction=n > 50).pvalue)

    low, high, step = math.log(found.low), math.log(found.high), 1e-9
    assert p(low - step) <= 1 - level < p(low + step)
    assert p(high + step) <= 1 - level < p(high - step)


def test_the_signed_rank_interval_needs_6_blocks_at_95_percent_and_5_at_90():
    for n, level, there in ((5, 0.95, False), (6, 0.95, True), (4, 0.9, False), (5, 0.9, True)):
        found = hodges_lehmann(BLOCKS[:n], level)
        assert (found.low is not None, found.high is not None) == (there, there)
    few = compare(BLOCKS[:5])
    assert (few.robust_low, few.robust_high, few.robust_agrees) == (None, None, None)
    assert few.robust_ratio > 0


def test_one_wild_block_moves_the_t_interval_and_hardly_the_signed_rank_one():
    calm, wild = compare([*BLOCKS, *BLOCKS]), compare([*BLOCKS, *BLOCKS, 0.9])
    assert calm.verdict == "equivalent"
    assert calm.robust_agrees is True
    assert wild.verdict == "inconclusive"
    assert wild.robust_agrees is False
    assert wild.robust_ratio == pytest.approx(calm.robust_ratio, abs=0.01)
    assert wild.ratio > calm.ratio + 0.05


# The verdicts.


@pytest.mark.parametrize(
    ("shift", "scale", "verdict"),
    [
        (0.0, 1, "equivalent"),
        (0.012, 1, "different but negligible"),
        (-0.012, 1, "different but negligible"),
        (0.08, 1, "different"),
        (-0.08, 1, "different"),
        (0.028, 1, "different"),  # apart from 1, and not shown to be within the margin
        (0.0, 6, "inconclusive"),
        (0.03, 6, "inconclusive"),
    ],
)
def test_each_verdict_follows_from_where_the_two_intervals_lie(shift: float, scale: float, verdict: str):
    d = np.array(BLOCKS)
    found = compare(((d - d.mean()) * scale + shift).tolist())
    assert found.verdict == verdict
    assert (found.more_blocks is not None) == (verdict == "inconclusive")


@pytest.mark.parametrize(
    ("value", "verdict", "p_different", "p_equivalent"),
    [
        (0.0, "equivalent", 1.0, 0.0),
        (0.1 / 3, "different", 0.0, 1.0),
        (-0.01, "different but negligible", 0.0, 0.0),
        (EDGE, "different", 0.0, 1.0),
    ],
)
def test_blocks_that_are_all_the_same_have_an_interval_of_no_width(value, verdict, p_different, p_equivalent):
    found = compare([value] * 7)
    assert found.ratio == found.low == found.high == found.equivalence_low == math.exp(value)
    assert (found.sd_log, found.verdict, found.more_blocks) == (0.0, verdict, None)
    assert (found.p_different, found.p_equivalent) == (p_different, p_equivalent)
    assert found.robust_agrees is True


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: compare([0.1, 0.2]), "2 blocks are too few: it takes at least 3"),
        (lambda: compare([]), "0 blocks"),
        (lambda: compare([0.1, 0.2, math.nan]), "finite"),
        (lambda: compare([0.1, 0.2, -math.inf]), "finite"),
        (lambda: compare([0.1, 0.2, 30.0]), "between"),
        (lambda: compare(BLOCKS, margin=0.0), "margin"),
        (lambda: compare(BLOCKS, margin=math.nan), "margin"),
        (lambda: compare(BLOCKS, level=0.5), "level"),
        (lambda: compare(BLOCKS, level=1.0), "level"),
        (lambda: hodges_lehmann([0.1]), "at least 3"),
        (lambda: hodges_lehmann(BLOCKS, 95), "level"),
        (lambda: floor([0.1]), "at least 3"),
        (lambda: difference([], [1.0]), "needs measurements"),
        (lambda: difference([1.0], [0.0]), "above 0"),
        (lambda: difference([math.inf], [1.0]), "finite"),
        (lambda: difference([1.0], [math.nan]), "finite"),
        (lambda: chain([]), "2 rungs"),
        (lambda: chain([[1.0]] * 3), "2 rungs"),
        (lambda: chain([[1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0]]), "one value for each rung"),
        (lambda: chain([[1.0, 2.0]] * 2), "at least 3"),
        (lambda: chain([[1.0, math.nan]] * 3), "finite"),
    ],
)
def test_what_says_nothing_is_refused_with_the_reason(wrong: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_finding_is_a_sentence():
    assert compare(BLOCKS).sentence("generation rate", "native", "container") == (
        "generation rate: container over native 0.9953 (95 % interval 0.9863 … 1.0043, 8 blocks):"
        " equivalent within ±3 %."
    )
    slower = compare([d - 0.08 for d in BLOCKS]).sentence("generation rate", "native", "container")
    assert slower.endswith(": different, container is 8.1 % lower.")
    by_far = compare([d - math.log(45) for d in BLOCKS]).sentence("generation rate", "native", "container")
    assert by_far.endswith(": different, container is 45.2 times lower.")
    barely = compare([d + 0.017 for d in BLOCKS]).sentence("TTFT", "native", "container")
    assert barely.endswith(": different but negligible, container is 1.2 % higher, which is within ±3 %.")


def test_a_sentence_says_what_cannot_be_told_and_how_many_blocks_would_tell():
    found = compare([5 * d for d in BLOCKS])
    assert found.sentence("TTFT", "a", "b").endswith(
        f": cannot tell at ±3 %; about {found.more_blocks} more blocks would be needed."
    )
    wild = compare([*BLOCKS, *BLOCKS, 0.9]).sentence("TTFT", "a", "b")
    assert re.search(r" The signed-rank interval, 0\.99 … 1\.0\d, does not lead to the same verdict\.$", wild)


def test_one_more_block_is_not_called_blocks():
    found = compare([0.11, 0.2, 0.29])
    assert found.more_blocks == 1
    assert "about 1 more block would be needed" in found.sentence("TTFT", "a", "b")


def test_a_finding_and_a_floor_are_plain_data_for_json():
    for d in (BLOCKS, BLOCKS[:4], [5 * value for value in BLOCKS]):
        found = compare(d)
        back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert Finding(**back) == found
    assert json.loads(json.dumps(floor(BLOCKS).to_dict(), allow_nan=False))["n"] == 8


# What must hold whatever is measured.


@given(d=blocks_of_differences)
def test_swapping_the_arms_inverts_ratio_and_intervals_and_keeps_the_verdict(d: list[float]):
    there, back = compare(d), compare([-value for value in d])
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert (back.low, back.high) == pytest.approx((1 / there.high, 1 / there.low))
    assert (back.equivalence_low, back.equivalence_high) == pytest.approx(
        (1 / there.equivalence_high, 1 / there.equivalence_low)
    )
    assert (back.verdict, back.more_blocks, back.robust_agrees) == (
        there.verdict,
        there.more_blocks,
        there.robust_agrees,
    )
    assert (back.p_different, back.p_equivalent) == pytest.approx((there.p_different, there.p_equivalent))


@given(
    a=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4),
    b=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4),
    unit=st.floats(1e-6, 1e6),
)
def test_a_block_in_other_units_has_the_same_difference(a: list[float], b: list[float], unit: float):
    scaled = difference([unit * value for value in a], [unit * value for value in b])
    assert scaled == pytest.approx(difference(a, b), abs=1e-12)
    assert difference(b, a) == -difference(a, b)
    expected = stats.gmean(b) / stats.gmean(a)
    assert math.exp(difference(a, b)) == pytest.approx(expected)


@given(d=blocks_of_differences, small=st.floats(0.001, 0.3), wider=st.floats(1.0, 3.0))
def test_what_is_negligible_stays_so_at_a_wider_margin(d: list[float], small: float, wider: float):
    narrow, wide = compare(d, margin=small), compare(d, margin=small * wider)
    assert (narrow.low, narrow.high, narrow.p_different) == (wide.low, wide.high, wide.p_different)
    assert wide.p_equivalent <= narrow.p_equivalent + 1e-12
    if narrow.verdict in NEGLIGIBLE:
        assert wide.verdict == narrow.verdict
    if narrow.verdict == "different":
        assert wide.verdict in APART


@given(d=blocks_of_differences)
def test_a_finding_is_in_itself_consistent(d: list[float]):
    found = compare(d)
    assert found.low <= found.equivalence_low <= found.ratio <= found.equivalence_high <= found.high
    assert (found.more_blocks is None) == (found.verdict != "inconclusive")
    assert found.more_blocks is None or found.more_blocks >= 1
    assert 0 <= found.p_different <= 1
    assert 0 <= found.p_equivalent <= 1
    if found.robust_low is not None:
        assert found.robust_high is not None
        assert found.robust_low <= found.robust_ratio <= found.robust_high
    assert found.sentence("x", "a", "b").endswith(".")


@given(d=st.lists(st.floats(-20, 20), min_size=3, max_size=8), level=st.floats(0.6, 0.999))
def test_nothing_that_is_accepted_overflows(d: list[float], level: float):
    found, machine = compare(d, level=level), floor(d, level=level)
    assert json.dumps([found.to_dict(), machine.to_dict()], allow_nan=False)
    assert found.sentence("x", "a", "b")
    assert machine.sentence()


# Simulated machines.


def t_intervals(d: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The t interval of each row, shape (runs, blocks), by scipy."""
    low, high = stats.t.interval(level, d.shape[1] - 1, loc=d.mean(axis=1), scale=stats.sem(d, axis=1))
    return low, high


def monte_carlo_error(rate: float, runs: int) -> float:
    return 3 * math.sqrt(rate * (1 - rate) / runs)


def test_equal_arms_come_out_different_in_no_more_than_5_percent():
    d = np.random.default_rng(1).normal(0, 0.02, (4000, 8))
    apart = sum(compare(row).verdict in APART for row in d)
    assert abs(apart / len(d) - 0.05) <= monte_carlo_error(0.05, len(d))


@pytest.mark.parametrize("noise", ["t3", "log-normal"])
@pytest.mark.parametrize("n", [6, 10, 20])
def test_equal_arms_with_wild_but_symmetric_noise_do_so_too(noise: str, n: int):
    d = NOISES[noise](np.random.default_rng(n), (40_000, n))[0]
    low, high = t_intervals(d, 0.95)
    assert np.mean((low > 0) | (high < 0)) <= 0.05 + monte_carlo_error(0.05, len(d))


def skewed(rng: np.random.Generator, shape: tuple[int, int], sd: float) -> tuple[np.ndarray, float]:
    return rng.lognormal(0, sd, shape), math.exp(sd**2 / 2)


NOISES: dict[str, Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, float]]] = {
    "normal": lambda rng, shape: (rng.standard_normal(shape), 0.0),
    "t3": lambda rng, shape: (rng.standard_t(3, shape), 0.0),
    "log-normal": lambda rng, shape: (rng.lognormal(0, 1, shape) - rng.lognormal(0, 1, shape), 0.0),
    "one arm 0.5": lambda rng, shape: skewed(rng, shape, 0.5),
    "one arm 1": lambda rng, shape: skewed(rng, shape, 1.0),
}
ROWS = {
    "normal": "normal",
    "t3": "t with 3 degrees of freedom",
    "log-normal": "log-normal in both arms (1)",
    "one arm 0.5": "log-normal in one arm only (0.5)",
    "one arm 1": "log-normal in one arm only (1)",
}


@pytest.mark.parametrize("noise", NOISES)
def test_the_interval_covers_the_truth_as_often_as_is_stated(noise: str):
    row = re.search(re.escape(f"    {ROWS[noise]}  ") + "(.*)", statistics.__doc__ or "")
    assert row
    stated = [float(figure) / 100 for figure in re.findall(r"([\d.]+) %", row[1])]
    runs, rng = 30_000, np.random.default_rng(4)
    for n, expected in zip((6, 10, 20, 50), stated, strict=True):
        d, truth = NOISES[noise](rng, (runs, n))
        low, high = t_intervals(d, 0.95)
        covered = float(np.mean((low <= truth) & (truth <= high)))
        assert abs(covered - expected) <= monte_carlo_error(expected, runs) + 0.001, (noise, n)


def test_the_simulated_intervals_are_those_of_compare():
    d = np.random.default_rng(3).standard_t(3, (100, 10)) * 0.02
    low, high = t_intervals(d, 0.95)
    for row, ends in zip(d, zip(low, high, strict=True), strict=True):
        found = compare(row)
        assert (math.log(found.low), math.log(found.high)) == pytest.approx(ends, abs=1e-12)


@pytest.mark.parametrize("n", [6, 10, 20])
@pytest.mark.parametrize("noise", ["normal", "t3", "log-normal"])
def test_the_signed_rank_interval_covers_the_truth_whatever_the_tails(noise: str, n: int):
    runs = 1500
    d = NOISES[noise](np.random.default_rng(n), (runs, n))[0].clip(-20, 20)
    found = [hodges_lehmann(row) for row in d]
    covered = sum((f.low or 0) <= 1 <= (f.high or math.inf) for f in found) / runs
    assert covered >= 0.95 - monte_carlo_error(0.95, runs)


@pytest.mark.parametrize("sd", [0.005, 0.02])
def test_arms_at_the_margins_edge_are_called_equivalent_in_no_more_than_5_percent(sd: float):
    d = np.random.default_rng(9).normal(EDGE, sd, (1500, 8))
    called = sum(compare(row).verdict in NEGLIGIBLE for row in d)
    assert called / len(d) <= 0.05 + monte_carlo_error(0.05, len(d))


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 0.05), (0.012, 0.05), (0.03, 0.05), (0.02, 0.03)])
def test_so_many_more_blocks_decide_in_4_of_5_runs(mean: float, sd: float):
    """Blocks with exactly this mean and SD are inconclusive; if these are the true ones, so many decide."""
    shape = np.array(BLOCKS)
    seen = compare(mean + sd * (shape - shape.mean()) / shape.std(ddof=1))
    assert seen.more_blocks is not None
    n, runs = 8 + seen.more_blocks, 20_000
    d = np.random.default_rng(5).normal(mean, sd, (runs, n))
    wide, narrow = t_intervals(d, 0.95), t_intervals(d, 0.9)
    decided = (wide[0] > 0) | (wide[1] < 0) | ((narrow[0] > -EDGE) & (narrow[1] < EDGE))
    power = float(np.mean(decided))
    assert power > 0.8 - monte_carlo_error(0.8, runs)
    assert power < 0.87  # one block fewer would have been too few


def test_a_run_without_luck_needs_one_more_block_at_least():
    """So many blocks as these would have decided in 4 of 5 runs; this was the fifth."""
    spread = np.linspace(-1, 1, 12)
    seen = compare((0.016 + 0.0273 * spread / spread.std(ddof=1)).tolist())
    assert (seen.verdict, seen.more_blocks) == ("inconclusive", 1)


# What the machine can resolve.


def test_a_floor_says_what_the_same_against_itself_came_out_as():
    found, machine = compare(BLOCKS), floor(BLOCKS)
    half = stats.t.ppf(0.95, 7) * stats.sem(BLOCKS)
    assert machine.half_width == pytest.approx(math.expm1(half))
    assert (machine.n, machine.ratio, machine.sd_log) == (8, found.ratio, found.sd_log)
    assert machine.resolution == resolution(found.sd_log, 8)
    assert (machine.resolves, machine.biased) == (True, False)
    assert machine.sentence() == (
        "The same against itself, 8 blocks: 0.995 ± 0.73 %, which holds ±3 %."
        f" In 4 runs of 5, as many blocks resolve ±{100 * machine.resolution:.1f} %."
    )


def test_a_noisy_machine_cannot_resolve_the_margin_and_says_so():
    machine = floor([6 * d for d in BLOCKS])
    assert not machine.resolves
    assert "does not hold ±3 %: this machine cannot resolve ±3 %." in machine.sentence()
    assert machine.resolution > 0.03


def test_a_procedure_that_prefers_an_arm_is_found_out():
    machine = floor([d + 0.02 for d in BLOCKS])
    assert machine.biased
    assert "differs from itself" in machine.sentence()
    assert floor([d + 0.02 for d in BLOCKS], margin=0.05).biased


# Outliers.


def test_a_block_far_from_the_others_is_flagged_and_not_dropped():
    assert outliers(BLOCKS) == ()
    assert outliers([*BLOCKS, 0.9, *BLOCKS, -0.2]) == (8, 17)
    assert compare([*BLOCKS, 0.9]).n == 9


def test_a_block_is_an_outlier_beyond_three_and_a_half_modified_z_scores():
    calm = [-2.0, -1.0, 0.0, 1.0, 2.0, -1.0, 1.0, 0.0]  # median 0; with one more far above, the MAD stays 1
    limit = 3.5 / 0.6745
    assert outliers([*calm, limit - 0.01]) == ()
    assert outliers([*calm, limit + 0.01]) == (8,)


def test_one_block_that_differs_from_equal_ones_is_flagged():
    assert outliers([0.01] * 7 + [0.02]) == (7,)
    assert outliers([0.0, 0.0, 0.0, 0.0, 0.01, -0.01, 0.01]) == ()  # where three of seven do, none is
    assert outliers([0.01] * 8) == ()
    assert outliers([]) == ()


# The ladder.

RUNGS = [[3.1, 3.0, 2.95, 2.4], [3.2, 3.08, 3.01, 2.52], [3.0, 2.93, 2.9, 2.35], [3.15, 3.02, 3.0, 2.41]]


def test_the_steps_of_a_ladder_are_comparisons_of_neighbours():
    found = chain(RUNGS)
    assert len(found.steps) == 3
    for index, step in enumerate(found.steps):
        alone = compare([block[index + 1] - block[index] for block in RUNGS])
        assert (step.ratio, step.low, step.high) == pytest.approx((alone.ratio, alone.low, alone.high))
    ends = compare([block[-1] - block[0] for block in RUNGS])
    assert (found.whole.ratio, found.whole.low, found.whole.high) == pytest.approx(
        (ends.ratio, ends.low, ends.high)
    )


@given(
    st.integers(2, 6).flatmap(
        lambda rungs: st.lists(
            st.lists(st.floats(-9, 9), min_size=rungs, max_size=rungs), min_size=3, max_size=10
        )
    )
)
def test_the_steps_of_a_ladder_add_up_to_the_whole(blocks: list[list[float]]):
    found = chain(blocks)
    assert sum(step.log for step in found.steps) == pytest.approx(found.whole.log, abs=1e-12)
    assert math.prod(step.ratio for step in found.steps) == pytest.approx(found.whole.ratio)


def test_among_five_steps_that_do_nothing_one_seems_to_in_a_fifth_of_ladders_unless_held_jointly():
    rng, runs, joint = np.random.default_rng(6), 1000, 1 - 0.05 / 5
    ladders = rng.normal(0, 0.02, (runs, 8, 6))

    def wrong(level: float) -> float:
        return (
            sum(
                any(
                    not (step.low or 0) <= 1 <= (step.high or math.inf)
                    for step in chain(blocks, level=level).steps
                )
                for blocks in ladders
            )
            / runs
        )

    assert 0.15 < wrong(0.95) < 0.25
    assert wrong(joint) <= 0.05 + monte_carlo_error(0.05, runs)


def test_a_ladder_of_equal_rungs_does_nothing():
    found = chain([[1.0, 1.0, 1.0]] * 3)
    assert {(step.log, step.low, step.high) for step in (*found.steps, found.whole)} == {(0.0, 1.0, 1.0)}
