"""What there is to look at: the machine, its GPUs, each server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from llmlab import backends, engines
from llmlab.backends import container_receipt, docker_api
from llmlab.client import Client
from llmlab.lab import registry
from llmlab.specs import Record
from llmlab.telemetry.cgroup import CgroupSource
from llmlab.telemetry.engine import EngineSource
from llmlab.telemetry.gpu_share import GpuShare
from llmlab.telemetry.host import HostSource
from llmlab.telemetry.metrics import Source
from llmlab.telemetry.nvml import GpuSource, gpu_sources
from llmlab.telemetry.process import ProcessSource
from llmlab.telemetry.rapl import rapl_sources

_ANSWER_S = 2.0


def of(records: Sequence[Record]) -> list[Source]:
    """Everything that can be read of this machine and of these servers.

    Raises:
        BackendError: If the container engine does not say which process is a server's.
    """
    found = _beside()
    try:
        # A part's processes are on the list of its GPU as well.
        gpus = [gpu for gpu in found if isinstance(gpu, GpuSource) and " mig " not in gpu.subject]
        for record in records:
            found += _of_server(record, gpus)
    except BaseException:
        for source in found:
            source.close()
        raise
    return found


def _beside() -> list[Source]:
    """What can be read of the machine itself."""
    return [HostSource(), *rapl_sources(), *gpu_sources()]


def _of_server(record: Record, gpus: Sequence[GpuSource]) -> Iterator[Source]:
    pid = _pid(record)
    if pid:
        yield (ProcessSource if record.backend == "native" else CgroupSource)(record.name, pid)
    if pid and gpus:
        yield GpuShare(record.name, pid, gpus)
    if engines.engine(record.spec.engine).METRICS:
        fetch = partial(_text, registry.client(record))
        yield EngineSource(record.name, fetch, slots=record.spec.slots, context=record.spec.context)


def _pid(record: Record) -> int | None:
    """The server's process on this machine; None if it is on another one, or gone."""
    if record.backend == "native":
        return backends.backend(record.backend).look(record).pid
    api = docker_api.connect()
    entry = api.container(record.container_id or "") if api.is_local() else None
    return container_receipt.server_pid(entry) if entry else None


def _text(client: Client, path: str) -> str:
    return client.get_text(path, timeout_s=_ANSWER_S)
