"""The list of models, and the card of one: what is here, what there is, what fits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from llmlab import machine, weights
from llmlab.errors import EngineError, ModelError
from llmlab.lab import ledger, planning
from llmlab.library import measuring
from llmlab.library.views import Fit, ModelCard, ModelFile, ModelList, ModelRow
from llmlab.machine import Machine
from llmlab.reporting import reporter
from llmlab.weights import anatomy, catalog, fit, hub_cache, outline, rates, store
from llmlab.weights.anatomy import Anatomy
from llmlab.weights.rates import Rates

Measure = Literal["nothing", "missing", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of each model.

    Attributes:
        setting: How it would be served; the context is shortened to the one a
            model was trained with, and 4096 at most where `default_context`.
        default_context: Whether no context was asked for.
        limit_mib: Memory limit of a container; None for the whole machine.
    """

    setting: fit.Setting
    default_context: bool
    limit_mib: int | None


@dataclass(frozen=True, slots=True)
class _Known:
    row: ModelRow
    anatomy: Anatomy | None


def listed(question: Question | None, measure: Measure) -> ModelList:
    """All models: built in, on this machine, and in the catalog.

    Args:
        question: What to ask of each; None lists them only.
        measure: What of this machine's rates to measure first.
    """
    known = list(_known())
    if question is None:
        return ModelList(models=tuple(each.row for each in known), checked=catalog.checked())
    roofs = _roofs([each.anatomy for each in known if each.anatomy], measure)
    here = machine.look()
    return ModelList(
        models=tuple(_with_fit(each, question, here, roofs) for each in known),
        machine={
            **asdict(here),
            "gpus": [asdict(gpu) for gpu in machine.gpus() or ()],
            "read_bandwidth_gb_per_s": roofs.bandwidth_gb_per_s if roofs else None,
        },
        error=ledger.summary(),
        checked=catalog.checked(),
    )


def card(reference: str, question: Question, measure: Measure) -> ModelCard:
    """Everything about one model; nothing is fetched.

    Args:
        reference: The model.
        question: What to ask of it.
        measure: What of this machine's rates to measure first.

    Raises:
        ModelError: If it cannot be read.
        UnknownNameError: If there is no such model.
    """
    found = weights.foresee(reference)
    known = _match(reference) or _Known(_row(reference, found), found)
    roofs = _roofs([found], measure)
    row = _with_fit(_Known(known.row, found), question, machine.look(), roofs)
    if row.state == "not here":
        return ModelCard.of(row, found, ())
    model = weights.resolve(reference)
    files = [
        ModelFile(
            name=file.name,
            file_bytes=file.stat().st_size,
            # Of a split model, the others' hashes are known only where they were published.
            sha256=model.sha256 if file == model.path else hub_cache.published_sha256(file),
        )
        for file in model.files
    ]
    return ModelCard.of(row, found, files, path=model.path)


def _known() -> Iterator[_Known]:
    """What is here, then what the catalog has besides."""
    here = set()
    for each in store.stored():
        here.add(each.reference.lower())
        found: Anatomy | None = None
        with suppress(ModelError):  # a damaged file stands in the list all the same; `verify` says why
            found = anatomy.of_file(each.path)
        entry = next((e for e in catalog.entries() if e.reference.lower() == each.reference.lower()), None)
        row = replace(
            _row(entry.name if entry else each.reference, found),
            reference=each.reference,
            state="built-in" if each.source == "built-in" else "here",
            file_bytes=each.file_bytes,
        )
        if each.source == "built-in":
            row = replace(row, licence="MIT", good_for="Learning how all this works, without a download.")
        yield _Known(_with_entry(row, entry) if entry else row, found)
    for entry in catalog.entries():
        if entry.reference.lower() in here:
            continue
        found = outline.of_shape(entry.shape, entry.default_quant)
        row = replace(_row(entry.name, found), reference=entry.reference, file_bytes=entry.file_bytes)
        yield _Known(_with_entry(row, entry), found)


def _with_entry(row: ModelRow, entry: catalog.Entry) -> ModelRow:
    return replace(row, licence=entry.licence, good_for=entry.good_for, parameters=entry.parameters)


def _match(reference: str) -> _Known | None:
    wanted = catalog.find(reference)
    actual = wanted[0].at(wanted[1]) if wanted else reference
    return next((each for each in _known() if actual.lower() == each.row.reference.lower()), None)


def _row(reference: str, found: Anatomy | None) -> ModelRow:
    """A row of what the file says of itself."""
    # A directory of the hub's form is known only where it lies.
    here = Path(reference).is_file() or (found is not None and found.form == "safetensors")
    return ModelRow(
        name=reference,
        reference=reference,
        state="here" if here else "not here",
        parameters=(found.parameters or None) if found else None,
        quantisation=found.quantisation if found else None,
        file_bytes=found.file_bytes if found else None,
        context_train=found.context_train if found else None,
        licence=found.license if found else None,
        synthetic=found.synthetic if found else False,
    )


def _with_fit(known: _Known, question: Question, here: Machine, roofs: Rates | None) -> ModelRow:
    model = known.anatomy
    if model is None or not model.cache_known:
        return known.row
    setting = question.setting
    if model.form == "safetensors":
        setting = replace(setting, engine="vllm")
    if question.default_context:
        setting = replace(setting, context=planning.default_context(model))
    needed = fit.need(model, setting)
    room = min(here.usable_mib, question.limit_mib or here.usable_mib)
    verdict = needed.verdict(room)
    # Very small models get fewer threads than the others, which has to be measured by itself.
    threads = planning.default_threads(model.file_bytes)
    if roofs and roofs.threads != threads:
        roofs = rates.load(threads)
    # What was measured is llama.cpp's pace on this machine's CPU.
    measured = roofs if model.form == "gguf" and not setting.gpu_layers else None
    pace = rates.predict(model, measured) if measured else None
    return replace(
        known.row,
        fit=Fit(
            fits=verdict,
            required_mib=needed.required_mib,
            resident_mib=needed.resident_mib,
            available_mib=room,
            parts=needed.parts,
            context=setting.context,
            slots=setting.slots,
            kv_type=setting.kv_type,
            vram_mib=needed.vram_mib if setting.gpu_layers else None,
            decode_tokens_per_s=pace.decode_tokens_per_s if pace else None,
            prefill_tokens_per_s=pace.prefill_tokens_per_s if pace else None,
            bound=pace.bound if pace else None,
            advice=_advice(known.row, model, setting, room) if verdict == "too big" else "",
        ),
    )


def _advice(row: ModelRow, model: Anatomy, setting: fit.Setting, room_mib: int) -> str:
    """What would make it fit: another setting, else fewer bits."""
    if better := fit.advise(model, setting, room_mib):
        return f"{better.options()} would fit"
    listed_entry = next((e for e in catalog.entries() if e.reference == row.reference), None)
    if listed_entry:
        smaller = sorted(listed_entry.quants, key=lambda quant: listed_entry.quants[quant], reverse=True)
        for quant in smaller:
            if listed_entry.quants[quant] >= listed_entry.file_bytes:
                continue
            if better := fit.advise(outline.of_shape(listed_entry.shape, quant), setting, room_mib):
                return f"{listed_entry.name}:{quant} {better.options()} would fit"
    return "no setting of it fits; choose a smaller model"


def _roofs(models: Iterable[Anatomy], measure: Measure) -> Rates | None:
    """What was measured of this machine; None without an engine."""
    threads = planning.default_threads(1 << 40)
    types = [kind for model in models if model.form == "gguf" for kind in model.read_by_type]
    try:
        known = measuring.current(threads)
        wanted = {
            "all": list(measuring.USUAL_TYPES),
            "missing": measuring.missing(types, known),
            "nothing": [],
        }[measure]
        return measuring.measure(wanted, threads, anew=measure == "all") if wanted else known
    except EngineError as error:
        reporter().note(f"rates are unknown, because {error.message}: {error.hint}")
        return None
