"""Where running servers are written down, who may touch them when, and to whom they belong."""

from __future__ import annotations

from llmlab.runtime.claims import RECORD, Claim, abandoned, claim, hold, newer, read_record, records
from llmlab.runtime.places import (
    cache_dir,
    locked,
    made_state_dir,
    runtime_dir,
    scope,
    state_dir,
    write_private,
)
from llmlab.runtime.processes import (
    default_owner,
    has_ended,
    is_alive,
    keep_servers,
    owned_servers,
    process,
)
from llmlab.runtime.undoing import undone, uninterrupted

__all__ = [
    "RECORD",
    "Claim",
    "abandoned",
    "cache_dir",
    "claim",
    "default_owner",
    "has_ended",
    "hold",
    "is_alive",
    "keep_servers",
    "locked",
    "made_state_dir",
    "newer",
    "owned_servers",
    "process",
    "read_record",
    "records",
    "runtime_dir",
    "scope",
    "state_dir",
    "undone",
    "uninterrupted",
    "write_private",
]
