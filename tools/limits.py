"""A memory limit that holds for a command and all it starts: a control group, version 1 or 2 (as root)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_MIB = 1024 * 1024
_LOOK_S = 0.1
# Writes to every page of a quarter more than it may have.
_GREEDY = "size = {mib} * 1048576; block = bytearray(size); block[::4096] = b'x' * len(block[::4096])"


class LimitError(RuntimeError):
    """No memory limit can be set here, or it would not hold."""


class Limit:
    """A control group for one command at a time.

    Args:
        mib: Memory for all processes together, MiB; no swap.

    Attributes:
        folder: The group's directory.
        seen_at: Where a container with this limit would see that directory.
        peak_mib: Most memory that processes were seen to hold, MiB: their own and what they share,
            without the cache of files, which the system takes back when it needs it.

    Raises:
        LimitError: The limit could not be set (on entering).
    """

    def __init__(self, mib: int) -> None:
        self._bytes = mib * _MIB
        self._v2 = (_GROUPS / "cgroup.controllers").is_file()
        base = _GROUPS if self._v2 else _GROUPS / "memory"
        self.seen_at = base
        self.folder = base / f"llmlab-{os.getpid()}-{time.monotonic_ns()}"
        self.peak_mib = 0
        self._stop = threading.Event()

    def __enter__(self) -> Limit:  # noqa: PYI034 - typing.Self needs Python 3.11
        try:
            if self._v2:
                self._write(_GROUPS / "cgroup.subtree_control", "+memory")
            self.folder.mkdir()
            try:
                self._set()
            except BaseException:
                self.folder.rmdir()
                raise
        except OSError as error:
            raise LimitError(f"a memory limit cannot be set on this machine: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        # Processes that were ended are still there for a moment.
        deadline = time.monotonic() + 10
        while (self.folder / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.folder.rmdir()

    @property
    def kills(self) -> int:
        """How many processes the limit has ended."""
        text = (self.folder / ("memory.events" if self._v2 else "memory.oom_control")).read_text()
        return int(re.findall(r"^oom_kill (\d+)$", text, re.MULTILINE)[0])

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the group, both of its streams kept as one text."""
        enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        process = subprocess.Popen(
            ["sh", "-c", enter, str(self.folder), *command],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        watcher = threading.Thread(target=self._watch, name="memory")
        watcher.start()
        try:
            output, _ = process.communicate()
        finally:
            process.kill()
            process.wait()
            self._stop.set()
            watcher.join()
        return subprocess.CompletedProcess(list(command), process.returncode, output)

    def _set(self) -> None:
        limit = self.folder / ("memory.max" if self._v2 else "memory.limit_in_bytes")
        self._write(limit, str(self._bytes))
        # With swap, the limit would slow a program down instead of ending it.
        swap = self.folder / ("memory.swap.max" if self._v2 else "memory.memsw.limit_in_bytes")
        if swap.exists():
            self._write(swap, "0" if self._v2 else str(self._bytes))
        if int(limit.read_text()) != self._bytes:
            raise LimitError(f"the limit is {limit.read_text().strip()} bytes, not {self._bytes}")

    def _watch(self) -> None:
        names = ("anon", "shmem") if self._v2 else ("total_rss", "total_shmem")
        while not self._stop.wait(_LOOK_S):
            with suppress(OSError):
                text = (self.folder / "memory.stat").read_text()
                found = dict(re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE))
                held = sum(int(found.get(name, 0)) for name in names)
                self.peak_mib = max(self.peak_mib, round(held / _MIB))

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text, encoding="ascii")


def prove(mib: int) -> None:
    """Show that a limit of this size ends a program that takes more.

    Raises:
        LimitError: It does not.
    """
    with Limit(mib) as limit:
        done = limit.run([sys.executable, "-c", _GREEDY.format(mib=mib * 5 // 4)], env=os.environ)
        if done.returncode != -signal.SIGKILL or not limit.kills:
            raise LimitError(f"a program took more than {mib} MiB and was not ended ({done.returncode})")
