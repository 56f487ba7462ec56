"""JupyterLab or Jupyter Notebook in a real browser, for tests and benchmarks.

Started apart from the user's own, driven by commands.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import expect, sync_playwright

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
SESSION = "window.jupyterapp.shell.currentWidget?.context?.sessionContext"
# Of each: the module, the name its options have, where a notebook is opened.
APPLICATIONS = {
    "lab": ("jupyterlab", "LabApp", "lab/tree"),
    "notebook": ("notebook", "JupyterNotebookApp", "notebooks"),
}
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


def themes(one: str) -> list[str]:
    """The themes that a long test is run in: one, and both where pictures are wanted (LLMLAB_ARTIFACTS)."""
    return ["Light", "Dark"] if os.environ.get("LLMLAB_ARTIFACTS") else [one]


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
def jupyterlab(folder: Path, *, theme: str, application: str = "lab") -> Iterator[str]:
    """A JupyterLab, or Jupyter Notebook, of its own on `folder`; yields the address with its token."""
    module, options, opens = APPLICATIONS[application]
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
    command = [sys.executable, "-m", module, "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--ip=127.0.0.1", f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}"]
    command += ["--ServerApp.port_retries=0", f"--{options}.expose_app_in_browser=True"]
    log = (home / "jupyterlab.log").open("w")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_for(port, token, process)
        yield f"http://127.0.0.1:{port}/{opens}/{{}}?token={token}"
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
    raise TimeoutError("JupyterLab did not come up")


@contextlib.contextmanager
def opened(address: str, name: str, browser: str, *, cells: int) -> Iterator[Any]:
    """A page with a notebook whose kernel is ready.

    Args:
        address: What `jupyterlab` has yielded.
        name: The notebook's file name.
        browser: The browser's path.
        cells: How many cells it has.
    """
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        page = running.new_page(viewport={"width": 1180, "height": 1000})
        page.set_default_timeout(CELL_MS)
        page.goto(address.format(name))
        ready(page, cells)
        yield page
        running.close()


def ready(page: Any, cells: int) -> None:
    """Wait until a page that has been loaded shows its cells, and its kernel is idle."""
    page.wait_for_function("window.jupyterapp !== undefined")
    page.locator(".jp-Notebook .jp-Cell").nth(cells - 1).wait_for()
    page.wait_for_function(f"{SESSION}?.kernelDisplayStatus === 'idle'", timeout=CELL_MS)


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
