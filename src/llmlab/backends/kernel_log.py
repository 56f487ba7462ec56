"""What the kernel has written down: whom it has killed for lack of memory."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

_LOG = Path("/dev/kmsg")
_RECORD_BYTES = 8192
# Between the kernel's note and somebody seeing that the process has ended.
_APART_S = 60.0
_KILLED = re.compile(rb"Killed process (\d+) ")
_GROUP = re.compile(rb"oom-kill:.*task_memcg=([^,]+),.*pid=(\d+)")


def killed_for_memory(
    *, pid: int | None = None, container_id: str = "", ended: float | None = None
) -> bool | None:
    """Whether the kernel's log says that it has killed a process because there was no memory.

    None where the log may not be read, as by ordinary users of most distributions.

    Args:
        pid: The process.
        container_id: Or any process in the control group of this container.
        ended: When it was seen to have ended, seconds since the epoch: an older note is another's.
    """
    booted = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    records = _records()
    if not records:
        return None
    for stamp, text in records:
        if ended is not None and abs(booted + stamp - ended) > _APART_S:
            continue
        if container_id and (found := _GROUP.search(text)) and container_id.encode() in found[1]:
            return True
        if pid and (found := _KILLED.search(text)) and int(found[1]) == pid:
            return True
    return False


def _records() -> list[tuple[float, bytes]]:
    """Seconds since the boot, and the text of each."""
    found: list[tuple[float, bytes]] = []
    with suppress(OSError, AttributeError):  # BlockingIOError at its end
        handle = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK)
        try:
            while record := _next(handle):
                head, _, text = record.partition(b";")
                with suppress(ValueError, IndexError):
                    found.append((int(head.split(b",")[2]) / 1e6, text))
        finally:
            os.close(handle)
    return found


def _next(handle: int) -> bytes:
    try:
        return os.read(handle, _RECORD_BYTES)
    except BrokenPipeError:  # it was overwritten before it was read; the next is there
        return os.read(handle, _RECORD_BYTES)
