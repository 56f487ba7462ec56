"""A roofline in words, as tables, and as a card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from llmlab import render
from llmlab.comparing.roofline import picture as roofline_picture
from llmlab.comparing.roofline.picture import number, scaled, share, tokens

if TYPE_CHECKING:
    from llmlab.comparing.roofline import Roofline
    from llmlab.comparing.roofline.compute import Phase, Roofs

# From so much of a roof on, that roof is what limits; above the second, the roof itself is too low.
_NEAR, _ABOVE = 0.6, 1.05

_DEFINITIONS = (
    (
        "roof of memory",
        "a buffer larger than any cache, read once by as many threads: bytes per second, best of several",
    ),
    (
        "roof of computing",
        "a product of float32 matrices (numpy's BLAS) with as many threads: additions and multiplications per second, best of several. An engine multiplies quantised weights as small integers after unpacking them, which has another limit: it can lie below this roof, or above",
    ),
    (
        "the engine's roofs",
        "what this engine has reached here with models that consist of such weights, unpacking included; llmlab models --measure measures them",
    ),
    (
        "ridge",
        "operations per byte where the two roofs meet: left of it memory is the limit, right of it computing",
    ),
    (
        "bytes, decode",
        "active weights (of a mixture of experts, those of the experts that are used) and the KV cache, 2 · layers · KV heads · head length · tokens in the context · 2 bytes",
    ),
    ("bytes, prefill", "all weights, once for each batch of 512 tokens"),
    (
        "operations",
        "2 · active parameters for each token, and those of attention for each token that it looks back at",
    ),
    (
        "predicted",
        "tokens / t, with t = max(bytes / roof of memory, operations / roof of computing), and for decode + t0: what layers take besides, 0 where the engine was not measured",
    ),
    (
        "measured",
        "by the engine's own clock, started natively, one request at a time, nothing from a cache: median (lowest … highest)",
    ),
    (
        "share of the roof",
        "measured rate / rate at the lower roof, without t0. Where it is low, something else holds back: unpacking the weights, what each layer takes besides, threads that wait for each other, other programs",
    ),
)


def sentence(seen: Roofline) -> str:
    """What it comes to."""
    return "; ".join(outcome(phase) for phase in seen.phases) + "."


def outcome(phase: Phase) -> str:
    """What a phase comes to: which roof it is, and how near."""
    rate = phase.measured_tokens_per_s
    if phase.bound is None:
        known = "" if rate is None else f" at {number(rate)} tokens/s"
        return f"{phase.name}{known}: a roof is not known"
    if rate is None or phase.share is None:
        expected = number(phase.predicted_tokens_per_s)
        return f"{phase.name} is predicted at {expected} tokens/s, bound by {_what(phase)}"
    reached = f"{phase.name} reaches {100 * phase.share:.0f} % of the {phase.bound} roof"
    if phase.share > _ABOVE:
        why = {
            "memory": "weights came from a cache, or the machine was busy when the roof was measured",
            "compute": "small integers multiply quicker than the float32 of the roof, or the machine was busy then",
        }
        return f"{reached}: {why[phase.bound]}"
    if phase.share >= _NEAR:
        return f"{reached}: it is bound by {_what(phase)}"
    return f"{reached}: more than {_what(phase)} holds it back"


def _what(phase: Phase) -> str:
    return "computing" if phase.bound == "compute" else "memory"


def _header(seen: Roofline) -> str:
    threads = "1 thread" if seen.threads == 1 else f"{seen.threads} threads"
    return f"{seen.cpu}, {threads}"


def _roof_rows(seen: Roofline) -> list[tuple[str, str, str, str]]:
    """Roofs: of what, memory, computing, ridge."""
    both: list[tuple[str, Roofs | None]] = [("this machine", seen.machine), ("the engine", seen.engine)]
    return [
        (name, scaled(roofs.bytes_per_s, "B/s"), scaled(roofs.operations_per_s, "operations/s"), number(roofs.ridge))
        for name, roofs in both
        if roofs
    ]  # fmt: skip


_ROOF_HEADER = ("roofs of", "memory", "computing", "ridge")


def _rows(seen: Roofline) -> list[tuple[str, ...]]:
    """What is said of both phases: (what, of decode, of prefill)."""
    rows: list[tuple[str, ...]] = [("", *(phase.name for phase in seen.phases))]

    def add(what: str, cells: Iterable[str]) -> None:
        rows.append((what, *cells))

    decode, prefill = seen.decode.work, seen.prefill.work
    add("one pass", (f"1 token, {decode.context} in the context", f"{prefill.tokens} tokens of a prompt"))
    kv = f", {render.bytes_text(decode.kv_bytes)} of it KV" if decode.kv_bytes else ""
    add("bytes", (f"{render.bytes_text(decode.nbytes)}{kv}", render.bytes_text(prefill.nbytes)))
    add("operations", (scaled(phase.work.operations, "").strip() for phase in seen.phases))
    add("operations/byte", (number(phase.work.intensity) for phase in seen.phases))
    add("lower roof", (phase.bound or render.UNKNOWN for phase in seen.phases))
    add("predicted", (tokens(phase.predicted_tokens_per_s) for phase in seen.phases))
    if seen.engine:
        add("by the engine's roofs", (tokens(phase.engine_tokens_per_s) for phase in seen.phases))
    if any(phase.measured for phase in seen.phases):
        add("measured", (_measured(phase) for phase in seen.phases))
        achieved = [(phase, phase.measured_tokens_per_s) for phase in seen.phases]
        add("reading", (scaled(phase.bytes_per_s(rate), "B/s") for phase, rate in achieved))
        add("computing", (scaled(phase.operations_per_s(rate), "operations/s") for phase, rate in achieved))
        add("share of the roof", (share(phase) for phase in seen.phases))
    return rows


def _measured(phase: Phase) -> str:
    if not phase.measured:
        return render.UNKNOWN
    low, high = min(phase.measured), max(phase.measured)
    return f"{tokens(phase.measured_tokens_per_s)} ({number(low)} … {number(high)})"


def text(seen: Roofline) -> str:
    """The sentence, the roofs, the phases, and what should be known besides."""
    head, *rows = _rows(seen)
    mark = " (synthetic weights)" if seen.synthetic else ""
    parts = [
        f"{seen.model}{mark} on {_header(seen)}",
        *render.wrapped(sentence(seen), 100),
        "",
        render.text_table(_ROOF_HEADER, _roof_rows(seen)),
        "",
        render.text_table(head, rows),
    ]
    for note in seen.notes:
        parts += ["", *render.wrapped(note, 100)]
    return render.plain("\n".join(parts))


def html(seen: Roofline) -> str:
    """A card: the sentence, the picture, roofs and phases, what the words mean."""
    tag = (
        render.html_tag("synthetic", "random numbers in the shape of a real model") if seen.synthetic else ""
    )
    head, *rows = _rows(seen)
    body = [
        render.html_text(sentence(seen)),
        roofline_picture.picture(seen, sentence(seen)),
        _table(_ROOF_HEADER, _roof_rows(seen)),
        _table(head, rows),
        *(render.html_small(note) for note in seen.notes),
        render.html_fold("What the words mean", render.html_pairs(_DEFINITIONS)),
    ]
    side = f"{tag}{render.html_muted(_header(seen))}"
    return render.html_card(f"roofline of {seen.model}", "".join(body), side=side)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = render.html_grid(header, [[escape(cell) for cell in row] for row in rows])
    return f'<div style="margin-top:8px;overflow-x:auto;font-size:92%">{table}</div>'
