"""What watching costs: CPU time of the sampler by rate and servers, and of others' collectors beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests import nvml_mock

import llmlab
from bench import collectors, common
from llmlab.backends import backend
from llmlab.runtime import cache_dir

_SECONDS, _ROUNDS = 20.0, 3
_RATES = (2.0, 10.0)
_SERVERS = (1, 4, 16)
_GPUS = 8
_OTHERS = ("nvitop==1.7.2", "jupyterlab-nvdashboard==0.15.0")
_OURS = "llmlab_gpus"
_BESIDE = (_OURS, "nvitop_figures", "nvitop_collector", "nvdashboard", "llmlab")

Case = tuple[str, float, int]
"""A collector, looks per second, and how many servers there are."""


def run() -> dict[str, Any]:
    """Measure all cases in turns, each in a process of its own."""
    others = _environment()
    alone = [("llmlab", hz, count) for count in _SERVERS for hz in _RATES]
    beside = [(name, hz, max(_SERVERS)) for name in _beside(others) for hz in _RATES]
    with ExitStack() as stack:
        started = [
            stack.enter_context(llmlab.start("tiny", backend="native", name=f"bench-{i}", slots=1))
            for i in range(max(_SERVERS))
        ]
        pids = [backend("native").look(server.record).pid or 0 for server in started]
        gpus = _gpus(Path(stack.enter_context(tempfile.TemporaryDirectory())), pids) if beside else {}
        bare: Mapping[str, str] = {}
        plan = [(case, bare) for case in [("nothing", 2.0, 0), *alone]] + [(case, gpus) for case in beside]
        rounds: list[list[dict[str, float]]] = []
        for number in range(_ROUNDS):
            # There and back again, so that what drifts meets all alike.
            order = plan if number % 2 == 0 else plan[::-1]
            found = [_measured(case, pids, environment, others) for case, environment in order]
            rounds.append(found if number % 2 == 0 else found[::-1])
    seen = [[each[place] for each in rounds] for place in range(len(plan))]
    idle, first = seen[0], 1 + len(alone)
    return {
        "definition": "CPU time of all threads of a process over wall time, while it looks and does nothing "
        f"else: {_SECONDS:g} s at a time; cost per look: the same time over the number of looks",
        "budget": "<= 1 % of a core for one server at 2 Hz",
        "waiting_only_percent": common.spread([_percent(each) for each in idle], 3),
        "servers_without_gpus": _alone(alone, seen[1:first]),
        f"servers_on_{_GPUS}_gpus_of_a_mock": _compared(beside, seen[first:]),
        "others": list(_OTHERS) if others else "not to be had",
    }


def _alone(cases: Sequence[Case], seen: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    results = {}
    for (_, hz, count), found in zip(cases, seen, strict=True):
        name = f"{count} {'server' if count == 1 else 'servers'} at {hz:g} Hz"
        results[name] = _figures(found)
        budget = "≤ 1" if (count, hz) == (1, 2.0) else "–"
        common.show(f"CPU of the sampler, {name}", results[name]["percent_of_a_core"], "%", budget)
    return results


def _compared(cases: Sequence[Case], seen: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    by_case = dict(zip(cases, seen, strict=True))
    results: dict[str, Any] = {}
    for (name, hz, count), found in by_case.items():
        ours = by_case[_OURS, hz, count]
        ratios = [_ms_per_look(each) / _ms_per_look(its) for each, its in zip(found, ours, strict=True)]
        shown = common.spread(ratios, 3)
        what = (collectors.COLLECTORS[name].__doc__ or "").split("\n\n")[0]
        results.setdefault(name, {"what": what})[f"{hz:g} Hz"] = {
            **_figures(found),
            f"ratio_to_{_OURS}": shown,
        }
        percent = results[name][f"{hz:g} Hz"]["percent_of_a_core"]
        common.show(f"{name} at {hz:g} Hz, {count} servers, {_GPUS} GPUs", percent, "%", "–")
        if name != _OURS:
            common.show(f"… its cost per look over {_OURS}'s", shown, "×", "–")
    return results


def _figures(found: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {
        "percent_of_a_core": common.spread([_percent(each) for each in found], 3),
        "ms_per_look": common.spread([_ms_per_look(each) for each in found], 4),
        "looks_per_s": common.spread([each["looks"] / each["wall_s"] for each in found], 2),
    }


def _percent(found: Mapping[str, float]) -> float:
    return 100 * found["cpu_s"] / found["wall_s"]


def _ms_per_look(found: Mapping[str, float]) -> float:
    return 1000 * found["cpu_s"] / found["looks"]


def _measured(
    case: Case, pids: Sequence[int], environment: Mapping[str, str], others: Path | None
) -> dict[str, float]:
    name, hz, count = case
    python = str(others) if others and not name.startswith(("llmlab", "nothing")) else sys.executable
    command = [python, collectors.__file__, name, str(hz), str(_SECONDS), *map(str, pids[:count])]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _beside(others: Path | None) -> Sequence[str]:
    """What is compared on GPUs: all, or llmlab's alone, or nothing."""
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        print("  no C compiler for the mock of NVIDIA's library: nothing is measured on GPUs", flush=True)
        return ()
    return [name for name in _BESIDE if others or name.startswith("llmlab")]


def _gpus(folder: Path, pids: Sequence[int]) -> dict[str, str]:
    """The environment in which there are GPUs, with the processes spread over them."""
    library, control = nvml_mock.build(folder), nvml_mock.Control(folder / "control")
    for index in range(_GPUS):
        control.gpu(index, processes_compute=",".join(f"{pid}:500" for pid in pids[index::_GPUS]))
    return {"LD_LIBRARY_PATH": str(library), nvml_mock.CONTROL: str(folder / "control")}


def _environment() -> Path | None:
    """The Python of an environment with the others' packages, made once; None if they cannot be had."""
    folder = cache_dir() / "bench" / "-".join(_OTHERS)
    python = folder / "bin" / "python"
    if python.exists():
        return python
    print(f"  installing {' and '.join(_OTHERS)}, once", flush=True)
    venv.create(folder, with_pip=True)
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", *_OTHERS]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder)
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        print(f"  not measured: {', '.join(_OTHERS)}: {reason}", flush=True)
        return None
    return python
