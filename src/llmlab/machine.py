"""What this machine has: memory, CPUs, GPUs, and how fast it reads its memory.

"This machine" is what this process may use of it: in a container with a limit,
as on Binder, that is the limit, not the host's memory.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from llmlab import nvml

_MIB = 1024 * 1024
# Large enough that no CPU's cache holds it.
_BUFFER_BYTES = 512 * _MIB
_PASSES = 3
# What other programs need to go on when a model has taken the rest.
_MOST_RESERVED_MIB, _RESERVED_SHARE = 1024, 0.05
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A part of a GPU that MIG (Multi-Instance GPU) has made.

    Attributes:
        index: Its number on that GPU.
        uuid: What it is known by for ever; None if that is not told.
        total_mib: Its memory.
        free_mib: What of it is free now.
        instances: The numbers of its GPU instance and its compute instance; None if they are not told.
    """

    index: int
    uuid: str | None
    total_mib: int
    free_mib: int
    instances: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        name: Its name.
        total_mib: Its memory.
        free_mib: What of it is free now.
        uuid: What it is known by for ever; None if that is not told.
        minor: The number of its device file, which need not be its own; None if that is not told.
        mig: Whether it is cut into slices, of which each program gets one.
        slices: Those that there are.
    """

    name: str
    total_mib: int
    free_mib: int
    uuid: str | None = None
    minor: int | None = None
    mig: bool = False
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SomeGpus:
    """The NVIDIA GPUs of a machine where not all of them answer.

    Attributes:
        answering: A GPU's number → the GPU.
        lost: A GPU's number → why the driver does not reach it.
    """

    answering: Mapping[int, Gpu]
    lost: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is now.

    Attributes:
        cpu: The CPU's name.
        cpus: CPUs this process may use, a quota rounded up.
        total_mib: Memory, or the limit of the container this runs in.
        available_mib: What can be had of it without swapping.
        usable_mib: `available_mib` less a reserve of 5 %, at most 1 GiB, so that a
            model that just fits does not freeze everything else.
        name: What it is called in messages.
    """

    cpu: str
    cpus: int
    total_mib: int
    available_mib: int
    usable_mib: int
    name: str = "this machine"


def look() -> Machine:
    """This machine as it is now."""
    memory = psutil.virtual_memory()
    total, available = memory.total // _MIB, memory.available // _MIB
    if limit := _memory_limit_mib():
        most, used = limit
        total, available = min(total, most), max(0, min(available, most - used))
    return Machine(
        cpu=cpu_name(),
        cpus=cpus(),
        total_mib=total,
        available_mib=available,
        usable_mib=usable_mib(total, available),
    )


def usable_mib(total_mib: int, available_mib: int) -> int:
    """What a server may take of a machine's memory, so that others can go on.

    Args:
        total_mib: The memory there is.
        available_mib: What of it can be had.
    """
    return max(0, available_mib - min(_MOST_RESERVED_MIB, int(total_mib * _RESERVED_SHARE)))


def cpus() -> int:
    """CPUs this process may use: its affinity and, in a container, its quota, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError, IndexError):
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return max(1, min(allowed, -(-int(quota) // int(period))))  # "max" is no number: no quota
    with suppress(OSError, ValueError):
        quota = (_CGROUP / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii")
        period = (_CGROUP / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii")
        if int(quota) > 0:
            return max(1, min(allowed, -(-int(quota) // int(period))))
    return allowed


def gpus() -> tuple[Gpu, ...] | None:
    """The NVIDIA GPUs, () if there is a driver and none; None where there is no driver to ask."""
    if not nvml.hold():
        return None
    try:
        count = nvml.query("nvmlDeviceGetCount")
        found = tuple(gpu for gpu in map(_gpu, range(count or 0)) if gpu)
    except nvml.GpuGoneError:
        return None
    finally:
        nvml.release()
    return found if len(found) == count else None


def some_gpus() -> SomeGpus | None:
    """The NVIDIA GPUs that answer, and those that are lost; None where there is no driver to ask.

    One that answers and does not tell its memory is in neither.

    Raises:
        GpuGoneError: If the driver is there and does not answer.
    """
    if not nvml.hold():
        return None
    answering, lost = {}, {}
    try:
        for index in range(nvml.query("nvmlDeviceGetCount") or 0):
            if why := nvml.unreachable(index):
                lost[index] = why
            elif gpu := _gpu(index):
                answering[index] = gpu
    finally:
        nvml.release()
    return SomeGpus(answering=answering, lost=lost)


def answering_gpus() -> Mapping[int, Gpu]:
    """The NVIDIA GPUs that answer, by number, without those that are lost; none where no driver answers."""
    with suppress(nvml.GpuGoneError):
        seen = some_gpus()
        return seen.answering if seen else {}
    return {}


def read_bandwidth_gb_per_s(threads: int) -> float | None:
    """How fast memory can be read, in GB/s (10⁹ bytes), by so many threads at once.

    The C library's `memchr` looks for a byte that is not there: it reads every
    byte once and writes none, as a model does with its weights, and ctypes
    lets go of Python's lock meanwhile. The best of a few passes counts, since
    neighbours can only make it slower. None where there is no such library, or
    not enough memory to try.
    """
    if psutil.virtual_memory().available < 4 * _BUFFER_BYTES:
        return None
    try:
        memchr = ctypes.CDLL(None).memchr
    except (OSError, AttributeError, TypeError):
        return None
    memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    memchr.restype = ctypes.c_void_p
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    # Pages that were never written are all the same page of zeros: write them.
    ctypes.memset(buffer, 1, _BUFFER_BYTES)
    share = _BUFFER_BYTES // threads
    start = ctypes.addressof(buffer)
    best = 0.0
    for _ in range(_PASSES):
        readers = [
            threading.Thread(target=memchr, args=(start + share * i, 0, share)) for i in range(threads)
        ]
        began = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        best = max(best, share * threads / (time.perf_counter() - began))
    return round(best / 1e9, 1)


def _gpu(index: int) -> Gpu | None:
    """One GPU by its number; None if it does not tell all."""
    if not (handle := nvml.query("nvmlDeviceGetHandleByIndex", index)):
        return None
    memory, name = nvml.query("nvmlDeviceGetMemoryInfo", handle), nvml.query("nvmlDeviceGetName", handle)
    if memory is None or name is None:
        return None
    uuid = nvml.query("nvmlDeviceGetUUID", handle)
    mode = nvml.query("nvmlDeviceGetMigMode", handle)
    return Gpu(
        name=str(name),
        total_mib=memory.total // _MIB,
        free_mib=memory.free // _MIB,
        uuid=None if uuid is None else str(uuid),
        minor=nvml.query("nvmlDeviceGetMinorNumber", handle),
        mig=bool(mode and mode[0]),
        slices=_slices(handle) if mode and mode[0] else (),
    )


def _slices(handle: object) -> tuple[Slice, ...]:
    """The parts of a GPU that has been cut."""
    found = []
    for index in range(nvml.query("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        part = nvml.query("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        memory = nvml.query("nvmlDeviceGetMemoryInfo", part) if part else None
        if memory is None:
            continue
        uuid = nvml.query("nvmlDeviceGetUUID", part)
        gpu_instance = nvml.query("nvmlDeviceGetGpuInstanceId", part)
        instance = nvml.query("nvmlDeviceGetComputeInstanceId", part)
        found.append(
            Slice(
                index=index,
                uuid=None if uuid is None else str(uuid),
                total_mib=memory.total // _MIB,
                free_mib=memory.free // _MIB,
                instances=None if gpu_instance is None or instance is None else (gpu_instance, instance),
            )
        )
    return tuple(found)


def _memory_limit_mib() -> tuple[int, int] | None:
    """Limit and use of the container this process runs in; None without a limit."""
    for limit, usage, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            most = int((_CGROUP / limit).read_text(encoding="ascii"))
            used = int((_CGROUP / usage).read_text(encoding="ascii"))
            statistics = (_CGROUP / limit).with_name("memory.stat").read_text(encoding="ascii")
            reclaimable = re.search(rf"^{cache} (\d+)$", statistics, re.MULTILINE)
            used -= int(reclaimable[1]) if reclaimable else 0
            # cgroup v1 writes "no limit" as a number near 2⁶³.
            return None if most > 1 << 60 else (most // _MIB, max(0, used) // _MIB)
    return None


def cpu_name() -> str:
    """The CPU's name."""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()
