"""A directory of safetensors, looked at as vLLM's loader does: llama-server cannot load one."""

from __future__ import annotations

import json
from pathlib import Path

from llmlab.testing.stand_ins.serving import LoadError

_INDEX = "model.safetensors.index.json"


def check(folder: Path) -> str:
    """Read all that a loader would read first.

    Args:
        folder: The directory.

    Returns:
        What was seen, for the log.

    Raises:
        LoadError: If a file is missing, cut off, or not what its name says.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        names = sorted({path.name for path in folder.glob("*.safetensors")})
        if (folder / _INDEX).exists():
            names = sorted(set(json.loads((folder / _INDEX).read_bytes())["weight_map"].values()))
        tensors = sum(_tensors(folder / name) for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"cannot load {folder}: {error}") from error
    if not tensors:
        raise LoadError(f"cannot find any model weights with {folder}")
    return f"{config['architectures'][0]}: {tensors} tensors in {', '.join(names)}"


def _tensors(path: Path) -> int:
    """How many tensors a file has; each byte of it is read."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = {
        name: entry for name, entry in json.loads(content[8 : 8 + length]).items() if name != "__metadata__"
    }
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if len(content) != 8 + length + end:
        raise ValueError(f"{path.name}: incomplete metadata, file not fully covered")
    return len(header)
