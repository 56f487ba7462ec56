"""Two servers asked in turns, by hand: how often the one wins, and how often the other.

    from llmlab.workshop import turns
    rounds = turns.take("left", "right", rounds=12)

This is how people compare when they have no better way. It is no `compare`: both go on
from what they were asked before, and a round is no sample of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from itertools import pairwise
from math import comb
from typing import Any

from llmlab import lab, render
from llmlab.comparing.views.drawing import LEFT, scaled, svg
from llmlab.errors import UsageError
from llmlab.lab import ledger
from llmlab.render import frames
from llmlab.results import Result

_MOST_ROUNDS, _MOST_TOKENS = 100, 4096
_BASE, _COLUMN, _HEIGHT, _APART = 150, 38, 186, 6
_COLOURS, _CAPS, _SIZES = render.SERIES_COLOURS[:2], ("round", "square"), (11, 9)
_BY_CHANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One question to each.

    Attributes:
        a: Rate of the first server's answer, tokens/s by the engine's clock:
            (tokens − 1) / (time of last − time of first token).
        b: Of the second's.
    """

    a: float
    b: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns(Result):
    """Some rounds with two servers.

    Attributes:
        names: Of the two servers.
        tokens: Longest answer.
        rounds: In the order in which they were played.
    """

    names: tuple[str, str]
    tokens: int
    rounds: tuple[Round, ...]

    @property
    def ahead(self) -> tuple[int, int]:
        """In how many rounds each was the quicker one; a draw is nobody's."""
        return sum(one.a > one.b for one in self.rounds), sum(one.b > one.a for one in self.rounds)

    @property
    def by_chance(self) -> float:
        """How likely so uneven a score is, or a more uneven one, among equals: the two-sided sign test.

        It takes the rounds for independent, which they are not quite: the true figure is larger.
        """
        wins = sum(self.ahead)
        tail = float(sum(comb(wins, count) for count in range(min(self.ahead) + 1)) / 2**wins)
        return min(1.0, 2 * tail)

    @property
    def winner(self) -> str | None:
        """The server that is ahead more often than chance explains; None if chance does explain it."""
        if self.by_chance >= _BY_CHANCE:
            return None
        return self.names[0] if self.ahead[0] > self.ahead[1] else self.names[1]

    @property
    def flips(self) -> int:
        """How often the quicker one was another than in the round before."""
        return sum((one.a > one.b) != (two.a > two.b) for one, two in pairwise(self.rounds))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON data."""
        return {**asdict(self), "ahead": self.ahead, "flips": self.flips, "by_chance": self.by_chance}

    def to_frame(self) -> Any:
        """A pandas data frame, a row for each round.

        Raises:
            UsageError: If pandas is not installed.
        """
        return frames.frame_of(self.rounds, Round)

    def __str__(self) -> str:
        """The rounds, and the score."""
        header = ["ROUND", *(name.upper() for name in self.names), "QUICKER"]
        rows = [
            [str(i + 1), f"{one.a:.0f}", f"{one.b:.0f}", self._quicker(one)]
            for i, one in enumerate(self.rounds)
        ]
        return f"{render.text_table(header, rows)}\n{self._score()}"

    def to_html(self) -> str:
        """A picture of the rounds, and the score."""
        keys = "".join(
            f'<span style="margin-right:16px;white-space:nowrap"><svg aria-hidden="true" width="12" height="12" viewBox="0 0 12 12">'
            f"{_dots('M6 6h0', i, full=True)}</svg> {escape(name)}</span>"
            for i, name in enumerate(self.names)
        )
        head = f'<div style="font-size:90%;margin:4px 0">tokens/s in each round {keys}</div>'
        body = head + f'<div style="overflow-x:auto">{self._drawn()}</div>' + render.html_small(self._score())
        return render.html_card("In turns, by hand", body)

    def _quicker(self, one: Round) -> str:
        return self.names[0] if one.a > one.b else self.names[1] if one.b > one.a else "–"

    def _score(self) -> str:
        a, b = self.ahead
        return (
            f"{self.names[0]} was quicker in {a} of {len(self.rounds)} rounds, {self.names[1]} in {b};"
            f" the quicker one changed {self.flips} times. Rates by the engine's clock, answers of at most"
            f" {self.tokens} tokens. Among equals, a score as uneven as this comes in {100 * self.by_chance:.0f} of 100"
            " such series (two-sided sign test)."
        )

    def _drawn(self) -> str:
        """Each round is a column: the two rates joined, the quicker one filled."""
        scale = scaled([value for one in self.rounds for value in (one.a, one.b)], _BASE)
        width = LEFT + _COLUMN * len(self.rounds) + 10
        drawn = scale.lines(width)
        for i, one in enumerate(self.rounds):
            x = LEFT + _COLUMN * (i + 0.5)
            left, right = x - _APART, x + _APART
            a, b = scale.y(one.a), scale.y(one.b)
            drawn += f'<path d="M{left:g} {a:g}L{right:g} {b:g}" stroke="currentColor" opacity=".45"/>'
            drawn += _dots(f"M{left:g} {a:g}h0", 0, full=one.a >= one.b)
            drawn += _dots(f"M{right:g} {b:g}h0", 1, full=one.b >= one.a)
            drawn += f'<text x="{x:g}" y="{_BASE + 16}" text-anchor="middle" fill="currentColor" opacity=".75">{i + 1}</text>'
        drawn += (
            f'<text x="{(LEFT + width) / 2:g}" y="{_BASE + 32}" text-anchor="middle" fill="currentColor" opacity=".75">'
            "round; faint: the slower of the two</text>"
        )
        return svg(drawn, width, _HEIGHT, f"rates of {' and '.join(self.names)} by round. {self._score()}")


def take(a: Any, b: Any, *, rounds: int = 12, tokens: int = 64) -> Turns:
    """Ask two servers the same question in turns; who is first changes from round to round.

    Args:
        a: The first server's name, or its handle.
        b: The second's.
        rounds: How often.
        tokens: Longest answer.

    Raises:
        UsageError: There is no such server, it tells no rates, or a number is out of range.
        ServerError: One does not answer.
    """
    _check("rounds", rounds, 1, _MOST_ROUNDS)
    _check("tokens", tokens, 2, _MOST_TOKENS)
    pair = [lab.attach(getattr(server, "name", server)) for server in (a, b)]
    # A first request finds everything cold, the file and the caches: it counts for neither.
    for server in pair:
        _rate(server, 0, tokens)
    found = []
    for number in range(1, rounds + 1):
        turn = (0, 1) if number % 2 else (1, 0)
        rates = {which: _rate(pair[which], number, tokens) for which in turn}
        found.append(Round(a=rates[0], b=rates[1]))
    return Turns(names=(pair[0].name, pair[1].name), tokens=tokens, rounds=tuple(found))


def _rate(server: lab.Server, number: int, tokens: int) -> float:
    request = server.request(f"{number}: what is a container?", max_tokens=tokens, temperature=0.0)
    with ledger.paused():
        answer = server.send(request, lambda _: None)
    if answer.tokens_per_s is None:
        raise UsageError(
            f"server {server.name!r} tells no rate of its answer", hint="take llama-server, and more tokens"
        )
    return answer.tokens_per_s


def _check(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}", hint=f"a whole number from {least} to {most}")


def _dots(path: str, which: int, *, full: bool) -> str:
    dim = "" if full else ' opacity=".4"'
    return f'<path d="{path}" stroke="{_COLOURS[which]}" stroke-width="{_SIZES[which]}" stroke-linecap="{_CAPS[which]}"{dim}/>'
