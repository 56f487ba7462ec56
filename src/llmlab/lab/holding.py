"""Which process is a server's, and what it holds on the GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from llmlab import backends
from llmlab.backends import container_receipt, docker_api
from llmlab.specs import Record
from llmlab.telemetry.metrics import Source
from llmlab.telemetry.nvml import GpuSource, gpu_sources

# The machine's own pid namespace has this number in every Linux (include/linux/proc_ns.h).
_FIRST_NAMESPACE = "pid:[4026531836]"


def gpus_in(sources: Iterable[Source]) -> list[GpuSource]:
    """The GPUs among some sources, without their parts, whose processes are on their lists as well."""
    return [source for source in sources if isinstance(source, GpuSource) and " mig " not in source.subject]


def server_pid(record: Record) -> int | None:
    """The server's process on this machine; None if it is on another one, or gone."""
    if record.backend != "container":
        return backends.backend(record.backend).look(record).pid
    api = docker_api.connect(record.container_engine)
    entry = api.container(record.container_id or "") if api.is_local() else None
    return container_receipt.server_pid(entry) if entry else None


def held_mib(pid: int | None) -> dict[int, float] | None:
    """What a process holds on each GPU where it holds anything, by NVML's number of the GPU, in MiB.

    Args:
        pid: The process, or None.

    Returns:
        None if that cannot be seen; {} if it holds nothing.
    """
    if pid is None:
        return None
    gpus = gpu_sources()
    try:
        return _held(pid, gpus_in(gpus))
    finally:
        for gpu in gpus:
            gpu.close()


def _held(pid: int, gpus: Sequence[GpuSource]) -> dict[int, float] | None:
    found: dict[int, float] = {}
    for gpu in gpus:
        listed = gpu.process_memory_mib({pid}).get(pid, 0.0)
        if listed is None:
            return None
        if listed:
            found[int(gpu.subject.split()[1])] = listed
    # The driver counts processes as the machine does, and Windows' names none of Linux' at all.
    return found if found or (gpus and counts_as_the_driver()) else None


def counts_as_the_driver() -> bool:
    """Whether a process id of ours means the same to the driver, so that one that is not listed is not there."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _FIRST_NAMESPACE and not Path("/dev/dxg").exists()
    except OSError:
        return False
