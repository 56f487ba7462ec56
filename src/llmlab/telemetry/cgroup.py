"""What a container uses, as its control group counts it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmlab.telemetry.kernel_files import KernelFile
from llmlab.telemetry.metrics import Metric, Rate

_MIB = 1024 * 1024
# A v1 control group writes "no limit" as the largest multiple of a page.
_V1_UNLIMITED = 1 << 62
# More digits than any counter of 64 bits has are no counter's.
_DIGITS = rb"(\d{1,20})"
_ESCAPE = re.compile(r"\\(\d{3})")


@dataclass(frozen=True, slots=True)
class _Counter:
    """Where one number stands in a control group's files.

    Attributes:
        controller: Whose group it is in.
        files: The file's name, and what older kernels have instead.
        pattern: Finds the number.
        scale: What it is multiplied by to get the metric's unit.
        form: What a file with a line per device looks like: its numbers are added
            up, and none is 0; None for a file that has the number once.
    """

    controller: str
    files: tuple[str, ...]
    pattern: re.Pattern[bytes]
    scale: float = 1.0
    form: re.Pattern[bytes] | None = None

    def of(self, text: bytes | None) -> float | None:
        """The number in what the file holds, which has a line break put before it."""
        if text is None or (self.form and not self.form.fullmatch(text)):
            return None
        found = self.pattern.findall(text)
        if not self.form and len(found) != 1:
            return None
        return sum(int(number) for number in found) * self.scale


def _line(name: str) -> re.Pattern[bytes]:
    # A fixed beginning is found several times faster than the start of just any line.
    return re.compile(rb"\n%s %s(?=\n|\Z)" % (name.encode(), _DIGITS))


_WHOLE = re.compile(rb"\A\n%s\s*\Z" % _DIGITS)
# Some kernels write devices that have done nothing in front of the next one's line.
_V2_IO = re.compile(rb"\n(?:(?:\d+:\d+|[\w.]+=\S+)(?:\s+|\Z))*")
_V1_IO = re.compile(rb"\n(?:(?:\d+:\d+ \w+|Total) \d{1,20}(?:\n|\Z))*")
_V1_IO_FILES = ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes")

_COUNTERS: dict[int, dict[str, _Counter]] = {
    1: {
        "cpu": _Counter("cpuacct", ("cpuacct.usage",), _WHOLE, 1e-9),
        "periods": _Counter("cpu", ("cpu.stat",), _line("nr_periods")),
        "throttled": _Counter("cpu", ("cpu.stat",), _line("nr_throttled")),
        "memory": _Counter("memory", ("memory.usage_in_bytes",), _WHOLE, 1 / _MIB),
        "inactive": _Counter("memory", ("memory.stat",), _line("total_inactive_file"), 1 / _MIB),
        "cache": _Counter("memory", ("memory.stat",), _line("total_cache"), 1 / _MIB),
        "faults": _Counter("memory", ("memory.stat",), _line("total_pgmajfault")),
        "read": _Counter("blkio", _V1_IO_FILES, re.compile(rb":\d+ Read (\d+)"), 1 / _MIB, _V1_IO),
        "written": _Counter("blkio", _V1_IO_FILES, re.compile(rb":\d+ Write (\d+)"), 1 / _MIB, _V1_IO),
        "processes": _Counter("pids", ("pids.current",), _WHOLE),
    },
    2: {
        "cpu": _Counter("cpu", ("cpu.stat",), _line("usage_usec"), 1e-6),
        "periods": _Counter("cpu", ("cpu.stat",), _line("nr_periods")),
        "throttled": _Counter("cpu", ("cpu.stat",), _line("nr_throttled")),
        "memory": _Counter("memory", ("memory.current",), _WHOLE, 1 / _MIB),
        "inactive": _Counter("memory", ("memory.stat",), _line("inactive_file"), 1 / _MIB),
        "cache": _Counter("memory", ("memory.stat",), _line("file"), 1 / _MIB),
        "faults": _Counter("memory", ("memory.stat",), _line("pgmajfault")),
        "read": _Counter("io", ("io.stat",), re.compile(rb"\brbytes=(\d{1,20})\b"), 1 / _MIB, _V2_IO),
        "written": _Counter("io", ("io.stat",), re.compile(rb"\bwbytes=(\d{1,20})\b"), 1 / _MIB, _V2_IO),
        "processes": _Counter("pids", ("pids.current",), _WHOLE),
    },
}


class CgroupSource:
    """CPU, memory, block devices and processes of a container's control group, v1 or v2.

    It is the group that the process is in when this is made. Its files stay
    open: when the group is removed nothing is known any more, whatever group has
    the name after that.

    A group that is not the container's own tells nothing of the container: the
    root group, which counts the whole machine, and one that this very process is
    in as well. What its controllers would say is unknown.

    Args:
        subject: What it measures.
        pid: A process of the container's, as this machine counts.
        root: Where control groups are mounted.
        proc: Where the kernel's files on processes are.
    """

    def __init__(
        self, subject: str, pid: int, root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")
    ) -> None:
        self.subject = subject
        membership = _Membership(pid, root, proc)
        self._files: dict[Path, KernelFile] = {}
        self._counters: dict[str, tuple[_Counter, Path]] = {}
        versions: dict[str, int] = {}
        for key, first in _COUNTERS[1].items():
            version = membership.version(first.controller)
            counter = _COUNTERS[version][key]
            folders = membership.folders(counter.controller)
            path = self._opened(folders[0], counter.files) if folders else None
            if path:
                versions[key] = version
                self._counters[key] = counter, path
        self.metrics = _metrics(versions, membership)
        self._rates = {key: Rate() for key in ("cpu", "faults", "read", "written")}
        self._periods: tuple[float, float] | None = None

    def read(self, now: float) -> Mapping[str, float | None]:
        """What the group uses now.

        Args:
            now: `time.monotonic()` of this look.
        """
        texts = {path: file.read() for path, file in self._files.items()}
        lines = {path: None if text is None else b"\n" + text for path, text in texts.items()}
        found: dict[str, float | None] = dict.fromkeys(_COUNTERS[1])
        for key, (counter, path) in self._counters.items():
            found[key] = counter.of(lines[path])
        return {
            **{key: rate.of(now, found[key]) for key, rate in self._rates.items()},
            "throttled": self._throttled(found["periods"], found["throttled"]),
            "memory": _less(found["memory"], found["inactive"]),
            "cache": found["cache"],
            "processes": found["processes"],
        }

    def close(self) -> None:
        """Close its files."""
        for file in self._files.values():
            file.close()

    def _opened(self, folder: Path, names: tuple[str, ...]) -> Path | None:
        """The first of some files that there is, opened."""
        for path in (folder / name for name in names):
            if path in self._files:
                return path
            file = KernelFile(path)
            if file.is_open:
                self._files[path] = file
                return path
        return None

    def _throttled(self, periods: float | None, throttled: float | None) -> float | None:
        # Without a quota no period is ever counted, and nothing can be said.
        before, self._periods = self._periods, None
        if not periods or throttled is None:
            return None
        self._periods = periods, throttled
        if before is None:
            return None
        passed, held = periods - before[0], throttled - before[1]
        if not 0 <= held <= passed:
            return None
        return 100 * held / passed if passed else 0.0


class _Membership:
    """Which control groups a process is in, and where their directories are."""

    def __init__(self, pid: int, root: Path, proc: Path) -> None:
        self._root = root
        self._its = _paths(_text(proc / str(pid) / "cgroup"))
        self._ours = _paths(_text(proc / "self" / "cgroup"))
        self._mounted = _mounted(_text(proc / "self" / "mountinfo"))

    def version(self, controller: str) -> int:
        """1 if the controller has a hierarchy of its own, which takes it away from v2."""
        return 1 if controller in self._its else 2

    def folders(self, controller: str) -> list[Path]:
        """The group's directory and those above it; none if it is not the process's own group."""
        key = controller if self.version(controller) == 1 else ""
        hierarchy, path = self._its.get(key, ("", ""))
        top = self._top(hierarchy, key)
        if top is None or not path.startswith("/"):
            return []
        # In a container, what is mounted begins further down.
        base = self._mounted.get(str(top), "/").rstrip("/")
        below = [part for part in path[len(base) :].split("/") if part]
        if not below or ".." in below or not f"{path}/".startswith(f"{base}/"):
            return []
        if f"{self._ours.get(key, ('', ''))[1]}/".startswith(f"{path}/"):
            return []
        return [top.joinpath(*below[:depth]) for depth in range(len(below), -1, -1)]

    def least(self, controller: str, v1: str, v2: str) -> float | None:
        """The tightest limit on the way up, which is the one in force; None without any."""
        name = v1 if self.version(controller) == 1 else v2
        texts = [_text(folder / name).strip() for folder in self.folders(controller)]
        numbers = [int(text) for text in texts if re.fullmatch(r"[0-9]{1,20}", text)]
        return min((float(number) for number in numbers if number < _V1_UNLIMITED), default=None)

    def quota(self) -> float | None:
        """CPU time per second of wall time that the group may have; None without a limit."""
        found = []
        for folder in self.folders("cpu"):
            if self.version("cpu") == 1:
                quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
            else:
                quota, _, period = _text(folder / "cpu.max").partition(" ")
            # No limit is -1 in v1 and "max" in v2.
            both = [text.strip() for text in (quota, period)]
            if all(re.fullmatch(r"[1-9][0-9]{0,19}", text) for text in both):
                found.append(int(both[0]) / int(both[1]))
        return min(found, default=None)

    def _top(self, hierarchy: str, controller: str) -> Path | None:
        """Where a hierarchy is mounted."""
        if controller:
            # Two controllers may share a hierarchy, with a link for each of their names.
            candidates = [self._root / hierarchy, self._root / controller]
        elif _text(self._root / "cgroup.controllers", missing="none") == "none":
            candidates = [self._root / "unified"]
        else:
            candidates = [self._root]
        for path in candidates:
            with suppress(OSError, ValueError, RuntimeError):
                return path.resolve(strict=True)
        return None


def _paths(text: str) -> dict[str, tuple[str, str]]:
    """From /proc/<pid>/cgroup: controller, "" for v2 → (all that share its hierarchy, path)."""
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") > 1]
    return {name: (names, path) for _, names, path in lines for name in names.split(",")}


def _mounted(text: str) -> dict[str, str]:
    """From mountinfo: where control groups are mounted → what of their hierarchy."""
    found = {}
    for line in text.splitlines():
        before, _, kind = line.partition(" - ")
        fields = before.split(" ")
        if kind.startswith("cgroup") and len(fields) > 4:  # noqa: PLR2004 - columns of the kernel's format
            found[_unescaped(fields[4])] = _unescaped(fields[3])
    return found


def _unescaped(text: str) -> str:
    """The kernel writes spaces and the like as three octal digits."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def _text(path: Path, missing: str = "") -> str:
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8", errors="replace")
    return missing


def _less(all_of_it: float | None, part: float | None) -> float | None:
    if all_of_it is None or part is None or part > all_of_it:
        return None
    return all_of_it - part


def _mib(size: float | None) -> float | None:
    return None if size is None else size / _MIB


_METHODS = {
    "cpu": {
        1: "change of cpuacct.usage of the control group (v1)",
        2: "change of usage_usec in cpu.stat of the control group (v2)",
    },
    "throttled": {
        version: f"nr_throttled of nr_periods in cpu.stat of the control group (v{version}) since the "
        "last look: periods in which its quota was used up; unknown without a quota"
        for version in (1, 2)
    },
    "memory": {
        1: "memory.usage_in_bytes less total_inactive_file of the control group (v1): "
        "what cannot simply be dropped",
        2: "memory.current less inactive_file of the control group (v2): what cannot simply be dropped",
    },
    "cache": {
        1: "total_cache in memory.stat of the control group (v1): "
        "files it was the first to read, tmpfs included",
        2: "file in memory.stat of the control group (v2): files it was the first to read, tmpfs included",
    },
    "faults": {
        1: "change of total_pgmajfault in memory.stat of the control group (v1): "
        "pages that had to be read from disk",
        2: "change of pgmajfault in memory.stat of the control group (v2): "
        "pages that had to be read from disk",
    },
    "read": {
        1: "change of blkio.throttle.io_service_bytes of the control group (v1), all block devices; "
        "one on top of another (LVM, encryption) counts again",
        2: "change of rbytes in io.stat of the control group (v2), all block devices; "
        "one on top of another (LVM, encryption) counts again",
    },
    "written": {
        1: "change of blkio.throttle.io_service_bytes of the control group (v1), all block devices; "
        "what the kernel writes later is not counted",
        2: "change of wbytes in io.stat of the control group (v2), all block devices; "
        "one on top of another (LVM, encryption) counts again",
    },
    "processes": {
        version: f"pids.current of the control group (v{version}), threads included" for version in (1, 2)
    },
}
_TITLES = (
    ("cpu", "CPU", "CPUs"),
    ("throttled", "throttled", "%"),
    ("memory", "memory", "MiB"),
    ("cache", "page cache", "MiB"),
    ("faults", "major faults", "1/s"),
    ("read", "read from disk", "MiB/s"),
    ("written", "written to disk", "MiB/s"),
    ("processes", "processes", ""),
)


def _metrics(versions: Mapping[str, int], membership: _Membership) -> tuple[Metric, ...]:
    most = {
        "cpu": membership.quota(),
        "throttled": 100.0,
        "memory": _mib(membership.least("memory", "memory.limit_in_bytes", "memory.max")),
        "processes": membership.least("pids", "pids.max", "pids.max"),
    }
    return tuple(
        Metric(
            key=key,
            title=title,
            unit=unit,
            method=_METHODS[key].get(
                versions.get(key, 0), "unknown: it has no control group of its own that counts this"
            ),
            most=most.get(key),
        )
        for key, title, unit in _TITLES
    )
