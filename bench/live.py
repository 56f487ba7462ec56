"""The live view in JupyterLab in Chromium, against plotly's FigureWidget with the same series at the same rate.

Each side runs in a fresh page and kernel: one `%llm monitor` of the machine and one server, or three;
against one FigureWidget, or three, that a thread feeds with what the same kind of watch sees, by
`batch_update` with the whole window, as its users do.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.jupyterlab import RUN_CELL, jupyterlab, notebook, opened

_HZ = 4
_WINDOW = 600
_WARM_S = 5
_SECONDS = int(os.environ.get("LLMLAB_BENCH_LIVE_S", "40"))
# An hour's looks at 2 Hz, seen at 20 Hz.
_LOOKS = int(os.environ.get("LLMLAB_BENCH_LIVE_LOOKS", "7200"))
_COUNT = 3

# What each side has imported and made before its clock starts, and what is on the clock.
_OURS = (
    "import llmlab.monitoring, llmlab.notebook.live",
    'watches = [llmlab.monitor("bench", hz={hz}) for _ in range({count})]',
)
_FIGURES = (
    """
import threading, time, plotly.graph_objects as go
from plotly.subplots import make_subplots
from llmlab.monitoring.panels import panels
from llmlab.reporting import Reporter, reporting_to
with reporting_to(Reporter()):
    watch = llmlab.monitor("bench", hz={hz})
watches = [watch]
time.sleep(2)
shown = [panel for panel in panels(watch.known()) if panel.first]
keys = [key for panel in shown for key in panel.rows]
def figure():
    made = go.FigureWidget(make_subplots(rows=(len(shown) + 1) // 2, cols=2,
                                         subplot_titles=[panel.title for panel in shown]))
    for number, panel in enumerate(shown):
        for key in panel.rows:
            made.add_scatter(x=[], y=[], name=key[0], row=number // 2 + 1, col=number % 2 + 1)
    made.update_layout(height=160 * ((len(shown) + 1) // 2))
    return made
def feed():
    looks = 0
    while watch.running:
        looks = watch.wait(looks, 1.0)
        _, times, columns = watch.looks(keys, max(0, looks - {window}))
        for made in figures:
            with made.batch_update():
                for trace, column in zip(made.data, columns):
                    trace.x, trace.y = times, column
""",
    """
figures = [figure() for _ in range({count})]
threading.Thread(target=feed, daemon=True).start()
display(*figures)
""",
)
_CELLS = """
import json, os, llmlab
%load_ext llmlab
{before}
---
{show}
---
used = os.times(); rss = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
print(json.dumps([used.user + used.system, rss]))
---
used = os.times(); rss = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
print(json.dumps([used.user + used.system, rss]))
---
for each in watches:
    each.stop()
"""
# Frames, tasks over 50 ms, and when there was first something to see.
_OBSERVE = """() => {
    const found = window.found = {frames: 0, long: 0};
    const frame = () => { found.frames++; requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
    new PerformanceObserver(list => found.long += list.getEntries().length).observe({type: 'longtask'});
}"""
_FIRST_PAINT = """async ([selector, count]) => {
    const began = performance.now();
    window.jupyterapp.commands.execute('notebook:run-cell-and-select-next');
    for (;;) {
        await new Promise(requestAnimationFrame);
        if (document.querySelectorAll(selector).length >= count) return performance.now() - began;
        if (performance.now() - began > 60000) return null;
    }
}"""
_SELECTORS = {
    "llmlab": ".llmlab-live:not([data-paints='0']) canvas",
    "FigureWidget": ".js-plotly-plot .scatterlayer .trace path.js-line",
}


def run() -> dict[str, Any]:
    """Measure each side with one and with three views."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("  not measured: no chromium on PATH")
        return {"not_measured": "no chromium"}
    found: dict[str, Any] = {"hz": _HZ, "seconds": _SECONDS}
    import llmlab  # noqa: PLC0415 - after the runtime directory was set

    with llmlab.start("tiny", name="bench", backend="native"):
        for count in (1, _COUNT):
            for side, show in (("llmlab", _OURS), ("FigureWidget", _FIGURES)):
                cells = _filled(show, hz=_HZ, count=count)
                found[f"{side} x {count}"] = _measured(browser, side, cells, seconds=_SECONDS)
        for count in (1, _COUNT):
            ours, theirs = found[f"llmlab x {count}"], found[f"FigureWidget x {count}"]
            ratios = {
                key: round(ours[key] / theirs[key], 3)
                for key in ("main_percent", "bytes_per_s", "first_paint_ms", "kernel_percent")
                if theirs.get(key) and ours.get(key) is not None
            }
            found[f"ratios x {count}"] = ratios
            print(f"  {count} of each, llmlab over FigureWidget: {ratios}", flush=True)
        found["an hour's looks"] = _grown(browser, _filled(_OURS, hz=20, count=1))
    return found


def _filled(side: tuple[str, str], **values: int) -> str:
    before, show = (part.format(window=_WINDOW, **values) for part in side)
    return notebook(_CELLS.format(before=before, show=show))


def _measured(browser: str, side: str, source: str, *, seconds: float) -> dict[str, Any]:
    """One side in a page and a kernel of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "live.ipynb"
        path.write_text(source)
        with (
            jupyterlab(Path(folder), theme="Light") as address,
            opened(address, path.name, browser, cells=5) as page,
        ):
            received = [0]
            session = page.context.new_cdp_session(page)
            session.send("Network.enable")
            session.on("Network.webSocketFrameReceived", lambda event: _count(received, event))
            session.send("Performance.enable")
            page.locator(".jp-Notebook .jp-Cell").first.click()
            page.evaluate(RUN_CELL, 60_000)
            page.wait_for_timeout(1000)
            paint_ms = page.evaluate(_FIRST_PAINT, [_SELECTORS[side], 1])
            page.wait_for_timeout(_WARM_S * 1000)
            page.locator(".jp-CodeCell").nth(1).scroll_into_view_if_needed()
            page.evaluate(RUN_CELL, 60_000)
            page.evaluate(_OBSERVE)
            before, received[0] = _metrics(session), 0
            page.wait_for_timeout(seconds * 1000)
            after, took = _metrics(session), received[0]
            seen = page.evaluate("window.found")
            page.evaluate(RUN_CELL, 60_000)
            page.evaluate(RUN_CELL, 60_000)
            page.wait_for_timeout(1000)
            page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
            page.wait_for_timeout(1500)
        saved = json.loads(path.read_text())
        kernel = [json.loads("".join(saved["cells"][n]["outputs"][0]["text"])) for n in (2, 3)]
        elapsed = after["Timestamp"] - before["Timestamp"]
        result = {
            "main_percent": round(100 * (after["TaskDuration"] - before["TaskDuration"]) / elapsed, 1),
            "bytes_per_s": round(took / elapsed),
            "frames_per_s": round(seen["frames"] / elapsed, 1),
            "long_tasks": seen["long"],
            "first_paint_ms": None if paint_ms is None else round(paint_ms),
            "kernel_percent": round(100 * (kernel[1][0] - kernel[0][0]) / elapsed, 2),
            "heap_mb": round(after["JSHeapUsedSize"] / 1e6, 1),
            "saved_kb": round(path.stat().st_size / 1000),
        }
        print(f"  {side}: {result}", flush=True)
        return result


def _grown(browser: str, source: str) -> dict[str, Any]:
    """Heap, kernel and file while as many looks come as an hour has, at its quarters."""
    looks = "Number(document.querySelector('.llmlab-live').dataset.looks)"
    steps: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "live.ipynb"
        path.write_text(source)
        with (
            jupyterlab(Path(folder), theme="Light") as address,
            opened(address, path.name, browser, cells=5) as page,
        ):
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable")
            page.locator(".jp-Notebook .jp-Cell").first.click()
            for _ in range(2):
                page.evaluate(RUN_CELL, 60_000)
            kernel = _kernel_pid(Path(folder))
            for quarter in range(1, 7):
                # The last two are beyond what is kept.
                page.wait_for_timeout(_LOOKS / 4 / 20 * 1000)
                session.send("HeapProfiler.collectGarbage")
                steps.append(
                    {
                        "hours": quarter / 4,
                        "looks_held": page.evaluate(looks),
                        "heap_mb": round(_metrics(session)["JSHeapUsedSize"] / 1e6, 1),
                        "kernel_rss_mib": _rss_mib(kernel),
                    }
                )
                print(f"  {steps[-1]}", flush=True)
            page.evaluate(RUN_CELL, 60_000)
            page.evaluate(RUN_CELL, 60_000)
            page.evaluate(RUN_CELL, 60_000)
            page.wait_for_timeout(2000)
            page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
            page.wait_for_timeout(2000)
        return {"steps": steps, "saved_kb": round(path.stat().st_size / 1000)}


def _count(received: list[int], event: Any) -> None:
    payload = event["response"]["payloadData"]
    # Binary frames come as base64.
    received[0] += len(payload) * 3 // 4 if event["response"]["opcode"] == 2 else len(payload)  # noqa: PLR2004 - binary


def _metrics(session: Any) -> dict[str, float]:
    return {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}


def _kernel_pid(folder: Path) -> int:
    """The kernel whose connection file lies under the test's home."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        words = entry.read_bytes().split(b"\0")
        if b"ipykernel_launcher" in words and any(str(folder).encode() in word for word in words):
            return int(entry.parent.name)
    raise RuntimeError("the kernel was not found")


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)
