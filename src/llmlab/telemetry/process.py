"""What one process uses: a native server, or the server inside a container on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from llmlab.telemetry.kernel_files import KernelFile
from llmlab.telemetry.metrics import Metric, Rate

_MIB = 1024 * 1024
# As /proc/<pid>/stat counts CPU time; there is no other system that has the file.
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
# More digits than any counter of 64 bits has are no counter's.
_DIGITS = rb"(\d{1,20})"
_WHOLE = re.compile(_DIGITS)
# A fixed beginning is found several times faster than the start of just any line.
_STATUS = re.compile(rb"\n(VmRSS|Rss\w+):\s*%s kB(?=\n)" % _DIGITS)
_IO = re.compile(rb"\n(read_bytes|write_bytes): %s(?=\n)" % _DIGITS)


class ProcessSource:
    """CPU time, memory, faults and files of one process with all its threads.

    It is the process that has the pid when this is made; if `start` is given, only
    if it is that one. A later process with the same pid tells nothing.

    Args:
        subject: What it measures.
        pid: Process id, as this machine counts.
        start: When the process started, as `llmlab.specs.Process` writes it; None
            takes the one that has the pid now.
        proc: Where the kernel's files on processes are; where there is no such
            directory, psutil is asked instead.
    """

    def __init__(self, subject: str, pid: int, start: str | None = None, proc: Path = Path("/proc")) -> None:
        self.subject = subject
        self.metrics = _METRICS
        self._reader: _Linux | _Elsewhere
        self._reader = _Linux(proc / str(pid)) if proc.is_dir() else _Elsewhere(pid)
        # The boot and the pid namespace before the last colon are for whoever compares machines.
        self._start = start.rpartition(":")[2] if start else self._reader.read().get("start")
        self._rates = {key: Rate() for key in ("cpu", "faults", "read", "written")}

    def read(self, now: float) -> Mapping[str, float | None]:
        """What it uses now.

        Args:
            now: `time.monotonic()` of this look.
        """
        found = self._reader.read()
        start = found.pop("start", None)
        if start is None or start != self._start:
            found = {}
        values = {key: _number(found.get(key)) for key in _KEYS}
        return values | {key: rate.of(now, values[key]) for key, rate in self._rates.items()}

    def close(self) -> None:
        """Close its files."""
        self._reader.close()


class _Linux:
    """Reads `/proc/<pid>`: CPU in seconds, memory and files in MiB, and when it started."""

    def __init__(self, folder: Path) -> None:
        # An open file here stays that of the process it was opened for, whoever gets the pid.
        self._stat, self._status, self._io = (KernelFile(folder / name) for name in ("stat", "status", "io"))

    def read(self) -> dict[str, float | str | None]:
        """What can be read, as counters; empty if the process has ended."""
        # The command's name stands in parentheses and may contain anything.
        fields = (self._stat.read() or b"").rpartition(b")")[2].split()
        if len(fields) < 20 or fields[0] in (b"Z", b"X"):  # noqa: PLR2004 - up to the start, proc(5)
            return {}
        faults, user, system, threads, start = (fields[n] for n in (9, 11, 12, 17, 19))
        if not all(_WHOLE.fullmatch(field) for field in (faults, user, system, threads, start)):
            return {}
        kib, moved = _named(_STATUS, self._status.read()), _named(_IO, self._io.read())
        return {
            "start": start.decode(),
            "cpu": (int(user) + int(system)) / _TICKS_PER_S,
            "faults": float(faults),
            "threads": float(threads),
            "memory": _scaled(kib.get(b"VmRSS"), 1024),
            "anonymous": _scaled(kib.get(b"RssAnon"), 1024),
            "files": _scaled(kib.get(b"RssFile"), 1024),
            "shared": _scaled(kib.get(b"RssShmem"), 1024),
            "read": _scaled(moved.get(b"read_bytes"), _MIB),
            "written": _scaled(moved.get(b"write_bytes"), _MIB),
        }

    def close(self) -> None:
        """Close the files."""
        for file in (self._stat, self._status, self._io):
            file.close()


class _Elsewhere:
    """What psutil tells of a process on a system without `/proc`."""

    def __init__(self, pid: int) -> None:
        self._process: psutil.Process | None = None
        with suppress(psutil.Error, ValueError, OverflowError):
            self._process = psutil.Process(pid)

    def read(self) -> dict[str, float | str | None]:
        """What can be read, as counters; empty if the process has ended."""
        if self._process is None:
            return {}
        try:
            # Its own memory of when the process started would hide that the pid was given away.
            if not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE:
                return {}
            times = self._process.cpu_times()
            return {
                "start": str(int(self._process.create_time())),
                "cpu": times.user + times.system,
                "threads": float(self._process.num_threads()),
                "memory": self._process.memory_info().rss / _MIB,
            }
        except (psutil.Error, OSError):
            return {}

    def close(self) -> None:
        """Ask no more."""
        self._process = None


def _named(pattern: re.Pattern[bytes], text: bytes | None) -> dict[bytes, int]:
    return {name: int(number) for name, number in pattern.findall(b"\n" + (text or b""))}


def _scaled(count: int | None, per_mib: int) -> float | None:
    return None if count is None else count / per_mib


def _number(value: float | str | None) -> float | None:
    return value if isinstance(value, float) else None


_METRICS = (
    Metric(
        key="cpu",
        title="CPU",
        unit="CPUs",
        method="change of utime and stime of all threads in /proc/<pid>/stat",
        interval_s=1 / _TICKS_PER_S,
    ),
    Metric(
        key="memory",
        title="memory",
        unit="MiB",
        method="VmRSS of /proc/<pid>/status: all that it has in memory, mapped files included",
    ),
    Metric(
        key="anonymous",
        title="memory of its own",
        unit="MiB",
        method="RssAnon of /proc/<pid>/status: what no file can give back",
    ),
    Metric(
        key="files",
        title="mapped files in memory",
        unit="MiB",
        method="RssFile of /proc/<pid>/status: a mapped model is here; it can be dropped and read again",
    ),
    Metric(
        key="shared",
        title="shared memory",
        unit="MiB",
        method="RssShmem of /proc/<pid>/status: shared memory and files on tmpfs",
    ),
    Metric(
        key="faults",
        title="major faults",
        unit="1/s",
        method="change of majflt in /proc/<pid>/stat: pages that had to be read from disk",
    ),
    Metric(
        key="read",
        title="read from disk",
        unit="MiB/s",
        method="change of read_bytes in /proc/<pid>/io, for which the process has to be one's own",
    ),
    Metric(
        key="written",
        title="written to disk",
        unit="MiB/s",
        method="change of write_bytes in /proc/<pid>/io, for which the process has to be one's own",
    ),
    Metric(
        key="threads",
        title="threads",
        unit="",
        method="num_threads of /proc/<pid>/stat",
    ),
)
_KEYS = tuple(metric.key for metric in _METRICS)
