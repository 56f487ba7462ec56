"""Where running servers are written down, and who may touch them when.

One directory per server under a directory of the user's own (mode 0700):

    <runtime>/<name>/lock          held by whoever starts or stops the server
    <runtime>/<name>/record.json   written once it has been started
    <runtime>/<name>/socket/       the directory that holds its unix socket

The directory's existence is the claim on the name. A directory without a
record whose lock is free belongs to a start that died.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

try:
    import fcntl
except ImportError:  # Windows: nothing runs there but `llmlab doctor`, which says what to do
    fcntl = None  # type: ignore[assignment]

from llmlab.errors import MALFORMED, DiskSpaceError, LabError, NameTakenError, ServerBusyError
from llmlab.specs import Process, Record, record_from_dict, to_dict

T = TypeVar("T")

RECORD = "record.json"
_LOCK = "lock"
# Of the form that records are written in: raised when an older llmlab could misread them.
_VERSION = 1
# A unix socket's path has at most 107 bytes on Linux, 103 on macOS.
_MAX_SOCKET_PATH = 103
_REMOVE_S = 1.0
_LEAST_BYTES = 65536

_kept = False


def runtime_dir() -> Path:
    """The user's directory of running servers; made if it is not there.

    It does not depend on `XDG_RUNTIME_DIR`, which terminals have and notebook
    servers often lack: all of a user's processes must see the same servers.

    Raises:
        LabError: If the directory belongs to somebody else.
    """
    if override := os.environ.get("LLMLAB_RUNTIME_DIR"):
        path = Path(override)
    else:
        uid = os.getuid()
        of_session = Path(f"/run/user/{uid}")
        owned = of_session.is_dir() and of_session.stat().st_uid == uid and os.access(of_session, os.W_OK)
        path = of_session / "llmlab" if owned else Path(f"/tmp/llmlab-{uid}")  # noqa: S108 - checked below
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except (OSError, ValueError) as error:
        raise LabError(
            f"the directory for servers, {path}, cannot be made: {error}",
            hint="set LLMLAB_RUNTIME_DIR to a directory of your own",
        ) from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise LabError(
            f"{path} is not a directory of yours, so servers cannot be kept there",
            hint="remove it, or set LLMLAB_RUNTIME_DIR to a directory of your own",
        )
    if info.st_mode & stat.S_ISVTX:
        raise LabError(
            f"{path} is a directory that all share, so servers cannot be kept there",
            hint="set LLMLAB_RUNTIME_DIR to a directory below it, of your own",
        )
    if info.st_mode & 0o077:
        path.chmod(0o700)
    return path


def cache_dir() -> Path:
    """The user's cache for llmlab; nothing in it is irreplaceable."""
    if own := os.environ.get("LLMLAB_CACHE_DIR"):
        return Path(own).expanduser().absolute()
    # The XDG specification says to ignore a relative path.
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if not base.is_absolute():
        base = Path("~/.cache").expanduser()
    return base / "llmlab"


def state_dir() -> Path:
    """Where what llmlab has learnt of this machine is kept; need not be there yet."""
    if own := os.environ.get("LLMLAB_STATE_DIR"):
        return Path(own).expanduser().absolute()
    base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    return (base if base.is_absolute() else Path("~/.local/state").expanduser()) / "llmlab"


def made_state_dir() -> Path:
    """The same, made if it is not there: what a learner predicted is nobody else's business."""
    path = state_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def scope() -> str:
    """What marks this user's containers: the uid, this machine, and the directory if it is not the usual one.

    Users of two machines may have one number, and start containers on the same third machine.
    """
    parts = [str(os.getuid()), _machine_mark()]
    if override := os.environ.get("LLMLAB_RUNTIME_DIR"):
        parts.append(_mark(override))
    return "-".join(part for part in parts if part)


@functools.cache
def _machine_mark() -> str:
    """Tells this machine from others; "" where it has no number, as in many containers."""
    # The number itself is not to be shown to others, says machine-id(5).
    with suppress(OSError, UnicodeDecodeError):
        number = Path("/etc/machine-id").read_text(encoding="ascii").strip()
        return _mark(f"llmlab {number}") if number else ""
    return ""


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


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


def uninterrupted(function: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Run a function to its end even if Ctrl-C comes meanwhile, which then takes it back.

    For what must not be left half done, since nobody would know what to clean
    up: a request to create a container is under way, a process is just being
    made. Only the main thread ever gets Ctrl-C.

    Args:
        function: What to do.
        undo: Takes back what it did, given its result.

    Raises:
        KeyboardInterrupt: If Ctrl-C came; what was done is taken back.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    came: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        made = function()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if previous is None else previous)
    if came:
        undo(made)
        raise KeyboardInterrupt
    return made


@contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """Take back what was begun if the `with` block fails, also by Ctrl-C, which many press twice.

    Args:
        undo: Takes it back.
    """
    done = False

    def once() -> None:
        nonlocal done
        if not done:
            undo()
            done = True

    try:
        try:
            yield
        except BaseException:
            uninterrupted(once, lambda _: None)
            raise
    except BaseException:
        # The second Ctrl-C may come before the first one has got to `uninterrupted`.
        uninterrupted(once, lambda _: None)
        raise


def process(pid: int) -> Process | None:
    """The identity of a running process; None if there is none, or a zombie."""
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return None
        # The command's name stands in parentheses and may contain anything.
        fields = text.rpartition(")")[2].split()
        if fields[0] in "ZX":
            return None
        return Process(pid=pid, start=f"{boot}:{_pid_namespace()}:{fields[19]}")
    try:
        found = psutil.Process(pid)
        if found.status() == psutil.STATUS_ZOMBIE:
            return None
        return Process(pid=pid, start=str(int(found.create_time())))
    except psutil.Error:
        return None


def has_ended(known: Process) -> bool:
    """Whether a process is known to have ended.

    False where that cannot be seen from here: a process of another machine,
    an earlier boot or another pid namespace (a notebook server in a container
    that shares an engine with others).
    """
    here = process(os.getpid())
    if here is None or here.start.rpartition(":")[0] != known.start.rpartition(":")[0]:
        return False
    return not is_alive(known)


def is_alive(known: Process) -> bool:
    """Whether this very process still runs, not a later one with its pid."""
    return process(known.pid) == known


def keep_servers() -> None:
    """Servers started from this process from now on have no owner (command line)."""
    global _kept  # noqa: PLW0603 - a property of the process
    _kept = True


@contextmanager
def owned_servers() -> Iterator[None]:
    """Servers started inside of it belong to this process, in the command line as well."""
    global _kept  # noqa: PLW0603 - a property of the process
    before, _kept = _kept, False
    try:
        yield
    finally:
        _kept = before


def default_owner() -> Process | None:
    """The process whose end makes servers started here orphans; None for none.

    A kernel's servers belong to the notebook server that started the kernel,
    so that they outlive a restart of the kernel; a script's to the script.
    """
    if _kept:
        return None
    parent = os.environ.get("JPY_PARENT_PID", "")
    if parent.isdigit() and int(parent) > 1 and (found := process(int(parent))):
        return found
    return process(os.getpid())


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return "unknown"


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file inside the `with` block; waits for whoever holds it. The file stays."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
