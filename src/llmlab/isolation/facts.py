"""What the kernel says about a running process: `/proc` and its control groups.

What cannot be read stays None, and is then shown as unknown: never a guess.
Another user's process, or one on another machine, tells little or nothing.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmlab.isolation.cgroups import Groups
from llmlab.isolation.procfs import MountPoint, mount_points, read

__all__ = ["NAMESPACES", "Capabilities", "Interface", "MountPoint", "ProcessFacts", "process_facts"]

NAMESPACES = ("pid", "ipc", "uts", "mnt", "net", "cgroup")


@dataclass(frozen=True, slots=True)
class Interface:
    """What a network interface has counted since the process's network was made.

    Attributes:
        name: Such as "eth0".
        received_bytes: Bytes that came in.
        received_packets: Packets that came in.
        sent_bytes: Bytes that went out.
        sent_packets: Packets that went out.
    """

    name: str
    received_bytes: int
    received_packets: int
    sent_bytes: int
    sent_packets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """A process's capability sets, bit masks."""

    effective: int
    permitted: int
    bounding: int
    ambient: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What the kernel says; None where it cannot be read.

    Attributes:
        uids: Real, effective, saved and file-system user id, as this machine counts.
        gids: The same of the group.
        groups: Further groups.
        uid_map: The user namespace's mapping: (inside, on this machine, how many).
        gid_map: The same of groups.
        capabilities: Its capability sets.
        no_new_privileges: Whether the flag is set.
        seccomp: 0 off, 1 strict, 2 filter.
        seccomp_filters: How many filters are in force.
        interfaces: Network interfaces it sees, with what they have counted.
        mounts: Everything that is mounted where it is.
        own_namespaces: Namespace → whether it is another one than ours.
        open_files: Limit of open files.
        memory_bytes: Memory that its control groups allow; infinite without a limit.
        swap_bytes: Swap that they allow beyond that.
        cpus: CPU time per second of wall time.
        pids: Number of processes and threads.
        label: AppArmor's or SELinux's label; "" where neither is active.
        gpu_nodes: GPU devices among its device files.
    """

    uids: tuple[int, ...] | None = None
    gids: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None
    uid_map: tuple[tuple[int, int, int], ...] | None = None
    gid_map: tuple[tuple[int, int, int], ...] | None = None
    capabilities: Capabilities | None = None
    no_new_privileges: bool | None = None
    seccomp: int | None = None
    seccomp_filters: int | None = None
    interfaces: tuple[Interface, ...] | None = None
    mounts: tuple[MountPoint, ...] | None = None
    own_namespaces: dict[str, bool] | None = None
    open_files: float | None = None
    memory_bytes: float | None = None
    swap_bytes: float | None = None
    cpus: float | None = None
    pids: float | None = None
    label: str | None = None
    gpu_nodes: tuple[str, ...] | None = None

    @property
    def root(self) -> MountPoint | None:
        """The mount of the root file system."""
        return self.mount("/")

    def mount(self, target: str) -> MountPoint | None:
        """What is mounted at a place; of several the last, which is the one that is seen."""
        return next((m for m in reversed(self.mounts or ()) if m.target == target), None)

    def inside(self, uid: int) -> int | None:
        """What a user id of this machine is called in the process's user namespace."""
        return _mapped(self.uid_map, uid)

    def group_inside(self, gid: int) -> int | None:
        """The same of a group id."""
        return _mapped(self.gid_map, gid)


def process_facts(pid: int | None) -> ProcessFacts:
    """Read what the kernel says of a process on this machine.

    Args:
        pid: Its process id, or None.
    """
    if not pid:
        return ProcessFacts()
    folder = Path(f"/proc/{pid}")
    status = dict(re.findall(r"^(\w+):[ \t]*(.*)$", read(folder / "status") or "", re.MULTILINE))
    if not status:
        return ProcessFacts()
    groups = Groups(pid)
    memory, swap = _memory(groups)
    return ProcessFacts(
        uids=_numbers(status.get("Uid")),
        gids=_numbers(status.get("Gid")),
        groups=_numbers(status.get("Groups")),
        uid_map=_id_map(folder / "uid_map"),
        gid_map=_id_map(folder / "gid_map"),
        capabilities=_capabilities(status),
        no_new_privileges=status["NoNewPrivs"] == "1" if "NoNewPrivs" in status else None,
        seccomp=int(status["Seccomp"]) if "Seccomp" in status else None,
        seccomp_filters=int(status["Seccomp_filters"]) if "Seccomp_filters" in status else None,
        interfaces=_interfaces(folder / "net" / "dev"),
        mounts=mount_points(folder),
        own_namespaces=_own_namespaces(folder / "ns"),
        open_files=_open_files(folder / "limits"),
        memory_bytes=memory,
        swap_bytes=swap,
        cpus=groups.cpus(),
        pids=groups.least("pids", "pids.max", "pids.max"),
        label=_label(folder / "attr" / "current"),
        gpu_nodes=_gpu_nodes(folder / "root" / "dev"),
    )


def _capabilities(status: dict[str, str]) -> Capabilities | None:
    names = ("CapEff", "CapPrm", "CapBnd", "CapAmb")
    if not all(name in status for name in names):
        return None
    effective, permitted, bounding, ambient = (int(status[name], 16) for name in names)
    return Capabilities(effective=effective, permitted=permitted, bounding=bounding, ambient=ambient)


def _interfaces(path: Path) -> tuple[Interface, ...] | None:
    text = read(path)
    if text is None:
        return None
    found = []
    for name, counters in re.findall(r"^\s*([^\s:]+):\s*(.*)$", text, re.MULTILINE):
        # Eight columns of what came in, then eight of what went out.
        figures = [int(figure) for figure in counters.split()]
        found.append(Interface(name, figures[0], figures[1], figures[8], figures[9]))
    return tuple(found)


def _own_namespaces(folder: Path) -> dict[str, bool] | None:
    found = {}
    for name in NAMESPACES:
        # A kernel without that kind, or a process that is none of ours.
        with suppress(OSError):
            found[name] = (folder / name).readlink() != Path(f"/proc/self/ns/{name}").readlink()
    return found or None


def _open_files(path: Path) -> float | None:
    match = re.search(r"^Max open files\s+\S+\s+(\S+)", read(path) or "", re.MULTILINE)
    return (math.inf if match[1] == "unlimited" else int(match[1])) if match else None


def _label(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError as error:
        # The kernel's answer where no security module gives labels.
        return "" if error.errno == 22 and path.exists() else None  # noqa: PLR2004 - EINVAL


def _gpu_nodes(folder: Path) -> tuple[str, ...] | None:
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return None
    found = [name for name in names if re.fullmatch(r"nvidia.*|kfd|dxg", name)]
    with suppress(OSError):
        found += [f"dri/{path.name}" for path in sorted((folder / "dri").iterdir())]
    return tuple(found)


def _memory(groups: Groups) -> tuple[float | None, float | None]:
    """Memory, and swap beyond it, that the control groups allow."""
    memory = groups.least("memory", "memory.limit_in_bytes", "memory.max")
    both = groups.least("memory", "memory.memsw.limit_in_bytes", "")
    if both is not None and memory is not None:
        return memory, math.inf if math.isinf(both) else both - memory
    return memory, groups.least("memory", "", "memory.swap.max")


def _mapped(mapping: tuple[tuple[int, int, int], ...] | None, outside: int) -> int | None:
    for inside, first, count in mapping or ():
        if first <= outside < first + count:
            return inside + outside - first
    return None


def _id_map(path: Path) -> tuple[tuple[int, int, int], ...] | None:
    text = read(path)
    if text is None:
        return None
    lines = [[int(word) for word in line.split()] for line in text.splitlines()]
    return tuple((line[0], line[1], line[2]) for line in lines)


def _numbers(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else tuple(int(word) for word in text.split())
