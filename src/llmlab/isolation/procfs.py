"""The kernel's text files, and what is mounted where."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of `mountinfo`.

    Attributes:
        target: Where it is mounted, as the process sees it.
        kind: Type of the file system, such as "ext4" or "tmpfs".
        root: What of that file system is mounted.
        options: Options of the mount, such as "ro" and "nosuid".
        superblock: Options of the file system, such as "size=65536k".
    """

    target: str
    kind: str
    root: str
    options: frozenset[str]
    superblock: frozenset[str] = frozenset()

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written through it."""
        return "ro" in self.options

    @property
    def size_bytes(self) -> int | None:
        """The size that a tmpfs was given."""
        found = next((o for o in self.superblock if o.startswith("size=")), "")
        match = re.fullmatch(r"size=(\d+)([kmg]?)", found)
        return int(match[1]) << {"": 0, "k": 10, "m": 20, "g": 30}[match[2]] if match else None


def read(path: Path) -> str | None:
    """What stands in a file; None if it cannot be read."""
    # ValueError: a null byte in a path that came from a file.
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8", errors="replace")
    return None


def mount_points(process: Path) -> tuple[MountPoint, ...] | None:
    """Everything that is mounted where a process is; None if it cannot be read.

    Args:
        process: The process's directory, such as /proc/self.
    """
    text = read(process / "mountinfo")
    if text is None:
        return None
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(rest) < 3:  # noqa: PLR2004 - columns of the kernel's format
            continue
        found.append(
            MountPoint(
                target=_unescaped(fields[4]),
                kind=rest[0],
                root=_unescaped(fields[3]),
                options=frozenset(fields[5].split(",")),
                superblock=frozenset(rest[2].split(",")),
            )
        )
    return tuple(found)


def _unescaped(text: str) -> str:
    """The kernel writes spaces and the like as three octal digits."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
