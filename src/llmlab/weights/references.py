"""From a reference, as the user types it, to a model.

tiny                        the built-in teaching model
./file.gguf                 a file; of a split model, any of its files
./directory                 a model of the hub in its original form: config.json, *.safetensors
qwen2.5-0.5b[:QUANT]        a model of the catalog
hf:owner/repo[:QUANT]       from a model hub; fetched if it is not here
hf:owner/repo/file.gguf
ollama:name[:tag]           from an Ollama store on this machine
synthetic:SHAPE[:QUANT]     random weights in the shape of a model; SHAPE is
a name or the path of a GGUF file
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from llmlab.errors import ModelFileError, ModelNotFoundError, UnknownNameError
from llmlab.prompts import looks_like_control
from llmlab.reporting import reporter
from llmlab.specs import Model
from llmlab.weights import anatomy, catalog, checkpoint, hub_cache, outline, store
from llmlab.weights.anatomy import Anatomy
from llmlab.weights.gguf import read_header, shards
from llmlab.weights.store import TINY

_HUB, _OLLAMA, _SYNTHETIC = "hf:", "ollama:", "synthetic:"
_SCHEME = re.compile(r"[a-z]{2,}:")
_MAX_NAME = 40
_MAX_CONTROL_TOKENS = 64
# Hashing less than this takes no time worth a message.
_LONG_TO_HASH_BYTES = 256 * 1024 * 1024


def known_models() -> tuple[str, ...]:
    """Names that can be used as they are, without a path: built in, and of the catalog."""
    return (TINY, *(entry.name for entry in catalog.entries()))


def resolve(reference: str, *, fetch: bool = True) -> Model:
    """Find the model that a reference names, and bring it here if it is not.

    Args:
        reference: See above.
        fetch: Otherwise one that is not here is an error.

    Raises:
        UnknownNameError: If it is neither a known name nor a path.
        ModelNotFoundError: If the path leads nowhere, or no store has it.
        ModelFileError: If the file is no usable GGUF or safetensors file, or if `tiny`
            is not the file that the package shipped.
        HubError: If it cannot be fetched.
        DiskSpaceError: If there is no room for it.
    """
    if reference == TINY:
        return _tiny()
    if listed := _listed(reference):
        entry, quant = listed
        return _model(reference, entry.name, _here(entry.at(quant), fetch=fetch))
    path = _here(reference, fetch=fetch)
    return _model(reference, _name(reference, path), path)


def foresee(reference: str) -> Anatomy:
    """What a model is made of that need not be here yet.

    Read from its file where it is here, otherwise from the catalog's or the
    synthetic model's shape, or from the few MB at the head of the hub's file.

    Raises:
        UnknownNameError: If the reference names nothing.
        ModelError: If the file is damaged, or the hub does not have it.
    """
    from llmlab.weights import hub  # noqa: PLC0415 - see below

    listed = _listed(reference)
    actual = listed[0].at(listed[1]) if listed else reference
    if actual.startswith(_HUB):
        if path := hub.find(hub.parse(actual)):
            return anatomy.of_file(path)
        if listed:
            return outline.of_shape(listed[0].shape, listed[1])
        headers = [read_header(path, complete=False) for path in hub.headers(hub.parse(actual))]
        found = anatomy.of_headers(headers)
        # What was fetched ends behind the header.
        return replace(found, file_bytes=sum(found.bytes_by_type.values()))
    if actual.startswith(_SYNTHETIC):
        return outline.of_synthetic(actual)
    return anatomy.of_file(store.builtin_path() if actual == TINY else _here(actual))


def _listed(reference: str) -> tuple[catalog.Entry, str] | None:
    """What the catalog has under that name; a file of that name goes before it."""
    found = catalog.find(reference)
    return None if found and Path(reference).is_file() else found


def _here(reference: str, *, fetch: bool = True) -> Path:
    """The file of a reference other than `tiny`, fetched or written if need be."""
    # With the first reference of their kind: a hub is a second of imports.
    from llmlab.weights import hub, ollama, synthetic  # noqa: PLC0415

    if reference.startswith(_HUB):
        wanted = hub.parse(reference)
        found = hub.find(wanted)
        if found or fetch:
            return found or hub.fetch(wanted)
        raise _not_here(reference)
    if reference.startswith(_OLLAMA):
        return ollama.find(reference)
    if reference.startswith(_SYNTHETIC):
        wished = synthetic.parse(reference)
        if not fetch and not synthetic.locate(*wished).exists():
            raise _not_here(reference)
        return synthetic.ensure(*wished)
    return _file(reference)


def _not_here(reference: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"{reference} is not here yet", hint=f"llmlab pull {reference}")


def _file(reference: str) -> Path:
    try:
        path = Path(reference).expanduser().absolute()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        # Too long, a loop of links, no such user's home, a zero byte.
        raise ModelNotFoundError(
            f"{reference[:80]!r} cannot be the path of a model: {getattr(error, 'strerror', '') or error}",
            hint="use tiny, or the path of a .gguf file",
        ) from error
    looks_like_path = (reference.endswith(".gguf") or "/" in reference) and not _SCHEME.match(reference)
    if not exists and not looks_like_path:
        raise UnknownNameError("model", reference, known_models(), hint=_unknown_hint(reference))
    return checkpoint.first(path) if exists and checkpoint.is_checkpoint(path) else path


def _tiny() -> Model:
    path = store.builtin_path()
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        digest = store.sha256(path)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"the built-in model cannot be read: {error}", hint="install llmlab again"
        ) from error
    if digest != card["sha256"]:
        raise ModelFileError(
            "the built-in model is not the file that llmlab shipped: its sha256 differs",
            hint="install llmlab again",
        )
    return _model(TINY, TINY, path)


def _unknown_hint(reference: str) -> str:
    if ":" in reference:
        return "references with a colon begin with hf:, ollama: or synthetic:"
    near = UnknownNameError("model", reference, known_models()).hint
    return f"{near}; a file needs its path: ./{reference}.gguf"


def _name(reference: str, path: Path) -> str:
    """A short name; a file's own, where it has one."""
    if reference.startswith(_OLLAMA):
        return reference.removeprefix(_OLLAMA).removesuffix(":latest")
    if path.suffix == checkpoint.SUFFIX:
        return checkpoint.name_of(path)
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.name.removesuffix(".gguf"))
    return f"synthetic-{stem}" if reference.startswith(_SYNTHETIC) else stem


def _model(reference: str, name: str, path: Path) -> Model:
    found = anatomy.of_file(path)
    files = shards(path) if found.form == "gguf" else checkpoint.files(path.parent)
    # The hub's files lie under their hashes, which were checked when they came.
    known = hub_cache.published_sha256(files[0]) or store.known_sha256(files[0])
    if not known and found.file_bytes > _LONG_TO_HASH_BYTES:
        reporter().stage("verify", "computing its sha256, the first time only")
    control = [text for text in found.control_tokens if not looks_like_control(text)]
    return Model(
        reference=reference,
        name=re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-.")[:_MAX_NAME] or "model",
        path=files[0],
        files=files,
        file_bytes=found.file_bytes,
        sha256=known or store.sha256(files[0]),
        architecture=found.architecture,
        parameters=found.parameters,
        quantisation=found.quantisation,
        synthetic=found.synthetic,
        n_vocab=found.n_vocab,
        context_train=found.context_train,
        control_tokens=tuple(control[:_MAX_CONTROL_TOKENS]),
    )
