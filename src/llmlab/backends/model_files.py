"""The files that an engine finds among its models, as files of this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from llmlab import engines, runtime
from llmlab.engines import ModelFile
from llmlab.errors import BackendError
from llmlab.specs import ServeSpec


def of(engine: engines.Engine, spec: ServeSpec) -> tuple[tuple[str, Path], ...]:
    """Path below the directory of the models, and file, of each.

    Args:
        engine: The program that serves.
        spec: What it serves.

    Raises:
        LabError: If the engine cannot serve that model, or a file cannot be written.
    """
    return tuple(_files(engines.model_files(engine, spec)))


def _files(found: tuple[ModelFile, ...]) -> Iterator[tuple[str, Path]]:
    for file in found:
        yield file.target, _written(file.source) if isinstance(file.source, bytes) else file.source


def _written(content: bytes) -> Path:
    """A file with this content, which is named by it and so never changes."""
    path = runtime.cache_dir() / "model-files" / hashlib.sha256(content).hexdigest()
    try:
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_bytes(content)
        # Whoever serves it in a container is another user.
        draft.chmod(0o644)
        draft.replace(path)
    except OSError as error:
        raise BackendError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="LLMLAB_CACHE_DIR names another place",
        ) from error
    return path
