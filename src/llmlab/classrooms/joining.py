"""Joining a room: its address, and a key that is asked for once."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import Annotated

from llmlab import runtime
from llmlab.arguments import Arg
from llmlab.classrooms.joined import Room
from llmlab.classrooms.places import write_private
from llmlab.errors import MALFORMED, UsageError

VARIABLE = "LLMLAB_CLASSROOM_KEY"


def join(
    url: str | None = None,
    *,
    key_file: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
) -> Room:
    """Join a classroom: reach the models of a room with the key that you were given.

    The key is asked for, or read from a file or from LLMLAB_CLASSROOM_KEY; it is kept on
    this machine in a file that only you can read. Nothing is sent but your questions.

    Args:
        url: The room's address, with all that stands after its # sign. Unset: the room
            that was joined last.
        key_file: A file that holds the key. Unset: the variable, then the key that is
            kept, then it is asked for.

    Raises:
        UsageError: The address or the key does not fit.
        LabError: The room does not answer, or does not let you in.
    """
    kept = _kept()
    if url is None:
        if not kept:
            raise UsageError("which room?", hint="join ADDRESS, which the teacher gives you")
        url = list(kept)[-1]
    room = Room(url, _key(key_file, kept.get(url)))
    room.usage()
    kept.pop(url, None)
    write_private(_file(), json.dumps({**kept, url: str(room.key)}))
    return room


def _key(file: str | None, kept: str | None) -> str:
    if file is not None:
        try:
            return Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{file} cannot be read: {error}", hint="a text file with nothing but the key"
            ) from None
    if found := os.environ.get(VARIABLE):
        return found
    if kept:
        return kept
    try:
        return getpass.getpass("Key: ")
    except (EOFError, OSError, NotImplementedError):
        raise UsageError(
            "the key cannot be asked for here", hint=f"set {VARIABLE}, or use --key-file"
        ) from None


def _file() -> Path:
    return runtime.made_state_dir() / "rooms.json"


def _kept() -> dict[str, str]:
    """The rooms that were joined, the last one last: address → key."""
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return {url: key for url, key in found.items() if isinstance(url, str) and isinstance(key, str)}
    except (OSError, *MALFORMED):
        return {}
