"""The user's directories, and how files in them are locked and written."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing runs there but `llmlab doctor`, which says what to do
    fcntl = None  # type: ignore[assignment]

from llmlab.errors import LabError


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
