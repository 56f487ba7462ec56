"""NVIDIA GPUs: one source for each, read through NVML.

A call into NVML hangs when the driver does. So each GPU is read by a thread of its own, which is
waited for only so long, and briefly while another GPU hangs; while it is stuck, all is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from llmlab import nvml
from llmlab.telemetry.metrics import Metric, Source
from llmlab.telemetry.patience import Patient

_MIB = 1024 * 1024
_THREAD = "llmlab-nvml"
_READING_S, _RETRY_S = 1.0, 5.0
# Starting NVML takes seconds where nothing else keeps the driver awake.
_LISTING_S = 10.0
# NVIDIA tells 1/6 to 1 s of utilisation's window, and nothing of the others. Sensors of
# recent GPUs were seen to change about ten times a second (arXiv 2312.02741).
_WINDOW_S, SENSOR_S, _AVERAGE_S = 1.0, 0.1, 1.0
# By the card, energy from NVML was from 8 % less to 13 % more than an external meter told
# (the same study): what was really used lies up to 13 % below what is read, or 8 % above.
METER_ERROR = (0.13, 0.08)
_METERED = "by the card 8 % less to 13 % more than an external meter told (arXiv 2312.02741)"

# NVML's numbers, as nvml.h has them.
_SM, _MEMORY, _CORE_SENSOR = 1, 2, 0
_INSTANT_POWER = 186
_AMPERE, _GA100 = 8, (8, 0)

_REASONS = {
    0x1: "idle",
    0x2: "application clocks were set",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "in step with other GPUs",
    0x20: "heat, slowed by the driver",
    0x40: "heat, slowed by the hardware",
    0x80: "power brake",
    0x100: "display clocks were set",
    0x200: "limit of the board",
    0x400: "limit for reliability",
}


def reasons(mask: float) -> tuple[str, ...]:
    """Why the clocks are not at their highest, in words; () if nothing holds them back.

    Args:
        mask: What the metric "reasons" told.
    """
    bits = int(mask)
    known = [words for bit, words in _REASONS.items() if bits & bit]
    other = bits & ~sum(_REASONS)
    return (*known, *([f"not known to this version ({other:#x})"] if other else []))


def gpu_sources() -> list[Source]:
    """The machine's GPUs and their MIG devices, each as a `GpuSource`.

    [] where there is no driver, no GPU, no permission, or no answer within 10 s. A GPU
    that is lost at this moment is left out. Whoever gets them has to close them.
    """
    worker = Patient(_THREAD)
    made: list[GpuSource] = []
    if worker.ask(lambda: _make(made), _LISTING_S):
        worker.finish()
        return [*made]

    def close() -> None:
        for source in made:
            source.close()

    # What it still makes when it is no longer waited for has nobody to close it.
    worker.finish(close)
    return []


class GpuSource:
    """A GPU, or a MIG device of one, as a source.

    While the GPU is lost all is unknown; it is tried again every 5 s. It is told by its
    UUID from the others, whose numbers may have changed meanwhile.

    Attributes:
        subject: "gpu 0", or "gpu 0 mig 1".
        metrics: What it may tell. A MIG device tells of its memory alone.
        latest: The values of the newest look; {} before the first, after one that could
            not be answered (the GPU is lost, or the driver hangs), and after closing.

    Args:
        device: The device. NVML has to be held; closing releases it.
        metrics: What is read.
        instant: Whether power is read from the instantaneous field.
        family: What reads the other GPUs.
    """

    def __init__(
        self, device: nvml.Device, metrics: tuple[Metric, ...], family: list[Patient], *, instant: bool
    ) -> None:
        self.subject = f"gpu {device.index}" + ("" if device.mig is None else f" mig {device.mig}")
        self.metrics = metrics
        self._device = device
        self._instant = instant
        self.latest: Mapping[str, float | None] = {}
        self._worker = Patient(_THREAD, family)
        self._lost_until: float | None = None
        self._energy_j: float | None = None
        self._listed: tuple[dict[int, float | None], bool] | None = None

    def read(self, now: float) -> Mapping[str, float | None]:
        """The present values, None for what is unknown; within about a second.

        Args:
            now: `time.monotonic()` of this look.
        """
        nothing: dict[str, float | None] = dict.fromkeys(metric.key for metric in self.metrics)
        self._listed = None
        waits = self._lost_until is not None and now < self._lost_until
        self.latest = {} if waits else self._worker.ask(lambda: self._values(now), _READING_S) or {}
        return {**nothing, **self.latest}

    def process_memory_mib(self, pids: Collection[int]) -> dict[int, float | None]:
        """The memory that processes take on this device, in MiB, once read for each look.

        A GPU with MIG devices counts what its parts count, too: do not add them up.

        Args:
            pids: Process ids as the host counts them.

        Returns:
            None for those of which it is unknown; without those that have nothing there.
        """
        unknown: dict[int, float | None] = dict.fromkeys(pids)
        if self._lost_until is not None:
            return unknown
        self._listed = self._listed or self._worker.ask(self._processes, _READING_S)
        if self._listed is None:
            return unknown
        used, complete = self._listed
        return {pid: used.get(pid) for pid in unknown if pid in used or not complete}

    def close(self) -> None:
        """Let go of NVML, as soon as no call hangs any more; it does not wait for that."""
        self._worker.finish(nvml.release)
        self.latest = {}

    def _values(self, now: float) -> dict[str, float | None]:
        """All values; on the worker's thread."""
        try:
            if self._lost_until is not None:
                nvml.renew()
            handle = nvml.handle_of(self._device)
            values = {metric.key: self._value(metric.key, handle) for metric in self.metrics}
        except nvml.GpuGoneError:
            self._lost_until = now + _RETRY_S
            return {}
        self._lost_until = None
        return values

    def _value(self, key: str, handle: Any) -> float | None:
        """One value; on the worker's thread."""
        told: Any
        match key:
            case "utilisation":
                told = nvml.query("nvmlDeviceGetUtilizationRates", handle)
                return None if told is None else float(told.gpu)
            case "memory":
                told = nvml.query("nvmlDeviceGetMemoryInfo", handle)
                return None if told is None else told.used / _MIB
            case "power":
                if self._instant:
                    told = nvml.field_value(handle, _INSTANT_POWER)
                else:
                    told = nvml.query("nvmlDeviceGetPowerUsage", handle)
                return None if told is None else told / 1000
            case "energy":
                return self._energy(nvml.query("nvmlDeviceGetTotalEnergyConsumption", handle))
            case "sm_clock":
                told = nvml.query("nvmlDeviceGetClockInfo", handle, _SM)
            case "memory_clock":
                told = nvml.query("nvmlDeviceGetClockInfo", handle, _MEMORY)
            case "temperature":
                told = _first(("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), handle, _CORE_SENSOR)
            case _:
                told = _first(
                    ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
                    handle,
                )
        return None if told is None else float(told)

    def _energy(self, millijoules: int | None) -> float | None:
        """The counter in J; None where it is lower than before: it began anew meanwhile."""
        if millijoules is None:
            return None
        before, self._energy_j = self._energy_j, millijoules / 1000
        return None if before is not None and self._energy_j < before else self._energy_j

    def _processes(self) -> tuple[dict[int, float | None], bool] | None:
        """The memory by process id, and whether these are all; None if unknown.

        On the worker's thread.
        """
        lists = []
        try:
            handle = nvml.handle_of(self._device)
            for kind in ("Compute", "Graphics"):
                names = [f"nvmlDeviceGet{kind}RunningProcesses{version}" for version in ("", "_v2")]
                lists.append(_first(names, handle))
        except nvml.GpuGoneError:
            return None  # the next look finds that, too, and counts the time
        merged: dict[int, float | None] = {}
        for listed in lists:
            used: dict[int, float | None] = {}
            for process in listed or ():
                # More than once in a list: parts of it in several MIG devices.
                sofar, more = used.get(process.pid, 0.0), process.usedGpuMemory
                used[process.pid] = None if sofar is None or more is None else sofar + more / _MIB
            for pid, mib in used.items():
                # In both lists: either tells all of its memory.
                known = [value for value in (mib, merged.get(pid)) if value is not None]
                merged[pid] = max(known, default=None)
        return merged, None not in lists


def _make(made: list[GpuSource]) -> bool:
    """Make the sources; on a worker's thread.

    Args:
        made: Takes them, one by one.

    Returns:
        Whether there was an NVML to ask.
    """
    if not nvml.hold():
        return False
    family: list[Patient] = []
    try:
        with suppress(nvml.GpuGoneError):
            for device in nvml.devices() or ():
                with suppress(nvml.GpuGoneError):
                    source = _made(device, family)
                    # Each holds NVML until it is closed.
                    if nvml.hold():
                        made.append(source)
    finally:
        nvml.release()
    return True


def _made(device: nvml.Device, family: list[Patient]) -> GpuSource:
    """A source, with the metrics that suit the device; raises GpuGoneError if it is lost."""
    handle = nvml.handle_of(device)
    memory = nvml.query("nvmlDeviceGetMemoryInfo", handle)
    utilisation = "share of the driver's last window, of 1/6 to 1 s, in which any kernel ran"
    metrics = [
        Metric(
            key="utilisation",
            title="GPU utilisation",
            unit="%",
            method=f"NVML: {utilisation}; not told of MIG devices, nor of a GPU in MIG mode",
            interval_s=_WINDOW_S,
            most=100,
        ),
        Metric(
            key="memory",
            title="GPU memory",
            unit="MiB",
            method="NVML: memory in use, by all processes and by the driver itself",
            most=None if memory is None else memory.total / _MIB,
        ),
    ]
    if device.mig is not None:
        return GpuSource(device, tuple(metrics), family, instant=False)
    instant = nvml.field_value(handle, _INSTANT_POWER) is not None
    clocks = (("sm_clock", "SM clock", _SM), ("memory_clock", "memory clock", _MEMORY))
    metrics += [
        _power(handle, instant=instant),
        Metric(
            key="energy",
            title="GPU energy",
            unit="J",
            method="NVML: the board's counter since the driver was loaded, to be looked at over 10 s or more; "
            f"{_METERED}",
            interval_s=SENSOR_S,
            error=METER_ERROR,
        ),
        *(
            Metric(
                key=key,
                title=title,
                unit="MHz",
                method=f"NVML: the present {title}",
                most=nvml.query("nvmlDeviceGetMaxClockInfo", handle, number),
            )
            for key, title, number in clocks
        ),
        Metric(
            key="temperature",
            title="GPU temperature",
            unit="°C",
            method="NVML: the sensor in the GPU's core",
        ),
        Metric(
            key="reasons",
            title="clock event reasons",
            unit="",
            method="NVML: a bit mask of what holds the clocks back at present; reasons() has the words",
        ),
    ]
    return GpuSource(device, tuple(metrics), family, instant=instant)


def _power(handle: Any, *, instant: bool) -> Metric:
    """Power, by the field or by the call that every GPU has; raises GpuGoneError if it is lost."""
    if instant:
        method, interval_s = "field 186, the board's power at this moment", SENSOR_S
    else:
        capability = nvml.query("nvmlDeviceGetCudaComputeCapability", handle)
        if capability is None:
            method = "GetPowerUsage, an average of 1 s or the present power, by the GPU's generation"
            interval_s = _AVERAGE_S
        elif capability[0] >= _AMPERE and tuple(capability) != _GA100:
            method, interval_s = "GetPowerUsage, the board's average over 1 s", _AVERAGE_S
        else:
            method, interval_s = "GetPowerUsage, the board's power at this moment", SENSOR_S
    return Metric(
        key="power",
        title="GPU power",
        unit="W",
        method=f"NVML: {method}; energy from it was {_METERED}",
        interval_s=interval_s,
        error=METER_ERROR,
    )


def _first(functions: Collection[str], *arguments: Any) -> Any:
    """What the first function says that this driver answers; None if none does.

    Raises:
        GpuGoneError: If the GPU is lost.
    """
    for function in functions:
        if (told := nvml.query(function, *arguments)) is not None:
            return told
    return None
