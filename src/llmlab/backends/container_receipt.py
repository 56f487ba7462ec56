"""What is in force on a container's server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmlab.backends import docker_api
from llmlab.isolation import process_facts, receipt
from llmlab.profiles import SEALED
from llmlab.results import Control
from llmlab.specs import Limits, Record


def controls(record: Record) -> tuple[Sequence[Control], dict[str, str]]:
    """The receipt: asked for, recorded by the engine, seen on the process."""
    api = docker_api.connect()
    entry = api.container(record.container_id or "")
    if entry is None:
        return (), {}
    pid = server_pid(entry)
    rows = receipt(
        record.profile or SEALED,
        record.limits or Limits(memory_mib=0, cpus=0),
        record.user or "",
        entry,
        process_facts(pid),
    )
    mounts = "; ".join(
        f"{mount['Destination']} {'writable' if mount.get('RW') else 'read-only'}"
        for mount in entry.get("Mounts") or ()
    )
    return rows, {
        "container": str(entry["Id"])[:12],
        "image": str(record.image),
        "pid": str(pid) if pid else "unknown",
        "mounts": mounts,
    }


def server_pid(entry: dict[str, Any]) -> int | None:
    """The server itself: the child of the container's init."""
    init = (entry.get("State") or {}).get("Pid")
    if not init:
        return None
    try:
        children = Path(f"/proc/{init}/task/{init}/children").read_text(encoding="ascii").split()
    except OSError:
        return int(init)
    return int(children[0]) if children else int(init)
