"""The machine, its roofs, and the instruments' own cost."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llmlab
from bench.gpu import carrying, models
from llmlab import machine as this_machine
from llmlab import nvml

_CALLS = 300
_POLLED_S = 2.0
_SAMPLED_S = 12.0
_RATES_HZ = (2.0, 10.0)
_INSTANT_POWER = 186
_SM, _MEMORY, _CORE_SENSOR = 1, 2, 0


def machine(_out: Path) -> dict[str, Any]:
    """GPUs, drivers, and what a container engine would need of the kernel."""
    found = this_machine.gpus() or ()
    systems = Path("/proc/filesystems").read_text(encoding="ascii")
    return {
        "gpus": [{"name": gpu.name, "total_mib": gpu.total_mib, "free_mib": gpu.free_mib} for gpu in found],
        "driver": _told("nvmlSystemGetDriverVersion"),
        "cuda": _told("nvmlSystemGetCudaDriverVersion_v2"),
        "nodes": sorted(str(path) for path in Path("/dev").glob("nvidia*")),
        "driver_library": _where("libcuda.so.1"),
        "kernel": Path("/proc/version").read_text(encoding="utf-8").split("(")[0].strip(),
        "overlay": "\toverlay\n" in systems,
        "cgroup": _cgroup(),
        "namespaces": sorted(path.name for path in Path("/proc/self/ns").iterdir()),
        "seccomp": Path("/proc/sys/kernel/seccomp/actions_avail").exists(),
        "unshare": {what: _may_unshare(what) for what in ("--mount", "--net", "--pid", "--user", "--cgroup")},
        "programs": {
            name: shutil.which(name) for name in ("docker", "podman", "nvcc", "cmake", "ninja", "g++")
        },
    }


def build(_out: Path) -> dict[str, Any]:
    """Compile llama.cpp for this card, unless that was done."""
    carrying.put_source()
    found: dict[str, Any] = llmlab.build(gpu="cuda").to_dict()
    found["build"].pop("files", None)
    return found


def roofs(_out: Path) -> dict[str, Any]:
    """Bandwidth and products, by a program in CUDA of its own."""
    with tempfile.TemporaryDirectory() as folder:
        program = os.environ.get("LLMLAB_ROOFS") or f"{folder}/roofs"
        if not os.environ.get("LLMLAB_ROOFS"):
            source = Path(__file__).with_name("roofs.cu")
            nvcc = os.environ.get("CUDACXX", "nvcc")
            _ran([nvcc, "-O3", "-arch=native", str(source), "-lcublas", "-o", program], "nvcc and cuBLAS")
        done = _ran([program], "a GPU and its driver")
    found: dict[str, Any] = json.loads(done.stdout)
    print(done.stdout)
    return found


def _ran(command: list[str], needs: str) -> subprocess.CompletedProcess[str]:
    """What a program has printed.

    Raises:
        LabError: If it fails, or is not there.
    """
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise llmlab.LabError(f"{command[0]}: {error.strerror}", hint=f"this part needs {needs}") from None
    if done.returncode:
        tail = (done.stderr + done.stdout).splitlines()[-4:]
        raise llmlab.LabError(f"{command[0]} failed", hint=f"this part needs {needs}", log_tail=tail)
    return done


def instruments(_out: Path) -> dict[str, Any]:
    """What looking costs, and how often there is anything new to see."""
    with models.served(models.SMALL, "watched") as server, _busy(server), _nvml() as handle:
        return {
            "calls_us": _calls(handle),
            "changes": _changes(handle),
            "sampler": [
                _sampler(name, hz, server) for hz in _RATES_HZ for name in ("nothing", "llmlab_gpus")
            ],
            "definition": "calls: median and 99th of 100 of the time of one call through pynvml, while a model "
            "generates; changes: of polls as quick as they go, how often a value was another one than before; "
            "sampler: CPU time of all threads of a process that looks, over wall time",
        }


def _questions(handle: Any) -> dict[str, Callable[[], Any]]:
    """What the sampler asks of a GPU in each look."""
    ask = nvml.query
    return {
        "utilisation": lambda: ask("nvmlDeviceGetUtilizationRates", handle).gpu,
        "memory": lambda: ask("nvmlDeviceGetMemoryInfo", handle).used,
        "power, 1 s average": lambda: ask("nvmlDeviceGetPowerUsage", handle),
        "power, instant": lambda: nvml.field_value(handle, _INSTANT_POWER),
        "energy": lambda: ask("nvmlDeviceGetTotalEnergyConsumption", handle),
        "SM clock": lambda: ask("nvmlDeviceGetClockInfo", handle, _SM),
        "memory clock": lambda: ask("nvmlDeviceGetClockInfo", handle, _MEMORY),
        "temperature": lambda: ask("nvmlDeviceGetTemperature", handle, _CORE_SENSOR),
        "reasons for the clocks": lambda: ask("nvmlDeviceGetCurrentClocksEventReasons", handle),
        "processes": lambda: len(ask("nvmlDeviceGetComputeRunningProcesses", handle) or ()),
        "PCIe throughput": lambda: ask("nvmlDeviceGetPcieThroughput", handle, 0),
    }


def _calls(handle: Any) -> dict[str, Any]:
    found = {}
    for name, question in _questions(handle).items():
        count = _CALLS if name != "PCIe throughput" else 20  # it blocks for some 20 ms
        times = []
        for _ in range(count):
            began = time.perf_counter()
            question()
            times.append((time.perf_counter() - began) * 1e6)
        found[name] = {
            "median": round(statistics.median(times), 1),
            "p99": round(statistics.quantiles(times, n=100, method="inclusive")[98], 1),
        }
        print(f"  {name:<24} {found[name]['median']:>8.1f} µs, 99 of 100 below {found[name]['p99']:.1f} µs")
    return found


def _changes(handle: Any) -> dict[str, Any]:
    """How often a sensor's value is another one: per second, and the median time between changes."""
    found = {}
    questions = _questions(handle)
    for name in ("utilisation", "power, 1 s average", "power, instant", "energy", "SM clock"):
        question, began = questions[name], time.perf_counter()
        moments, polls, last = [], 0, question()
        while (now := time.perf_counter()) - began < _POLLED_S:
            value = question()
            polls += 1
            if value != last:
                moments.append(now)
                last = value
        gaps = [b - a for a, b in itertools.pairwise(moments)]
        found[name] = {
            "polls_per_s": round(polls / _POLLED_S),
            "changes_per_s": round(len(moments) / _POLLED_S, 2),
            "median_gap_ms": round(statistics.median(gaps) * 1e3, 1) if gaps else None,
        }
        print(
            f"  {name:<24} {found[name]['changes_per_s']:>8.1f} changes/s, gap {found[name]['median_gap_ms']} ms"
        )
    return found


def _sampler(name: str, hz: float, server: llmlab.Server) -> dict[str, Any]:
    script = Path(__file__).parents[1] / "collectors.py"
    pid = str(server.record.process.pid if server.record.process else 0)
    done = subprocess.run(
        [sys.executable, str(script), name, str(hz), str(_SAMPLED_S), pid],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    print(f"  {name} at {hz:g} Hz: {found}")
    return {"collector": name, "hz": hz, "seconds": _SAMPLED_S, **found}


@contextmanager
def _busy(server: llmlab.Server) -> Iterator[None]:
    """A model that generates all the while: idle sensors may rest."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            models.decode(server, tokens=256)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        time.sleep(1.5)
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _nvml() -> Iterator[Any]:
    """A GPU's handle."""
    if not nvml.hold():
        raise llmlab.LabError("NVML does not answer", hint="is there an NVIDIA driver?")
    try:
        yield nvml.query("nvmlDeviceGetHandleByIndex", 0)
    finally:
        nvml.release()


def _told(function: str) -> Any:
    if not nvml.hold():
        return None
    try:
        return nvml.query(function)
    finally:
        nvml.release()


def _where(library: str) -> str | None:
    done = subprocess.run(["ldconfig", "-p"], check=False, capture_output=True, text=True)
    return next((line.split("=> ")[-1] for line in done.stdout.splitlines() if library in line), None)


def _cgroup() -> str:
    mounts = Path("/proc/mounts").read_text(encoding="utf-8")
    return "2" if " cgroup2 " in mounts else "1" if " cgroup " in mounts else "not mounted"


def _may_unshare(what: str) -> bool:
    unshare = shutil.which("unshare")
    more = ["--fork"] if what == "--pid" else []
    return (
        bool(unshare)
        and not subprocess.run(
            [str(unshare), what, *more, "true"], check=False, capture_output=True
        ).returncode
    )
