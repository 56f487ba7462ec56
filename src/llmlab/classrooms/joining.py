"""Joining a room: its address, and a key that is asked for once."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated

from llmlab.arguments import Arg
from llmlab.backends import room as rooms_here
from llmlab.classrooms.joined import Room
from llmlab.errors import RequestError, UsageError
from llmlab.reporting import reporter

VARIABLE = "LLMLAB_CLASSROOM_KEY"


def join(
    url: str | None = None,
    *,
    key_file: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    name: str | None = None,
) -> Room:
    """Join a classroom: ask its models as if they were servers of yours, with the key that you were given.

    Each model of the room becomes a server that `ps` lists and `ask` and `chat` ask, until
    `stop` leaves it. The key is asked for, or read from a file or from LLMLAB_CLASSROOM_KEY;
    it is kept on this machine in files that only you can read. Nothing is sent but your questions.

    Args:
        url: The room's address, with all that stands after its # sign. Unset: the room
            that was joined last.
        key_file: A file that holds the key. Unset: the variable, then the key that is
            kept, then it is asked for.
        name: What to call the server; of several models, what their names begin with.
            Unset: room.

    Raises:
        UsageError: The address or the key does not fit.
        LabError: The room does not answer, or does not let you in.
    """
    kept = rooms_here.kept()
    if url is None:
        if not kept:
            raise UsageError("which room?", hint="join ADDRESS, which the teacher gives you")
        url = list(kept)[-1]
    known = next((key for each, key in kept.items() if rooms_here.is_same(each, url)), None)
    try:
        room = _let_in(url, _key(key_file, known))
    except RequestError as error:
        # A key that was taken back must not stand in the way of the new one.
        if key_file or os.environ.get(VARIABLE) or not known or not rooms_here.is_key_refused(error):
            raise
        reporter().note(error.message)
        try:
            new = _key(None, None)
        except UsageError:
            raise error from None  # nobody can be asked here: what is wrong says the room
        room = _let_in(url, new)
    rooms_here.keep(url, room.key)
    room.enter(name=name)
    return room


def _let_in(url: str, key: str) -> Room:
    room = Room(url, key)
    room.usage()
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
