"""The models on this machine: where they lie, how they are listed, hashed and removed.

A model is kept where it came from: those of the hub in huggingface_hub's cache
(`weights.hub_cache`), Ollama's in Ollama's store, synthetic ones in llmlab's
own cache. Nothing is copied from one to the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from llmlab import render
from llmlab.errors import MALFORMED, DiskSpaceError, ModelError, ModelNotFoundError, UsageError
from llmlab.runtime import cache_dir

Source = Literal["built-in", "hub", "ollama", "synthetic", "file"]

TINY = "tiny"
_REMEMBERED = 200
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A model on this machine that can be started.

    Attributes:
        reference: What names it: `tiny`, `hf:owner/repo:Q4_K_M`, `ollama:name:tag`.
        path: Its file; the first one of a split model.
        files: All of its files, in order.
        file_bytes: Their size together.
        source: Where it came from, which is where it lies; `file` for any other place.
        shared: Whether it lies in the directory that a class shares.
    """

    reference: str
    path: Path
    files: tuple[Path, ...]
    file_bytes: int
    source: Source
    shared: bool = False


def synthetic_dir() -> Path:
    """Where synthetic models lie."""
    return cache_dir() / "synthetic"


def stored() -> list[Stored]:
    """Every model on this machine that can be started, the built-in one first.

    Cheap: directories are read, files are neither opened nor hashed. What is
    broken or half there is left out.
    """
    # They build on this module.
    from llmlab.weights import hub_cache, ollama  # noqa: PLC0415

    found = [*_builtin(), *hub_cache.stored(), *_synthetic()]
    with suppress(ModelError, OSError):
        for reference, path, size in ollama.stored():
            found.append(
                Stored(reference=reference, path=path, files=(path,), file_bytes=size, source="ollama")
            )
    return found


def builtin_path() -> Path:
    """The built-in model's file."""
    return Path(str(resources.files("llmlab.weights").joinpath("builtin", "tiny.gguf")))


def _builtin() -> list[Stored]:
    path = builtin_path()
    try:
        size = path.stat().st_size
    except OSError:
        return []
    return [Stored(reference=TINY, path=path, files=(path,), file_bytes=size, source="built-in")]


def _synthetic() -> list[Stored]:
    found = []
    with suppress(OSError):
        for path in sorted(synthetic_dir().iterdir()):
            # `<shape>-<QUANT>.gguf`; what is being written has another ending.
            shape, _, quant = path.name.removesuffix(".gguf").rpartition("-")
            if not path.name.endswith(".gguf") or not shape or path.name.startswith("."):
                continue
            with suppress(OSError):
                if path.is_symlink() or not path.is_file():
                    continue
                found.append(
                    Stored(
                        reference=f"synthetic:{shape}:{quant}",
                        path=path,
                        files=(path,),
                        file_bytes=path.stat().st_size,
                        source="synthetic",
                    )
                )
    return found


def remove(model: Stored) -> int:
    """Remove a model from this machine.

    Args:
        model: One of `stored()`.

    Returns:
        Bytes that were freed. Files that another revision uses stay.

    Raises:
        UsageError: If it is not llmlab's to remove.
        ModelInUseError: If another process is fetching it.
        ModelError: If the file system refuses.
    """
    from llmlab.weights import hub_removal  # noqa: PLC0415 - it builds on this module

    if model.source == "built-in":
        raise UsageError("the built-in model is a part of llmlab", hint="it goes with `pip uninstall llmlab`")
    if model.source == "ollama":
        name = model.reference.removeprefix("ollama:")
        raise UsageError(f"{model.reference} belongs to Ollama", hint=f"ollama rm {name}")
    if model.shared:
        raise UsageError(
            f"{model.reference} lies in {model.path.parent}, which is shared with others",
            hint="whoever looks after it removes it with LLMLAB_SHARED_MODELS unset "
            "and HF_HUB_CACHE set to that directory",
        )
    try:
        if model.source == "hub":
            return hub_removal.remove(model)
        model.path.unlink()
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"{model.reference} is not there any more", hint="see what is: llmlab models"
        ) from error
    except OSError as error:
        raise ModelError(
            f"{model.reference} cannot be removed: {error.strerror or error}",
            hint=f"see who owns {model.path}",
        ) from error
    return model.file_bytes


def free_bytes(folder: Path) -> int | None:
    """Bytes this user can still write where `folder` is or will be; None if unknown."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse to begin what would not fit.

    Args:
        folder: Where it is to be written.
        needed_bytes: How much of it is not there yet.
        what: Its name, for the message.

    Raises:
        DiskSpaceError: With both figures.
    """
    free = free_bytes(folder)
    if free is not None and free < needed_bytes:
        raise no_space(
            folder,
            what,
            f"it needs {render.bytes_text(needed_bytes)} more, {render.bytes_text(free)} are free",
        )


def no_space(folder: Path, what: str, detail: str) -> DiskSpaceError:
    """The error for a disk that is full, or would be."""
    return DiskSpaceError(
        f"no room for {what} in {folder}: {detail}",
        hint="remove models you do not need (`llmlab models`, `llmlab rm`), "
        "or point HF_HUB_CACHE (models of the hub) or LLMLAB_CACHE_DIR to a larger disk",
    )


def digest(path: Path, algorithm: str = "sha256", *, read: Callable[[int], None] | None = None) -> str:
    """The hash of a file as it is now, hexadecimal.

    Args:
        path: The file.
        algorithm: `sha256`, or `git` for the sha1 that git gives a file.
        read: Told of each number of bytes as they are read.
    """
    made = hashlib.sha256()
    if algorithm == "git":
        made = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            made.update(block)
            if read:
                read(len(block))
    return made.hexdigest()


def sha256(path: Path) -> str:
    """The file's sha256, remembered by size and time of change.

    A changed byte changes the time of change unless somebody sets it back;
    hashing gigabytes at every start would cost more than that risk.
    `verify` hashes anew.
    """
    if known := known_sha256(path):
        return known
    key, found = _key(path), digest(path)
    _remember(key, found)
    return found


def known_sha256(path: Path) -> str | None:
    """The file's sha256, if it was computed before and the file has not changed."""
    known = _remembered().get(_key(path))
    return str(known) if known else None


def remember(path: Path, found: str) -> None:
    """Keep the hash of a file, which was just computed, for `sha256`."""
    with suppress(OSError):
        _remember(_key(path), found)


def _remember(key: str, found: str) -> None:
    cache = cache_dir() / "sha256.json"
    with suppress(OSError):
        newest = dict([*_remembered().items(), (key, found)][-_REMEMBERED:])
        cache.parent.mkdir(parents=True, exist_ok=True)
        draft = cache.with_name(f"sha256.{os.getpid()}.new")
        draft.write_text(json.dumps(newest), encoding="utf-8")
        draft.replace(cache)


def _key(path: Path) -> str:
    # The file itself: a snapshot's entry and its blob are one.
    path = path.resolve()
    info = path.stat()
    return f"{path}:{info.st_size}:{info.st_mtime_ns}:{info.st_ino}"


def _remembered() -> dict[str, Any]:
    with suppress(OSError, *MALFORMED):
        known = json.loads((cache_dir() / "sha256.json").read_text(encoding="utf-8"))
        if isinstance(known, dict):
            return known
    return {}
