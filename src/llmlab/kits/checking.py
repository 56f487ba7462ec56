"""Whether a kit is as it was made: every file against the checksums, and no others."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmlab import render
from llmlab.errors import LabError, UsageError
from llmlab.kits import contents, files
from llmlab.kits.contents import NAME, SUMS, Contents
from llmlab.weights import store

Kind = Literal["missing", "truncated", "changed", "extra", "link", "unreadable"]
_WORDS: Mapping[Kind, str] = {
    "missing": "is missing",
    "truncated": "is truncated",
    "changed": "has changed",
    "extra": "does not belong to the kit",
    "link": "is a link",
    "unreadable": "cannot be read",
}
_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](?P<path>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something about a file of a kit that is not as it was made.

    Attributes:
        path: The file, in the kit.
        kind: `missing`, `truncated` (shorter than it was made), `changed`, `extra` (no
            file of the kit), `link` (leads elsewhere) or `unreadable`.
        detail: More on it, in words.
    """

    path: str
    kind: Kind
    detail: str = ""

    def __str__(self) -> str:
        """Such as "models/a.gguf is truncated: 1 of 2 MB"."""
        return f"{self.path} {_WORDS[self.kind]}" + (f": {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A kit that was looked at.

    Attributes:
        folder: The kit.
        contents: What it says that it holds; None if that cannot be read.
        sums: Path → sha256, as the kit says.
        problems: What is not as it was made; none if it is whole.
        file_bytes: Bytes of the files that were read.
    """

    folder: Path
    contents: Contents | None
    sums: dict[str, str]
    problems: tuple[Problem, ...]
    file_bytes: int


class _BadError(Exception):
    """A file that is not as it was made."""

    def __init__(self, path: str, kind: Kind, detail: str = "") -> None:
        super().__init__(path)
        self.problem = Problem(path=path, kind=kind, detail=detail)


def check(folder: Path, read: Callable[[int], None] | None = None) -> Checked:
    """Hash every file of a kit anew, and look for those that do not belong to it.

    Args:
        folder: The kit.
        read: Told of each number of bytes as they are read.

    Raises:
        UsageError: If the folder is no kit.
    """
    there = _there(folder)
    problems: list[Problem] = []
    sums = _sums(folder, problems)
    found = _contents(folder, sums, problems)
    sizes: Mapping[str, int] = found.sizes if found else {}
    done = sum(_size(folder, path, sha256, sizes.get(path), read, problems) for path, sha256 in sums.items())
    if sums:
        problems += [_extra(folder, path) for path in there if path not in sums and path != SUMS]
    if found:
        problems += _disagreements(sums, sizes)
    # A file may be wrong in more ways than one; the first says it.
    once = {problem.path: problem for problem in reversed(problems)}
    return Checked(
        folder=folder,
        contents=found,
        sums=sums,
        problems=tuple(once[path] for path in sorted(once)),
        file_bytes=done,
    )


def _there(folder: Path) -> list[str]:
    """The files of a folder that may be a kit."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="is the stick plugged in, and mounted?")
    there = files.listed(folder)
    if SUMS not in there and NAME not in there:
        raise UsageError(
            f"{folder} is no kit: it has neither {SUMS} nor {NAME}",
            hint=f"make one: llmlab kit build {folder / 'kit'}",
        )
    return there


def _sums(folder: Path, problems: list[Problem]) -> dict[str, str]:
    """The checksums; lines that are none, or lead out of the kit, are problems."""
    try:
        _plain(folder, SUMS)
        text = (folder / SUMS).read_text(encoding="utf-8")
    except _BadError as bad:
        detail = bad.problem.detail or "the kit was not finished, or not copied whole"
        problems.append(Problem(path=SUMS, kind=bad.problem.kind, detail=detail))
        return {}
    except (OSError, ValueError) as error:
        problems.append(Problem(path=SUMS, kind="unreadable", detail=str(error)))
        return {}
    found: dict[str, str] = {}
    lines = text.splitlines()
    if not text.endswith("\n"):
        # What is left of a path would be another path.
        problems.append(Problem(path=SUMS, kind="truncated", detail=f"line {len(lines)} has no end"))
        lines = lines[:-1]
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match and contents.is_safe(match["path"]) and match["path"] not in found:
            found[match["path"]] = match["sha256"]
            continue
        what = "is no checksum"
        if match:
            what = f"has {match['path']!r} twice"
            if match["path"] not in found:
                what = f"names {match['path']!r}, which may lead out of the kit"
        problems.append(Problem(path=SUMS, kind="changed", detail=f"line {number} {what}"))
    return found


def _contents(folder: Path, sums: Mapping[str, str], problems: list[Problem]) -> Contents | None:
    """`kit.json`, if it is the one that the checksums are of."""
    try:
        _plain(folder, NAME)
        if store.digest(folder / NAME) != sums.get(NAME):
            return None  # which is told with the other files
        return contents.parse((folder / NAME).read_text(encoding="utf-8"))
    except _BadError as bad:
        problems.append(bad.problem)
    except LabError as error:
        problems.append(Problem(path=NAME, kind="unreadable", detail=error.message))
    except (OSError, ValueError) as error:
        problems.append(Problem(path=NAME, kind="unreadable", detail=str(error)))
    return None


def _plain(folder: Path, path: str) -> int:
    """The size of a file that is reached without links."""
    place = folder
    for part in path.split("/"):
        place /= part
        if place.is_symlink():
            raise _BadError(path, "link", "a kit has no links")
    try:
        info = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise _BadError(path, "missing") from None
    if not stat.S_ISREG(info.st_mode):
        raise _BadError(path, "changed", "it is no plain file")
    return info.st_size


def _size(
    folder: Path,
    path: str,
    digest: str,
    expected: int | None,
    read: Callable[[int], None] | None,
    problems: list[Problem],
) -> int:
    """The bytes of a file that is as it was made; 0 of one that is not, which goes to the problems."""
    try:
        found = _plain(folder, path)
        if expected is not None and found < expected:
            there = f"{render.bytes_text(found)} of {render.bytes_text(expected)} are there"
            problems.append(Problem(path=path, kind="truncated", detail=there))
            return 0
        if store.digest(folder / path, read=read) == digest:
            return found
        problems.append(Problem(path=path, kind="changed", detail="its checksum differs"))
    except _BadError as bad:
        problems.append(bad.problem)
    except OSError as error:
        problems.append(Problem(path=path, kind="unreadable", detail=error.strerror or str(error)))
    return 0


def _extra(folder: Path, path: str) -> Problem:
    if (folder / path).is_symlink():
        return Problem(path=path, kind="link", detail="a kit has no links")
    return Problem(path=path, kind="extra")


def _disagreements(sums: Mapping[str, str], sizes: Mapping[str, int]) -> Iterator[Problem]:
    """Files that one of the two lists has and the other has not."""
    for path in sorted(sizes.keys() ^ (sums.keys() - {NAME})):
        yield Problem(path=path, kind="missing", detail=f"{SUMS} and {NAME} do not agree about it")
