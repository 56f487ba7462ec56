"""Servers that were given up while their node could not be reached: removed when it is back.

Only what stands in the list is ever removed, by its container's id: other people's
servers on the same machine are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llmlab import backends, runtime
from llmlab.errors import MALFORMED, LabError
from llmlab.specs import Record, record_from_dict, to_dict

_FILE = "left-behind.json"


def leave(record: Record) -> None:
    """Note that a server's container is to be removed when its node answers again."""
    with runtime.locked(_path().with_suffix(".lock")):
        _write([*_read(), record])


def sweep(addresses: Collection[str]) -> tuple[str, ...]:
    """Remove what was left behind on some nodes; returns the names.

    Args:
        addresses: Of nodes that answer.
    """
    if not (runtime.state_dir() / _FILE).exists():
        return ()
    with runtime.locked(_path().with_suffix(".lock")):
        removed: list[Record] = []
        kept: list[Record] = []
        for record in _read():
            there = record.container_engine in addresses
            (removed if there and _removed(record) else kept).append(record)
        _write(kept)
    return tuple(record.name for record in removed)


def waiting() -> tuple[Record, ...]:
    """What is still to be removed."""
    return tuple(_read())


def _removed(record: Record) -> bool:
    try:
        backends.backend(record.backend).stop(record, grace_s=0)
    except LabError:
        return False
    return True


def _path() -> Path:
    return runtime.made_state_dir() / _FILE


def _read() -> list[Record]:
    try:
        found: list[Any] = json.loads((runtime.state_dir() / _FILE).read_text(encoding="utf-8"))
        return [record_from_dict(each) for each in found]
    except (OSError, *MALFORMED):
        return []


def _write(records: list[Record]) -> None:
    path = _path()
    if not records:
        path.unlink(missing_ok=True)
        return
    made = path.with_suffix(".new")
    made.write_text(json.dumps([to_dict(record) for record in records]), encoding="utf-8")
    made.replace(path)
