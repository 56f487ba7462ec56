"""Two comparisons side by side, and whether their ratios differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from llmlab import render
from llmlab.comparing import statistics
from llmlab.comparing.design import FEWEST_BLOCKS
from llmlab.comparing.metrics import METRICS, Metric
from llmlab.comparing.views.numbers import interval, ratio, short, shown, when
from llmlab.comparing.views.rows import names
from llmlab.results import Result

if TYPE_CHECKING:
    from llmlab.comparing.card import Card
    from llmlab.comparing.findings import Estimate, Finding
    from llmlab.comparing.results import Comparison

_LEVEL, _ENDS = 0.95, "95 % interval"
_NOTHING = "Neither has three complete blocks."
_HOW = (
    "The change is the second ratio over the first: the difference of the two log ratios with a 95 % Welch interval."
    " Whether the two intervals overlap is no test of it. The cards were not measured in turns, so whatever else"
    " has changed between them is in the change too."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A metric in both comparisons.

    Attributes:
        metric: Which.
        first: b over a in the first; None where fewer than three blocks tell it.
        second: The same in the second.
        change: The second ratio over the first; None if one of them is.
    """

    metric: Metric
    first: Finding | None
    second: Finding | None
    change: Estimate | None

    @property
    def word(self) -> str:
        """Whether the ratios differ."""
        if self.change is None or self.change.low is None or self.change.high is None:
            return "too few blocks"
        return "no difference shown" if self.change.low <= 1 <= self.change.high else "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Against(Result):
    """Two comparisons laid side by side.

    Attributes:
        first: The one compared with.
        second: The one compared.
    """

    first: Comparison
    second: Comparison

    @property
    def changes(self) -> tuple[Change, ...]:
        """A row for each metric of which one of the two says something."""
        firsts, seconds = self.first.findings, self.second.findings
        return tuple(
            Change(
                metric=metric,
                first=firsts.get(metric.key),
                second=seconds.get(metric.key),
                change=self._change(metric),
            )
            for metric in METRICS
            if metric.key in firsts or metric.key in seconds
        )

    @property
    def unequal(self) -> tuple[tuple[str, str, str], ...]:
        """In what the two cards differ: what, what the first has, what the second has."""
        one, other = _facts(self.first.card), _facts(self.second.card)
        return tuple(
            (key, one.get(key, render.UNKNOWN), other.get(key, render.UNKNOWN))
            for key in dict.fromkeys((*one, *other))
            if one.get(key) != other.get(key)
        )

    def to_dict(self) -> dict[str, Any]:
        """Changes and differences of the cards, as plain JSON data."""
        return {
            "changes": [
                {
                    "metric": each.metric.key,
                    "first": asdict(each.first) if each.first else None,
                    "second": asdict(each.second) if each.second else None,
                    "change": asdict(each.change) if each.change else None,
                    "verdict": each.word,
                }
                for each in self.changes
            ],
            "unequal": [{"what": what, "first": one, "second": other} for what, one, other in self.unequal],
        }

    def __str__(self) -> str:
        """The table, in what the cards differ, and how the change is worked out."""
        rows = [(*_cells(each), each.word) for each in self.changes]
        header = ("metric", "first b/a", _ENDS, "second b/a", _ENDS, "change", _ENDS, "verdict")
        above = [line for said in (*_titles(self), *_warnings(self)) for line in render.wrapped(said, 100)]
        below = [line for said in (_differences(self), _HOW) for line in render.wrapped(said, 100)]
        table = render.text_table(header, rows) if rows else _NOTHING
        return "\n".join([*above, "", table, "", *below])

    def to_html(self) -> str:
        """The same as a card."""
        rows = [[*map(escape, _cells(each)), escape(each.word)] for each in self.changes]
        header = ("metric", "first b/a", _ENDS, "second b/a", _ENDS, "change", _ENDS, "verdict")
        right = ("first b/a", "second b/a", "change")
        table = render.html_grid(header, rows, right=right) if rows else escape(_NOTHING)
        parts = [
            *map(render.html_text, _titles(self)),
            *map(render.html_note, _warnings(self)),
            f'<div style="overflow-x:auto;margin:6px 0">{table}</div>',
            *map(render.html_small, filter(None, (_differences(self), _HOW))),
        ]
        return render.html_card("two comparisons side by side", "".join(parts), wide=True)

    def _change(self, metric: Metric) -> Estimate | None:
        one, other = (list(each.differences(metric).values()) for each in (self.first, self.second))
        if min(len(one), len(other)) < FEWEST_BLOCKS:
            return None
        return statistics.two(one, other, _LEVEL)


def against(first: Comparison, second: Comparison) -> Against:
    """Lay two comparisons side by side.

    Args:
        first: The one compared with.
        second: The one compared.
    """
    return Against(first=first, second=second)


def _cells(each: Change) -> tuple[str, str, str, str, str, str, str]:
    found: list[str] = []
    for part in (each.first, each.second, each.change):
        found += [ratio(part), interval(part.low, part.high)] if part else [render.UNKNOWN, render.UNKNOWN]
    one, one_ends, two, two_ends, change, change_ends = found
    return each.metric.title, one, one_ends, two, two_ends, change, change_ends


def _titles(both: Against) -> list[str]:
    found = []
    for each, which in ((both.first, "first"), (both.second, "second")):
        called = names(each.card)
        found.append(f"{which}: b = {called['b']} against a = {called['a']}, made {when(each.card.made)}")
    return found


def _warnings(both: Against) -> list[str]:
    return [
        f"The arms of the {which} are not comparable: nothing can be concluded from its figures."
        for each, which in ((both.first, "first"), (both.second, "second"))
        if not each.comparable
    ]


def _differences(both: Against) -> str:
    found = [
        f"{short(what)} (first: {short(one)}, second: {short(other)})" for what, one, other in both.unequal
    ]
    return f"The cards differ in {'; '.join(found)}." if found else ""


def _facts(card: Card) -> dict[str, str]:
    """What may make the ratios differ: machine, arms, requests."""
    found = {f"the machine's {key}": shown(value) for key, value in card.machine.items()}
    for arm in card.arms:
        found |= {f"{arm.key}'s {key}": shown(value) for key, value in {**arm.options, **arm.facts}.items()}
    return {
        **found,
        "clock of the rates": f"the {card.clock}'s",
        "tokens of a prompt": shown(card.prompt_tokens),
        "tokens of an answer": shown(card.tokens),
    }
