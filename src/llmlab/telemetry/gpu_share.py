"""What one server holds of the GPUs, and what energy those take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from llmlab.telemetry.metrics import Metric
from llmlab.telemetry.nvml import METER_ERROR, SENSOR_S


class Gpu(Protocol):
    """What is asked of a GPU."""

    @property
    def latest(self) -> Mapping[str, float | None]:
        """What its newest look has told; {} before the first."""

    def process_memory_mib(self, pids: Collection[int]) -> dict[int, float | None]:
        """The memory that processes take on it, in MiB; without those that have nothing there."""


class GpuShare:
    """A server's memory on all GPUs, by the number of its process on this machine.

    And the energy of the GPUs that it is on: their counters are added up for as long as its
    process is on their lists. All that runs on these GPUs is in that, and their idle power.

    Args:
        subject: The server's name.
        pid: Its process, as this machine counts; NVML knows no other number.
        gpus: The GPUs, without the parts of any: their owner closes them, and looks at
            them before each look at this.
    """

    def __init__(self, subject: str, pid: int, gpus: Sequence[Gpu]) -> None:
        self.subject = subject
        self.metrics = (
            Metric(
                key="gpu_memory",
                title="GPU memory",
                unit="MiB",
                method=f"NVML's lists of processes: what process {pid} holds, on all GPUs together",
            ),
            Metric(
                key="gpu_energy",
                title="energy of its GPUs",
                unit="J",
                method=f"NVML's energy counters of the GPUs that have process {pid} on their lists, from the "
                "first look that saw it there: all that runs on them, idle power included",
                interval_s=SENSOR_S,
                error=METER_ERROR,
            ),
        )
        self._pid, self._gpus = pid, tuple(gpus)
        self._joules: float | None = 0.0
        # The counter of each GPU that it is on, by the GPU's place.
        self._counted: dict[int, float] = {}

    def read(self, _now: float) -> Mapping[str, float | None]:
        """The memory, 0 if no list names the process, and the energy, unknown if none does.

        Both are unknown if one GPU does not tell; the energy is for good once a counter began anew.
        """
        held = [gpu.process_memory_mib({self._pid}) for gpu in self._gpus]
        found = [each.get(self._pid, 0.0) for each in held]
        known = [value for value in found if value is not None]
        if not known or len(known) < len(found):
            return {"gpu_memory": None, "gpu_energy": None}
        return {"gpu_memory": sum(known), "gpu_energy": self._energy([self._pid in each for each in held])}

    def close(self) -> None:
        """Let go of the GPUs."""
        self._gpus = ()

    def _energy(self, on: Sequence[bool]) -> float | None:
        """What the counters have grown by while the process was on their GPUs.

        Args:
            on: Of each GPU, whether it is there.
        """
        known = any(on)
        for place, (gpu, there) in enumerate(zip(self._gpus, on, strict=True)):
            if not there:
                self._counted.pop(place, None)
                continue
            count = gpu.latest.get("energy")
            if count is None:
                # A look that sees nothing loses nothing: the counter goes on.
                known = False
                continue
            grown = count - self._counted.get(place, count)
            self._counted[place] = count
            self._joules = None if self._joules is None or grown < 0 else self._joules + grown
        return self._joules if known else None
