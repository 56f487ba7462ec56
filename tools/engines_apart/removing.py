"""What engines leave behind: processes, mounts, control groups, sockets, directories."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from tools.engines_apart.commands import EnginesError

_GROUPS = Path("/sys/fs/cgroup")
_END_S = 30.0
_OURS = ("dockerd", "containerd", "docker-proxy", "runc", "sshd", "ssh")
# Made by sshd and by containerd's shims where nobody has made them before.
SHARED = (Path("/run/sshd"), Path("/run/containerd/s"), Path("/run/containerd"))


def groups(name: str) -> list[Path]:
    """The control groups of a name, one in each hierarchy."""
    return [found for found in (_GROUPS / name, *_GROUPS.glob(f"*/{name}")) if found.is_dir()]


def processes(
    folder: Path, parents: Collection[str], namespaces: Collection[int]
) -> Iterator[psutil.Process]:
    """The processes that belong to engines.

    Args:
        folder: What their daemons name in their command lines.
        parents: Names of control groups that their containers are below.
        namespaces: Numbers of the network namespaces that they are in.
    """
    own = {os.getpid(), *(each.pid for each in psutil.Process().parents())}
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        with suppress(psutil.Error, OSError):
            if _belongs(process, folder, parents, namespaces):
                yield process


def _belongs(
    process: psutil.Process, folder: Path, parents: Collection[str], namespaces: Collection[int]
) -> bool:
    place = Path(f"/proc/{process.pid}")
    # One that has ended stands in the list until its parent has asked.
    return process.status() != psutil.STATUS_ZOMBIE and (
        (place / "ns/net").stat().st_ino in namespaces
        or _is_below((place / "cgroup").read_text(encoding="utf-8"), parents)
        or (process.name().startswith(_OURS) and f"{folder}/" in " ".join(process.cmdline()))
    )


def _is_below(listed: str, parents: Collection[str]) -> bool:
    paths = (line.split(":", 2)[-1].split("/") for line in listed.splitlines())
    return any(len(path) > 1 and path[1] in parents for path in paths)


def end_all(folder: Path, parents: Collection[str], namespaces: Collection[int]) -> None:
    """End the processes that belong to engines.

    Raises:
        EnginesError: If some do not end.
    """
    deadline = time.monotonic() + _END_S
    while left := list(processes(folder, parents, namespaces)):
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        if time.monotonic() > deadline:
            raise EnginesError(f"these processes do not end: {', '.join(str(each.pid) for each in left)}")
        time.sleep(0.05)


def remove_sockets(folder: Path) -> None:
    """Remove the sockets of containerd's shims, which are not in its own directory."""
    for address in folder.glob("*/state/io.containerd.runtime.v2.task/*/*/address"):
        with suppress(OSError):
            Path(address.read_text(encoding="utf-8").removeprefix("unix://")).unlink()


def unmount(folder: Path) -> None:
    """Let go what is mounted below a directory."""
    for line in reversed(Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()):
        place = line.split()[1].encode().decode("unicode_escape")
        if place.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)


def remove_groups(parents: Sequence[str]) -> None:
    """Remove control groups and those below; a process that has just ended may still hold one."""
    deadline = time.monotonic() + _END_S
    while left := [group for name in parents for group in groups(name)]:
        for group in left:
            for place, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(place).rmdir()
        if time.monotonic() > deadline:
            raise EnginesError(f"these control groups cannot be removed: {', '.join(map(str, left))}")
        time.sleep(0.02)


def remove_folder(folder: Path, shared: Collection[str]) -> None:
    """Remove a directory, and those in `SHARED` that were not there before, if nobody uses them now."""
    shutil.rmtree(folder, ignore_errors=True)
    for place in SHARED:
        if str(place) in shared:
            with suppress(OSError):
                place.rmdir()
    if folder.exists():
        raise EnginesError(f"{folder} cannot be removed; is something mounted there?")
