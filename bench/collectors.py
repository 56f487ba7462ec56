"""Programs that look at GPUs and servers again and again, one in a process: llmlab's and others'.

`python collectors.py NAME HZ SECONDS PID…` prints, as JSON, the CPU time of all its threads
in so many seconds, and how many looks there were. It runs in an environment of its own
that need not have llmlab: others' packages would be in the way of each other's versions.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

_SETTLING_S = 1.5

Count = Callable[[], int]
"""How many looks there were so far."""


def nothing(_hz: float, _pids: Sequence[int]) -> Count:
    """Only waits."""
    return lambda: 0


def llmlab(hz: float, pids: Sequence[int]) -> Count:
    """All that llmlab's monitor reads of the machine, its GPUs and the first so many servers."""
    registry, sources = import_module("llmlab.lab.registry"), import_module("llmlab.lab.sources")
    names = {f"bench-{number}" for number in range(len(pids))}
    records = [each for each in registry.find_all() if each.name in names]
    if len(records) != len(pids):
        raise RuntimeError(f"{len(records)} of {len(pids)} servers found")
    return _sampled(sources.of(records), hz)


def llmlab_gpus(hz: float, pids: Sequence[int]) -> Count:
    """The GPUs, and what these processes hold of them: the part that others do, too."""
    gpus = import_module("llmlab.telemetry.nvml").gpu_sources()
    share = import_module("llmlab.telemetry.gpu_share").GpuShare
    return _sampled([*gpus, *(share(f"process-{pid}", pid, gpus) for pid in pids)], hz)


def nvitop_figures(hz: float, pids: Sequence[int]) -> Count:
    """Through nvitop's API, per GPU: utilisation, memory, power, temperature, list of processes."""
    nvitop = import_module("nvitop")
    devices = nvitop.Device.all()

    def look() -> None:
        found = set()
        for device in devices:
            with device.oneshot():
                for read in (
                    device.gpu_utilization,
                    device.memory_info,
                    device.power_usage,
                    device.temperature,
                ):
                    read()
            processes = device.processes()
            found |= {pid for pid, process in processes.items() if process.gpu_memory()}
        if not found.issuperset(pids):
            raise RuntimeError("nvitop does not see all processes")

    return _repeated(look, hz)


def nvitop_collector(hz: float, pids: Sequence[int]) -> Count:
    """The ResourceMetricCollector of nvitop as it comes: some 40 attributes per GPU, each process, the machine."""
    nvitop = import_module("nvitop")
    # The collector holds them weakly, and would take them for others' processes.
    held = [nvitop.HostProcess(pid) for pid in pids]
    collector = nvitop.ResourceMetricCollector(nvitop.Device.all(), root_pids=pids, interval=1 / hz)
    found = collector.take_snapshots()
    if {process.pid for process in found.gpu_processes} != set(pids):
        raise RuntimeError("nvitop does not see all processes")
    take, taken = collector.take_snapshots, []

    def counted() -> Any:
        taken.append(len(held))
        return take()

    collector.take_snapshots = counted
    collector.activate("bench")
    return lambda: len(taken)


def nvdashboard(hz: float, _pids: Sequence[int]) -> Count:
    """The data of jupyterlab-nvdashboard's three GPU panels: utilisation and memory, as JSON texts.

    Its handlers do their work on Tornado's loop as in a Jupyter server; no socket carries the texts away.
    """
    gpu, ioloop = import_module("jupyterlab_nvdashboard.apps.gpu"), import_module("tornado.ioloop")
    handlers = (
        gpu.GPUResourceWebSocketHandler,
        gpu.GPUUtilizationWebSocketHandler,
        gpu.GPUUsageWebSocketHandler,
    )
    sent: list[int] = []
    stand_in = SimpleNamespace(write_message=lambda text: sent.append(len(text)))

    def serve() -> None:
        loop = ioloop.IOLoop(make_current=True)
        for handler in handlers:
            ioloop.PeriodicCallback(lambda handler=handler: handler.send_data(stand_in), 1000 / hz).start()
        loop.start()

    threading.Thread(target=serve, daemon=True).start()
    return lambda: len(sent) // len(handlers)


COLLECTORS = {
    each.__name__: each
    for each in (nothing, llmlab, llmlab_gpus, nvitop_figures, nvitop_collector, nvdashboard)
}


def _sampled(found: Sequence[Any], hz: float) -> Count:
    sampler = import_module("llmlab.telemetry.sampler").Sampler(found, hz=hz)
    sampler.__enter__()
    return lambda: int(sampler.wait(-1, 0.0))


def _repeated(look: Callable[[], None], hz: float) -> Count:
    """In a thread, at the pace of nvitop's own loop."""
    looks: list[float] = []

    def run() -> None:
        due = time.monotonic()
        while True:
            look()
            looks.append(due)
            due += 1 / hz
            time.sleep(max(0.0, due - time.monotonic()))

    threading.Thread(target=run, daemon=True).start()
    return lambda: len(looks)


def main() -> int:
    """Measure one of them."""
    name, hz, seconds, *pids = sys.argv[1:]
    count = COLLECTORS[name](float(hz), [int(pid) for pid in pids])
    # The first looks open files and make connections.
    time.sleep(_SETTLING_S)
    looks, began, used = count(), time.perf_counter(), time.process_time()
    time.sleep(float(seconds))
    cpu_s, wall_s = time.process_time() - used, time.perf_counter() - began
    print("\n" + json.dumps({"cpu_s": cpu_s, "wall_s": wall_s, "looks": count() - looks}), flush=True)
    return 0


if __name__ == "__main__":
    # What hangs or is under way in its threads is nobody's concern any more.
    sys.exit(main())
