"""Directories of servers that were started by hand, from what a dry run printed.

    <runtime>/.hand/<name>/socket/   the directory that holds its unix socket

They have no lock and no record: a container's labels say it all.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from llmlab import runtime
from llmlab.errors import LabError
from llmlab.runtime import Claim
from llmlab.specs import Record

_MAX_SOCKET_PATH = 103


def claim(name: str) -> Claim:
    """Where a server that is started by hand has its files; nothing is made.

    Raises:
        LabError: If the socket's path would be too long.
    """
    place = Claim(_root() / name)
    if len(os.fsencode(place.socket)) > _MAX_SOCKET_PATH:
        raise LabError(
            f"the path {place.socket} is too long for a unix socket",
            hint="use a shorter --name, or set LLMLAB_RUNTIME_DIR to a shorter path",
        )
    return place


def remove(record: Record) -> None:
    """Remove what belongs to a server that was started by hand, or has its model here; of others nothing."""
    for path in (record.endpoint.socket, record.spec.model.path):
        if path and path.is_relative_to(_root()):
            _clear(_root() / path.relative_to(_root()).parts[0])


def sweep(names: Collection[str]) -> None:
    """Remove directories whose server is over.

    Args:
        names: The servers that there are.
    """
    with suppress(OSError):
        for folder in _root().iterdir():
            # One without a socket may just have been made, for a command that comes next.
            if folder.name not in names and _has_ended(Claim(folder).socket):
                _clear(folder)


def _root() -> Path:
    return runtime.runtime_dir() / ".hand"


def _has_ended(path: Path) -> bool:
    """Whether nobody listens any more at a socket that is there."""
    with socket.socket(socket.AF_UNIX) as door, suppress(OSError):
        try:
            door.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def _clear(folder: Path) -> None:
    with suppress(OSError):
        # It was taken away from its container, and so from us.
        Claim(folder).socket_dir.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()  # the last one takes the directory of all with it
