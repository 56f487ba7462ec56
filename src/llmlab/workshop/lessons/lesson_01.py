"""Lesson 01: a model's first start, its first answer, and nothing left behind."""

from __future__ import annotations

from llmlab.errors import UsageError
from llmlab.results import Answer
from llmlab.workshop import judges
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict, failed, passed

_READS = "reading the question"
_WRITES = "writing the answer"
_WAITS = "waiting for the network"


def _ready(given: Given) -> Verdict:
    status = judges.server(given.value)
    return passed(f"{status.name} is ready: {status.model}, served by {status.engine}, {status.backend}.")


def _ttft(given: Given) -> Verdict:
    if given.value == _READS:
        return passed("The model reads the whole question before it can write anything.")
    if given.value == _WAITS:
        return failed(
            "Nothing here goes over a network.",
            "the model runs on this machine: what does it do before it writes?",
        )
    return failed(
        f"{given.value!r} is not what that time is spent on.",
        "the table under the first answer says what TTFT depends on",
    )


def _rate(given: Given) -> Verdict:
    if len(given.values) != 2 or not isinstance(given.values[1], Answer):  # noqa: PLR2004 - a figure and an answer
        raise UsageError(
            "a figure and the answer that it belongs to are wanted",
            hint='lesson.check("rate", figure, answer)',
        )
    seen = given.values[1].tokens_per_s
    if seen is None:
        return passed("The engine told no rate for that answer: too few tokens.")
    return judges.near(
        given.value,
        seen,
        share=0.05,
        unit="tokens/s",
        hint="tokens/s stands on the chip 'generated' under the answer; TTFT is another figure",
    )


def _boxed(given: Given) -> Verdict:
    """The guess about the container against the two answers, as far as two answers can say."""
    if len(given.values) != 2 or not all(isinstance(value, Answer) for value in given.values):  # noqa: PLR2004 - a pair
        raise UsageError("the two answers are wanted", hint='lesson.check("boxed", from_plain, from_boxed)')
    plain, boxed = (value.tokens_per_s for value in given.values)
    if not plain or not boxed:
        return passed("The engine told no rate: ask again with a longer question.")
    ratio = boxed / plain
    text = f"boxed wrote at {ratio:.2f} times the rate of plain, this once."
    if given.predicted == "about as fast":
        return passed(f"{text} Lesson 03 shows how to tell a difference from chance.")
    return failed(
        f"{text} You predicted {given.predicted}.",
        "run the two questions again, a few times: does the sign of the difference stay the same? "
        "If not, it is chance; a container runs the same program on the same CPU",
    )


def _left(_: Given) -> Verdict:
    return judges.nothing_left(("plain", "boxed"))


LESSON = Lesson(
    number="01",
    title="First model",
    minutes=20,
    tasks=(
        Task(
            id="ready",
            title="A model is ready to be asked",
            judge=_ready,
            key="`plain` runs. Who gets 'no server is called' has skipped the cell with %llm start.",
        ),
        Task(
            id="ttft",
            title="What the time to first token is spent on",
            judge=_ttft,
            key="Reading the question: all of it goes through the model before the first token. "
            "The usual mistake is to take it for the network, which is how hosted models feel.",
            answer=repr(_READS),
            wrong=repr(_WAITS),
        ),
        Task(
            id="rate",
            title="The rate of an answer, read off",
            judge=_rate,
            key="The figure on the chip 'generated'. Within 5 %, so rounding is fine.",
            answer="answer.tokens_per_s",
            wrong="answer.ttft_s",
        ),
        Task(
            id="boxed",
            title="Whether a container makes it slower",
            judge=_boxed,
            key="About as fast. One pair of answers cannot tell more; lesson 03 does.",
            choices=("faster", "slower", "about as fast"),
            predicts=True,
            answer="'about as fast'",
            wrong="'slower'",
        ),
        Task(
            id="left",
            title="Nothing is left behind",
            judge=_left,
            key="plain and boxed are stopped. A restarted kernel does not stop servers; %llm stop does.",
        ),
    ),
)
