"""Servers' directories: a name is taken, held, written down and given back.

    <runtime>/<name>/lock          held by whoever starts or stops the server
    <runtime>/<name>/record.json   written once it has been started
    <runtime>/<name>/socket/       the directory that holds its unix socket

The directory's existence is the claim on the name. A directory without a
record whose lock is free belongs to a start that died.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: nothing runs there but `llmlab doctor`, which says what to do
    fcntl = None  # type: ignore[assignment]

from llmlab.errors import MALFORMED, DiskSpaceError, LabError, NameTakenError, ServerBusyError
from llmlab.runtime.places import locked, runtime_dir
from llmlab.runtime.undoing import undone, uninterrupted
from llmlab.specs import Record, record_from_dict, to_dict

RECORD = "record.json"
_LOCK = "lock"
# Of the form that records are written in: raised when an older llmlab could misread them.
_VERSION = 1
# A unix socket's path has at most 107 bytes on Linux, 103 on macOS.
_MAX_SOCKET_PATH = 103
_REMOVE_S = 1.0
_LEAST_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Claim:
    """A server's directory while its lock is held.

    Attributes:
        path: The directory.
    """

    path: Path

    @property
    def name(self) -> str:
        """The server's name."""
        return self.path.name

    @property
    def socket_dir(self) -> Path:
        """The directory that is given to the server for its socket."""
        return self.path / "socket"

    @property
    def socket(self) -> Path:
        """Path of the server's socket."""
        return self.socket_dir / "llm.sock"

    def write(self, record: Record) -> None:
        """Write the record, whole or not at all."""
        _check_room(self.path)
        draft = self.path / f"{RECORD}.new"
        draft.write_text(json.dumps({"version": _VERSION, **to_dict(record)}), encoding="utf-8")
        draft.chmod(0o600)
        draft.replace(self.path / RECORD)

    def remove(self) -> None:
        """Remove the directory with all that is in it."""
        # A server that is ready cannot write to its socket's directory, and we can neither.
        with suppress(OSError):
            self.socket_dir.chmod(0o700)
        deadline = time.monotonic() + _REMOVE_S
        while self.path.exists() and time.monotonic() < deadline:
            # A shell that is just ending may still write the exit code into it.
            shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def claim(name: str) -> Iterator[Claim]:
    """Take a name, and hold its lock inside the `with` block.

    An exception removes the directory again.

    Raises:
        NameTakenError: If the name is taken.
        LabError: If the socket's path would be too long.
    """
    root = runtime_dir()
    made = Claim(root / name)
    if len(os.fsencode(made.socket)) > _MAX_SOCKET_PATH:
        raise LabError(
            f"the path {made.socket} is too long for a unix socket",
            hint="use a shorter --name, or set LLMLAB_RUNTIME_DIR to a shorter path",
        )
    _check_room(root)
    # A directory without its lock held would look like one that a dead start has left.
    handle = uninterrupted(partial(_take, root, made), undo=partial(_give_back, made))
    try:
        with undone(made.remove):
            made.socket_dir.mkdir(mode=0o700)
            yield made
    finally:
        os.close(handle)


def _check_room(folder: Path) -> None:
    """Refuse to begin what could not even be written down.

    Raises:
        DiskSpaceError: If the disk is full.
    """
    if shutil.disk_usage(folder).free < _LEAST_BYTES:
        raise DiskSpaceError(
            f"no space left for servers' records in {runtime_dir()}",
            hint="free some, or set LLMLAB_RUNTIME_DIR to a directory on another disk",
        )


def _take(root: Path, made: Claim) -> int:
    """Make a server's directory; the handle that holds its lock."""
    with locked(root / ".lock"):
        try:
            made.path.mkdir(mode=0o700)
        except FileExistsError:
            raise NameTakenError(
                f"a server named {made.name!r} exists already",
                hint=f"choose another --name, or stop it first: llmlab stop {made.name}",
            ) from None
        handle = os.open(made.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def _give_back(made: Claim, handle: int) -> None:
    os.close(handle)
    made.remove()


@contextmanager
def hold(name: str, *, wait_s: float) -> Iterator[Claim | None]:
    """Hold the lock of an existing server; None if its directory is gone.

    Args:
        name: The server's name.
        wait_s: How long to wait for another process that holds it, seconds.

    Raises:
        ServerBusyError: If another process holds it for longer.
    """
    held = Claim(runtime_dir() / name)
    path = held.path / _LOCK
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    try:
        deadline = time.monotonic() + wait_s
        while not _try_lock(handle):
            if time.monotonic() > deadline:
                raise ServerBusyError(
                    f"server {name!r} is being started or stopped by another process",
                    hint="wait for it, or try again",
                )
            time.sleep(0.02)
        # Whoever held it before may have removed the directory in the meantime.
        try:
            same = os.path.samestat(os.fstat(handle), path.stat())
        except FileNotFoundError:
            same = False
        yield held if same else None
    finally:
        os.close(handle)


def records() -> list[Record]:
    """All records that were written, unreadable ones left out."""
    paths = runtime_dir().glob(f"*/{RECORD}")
    return [record for path in paths if (record := read_record(path.parent.name))]


def read_record(name: str) -> Record | None:
    """The record of one server, or None if there is none that can be read."""
    try:
        return None if _is_newer(name) else record_from_dict(_written(name))
    except (OSError, *MALFORMED):
        return None


def newer() -> list[str]:
    """Names of servers that a newer llmlab has written down, in a form that is not known here."""
    return [path.parent.name for path in runtime_dir().glob(f"*/{RECORD}") if _is_newer(path.parent.name)]


def _is_newer(name: str) -> bool:
    try:
        version = _written(name)["version"]
    except (OSError, *MALFORMED):
        return False
    return type(version) is int and version > _VERSION


def _written(name: str) -> Any:
    return json.loads((runtime_dir() / name / RECORD).read_text(encoding="utf-8"))


def abandoned() -> list[str]:
    """Names whose start died: no readable record, not even for a newer llmlab, and nobody holds the lock."""
    root = runtime_dir()
    names = []
    with locked(root / ".lock"):
        for path in root.iterdir():
            # No server's name begins with a dot: that is where dry runs have their sockets.
            if path.name.startswith(".") or not path.is_dir() or read_record(path.name) is not None:
                continue
            if _is_newer(path.name):
                continue
            try:
                # A directory without a lock is none of ours.
                handle = os.open(path / _LOCK, os.O_RDWR)
            except OSError:
                continue
            try:
                if _try_lock(handle):
                    names.append(path.name)
            finally:
                os.close(handle)
    return names


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
