"""Pages that are loaded anew and kernels that are restarted while something is shown, in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

import llmlab
from llmlab.lab import registry
from tests.conftest import eventually
from tests.faults.contract import promise
from tests.jupyterlab import SESSION, jupyterlab, notebook, opened, ready, run_cells

pytestmark = pytest.mark.timeout(600)

SAVE = "window.jupyterapp.commands.execute('docmanager:save')"
SAVED = "!document.querySelector('.jp-mod-dirty')"
RESTART = f"{SESSION}.session.kernel.restart()"
LOOKS = "Number(document.querySelector('.llmlab-live')?.dataset.looks ?? 0)"

CHAT = """
%load_ext llmlab
import llmlab
---
talk = llmlab.chat("slow")
talk
---
print(talk.exchanges[0].replies[0].text)
"""
VIEWS = """
%load_ext llmlab
import llmlab
---
seen = %llm monitor --hz 4
---
talk = llmlab.chat("slow")
talk
---
%llm panel
"""


@contextmanager
def shown(tmp_path: Path, browser: str, source: str, *, run: int) -> Iterator[Any]:
    """A page whose first cells have been run; no script of it has failed at the end."""
    whole = notebook(source)
    (tmp_path / "page.ipynb").write_text(whole)
    cells = json.loads(whole)["cells"]
    problems: list[str] = []
    with (
        jupyterlab(tmp_path, theme="Light") as address,
        opened(address, "page.ipynb", browser, cells=len(cells)) as page,
    ):
        page.on("pageerror", lambda error: problems.append(str(error)))
        run_cells(page, cells[:run])
        yield page
    assert problems == []


@pytest.fixture
def slow(require_docker, require_engine) -> Iterator[llmlab.Server]:
    """A server with a hundredth of a CPU, so that it can be halted in the middle of an answer."""
    with llmlab.start("tiny", name="slow", backend="container", slots=1) as server:
        limit(server, "0.01")
        yield server


def limit(server: llmlab.Server, cpus: str) -> None:
    command = ["docker", "update", "--cpus", cpus, str(server.record.container_id)]
    subprocess.run(command, capture_output=True, check=True)


def tell(server: llmlab.Server, number: int) -> None:
    """Send its process a signal; a container that is short of CPU can hardly be paused."""
    os.kill(int(server.inspect().facts["pid"]), number)


def busy(server: llmlab.Server) -> bool:
    return bool(registry.client(server.record).busy_slots())


def halted_in_mid_answer(page: Any, server: llmlab.Server) -> Any:
    """The reply to a question, of which the page has shown some words, and of which no more comes."""
    view = page.locator(".llmlab-chat").first
    view.locator(".llmlab-c-input").fill("What is a container?")
    view.locator(".llmlab-c-input").press("Enter")
    reply = view.locator(".llmlab-c-reply").first
    expect(reply).to_have_attribute("data-state", "writing", timeout=60_000)
    tell(server, signal.SIGSTOP)
    expect(reply).to_have_attribute("data-state", "writing")
    return reply


@promise(
    part="Notebooks and kernels",
    fault="The page is loaded anew in the browser in the middle of a chat's answer",
    sees="What was said by then, and the rest of the answer as it is written; then it can be asked again",
    keeps="The whole conversation, the answer without a gap: it is written by the kernel, not by the page",
    cleans="Nothing is to be cleaned",
    within_s=60,
)
def test_an_answer_goes_on_when_the_page_is_loaded_anew(tmp_path, require_browser, slow, bound):
    with shown(tmp_path, require_browser, CHAT, run=2) as page:
        reply = halted_in_mid_answer(page, slow)
        body = reply.locator(".llmlab-c-body")
        before = body.inner_text()
        page.evaluate(SAVE)
        page.wait_for_function(SAVED)
        page.reload()
        ready(page, 3)
        expect(reply).to_have_attribute("data-state", "writing", timeout=bound * 1000)
        assert body.inner_text().startswith(before.strip())
        tell(slow, signal.SIGCONT)
        expect(reply).to_have_attribute("data-state", "done", timeout=bound * 1000)
        page.locator(".jp-CodeCell .jp-InputArea-editor").nth(2).click()
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
        said = page.locator(".jp-CodeCell").nth(2).locator(".jp-OutputArea-output")
        expect(said).to_contain_text("container")
        assert plain(said) == plain(body)
        limit(slow, "1")
        view = page.locator(".llmlab-chat").first
        view.locator(".llmlab-c-input").fill("What is a GPU?")
        view.locator(".llmlab-c-input").press("Enter")
        expect(view.locator(".llmlab-c-reply").nth(1)).to_have_attribute("data-state", "done")


def plain(found: Any) -> list[str]:
    """The words of it."""
    return str(found.inner_text()).split()


@promise(
    part="Notebooks and kernels",
    fault="The kernel is restarted while a monitor, a panel and a chat are shown, and an answer is being written",
    sees="Monitor and panel say that there is no news, the chat says it when it is used; run again, each cell shows"
    " what there is",
    keeps="The servers, and what the page and the file show; a conversation lives in its kernel and is gone",
    cleans="The server stops generating by itself, since nobody reads",
    within_s=60,
)
def test_a_kernel_is_restarted_while_views_are_shown(tmp_path, require_browser, slow, bound):
    with shown(tmp_path, require_browser, VIEWS, run=4) as page:
        page.wait_for_function(f"{LOOKS} > 4")
        halted_in_mid_answer(page, slow)
        page.evaluate(RESTART)
        ready(page, 4)
        limit(slow, "1")
        tell(slow, signal.SIGCONT)
        eventually(lambda: not busy(slow), bound)
        assert [(row.name, row.state) for row in llmlab.ps()] == [("slow", "ready")]
        cells = page.locator(".jp-CodeCell")
        cells.nth(2).locator(".llmlab-c-stop").click()
        expect(cells.nth(2).locator(".llmlab-chat")).to_contain_text("The kernel has ended")
        cells.nth(3).locator(".llmlab-panel").scroll_into_view_if_needed()
        expect(cells.nth(3).locator(".llmlab-panel")).to_contain_text("No news for", timeout=bound * 1000)
        expect(cells.nth(1).locator(".llmlab-live")).to_contain_text("no news for", timeout=bound * 1000)
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        expect(cells.nth(3).locator(".llmlab-p-card[data-state=ready]")).to_contain_text(
            "slow", timeout=bound * 1000
        )
        page.wait_for_function(f"{LOOKS} > 4", timeout=bound * 1000)
        view = cells.nth(2).locator(".llmlab-chat")
        expect(view.locator(".llmlab-c-reply")).to_have_count(0)
        view.locator(".llmlab-c-input").fill("What is a GPU?")
        view.locator(".llmlab-c-input").press("Enter")
        expect(view.locator(".llmlab-c-reply")).to_have_attribute("data-state", "done", timeout=bound * 1000)
