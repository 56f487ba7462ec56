"""Jupyter Notebook 7 in a real browser: the newcomer's path, what is saved, and how it looks in both themes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import nbconvert
import pytest
from playwright.sync_api import expect

from tests.conftest import missing
from tests.jupyterlab import CELL_MS, jupyterlab, notebook, opened, ready

pytestmark = pytest.mark.timeout(600)

SAVE = "window.jupyterapp.commands.execute('docmanager:save')"
TRUSTED = "window.jupyterapp.shell.currentWidget.content.widgets.every(cell => cell.model.trusted)"
CELLS = """
%load_ext llmlab
%llm start tiny
---
nonsense = "x" * 300
---
%llm ask tiny "{{nonsense}}" --max-tokens 700
---
%llm ask tiny "What is a container?"
---
%llm ask tyni "What is a container?"
---
%llm panel
---
talk = %llm chat tiny
talk
---
seen = %llm monitor --hz 4
---
final = seen.stop()
---
%llm predict tiny
---
%llm stop --all
"""
NONSENSE, STREAM, ASK, ERROR, PANEL, CHAT, MONITOR, STOP, PREDICT, END = range(1, 11)
# How long the text of a cell's output is, each time it changes.
WATCH = """number => {
    const area = document.querySelectorAll('.jp-CodeCell')[number].querySelector('.jp-OutputArea');
    window.lengths = [];
    new MutationObserver(() => window.lengths.push(area.innerText.length))
        .observe(area, {childList: true, subtree: true, characterData: true});
}"""
WIDER_THAN_THEIR_CELL = """() => [...document.querySelectorAll('.jp-OutputArea-output')]
    .filter(output => output.scrollWidth > output.clientWidth + 1)
    .map(output => output.innerText.slice(0, 80))
"""


@pytest.fixture(scope="session")
def require_notebook() -> None:
    """Jupyter Notebook 7."""
    if importlib.util.find_spec("notebook") is None:
        missing("notebook", "no module notebook")


def run_cell(page: Any, number: int) -> Any:
    """Run a cell to its end; its outputs."""
    page.evaluate(f"window.jupyterapp.shell.currentWidget.content.activeCellIndex = {number}")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    cell = page.locator(".jp-CodeCell").nth(number)
    expect(cell.locator(".jp-InputPrompt")).to_have_text(f"[{number + 1}]:", timeout=CELL_MS)
    return cell.locator(".jp-OutputArea")


def test_a_newcomers_path_in_notebook_7(
    tmp_path, artifacts, require_notebook, require_browser, require_engine
):
    source = notebook(CELLS)
    (tmp_path / "first.ipynb").write_text(source)
    problems: list[str] = []
    with (
        jupyterlab(tmp_path, theme="Light", application="notebook") as address,
        opened(address, "first.ipynb", require_browser, cells=len(json.loads(source)["cells"])) as page,
    ):
        page.on("pageerror", lambda error: problems.append(str(error)))
        expect(run_cell(page, 0)).to_contain_text("✓ start tiny")
        run_cell(page, NONSENSE)
        asked_in_cells(page)
        started_and_stopped_by_clicks(page)
        asked_in_the_chat(page)
        watched_live(page)
        look(page, artifacts, "live")
        run_cell(page, STOP)
        expect(page.locator(".jp-CodeCell").nth(MONITOR).locator(".jp-OutputArea svg").first).to_be_visible()
        assert page.locator(".llmlab-live").count() == 0
        asked_for_a_guess(page)
        look(page, artifacts, "stopped")
        assert page.evaluate(WIDER_THAN_THEIR_CELL) == []
        run_cell(page, END)
        page.evaluate(SAVE)
        page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
        # Looked at here: while it loads a page, Notebook 7.6 makes an error of its own.
        assert problems == []
        reopened_untrusted(page, address, tmp_path, artifacts)
    exported = nbconvert.HTMLExporter().from_filename(str(tmp_path / "first.ipynb"))[0]
    (artifacts / "notebook7.html").write_text(exported)
    saved_forms_are_in(exported)


def asked_in_cells(page: Any) -> None:
    page.evaluate(WATCH, STREAM)
    expect(run_cell(page, STREAM)).to_contain_text("TTFT")
    lengths = page.evaluate("window.lengths")
    assert len(set(lengths)) > 3, "the answer grew while it came"
    expect(run_cell(page, ASK)).to_contain_text("process")
    error = run_cell(page, ERROR)
    expect(error).to_contain_text("did you mean 'tiny'")
    assert "Traceback" not in error.inner_text()


def started_and_stopped_by_clicks(page: Any) -> None:
    run_cell(page, PANEL)
    view = page.locator(".llmlab-panel")
    card = view.locator(".llmlab-p-card[data-server=tiny-2]")
    view.locator(".llmlab-p-model[data-model=tiny] input").first.check()
    view.locator(".llmlab-p-start").first.click()
    expect(card).to_have_attribute("data-state", "ready", timeout=CELL_MS)
    card.locator(".llmlab-p-stop").click()
    expect(card).to_have_count(0, timeout=CELL_MS)


def asked_in_the_chat(page: Any) -> None:
    cells = page.locator(".jp-Cell").count()
    run_cell(page, CHAT)
    view = page.locator(".llmlab-chat")
    view.locator(".llmlab-c-input").press_sequentially("Add a GPU, please, and dd")
    view.locator(".llmlab-c-input").press("Enter")
    reply = view.locator(".llmlab-c-reply")
    expect(reply).to_have_attribute("data-state", "done", timeout=CELL_MS)
    expect(reply).to_contain_text("TTFT")
    expect(view.locator(".llmlab-c-asked")).to_have_text("Add a GPU, please, and dd")
    assert page.locator(".jp-Cell").count() == cells, "no key was a command"


def watched_live(page: Any) -> None:
    run_cell(page, MONITOR)
    page.wait_for_function("Number(document.querySelector('.llmlab-live')?.dataset.looks) > 8")
    expect(page.locator(".llmlab-live")).to_contain_text("tiny")


def asked_for_a_guess(page: Any) -> None:
    form = run_cell(page, PREDICT)
    measure = form.get_by_role("button", name="Measure")
    expect(measure).to_be_disabled()
    form.get_by_label("Your guess, in tokens per second").fill("400")
    expect(measure).to_be_enabled()


def look(page: Any, artifacts: Path, name: str) -> None:
    """The whole notebook as a picture, in both themes."""
    height = page.evaluate("document.querySelector('.jp-WindowedPanel-inner').scrollHeight") + 260
    page.set_viewport_size({"width": 1180, "height": min(height, 12_000)})
    for theme in ("Dark", "Light"):
        page.evaluate(
            f"window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})"
        )
        expect(page.locator("body")).to_have_attribute("data-jp-theme-name", f"JupyterLab {theme}")
        page.wait_for_timeout(500)  # charts are drawn again
        page.screenshot(path=artifacts / f"notebook7-{name}-{theme.lower()}.png")


def reopened_untrusted(page: Any, address: str, folder: Path, artifacts: Path) -> None:
    saved = json.loads((folder / "first.ipynb").read_text())
    saved["cells"][0]["source"] = "%load_ext llmlab  # by somebody else"
    (folder / "untrusted.ipynb").write_text(json.dumps(saved))
    page.goto(address.format("untrusted.ipynb"))
    ready(page, len(saved["cells"]))
    assert not page.evaluate(TRUSTED)
    look(page, artifacts, "untrusted")
    saved_forms_are_in(page.locator(".jp-Notebook").inner_html())
    assert page.locator(".jp-OutputArea-output .lm-Widget:has-text('model not found')").count() == 0


def saved_forms_are_in(html: str) -> None:
    """What somebody sees who has no kernel: text, and pictures that need no script."""
    assert "TTFT" in html
    assert "did you mean" in html
    assert "Add a GPU, please, and dd" in html, "the conversation"
    assert "as of" in html, "what ran, beside the panel"
    assert "generated" in html, "what was watched"
    assert "How many tokens per second will tiny generate?" in html
