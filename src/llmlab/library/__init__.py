"""Models: which there are, which fit, fetching, removing and verifying them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from llmlab.arguments import Arg
from llmlab.errors import ModelInUseError, UnknownNameError, UsageError, suggest
from llmlab.lab import planning, registry
from llmlab.library import listing, verifying
from llmlab.library.selecting import path_of, reference_of, select
from llmlab.library.views import ModelCard, ModelList, Pulled, Removed, Verified
from llmlab.reporting import reporter
from llmlab.specs import KvType
from llmlab.weights import catalog, gguf, hub, hub_removal, store
from llmlab.weights.fit import Setting
from llmlab.weights.store import Stored

__all__ = ["models", "pull", "rm", "verify"]


def models(
    model: Annotated[str | None, Arg(completes="model")] = None,
    *,
    fit: bool = False,
    context: int | None = None,
    slots: int = 4,
    kv_type: KvType = "f16",
    memory: Annotated[str | int | None, Arg(metavar="SIZE")] = None,
    gpu_layers: int = 0,
    measure: bool = False,
) -> ModelList | ModelCard:
    """List the models, and say which of them this machine can run, and how fast.

    Those that are built in or on this machine, and a few from the hub that are
    good for teaching. With a model: its card. Nothing is fetched.

    Args:
        model: A model, as `start` takes it.
        fit: Predict the memory each needs and the rates it would have here. The
            first time measures this machine, which takes about a minute.
        context: Tokens of context for each request, to predict for. Unset:
            what the model was trained with, at most 4096.
        slots: Requests answered at the same time, to predict for.
        kv_type: Type of the numbers in the KV cache, to predict for.
        memory: Memory limit of a container, such as 2g, to predict for. Unset:
            what this machine has free.
        gpu_layers: Layers to reckon on a GPU: predicts memory there and here,
            no rates. Not verified on a GPU.
        measure: Measure this machine anew.

    Raises:
        UsageError: No such model, or a setting out of range.
        ModelError: The model cannot be read.
    """
    for name, value, least in (("context", context, 1), ("slots", slots, 1), ("gpu-layers", gpu_layers, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}", hint=f"it must be {least} or more")
    question = listing.Question(
        setting=Setting(context=context or 1, slots=slots, kv_type=kv_type, gpu_layers=gpu_layers),
        default_context=context is None,
        limit_mib=None if memory is None else planning.parse_size_mib(memory),
    )
    wanted: listing.Measure = "all" if measure else "missing" if fit else "nothing"
    with _reported("models"):
        if model is not None:
            return listing.card(model, question, wanted)
        return listing.listed(question if fit or measure else None, wanted)


def pull(model: Annotated[str, Arg(completes="model")]) -> Pulled:
    """Fetch a model from the hub, and return when it is here, whole and verified.

    An interrupted pull goes on where it ended. With LLMLAB_SHARED_MODELS set,
    a model goes to that directory where it can be written to.

    Args:
        model: A name of the catalog, or `hf:owner/repo`, `hf:owner/repo:QUANT`,
            `hf:owner/repo/file.gguf`.

    Raises:
        UsageError: It is no model of the hub.
        ModelNotFoundError: The hub does not have it; the hint says what there is.
        AccessError: The hub wants a token, or the licence accepted.
        HubError: The hub cannot be reached, or does not answer as it should.
        ChecksumError: What came is not what the hub has published.
        DiskSpaceError: There is no room for it; nothing was fetched.
    """
    wanted = reference_of(model)
    if not wanted.startswith("hf:"):
        raise UsageError(f"{model!r} is not on the hub, so it cannot be fetched", hint=_instead(wanted))
    reading = hub.parse(wanted)
    started = time.monotonic()
    with _reported(f"pull {model}", "pull", "verify"):
        fetched = hub.pull(reading)
    return Pulled(
        reference=str(reading),
        path=fetched.path,
        file_bytes=fetched.file_bytes,
        sha256=fetched.sha256,
        seconds=time.monotonic() - started,
        downloaded_bytes=fetched.downloaded_bytes,
    )


def rm(model: Annotated[str, Arg(completes="model")]) -> Removed:
    """Remove a model from this machine.

    Args:
        model: A model that is here, as `models` shows it. What an interrupted
            pull has left of a model is removed by its reference as well.

    Raises:
        UsageError: There is no such model, or it is not llmlab's to remove.
        ModelInUseError: A server of yours uses it.
        ModelError: The file system refuses.
    """
    wanted = reference_of(model)
    found = [each for each in select(wanted) if not each.shared] or select(wanted)
    if not found and wanted.startswith("hf:"):
        freed = hub_removal.remove_partial(hub.parse(wanted))
        if freed is not None:
            return Removed(names=(wanted,), freed_bytes=freed)
    if not found:
        raise UnknownNameError("model here", model, [each.reference for each in store.stored()])
    if len(found) > 1:
        names = ", ".join(each.reference for each in found)
        raise UsageError(f"{model} can be any of several models", hint=f"name one of {names}")
    _check_unused(found[0])
    return Removed(names=(found[0].reference,), freed_bytes=store.remove(found[0]))


def verify(model: Annotated[str | None, Arg(positional=True, completes="model")] = None) -> Verified:
    """Hash models anew, and compare with what was published.

    Args:
        model: A model that is here, or the path of a GGUF file. Unset: every
            model that is here.

    Raises:
        UsageError: There is no such model.
        ChecksumError: A file is damaged; the error names each, and what to do.
    """
    found = store.stored() if model is None else select(reference_of(model))[:1] or [_file(model)]
    with _reported(f"verify {model or 'all models'}", "verify"):
        result = Verified(rows=tuple(verifying.verified(found)))
        verifying.require_sound(result, found)
    return result


def _file(model: str) -> Stored:
    """A model that lies in none of the stores."""
    path = path_of(model)
    if path is None or not path.is_file():
        raise UnknownNameError("model here", model, [each.reference for each in store.stored()])
    files = gguf.shards(path)
    size = sum(each.stat().st_size for each in files)
    return Stored(reference=model, path=files[0], files=files, file_bytes=size, source="file")


def _check_unused(model: Stored) -> None:
    files = {path.resolve() for path in model.files}
    users = [
        record.name
        for record in registry.find_all()
        if files & {p.resolve() for p in record.spec.model.files}
    ]
    if users:
        raise ModelInUseError(
            f"{model.reference} is used by {', '.join(users)}", hint=f"stop it first: llmlab stop {users[0]}"
        )


def _instead(wanted: str) -> str:
    if wanted.startswith("ollama:"):
        return f"ollama pull {wanted.removeprefix('ollama:')}"
    if wanted == store.TINY or wanted.startswith("synthetic:") or path_of(wanted):
        return f"it needs no fetching: start {wanted}"
    near = suggest(wanted, [entry.name for entry in catalog.entries()])
    known = f"{near} Or write" if near.startswith("did you mean") else "write"
    return f"{known} hf:owner/repo, hf:owner/repo:QUANT, or a name that `llmlab models` shows"


@contextmanager
def _reported(title: str, *stages: str) -> Iterator[None]:
    report = reporter()
    report.begin(title, stages)
    failed = True
    try:
        yield
        failed = False
    finally:
        report.end(failed=failed)
