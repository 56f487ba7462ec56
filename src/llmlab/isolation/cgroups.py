"""Control groups: which a process is in, where their directories are, and what they allow.

Version 1 has a hierarchy for each controller, or for a few together; version 2 one for
all. On a hybrid machine both are mounted, each controller in one of them.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from llmlab.isolation.procfs import MountPoint, mount_points, read

# Version 1 writes "no limit" as the largest multiple of a page.
_V1_UNLIMITED = 1 << 62
# More digits than any number of 64 bits has are no limit's.
_NUMBER = re.compile(r"[0-9]{1,20}")


class Groups:
    """The control groups that a process was in when this was made.

    Args:
        pid: The process, as this machine counts.
        proc: Where the kernel's files on processes are.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._its = _paths(proc / str(pid))
        self._ours = _paths(proc / "self")
        self._mounts = mount_points(proc / "self") or ()

    def version(self, controller: str) -> int:
        """1 if the controller has a hierarchy of its own, which takes it away from version 2."""
        return 1 if controller in self._its else 2

    def folders(self, controller: str) -> list[Path]:
        """The directories of its group and of those above it, as far as they can be seen here.

        Args:
            controller: Whose group, such as "memory".
        """
        path = self._its.get(self._hierarchy(controller), "")
        if not path.startswith("/") or ".." in path.split("/"):
            return []
        for mount in self._mounts:
            # In a container, what is mounted begins further down; above it nothing can be seen.
            base = mount.root.rstrip("/")
            if self._holds(mount, controller) and f"{path}/".startswith(f"{base}/"):
                below = [part for part in path[len(base) :].split("/") if part]
                return [Path(mount.target, *below[:depth]) for depth in range(len(below), -1, -1)]
        return []

    def apart(self, controller: str) -> bool:
        """Whether its group leaves out this very process, and is not the one that all are in.

        Args:
            controller: Whose group.
        """
        key = self._hierarchy(controller)
        within = f"{self._ours.get(key, '')}/".startswith(f"{self._its.get(key, '')}/")
        return len(self.folders(controller)) > 1 and not within

    def least(self, controller: str, v1: str, v2: str) -> float | None:
        """The tightest limit of these groups: that one is in force.

        Args:
            controller: Whose groups.
            v1: The file's name in version 1; "" if it has none.
            v2: The same of version 2.

        Returns:
            Infinity if none of them has a limit; None if none of them tells.
        """
        name = v1 if self.version(controller) == 1 else v2
        texts = [read(folder / name) for folder in self.folders(controller)] if name else []
        return _tightest([_limit(text) for text in texts])

    def cpus(self) -> float | None:
        """CPU time per second of wall time that they allow, with the same two answers."""
        found = []
        for folder in self.folders("cpu"):
            if self.version("cpu") == 1:
                quota, period = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
            else:
                quota, _, period = (read(folder / "cpu.max") or "").partition(" ")
            allowed, of = math.inf if (quota or "").strip() == "-1" else _limit(quota), _limit(period)
            found.append(allowed / of if allowed and of and math.isfinite(of) else None)
        return _tightest(found)

    def _hierarchy(self, controller: str) -> str:
        """What /proc/<pid>/cgroup calls the hierarchy that a controller is in."""
        return controller if self.version(controller) == 1 else ""

    def _holds(self, mount: MountPoint, controller: str) -> bool:
        if self.version(controller) == 1:
            return mount.kind == "cgroup" and controller in mount.superblock
        return mount.kind == "cgroup2"


def _paths(process: Path) -> dict[str, str]:
    """From /proc/<pid>/cgroup: controller, "" for version 2 → path."""
    lines = [line.split(":", 2) for line in (read(process / "cgroup") or "").splitlines()]
    return {name: line[2] for line in lines if len(line) > 2 for name in line[1].split(",")}  # noqa: PLR2004 - id:controllers:path


def _limit(text: str | None) -> float | None:
    text = (text or "").strip()
    if text == "max":
        return math.inf
    if not _NUMBER.fullmatch(text):
        return None
    return math.inf if int(text) >= _V1_UNLIMITED else float(text)


def _tightest(found: list[float | None]) -> float | None:
    return min((limit for limit in found if limit is not None), default=None)
