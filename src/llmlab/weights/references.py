"""From a reference, as the user types it, to a model."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from llmlab.errors import ModelFileError, ModelNotFoundError, UnknownNameError
from llmlab.specs import Model
from llmlab.weights.gguf import CONTROL, Header, read_header

TINY = "tiny"
_SCHEME = re.compile(r"[a-z]{2,}:")
_MAX_NAME = 40
_REMEMBERED = 200
_MAX_CONTROL_TOKENS = 64


def known_models() -> tuple[str, ...]:
    """Names that can be used as they are, without a path."""
    return (TINY,)


def resolve(reference: str) -> Model:
    """Find the model that a reference names.

    Args:
        reference: `tiny`, or a path to a GGUF file.

    Raises:
        UnknownNameError: If it is neither a known name nor a path.
        ModelNotFoundError: If the path leads nowhere.
        ModelFileError: If the file is not a usable GGUF file, or if `tiny`
            is not the file that the package shipped.
    """
    if reference == TINY:
        return _tiny()
    try:
        exists = Path(reference).exists()
        path = Path(reference).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        # Too long, a loop of links, no such user's home, a zero byte.
        raise ModelNotFoundError(
            f"{reference[:80]!r} cannot be the path of a model: {getattr(error, 'strerror', '') or error}",
            hint="use tiny, or the path of a .gguf file",
        ) from error
    looks_like_path = reference.endswith(".gguf") or "/" in reference
    if not exists and (_SCHEME.match(reference) or not looks_like_path):
        raise UnknownNameError("model", reference, known_models(), hint=_unknown_hint(reference))
    header = read_header(path)
    return _model(reference, path.name.removesuffix(".gguf"), path, header, _sha256(path))


def _tiny() -> Model:
    folder = Path(str(resources.files("llmlab.weights").joinpath("builtin")))
    path = folder / "tiny.gguf"
    try:
        card = json.loads((folder / "tiny.json").read_text(encoding="utf-8"))
        digest = _sha256(path)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"the built-in model cannot be read: {error}", hint="install llmlab again"
        ) from error
    if digest != card["sha256"]:
        raise ModelFileError(
            "the built-in model is not the file that llmlab shipped: its sha256 differs",
            hint="install llmlab again",
        )
    return _model(TINY, TINY, path, read_header(path), digest)


def _unknown_hint(reference: str) -> str:
    if ":" in reference:
        return "references with a colon are not supported yet; use tiny or a path to a .gguf file"
    near = UnknownNameError("model", reference, known_models()).hint
    return f"{near}; a file needs its path: ./{reference}.gguf"


def _model(reference: str, name: str, path: Path, header: Header, digest: str) -> Model:
    heads = _integer(header, "attention.head_count", path, default=1)
    width = _integer(header, "embedding_length", path, default=0)
    tokens = _list(header, "tokenizer.ggml.tokens")
    kinds = _list(header, "tokenizer.ggml.token_type")
    control = [
        text
        for text, kind in zip(tokens, kinds, strict=False)
        if kind == CONTROL and isinstance(text, str) and not re.fullmatch(r"<\|[^|\s]*\|>", text)
    ]
    return Model(
        reference=reference,
        name=re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-.")[:_MAX_NAME] or "model",
        path=path,
        file_bytes=header.file_bytes,
        sha256=digest,
        architecture=header.architecture,
        n_layers=_integer(header, "block_count", path, default=0),
        n_kv_heads=_integer(header, "attention.head_count_kv", path, default=heads),
        head_dim=_integer(header, "attention.key_length", path, default=width // max(heads, 1)),
        n_vocab=len(tokens),
        context_train=_integer(header, "context_length", path, default=0),
        control_tokens=tuple(control[:_MAX_CONTROL_TOKENS]),
    )


def _list(header: Header, key: str) -> list[Any]:
    value = header.metadata.get(key)
    return value if isinstance(value, list) else []


def _integer(header: Header, key: str, path: Path, *, default: int) -> int:
    value: Any = header.get(key, default)
    # Some architectures give one number per layer; the largest bounds them all.
    if isinstance(value, list) and value:
        value = max(value)
    if not isinstance(value, int) or value < 0:
        raise ModelFileError(f"{path} is damaged: {key} is {value!r}", hint="download it again")
    return value


def _sha256(path: Path) -> str:
    """The file's sha256, remembered by size and time of change.

    A changed byte changes the time of change unless somebody sets it back;
    hashing gigabytes at every start would cost more than that risk.
    """
    info = path.stat()
    key = f"{path}:{info.st_size}:{info.st_mtime_ns}:{info.st_ino}"
    cache = _cache_dir() / "sha256.json"
    known: Any = {}
    with suppress(OSError, ValueError):
        known = json.loads(cache.read_text(encoding="utf-8"))
    known = known if isinstance(known, dict) else {}
    if found := known.get(key):
        return str(found)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        draft = cache.with_name(f"sha256.{os.getpid()}.new")
        newest = dict([*known.items(), (key, digest.hexdigest())][-_REMEMBERED:])
        draft.write_text(json.dumps(newest), encoding="utf-8")
        draft.replace(cache)
    return digest.hexdigest()


def _cache_dir() -> Path:
    if override := os.environ.get("LLMLAB_CACHE_DIR"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmlab"
