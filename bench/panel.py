"""The control panel with five servers in JupyterLab in Chromium, against the same kernel without it.

One kernel, one page: first nothing is shown, then the panel is, for as long. Counted are the CPU time
of all of the kernel's threads, its memory, and what the page receives.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.jupyterlab import RUN_CELL, jupyterlab, notebook, opened

from bench.live import _count, _kernel_pid, _metrics, _rss_mib

_SERVERS = 5
_WARM_S = 10
_SECONDS = int(os.environ.get("LLMLAB_BENCH_PANEL_S", "120"))
_LOOKS = 12
# All that the panel imports is there from the beginning.
_CELLS = """
%load_ext llmlab
import llmlab.paneling, llmlab.notebook.panel
---
%llm panel
"""


def run() -> dict[str, Any]:
    """Measure the kernel without and with a panel."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("  not measured: no chromium on PATH")
        return {"not_measured": "no chromium"}
    import llmlab  # noqa: PLC0415 - after the runtime directory was set

    for number in range(_SERVERS):
        llmlab.start("tiny", name=f"bench-{number}", backend="native")
    found: dict[str, Any] = {"servers": _SERVERS, "seconds": _SECONDS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panel.ipynb"
        path.write_text(notebook(_CELLS))
        with (
            jupyterlab(Path(folder), theme="Light") as address,
            opened(address, path.name, browser, cells=2) as page,
        ):
            received = [0]
            session = page.context.new_cdp_session(page)
            session.send("Network.enable")
            session.on("Network.webSocketFrameReceived", lambda event: _count(received, event))
            session.send("Performance.enable")
            page.locator(".jp-Notebook .jp-Cell").first.click()
            page.evaluate(RUN_CELL, 60_000)
            kernel = _kernel_pid(Path(folder))
            found["without"] = _watched(page, session, received, kernel)
            page.evaluate(RUN_CELL, 60_000)
            page.locator(f".llmlab-p-card >> nth={_SERVERS - 1}").wait_for()
            page.locator(".llmlab-panel").scroll_into_view_if_needed()
            found["with"] = _watched(page, session, received, kernel)
            found["news"] = int(page.locator(".llmlab-panel").get_attribute("data-news") or 0)
    return found


def _watched(page: Any, session: Any, received: list[int], kernel: int) -> dict[str, Any]:
    """What the kernel and the page take for a while."""
    page.wait_for_timeout(_WARM_S * 1000)
    before, cpu_s, received[0], began = _metrics(session), _cpu_s(kernel), 0, time.monotonic()
    looks: list[tuple[float, float]] = []
    for _ in range(_LOOKS):
        page.wait_for_timeout(_SECONDS / _LOOKS * 1000)
        looks.append((time.monotonic() - began, _rss_mib(kernel)))
    took, elapsed, after = received[0], time.monotonic() - began, _metrics(session)
    minutes = [at / 60 for at, _ in looks]
    growth = statistics.linear_regression(minutes, [rss for _, rss in looks]).slope
    result = {
        "kernel_percent": round(100 * (_cpu_s(kernel) - cpu_s) / elapsed, 2),
        "kernel_rss_mib": [rss for _, rss in looks],
        "growth_mib_per_minute": round(growth, 3),
        "bytes_per_s": round(took / elapsed),
        "main_percent": round(
            100
            * (after["TaskDuration"] - before["TaskDuration"])
            / (after["Timestamp"] - before["Timestamp"]),
            1,
        ),
    }
    print(f"  {json.dumps(result)}", flush=True)
    return result


def _cpu_s(pid: int) -> float:
    """CPU time of all of a process's threads so far, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
