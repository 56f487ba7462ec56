"""Which of the models on this machine a name means."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from llmlab.weights import catalog, hub, store
from llmlab.weights.store import Stored


def reference_of(name: str) -> str:
    """The reference that a name stands for: that of the catalog, or the name itself."""
    found = catalog.find(name)
    return found[0].at(found[1]) if found else name


def select(wanted: str) -> list[Stored]:
    """The models on this machine that a reference can mean.

    Args:
        wanted: A reference, or the path of a file of a model.

    Raises:
        UsageError: If it begins with `hf:` and is malformed.
    """
    stored = store.stored()
    if same := [each for each in stored if each.reference == wanted]:
        return same
    if wanted.startswith("hf:"):
        return _of_hub(hub.parse(wanted), stored)
    if wanted.startswith("ollama:") and ":" not in wanted.removeprefix("ollama:"):
        return [each for each in stored if each.reference == f"{wanted}:latest"]
    path = path_of(wanted)
    return [each for each in stored if path in each.files]


def path_of(text: str) -> Path | None:
    """The path that a text is, if something is there."""
    with suppress(OSError, RuntimeError, ValueError):  # no such user's home, too long, a zero byte
        path = Path(text).expanduser().absolute()
        return path if path.exists() else None
    return None


def _of_hub(wanted: hub.HubReference, stored: list[Stored]) -> list[Stored]:
    ours = [
        each
        for each in stored
        if each.source == "hub" and hub.parse(each.reference).repository == wanted.repository
    ]
    if wanted.file:
        return [
            each for each in ours if any(path.as_posix().endswith(f"/{wanted.file}") for path in each.files)
        ]
    if wanted.quant:
        path = hub.find(wanted)
        asked = str(wanted).lower()
        return [each for each in ours if path in each.files or each.reference.lower() == asked]
    return ours
