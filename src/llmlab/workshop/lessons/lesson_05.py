"""Lesson 05: many learners at one server; what all get, what each waits, and where the knee is."""

from __future__ import annotations

from functools import cache
from typing import Any

from llmlab.errors import UsageError
from llmlab.weights.anatomy import Anatomy
from llmlab.weights.fit import Setting, need
from llmlab.weights.references import foresee
from llmlab.workshop import judges
from llmlab.workshop.loads import Level, Load
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict, failed, passed

_SMALL, _CONTEXT, _SLOTS = "synthetic:smollm2-135m:Q4_0", 512, 8
_TTFT, _RATE, _NEITHER = "the first token comes later", "each token takes longer", "neither"
_LARGE, _LARGE_LAYERS = "llama-3.1-8b", 33
_GPU_MIB, _NEEDED_CONTEXT, _NEEDED_SLOTS = 81559, 32768, 4
_FACTOR, _AT_LINE, _DISTURBED, _MIB = 2.0, 0.1, 0.8, 1024 * 1024


def _cache(given: Given) -> Verdict:
    guess = judges.number(given.value, "the KV cache")
    anatomy = _anatomy(_SMALL)
    row = (anatomy.key_length + anatomy.value_length) * 2
    true = sum(anatomy.n_kv_heads) * row * _CONTEXT * _SLOTS / _MIB
    text = f"{guess:g} MiB"
    if abs(guess / true - 1) <= 0.03:  # noqa: PLR2004 - rounding
        return passed(f"{text}: a cache for each of {_SLOTS} slots, whether it is in use or not.")
    for times, hint in (
        (1 / _SLOTS, "that is one slot's; each slot has a context of its own"),
        (
            1 / 2,
            "a factor of 2 is missing: keys and values are both kept, and a number in f16 takes two bytes",
        ),
        (
            1 / 4,
            "a factor of 4 is missing: keys and values are both kept, and a number in f16 takes two bytes",
        ),
        (1 / anatomy.n_layers, "that is one layer's; each layer keeps keys and values of its own"),
        (_MIB, "that is in bytes; a MiB has 1024 × 1024 of them"),
    ):
        if abs(guess / true / times - 1) <= 0.05:  # noqa: PLR2004 - rounding
            return failed(f"{text} is not it.", hint)
    return failed(
        f"{text} is not it.",
        "multiply all that stands in the formula: 2 × layers × KV heads × length × bytes × "
        "tokens × slots, and divide by 1024 × 1024",
    )


def _gain(given: Given) -> Verdict:
    seen = _load(given.value)
    guess = judges.number(given.predicted, "the prediction")
    one, four = _rate(seen.at(1)), _rate(seen.at(4))
    ratio = four / one
    # Four cannot get more than four times, nor less than one alone: beyond that, something else was at work.
    limits = min(max(ratio, 1.0), 4.0)
    text = f"{one:.0f} tokens/s for one, {four:.0f} for four together: {ratio:.1f} times. You predicted {guess:g}."
    if limits != ratio:
        text += " That is outside 1 to 4, so other programs disturbed one of the two: measure again."
    if limits / _FACTOR <= guess <= limits * _FACTOR:
        return passed(text)
    return failed(
        text,
        "a pass through the model reads all weights once, for one token of each learner in it; "
        "the arithmetic is done for each. Which of the two is shared? Predict again",
    )


def _knee(given: Given) -> Verdict:
    said, seen = _pair(given, 'lesson.check("knee", 4, seen)')
    count = judges.number(said, "the number of learners")
    level = seen.at(round(count)) if count == round(count) else None
    if level is None:
        raise UsageError(
            f"{count:g} learners were not measured", hint="read it off the picture: a whole number"
        )
    limit = seen.limit_s or 0.0
    text = f"{level.learners} at once: p95 {_p95(level):.2f} s, and at most {limit:.2f} s is wanted"
    if _p95(level) > limit * (1 + _AT_LINE):
        return failed(
            f"{text}: too long.",
            "the hollow circles are over the line; go back to the last full one before them",
        )
    larger = [other for other in seen.levels if other.learners > level.learners]
    if larger and _p95(larger[0]) <= limit * (1 - _AT_LINE):
        return failed(
            f"{text}, but {larger[0].learners} at once keep it, too.",
            "the knee is the largest number that still keeps the line: go on to the right until a circle is above it",
        )
    rate = _rate(level) / _rate(seen.levels[0])
    more = "" if larger else " More were not tried: the knee may lie beyond."
    return passed(f"{text}. All together get {rate:.1f} times what one gets.{more}")


def _little(given: Given) -> Verdict:
    said, seen = _pair(given, 'lesson.check("little", requests, seen)')
    level = seen.at(4)
    true = level.requests_per_s * level.mean_s
    text = f"{level.requests_per_s:.2f} requests/s × {level.mean_s:.2f} s = {true:.1f} requests"
    guess = judges.number(said, "the number of requests")
    if abs(guess - true) <= 0.06 * true:
        return passed(f"{text} in the server, on average, and four learners sent them: nobody was lost.")
    if abs(guess - level.requests) < 0.5:  # noqa: PLR2004 - a whole number
        hint = "those are all requests of the level; wanted is how many were under way at a time"
    else:
        hint = "multiply two figures of the level of four: how many are answered per second, how long one takes (mean)"
    return failed(f"{guess:g} is not it.", hint)


def _queue(given: Given) -> Verdict:
    seen = _load(given.value)
    few, many = seen.levels[0], seen.levels[-1]
    if many.learners <= seen.slots:
        raise UsageError(
            f"{many.learners} learners on {seen.slots} slots do not wait",
            hint="load it with more learners than slots",
        )
    if not few.ttft_p50_s or not many.ttft_p50_s or not few.each_tokens_per_s or not many.each_tokens_per_s:
        raise UsageError("the server told no times", hint="take llama-server, and answers of more tokens")
    later, rate = many.ttft_p50_s / few.ttft_p50_s, many.each_tokens_per_s / few.each_tokens_per_s
    text = (
        f"From {few.learners} to {many.learners} learners on {seen.slots} slots: TTFT × {later:.1f},"
        f" rate of an answer × {rate:.2f}. You predicted: {given.predicted}."
    )
    if rate < _DISTURBED:
        text += " There were no more requests in a pass, so it was other programs that slowed the rate."
    if given.predicted == _TTFT:
        return passed(text)
    return failed(
        text, "who waits for a slot has no token yet; who has one shares the model with one other, as before"
    )


def _class(given: Given) -> Verdict:
    slots, context = _setting(given.value)
    taken = need(_anatomy(_LARGE), Setting(context=context, slots=slots, gpu_layers=_LARGE_LAYERS)).vram_mib
    text = f"{slots} slots of {context} tokens take {taken / 1024:.0f} GiB of {_GPU_MIB / 1024:.0f} GiB (predicted)"
    if context < _NEEDED_CONTEXT:
        return failed(
            f"{text}, but a document of 30 000 tokens does not fit into {context}.",
            "prompt and answer must both fit into one slot's context, which is usually a power of two",
        )
    if taken > _GPU_MIB:
        return failed(
            f"{text}: too much.",
            "30 learners are not 30 requests at a time: how many are under way on average, by Little's law?",
        )
    if slots < _NEEDED_SLOTS:
        return failed(
            f"{text}, but {slots} {'slot is' if slots == 1 else 'slots are'} too few.",
            "Little's law gives an average; learners do not come evenly, so leave room for twice that",
        )
    return passed(
        f"{text}. About 1.6 requests are under way on average, so {slots} slots seldom make anybody wait."
    )


def _gone(_: Given) -> Verdict:
    return judges.nothing_left(("shared", "narrow"))


@cache
def _anatomy(reference: str) -> Anatomy:
    return foresee(reference)


def _setting(value: Any) -> tuple[int, int]:
    """Slots and context, as they were given."""
    if (
        not isinstance(value, (tuple, list))
        or len(value) != 2  # noqa: PLR2004 - slots, context
        or not all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in value)
    ):
        raise UsageError(f"{value!r} is no choice", hint="two whole numbers in brackets: (slots, context)")
    return value[0], value[1]


def _pair(given: Given, how: str) -> tuple[Any, Load]:
    if len(given.values) != 2:  # noqa: PLR2004 - the answer and its load
        raise UsageError("the answer and what it was read off are wanted", hint=how)
    return given.values[0], _load(given.values[1])


def _load(seen: Any) -> Load:
    if not isinstance(seen, Load):
        raise UsageError("that is no load", hint="give what the cell with loading.load has returned")
    return seen


def _rate(level: Level) -> float:
    if not level.tokens_per_s:
        raise UsageError("the server did not count its tokens", hint="take llama-server")
    return level.tokens_per_s


def _p95(level: Level) -> float:
    if level.p95_s is None:
        raise UsageError("no request was answered", hint="measure again")
    return level.p95_s


LESSON = Lesson(
    number="05",
    title="Batching and concurrency",
    minutes=30,
    tasks=(
        Task(
            id="cache",
            title="The memory of eight contexts",
            judge=_cache,
            key="90 MiB: 2 × 30 layers × 3 KV heads × 64 × 2 bytes × 512 tokens × 8 slots. "
            "The usual mistake is to reckon one slot, or keys without values.",
            unit="MiB",
            answer="2 * 30 * 3 * 64 * 2 * 512 * 8 / 1024**2",
            wrong="2 * 30 * 3 * 64 * 2 * 512 / 1024**2",
        ),
        Task(
            id="gain",
            title="Four learners against one, predicted",
            judge=_gain,
            key="About 2 on two CPUs: reading the weights is shared, the arithmetic is not. A factor of 2 either way passes, "
            "and a ratio outside 1 to 4 is taken for a disturbance.",
            unit="times",
            predicts=True,
            answer="2.0",
            wrong="10.0",
        ),
        Task(
            id="knee",
            title="The knee",
            judge=_knee,
            key="The largest level whose p95 is at most three times that of one learner; within 10 % of the line both "
            "neighbours pass. The usual mistake is to look for the highest throughput.",
            answer="max(level.learners for level in seen.levels if level.p95_s <= seen.limit_s)",
            wrong="3",
        ),
        Task(
            id="little",
            title="Little's law",
            judge=_little,
            key="Requests per second times mean time: about 4, as many as there are learners, a little less because some "
            "have finished earlier. The usual mistake is to multiply by the p95, or to give all requests.",
            answer="seen.at(4).requests_per_s * seen.at(4).mean_s",
            wrong="seen.at(4).requests",
        ),
        Task(
            id="queue",
            title="More learners than slots",
            judge=_queue,
            key="The first token comes later, by the time that others need for theirs; who has a slot writes as fast as before.",
            choices=(_TTFT, _RATE, _NEITHER),
            predicts=True,
            answer=repr(_TTFT),
            wrong=repr(_RATE),
        ),
        Task(
            id="class",
            title="A class of thirty on one GPU",
            judge=_class,
            key="(8, 32768), for instance. 4 to 18 slots of 32 768 tokens: a slot's cache takes 4 GiB of 80, "
            "and Little's law gives 0.5 requests/s × 3.1 s = 1.6. The usual mistake is a slot for each learner: 125 GiB.",
            answer="(8, 32768)",
            wrong="(30, 32768)",
        ),
        Task(
            id="gone",
            title="Nothing is left behind",
            judge=_gone,
            key="shared and narrow are stopped.",
        ),
    ),
)
