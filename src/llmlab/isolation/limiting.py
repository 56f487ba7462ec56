"""The receipt's lines on a container's share of the machine."""

from __future__ import annotations

import math

from llmlab.isolation.sources import Sources, control
from llmlab.results_isolation import Control

_MIB = 1024 * 1024
# CPU quotas are whole microseconds of a tenth of a second.
_CPU_STEP = 1e-4
_NO_LIMIT = "no limit"


def memory(s: Sources) -> Control:
    """Memory, and whether the limit is one at all."""
    limit = None if s.limits.memory_mib is None else s.limits.memory_mib * _MIB
    recorded, seen = s.host.get("Memory"), s.facts.memory_bytes
    shown = _size(seen)
    reachable: bool | None = None
    if limit is not None and s.machine_bytes is not None:
        most = max(limit, 0 if seen is None or math.isinf(seen) else seen)
        reachable = most <= s.machine_bytes
        if not reachable:
            shown = f"{_size(most)}, more than this machine has ({_size(s.machine_bytes)})"
    return control(
        "memory",
        _size(limit) or _NO_LIMIT,
        _size(recorded or math.inf) if s.host else None,
        shown,
        _as_recorded(limit, recorded),
        _as_seen(limit, seen),
        # A limit that can never be reached is none; engines take it without a word.
        reachable,
        left_open=limit is None,
    )


def swap(s: Sources) -> Control:
    """Swap beyond the memory."""
    limited = s.limits.memory_mib is not None
    within, both = s.host.get("Memory") or 0, s.host.get("MemorySwap") or 0
    # The engine's figure is of memory and swap together; 0 lets it take as much again.
    recorded = math.inf if both < 0 or not within else both - within if both else within
    seen = s.facts.swap_bytes
    return control(
        "swap",
        "none" if limited else _NO_LIMIT,
        (_size(recorded) or "none") if s.host else None,
        None if seen is None else _size(seen) or "none",
        recorded == 0 if limited else None,
        seen == 0 if limited and seen is not None else None,
        left_open=not limited,
    )


def cpu(s: Sources) -> Control:
    """CPU time."""
    asked = s.limits.cpus
    recorded = (s.host.get("NanoCpus") or 0) / 1e9
    if not recorded and (s.host.get("CpuQuota") or 0) > 0:
        recorded = s.host["CpuQuota"] / (s.host.get("CpuPeriod") or 100_000)
    seen = s.facts.cpus
    return control(
        "CPU",
        _count(asked) or _NO_LIMIT,
        _count(recorded or math.inf) if s.host else None,
        _count(seen),
        None if asked is None else abs(recorded - asked) < _CPU_STEP,
        None if asked is None or seen is None else seen < asked + _CPU_STEP,
        left_open=asked is None,
    )


def processes(s: Sources) -> Control:
    """Processes and threads."""
    asked, recorded, seen = s.limits.pids, s.host.get("PidsLimit"), s.facts.pids
    return control(
        "processes",
        _count(asked) or _NO_LIMIT,
        _count(recorded if recorded and recorded > 0 else math.inf) if s.host else None,
        _count(seen),
        _as_recorded(asked, recorded),
        _as_seen(asked, seen),
        left_open=asked is None,
    )


def open_files(s: Sources) -> Control:
    """Open files."""
    asked, seen = s.profile.open_files, s.facts.open_files
    hard = {str(u.get("Name")).lower().removeprefix("rlimit_"): u for u in s.host.get("Ulimits") or ()}
    recorded = (hard.get("nofile") or {}).get("Hard")
    return control(
        "open files",
        "the engine's limit" if asked is None else str(asked),
        None if recorded is None else str(recorded),
        _count(seen),
        _as_recorded(asked, recorded),
        _as_seen(asked, seen),
        left_open=asked is None,
    )


def _as_recorded(asked: float | None, recorded: float | None) -> bool | None:
    return None if asked is None else recorded == asked


def _as_seen(asked: float | None, seen: float | None) -> bool | None:
    # A tighter limit of a group above it holds as well, and is no harm.
    return None if asked is None or seen is None else 0 < seen <= asked


def _size(number: float | None) -> str | None:
    """MiB in words; None for nothing."""
    if not number:
        return None
    return _NO_LIMIT if math.isinf(number) else f"{number / _MIB:.10g} MiB"


def _count(number: float | None) -> str | None:
    if number is None:
        return None
    return _NO_LIMIT if math.isinf(number) else f"{number:.10g}"
