"""What there is to look at: the machine, its GPUs, what plug-ins see, each server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from llmlab import engines
from llmlab.backends import docker_api
from llmlab.client import Client
from llmlab.lab import registry
from llmlab.lab.holding import gpus_in, server_pid
from llmlab.specs import EngineName, Record
from llmlab.telemetry.cgroup import CgroupSource
from llmlab.telemetry.container_stats import ContainerStatsSource
from llmlab.telemetry.engine import LLAMA_SERVER, VLLM, Dialect, EngineSource
from llmlab.telemetry.gpu_share import GpuShare
from llmlab.telemetry.host import HostSource
from llmlab.telemetry.metrics import Source
from llmlab.telemetry.nvml import GpuSource, gpu_sources
from llmlab.telemetry.plugins import plugin_sources
from llmlab.telemetry.process import ProcessSource
from llmlab.telemetry.rapl import rapl_sources

_ANSWER_S = 2.0


def of(records: Sequence[Record]) -> list[Source]:
    """Everything that can be read of this machine and of these servers.

    Raises:
        BackendError: If the container engine does not say which process is a server's.
    """
    found, _ = beside()
    try:
        gpus = gpus_in(found)
        for record in records:
            found += of_server(record, gpus)
    except BaseException:
        _close(found)
        raise
    return found


def beside() -> tuple[list[Source], tuple[str, ...]]:
    """What can be read beside the servers: machine, CPUs' energy, GPUs, what plug-ins bring.

    Returns:
        The sources, to be closed by whoever gets them, and what should be known about them.
    """
    found = _beside()
    try:
        brought, notes = plugin_sources()
    except BaseException:
        _close(found)
        raise
    return [*found, *brought], tuple(notes)


def of_server(record: Record, gpus: Sequence[GpuSource]) -> list[Source]:
    """What can be read of one server, to be closed by whoever gets it.

    Args:
        record: The server.
        gpus: The machine's GPUs, as `gpus_in` tells; they are looked at before the server.

    Raises:
        BackendError: If the container engine does not say which process is the server's.
    """
    found: list[Source] = []
    try:
        for source in _of_server(record, gpus):
            found.append(source)  # noqa: PERF402 - what is there already has to be closed if the next fails
    except BaseException:
        _close(found)
        raise
    return found


def _beside() -> list[Source]:
    """What llmlab itself reads of the machine."""
    return [HostSource(), *rapl_sources(), *gpu_sources()]


def _of_server(record: Record, gpus: Sequence[GpuSource]) -> Iterator[Source]:
    if record.endpoint.url:
        return  # nothing of another machine can be seen from here
    pid = server_pid(record)
    if record.backend == "container":
        yield _of_container(record, pid)
    elif pid:
        yield ProcessSource(record.name, pid)
    if pid and gpus:
        yield GpuShare(record.name, pid, gpus)
    if dialect := _dialect(record.spec.engine):
        fetch = partial(_text, registry.client(record))
        spec = record.spec
        yield EngineSource(record.name, fetch, slots=spec.slots, context=spec.context, dialect=dialect)


def _dialect(engine: EngineName) -> Dialect | None:
    """The names of the figures that an engine tells; None if it tells none."""
    if engine == "vllm":
        return VLLM
    return LLAMA_SERVER if engines.engine(engine).METRICS else None


def _of_container(record: Record, pid: int | None) -> Source:
    """Its control group, which tells more; what the engine says, where that cannot be read from here."""
    if pid:
        group = CgroupSource(record.name, pid)
        if any(value is not None for value in group.read(time.monotonic()).values()):
            return group
        group.close()
    limits = record.limits
    most = {"memory": limits.memory_mib, "cpu": limits.cpus, "processes": limits.pids} if limits else {}
    opened = partial(docker_api.connect(record.container_engine).stats, record.container_id or "")
    return ContainerStatsSource(record.name, opened, most)


def _text(client: Client, path: str) -> str:
    return client.get_text(path, timeout_s=_ANSWER_S)


def _close(sources: Iterable[Source]) -> None:
    for source in sources:
        source.close()
