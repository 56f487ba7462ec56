"""Notebooks in a kit, and on a learner's machine, where nothing of the learner's is written over."""

from __future__ import annotations

import itertools
from pathlib import Path

import llmlab
from llmlab.errors import UsageError
from llmlab.kits import contents, files
from llmlab.weights import store

FOLDER = "notebooks"


def find(named: Path | None) -> Path:
    """The folder of the notebooks to hold.

    Args:
        named: The one that was asked for; None for that of llmlab's repository.

    Raises:
        UsageError: If there is none.
    """
    if named is not None:
        if not any(named.glob("*.ipynb")):
            raise UsageError(f"there is no notebook in {named}", hint="name the folder that holds them")
        return named
    # An installed package has no notebooks: they stand beside the sources.
    found = Path(str(llmlab.__file__)).parents[2] / FOLDER
    if not any(found.glob("*.ipynb")):
        raise UsageError(
            "the notebooks are not installed with llmlab",
            hint="name their folder: --notebooks DIR; or leave them out: --without notebooks",
        )
    return found


def hold(source: Path, folder: Path) -> tuple[str, ...]:
    """Copy the notebooks, and what lies beside them, into a kit."""
    found = files.listed(source)
    for path in found:
        if not contents.is_safe(path) or (source / path).is_symlink():
            raise UsageError(
                f"{source / path} cannot be in a kit: it is a link, or its name is not for every stick",
                hint="put a plain file of a plain name there",
            )
        files.copy(source / path, folder / FOLDER / path)
    return tuple(found)


def install(held: tuple[str, ...], kit: Path, into: Path) -> tuple[int, list[str]]:
    """Copy the notebooks to a learner's folder.

    Where the learner has changed one, the kit's stands beside it under another name.

    Returns:
        How many were written, and the names of those that stand beside another.
    """
    written, beside = 0, []
    with files.written_to(into / FOLDER, "the notebooks"):
        for path in held:
            source = kit / FOLDER / path
            target, is_new = _place(source, into / FOLDER / path)
            if is_new:
                files.copy(source, target)
                written += 1
            if target.name != source.name:
                beside.append(target.relative_to(into / FOLDER).as_posix())
    return written, beside


def _place(source: Path, wanted: Path) -> tuple[Path, bool]:
    """Where a file goes without writing over another, and whether it is not there yet."""
    digest = store.digest(source)
    for number in itertools.count(1):
        tail = "" if number == 1 else "-kit" if number == 2 else f"-kit-{number - 1}"  # noqa: PLR2004
        target = wanted.with_name(f"{wanted.stem}{tail}{wanted.suffix}")
        if not target.exists() and not target.is_symlink():
            return target, True
        if target.is_file() and store.digest(target) == digest:
            return target, False
    raise AssertionError  # numbers do not end
