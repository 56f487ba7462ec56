"""Values for tests: a model and a server's record, of files that need not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmlab.specs import Endpoint, Limits, Model, Process, Record, ServeSpec


def model(**changes: Any) -> Model:
    """A model of 3 MiB."""
    values: dict[str, Any] = {
        "reference": "./m.gguf",
        "name": "m",
        "path": Path("/models/m.gguf"),
        "file_bytes": 3 * 1024 * 1024,
        "sha256": "00" * 32,
        "architecture": "llama",
        "n_layers": 4,
        "n_kv_heads": 2,
        "head_dim": 64,
        "n_vocab": 2048,
        "context_train": 1024,
    }
    return Model(**{**values, **changes})


def spec(**changes: Any) -> ServeSpec:
    """What is asked of an engine."""
    values: dict[str, Any] = {
        "model": model(),
        "engine": "llama-server",
        "context": 1024,
        "slots": 4,
        "threads": 1,
    }
    return ServeSpec(**{**values, **changes})


def record(*, pid: int | None = None, **changes: Any) -> Record:
    """A native server's record."""
    values: dict[str, Any] = {
        "name": "a",
        "backend": "native",
        "spec": spec(),
        "endpoint": Endpoint(socket=Path("/run/a/socket/llm.sock")),
        "created": 1_700_000_000.0,
        "process": Process(pid=pid, start="boot:1:2") if pid else None,
        "argv": ("llama-server", "--model", "/models/m.gguf"),
        "limits": Limits(memory_mib=512, cpus=2.0),
    }
    return Record(**{**values, **changes})
