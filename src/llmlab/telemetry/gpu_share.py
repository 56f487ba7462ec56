"""What one server holds of the GPUs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from llmlab.telemetry.metrics import Metric


class _Gpu(Protocol):
    def process_memory_mib(self, pids: Collection[int]) -> dict[int, float | None]: ...


class GpuShare:
    """A server's memory on all GPUs, by the number of its process on this machine.

    Args:
        subject: The server's name.
        pid: Its process, as this machine counts; NVML knows no other number.
        gpus: The GPUs, without the parts of any: their owner closes them.
    """

    def __init__(self, subject: str, pid: int, gpus: Sequence[_Gpu]) -> None:
        self.subject = subject
        self.metrics = (
            Metric(
                key="gpu_memory",
                title="GPU memory",
                unit="MiB",
                method=f"NVML's lists of processes: what process {pid} holds, on all GPUs together",
            ),
        )
        self._pid, self._gpus = pid, tuple(gpus)

    def read(self, _now: float) -> Mapping[str, float | None]:
        """The memory; unknown if one GPU does not tell, and 0 if no list names the process."""
        found = [gpu.process_memory_mib({self._pid}).get(self._pid, 0.0) for gpu in self._gpus]
        known = [value for value in found if value is not None]
        return {"gpu_memory": sum(known) if known and len(known) == len(found) else None}

    def close(self) -> None:
        """Let go of the GPUs."""
        self._gpus = ()
