"""The live view in JupyterLab: two servers watched, asked, reloaded, stopped; looked at in both themes."""

from __future__ import annotations

import json
from typing import Any

import nbconvert
import pytest
from playwright.sync_api import expect

from tests.jupyterlab import jupyterlab, notebook, opened, ready, run_cells, themes

pytestmark = pytest.mark.timeout(600)

SAVE = "window.jupyterapp.commands.execute('docmanager:save')"
# Before and after both were asked the container is idle, so that what its control group
# has counted in between, as the engine tells it, is what the view has to add up to.
CELLS = """
%load_ext llmlab
import docker, json, time, llmlab
model = "synthetic:llama-3.2-1b:Q4_0"
here = llmlab.start(model, name="here", backend="native", context=512)
there = llmlab.start(model, name="there", backend="container", context=512)
def counted_s():
    told = docker.from_env().api.stats(there.record.container_id, stream=False, one_shot=True)
    return told["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
---
seen = %llm monitor --hz 4
---
time.sleep(1)
before = counted_s()
for server in (here, there):
    server.ask("Why do containers isolate?", max_tokens=48)
counted = counted_s() - before
time.sleep(1)
---
seen
---
cpu = seen["there", "cpu"]
steps = zip(cpu.times_s, cpu.times_s[1:], cpu.values[1:])
shown = sum(value * (end - begin) for begin, end, value in steps if value is not None)
print(json.dumps({"counted_s": counted, "shown_s": shown}))
---
final = seen.stop()
print(final["there", "memory"].last)
---
llmlab.stop(all=True);
"""


OTHERS = """
%load_ext llmlab
import llmlab
server = llmlab.start("tiny", name="a", backend="native")
---
%llm monitor --replay example
---
line = %llm monitor --compact
---
from llmlab.reporting import Reporter, reporting_to
with reporting_to(Reporter()):
    for _ in range(40): server.ask("What is a GPU?", max_tokens=40)
---
%llm ps --usage
---
line.stop(); server.stop();
"""


def spec(page: Any, path: str) -> Any:
    """Something that the page's view has been told."""
    return page.evaluate(f"() => document.querySelector('.llmlab-live').dataset.{path}")


@pytest.mark.parametrize("theme", themes("Light"))
@pytest.mark.slow
def test_two_servers_are_watched_asked_reloaded_and_stopped(
    theme, tmp_path, artifacts, require_browser, require_docker, require_engine
):
    source = notebook(CELLS)
    (tmp_path / "live.ipynb").write_text(source)
    cells = json.loads(source)["cells"]
    problems: list[str] = []
    with (
        jupyterlab(tmp_path, theme=theme) as address,
        opened(address, "live.ipynb", require_browser, cells=len(cells)) as page,
    ):
        page.on("pageerror", lambda error: problems.append(str(error)))
        run_cells(page, cells[:3])
        view = page.locator(".llmlab-live").first
        expect(view).to_be_visible()
        # Both requests' bands, at their servers.
        page.wait_for_function("document.querySelector('.llmlab-live').dataset.requests === '2'")
        expect(view).to_contain_text("here")
        expect(view).to_contain_text("there")
        looks = int(spec(page, "looks"))
        page.wait_for_function(f"Number(document.querySelector('.llmlab-live').dataset.looks) > {looks + 4}")
        view.scroll_into_view_if_needed()
        view.screenshot(path=artifacts / f"monitor-live-{theme.lower()}.png")

        # The page is loaded anew: everything is there again, and goes on.
        page.evaluate(SAVE)
        page.reload()
        ready(page, len(cells))
        page.wait_for_function(
            f"Number(document.querySelector('.llmlab-live')?.dataset.looks) > {looks}", timeout=60_000
        )
        assert spec(page, "requests") == "2"
        again = int(spec(page, "looks"))
        page.wait_for_function(f"Number(document.querySelector('.llmlab-live').dataset.looks) > {again + 4}")

        # Shown in a new cell, then stopped: a picture in its place.
        page.locator(".jp-Notebook .jp-Cell").nth(3).click()
        run_rest(page, cells, first=3)
        output = page.locator(".jp-CodeCell").nth(3).locator(".jp-OutputArea-output")
        expect(output.locator("svg").first).to_be_visible()
        expect(output).to_contain_text("there")
        assert output.locator(".llmlab-live").count() == 0
        output.screenshot(path=artifacts / f"monitor-stopped-{theme.lower()}.png")
        page.evaluate(SAVE)
        page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    assert problems == []
    saved = json.loads((tmp_path / "live.ipynb").read_text())
    kept = saved["cells"][3]["outputs"][0]["data"]
    assert set(kept) == {"text/html", "text/plain"}
    assert "<svg" in "".join(kept["text/html"])
    assert "generated" in "".join(kept["text/plain"])
    assert len(json.dumps(saved)) < 200_000
    told = json.loads("".join(saved["cells"][4]["outputs"][0]["text"]))
    assert told["counted_s"] > 0.5, "the container has worked"
    assert told["shown_s"] == pytest.approx(told["counted_s"], rel=0.05)
    exported = nbconvert.HTMLExporter().from_filename(str(tmp_path / "live.ipynb"))[0]
    (artifacts / f"monitor-{theme.lower()}.html").write_text(exported)
    assert exported.count("<svg") >= "".join(kept["text/html"]).count("<svg")


def run_rest(page: Any, cells: list[dict[str, Any]], *, first: int) -> None:
    """Run the cells from the one that is chosen on."""
    for number in range(first, len(cells)):
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
        prompt = page.locator(".jp-CodeCell .jp-InputPrompt").nth(number)
        expect(prompt).to_have_text(f"[{number + 1}]:", timeout=60_000)


@pytest.mark.parametrize("theme", ["Dark"])
def test_a_recording_and_the_line_beside_a_table(theme, tmp_path, artifacts, require_browser, require_engine):
    source = notebook(OTHERS)
    (tmp_path / "others.ipynb").write_text(source)
    cells = json.loads(source)["cells"]
    problems: list[str] = []
    with (
        jupyterlab(tmp_path, theme=theme) as address,
        opened(address, "others.ipynb", require_browser, cells=len(cells)) as page,
    ):
        page.on("pageerror", lambda error: problems.append(str(error)))
        run_cells(page, cells[:-1])
        views = page.locator(".llmlab-live")
        expect(views.first).to_contain_text("not what happens now")
        expect(views.first.locator(".llmlab-request")).to_have_count(5)
        views.first.locator(".llmlab-request").first.click()
        views.first.locator(".llmlab-request").first.hover()
        outputs = page.locator(".jp-CodeCell")
        views.first.scroll_into_view_if_needed()
        views.first.screenshot(path=artifacts / f"monitor-recording-{theme.lower()}.png")
        expect(outputs.nth(2).locator(".llmlab-line").last).to_contain_text("a")
        outputs.nth(2).scroll_into_view_if_needed()
        outputs.nth(2).screenshot(path=artifacts / f"monitor-compact-{theme.lower()}.png")
        expect(outputs.nth(4)).to_contain_text("tokens/s")
        outputs.nth(4).screenshot(path=artifacts / f"ps-usage-{theme.lower()}.png")
        run_cells_again(page, cells)
        expect(outputs.nth(2).locator("svg").first).to_be_visible()
    assert problems == []


def run_cells_again(page: Any, cells: list[dict[str, Any]]) -> None:
    """Run the last cell."""
    page.locator(".jp-Notebook .jp-Cell").nth(len(cells) - 1).click()
    run_rest(page, cells, first=len(cells) - 1)
