"""The control panel in JupyterLab: a newcomer starts, looks and stops by clicking; others' doings are seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbconvert
import pytest
from playwright.sync_api import expect

import llmlab
from tests.conftest import run_cli
from tests.jupyterlab import jupyterlab, notebook, opened, ready, run_cells, themes

pytestmark = pytest.mark.timeout(600)

SAVE = "window.jupyterapp.commands.execute('docmanager:save')"
RESTART = """async () => {
    const [kernel] = [...window.jupyterapp.serviceManager.kernels.running()];
    const settings = window.jupyterapp.serviceManager.serverSettings;
    const done = await fetch(`${settings.baseUrl}api/kernels/${kernel.id}/restart`, {
        method: 'POST', headers: { Authorization: `token ${settings.token}` },
    });
    return done.status;
}"""
# The least contrast of any text that is seen and can be used, and that text.
CONTRAST = """root => {
    const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
    const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
    const ground = el => {
        const layers = [];
        for (let each = el; each; each = each.parentElement) {
            const colour = parse(getComputedStyle(each).backgroundColor);
            layers.push(colour);
            if (colour[3] === 1) break;
        }
        return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]);
    };
    const light = rgb => rgb.map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    let worst = [99, ''];
    const walk = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    for (let node; (node = walk.nextNode());) {
        const el = node.parentElement;
        if (!node.textContent.trim() || !el.checkVisibility() || el.closest(':disabled, option, .llmlab-p-html, [aria-hidden]')) continue;
        const under = ground(el);
        const [a, b] = [light(over(parse(getComputedStyle(el).color), under)), light(under)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < worst[0]) worst = [ratio, node.textContent];
    }
    return worst;
}"""


expect.set_options(timeout=30_000)  # machines are busy


@contextmanager
def panel(tmp_path: Path, browser: str, *, theme: str, more: str = "1 + 1") -> Iterator[tuple[Any, str]]:
    """A notebook with a panel that is ready; the address with a token goes with it."""
    source = notebook(f"%load_ext llmlab\n---\n%llm panel\n---\n{more}")
    (tmp_path / "panel.ipynb").write_text(source)
    cells = json.loads(source)["cells"]
    problems: list[str] = []
    with (
        jupyterlab(tmp_path, theme=theme) as address,
        opened(address, "panel.ipynb", browser, cells=len(cells)) as page,
    ):
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.set_viewport_size({"width": 1280, "height": 1500})
        run_cells(page, cells[:2])
        expect(page.locator(".llmlab-p-model[data-model=tiny]").first).to_be_visible()
        yield page, address
    assert problems == []


def card(page: Any, name: str) -> Any:
    return page.locator(f".llmlab-p-card[data-server='{name}']").first


def runs(page: Any, name: str) -> Any:
    """The card of a server, once it is ready."""
    found = card(page, name)
    expect(found).to_have_attribute("data-state", "ready", timeout=60_000)
    return found


def click(found: Any, button: str) -> None:
    found.locator(f".llmlab-p-{button}").first.click()


def result(page: Any, verb: str) -> Any:
    """A result that has come."""
    found = page.locator(f".llmlab-p-result[data-verb={verb}]").first
    expect(found).to_have_attribute("data-state", "done", timeout=120_000)
    return found


@pytest.mark.parametrize("theme", themes("Dark"))
def test_a_newcomer_starts_looks_and_stops(
    theme, tmp_path, artifacts, require_browser, require_docker, require_engine
):
    with panel(tmp_path, require_browser, theme=theme) as (page, _):
        view = page.locator(".llmlab-panel").first
        expect(view).to_contain_text("Nothing runs yet")
        page.locator(".llmlab-p-model[data-model=tiny] input").first.check()
        view.get_by_label("context").fill("512")
        expect(view.locator(".llmlab-p-code").nth(0)).to_have_text("%llm start tiny --context 512")
        expect(view.locator(".llmlab-p-code").nth(1)).to_have_text("llmlab.start('tiny', context=512)")
        expect(view.locator(".llmlab-p-verdict")).to_contain_text("it fits")
        click(view, "start")
        tiny = runs(page, "tiny")
        expect(tiny).to_contain_text("isolation: sealed")
        expect(tiny).to_contain_text("context 512")
        expect(view.locator(".llmlab-p-progress")).to_contain_text("ready")

        # Whoever starts and stops elsewhere is seen here.
        run_cli("start", "tiny", "--native", "--name", "terminal")
        expect(runs(page, "terminal")).to_contain_text("not isolated")
        expect(card(page, "terminal")).to_contain_text("MiB")
        click(tiny, "logs")
        expect(result(page, "logs")).to_contain_text("model loaded")
        click(tiny, "audit")
        expect(result(page, "audit")).to_contain_text("network")
        click(page.locator(".llmlab-p-result[data-verb=audit]"), "close")
        expect(page.locator(".llmlab-p-result")).to_have_count(1)

        # A question, and its answer.
        click(tiny, "chat")
        chat = page.locator(".llmlab-chat")
        chat.locator(".llmlab-c-input").fill("What is a container?")
        chat.locator(".llmlab-c-send").click()
        expect(chat.locator(".llmlab-c-chip").first).to_be_visible(timeout=60_000)
        expect(chat.locator(".llmlab-c-body")).to_contain_text(" ")
        page.locator(".jp-OutputArea-output", has=chat).screenshot(
            path=artifacts / f"panel-chat-{theme.lower()}.png"
        )
        page.get_by_role("button", name="Close chat").click()
        expect(chat).to_have_count(0)
        for _ in range(3):
            run_cli("ask", "tiny", "Tell me a story.")
        page.wait_for_function("Number(document.querySelector('.llmlab-panel').dataset.news) > 12")
        ratio, text = view.evaluate(CONTRAST)
        assert ratio >= 4.5, f"{ratio:.2f}: {text}"
        view.screenshot(path=artifacts / f"panel-{theme.lower()}.png")
        run_cli("stop", "terminal")
        expect(card(page, "terminal")).to_have_count(0)
        expect(view.locator(".llmlab-p-remarks")).to_contain_text("terminal was stopped elsewhere")

        # The page is loaded anew: all of it is there again, and can be used.
        page.evaluate(SAVE)
        page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
        page.reload()
        ready(page, 3)
        tiny = runs(page, "tiny")
        expect(result(page, "logs")).to_contain_text("model loaded")
        click(tiny, "stop")
        expect(card(page, "tiny")).to_have_count(0)
        assert len(llmlab.ps()) == 0


@pytest.mark.slow
def test_two_panels_and_two_kernels_agree_and_a_restart_stops_nothing(
    tmp_path, require_browser, require_docker, require_engine
):
    with panel(tmp_path, require_browser, theme="Light", more="%llm panel") as (page, address):
        (tmp_path / "other.ipynb").write_text(notebook("%load_ext llmlab\n---\n%llm panel"))
        run_cell(page, 2)
        expect(page.locator(".llmlab-panel")).to_have_count(2)
        other = page.context.browser.new_page()
        # In a workspace of its own: else the first notebook would be open there, too.
        other.goto(address.replace("/lab/tree", "/lab/workspaces/other/tree").format("other.ipynb"))
        ready(other, 2)
        run_cell(other, 0)
        run_cell(other, 1)
        expect(other.locator(".llmlab-panel")).to_be_visible()

        click(page.locator(".llmlab-panel").nth(1), "start")
        for shown in (page, other):
            runs(shown, "tiny")
        expect(page.locator(".llmlab-p-card[data-server=tiny][data-state=ready]")).to_have_count(2)
        click(card(other, "tiny"), "stop")
        expect(page.locator(".llmlab-p-card")).to_have_count(0)
        expect(page.locator(".llmlab-p-remarks").first).to_contain_text("stopped elsewhere")
        expect(other.locator(".llmlab-p-remarks")).not_to_contain_text("stopped elsewhere")

        click(page.locator(".llmlab-panel").first, "start")
        runs(page, "tiny")
        other.close()
        assert page.evaluate(RESTART) == 200
        ready(page, 3)
        assert [server.name for server in llmlab.ps()] == ["tiny"]
        run_cell(page, 0)
        run_cell(page, 1)
        expect(page.locator(".jp-CodeCell").nth(1).locator(".llmlab-p-card")).to_contain_text("tiny")


def test_what_does_not_fit_and_keys_that_are_typed_into_it(
    tmp_path, artifacts, require_browser, require_docker, require_engine
):
    with panel(tmp_path, require_browser, theme="Dark") as (page, _):
        view = page.locator(".llmlab-panel")
        view.get_by_label("memory limit").fill("30m")
        expect(view.locator(".llmlab-p-verdict")).to_contain_text("Out of memory")
        expect(view.locator(".llmlab-p-start")).to_be_disabled()
        view.screenshot(path=artifacts / "panel-out-of-memory.png")
        view.locator(".llmlab-p-remedy").first.click()
        expect(view.locator(".llmlab-p-verdict")).to_contain_text("it fits")
        expect(view.locator(".llmlab-p-code").first).to_contain_text("--slots 1")

        # By keys alone; the notebook's own (b: a cell below, d d: delete) are not meant here.
        first = page.locator(".llmlab-p-model[data-model=tiny] input").first
        first.focus()
        for key in ("b", "a", "d", "d", "ArrowDown"):
            page.keyboard.press(key)
        expect(page.locator(".jp-Notebook .jp-Cell")).to_have_count(3)
        expect(first).not_to_be_checked()
        page.keyboard.press("ArrowUp")
        expect(first).to_be_checked()
        view.get_by_label("memory limit").fill("")
        view.get_by_label("another model").fill("./not-there.gguf")
        expect(view.locator(".llmlab-p-verdict")).to_contain_text("there is no file")
        expect(view).not_to_contain_text("Traceback")

        # A start that takes a while is cancelled.
        view.get_by_label("another model").fill("synthetic:llama-3.2-1b:Q4_0")
        expect(view.locator(".llmlab-p-verdict")).to_contain_text("it fits")
        page.locator(".llmlab-p-start").click()
        page.locator(".llmlab-p-cancel").click()
        expect(view.locator(".llmlab-p-progress")).to_contain_text("Cancelled", timeout=60_000)
        assert len(llmlab.ps()) == 0


def test_without_a_container_engine_it_says_what_to_do_and_starts_natively(
    tmp_path, artifacts, monkeypatch, require_browser, require_engine
):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with panel(tmp_path, require_browser, theme="Light") as (page, _):
        page.set_viewport_size({"width": 760, "height": 1500})
        view = page.locator(".llmlab-panel")
        expect(view.locator(".llmlab-p-problems")).to_contain_text("no engine")
        expect(view.locator(".llmlab-p-problems")).to_contain_text("unset DOCKER_HOST")
        expect(view).to_contain_text("no GPU")
        expect(view.locator(".llmlab-p-verdict")).to_contain_text("started natively, not isolated")
        click(view, "start")
        expect(runs(page, "tiny")).to_contain_text("not isolated")
        expect(card(page, "tiny").locator(".llmlab-p-audit")).to_be_disabled()
        view.screenshot(path=artifacts / "panel-no-engine.png")
        click(card(page, "tiny"), "stop")
        expect(card(page, "tiny")).to_have_count(0)


def test_a_saved_notebook_keeps_what_ran_and_the_page_hides_it(tmp_path, require_browser, require_engine):
    llmlab.start("tiny", name="kept", backend="native")
    with panel(tmp_path, require_browser, theme="Light") as (page, _):
        runs(page, "kept")
        still = page.locator(".jp-OutputArea-output", has_text="as of")
        expect(still).to_have_count(1)
        expect(still).to_be_hidden()
        page.evaluate(SAVE)
        page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    saved = json.loads((tmp_path / "panel.ipynb").read_text())
    texts = ["".join(each["data"].get("text/plain", "")) for each in saved["cells"][1]["outputs"]]
    assert any("kept" in text and "%llm panel" in text for text in texts)
    exported = nbconvert.HTMLExporter().from_filename(str(tmp_path / "panel.ipynb"))[0]
    assert "kept" in exported
    assert "<strong style" in exported
    assert (tmp_path / "panel.ipynb").stat().st_size < 20_000


def run_cell(page: Any, number: int) -> None:
    """Run one cell, and wait for its end."""
    page.locator(".jp-CodeCell .jp-InputArea-editor").nth(number).click()
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    prompt = page.locator(".jp-CodeCell .jp-InputPrompt").nth(number)
    expect(prompt).not_to_have_text("[*]:", timeout=60_000)
