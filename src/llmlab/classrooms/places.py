"""Where a room keeps its files, and how they are written."""

from __future__ import annotations

from pathlib import Path

from llmlab import runtime
from llmlab.runtime import write_private

__all__ = ["CONFIG", "LOG", "ROOM", "SOCKET", "folder", "running", "write_private"]

CONFIG, ROOM, SOCKET, LOG = "config.json", "room.json", "teacher.sock", "room.log"


def folder() -> Path:
    """What outlives the room: keys, charges, progress, the log; made if it is not there, for the user only."""
    path = runtime.made_state_dir() / "classroom"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def running() -> Path:
    """What the open room needs; no server's name begins with a dot."""
    return runtime.runtime_dir() / ".classroom"
