"""What the whole machine does: its CPUs and its memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import psutil

from llmlab.telemetry.metrics import HOST, Metric

_T = TypeVar("_T")
_MIB = 1024 * 1024
# On a machine with many cores these ask each of them, and every sensor of every disk.
_SLOW_S = 2.0
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal")
# A sensor that is not connected says 0, or something that no CPU survives.
_COLDEST_C, _HOTTEST_C = 0.0, 150.0


class HostSource:
    """CPUs, load, memory, frequency and temperature of the machine, whoever uses it."""

    def __init__(self) -> None:
        self.subject = HOST
        self._cpus = os.cpu_count()
        self._before: tuple[float, float, float] | None = None
        self._slow: dict[str, float | None] = {}
        self._slow_at: float | None = None
        self._closed = False
        memory = _asked(psutil.virtual_memory)
        self.metrics = _metrics(
            cpus=self._cpus,
            total_mib=memory.total / _MIB if memory else None,
            steal=hasattr(_asked(psutil.cpu_times), "steal"),
        )

    def read(self, now: float) -> Mapping[str, float | None]:
        """What the machine does now.

        Args:
            now: `time.monotonic()` of this look.
        """
        if self._closed:
            return {}
        if self._slow_at is None or now - self._slow_at >= _SLOW_S:
            self._slow_at = now
            self._slow = {"frequency": _asked(_frequency), "temperature": _asked(_temperature)}
        cpu, steal = self._shares()
        values = {
            "cpu": None if cpu is None or self._cpus is None else cpu * self._cpus,
            "load1": _asked(lambda: os.getloadavg()[0]),
            "memory": _asked(_memory),
            "steal": None if steal is None else 100 * steal,
            **self._slow,
        }
        return {metric.key: values[metric.key] for metric in self.metrics}

    def close(self) -> None:
        """Ask no more."""
        self._closed = True

    def _shares(self) -> tuple[float | None, float | None]:
        """What of the CPUs' time since the last look was used here, and by neighbours."""
        before, self._before = self._before, _asked(_times)
        if before is None or self._before is None:
            return None, None
        busy, idle, steal = (after - earlier for after, earlier in zip(self._before, before, strict=True))
        # The kernel's count of time spent waiting for disks is known to go back now and then.
        passed = busy + max(0.0, idle) + steal
        if busy < 0 or steal < 0 or passed <= 0:
            return None, None
        return busy / passed, steal / passed


def _times() -> tuple[float, float, float]:
    """Seconds of all CPUs together: busy, idle, given to other virtual machines.

    "busy" has what ran in guests of this machine in it, as part of "user".
    """
    times = psutil.cpu_times()._asdict()
    busy = sum(times.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    return busy, times["idle"] + times.get("iowait", 0.0), times.get("steal", 0.0)


def _memory() -> float:
    memory = psutil.virtual_memory()
    return (memory.total - memory.available) / _MIB


def _frequency() -> float | None:
    found: Any = psutil.cpu_freq()  # None where there is none, which its types leave out
    return float(found.current) if found and found.current > 0 else None


def _temperature() -> float | None:
    sensors = psutil.sensors_temperatures()
    entries = [entry for name in _CPU_SENSORS for entry in sensors.get(name, ())]
    if any(entry.label == "Tdie" for entry in entries):
        # What steers the fan; on some CPUs it is 10 to 27 degrees more than there are.
        entries = [entry for entry in entries if entry.label != "Tctl"]
    found = [float(entry.current) for entry in entries if _COLDEST_C < entry.current < _HOTTEST_C]
    return max(found, default=None)


def _asked(question: Callable[[], _T]) -> _T | None:
    try:
        return question()
    except Exception:  # noqa: BLE001 - whatever a system's psutil stumbles over is unknown
        return None


def _metrics(*, cpus: int | None, total_mib: float | None, steal: bool) -> tuple[Metric, ...]:
    found = [
        Metric(
            key="cpu",
            title="CPU",
            unit="CPUs",
            method="share of the CPUs' time since the last look that was neither idle nor waiting for disks",
            interval_s=0.01,
            most=None if cpus is None else float(cpus),
        ),
        Metric(
            key="load1",
            title="load",
            unit="",
            method="programs that run or want to, averaged by the kernel over about a minute",
            interval_s=5.0,
        ),
        Metric(
            key="memory",
            title="memory",
            unit="MiB",
            method="all memory less what can be had without swapping",
            most=total_mib,
        ),
        Metric(
            key="frequency",
            title="CPU frequency",
            unit="MHz",
            method="mean of the CPUs' present frequencies (psutil); a virtual machine's is often fixed",
            interval_s=_SLOW_S,
        ),
        Metric(
            key="temperature",
            title="CPU temperature",
            unit="°C",
            method="the hottest of the CPU's sensors, as psutil tells it",
            interval_s=_SLOW_S,
        ),
    ]
    if steal:
        found.append(
            Metric(
                key="steal",
                title="taken by neighbours",
                unit="%",
                method="share of the CPUs' time since the last look that other virtual machines were given",
                interval_s=0.01,
                most=100.0,
            )
        )
    return tuple(found)
