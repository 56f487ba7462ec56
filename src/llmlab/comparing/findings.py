"""What comparisons find, as frozen values with a sentence each."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

from llmlab.comparing.design import percent

Verdict: TypeAlias = Literal["equivalent", "different", "different but negligible", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A ratio with its interval.

    Attributes:
        log: The ratio's natural logarithm; logarithms of successive steps add up.
        ratio: The ratio.
        low: The interval's lower end, a ratio; None where so few blocks allow no interval.
        high: Its upper end.
    """

    log: float
    ratio: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The gap between the ends of a ladder, and what each step of it contributes.

    Attributes:
        steps: From each rung to the next, in order.
        whole: From the first rung to the last; its `log` is the sum of the steps'.
    """

    steps: tuple[Estimate, ...]
    whole: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a comparison found. All ratios are B over A; 1 means no difference.

    Attributes:
        n: Blocks.
        ratio: exp(mean d), the ratio of geometric means.
        low: Lower end of the t interval at `level`.
        high: Its upper end.
        equivalence_low: Lower end of the interval for equivalence, at 2·level − 1.
        equivalence_high: Its upper end.
        margin: What counts as negligible: ratios between 1/(1 + margin) and 1 + margin.
        level: Of the interval, 0.95 unless asked otherwise.
        sd_log: Standard deviation of d between blocks; 0.02 is about 2 %.
        p_different: Of the two-sided t test for no difference.
        p_equivalent: Of the two one-sided tests for a difference as large as the margin, the larger.
        verdict: What follows, see `compare`.
        more_blocks: About how many more a decision would take; None if there is one.
        robust_ratio: The Hodges-Lehmann estimate, which heavy tails hardly move.
        robust_low: Lower end of its signed-rank interval; None below 6 blocks at 95 %.
        robust_high: Its upper end.
        robust_agrees: Whether the signed-rank intervals lead to the same verdict; None if there are none.
    """

    n: int
    ratio: float
    low: float
    high: float
    equivalence_low: float
    equivalence_high: float
    margin: float
    level: float
    sd_log: float
    p_different: float
    p_equivalent: float
    verdict: Verdict
    more_blocks: int | None
    robust_ratio: float
    robust_low: float | None
    robust_high: float | None
    robust_agrees: bool | None

    def sentence(self, what: str, a: str, b: str) -> str:
        """The finding in words, for a report.

        Args:
            what: The metric, for instance "generation rate".
            a: The arm compared with.
            b: The arm compared.
        """
        digits = _digits(self.low, self.high)
        text = (
            f"{what}: {b} over {a} {self.ratio:.{digits}f} ({100 * self.level:g} % interval"
            f" {self.low:.{digits}f} … {self.high:.{digits}f}, {self.n} blocks): {self._outcome(b)}."
        )
        if self.robust_agrees is False and self.robust_low is not None and self.robust_high is not None:
            text += (
                f" The signed-rank interval, {self.robust_low:.{digits}f} … {self.robust_high:.{digits}f},"
                " does not lead to the same verdict."
            )
        return text

    def _outcome(self, b: str) -> str:
        within = f"±{100 * self.margin:g} %"
        if self.verdict == "equivalent":
            return f"equivalent within {within}"
        if self.more_blocks is not None:
            blocks = "block" if self.more_blocks == 1 else "blocks"
            return f"cannot tell at {within}; about {self.more_blocks} more {blocks} would be needed"
        factor = max(self.ratio, 1 / self.ratio)
        size = percent(abs(self.ratio - 1)) if factor < 2 else f"{factor:.1f} times"  # noqa: PLR2004
        change = f"{b} is {size} {'higher' if self.ratio > 1 else 'lower'}"
        if self.verdict == "different":
            return f"different, {change}"
        return f"different but negligible, {change}, which is within {within}"

    def to_dict(self) -> dict[str, object]:
        """The finding as plain data, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What a machine can tell apart, from blocks in which both arms were the same (A/A).

    Attributes:
        n: Blocks.
        ratio: Of the two equal arms; what is not 1 here is the machine's or the procedure's doing.
        half_width: Of the interval for equivalence, as a ratio − 1.
        sd_log: Standard deviation of d between blocks.
        margin: What is to be resolved.
        resolution: The smallest margin that as many blocks resolve in 4 runs of 5.
        resolves: Whether the equal arms were equivalent within the margin.
        biased: Whether the equal arms came out different: the procedure then prefers one.
    """

    n: int
    ratio: float
    half_width: float
    sd_log: float
    margin: float
    resolution: float
    resolves: bool
    biased: bool

    def sentence(self) -> str:
        """The floor in words, for a report."""
        within = f"±{100 * self.margin:g} %"
        text = (
            f"The same against itself, {self.n} blocks: {self.ratio:.3f} ± {percent(self.half_width)},"
            f" which {'holds' if self.resolves else 'does not hold'} {within}"
            f"{'' if self.resolves else f': this machine cannot resolve {within}'}."
            f" In 4 runs of 5, as many blocks resolve ±{percent(self.resolution)}."
        )
        if self.biased:
            text += " The same differs from itself: something besides the arms makes a difference."
        return text

    def to_dict(self) -> dict[str, object]:
        """The floor as plain data, for JSON."""
        return asdict(self)


def _digits(low: float, high: float) -> int:
    """Decimals that show the interval's half-width with two digits."""
    half = (high - low) / 2
    return min(6, max(2, 1 - math.floor(math.log10(half)))) if half > 0 else 3
