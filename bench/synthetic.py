"""How fast synthetic models are written, against `dd` writing as many zeros to the same disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import common
from llmlab.weights import synthetic

_PAIRS = 9
_MODELS = (("qwen2.5-0.5b", "Q4_0"), ("llama-3.2-1b", "Q4_K_M"))


def run() -> dict[str, Any]:
    """Measure the models, and the memory that writing one takes."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="llmlab-bench-", dir=common.OUTPUT.parent) as folder:
        for shape, quant in _MODELS:
            name = f"{shape} {quant}"
            pairs = [_pair(shape, quant, Path(folder), number) for number in range(_PAIRS)]
            found[name] = {
                "bytes": synthetic.plan(shape, quant).total_bytes,
                "plan_s": common.spread([pair["plan_s"] for pair in pairs]),
                "write_s": common.spread([pair["write_s"] for pair in pairs]),
                "dd_s": common.spread([pair["dd_s"] for pair in pairs]),
                "write_over_dd": common.spread([pair["write_s"] / pair["dd_s"] for pair in pairs]),
                "definition": "wall time of `synthetic.write` (plan made before, no sync) over that of "
                "`dd if=/dev/zero bs=4M` of as many bytes to the same directory (no sync), per pair; "
                "the disk is synced before each of both, the order alternates",
                "budget": "none",
            }
            common.show(f"{name}: write, times dd", found[name]["write_over_dd"], "×", "none")
            common.show(f"{name}: write", found[name]["write_s"], "s", "none")
    found["peak_memory_mib"] = _peak_mib()
    print(f"  peak memory of a process that plans and writes: {found['peak_memory_mib']} MiB")
    return found


def _pair(shape: str, quant: str, folder: Path, number: int) -> dict[str, float]:
    began = time.perf_counter()
    planned = synthetic.plan(shape, quant)
    times = {"plan_s": time.perf_counter() - began}
    path = folder / "model.gguf"
    for what in ("write_s", "dd_s") if number % 2 else ("dd_s", "write_s"):
        os.sync()
        began = time.perf_counter()
        if what == "write_s":
            synthetic.write(planned, path)
        else:
            _dd(path, planned.total_bytes)
        times[what] = time.perf_counter() - began
        assert path.stat().st_size == planned.total_bytes
        path.unlink()
    return times


def _dd(path: Path, size: int) -> None:
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=4M", f"count={size}", "iflag=count_bytes"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def _peak_mib() -> float:
    shape, quant = _MODELS[0]
    code = (
        "import resource, sys; from pathlib import Path; from llmlab.weights import synthetic;"
        f"synthetic.write(synthetic.plan({shape!r}, {quant!r}), Path(sys.argv[1]));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    with tempfile.TemporaryDirectory(prefix="llmlab-bench-", dir=common.OUTPUT.parent) as folder:
        command = [sys.executable, "-c", code, f"{folder}/model.gguf"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(float(done.stdout), 1)
