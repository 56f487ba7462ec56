"""What a container uses, as its control group counts it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmlab.isolation.cgroups import Groups
from llmlab.telemetry.kernel_files import KernelFile
from llmlab.telemetry.metrics import Metric, Rate, Throttling

_MIB = 1024 * 1024
# More digits than any counter of 64 bits has are no counter's.
_DIGITS = rb"(\d{1,20})"


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
        proc: Where the kernel's files on processes are.
    """

    def __init__(self, subject: str, pid: int, proc: Path = Path("/proc")) -> None:
        self.subject = subject
        groups = Groups(pid, proc)
        self._files: dict[Path, KernelFile] = {}
        self._counters: dict[str, tuple[_Counter, Path]] = {}
        versions: dict[str, int] = {}
        for key, first in _COUNTERS[1].items():
            version = groups.version(first.controller)
            counter = _COUNTERS[version][key]
            if not groups.apart(counter.controller):
                continue
            if path := self._opened(groups.folders(counter.controller)[0], counter.files):
                versions[key] = version
                self._counters[key] = counter, path
        self.metrics = _metrics(versions, groups)
        self._rates = {key: Rate() for key in ("cpu", "faults", "read", "written")}
        self._throttling = Throttling()

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
            "throttled": self._throttling.of(found["periods"], found["throttled"]),
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


def _less(all_of_it: float | None, part: float | None) -> float | None:
    if all_of_it is None or part is None or part > all_of_it:
        return None
    return all_of_it - part


def _most(groups: Groups) -> dict[str, float | None]:
    """What the metrics cannot exceed, where there is a limit on the container alone."""
    memory = groups.least("memory", "memory.limit_in_bytes", "memory.max")
    found = {
        "cpu": ("cpu", groups.cpus()),
        "memory": ("memory", None if memory is None else memory / _MIB),
        "processes": ("pids", groups.least("pids", "pids.max", "pids.max")),
    }
    return {
        key: None if limit is None or math.isinf(limit) or not groups.apart(controller) else limit
        for key, (controller, limit) in found.items()
    }


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


def _metrics(versions: Mapping[str, int], groups: Groups) -> tuple[Metric, ...]:
    most = {"throttled": 100.0, **_most(groups)}
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
