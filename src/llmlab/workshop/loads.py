"""What a load has shown: a level for each number of learners."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from llmlab.errors import UsageError
from llmlab.render import frames
from llmlab.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """So many learners at once. Times are by the client's clock, seconds; unknown is None.

    Attributes:
        learners: How many asked at once, each one request after the other.
        requests: Requests that were answered.
        seconds: From the first request's start to the last one's end.
        requests_per_s: Requests / seconds.
        tokens_per_s: Throughput: the generated tokens of all / seconds.
        each_tokens_per_s: The median of the requests' own rates, by the engine's clock:
            (tokens − 1) / (time of last − time of first token).
        ttft_p50_s: Time to first token, the median.
        ttft_p95_s: The time that 95 of 100 do not exceed, by nearest rank; of fewer than
            20 requests that is the longest.
        mean_s: Whole request, from sending it to its last token: the mean.
        p50_s: The same, the median.
        p95_s: The same, 95 of 100.
        together: Requests that were in one pass through the model, on average, as the engine counts.
    """

    learners: int
    requests: int
    seconds: float
    requests_per_s: float
    tokens_per_s: float | None
    each_tokens_per_s: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    mean_s: float
    p50_s: float | None
    p95_s: float | None
    together: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(Result):
    """More and more learners at one server.

    Attributes:
        server: Its name.
        model: The reference of its model.
        slots: Requests that it answers at the same time.
        context: Tokens of context of each.
        tokens: Longest answer.
        limit: How many times the p95 of the first level is still acceptable.
        levels: From few learners to many.
    """

    server: str
    model: str
    slots: int
    context: int
    tokens: int
    limit: float
    levels: tuple[Level, ...]

    @property
    def limit_s(self) -> float | None:
        """The longest p95 of a whole request that is acceptable, seconds."""
        first = self.levels[0].p95_s
        return None if first is None else self.limit * first

    def at(self, learners: int) -> Level:
        """The level of so many learners.

        Raises:
            UsageError: It was not measured.
        """
        for level in self.levels:
            if level.learners == learners:
                return level
        raise UsageError(
            f"{learners} learners at once were not measured",
            hint=f"there are {', '.join(str(level.learners) for level in self.levels)}",
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON data."""
        return {**asdict(self), "limit_s": self.limit_s}

    def to_frame(self) -> Any:
        """A pandas data frame, a row for each level.

        Raises:
            UsageError: If pandas is not installed.
        """
        return frames.frame_of(self.levels, Level)

    def __str__(self) -> str:
        """A table, and what its columns mean."""
        from llmlab.workshop import load_views  # noqa: PLC0415 - it draws what is defined here

        return load_views.text(self)

    def to_html(self) -> str:
        """A picture and the table."""
        from llmlab.workshop import load_views  # noqa: PLC0415 - likewise

        return load_views.html(self)
