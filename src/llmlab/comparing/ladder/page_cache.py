"""A file in the page cache: how much of it is there, how to have it dropped, who has read from disk."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_MIB = 1024 * 1024
# Fields of /proc/<pid>/stat after the command's name, proc(5): majflt.
_MAJOR_FAULTS = 9


def can_drop() -> bool:
    """Whether this system knows the call at all."""
    return hasattr(os, "posix_fadvise")


def drop(paths: Iterable[Path]) -> None:
    """Ask the kernel to forget files; it keeps what a process has mapped, and files that lie in memory.

    Raises:
        OSError: If one cannot be opened.
    """
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):
                # What is not on disk yet is not dropped.
                os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def share(paths: Iterable[Path]) -> float | None:
    """How much of some files is in the page cache, from 0 to 1; None if the kernel does not tell."""
    found = [_pages(path) for path in paths]
    if None in found:
        return None
    known = [each for each in found if each]
    total = sum(pages for _, pages in known)
    return sum(here for here, _ in known) / total if total else None


def has_read(pid: int | None) -> dict[str, float | None]:
    """What a process has read from disk since it began: major faults and MiB.

    Args:
        pid: Its number on this machine, or None.

    Returns:
        `start_faults` and `start_read_mib`; None is unknown.
    """
    faults = read = None
    folder = Path(f"/proc/{pid}")
    with suppress(OSError, ValueError, IndexError):
        text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        faults = float(text.rpartition(")")[2].split()[_MAJOR_FAULTS])
    with suppress(OSError, ValueError):
        lines = (folder / "io").read_text(encoding="ascii").splitlines()
        read = next(int(line.split()[1]) / _MIB for line in lines if line.startswith("read_bytes:"))
    return {"start_faults": faults, "start_read_mib": read}


def _pages(path: Path) -> tuple[int, int] | None:
    """Pages of a file that are in memory, and all of its pages."""
    try:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        size = path.stat().st_size
        count = -(-size // mmap.PAGESIZE)
        if not count:
            return 0, 0
        # A private copy is writable, which ctypes wants; nothing is written.
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
            where = ctypes.c_char.from_buffer(mapped)
            seen = (ctypes.c_ubyte * count)()
            failed = mincore(ctypes.c_void_p(ctypes.addressof(where)), ctypes.c_size_t(size), seen)
            del where
    except (OSError, AttributeError, ValueError, TypeError):
        return None
    return None if failed else (sum(page & 1 for page in bytes(seen)), count)
