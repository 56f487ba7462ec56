"""JupyterLab in a real browser: the first notebook, cell by cell, as a learner sees it.

Screenshots are left in `$LLMLAB_ARTIFACTS`, or in pytest's temporary folder:
look at them after a change to `llmlab.render` or `llmlab.notebook.cards`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.jupyterlab import jupyterlab, notebook, opened, run_cells, themes

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "01-first-model.ipynb"
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


@pytest.mark.parametrize("theme", themes("Light"))
def test_the_first_notebook_in_jupyterlab(theme, tmp_path, artifacts, require_browser, require_engine):
    shutil.copy(NOTEBOOK, tmp_path / "first.ipynb")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell["id"] for cell in cells if cell["cell_type"] == "code"]
    problems: list[str] = []
    with (
        jupyterlab(tmp_path, theme=theme) as address,
        opened(address, "first.ipynb", require_browser, cells=len(cells)) as page,
    ):
        page.on("pageerror", lambda error: problems.append(str(error)))
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
    assert wide == [], "nothing is cut off or has to be scrolled sideways"
    assert problems == []


@pytest.mark.parametrize("theme", themes("Dark"))
def test_models_and_their_progress_in_jupyterlab(theme, tmp_path, artifacts, require_browser, monkeypatch):
    (tmp_path / "views.ipynb").write_text(notebook(VIEWS))
    cells = json.loads(notebook(VIEWS))["cells"]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    with (
        jupyterlab(tmp_path, theme=theme) as address,
        opened(address, "views.ipynb", require_browser, cells=len(cells)) as page,
    ):
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
    assert wide == [], "nothing is cut off or has to be scrolled sideways"
    assert faint == [], "all text can be read"
    assert overlapping == []


def outside(page: Any) -> int:
    """Pixels of the window beside an output."""
    width = page.locator(".jp-OutputArea-output").first.evaluate("node => node.clientWidth")
    return int(page.evaluate("innerWidth") - width)
