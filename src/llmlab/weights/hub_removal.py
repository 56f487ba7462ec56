"""Removing the hub's models from this machine, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from llmlab.errors import ModelError, ModelInUseError
from llmlab.reporting import reporter
from llmlab.weights import hub_cache
from llmlab.weights.hub_names import HubReference
from llmlab.weights.store import Stored


def remove(model: Stored) -> int:
    """Remove a model from the cache: from all revisions, with the blobs nobody else uses.

    Args:
        model: One of `stored()`.

    Returns:
        Bytes that were freed.

    Raises:
        ModelInUseError: If somebody is fetching it just now.
        ModelError: If its folder leads out of the cache.
    """
    commit = next(place for place in model.path.parents if place.parent.name == "snapshots")
    path = commit.parent.parent
    if path.is_symlink() or (path / "blobs").is_symlink() or (path / "snapshots").is_symlink():
        raise ModelError(f"{path} is a link out of the cache", hint="remove what it leads to yourself")
    names = [file.relative_to(commit).as_posix() for file in model.files]
    entries = [
        entry
        for snapshot in hub_cache.snapshots(path)
        for name in names
        if os.path.lexists(entry := snapshot / name) and entry.parent.resolve().is_relative_to(path.resolve())
    ]
    blobs = {blob for entry in entries if (blob := _blob(entry, path))}
    with ExitStack() as stack:
        for blob in sorted(blobs):
            if not stack.enter_context(hub_cache.locked(path, blob.name, waiting=None)):
                raise ModelInUseError(
                    f"{model.reference} is being fetched by another process", hint="wait for it, or stop it"
                )
        freed = sum(entry.lstat().st_size for entry in entries if not entry.is_symlink())
        for entry in entries:
            entry.unlink()
        used = {_blob(entry, path) for snapshot in hub_cache.snapshots(path) for entry in _entries(snapshot)}
        freed += sum(_remove_blob(blob) for blob in blobs - used)
        return freed + _tidy(path)


def _entries(snapshot: Path) -> Iterator[Path]:
    for place, _, names in os.walk(snapshot):
        yield from (Path(place) / name for name in names)


def _blob(entry: Path, path: Path) -> Path | None:
    """The blob that a snapshot's entry leads to, if it is one of this repository."""
    if not entry.is_symlink():
        return None
    blob = Path(os.path.normpath(entry.parent / entry.readlink()))
    own = path / "blobs"
    return own / blob.name if blob.parent.resolve() == own.resolve() else None


def _remove_blob(blob: Path) -> int:
    freed = 0
    for left in blob.parent.glob(f"{blob.name}*{hub_cache.INCOMPLETE}"):
        freed += left.lstat().st_size
        left.unlink(missing_ok=True)
    if blob.is_symlink():
        reporter().note(
            "The bytes lie where huggingface_hub keeps them for all repositories; `hf cache prune` frees them."
        )
    elif blob.exists():
        freed += blob.stat().st_size
    blob.unlink(missing_ok=True)
    return freed


def _tidy(path: Path) -> int:
    """Remove what is empty; the repository's folder, too, once no revision has a file."""
    for snapshot in hub_cache.snapshots(path):
        for place, _, _ in os.walk(snapshot, topdown=False):
            with suppress(OSError):
                Path(place).rmdir()
    if hub_cache.snapshots(path):
        return 0
    # What is left are half-fetched files that no revision names any more.
    freed = _remove_partial(path)
    if not any((path / "blobs").glob(f"*{hub_cache.INCOMPLETE}")):
        shutil.rmtree(path)
    return freed


def remove_partial(wanted: HubReference) -> int | None:
    """Remove what interrupted pulls have left of a repository in the user's own cache.

    Returns:
        Bytes that were freed; None if nothing was left.
    """
    path = hub_cache.folder(hub_cache.own(), wanted)
    if path.is_symlink() or not any((path / "blobs").glob(f"*{hub_cache.INCOMPLETE}")):
        return None
    freed = _remove_partial(path)
    _tidy(path)
    return freed


def _remove_partial(path: Path) -> int:
    freed = 0
    for left in (path / "blobs").glob(f"*{hub_cache.INCOMPLETE}"):
        # Of what somebody is fetching just now, the lock is held.
        with hub_cache.locked(path, left.name.partition(".")[0], waiting=None) as idle:
            if idle:
                freed += left.lstat().st_size
                left.unlink(missing_ok=True)
    return freed
