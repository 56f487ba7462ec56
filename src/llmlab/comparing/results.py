"""A comparison: its run card, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.comparing import card as cards
from llmlab.comparing import statistics, views
from llmlab.comparing.card import Card
from llmlab.comparing.design import FEWEST_BLOCKS
from llmlab.comparing.findings import Finding, Floor
from llmlab.comparing.metrics import METRICS, Metric
from llmlab.comparing.reading import cause, differences, main_of
from llmlab.render import frames
from llmlab.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Result):
    """Two arms laid side by side. Ratios are b over a.

    Attributes:
        card: What was measured, and how.
        replayed: The file that it was read from, or None for what was measured just now.
    """

    card: Card
    replayed: str | None = None

    @property
    def findings(self) -> dict[str, Finding]:
        """Metric → what was found; without those of which fewer than three blocks tell."""
        found = {metric.key: self.differences(metric) for metric in METRICS}
        return {
            key: statistics.compare(list(each.values()), margin=self.card.margin)
            for key, each in found.items()
            if len(each) >= FEWEST_BLOCKS
        }

    @property
    def floors(self) -> dict[str, Floor]:
        """Metric → what the machine can tell apart, from arm a against itself."""
        found = {metric.key: differences(self.card.aa, metric) for metric in METRICS}
        return {
            key: statistics.floor(list(each.values()), margin=self.card.margin)
            for key, each in found.items()
            if len(each) >= FEWEST_BLOCKS
        }

    @property
    def main(self) -> Metric:
        """What the verdict is about: a rate that both arms tell."""
        return main_of((*self.card.aa, *self.card.blocks))

    @property
    def comparable(self) -> bool:
        """Whether the arms differ in nothing that makes the figures meaningless."""
        return not any(each.fatal for each in self.card.inequalities)

    @property
    def verdict(self) -> str:
        """In one word or two, for the main rate: see `statistics.compare`; or "not comparable"."""
        if not self.comparable:
            return "not comparable"
        found = self.findings.get(self.main.key)
        return found.verdict if found else "inconclusive"

    @property
    def outliers(self) -> dict[int, str]:
        """Number of each block whose main rate lies far from the others' → its cause, as far as known."""
        found = self.differences(self.main)
        far = statistics.outliers(list(found.values()))
        numbers = list(found)
        blocks = {block.number: block for block in self.card.blocks}
        return {numbers[index]: cause(blocks[numbers[index]]) for index in far}

    def differences(self, metric: Metric) -> dict[int, float]:
        """Number of each complete block → its difference of logarithms, b over a."""
        return differences(self.card.blocks, metric)

    def to_dict(self) -> dict[str, Any]:
        """Verdict, findings, floors and the whole card, as plain JSON data."""
        return {
            "verdict": self.verdict,
            "sentence": views.verdict(self),
            "comparable": self.comparable,
            "findings": {key: each.to_dict() for key, each in self.findings.items()},
            "floors": {key: each.to_dict() for key, each in self.floors.items()},
            "outliers": {str(number): why for number, why in self.outliers.items()},
            "replayed": self.replayed,
            "card": self.card.to_dict(),
        }

    def to_frame(self) -> Any:
        """A pandas data frame: a row for each measured request.

        Its block (`phase` is "a/a" where both sides were arm a), its arm, each metric that is
        measured at a request, and what else was counted meanwhile.

        Raises:
            UsageError: If pandas is not installed.
        """
        phases = (("a/a", self.card.aa), ("a/b", self.card.blocks))
        found = [
            (name, block, each) for name, blocks in phases for block in blocks for each in block.requests
        ]
        texts = ("answer", "trouble")
        counted = dict.fromkeys(
            key for _, _, each in found for key in (*each.values, *each.evidence) if key not in texts
        )
        columns = {"phase": str, "block": int, "order": str, "arm": str, "began_s": float, "tokens": int}
        return frames.frame(
            [
                {
                    **each.values,
                    **each.evidence,
                    "phase": name,
                    "block": block.number,
                    "order": block.order,
                    "trouble": block.trouble,
                    "arm": each.arm,
                    "began_s": each.began_s,
                    "tokens": each.tokens,
                    "answer": each.answer or None,
                }
                for name, block, each in found
            ],
            {**columns, **dict.fromkeys(counted, float), **dict.fromkeys(texts, str)},
        )

    def to_plotly(self) -> Any:
        """A plotly figure, to be explored with the mouse: `plotly.graph_objects.Figure`.

        Raises:
            UsageError: If plotly is not installed.
        """
        from llmlab.comparing import figure  # noqa: PLC0415 - only for who asks for it

        return figure.figure(self)

    def save(self, path: str | Path) -> Comparison:
        """Write its run card, to be shown again or laid beside another.

        Raises:
            LabError: If it cannot be written.
        """
        cards.write(self.card, Path(path).expanduser())
        return self

    def __str__(self) -> str:
        """The verdict, a line for each metric, what differs, how it was measured."""
        return views.text(self)

    def to_html(self) -> str:
        """The same, with pictures."""
        return views.html(self)
