"""NVIDIA GPUs: one source for each, read through NVML.

A call into NVML hangs when the driver does. So each GPU is read by a thread of its
own, which is waited for only so long; while it is stuck, all is unknown at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from llmlab import nvml
from llmlab.telemetry.metrics import Metric, Source

Answer = TypeVar("Answer")

_MIB = 1024 * 1024
_READING_S = 1.0
# Starting NVML takes seconds where nothing else keeps the driver awake.
_LISTING_S = 10.0
_RETRY_S = 5.0
# NVIDIA tells 1/6 to 1 s of utilisation's window, and nothing of the others. Sensors of
# recent GPUs were seen to change about ten times a second (arXiv 2312.02741).
_WINDOW_S, _SENSOR_S, _AVERAGE_S = 1.0, 0.1, 1.0

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
    worker = _Worker()
    made: list[GpuSource] = []
    if worker.ask(lambda: _make(made), _LISTING_S):
        worker.finish(None)
        return [*made]
    # What it still makes when it is no longer waited for has nobody to close it.
    worker.finish(lambda: _close(made))
    return []


class GpuSource:
    """A GPU, or a MIG device of one, as a source.

    While the GPU is lost all is unknown; it is tried again every 5 s. It is told by its
    UUID from the others, whose numbers may have changed meanwhile.

    Attributes:
        subject: "gpu 0", or "gpu 0 mig 1".
        metrics: What it may tell. A MIG device tells of its memory alone.
    """

    def __init__(self, device: nvml.Device, metrics: tuple[Metric, ...], *, instant: bool) -> None:
        """Read a device.

        Args:
            device: The device. NVML has to be held; closing releases it.
            metrics: What is read.
            instant: Whether power is read from the instantaneous field.
        """
        part = "" if device.mig is None else f" mig {device.mig}"
        self.subject = f"gpu {device.index}{part}"
        self.metrics = metrics
        self._device = device
        self._instant = instant
        self._worker = _Worker()
        self._lost_until: float | None = None
        self._energy_j: float | None = None

    def read(self, now: float) -> Mapping[str, float | None]:
        """The present values, None for what is unknown; within about a second.

        Args:
            now: `time.monotonic()` of this look.
        """
        nothing: dict[str, float | None] = dict.fromkeys(metric.key for metric in self.metrics)
        if self._lost_until is not None and now < self._lost_until:
            return nothing
        return nothing | (self._worker.ask(lambda: self._values(now), _READING_S) or {})

    def process_memory_mib(self, pids: Collection[int]) -> dict[int, float | None]:
        """The memory that processes take on this device, in MiB.

        A GPU with MIG devices counts what its parts count, too: do not add them up.

        Args:
            pids: Process ids as the host counts them.

        Returns:
            None for those of which it is unknown; without those that have nothing there.
        """
        unknown: dict[int, float | None] = dict.fromkeys(pids)
        if self._lost_until is not None:
            return unknown
        told = self._worker.ask(self._processes, _READING_S)
        if told is None:
            return unknown
        used, complete = told
        return {pid: used.get(pid) for pid in unknown if pid in used or not complete}

    def close(self) -> None:
        """Let go of NVML, as soon as no call hangs any more; it does not wait for that."""
        self._worker.finish(nvml.release)

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


@dataclass(eq=False, slots=True)
class _Task(Generic[Answer]):
    """Something for the worker to do.

    Attributes:
        job: What.
        done: Set when it is done.
        answer: What came of it; None after an error.
        last: Whether nothing comes after it.
    """

    job: Callable[[], Answer]
    done: threading.Event = field(default_factory=threading.Event)
    answer: Answer | None = None
    last: bool = False


class _Worker:
    """One thread that does what may hang. It is started by the first task."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._tasks: SimpleQueue[_Task[Any]] = SimpleQueue()
        self._late: _Task[Any] | None = None
        self._started = self._finished = False

    def ask(self, job: Callable[[], Answer], limit_s: float) -> Answer | None:
        """What came of a job; None if it failed, or if it or an earlier one takes too long.

        Args:
            job: The job.
            limit_s: How long to wait for it, and for others' jobs before it, in seconds each.
        """
        if self._stuck() or not self._turn.acquire(timeout=limit_s):
            return None
        try:
            if self._stuck() or self._finished:
                return None
            task = _Task(job)
            self._give(task)
            if not task.done.wait(limit_s):
                self._late = task
                return None
            return task.answer
        finally:
            self._turn.release()

    def finish(self, job: Callable[[], Any] | None) -> None:
        """Have the thread end once it has done what it was given; nothing is waited for.

        Args:
            job: What it does last.
        """
        with self._turn:
            if not self._finished:
                self._finished = True
                self._give(_Task(job or bool, last=True))

    def _stuck(self) -> bool:
        """Whether a task that nobody waits for any more still goes on."""
        return self._late is not None and not self._late.done.is_set()

    def _give(self, task: _Task[Any]) -> None:
        """Have a task done. With the turn."""
        self._tasks.put(task)
        if not self._started:
            self._started = True
            # As a daemon: Python ends although a call hangs for ever.
            threading.Thread(target=_work, args=(self._tasks,), name="llmlab-nvml", daemon=True).start()


def _work(tasks: SimpleQueue[_Task[Any]]) -> None:
    """Do one task after the other."""
    last = False
    while not last:
        task = tasks.get()
        last = task.last
        # A reading must never raise: it is unknown then.
        with suppress(Exception):
            task.answer = task.job()
        task.done.set()


def _make(made: list[GpuSource]) -> bool:
    """Make the sources; on a worker's thread.

    Args:
        made: Takes them, one by one.

    Returns:
        Whether there was an NVML to ask.
    """
    if not nvml.hold():
        return False
    try:
        with suppress(nvml.GpuGoneError):
            for device in nvml.devices() or ():
                with suppress(nvml.GpuGoneError):
                    source = _made(device)
                    # Each holds NVML until it is closed.
                    if nvml.hold():
                        made.append(source)
    finally:
        nvml.release()
    return True


def _close(made: list[GpuSource]) -> None:
    """Close all of them."""
    for source in made:
        source.close()


def _made(device: nvml.Device) -> GpuSource:
    """A source, with the metrics that suit the device.

    Raises:
        GpuGoneError: If it is lost.
    """
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
        return GpuSource(device, tuple(metrics), instant=False)
    instant = nvml.field_value(handle, _INSTANT_POWER) is not None
    clocks = (("sm_clock", "SM clock", _SM), ("memory_clock", "memory clock", _MEMORY))
    metrics += [
        _power(handle, instant=instant),
        Metric(
            key="energy",
            title="GPU energy",
            unit="J",
            method="NVML: the board's counter since the driver was loaded; look at it over 10 s or more",
            interval_s=_SENSOR_S,
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
    return GpuSource(device, tuple(metrics), instant=instant)


def _power(handle: Any, *, instant: bool) -> Metric:
    """Power, by the field or by the call that every GPU has.

    Raises:
        GpuGoneError: If the GPU is lost.
    """
    if instant:
        method, interval_s = "field 186, the board's power at this moment", _SENSOR_S
    else:
        capability = nvml.query("nvmlDeviceGetCudaComputeCapability", handle)
        if capability is None:
            method = "GetPowerUsage, an average of 1 s or the present power, by the GPU's generation"
            interval_s = _AVERAGE_S
        elif capability[0] >= _AMPERE and tuple(capability) != _GA100:
            method, interval_s = "GetPowerUsage, the board's average over 1 s", _AVERAGE_S
        else:
            method, interval_s = "GetPowerUsage, the board's power at this moment", _SENSOR_S
    return Metric(key="power", title="GPU power", unit="W", method=f"NVML: {method}", interval_s=interval_s)


def _first(functions: Collection[str], *arguments: Any) -> Any:
    """What the first function says that this driver answers; None if none does.

    Raises:
        GpuGoneError: If the GPU is lost.
    """
    for function in functions:
        if (told := nvml.query(function, *arguments)) is not None:
            return told
    return None
