"""Whether a server really computes on the GPU that was asked for, and whether it still does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from llmlab import engines
from llmlab.client import Client
from llmlab.engines import gpu_trouble
from llmlab.errors import LabError
from llmlab.lab import gpu_causes, gpu_rate, holding
from llmlab.specs import GpuVerdict, Record, Sign


def look(record: Record, engine: engines.Engine, log: Sequence[str], client: Client) -> GpuVerdict | None:
    """The verdict on a server that has become ready; it is asked for a few tokens. None if it was to use no GPU.

    Args:
        record: The server.
        engine: Its engine.
        log: What it has written so far.
        client: Who asks it.
    """
    if not record.spec.gpu_layers:
        return None
    reported = engine.offloaded(log)
    layers = _layers(reported, gpu_trouble.told(log))
    pid = None
    with suppress(LabError):
        pid = holding.server_pid(record)
    held = holding.held_mib(pid)
    rate = Sign(shown=None, text="its rate was not measured")
    if pid is None:
        rate = Sign(shown=None, text="its rate decides nothing: it runs on another machine")
    elif layers.shown is not False:
        roofs = gpu_rate.roofs(record.spec, reported, sorted(held or {}))
        rate = gpu_rate.judge(gpu_rate.measured(client), roofs)
    return conclude(record, log, memory=_memory(held), layers=layers, rate=rate)


def conclude(record: Record, log: Sequence[str], *, memory: Sign, layers: Sign, rate: Sign) -> GpuVerdict:
    """The verdict by its three signs, with the likely cause of what is missing.

    Args:
        record: The server.
        log: What it has written.
        memory: What NVML shows.
        layers: What the engine reports.
        rate: What its rate shows.
    """
    verdict = GpuVerdict(memory=memory, layers=layers, rate=rate)
    if verdict.on_gpu:
        return verdict
    blind = layers.shown is False or (layers.shown is None and memory.shown is False)
    cause, remedy = gpu_causes.likely(record, log, blind=blind)
    return GpuVerdict(memory=memory, layers=layers, rate=rate, cause=cause, remedy=remedy)


def lost(record: Record) -> str:
    """What to say of a server that was on the GPU and is no longer; "" of any other, and if it cannot be seen."""
    if not (record.verdict and record.verdict.memory.shown):
        return ""
    with suppress(LabError):
        pid = holding.server_pid(record)
        if pid is None or holding.held_mib(pid) != {}:
            return ""
        cause, remedy = gpu_causes.taken_away(gpu_causes.info_of(record))
        told = "no longer on the GPU: NVML does not show its process there, as it did after the start"
        return told + (f"; the likely cause: {cause}; {remedy}" if cause else "")
    return ""


def _layers(reported: tuple[int, int] | None, trouble: gpu_trouble.Trouble | None) -> Sign:
    if reported is None and trouble and trouble.blind:
        return Sign(shown=False, text="the engine says that it has found no GPU")
    if reported is None:
        return Sign(shown=None, text="the engine does not say whether it has put layers there")
    if not reported[0]:
        return Sign(shown=False, text="the engine has put no layer there")
    return Sign(shown=True, text=f"the engine reports {reported[0]} of {reported[1]} layers there")


def _memory(held: dict[int, float] | None) -> Sign:
    if held is None:
        return Sign(shown=None, text="NVML does not tell which processes are there")
    if not held:
        return Sign(shown=False, text="NVML does not show its process there")
    return Sign(shown=True, text=f"NVML shows its process with {sum(held.values()):.0f} MiB there")
