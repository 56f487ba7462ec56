"""Lesson 03: native against container; from one question each to an interval and a verdict."""

from __future__ import annotations

from typing import Any

from llmlab.comparing import Comparison
from llmlab.comparing.findings import Finding
from llmlab.errors import UsageError
from llmlab.results import Answer
from llmlab.workshop import judges
from llmlab.workshop.recordings import Recording
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict, failed, passed
from llmlab.workshop.turns import Turns

_SOONER, _LATER, _SAME = "sooner", "later", "about as soon"
_CANNOT = "cannot tell"
_HALF, _LITTLE, _NOT = "half as fast", "a little slower", "as fast"
_VERDICTS = ("equivalent", "different", "different but negligible", "inconclusive")
_NEAR = 0.1  # of an interval's ends: who predicts that has understood the size of it


def _again(given: Given) -> Verdict:
    if len(given.values) != 2 or not all(isinstance(value, Answer) for value in given.values):  # noqa: PLR2004 - a pair
        raise UsageError("the two answers are wanted", hint='lesson.check("again", first, second)')
    first, second = given.values
    if not second.cached_tokens or first.ttft_s is None or second.ttft_s is None:
        raise UsageError(
            "of the second question nothing was cached",
            hint="ask the same server the same question, word by word",
        )
    text = (
        f"First word after {1000 * first.ttft_s:.0f} ms, then after {1000 * second.ttft_s:.0f} ms:"
        f" {second.cached_tokens} of {second.prompt_tokens} tokens of the prompt had been read before."
    )
    if given.predicted == _SOONER:
        return passed(text)
    return failed(
        f"{text} You predicted {given.predicted}.",
        "look for 'cached' on the chip 'prompt' of the second answer: what need not be read takes no time",
    )


def _winner(given: Given) -> Verdict:
    said, seen = _pair(given, Turns, 'lesson.check("winner", "cannot tell", rounds)')
    a, b = seen.names
    if said not in (a, b, _CANNOT):
        raise UsageError(f"{said!r} is no answer", hint=f"one of {a!r}, {b!r}, {_CANNOT!r}")
    score = f"{a} was quicker in {seen.ahead[0]} rounds, {b} in {seen.ahead[1]}"
    if said == _CANNOT:
        more = (
            "" if seen.winner else f"; among equals, that comes in {100 * seen.by_chance:.0f} of 100 series"
        )
        return passed(f"{score}{more}. A score of rounds is no measurement yet.")
    if said == seen.winner:
        return passed(f"{score}, which chance alone seldom does. Why it is so, the score does not say.")
    return failed(
        f"{score}: that does not show that {said} is the quicker one.",
        "think of a coin that is tossed as often: how uneven a score would still surprise nobody?",
    )


def _ratio(given: Given) -> Verdict:
    found = _found(given.value)
    guess = judges.number(given.predicted, "the prediction")
    text = f"You predicted {guess:g}; the interval is {_interval(found)}."
    if found.low / (1 + _NEAR) <= guess <= found.high * (1 + _NEAR):
        return passed(text)
    return failed(
        text,
        "both arms run the same program with the same weights on the same CPU: "
        "what would have to be slower inside? Predict again with that in mind",
    )


def _interval_read(given: Given) -> Verdict:
    said, seen = _pair(given, Comparison, 'lesson.check("interval", (low, high, "verdict"), seen)')
    if not isinstance(said, (tuple, list)) or len(said) != 3:  # noqa: PLR2004 - two ends and a verdict
        return failed(
            f"{said!r} is not an interval with a verdict.",
            "one number does not say how far it can be trusted: (lower end, upper end, verdict in words), in brackets",
        )
    found = _found(seen)
    low, high = (judges.number(value, "an end of the interval") for value in said[:2])
    if low > high:
        return failed(f"{low:g} is more than {high:g}.", "the lower end comes first")
    if not (_same(low, found.low) and _same(high, found.high)):
        return failed(
            f"{low:g} … {high:g} is not the interval of the {seen.main.title}.", _other_row(seen, low, high)
        )
    word = "inconclusive" if said[2] == _CANNOT else said[2]
    if word != seen.verdict:
        return failed(
            f"The interval is right, the verdict is not {said[2]!r}.",
            "the verdict is the word at the top; two questions lead to it: does the 95 % interval hold 1? "
            "And does the 90 % interval lie within the margin?",
        )
    return passed(f"{_interval(found)} at 95 %, {found.n} blocks: {seen.verdict}.")


def _sample(given: Given) -> Verdict:
    said, seen = _pair(given, Comparison, 'lesson.check("sample", 6, seen)')
    count, requests = _found(seen).n, sum(len(block.requests) for block in seen.card.blocks)
    text = f"{requests} requests in {count} blocks"
    if judges.number(said, "the number of samples") == count:
        return passed(
            f"{text}: {count} samples, because the requests of a block share its start and its moment."
        )
    return failed(
        f"{text}: {said:g} is not the number of samples.",
        "two requests of one block had the same start of the server, the same place in memory, the same neighbours: "
        "which of them would differ if all of it was done again?",
    )


def _quota(given: Given) -> Verdict:
    if not isinstance(given.value, Recording):
        raise UsageError("the recording is wanted", hint='lesson.check("quota", quota)')
    ratio = given.value["findings"]["generated"]["ratio"]
    text = f"{ratio:.2f} times the rate. You predicted {given.predicted}."
    if given.predicted == _LITTLE:
        return passed(text)
    return failed(
        text,
        "compare two rows of a, in the column of medians: CPU time and whole request. "
        "How many CPUs was the native server using? How many of them did the quota leave? Then predict again",
    )


def _own(given: Given) -> Verdict:
    if not isinstance(given.predicted, (tuple, list)) or len(given.predicted) != 2:  # noqa: PLR2004 - options, verdict
        raise UsageError(
            f"{given.predicted!r} is no design",
            hint='the options of b and a verdict: ("threads=2", "different")',
        )
    options, said = given.predicted
    if said not in _VERDICTS:
        raise UsageError(f"{said!r} is no verdict", hint=f"one of {', '.join(_VERDICTS)}")
    seen = given.value
    found = _found(seen)
    if not any(each.wanted for each in seen.card.inequalities):
        return failed(
            f"With {options} the arms do not differ: that is A/A, and has no other truth than 1.",
            "choose an option that makes b another server than a: the line 'Besides what is compared' names it",
        )
    text = f"{options}: {_interval(found)}, {seen.verdict}. You predicted {said}."
    if seen.verdict in (said, "inconclusive"):
        return passed(
            text + (" Neither shown nor refuted: the blocks are too few." if said != seen.verdict else "")
        )
    if "negligible" in seen.verdict and said in ("different", "equivalent"):
        return passed(f"{text} It is both: told apart, and within the margin.")
    return failed(
        text,
        "find the row that explains it (CPU time, time to first token, memory of its own), and predict again: "
        "the last prediction counts",
    )


def _gone(_: Given) -> Verdict:
    return judges.nothing_left(("left", "right"))


def _pair(given: Given, kind: type, how: str) -> tuple[Any, Any]:
    """What was answered, and what it is about."""
    if len(given.values) != 2 or not isinstance(given.values[1], kind):  # noqa: PLR2004 - the answer and its object
        raise UsageError("the answer and what it was read off are wanted", hint=how)
    return given.values[0], given.values[1]


def _found(seen: Any) -> Finding:
    if not isinstance(seen, Comparison):
        raise UsageError("that is no comparison", hint="give what the cell with compare has returned")
    if not (found := seen.findings.get(seen.main.key)):
        raise UsageError(
            "too few blocks are complete", hint="run the comparison again, and let it come to its end"
        )
    return found


def _same(said: float, true: float) -> bool:
    """Whether a figure was read off, as it is rounded there."""
    return abs(said - true) <= 0.006 + 0.005 * true


def _other_row(seen: Comparison, low: float, high: float) -> str:
    """Where it was read instead, if that can be seen."""
    for key, found in seen.findings.items():
        if key != seen.main.key and _same(low, found.low) and _same(high, found.high):
            return f"those are the ends in another row: the {seen.main.title} is the one that the verdict is about"
    return f"look at the row '{seen.main.title}', column '95 % interval'; the column 'A/A floor' is another thing"


def _interval(found: Finding) -> str:
    return f"{found.ratio:.3f} ({found.low:.3f} … {found.high:.3f})"


LESSON = Lesson(
    number="03",
    title="Native against container",
    minutes=30,
    tasks=(
        Task(
            id="again",
            title="The same question twice",
            judge=_again,
            key="Sooner: the prompt is in the server's cache and is not read again. "
            "Who compares two servers with one question in common has to know which of them has met it.",
            choices=(_SOONER, _LATER, _SAME),
            predicts=True,
            answer=repr(_SOONER),
            wrong=repr(_LATER),
        ),
        Task(
            id="winner",
            title="What a score of rounds allows to say",
            judge=_winner,
            key="'cannot tell' is right for any score; a name only where the sign test has it below 5 of 100. "
            "The usual mistake is to name whoever has one or two rounds more.",
            answer=repr(_CANNOT),
            wrong="rounds.names[0] if rounds.ahead[0] < rounds.ahead[1] else rounds.names[1]",
        ),
        Task(
            id="ratio",
            title="The ratio of b to a, predicted",
            judge=_ratio,
            key="About 1: the same machine code on the same CPU; a container is walls, not a virtual machine. "
            "A prediction within 10 % of the interval passes. The usual mistake is to expect a virtual machine's price.",
            unit="times",
            predicts=True,
            answer="1.0",
            wrong="0.1",
        ),
        Task(
            id="interval",
            title="An interval and a verdict, read off",
            judge=_interval_read,
            key="The ends in the row 'generation rate' and the word at the top. On a noisy machine it is 'inconclusive', "
            "which is a result: it says what could not be told. The usual mistake is to give the ratio alone.",
            answer='(seen.findings["generated"].low, seen.findings["generated"].high, seen.verdict)',
            wrong='seen.findings["generated"].ratio',
        ),
        Task(
            id="sample",
            title="How many samples there were",
            judge=_sample,
            key="As many as blocks. Requests of one block share its luck; counted as samples they make the interval "
            "look surer than it is.",
            answer="len(seen.card.blocks)",
            wrong="sum(len(block.requests) for block in seen.card.blocks)",
        ),
        Task(
            id="quota",
            title="Two threads, one CPU",
            judge=_quota,
            key="A little slower: 0.85. So small a model keeps its second thread busy for a sixth of the time "
            "(CPU time 230 ms in a request of 199 ms: 1.16 CPUs), and 1 / 1.16 is 0.86. The usual mistake is to halve.",
            choices=(_HALF, _LITTLE, _NOT),
            predicts=True,
            answer=repr(_LITTLE),
            wrong=repr(_HALF),
        ),
        Task(
            id="own",
            title="A comparison of one's own",
            judge=_own,
            key="Any option that makes b another server, with the verdict predicted; 'inconclusive' refutes nobody. "
            "For so small a model threads=2 costs more than it brings: the threads wait for each other at each layer.",
            predicts=True,
            answer='("threads=2", "different")',
            wrong='("threads=1", "different")',
        ),
        Task(
            id="gone",
            title="Nothing is left behind",
            judge=_gone,
            key="left and right are stopped; a comparison stops its own servers.",
        ),
    ),
)
