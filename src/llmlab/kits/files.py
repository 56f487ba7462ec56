"""Writing files of a kit, and what the file system may answer."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from llmlab import render
from llmlab.errors import DiskSpaceError, LabError
from llmlab.kits import contents
from llmlab.reporting import reporter
from llmlab.weights import store

_BLOCK_BYTES = 1 << 20
_LARGE_BYTES = 1 << 26
# What systems leave on every stick that they see; nothing of it is ever used.
_JUNK = frozenset({"System Volume Information", "$RECYCLE.BIN", "desktop.ini", "Thumbs.db"})

State = Literal["installed", "here", "left out"]
"""What became of a part of a kit on a learner's machine: here, if it was there already."""


def copy(source: Path, target: Path) -> int:
    """Copy a file's bytes, telling how far it is with a large one; returns how many."""
    target.parent.mkdir(parents=True, exist_ok=True)
    done, total = 0, source.stat().st_size
    with source.open("rb") as reading, target.open("wb") as writing:
        while block := reading.read(_BLOCK_BYTES):
            writing.write(block)
            done += len(block)
            if total > _LARGE_BYTES:
                reporter().progress(done, total)
    return done


def listed(folder: Path) -> list[str]:
    """The paths of all files below a folder, without what systems leave on sticks."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_junk(name))
        # A link to a folder is not followed, and counts as a file.
        links = [name for name in folders if Path(place, name).is_symlink()]
        paths = (Path(place, name) for name in (*names, *links) if not _is_junk(name))
        found += [path.relative_to(folder).as_posix() for path in paths]
    return sorted(found)


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in _JUNK


def write_sums(folder: Path, sums: dict[str, str]) -> None:
    """Write the checksums as `sha256sum -c` reads them. It is a kit from then on."""
    text = "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items()))
    (folder / contents.SUMS).write_text(text, encoding="utf-8")
    # Who pulls out the stick now has all of it.
    os.sync()


@contextmanager
def written_to(folder: Path, what: str) -> Iterator[None]:
    """Errors of the file system while `what` is written to a folder, as errors of ours.

    Raises:
        DiskSpaceError: If the disk is full.
        LabError: For any other.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise no_space(folder, what) from error
        hint = "is it yours to write to, and is the disk well?"
        if error.errno == errno.EFBIG:
            hint = "its file system takes no file of that size: FAT32 ends at 4 GiB, exFAT does not"
        raise LabError(
            f"{what} cannot be written to {folder}: {error.strerror or error}", hint=hint
        ) from error


def no_space(folder: Path, what: str) -> DiskSpaceError:
    """The error for a disk that is full."""
    free = None
    with suppress(OSError):
        free = store.free_bytes(folder)
    left = "" if free is None else f"; {render.bytes_text(free)} are free"
    return DiskSpaceError(
        f"no room for {what} in {folder}: the disk is full{left}",
        hint="take a larger disk, fewer models, or fewer platforms and versions of Python",
    )
