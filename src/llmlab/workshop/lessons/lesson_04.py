"""Lesson 04: what a GPU's figures say, what a longer context takes, and what a token costs in joules."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from llmlab import weights
from llmlab.errors import UsageError
from llmlab.monitoring import Monitoring, Seen, monitor
from llmlab.telemetry.bands import Band
from llmlab.weights import fit
from llmlab.workshop import judges
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict, failed, passed

_RECORDING = "example-gpu"
_MODEL = "synthetic:llama-3.2-1b:Q4_0"
_CONTEXT, _SLOTS = 4096, 8
_NEAR = 0.2
# Points of utilisation, and shares of an energy, below which two figures count as the same.
_POINTS, _SHARE = 5.0, 0.1
_RISES, _FALLS, _STAYS = "rises", "falls", "stays"
_MORE, _SAME, _LESS = "more", "about the same", "less"
_MODELS = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b")
_LEARNERS, _TOKENS, _CARD_MIB = 4, 8192, 8192
_SERVERS = ("short", "long", "on-gpu")
_ALONE_TOKENS = 512


def _utilisation(given: Given) -> Verdict:
    alone, eight = _pair(given, "utilisation, alone and with eight")
    change = eight - alone
    seen = _STAYS if abs(change) < _POINTS else _RISES if change > 0 else _FALLS
    text = f"{alone:.0f} % alone, {eight:.0f} % with eight at once: it {seen}."
    if given.predicted == seen:
        return passed(text)
    return failed(
        f"{text} You predicted that it {given.predicted}.",
        "utilisation is the share of the time in which anything ran, not how much work was done: "
        "what does the GPU wait for between two steps? Look at the engine's CPU line",
    )


def _kv(given: Given) -> Verdict:
    found = judges.number(given.value, "your figure")
    kib, model = _kv_kib(), weights.foresee(_MODEL)
    text = f"{found:g} KiB for each token of context"
    mistakes = {
        kib * model.n_heads / model.n_kv_heads[0]: "that counts all attention heads; "
        "only the KV heads have keys and values of their own",
        kib / 2: "keys and values are two numbers for each place, and each number has two bytes: one of the "
        "twos is missing",
        kib * 1024: "that is in bytes; 1 KiB has 1024 of them",
        kib / model.n_layers: "that is one layer; each layer keeps its own",
    }
    if abs(found / kib - 1) <= 0.01:  # noqa: PLR2004 - rounding
        return passed(f"{text}, in each slot.")
    for wrong, hint in mistakes.items():
        if abs(found / wrong - 1) <= 0.01:  # noqa: PLR2004 - as above
            return failed(f"It is not {text}.", hint)
    return failed(f"It is not {text}.", "put the four figures of the card into the formula above")


def _vram(given: Given) -> Verdict:
    need = _need(_MODEL, 2 * _CONTEXT, _SLOTS)
    hint = "what doubles with the context, and what does not? Only the KV cache grows, by its own size"
    seen = _on_gpu(given.value)
    how = "That is llmlab's reckoning." if seen is None else "That was seen on the GPU here."
    verdict = judges.near(given.predicted, need if seen is None else seen, share=_NEAR, unit="MiB", hint=hint)
    return replace(verdict, text=f"{verdict.text} {how}")


def _memory(given: Given) -> Verdict:
    if given.value is None:
        raise UsageError(
            "how much memory the server holds cannot be seen from here",
            hint="start it natively in the cells above: backend='native'",
        )
    return judges.near(
        given.predicted,
        judges.number(given.value, "the memory"),
        share=_NEAR,
        unit="MiB",
        hint="weights, buffers and program stay as they are; add what the additional tokens of context take",
    )


def _joules(given: Given) -> Verdict:
    found = judges.number(given.value, "your figure")
    band = _recorded()
    alone = [one for one in band.requests if one.tokens == _ALONE_TOKENS]
    joules, seconds, tokens = _counted(band, alone)
    right = joules / tokens
    text = f"{found:.2f} J per token"
    if abs(found / right - 1) <= 0.15:  # noqa: PLR2004 - an average of looks is no counter
        return passed(f"{text}. The card's own energy counter says {right:.2f}.")
    mistakes = {
        right / seconds: "watts are joules per second: multiply by the seconds that they were drawn",
        joules: "that is the energy of the whole stretch: divide it by the tokens written in it",
        joules / len(alone): "that is for each request: divide by tokens",
        seconds / tokens: "that is seconds per token: the watts are missing",
    }
    for wrong, hint in mistakes.items():
        if abs(found / wrong - 1) <= 0.15:  # noqa: PLR2004 - as above
            return failed(f"It was not {text}.", hint)
    return failed(f"It was not {text}.", "mean watts, times seconds, divided by tokens")


def _energy(given: Given) -> Verdict:
    alone, eight = _pair(given, "joules per token, alone and with eight")
    if alone <= 0 or eight <= 0:
        raise UsageError("nothing was used", hint="run the cell that computes both figures first")
    ratio = eight / alone
    seen = _SAME if abs(ratio - 1) < _SHARE else _MORE if ratio > 1 else _LESS
    text = f"{alone:.2f} J per token alone, {eight:.2f} with eight at once: {ratio:.2f} times as much."
    if given.predicted == seen:
        return passed(text)
    return failed(
        f"{text} You predicted {given.predicted!r}.",
        "the weights are read from memory once for each step, however many answers the step is for",
    )


def _fits(given: Given) -> Verdict:
    if given.value not in _MODELS:
        raise UsageError(f"{given.value!r} is none of the three", hint=f"they are {', '.join(_MODELS)}")
    needs = {name: _need(name, _TOKENS, _LEARNERS) for name in _MODELS}
    largest = max((name for name in _MODELS if needs[name] <= _CARD_MIB), key=lambda name: needs[name])
    text = f"{given.value} would take {needs[given.value]} MiB of the {_CARD_MIB} MiB."
    if given.value == largest:
        return passed(text)
    if needs[given.value] > _CARD_MIB:
        return failed(
            text,
            "its weights go in, and then? Reckon the KV cache for four slots of 8192 tokens, "
            "or ask llmlab with --slots 4",
        )
    return failed(text, "it fits; is there a larger one that does?")


def _gone(_: Given) -> Verdict:
    return judges.nothing_left(_SERVERS)


def _pair(given: Given, what: str) -> tuple[float, float]:
    """The two figures that a check was given.

    Raises:
        UsageError: They are not two, or no numbers.
    """
    if len(given.values) != 2:  # noqa: PLR2004 - a pair
        raise UsageError(f"two figures are wanted: {what}", hint="the cell above computes both")
    first, second = (judges.number(value, what) for value in given.values)
    return first, second


def _kv_kib() -> float:
    """KiB of KV cache for each token of context, of the model in the recording."""
    model = weights.foresee(_MODEL)
    return sum(model.n_kv_heads) * (model.key_length + model.value_length) * 2 / 1024


def _need(reference: str, context: int, slots: int) -> int:
    """GPU memory that a model is predicted to take with all its layers there, MiB."""
    model = weights.foresee(reference)
    setting = fit.Setting(context=context, slots=slots, gpu_layers=model.n_layers + 1)
    return fit.need(model, setting).vram_mib


def _on_gpu(value: Any) -> float | None:
    """GPU memory that was seen of a server here, MiB; None if none was."""
    if not isinstance(value, Seen):
        return None
    known = [mib for each in value.series if each.metric.key == "gpu_memory" for mib in each.known]
    return max(known, default=None)


@cache
def _recorded() -> Monitoring:
    return monitor(replay=_RECORDING)


def _counted(seen: Monitoring, requests: list[Band]) -> tuple[float, float, int]:
    """Joules by the card's counter, seconds and tokens, from the first of some requests to the last."""
    begin = min(one.began_s for one in requests)
    end = max(one.began_s + one.total_s for one in requests)
    counter = seen["gpu 0", "energy"]
    inside = [
        (time_s, value)
        for time_s, value in zip(counter.times_s, counter.values, strict=True)
        if begin <= time_s <= end and value is not None
    ]
    (first_s, first_j), (last_s, last_j) = inside[0], inside[-1]
    # The looks do not fall on the edges.
    joules = (last_j - first_j) * (end - begin) / (last_s - first_s)
    return joules, end - begin, sum(one.tokens or 0 for one in requests)


LESSON = Lesson(
    number="04",
    title="Watching the GPU",
    minutes=25,
    tasks=(
        Task(
            id="utilisation",
            title="You predicted what eight requests at once do to utilisation",
            judge=_utilisation,
            choices=(_RISES, _FALLS, _STAYS),
            predicts=True,
            answer='"falls"',
            wrong='"rises"',
            key="In the recording it falls, from about 62 to about 27 %, while the tokens per second double: "
            "utilisation is the share of time in which any kernel ran. Between the steps the GPU waits for the "
            "engine's work on the CPU, which is more for eight answers. Usual mistake: to read utilisation as load.",
        ),
        Task(
            id="kv",
            title="You reckon the KV cache of one token",
            judge=_kv,
            answer="16 * 8 * 64 * 2 * 2 / 1024",
            wrong="16 * 32 * 64 * 2 * 2 / 1024",
            key="16 layers × 8 KV heads × 64 × 2 (key and value) × 2 bytes = 32 KiB. Usual mistake: the 32 "
            "attention heads in place of the 8 KV heads, which gives 128 KiB.",
        ),
        Task(
            id="vram",
            title="You predict GPU memory at twice the context within 20 %",
            judge=_vram,
            unit="MiB",
            predicts=True,
            answer="2418 + 32 * 4096 * 8 / 1024",
            wrong="2 * 2418",
            key="2418 MiB + 1024 MiB = 3442 MiB: only the KV cache doubles. Usual mistakes: to double everything, "
            "or to forget the eight slots (128 MiB in place of 1024).",
        ),
        Task(
            id="memory",
            title="You predict a real server's memory at twice the context within 20 %",
            judge=_memory,
            unit="MiB",
            predicts=True,
            answer="short_mib + 30 * 3 * 64 * 2 * 2 * 8192 / 1024 / 1024",
            wrong="2 * short_mib",
            key="22.5 KiB × 8192 more tokens = 180 MiB more. Usual mistake: to double everything. In main memory "
            "the weights count twice in part: llama.cpp keeps a repacked copy, which stays the same, too.",
        ),
        Task(
            id="joules",
            title="You compute joules per token",
            judge=_joules,
            answer="watts * seconds / tokens",
            wrong="watts / tokens",
            key="290 W × 12.8 s / 8192 tokens = 0.45 J; the card's counter says nearly the same. Usual mistake: "
            "to leave out the seconds.",
        ),
        Task(
            id="energy",
            title="You predicted what a token costs with eight at once",
            judge=_energy,
            choices=(_MORE, _SAME, _LESS),
            predicts=True,
            answer='"less"',
            wrong='"more"',
            key="About a third: 0.16 J in place of 0.45. Twice the tokens at less power, since weights are read once "
            "for all eight. Usual mistake: more requests, so more energy; that holds for each second, not each token.",
        ),
        Task(
            id="fits",
            title="You chose a model for a card of 8 GB",
            judge=_fits,
            answer='"llama-3.2-3b"',
            wrong='"llama-3.1-8b"',
            key="llama-3.2-3b, with about 6.2 GB. The 8 B model's file of 4.9 GB goes in, and so does one learner; four "
            "slots of 8192 tokens need 4 GiB of KV cache more. Usual mistake: to compare the file with the card.",
        ),
        Task(
            id="gone",
            title="Nothing is left behind",
            judge=_gone,
            key="The servers short and long are stopped, and on-gpu where there is a GPU.",
        ),
    ),
)
