"""What `import llmlab` and `%load_ext llmlab` cost above a bare interpreter and kernel."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from bench import common

_INTERPRETERS, _KERNELS = 41, 9


def run() -> dict[str, Any]:
    """Measure both."""
    found = {
        "import_ms": {
            **common.spread([_import_ms(number) for number in range(_INTERPRETERS)], 2),
            "definition": "wall time of `python -c 'import llmlab'` minus that of `python -c pass`, per pair",
            "budget": "<= 50",
        }
    }
    common.show("import llmlab, above a bare interpreter", found["import_ms"], "ms", "≤ 50")
    cells = [_load_ext_ms() for _ in range(_KERNELS)]
    found["load_ext_ms"] = {
        **common.spread(cells, 2),
        "definition": "wall time of the cell `%load_ext llmlab` minus that of the cell `pass`, "
        "seen by the client, in a fresh kernel for each pair",
        "budget": "<= 150",
    }
    common.show("%load_ext llmlab, above an empty cell", found["load_ext_ms"], "ms", "≤ 150")
    return found


def _import_ms(number: int) -> float:
    times: dict[str, float] = {}
    order = ("pass", "import llmlab") if number % 2 else ("import llmlab", "pass")
    for code in order:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times[code] = time.perf_counter() - began
    return (times["import llmlab"] - times["pass"]) * 1000


def _load_ext_ms() -> float:
    from jupyter_client.manager import start_new_kernel  # noqa: PLC0415 - an optional dependency

    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    manager, client = start_new_kernel(kernel_name="python3", **silent)
    try:
        _cell_s(client, "pass")  # the first cell of a kernel pays for much else
        empty = min(_cell_s(client, "pass") for _ in range(3))
        return (_cell_s(client, "%load_ext llmlab") - empty) * 1000
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _cell_s(client: Any, code: str) -> float:
    began = time.perf_counter()
    reply = client.execute(code, reply=True, timeout=60, silent=False)
    elapsed = time.perf_counter() - began
    assert reply["content"]["status"] == "ok", reply["content"]
    return elapsed
