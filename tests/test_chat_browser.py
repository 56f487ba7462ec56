"""The chat in JupyterLab, and what a hostile model writes: in a real browser, in a notebook that is trusted."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbconvert
import pytest
from playwright.sync_api import expect

from tests.hostile import corpus
from tests.jupyterlab import jupyterlab, notebook, opened, ready, run_cells, themes

pytestmark = pytest.mark.timeout(600)

SAVE = "window.jupyterapp.commands.execute('docmanager:save')"
TRUSTED = "window.jupyterapp.shell.currentWidget.content.widgets.every(cell => cell.model.trusted)"
TYPESET_MS = 4000
# What a script, or a link that would run one, leaves in the page.
TRACES = """() => ({
    canary: window.canary ?? 0,
    // JupyterLab itself makes links of addresses in what is printed; none of them runs anything.
    links: [...document.querySelectorAll('a, [*|href]')]
        .filter(node => !node.closest('[data-mime-type$=stdout]') || /^\\s*javascript:/i.test(node.href))
        .map(node => node.getAttribute('href') ?? node.getAttributeNS('http://www.w3.org/1999/xlink', 'href') ?? '')
        .filter(address => /^\\s*(javascript|data|vbscript|file):/i.test(address)),
    formulas: document.querySelectorAll('mjx-container, .MathJax').length,
    frames: document.querySelectorAll('.jp-OutputArea iframe, .jp-OutputArea object, .jp-OutputArea form').length,
    images: document.querySelectorAll('.jp-OutputArea img').length,
})"""
CLEAN = {"canary": 0, "links": [], "formulas": 0, "frames": 0, "images": 0}


@contextmanager
def canary() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine that nobody may ask; yields its address and what was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


HOSTILE = """
import json
from IPython.display import HTML, display
from llmlab.results import Answer
from tests.hostile import corpus
%load_ext llmlab
texts = corpus(ADDRESS)
def answer(text):
    return Answer(text=text, server="a", finish_reason="stop", ttft_s=0.1, total_s=1.0,
                  prompt_tokens=3, completion_tokens=5, tokens_per_s=10.0)
---
for text in texts.values(): display(answer(text))
---
for text in texts.values(): display(answer(text).markdown())
---
for text in texts.values(): print(answer(text[:20_000]))
---
from llmlab.reporting import reporter
for text in texts.values():
    reporter().asked("?", "a")
    for at in range(0, min(len(text), 3000), 500): reporter().text(text[at:at + 500])
    reporter().answered(answer(text[:3000]))
---
from llmlab.chatting import Chat
from llmlab.lab import Server
from llmlab.reporting import Reporter, reporting_to
from tests import examples
class Scripted(Server):
    def send(self, request, on_text, cancel=None):
        text = texts[request.prompt][:60_000]
        for at in range(0, len(text), 20_000): on_text(text[at:at + 20_000])
        return answer(text)
chat = Chat(Scripted(examples.record(name="a")))
chat
---
with reporting_to(Reporter()):
    for name in texts: chat.say(name)
"""
CONTROL = r"""
from IPython.display import HTML, display
display(HTML(r"<div>$\href{https://example.org/?q=secret}{x}$</div>"))
display(HTML(f"<img src='{ADDRESS}/control.png' onerror='window.canary=1'>"))
"""


def test_where_nobody_takes_care_all_of_it_happens(tmp_path, require_browser):
    # The other test sees what it looks for.
    with canary() as (address, asked):
        control = notebook(CONTROL.replace("{ADDRESS}", address))
        (tmp_path / "control.ipynb").write_text(control)
        with (
            jupyterlab(tmp_path, theme="Light") as lab,
            opened(lab, "control.ipynb", require_browser, cells=1) as page,
        ):
            run_cells(page, json.loads(control)["cells"])
            page.locator("mjx-container").wait_for()
            found = page.evaluate(TRACES)
        assert found["canary"] == 1
        assert found["formulas"], "MathJax makes links and styles of formulas"
        assert "/control.png" in asked


def test_nothing_that_a_model_writes_runs_or_loads_anything(
    tmp_path, artifacts, require_browser, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    with canary() as (address, asked):
        source = notebook(HOSTILE.replace("ADDRESS", repr(address)))
        (tmp_path / "hostile.ipynb").write_text(source)
        with (
            jupyterlab(tmp_path, theme="Light") as lab,
            opened(lab, "hostile.ipynb", require_browser, cells=7) as page,
        ):
            dialogs = watched(page)
            cells = json.loads(source)["cells"]
            run_cells(page, cells)
            said = page.locator(".llmlab-c-reply[data-state=done]")
            expect(said).to_have_count(len(corpus(address)), timeout=60_000)
            page.wait_for_timeout(TYPESET_MS)
            assert page.evaluate(TRUSTED), "what is trusted is not sanitised"
            assert page.evaluate(TRACES) == CLEAN
            assert page.locator(".jp-mod-error, [data-mime-type*=stderr]").count() == 0
            blocked = page.locator(".jp-OutputArea-output summary", has_text="Blocked: 2 images")
            expect(blocked.first).to_be_visible()
            page.evaluate(SAVE)
            page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
            page.reload()
            page.locator(".jp-OutputArea-output summary").first.wait_for()
            expect(said).to_have_count(len(corpus(address)), timeout=60_000)
            page.wait_for_timeout(TYPESET_MS)
            assert page.evaluate(TRUSTED)
            assert page.evaluate(TRACES) == CLEAN, "a saved notebook, opened again"
            assert dialogs == []
        assert asked == [], "no request has left"
        page_of(tmp_path / "hostile.ipynb", require_browser, artifacts)
        assert asked == [], "nor from the page that nbconvert makes"


CHAT = """
%load_ext llmlab
import llmlab
%llm start tiny --name a --native
%llm start tiny --name b --native --slots 1
%llm start synthetic:smollm2-135m:Q4_0 --name slow --native --context 4096
---
talk = %llm chat a
talk
---
both = llmlab.chat("a", "b")
both
---
slow = llmlab.chat("slow", max_tokens=4000)
slow
---
print(len(talk.exchanges), len(both.exchanges), slow.exchanges[0].replies[0].seen_stopped)
llmlab.stop(all=True);
"""


@pytest.mark.parametrize("theme", themes("Dark"))
def test_a_conversation_is_typed_streamed_stopped_reloaded_and_saved(  # noqa: PLR0915 - a session
    theme, tmp_path, artifacts, require_browser, require_engine
):
    source = notebook(CHAT)
    (tmp_path / "chat.ipynb").write_text(source)
    cells = json.loads(source)["cells"]
    problems: list[str] = []
    with (
        jupyterlab(tmp_path, theme=theme) as address,
        opened(address, "chat.ipynb", require_browser, cells=len(cells)) as page,
    ):
        page.on("pageerror", lambda error: problems.append(str(error)))
        run_cells(page, cells[:4])
        view = page.locator(".llmlab-chat").first
        expect(view.locator(".llmlab-c-unsaved")).to_be_hidden()
        # Keys: Enter sends, Shift+Enter begins a line; letters are no commands of JupyterLab's.
        ask(view, "What is a container?")
        replies = view.locator(".llmlab-c-reply")
        expect(replies).to_have_count(1)
        expect(replies.first).to_have_attribute("data-state", "done")
        expect(replies.first).to_contain_text("process")
        expect(replies.first).to_contain_text("TTFT")
        assert page.locator(".jp-Cell").count() == len(cells), "no key was a command"
        expect(view.locator(".llmlab-c-input")).to_be_focused()
        view.locator(".llmlab-c-input").press_sequentially("And a GPU?")
        view.locator(".llmlab-c-input").press("Shift+Enter")
        view.locator(".llmlab-c-input").press_sequentially("In short.")
        view.locator(".llmlab-c-input").press("Enter")
        expect(view.locator(".llmlab-c-asked").nth(1)).to_have_text("And a GPU?\nIn short.")
        expect(replies.nth(1)).to_have_attribute("data-state", "done")

        # Probabilities: colours, lines, and words for whoever goes through them by keys.
        view.locator(".llmlab-c-probabilities").click()
        ask(view, "What is an image?")
        expect(replies.nth(2)).to_have_attribute("data-state", "done")
        tokens = replies.nth(2).locator(".llmlab-c-tokens .llmlab-c-token")
        expect(tokens.first).to_be_visible()
        replies.nth(2).locator(".llmlab-c-tokens").press("ArrowRight")
        replies.nth(2).locator(".llmlab-c-tokens").press("ArrowRight")
        expect(replies.nth(2).locator(".llmlab-c-told")).to_contain_text("%")
        view.scroll_into_view_if_needed()
        view.screenshot(path=artifacts / f"chat-{theme.lower()}.png")
        view.locator(".llmlab-c-probabilities").click()

        # Settings: what does not fit is refused.
        view.locator(".llmlab-c-settings-button").click()
        view.locator(".llmlab-c-field-max_tokens").fill("20")
        view.locator(".llmlab-c-field-temperature").fill("1.9")
        view.locator(".llmlab-c-field-temperature").press("Tab")
        view.screenshot(path=artifacts / f"chat-settings-{theme.lower()}.png")
        ask(view, "Tell me everything about containers")
        expect(replies.nth(3)).to_contain_text("ended length")

        # Stop: it says so when the server was seen to have stopped.
        slow = page.locator(".llmlab-chat").nth(2)
        ask(slow, "Go on")
        slow.locator(".llmlab-c-stop").click()
        expect(slow.locator(".llmlab-c-reply")).to_have_attribute("data-state", "stopped", timeout=30_000)
        expect(slow).to_contain_text("the server stopped generating within")

        # Two columns with one question.
        two = page.locator(".llmlab-chat").nth(1)
        ask(two, "What is a container?")
        expect(two.locator(".llmlab-c-reply[data-state=done]")).to_have_count(2)
        boxes = [two.locator(".llmlab-c-reply").nth(i).bounding_box() for i in range(2)]
        assert boxes[0]["y"] == boxes[1]["y"]
        two.scroll_into_view_if_needed()
        two.screenshot(path=artifacts / f"chat-two-{theme.lower()}.png")

        # Exported by a click.
        with page.expect_download() as download:
            view.locator(".llmlab-c-export-md").click()
        assert "What is a container?" in Path(download.value.path()).read_text()

        # Loaded anew: everything is there, and goes on.
        page.evaluate(SAVE)
        page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
        page.reload()
        ready(page, len(cells))
        expect(replies).to_have_count(4)
        expect(replies.nth(3)).to_contain_text("ended length")
        expect(view.locator(".llmlab-c-unsaved")).to_be_visible()
        expect(two.locator(".llmlab-c-reply")).to_have_count(2)
        ask(view, "What is a GPU?")
        expect(replies.nth(4)).not_to_have_attribute("data-state", "waiting")
        expect(view).to_have_attribute("data-busy", "false")
        expect(page.locator("[data-llmlab-chat]").first).to_be_hidden()
        page.evaluate(SAVE)
        page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
        page.locator(".jp-Notebook .jp-Cell").last.click()
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
        expect(page.locator(".jp-CodeCell").nth(len(cells) - 1)).to_contain_text("5 1 True")
    assert problems == []
    saved = json.loads((tmp_path / "chat.ipynb").read_text())
    outputs = [output["data"] for output in saved["cells"][1]["outputs"]]
    assert "Tell me everything about containers" in "".join(outputs[0]["text/plain"])
    assert "TTFT" in "".join(outputs[0]["text/html"])
    stopped = "".join(saved["cells"][3]["outputs"][0]["data"]["text/html"])
    assert "the server stopped generating" in stopped
    exported = nbconvert.HTMLExporter().from_filename(str(tmp_path / "chat.ipynb"))[0]
    assert exported.count("What is a container?") >= 2
    (artifacts / f"chat-saved-{theme.lower()}.html").write_text(exported)


def ask(view: Any, text: str) -> None:
    """Type a question and send it."""
    view.locator(".llmlab-c-input").press_sequentially(text)
    view.locator(".llmlab-c-input").press("Enter")
    expect(view.locator(".llmlab-c-asked").last).to_have_text(text)


def watched(page: Any) -> list[str]:
    """The dialogs that the page opens from now on; empty unless a script has run."""
    dialogs: list[str] = []

    def opened_dialog(dialog: Any) -> None:
        if dialog.type != "beforeunload":  # that is JupyterLab's own
            dialogs.append(dialog.message)
        dialog.accept()

    page.on("dialog", opened_dialog)
    return dialogs


def page_of(path: Path, browser: str, artifacts: Path) -> None:
    """Make the notebook into a page, open it, and see that nothing happens there either."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    file = artifacts / f"{path.stem}.html"
    file.write_text(nbconvert.HTMLExporter().from_filename(str(path))[0])
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = running.new_page()
        dialogs = watched(page)
        # MathJax of its own it would load from elsewhere.
        page.route("https://**", lambda route: route.abort())
        page.goto(f"file://{file}")
        page.locator(".jp-OutputArea-output").first.wait_for()
        page.wait_for_timeout(1000)
        found = page.evaluate(TRACES)
        running.close()
    assert dialogs == []
    assert found == CLEAN
