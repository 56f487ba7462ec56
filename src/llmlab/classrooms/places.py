"""Where a room keeps its files, and how they are written."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from llmlab import runtime

CONFIG, ROOM, SOCKET, LOG = "config.json", "room.json", "teacher.sock", "room.log"


def folder() -> Path:
    """What outlives the room: keys, charges, progress, the log; made if it is not there, for the user only."""
    path = runtime.made_state_dir() / "classroom"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def running() -> Path:
    """What the open room needs; no server's name begins with a dot."""
    return runtime.runtime_dir() / ".classroom"


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else can read, whole or not at all."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(draft).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(draft).unlink()
        raise
