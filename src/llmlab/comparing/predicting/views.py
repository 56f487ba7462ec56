"""A guess in words, as a table, and as a card."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.predicting.picture import rows_html
from llmlab.comparing.roofline.picture import number, scaled

if TYPE_CHECKING:
    from llmlab.comparing.predicting.guess import Guess
    from llmlab.comparing.predicting.guessing import Facts

FORMULA = "tokens per second ≈ memory bandwidth ÷ bytes read per token"
REASON = (
    "To generate a token, every weight that is used is read from memory once. "
    "Reading them usually takes longer than computing with them."
)
# Nearer than the first it is right; nearer than the second, a percentage says more than a factor.
_RIGHT, _NEAR = 1.02, 1.1
_COLUMNS = 100

_DEFINITIONS = (
    ("your guess", "what you expected before anything was measured"),
    (
        "roofline",
        "1 / (the longer of bytes per token ÷ memory bandwidth and operations per token ÷ operations per second, plus what layers take besides, where that is known); both are measured here, without the model",
    ),
    (
        "measured",
        "tokens generated per second by the engine's own clock, started natively, one request at a time: median (lowest … highest)",
    ),
    ("decode", "generating tokens, one after the other; reading the prompt is not part of it"),
    ("times too much", "the value divided by what was measured; the axis is logarithmic, so equal factors are equal lengths"),
)  # fmt: skip


def question(model: str) -> str:
    """What is asked."""
    return f"How many tokens per second will {model} generate?"


def sentence(seen: Guess) -> str:
    """How far off guess and roofline were."""
    roofline = "is not known here" if seen.predicted_ratio is None else off(seen.predicted_ratio)
    return f"You guessed {off(seen.guess_ratio)}; the roofline {roofline}."


def off(ratio: float) -> str:
    """How far off something is that is so many times what was measured."""
    factor = max(ratio, 1 / ratio)
    direction = "much" if ratio > 1 else "little"
    if factor < _RIGHT:
        return "right, to 2 %"
    if factor < _NEAR:
        return f"{100 * abs(ratio - 1):.0f} % too {direction}"
    # Two digits: 1.2, 21, 210.
    shown = f"{factor:.1f}" if factor < 9.95 else f"{float(f'{factor:.2g}'):.0f}"  # noqa: PLR2004 - digits
    return f"{shown} times too {direction}"


def model_facts(facts: Facts) -> list[tuple[str, str]]:
    """What there is to know of the model."""
    parameters = _millions(facts.parameters)
    if facts.active_parameters < facts.parameters // 2:
        parameters += f", {_millions(facts.active_parameters)} of them used for a token"
    return [
        ("size on disk", f"{render.bytes_text(facts.file_bytes)} ({facts.quantisation})"),
        ("parameters", parameters),
        ("read per token", f"{render.bytes_text(facts.bytes_per_token)} of weights"),
    ]


def _millions(count: int) -> str:
    """A number of parameters with three digits, since a guess is reckoned from it."""
    return f"{number(count / 1e6)} million" if count < 0.9995e9 else f"{number(count / 1e9)} billion"  # noqa: PLR2004 - three digits


def machine_facts(facts: Facts) -> list[tuple[str, str]]:
    """What there is to know of the machine, without measuring."""
    threads = "1 thread" if facts.threads == 1 else f"{facts.threads} threads"
    return [
        ("CPU", facts.cpu),
        ("used", f"{threads} of {facts.cpus} {'CPU' if facts.cpus == 1 else 'CPUs'}, no GPU"),
        ("memory", render.mib_text(facts.memory_mib)),
    ]


def bandwidth(bytes_per_s: float | None) -> str:
    """The hint's figure."""
    return "could not be measured here" if bytes_per_s is None else scaled(bytes_per_s, "B/s")


def facts_text(facts: Facts) -> str:
    """What may be reasoned from, for a terminal."""
    pairs = [("model", facts.model), *model_facts(facts), *machine_facts(facts)]
    width = max(len(name) for name, _ in pairs) + 3
    return render.plain("\n".join(f"{name.ljust(width)}{value}" for name, value in pairs))


def _how(facts: Facts) -> str:
    return f"llmlab predict {facts.model} --guess 20"


def question_text(facts: Facts) -> str:
    """The question, where there is no form."""
    return render.plain(
        f"{question(facts.model)}\n\n{facts_text(facts)}\n\n"
        f"Guess, and have it measured: {_how(facts)}, if you think of 20 tokens/s."
    )


def question_card(facts: Facts) -> str:
    """The same as a card."""
    body = (
        render.html_pairs([*model_facts(facts), *machine_facts(facts)])
        + render.html_small("Guess, and have it measured; if you think of 20 tokens/s:")
        + render.html_code([f"%llm predict {facts.model} --guess 20"])
    )
    return render.html_card(question(facts.model), body, side=_tag(facts.synthetic))


def _tag(synthetic: bool) -> str:  # noqa: FBT001 - a property of the model
    if not synthetic:
        return ""
    return render.html_tag("synthetic", "random numbers in the shape of a real model; they are as fast")


def _header(seen: Guess) -> str:
    threads = "1 thread" if seen.threads == 1 else f"{seen.threads} threads"
    return f"{seen.cpu}, {threads}"


def rows(seen: Guess) -> list[tuple[str, float | None, str]]:
    """Guess, roofline, measured: (name, tokens per second, how far off)."""
    ratio = seen.predicted_ratio
    return [
        ("your guess", seen.guess, off(seen.guess_ratio)),
        ("roofline", seen.predicted, "" if ratio is None else off(ratio)),
        ("measured", seen.measured, f"({number(min(seen.runs))} … {number(max(seen.runs))})"),
    ]


def guess_text(seen: Guess) -> str:
    """The sentence, the three rates, and why."""
    mark = " (synthetic weights)" if seen.synthetic else ""
    table = [(name, number(rate), how) for name, rate, how in rows(seen)]
    parts = [
        f"{seen.model}{mark} on {_header(seen)}",
        *render.wrapped(sentence(seen), _COLUMNS),
        "",
        render.text_table(("", seen.unit, ""), table),
        "",
        *render.wrapped(_why(seen), _COLUMNS),
    ]
    for note in seen.notes:
        parts += ["", *render.wrapped(note, _COLUMNS)]
    return render.plain("\n".join(parts))


def _why(seen: Guess) -> str:
    return f"{seen.reason[:1].upper()}{seen.reason[1:]}."


def outcome_html(seen: Guess, earlier: Sequence[Guess] = ()) -> str:
    """What came out, without a frame: the sentence, the axis, why, what should be known."""
    tries = len(earlier) + 1
    faint = (
        render.html_small(
            f"This was try {tries}. Faint marks: earlier tries, guesses of "
            f"{', '.join(number(each.guess) for each in earlier)} {seen.unit}."
        )
        if earlier
        else ""
    )
    return "".join(
        (
            f'<div style="{render.FONT};font-weight:600;margin:6px 0">{escape(sentence(seen))}</div>',
            rows_html(seen, rows(seen), earlier),
            faint,
            render.html_text(_why(seen)),
            *(render.html_small(note) for note in seen.notes),
            render.html_fold("What the words mean", render.html_pairs(_DEFINITIONS)),
        )
    )


def guess_card(seen: Guess, earlier: Sequence[Guess] = ()) -> str:
    """The same as a card."""
    side = f"{_tag(seen.synthetic)}{render.html_muted(_header(seen))}"
    return render.html_card(f"predict {seen.model}", outcome_html(seen, earlier), side=side)
