"""The labels of what llmlab makes in a container engine: found and removed by them, never by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmlab import runtime
from llmlab.errors import MALFORMED
from llmlab.specs import Record, record_from_dict

SERVER = "llmlab.server"
USER = "llmlab.user"
RECORD = "llmlab.record"
SIDECAR = "llmlab.sidecar"
MODEL = "llmlab.model"
MODEL_NAME = "llmlab.model.name"
TOOL = "llmlab.tool"


def mine(**more: str) -> dict[str, str]:
    """The labels of something of this user's; keywords are the constants above, such as `SERVER`."""
    return {USER: runtime.scope(), **{globals()[name]: value for name, value in more.items()}}


def container_name(server: str) -> str:
    """Container names are the machine's, server names the user's."""
    return f"llmlab-{runtime.scope()}-{server}"


def record_of(entry: Mapping[str, Any]) -> Record | None:
    """The record in a container's labels; None if it has none, or one that cannot be read.

    Args:
        entry: The container as the engine's API lists it.
    """
    try:
        data = json.loads((entry.get("Labels") or {})[RECORD])
        return replace(record_from_dict(data), container_id=str(entry["Id"]))
    except MALFORMED:
        return None
