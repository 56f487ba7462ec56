"""What the blocks of a comparison say: ratio, interval, equivalence, and what they cannot say.

The sample is the block: both arms measured close together in time. A block's
difference is d = mean(log x_B) − mean(log x_A), so exp(mean of d) is the ratio of
B to A, and neither units nor a slow block matter. Nothing here measures or reads.

The t interval takes the d of blocks for normal. How often the 95 % interval of n
blocks held the truth in 400 000 simulated comparisons (`tests/test_comparing_statistics.py`
repeats this with fewer):

    noise of d                             n = 6     10      20      50
    normal                                 95.0 %  94.9 %  95.0 %  95.1 %
    t with 3 degrees of freedom            96.2 %  96.0 %  95.7 %  95.5 %
    log-normal in both arms (1)            97.3 %  96.8 %  96.3 %  95.7 %
    log-normal in one arm only (0.5)       91.6 %  92.1 %  93.1 %  94.0 %
    log-normal in one arm only (1)         82.4 %  84.0 %  86.7 %  89.9 %

(In brackets the SD of the logarithm of the noise.) So it is held, or a little too wide,
while d is symmetric, which it is where both arms suffer alike. It is **not held** where
only one arm has rare long delays, and more blocks help slowly: look at what `outliers` flags.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np
from scipy import special

from llmlab.comparing.design import (
    Floats,
    blocks_needed,
    check_level,
    checked,
    log_margin,
    mean_and_sd,
    more_blocks,
    resolution,
    t_quantile,
)
from llmlab.comparing.findings import Chain, Estimate, Finding, Floor, Verdict

__all__ = [
    "Chain",
    "Estimate",
    "Finding",
    "Floor",
    "Verdict",
    "blocks_needed",
    "chain",
    "compare",
    "difference",
    "floor",
    "hodges_lehmann",
    "outliers",
    "resolution",
    "two",
]

_Ends: TypeAlias = tuple[float, float]  # of an interval, in logarithms

_EXACT_RANKS = 50  # up to here the signed-rank distribution is counted, not approximated


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """A block's difference, mean(log b) − mean(log a); 0.01 is about 1 % more in B.

    Args:
        a: What was measured of arm A in the block, in any unit; at least one value.
        b: The same of arm B.

    Raises:
        ValueError: An arm has no value, or one that is not above 0 and finite.
    """
    for values in (a, b):
        if not len(values) or not all(0 < value < math.inf for value in values):
            raise ValueError("each arm of a block needs measurements, all of them above 0 and finite")
    return math.fsum(map(math.log, b)) / len(b) - math.fsum(map(math.log, a)) / len(a)


def compare(differences: Sequence[float], *, margin: float = 0.03, level: float = 0.95) -> Finding:
    """What the blocks' differences say, by Student's t and two one-sided tests (TOST).

    The interval is mean ± t·s/√n. Equivalence is shown if the interval at 2·level − 1
    (90 %) lies inside the margin: Schuirmann, J Pharmacokinet Biopharm 15 (1987) 657.

    - different: the 95 % interval excludes 1, the 90 % interval is not inside the margin;
    - different but negligible: it excludes 1, and the 90 % interval is inside;
    - equivalent: it includes 1, and the 90 % interval is inside;
    - inconclusive: neither is shown.

    `more_blocks` takes the observed mean and spread for the true ones, and asks how many
    blocks would decide with 80 % probability. It is for planning another run: to go on
    until the verdict suits finds what is not there. Equal arms (block SD 5 %, 8 blocks)
    came out different in 5 % of simulated runs, in 9 % if those that were inconclusive
    were topped up once by `more_blocks`, in 16 % if block after block was added up to 40.

    Args:
        differences: One for each block, see `difference`.
        margin: What counts as negligible, a ratio − 1.
        level: Of the interval.

    Raises:
        ValueError: Fewer than 3 blocks, a difference that is not finite or absurd, a
            margin or a level that cannot be.
    """
    d = checked(differences)
    check_level(level)
    edge = log_margin(margin)
    n, (mean, sd) = len(d), mean_and_sd(d)
    wide, narrow = _t_interval(d, level), _t_interval(d, 2 * level - 1)
    verdict = _verdict(wide, narrow, edge)
    robust, robust_wide = _signed_rank(d, level)
    robust_narrow = _signed_rank(d, 2 * level - 1)[1]
    return Finding(
        n=n,
        ratio=math.exp(mean),
        low=math.exp(wide[0]),
        high=math.exp(wide[1]),
        equivalence_low=math.exp(narrow[0]),
        equivalence_high=math.exp(narrow[1]),
        margin=margin,
        level=level,
        sd_log=sd,
        p_different=2 * _tail(abs(mean), sd, n) if mean else 1.0,
        p_equivalent=_tail(edge - abs(mean), sd, n),
        verdict=verdict,
        more_blocks=more_blocks(n, mean, sd, edge, level) if verdict == "inconclusive" else None,
        robust_ratio=math.exp(robust),
        robust_low=math.exp(robust_wide[0]) if robust_wide else None,
        robust_high=math.exp(robust_wide[1]) if robust_wide else None,
        robust_agrees=(
            _verdict(robust_wide, robust_narrow, edge) == verdict if robust_wide and robust_narrow else None
        ),
    )


def hodges_lehmann(differences: Sequence[float], level: float = 0.95) -> Estimate:
    """The median of all pairwise means of d, with the Wilcoxon signed-rank interval.

    Its coverage is at least `level` whatever the tails, as long as d is symmetric. Up to
    50 blocks the distribution is counted, above the normal approximation is taken:
    Hollander, Wolfe, Chicken, Nonparametric Statistical Methods (2014), ch. 3. At 95 %
    there is none below 6 blocks, because 5 can all have the same sign by chance too often.

    Raises:
        ValueError: As for `compare`.
    """
    check_level(level)
    return _estimate(*_signed_rank(checked(differences), level))


def chain(blocks: Sequence[Sequence[float]], *, level: float = 0.95) -> Chain:
    """The steps of a ladder whose rungs were all measured in the same blocks.

    With l the logarithms in a block, l[K−1] − l[0] = Σ (l[k+1] − l[k]), and means keep
    that: the steps' `log` add up to the whole's. Their intervals do not, and each
    is for itself: among 5 steps that do nothing, one or more excludes 1 in a fifth of ladders.
    `level=1 − 0.05 / steps` holds them all at once (Bonferroni).

    Args:
        blocks: For each block the mean logarithm of each rung, in the ladder's order.
        level: Of each interval.

    Raises:
        ValueError: Fewer than 2 rungs, blocks with different numbers of rungs; as for `compare`.
    """
    check_level(level)
    sizes = {len(block) for block in blocks}
    if len(sizes) > 1 or min(sizes, default=0) < 2:  # noqa: PLR2004
        raise ValueError("each block needs one value for each rung, and there must be 2 rungs or more")
    rungs = list(zip(*blocks, strict=True))

    def step(lower: Sequence[float], upper: Sequence[float]) -> Estimate:
        d = checked([after - before for before, after in zip(lower, upper, strict=True)])
        return _estimate(mean_and_sd(d)[0], _t_interval(d, level))

    return Chain(steps=tuple(step(*pair) for pair in pairwise(rungs)), whole=step(rungs[0], rungs[-1]))


def two(d1: Sequence[float], d2: Sequence[float], level: float = 0.95) -> Estimate:
    """How two comparisons' ratios differ: the second over the first, by Welch's t.

    The two need not have as many blocks, nor the same spread. The interval is
    mean(d2) − mean(d1) ± t·√(s1²/n1 + s2²/n2) with Welch and Satterthwaite's degrees of
    freedom: Welch, Biometrika 34 (1947) 28. Whether the two comparisons' own intervals
    overlap is no test: they may, and this one excludes 1 all the same.

    Args:
        d1: Differences of the first comparison's blocks, see `difference`.
        d2: Of the second's; no block may be in both.
        level: Of the interval.

    Raises:
        ValueError: As for `compare`, of either.
    """
    check_level(level)
    first, second = checked(d1), checked(d2)
    (mean1, sd1), (mean2, sd2) = mean_and_sd(first), mean_and_sd(second)
    part1, part2 = sd1**2 / first.size, sd2**2 / second.size
    log, half = mean2 - mean1, 0.0
    if (error := part1 + part2) > 0:
        df = 1 / ((part1 / error) ** 2 / (first.size - 1) + (part2 / error) ** 2 / (second.size - 1))
        half = float(special.stdtrit(df, (1 + level) / 2)) * math.sqrt(error)
    return _estimate(log, (log - half, log + half))


def outliers(differences: Sequence[float]) -> tuple[int, ...]:
    """Which blocks lie far from the others; they are to be shown, never to be dropped.

    The modified z-score 0.6745·(d − median)/MAD is beyond 3.5: Iglewicz, Hoaglin, How to
    Detect and Handle Outliers (1993). Where more than half are equal the MAD is 0, and
    1.2533 times the mean absolute deviation stands in for MAD/0.6745.

    Returns:
        Indices, ascending.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not d.size:
        return ()
    away = np.abs(d - np.median(d))
    scale = float(np.median(away)) / 0.6745 or 1.2533 * float(np.mean(away))
    return tuple(int(index) for index in np.flatnonzero(away > 3.5 * scale))


def floor(aa_differences: Sequence[float], *, margin: float = 0.03, level: float = 0.95) -> Floor:
    """What the machine can tell apart: `compare` of something with itself.

    Raises:
        ValueError: As for `compare`.
    """
    found = compare(aa_differences, margin=margin, level=level)
    return Floor(
        n=found.n,
        ratio=found.ratio,
        half_width=math.sqrt(found.equivalence_high / found.equivalence_low) - 1,
        sd_log=found.sd_log,
        margin=margin,
        resolution=resolution(found.sd_log, found.n, level=level),
        resolves=found.verdict in {"equivalent", "different but negligible"},
        biased=found.verdict in {"different", "different but negligible"},
    )


def _t_interval(d: Floats, level: float) -> _Ends:
    """The mean's interval at the level; of no width if all are equal."""
    mean, sd = mean_and_sd(d)
    half = t_quantile((1 + level) / 2, d.size - 1) * sd / math.sqrt(d.size)
    return mean - half, mean + half


def _tail(distance: float, sd: float, n: int) -> float:
    """The probability that a mean of n lies so far above its expectation, or farther."""
    if sd == 0:
        return 0.0 if distance > 0 else 1.0
    return float(special.stdtr(n - 1, -distance * math.sqrt(n) / sd))


def _verdict(wide: _Ends, narrow: _Ends, edge: float) -> Verdict:
    negligible = -edge < narrow[0] and narrow[1] < edge
    if wide[0] <= 0 <= wide[1]:
        return "equivalent" if negligible else "inconclusive"
    return "different but negligible" if negligible else "different"


def _signed_rank(d: Floats, level: float) -> tuple[float, _Ends | None]:
    """The Hodges-Lehmann estimate and its interval; None where so few blocks allow none."""
    means = np.sort(np.add.outer(d, d)[np.triu_indices(d.size)] / 2)
    middle = float(np.median(means))
    depth = _depth(d.size, (1 - level) / 2)
    return middle, (float(means[depth - 1]), float(means[-depth])) if depth else None


@lru_cache(maxsize=256)
def _depth(n: int, tail: float) -> int:
    """How many pairwise means lie outside the interval's end, the end included; 0 if there is no such.

    The largest k with P(V ≤ k − 1) ≤ tail, V the sum of the ranks of the positive ones.
    """
    pairs = n * (n + 1) // 2
    if n > _EXACT_RANKS:
        spread = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return math.floor(pairs / 2 + 0.5 + float(special.ndtri(tail)) * spread)
    ways = [1] + [0] * pairs  # in how many of the 2ⁿ sets of ranks the sum is so
    for rank in range(1, n + 1):
        ways = [ways[total] + (ways[total - rank] if total >= rank else 0) for total in range(pairs + 1)]
    return sum(below <= tail * 2**n for below in accumulate(ways))


def _estimate(log: float, ends: _Ends | None) -> Estimate:
    low, high = (math.exp(ends[0]), math.exp(ends[1])) if ends else (None, None)
    return Estimate(log=log, ratio=math.exp(log), low=low, high=high)
