"""What a reset finds: each thing with its size, and how it is removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from llmlab.errors import LabError

Outcome = Literal["removed", "would be removed", "kept", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that belongs to llmlab.

    Attributes:
        kind: What it is, such as "server" or "image".
        name: Its name.
        size_bytes: Bytes of disk that it takes; None if not known, or if it takes none.
        outcome: What became of it.
        detail: More about it; why it was kept, or what went wrong.
        how: The command that removes what was kept; "" if none does.
    """

    kind: str
    name: str
    size_bytes: int | None
    outcome: Outcome
    detail: str = ""
    how: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A thing, and what removes it; None if it is kept."""

    item: Item
    remove: Callable[[], object] | None

    def settled(self, *, dry_run: bool) -> Item:
        """Remove it, unless it is kept or this is a dry run; what became of it."""
        if self.remove is None or dry_run:
            return self.item
        try:
            self.remove()
        except LabError as error:
            detail = f"{error.message}: {error.hint}" if error.hint else error.message
            return replace(self.item, outcome="failed", detail=detail)
        except OSError as error:
            return replace(self.item, outcome="failed", detail=error.strerror or str(error))
        return replace(self.item, outcome="removed")


def removable(
    kind: str, name: str, remove: Callable[[], object], *, size: int | None = None, detail: str = ""
) -> Found:
    """A thing that goes."""
    return Found(
        Item(kind=kind, name=name, size_bytes=size, outcome="would be removed", detail=detail), remove
    )


def kept(kind: str, name: str, detail: str, *, size: int | None = None, how: str = "") -> Found:
    """A thing that stays."""
    return Found(Item(kind=kind, name=name, size_bytes=size, outcome="kept", detail=detail, how=how), None)


def files(kind: str, path: Path, *, wanted: bool, detail: str = "", option: str = "") -> Found:
    """A file or directory; it stays if it is not wanted gone, or not wholly this user's.

    Args:
        kind: What it is.
        path: Where it is.
        wanted: Whether it is to be removed.
        detail: More about it.
        option: The option of `reset` that removes it.
    """
    size, strange = _measured(path)
    if strange:
        return kept(kind, str(path), strange, size=size)
    if not wanted:
        return kept(kind, str(path), detail, size=size, how=f"llmlab reset {option}")
    return removable(kind, str(path), partial(remove_files, path), size=size, detail=detail)


def remove_files(path: Path) -> None:
    """Remove a file, or a directory with all that is in it; not an error if it is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _measured(path: Path) -> tuple[int | None, str]:
    """Bytes of all files, and why llmlab must not remove them; "" if it may."""
    if path.is_symlink():
        return None, "a link: neither it nor what it leads to is touched"
    me, size = os.getuid(), 0
    try:
        entries = [path, *path.rglob("*")] if path.is_dir() else [path]
        for entry in entries:
            info = entry.lstat()
            if info.st_uid != me:
                return None, "files of another user's are in it" if path.is_dir() else "another user's file"
            size += info.st_size if entry.is_file() and not entry.is_symlink() else 0
    except OSError as error:
        return None, f"it cannot be looked at: {error.strerror or error}"
    return size, ""
