"""Processes told apart from later ones with their number, and whose servers belong to which."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from llmlab.specs import Process

_kept = False


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
