"""JupyterLab in a real browser: the first notebook, cell by cell, as a learner sees it.

Screenshots are left in `$LLMLAB_ARTIFACTS`, or in pytest's temporary folder:
look at them after a change to `llmlab.render` or `llmlab.notebook.cards`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01-first-model.ipynb"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What a person would have clicked away, and the whole notebook in the page.
CELL_MS = 60_000
# The command's promise ends with the cell; the browser's driver has no time limit of its own.
RUN_CELL = """patience => Promise.race([
    window.jupyterapp.commands.execute('notebook:run-cell-and-select-next').then(() => 'ran', String),
    new Promise(resolve => setTimeout(() => resolve('did not end'), patience)),
])"""
WIDER_THAN_THEIR_CELL = """() => [...document.querySelectorAll('.jp-OutputArea-output')]
    .filter(output => output.scrollWidth > output.clientWidth + 1)
    .map(output => output.innerText.slice(0, 80))
"""
# Text on the page that is hard to read: its contrast with what is behind it, by the
# formula of WCAG 2 (relative luminance), where that is below 4.5 to 1.
FAINT_TEXTS = """() => {
    const colour = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    const over = (above, below) => {
        const alpha = above.length > 3 ? above[3] : 1;
        return [0, 1, 2].map(i => above[i] * alpha + below[i] * (1 - alpha));
    };
    const behind = node => {
        if (!node) return [255, 255, 255];
        return over(colour(getComputedStyle(node).backgroundColor), behind(node.parentElement));
    };
    const luminance = rgb => {
        const [r, g, b] = rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const faint = [];
    for (const output of document.querySelectorAll('.jp-OutputArea-output')) {
        const walker = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const node = walker.currentNode.parentElement;
            if (!walker.currentNode.textContent.trim() || node.closest('[aria-hidden=true]')) continue;
            const back = behind(node), front = over(colour(getComputedStyle(node).color), back);
            const [dark, light] = [luminance(back), luminance(front)].sort((a, b) => a - b);
            const contrast = (light + 0.05) / (dark + 0.05);
            if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${walker.currentNode.textContent}`);
        }
    }
    return faint;
}"""
# Lines of text that lie over one another.
OVERLAPPING = """() => {
    const found = [];
    for (const output of document.querySelectorAll('.jp-OutputArea-output')) {
        const boxes = [];
        const walker = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const range = document.createRange();
            range.selectNodeContents(walker.currentNode);
            for (const box of range.getClientRects())
                if (box.width > 1) boxes.push([box, walker.currentNode.textContent]);
        }
        for (const [a, textA] of boxes)
            for (const [b, textB] of boxes)
                if (a !== b && a.left < b.right - 2 && b.left < a.right - 2
                    && a.top < b.bottom - 5 && b.top < a.bottom - 5) found.push([textA, textB]);
    }
    return found.slice(0, 5);
}"""
VIEWS = """
from IPython.display import display
from llmlab.notebook import cards
from llmlab.reporting import STAGES
from tests import examples

display(examples.model_list())
---
display(examples.model_card())
display(examples.model_card(row=examples.model_list()[2]))
---
display(examples.model_card(row=examples.unknown_model_row(), shape={}, tokenizer={}, chat_template=None,
    tensor_bytes={}, files=(), title=None, architecture=None, path=None))
display(examples.pulled())
display(examples.verified())
---
import time
for total in (4_700_000_000, None):
    card = cards.Progress("start hf:owner/model", "llmlab.start('hf:owner/model')", STAGES)
    card.stage("pull", "model-Q4_0.gguf")
    card.transfer(0, total)
    for done in range(11):
        time.sleep(0.1)
        card.transfer(110_000_000 * done, total)
    display(card.bundle(), raw=True)
card.stage("engine", "")
card.end(failed=False)
display(card.bundle(), raw=True)
"""
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


def notebook(source: str) -> str:
    """A notebook whose cells are parted by lines of dashes."""
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "execution_count": None, "outputs": [], "source": cell.strip()}
        for i, cell in enumerate(source.split("\n---\n"))
    ]  # fmt: skip
    kernel = {"name": "python3", "display_name": "Python 3"}
    return json.dumps(
        {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def jupyterlab(folder: Path, *, theme: str) -> Iterator[str]:
    """A JupyterLab of its own on `folder`; yields the address with its token."""
    home = folder / ".home"
    settings = home / "settings"
    for name, value in {
        **SETTINGS,
        "apputils-extension/themes": {"theme": f"JupyterLab {theme}"},
    }.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    # The build and the model stay where they are; everything of Jupyter's own
    # is kept away from the user's.
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    env = {
        **os.environ,
        "HOME": str(home),
        "XDG_CACHE_HOME": cache,
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--ip=127.0.0.1", f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}"]
    command += ["--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True"]
    log = (home / "jupyterlab.log").open("w")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_for(port, token, process)
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def wait_for(port: int, token: str, process: subprocess.Popen[bytes], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        assert process.poll() is None, "JupyterLab has ended"
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/api/status", headers={"Authorization": f"token {token}"})
            connection.getresponse().read()
            connection.close()
            return
        time.sleep(0.2)
    pytest.fail("JupyterLab did not come up")


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("LLMLAB_ARTIFACTS", tmp_path / "artifacts"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_cells(page: Any, cells: list[dict[str, Any]]) -> None:
    """Run the cells one after the other, each when the one before has ended."""
    page.locator(".jp-Notebook .jp-Cell").first.click()
    ran = 0
    for cell in cells:
        outcome = page.evaluate(RUN_CELL, CELL_MS)
        assert outcome == "ran", f"cell {cell['id']}: {outcome}"
        if cell["cell_type"] == "code":
            ran += 1
            prompt = page.locator(".jp-CodeCell .jp-InputPrompt").nth(ran - 1)
            expect(prompt).to_have_text(f"[{ran}]:", timeout=CELL_MS)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_the_first_notebook_in_jupyterlab(theme, tmp_path, artifacts, require_browser, require_engine):
    shutil.copy(NOTEBOOK, tmp_path / "first.ipynb")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell["id"] for cell in cells if cell["cell_type"] == "code"]
    problems: list[str] = []
    with jupyterlab(tmp_path, theme=theme) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_browser, args=FLAGS)
        page = browser.new_page(viewport={"width": 1180, "height": 1000})
        page.set_default_timeout(CELL_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address.format("first.ipynb"))
        page.wait_for_function("window.jupyterapp !== undefined")
        page.locator(".jp-Notebook .jp-Cell").nth(len(cells) - 1).wait_for()
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=CELL_MS)
        run_cells(page, cells)

        def outputs(cell_id: str) -> Any:
            return page.locator(".jp-CodeCell").nth(code.index(cell_id)).locator(".jp-OutputArea-output")

        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        height = page.evaluate("document.querySelector('.jp-WindowedPanel-inner').scrollHeight") + 160
        page.set_viewport_size({"width": 1180, "height": min(height, 12_000)})
        page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
        page.screenshot(path=artifacts / f"first-model-{theme.lower()}.png")

        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", str(theme == "Light").lower())
        expect(outputs("start-plain")).to_have_count(2)  # the line with its stages, and the server
        expect(outputs("start-plain").first).to_contain_text("✓ start tiny")
        for asked in ("ask", "assign", "off-subject", "long-ask", "ask-plain", "ask-boxed"):
            expect(outputs(asked)).to_have_count(1)
            expect(outputs(asked)).to_contain_text("TTFT")
        expect(outputs("ask")).to_contain_text("container")
        expect(outputs("typo")).to_contain_text("did you mean")
        expect(outputs("check")).to_contain_text("nothing is left")
        wide = page.evaluate(WIDER_THAN_THEIR_CELL)
        browser.close()
    assert wide == [], "nothing is cut off or has to be scrolled sideways"
    assert problems == []


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_models_and_their_progress_in_jupyterlab(theme, tmp_path, artifacts, require_browser, monkeypatch):
    (tmp_path / "views.ipynb").write_text(notebook(VIEWS))
    cells = json.loads(notebook(VIEWS))["cells"]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    with jupyterlab(tmp_path, theme=theme) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_browser, args=FLAGS)
        page = browser.new_page(viewport={"width": 1180, "height": 1000})
        page.set_default_timeout(CELL_MS)
        page.goto(address.format("views.ipynb"))
        page.wait_for_function("window.jupyterapp !== undefined")
        page.locator(".jp-Notebook .jp-Cell").nth(len(cells) - 1).wait_for()
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=CELL_MS)
        run_cells(page, cells)
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        for summary in page.locator("summary").all():
            summary.click()
        height = page.evaluate("document.querySelector('.jp-WindowedPanel-inner').scrollHeight") + 160
        # The outputs are 900 pixels wide then.
        page.set_viewport_size({"width": 900 + outside(page), "height": min(height, 12_000)})
        page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
        page.screenshot(path=artifacts / f"models-{theme.lower()}.png")
        assert outside(page) == page.evaluate("innerWidth") - 900
        for i, area in enumerate(page.locator(".jp-OutputArea-child").all()):
            area.screenshot(path=artifacts / f"models-{theme.lower()}-{i}.png")
        wide = page.evaluate(WIDER_THAN_THEIR_CELL)
        faint, overlapping = page.evaluate(FAINT_TEXTS), page.evaluate(OVERLAPPING)
        bars = page.locator(".jp-OutputArea-output [role=progressbar]")
        assert bars.first.get_attribute("aria-valuenow") == "23"
        assert "left" in (bars.first.get_attribute("aria-valuetext") or "")
        assert bars.nth(1).get_attribute("aria-valuenow") is None, "nobody knows how much it will be"
        assert bars.count() == 2, "what is over has no bar"
        fits = page.get_by_role("img", name="too big: needs 45.4 GiB of 12.0 GiB available")
        assert fits.count() == 1, "a bar can be read aloud"
        browser.close()
    assert wide == [], "nothing is cut off or has to be scrolled sideways"
    assert faint == [], "all text can be read"
    assert overlapping == []


def outside(page: Any) -> int:
    """Pixels of the window beside an output."""
    width = page.locator(".jp-OutputArea-output").first.evaluate("node => node.clientWidth")
    return int(page.evaluate("innerWidth") - width)
