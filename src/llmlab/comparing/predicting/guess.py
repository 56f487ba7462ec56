"""One guess beside what was predicted and what was measured."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from llmlab.comparing.predicting import views
from llmlab.comparing.roofline import Roofline
from llmlab.comparing.roofline import views as roofline_views
from llmlab.errors import UsageError
from llmlab.results import Result

UNIT = "tokens/s"
METHOD = (
    "measured: tokens generated per second by the engine's own clock, started natively, one request at a time, "
    "median of several runs; predicted: a roofline of this machine, 1 / (max(bytes per token / memory bandwidth, "
    "operations per token / operations per second) + what layers take besides)"
)


def checked(value: Any) -> float:
    """A guess, or a share, if it is a number above 0.

    Raises:
        UsageError: If it is not.
    """
    wrong = isinstance(value, bool) or not isinstance(value, int | float)
    if wrong or not 0 < value < math.inf:
        raise UsageError(f"{value!r} cannot be a guess", hint="guess a number of tokens per second above 0")
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess(Result):
    """A guess of a model's generation rate, held against prediction and measurement.

    Attributes:
        model: Its reference.
        synthetic: Whether its weights are random numbers; its rate is that of real ones.
        cpu: The CPU's name.
        threads: Compute threads.
        guess: The guess, tokens per second.
        predicted: What the roofline predicts, tokens per second; None if a roof could not be measured.
        measured: What was measured, tokens per second: the median of `runs`.
        runs: Each run's rate, tokens per second.
        bytes_per_token: Bytes that are read for a token: active weights and KV cache.
        bandwidth_bytes_per_s: How fast memory was read, bytes per second; None if that could not be measured.
        reason: What limits the rate, in words.
        notes: What should be known besides.
        unit: Of guess, predicted and measured.
        method: How predicted and measured came about.
    """

    model: str
    synthetic: bool
    cpu: str
    threads: int
    guess: float
    predicted: float | None
    measured: float
    runs: tuple[float, ...]
    bytes_per_token: int
    bandwidth_bytes_per_s: float | None
    reason: str
    notes: tuple[str, ...] = ()
    unit: str = UNIT
    method: str = METHOD

    @classmethod
    def of(cls, guess: float, line: Roofline) -> Guess:
        """Hold a guess against a roofline on which generating was measured.

        Args:
            guess: Tokens per second.
            line: Measured, with at least one run of generating.
        """
        return cls(
            model=line.model,
            synthetic=line.synthetic,
            cpu=line.cpu,
            threads=line.threads,
            guess=guess,
            predicted=line.predicted,
            measured=median(line.decode.measured),
            runs=line.decode.measured,
            bytes_per_token=line.decode.work.nbytes,
            bandwidth_bytes_per_s=line.machine.bytes_per_s,
            reason=roofline_views.outcome(line.decode),
            notes=line.notes,
        )

    @property
    def guess_ratio(self) -> float:
        """The guess as a multiple of what was measured: 2 is twice too much."""
        return self.guess / self.measured

    @property
    def predicted_ratio(self) -> float | None:
        """The roofline's prediction as a multiple of what was measured; None if there is none."""
        return None if self.predicted is None else self.predicted / self.measured

    def within(self, share: float) -> bool:
        """Whether the guess is off by at most a share of what was measured.

        Args:
            share: 0.2 stands for 20 %.

        Raises:
            UsageError: If it is no number above 0.
        """
        wrong = isinstance(share, bool) or not isinstance(share, int | float)
        if wrong or not 0 < share < math.inf:
            raise UsageError(f"{share!r} is no share", hint="0.2 stands for 20 %")
        return abs(self.guess - self.measured) <= share * self.measured

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON data, with the ratios and the sentence."""
        return {
            **asdict(self),
            "runs": list(self.runs),
            "notes": list(self.notes),
            "guess_ratio": self.guess_ratio,
            "predicted_ratio": self.predicted_ratio,
            "sentence": views.sentence(self),
        }

    def __str__(self) -> str:
        """The sentence, then a table."""
        return views.guess_text(self)

    def to_html(self) -> str:
        """The same with all three on one axis."""
        return views.guess_card(self)
