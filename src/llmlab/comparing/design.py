"""How a comparison is laid out before it is measured: in which order, and how many blocks.

The number of blocks is fixed in advance. Orders are drawn from a seed, so that they
can be written down and drawn again.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

Order: TypeAlias = Literal["ABBA", "BAAB"]
Floats: TypeAlias = NDArray[np.float64]

FEWEST_BLOCKS = 3
_FEWEST_PLANNED = 6  # below, there is no signed-rank interval at 95 %, so no second opinion
_MOST_BLOCKS = 1_000_000  # nobody measures that long: a search ends here
_MOST_LOG = 20.0  # a factor of 5·10⁸ between two arms is a mistake, not a measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many blocks a comparison is to have, without the pilot's.

    Attributes:
        blocks: The number, fixed from now on.
        capped: Whether more would be needed than may be.
        sd_log: The pilot's standard deviation of d.
        sd_upper: Its upper confidence limit (80 %), which was planned with.
        margin: What is to be resolved.
        resolution: The smallest margin that so many blocks of that spread resolve, a ratio − 1.
        reason: Why so many, a sentence.
    """

    blocks: int
    capped: bool
    sd_log: float
    sd_upper: float
    margin: float
    resolution: float
    reason: str

    def to_dict(self) -> dict[str, object]:
        """The plan as plain data, for JSON."""
        return asdict(self)


def order(blocks: int, seed: int) -> tuple[Order, ...]:
    """For each block, in which order the arms are measured.

    ABBA as well as BAAB cancels a drift that is linear within the block; a curved one
    (warming up) leaves the opposite error in each of the two. So of each two
    successive blocks one is ABBA and one BAAB, by a coin which comes first: over an even
    number of blocks the curved part cancels too, and no rhythm of the machine's can keep step.

    Raises:
        ValueError: No block.
    """
    _check_count("blocks", blocks, 1)
    coin = random.Random(seed)  # noqa: S311 (to be drawn again, not to be secret)
    drawn: list[Order] = []
    while len(drawn) < blocks:
        drawn += ["ABBA", "BAAB"] if coin.random() < 0.5 else ["BAAB", "ABBA"]  # noqa: PLR2004
    return tuple(drawn[:blocks])


def ladder_order(rungs: int, blocks: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """For each block, in which order a ladder's rungs are measured, each of them twice.

    A random permutation, then its reverse: what is at place i (from 0) is also at
    2·rungs − 1 − i, so each rung's mean place is rungs − 1/2, and a drift that is linear
    within the block shifts all rungs alike. A curved one does not cancel in the block;
    drawing anew in each block makes noise of it, not a bias.

    Returns:
        For each block 2·rungs indices of rungs.

    Raises:
        ValueError: Fewer than 2 rungs, or no block.
    """
    _check_count("rungs", rungs, 2)
    _check_count("blocks", blocks, 1)
    dice = random.Random(seed)  # noqa: S311 (as above)

    def there_and_back() -> tuple[int, ...]:
        # Sorted by random() and not shuffled: only of random() does Python promise that it stays the same.
        there = sorted(range(rungs), key=[dice.random() for _ in range(rungs)].__getitem__)
        return (*there, *reversed(there))

    return tuple(there_and_back() for _ in range(blocks))


def planned_blocks(pilot_differences: Sequence[float], margin: float = 0.03, most: int = 40) -> Plan:
    """How many blocks a comparison needs, after a pilot of a few.

    A pilot's SD is itself uncertain, and too small about half the time. So its upper 80 %
    confidence limit s·√(df/χ²(0.2; df)), df = blocks − 1, is planned with: Browne,
    Stat Med 14 (1995) 1933. The power wanted is 80 %, if the arms truly are equal.

    The blocks planned are new ones. To count the pilot's among them finds too much: a
    pilot that happens to lie close together makes its own run short. Equal arms then came
    out different in 6 to 7 % of simulated comparisons in place of 5 (pilots of 4 to 8
    blocks, SD 3 and 5 %), and arms at the margin's edge equivalent in 5 to 6 %.

    Args:
        pilot_differences: Of the pilot's blocks (A/B or A/A), at least 3.
        margin: What is to be resolved, a ratio − 1.
        most: As many blocks as there is time for.

    Raises:
        ValueError: Fewer than 3 blocks in the pilot or at most, or a value that cannot be.
    """
    _check_count("most", most, FEWEST_BLOCKS)
    d = checked(pilot_differences)
    sd = mean_and_sd(d)[1]
    upper = sd * math.sqrt((d.size - 1) / float(special.chdtri(d.size - 1, 0.8)))
    edge = log_margin(margin)
    needed = _fewest(lambda n: _power(upper / math.sqrt(n), n - 1, edge, 0.0, 0.95), 0.8)
    blocks = min(max(needed or most, _FEWEST_PLANNED), most)
    capped = needed is None or needed > most
    resolved = resolution(upper, blocks)
    reason = f"{d.size} blocks spread by {percent(sd)} (at worst {percent(upper)}): "
    if capped:
        reason += (
            f"±{100 * margin:g} % would take {needed or f'more than {_MOST_BLOCKS}'} blocks,"
            f" the {most} that there may be resolve ±{percent(resolved)}"
        )
    else:
        reason += f"{blocks} blocks resolve ±{100 * margin:g} % in 4 runs of 5"
    return Plan(
        blocks=blocks,
        capped=capped,
        sd_log=sd,
        sd_upper=upper,
        margin=margin,
        resolution=resolved,
        reason=reason,
    )


def blocks_needed(
    sd_log: float, *, margin: float = 0.03, power: float = 0.8, level: float = 0.95, effect: float = 0.0
) -> int:
    """The fewest blocks that show equivalence with the wanted power, but at least 3.

    Exact: given s, the power of the two one-sided tests (Schuirmann 1987) is
    Φ(D − t·r − λ) − Φ(−D + t·r − λ) where that is positive, with r = s/SD,
    D = log(1 + margin)·√n/SD, λ = effect·√n/SD. It is integrated over the distribution
    of r, √(χ²/df) with df = n − 1. That is Owen's Q in other words: Phillips,
    J Pharmacokinet Biopharm 18 (1990) 137.

    At ±3 %, an SD of 2 % takes 6 blocks, 3 % 11, 5 % 26, 8 % 65. The large-sample
    formula ((z(0.95) + z(0.9))·SD/log 1.03)² gives 4, 9, 25, 63, for which the true
    power is 53 %, 71 %, 78 %, 79 %: it takes s for exact.

    Args:
        sd_log: Standard deviation of d between blocks.
        margin: What counts as negligible, a ratio − 1.
        power: The probability wanted.
        level: Of the interval for difference, as in `compare`; each one-sided test is at 1 − level.
        effect: The true log ratio. Even a small one takes more blocks.

    Raises:
        ValueError: The effect is not within the margin, it would take more than a
            million blocks, or a value cannot be.
    """
    edge = log_margin(margin)
    _check_sd_and_power(sd_log, power)
    check_level(level)
    if not abs(effect) < edge:
        raise ValueError(
            f"an effect of {effect:g} is not within the margin, {edge:g}: nothing can show that it is"
        )
    found = _fewest(lambda n: _power(sd_log / math.sqrt(n), n - 1, edge, effect, level), power)
    if found is None:
        raise ValueError(f"it would take more than {_MOST_BLOCKS} blocks")
    return found


def resolution(sd_log: float, n: int, *, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest margin, a ratio − 1, at which n blocks show equal arms to be equivalent.

    The inverse of `blocks_needed`: what blocks of such a spread can resolve; infinite
    where no float is as large.

    Raises:
        ValueError: Fewer than 3 blocks, or a value that cannot be.
    """
    _check_sd_and_power(sd_log, power)
    check_level(level)
    _check_count("n", n, FEWEST_BLOCKS)

    def missing(edge: float) -> float:  # in units of the SD: the power depends on their ratio alone
        return power - _power(1 / math.sqrt(n), n - 1, edge, 0.0, level)

    upper = 1.0
    while missing(upper) > 0:
        upper *= 2
    edge = sd_log * float(optimize.brentq(missing, 0.0, upper))
    return math.expm1(edge) if edge < math.log(sys.float_info.max) else math.inf


def more_blocks(n: int, mean: float, sd_log: float, edge: float, level: float) -> int:
    """About how many blocks more than n decide with 80 % power, if mean and SD are the true ones.

    To decide is to show a difference or equivalence, either.
    """
    needed = _fewest(lambda blocks: _deciding(sd_log / math.sqrt(blocks), blocks - 1, edge, mean, level), 0.8)
    return max(1, (needed or _MOST_BLOCKS) - n)


def checked(differences: Sequence[float]) -> Floats:
    """Blocks' differences as an array, shape (blocks,).

    Raises:
        ValueError: Fewer than 3, or one that is not finite or absurd.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size < FEWEST_BLOCKS:
        raise ValueError(f"{d.size} blocks are too few: it takes at least {FEWEST_BLOCKS}")
    if not bool(np.all(np.abs(d) <= _MOST_LOG)):  # nan is not at most anything
        raise ValueError(f"each difference must be finite, and between −{_MOST_LOG:g} and {_MOST_LOG:g}")
    return d


def mean_and_sd(d: Floats) -> tuple[float, float]:
    """Mean and sample standard deviation; exactly 0 if all are equal, which rounding would hide."""
    if d.min() == d.max():
        return float(d[0]), 0.0
    return float(d.mean()), float(d.std(ddof=1))


def log_margin(margin: float) -> float:
    """The margin's logarithm: from 1/(1 + margin) to 1 + margin is symmetric then.

    Raises:
        ValueError: It is not above 0 and at most 1.
    """
    if not 0 < margin <= 1:
        raise ValueError(f"margin is {margin:g}: it must be above 0 and at most 1")
    return math.log1p(margin)


def check_level(level: float) -> None:
    """Refuse a level that leaves no interval for equivalence, which is at 2·level − 1.

    Raises:
        ValueError: It is not between 0.6 and 0.999.
    """
    if not 0.6 <= level <= 0.999:  # noqa: PLR2004
        raise ValueError(f"level is {level:g}: it must be between 0.6 and 0.999")


def percent(part: float) -> str:
    """A part of 1 as per cent, with a decimal; below 1 % with two digits."""
    return f"{100 * part:.1f} %" if abs(part) >= 0.01 else f"{100 * part:.2g} %"  # noqa: PLR2004


def t_quantile(probability: float, df: int) -> float:
    """The quantile of Student's t."""
    return float(special.stdtrit(df, probability))


def _check_sd_and_power(sd_log: float, power: float) -> None:
    if not 0 <= sd_log < math.inf:
        raise ValueError(f"sd_log is {sd_log:g}: it must be 0 or more, and finite")
    if not 0 < power < 1:
        raise ValueError(f"power is {power:g}: it must be between 0 and 1")


def _check_count(what: str, count: int, least: int) -> None:
    if count < least:
        raise ValueError(f"{what} is {count}: it must be at least {least}")


def _power(error: float, df: int, edge: float, effect: float, level: float) -> float:
    """Of the two one-sided tests, see `blocks_needed`; `error` is the mean's true standard error."""
    if error == 0:
        return float(abs(effect) < edge)
    r, weights = _spread(df)
    return float(weights @ _within(edge / error - t_quantile(level, df) * r, effect / error))


def _deciding(error: float, df: int, edge: float, effect: float, level: float) -> float:
    """The probability of any verdict but inconclusive; the error is above 0."""
    r, weights = _spread(df)
    different = t_quantile((1 + level) / 2, df) * r  # beyond this
    equivalent = edge / error - t_quantile(level, df) * r  # below this
    decided = np.minimum(different, equivalent)
    return 1 - float(weights @ (_within(different, effect / error) - _within(decided, effect / error)))


def _within(limit: Floats, shift: float) -> Floats:
    """P(|Z + shift| < limit) for a standard normal Z."""
    limit = np.maximum(limit, 0.0)
    result: Floats = special.ndtr(limit - shift) - special.ndtr(-limit - shift)
    return result


def _spread(df: int) -> tuple[Floats, Floats]:
    """Values of s/SD and their probabilities, which sum to 1: √(χ²/df) on a fine grid."""
    away = 9 / math.sqrt(2 * df)
    r = np.linspace(max(0.0, 1 - away), 1 + away, 1001)[1:]
    density = (df - 1) * np.log(r) - df * (r**2 - 1) / 2
    weights = np.exp(density - density.max())
    return r, weights / weights.sum()


def _fewest(chance: Callable[[int], float], wanted: float) -> int | None:
    """The fewest blocks whose chance is as wanted, from 3 on; None if a million do not do. It grows with them."""
    enough = FEWEST_BLOCKS
    while chance(enough) < wanted:
        if enough >= _MOST_BLOCKS:
            return None
        enough = min(2 * enough, _MOST_BLOCKS)
    few = max(FEWEST_BLOCKS - 1, enough // 2)  # one that is not enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if chance(middle) >= wanted else (middle, enough)
    return enough
