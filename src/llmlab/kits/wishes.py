"""What is to go into a kit: options of the command line, and a file that lists the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab.errors import UnknownNameError, UsageError
from llmlab.kits import platforms

PARTS = ("engine", "image", "models", "wheels", "notebooks")
"""What a kit is made of."""
_KEYS = ("models", "platforms", "python", "notebooks", "without")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to go into a kit.

    Attributes:
        models: References of the models.
        platforms: For which platforms to hold wheels.
        python: For which versions of Python.
        notebooks: The folder of the notebooks; None for those of llmlab's repository.
        without: Parts that are left out.
    """

    models: tuple[str, ...]
    platforms: tuple[str, ...]
    python: tuple[str, ...]
    notebooks: Path | None
    without: frozenset[str]


def wish(manifest: str | None, options: Mapping[str, str | None]) -> Wish:
    """Read what was asked for; an option of the command line goes before the file's.

    Args:
        manifest: The file, or None.
        options: The options by name, lists with commas; None if not given.

    Raises:
        UsageError: If the file cannot be read, or either says what cannot be.
    """
    found = _file(Path(manifest).expanduser()) if manifest else {}
    found |= {name: _list(value) for name, value in options.items() if value is not None}
    without = frozenset(found.get("without", ()))
    for part in sorted(without):
        if part not in PARTS:
            raise UnknownNameError("part of a kit", part, PARTS)
    notebooks = found.get("notebooks", [])
    return Wish(
        models=tuple(dict.fromkeys(found.get("models") or ["tiny"])),
        platforms=platforms.known(dict.fromkeys(found.get("platforms") or [platforms.here()])),
        python=platforms.pythons(dict.fromkeys(found.get("python") or [platforms.python_here()])),
        notebooks=Path(notebooks[0]).expanduser() if notebooks else None,
        without=without,
    )


def _file(path: Path) -> dict[str, list[str]]:
    """The lists of a manifest; a text in it is a list of one, and folders are beside the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the manifest {path} cannot be read: {error}",
            hint='it is JSON, such as {"models": ["tiny"], "python": ["3.11", "3.12"]}',
        ) from error
    if not isinstance(data, dict):
        raise UsageError(f"the manifest {path} is no JSON object", hint=f"its keys: {', '.join(_KEYS)}")
    found = {}
    for key, value in data.items():
        if key not in _KEYS:
            raise UnknownNameError(f"key of a manifest ({path})", key, _KEYS)
        found[key] = _texts(path, key, value)
    if "notebooks" in found:
        found["notebooks"] = [str(path.parent / each) for each in found["notebooks"]]
    found["models"] = [_beside(path.parent, model) for model in found.get("models", [])]
    return found


def _beside(folder: Path, model: str) -> str:
    """A model's reference; the relative path of a file is one from the manifest's folder."""
    return str(folder / model) if model.endswith(".gguf") and ":" not in model else model


def _texts(path: Path, key: str, value: Any) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) and each for each in values):
        raise UsageError(
            f"{key} in the manifest {path} must be a list of texts", hint=f'such as "{key}": ["…", "…"]'
        )
    return values


def _list(text: str) -> list[str]:
    return _whole([part.strip() for part in text.split(",")], text)


def _whole(parts: Iterable[str], text: str) -> list[str]:
    found = [part for part in parts if part]
    if not found:
        raise UsageError(f"{text!r} names nothing", hint="a list is written with commas: a,b")
    return found
