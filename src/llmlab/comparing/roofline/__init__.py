"""A roofline: how fast a model can run on this machine at best, and how fast it does.

A token takes at least as long as reading what it needs, and as long as computing
with it; the longer of the two is the bound:

    decode    t ≥ max((W_active + B·KV) / bandwidth, B·operations / peak) + t0   (B tokens)
    prefill   t ≥ max(W / bandwidth, n·operations / peak)                        (n tokens)

What is read and computed follows from the model's anatomy; the roofs are measured
(`compute`), t0 is known where the engine was measured (`weights.rates`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmlab import lab, machine, render, weights
from llmlab.builds import find_build
from llmlab.client import Client
from llmlab.comparing.roofline import compute
from llmlab.comparing.roofline import views as roofline_views
from llmlab.comparing.roofline.compute import Phase, Roofs
from llmlab.errors import EngineError, RequestError, UsageError
from llmlab.lab import planning, registry
from llmlab.reporting import Reporter, reporter, reporting_to
from llmlab.results import Result
from llmlab.weights import anatomy, rates
from llmlab.weights.anatomy import Anatomy
from llmlab.weights.rates import Pace, Rates

_PROMPT, _QUESTION, _CONTEXT = 512, 16, 1024
_DECODE_S = 0.8
_FEWEST, _MOST, _TRIED = 16, 256, 8
_DECODES, _PREFILLS = 5, 3
_TEXT = "The quick brown fox jumps over the lazy dog while a container runs beside it. "
# Such models may stay in the CPU's cache, at least in part.
_SMALL_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline(Result):
    """A model under this machine's roofs.

    Attributes:
        model: Its reference.
        synthetic: Whether its weights are random numbers.
        cpu: The CPU's name.
        threads: Compute threads, of the roofs and of the engine.
        machine: The machine's roofs.
        engine: Those that the engine has reached with such weights; None if it was not measured.
        overhead_s: t0, seconds that each generated token takes besides; None if the engine was not measured.
        decode: Generating tokens for one request.
        prefill: Reading a prompt.
        notes: What should be known besides.
    """

    model: str
    synthetic: bool
    cpu: str
    threads: int
    machine: Roofs
    engine: Roofs | None
    overhead_s: float | None
    decode: Phase
    prefill: Phase
    notes: tuple[str, ...] = ()

    @property
    def phases(self) -> tuple[Phase, Phase]:
        """Both."""
        return self.decode, self.prefill

    @property
    def predicted(self) -> float | None:
        """Tokens generated per second, predicted from the machine's roofs; there without measuring the model."""
        return self.decode.predicted_tokens_per_s

    @property
    def measured(self) -> float | None:
        """Tokens generated per second, as measured; None if that was not done."""
        return self.decode.measured_tokens_per_s

    def to_dict(self) -> dict[str, Any]:
        """Roofs, both phases and what follows from them, as plain JSON data."""
        return {
            **asdict(self),
            "sentence": roofline_views.sentence(self),
            "machine": {**asdict(self.machine), "ridge": self.machine.ridge},
            "engine": self.engine and {**asdict(self.engine), "ridge": self.engine.ridge},
            "decode": self.decode.to_dict(),
            "prefill": self.prefill.to_dict(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """The sentence, then a table."""
        return roofline_views.text(self)

    def to_html(self) -> str:
        """The same with the picture."""
        return roofline_views.html(self)


def roofline(
    model: str, *, threads: int | None = None, measure: bool = True, prompts: bool = True
) -> Roofline:
    """Lay a model under this machine's roofs: what it could do at best, and what it does.

    Args:
        model: A model, as `start` takes it.
        threads: Compute threads. Unset: as many as `start` takes.
        measure: Start the model natively and measure it; otherwise it is only
            predicted, and nothing is fetched.
        prompts: Measure reading a prompt, too; with a large model that takes minutes.

    Raises:
        UsageError: There is no such model, or a number is out of range.
        LabError: The model cannot be read or started, or its engine does not tell its rates.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}", hint="it must be 1 or more")
    report = reporter()
    report.begin(f"roofline of {model}")
    failed = True
    try:
        made = anatomy.of_file(weights.resolve(model).path) if measure else weights.foresee(model)
        used = threads or planning.default_threads(made.file_bytes)
        report.stage("roofs", f"memory and computing, {used} {'thread' if used == 1 else 'threads'}")
        busy = compute.others(used)
        roofs = compute.of_machine(used)
        found: _Found | None = None
        if measure:
            report.stage("measure", model)
            found = _measured(model, made, used, prompts=prompts)
            # Once more, since the pace of a shared machine changes within seconds.
            report.stage("roofs", "once more")
            busy = compute.others(used) or busy
            roofs = roofs.higher(compute.of_machine(used))
        result = _laid(model, made, roofs, _rates(used), used, found)
        if busy:
            result = replace(result, notes=(_disturbed(busy), *result.notes))
        failed = False
        return result
    finally:
        report.end(failed=failed)


def _disturbed(busy: float) -> str:
    return (
        f"Other programs used {busy:.1f} CPUs meanwhile: what was measured, the roofs as well, is too low. "
        "Do it again when the machine is quiet."
    )


def _rates(threads: int) -> Rates | None:
    """What was measured of the present engine; None if nothing was."""
    with suppress(EngineError):
        found = rates.load(threads)
        return found if found and found.engine == find_build().identity else None
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What was measured.

    Attributes:
        context: Tokens that a generated token looked back at, on average.
        prompt: Tokens of the prompts that were read.
        decode: Tokens generated per second, each time.
        prefill: Tokens of a prompt read per second, each time.
    """

    context: int
    prompt: int
    decode: tuple[float, ...] = ()
    prefill: tuple[float, ...] = ()


def _measured(model: str, made: Anatomy, threads: int, *, prompts: bool) -> _Found:
    """Start the model natively, measure it, and stop it.

    Raises:
        LabError: If it cannot be started, or its engine does not tell its rates.
    """
    context, length = _lengths(made)
    report = reporter()
    name = f"roofline-{secrets.token_hex(3)}"
    # Its stages are no stages of the caller's.
    with (
        reporting_to(Reporter()),
        # The roofs are those of the CPU and its memory.
        lab.start(
            model, backend="native", name=name, context=context, slots=1, threads=threads, gpu_layers="0"
        ) as server,
    ):
        if server.record.spec.engine != "llama-server":
            raise _silent()
        client = registry.client(server.record)
        prompt = _prompt(client, length)
        # The first of each is slower, and not counted. Then as many tokens as take about a second.
        if prompts:
            _read(client, prompt)
        rate = _generated(client, prompt[:_QUESTION], _TRIED)
        tokens = max(_FEWEST, min(round(rate * _DECODE_S), _MOST, context // 4))
        decode, prefill = [], []
        for number in range(_DECODES):
            report.stage("measure", f"{model}, {number + 1} of {_DECODES}")
            decode.append(_generated(client, prompt[:_QUESTION], tokens))
            if prompts and number < _PREFILLS:
                prefill.append(_read(client, prompt))
    return _Found(
        context=_QUESTION + tokens // 2,
        prompt=length,
        decode=tuple(decode),
        prefill=tuple(prefill),
    )


def _lengths(model: Anatomy) -> tuple[int, int]:
    """Tokens of the context that it is served with, and of the prompt that is read."""
    context = min(_CONTEXT, planning.default_context(model))
    return context, min(_PROMPT, max(1, context // 2))


def _prompt(client: Client, length: int) -> tuple[int, ...]:
    ids = client.tokens_of(_TEXT)
    return tuple((ids * (length // len(ids) + 1))[:length])


def _generated(client: Client, prompt: Sequence[int], tokens: int) -> float:
    """Tokens generated per second, by the engine's clock."""
    done = client.complete(prompt, tokens=tokens)
    # The first token comes of the prompt.
    return _rate(tokens - 1, done.generated_s)


def _read(client: Client, prompt: Sequence[int]) -> float:
    """Tokens of a prompt read per second, by the engine's clock; nothing is taken from a cache."""
    done = client.complete(prompt, tokens=1)
    return _rate(done.prompt_tokens, done.prompt_s)


def _rate(tokens: int | None, seconds: float | None) -> float:
    if not tokens or not seconds:
        raise _silent()
    return tokens / seconds


def _silent() -> RequestError:
    return RequestError(
        "this engine does not tell its rates, so it cannot be laid under a roof",
        hint="llmlab build makes a llama-server, which does",
    )


def _laid(
    model: str, made: Anatomy, roofs: Roofs, measured: Rates | None, threads: int, found: _Found | None
) -> Roofline:
    found = found or _Found(context=_QUESTION + _FEWEST, prompt=_lengths(made)[1])
    pace = rates.predict(made, measured) if measured else None
    overhead_s = measured.layer_s * made.n_layers if measured else None
    deep_s = 1 / pace.decode_tokens_per_s + found.context * pace.context_token_s if pace else None
    decode = Phase.of(
        "decode",
        compute.decode_work(made, found.context),
        roofs,
        overhead_s=overhead_s or 0.0,
        engine_tokens_per_s=1 / deep_s if deep_s else None,
        measured=found.decode,
    )
    prefill = Phase.of(
        "prefill",
        compute.prefill_work(made, found.prompt),
        roofs,
        engine_tokens_per_s=pace.prefill_tokens_per_s if pace else None,
        measured=found.prefill,
    )
    return Roofline(
        model=model,
        synthetic=made.synthetic,
        cpu=machine.cpu_name(),
        threads=threads,
        machine=roofs,
        engine=compute.of_engine(made, measured),
        overhead_s=overhead_s,
        decode=decode,
        prefill=prefill,
        notes=tuple(_notes(made, roofs, pace)),
    )


def _notes(model: Anatomy, roofs: Roofs, pace: Pace | None) -> Iterator[str]:
    """What should be known besides."""
    if not roofs.bytes_per_s:
        yield "The roof of memory could not be measured: that takes 2 GiB of free memory."
    if not roofs.operations_per_s:
        yield "The roof of computing could not be measured: numpy's product of matrices did not run."
    if (read := sum(model.read_by_type.values())) < _SMALL_BYTES:
        yield (
            f"A token reads {render.bytes_text(read)} of weights. The CPU's cache may hold them: it is "
            "quicker than the memory that the roof was measured with."
        )
    if pace is None:
        yield "The engine's own roofs were not measured: llmlab models --measure does so, for the usual threads."
    elif pace.assumed:
        kinds = ", ".join(pace.assumed)
        yield f"Of the engine, weights of type {kinds} were not measured; those with the nearest number of bits stand in."
