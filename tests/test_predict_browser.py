"""The form that takes a guess, in JupyterLab: guessed by keyboard, measured, cancelled, tried again, left as a picture."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.jupyterlab import jupyterlab, notebook, opened, ready, run_cells, themes

pytestmark = pytest.mark.timeout(600)

SAVE = "window.jupyterapp.commands.execute('docmanager:save')"
CELLS = """
%load_ext llmlab
---
asked = %llm predict synthetic:smollm2-135m:Q4_0
---
asked
---
latest = asked.guesses[-1]
print(len(asked.guesses), latest.guess, latest.within(1000.0), latest.measured > 0)
---
%llm ps
"""
BROKEN = """
%load_ext llmlab
import llmlab
---
asked = llmlab.predict("tiny")
asked.model = "./gone.gguf"
asked
---
%llm predict tiny --guess 400
"""
NUMBER = "Your guess, in tokens per second"
SLOW_MS = 180_000


def run_next(page: Any, number: int) -> None:
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
    prompt = page.locator(".jp-CodeCell .jp-InputPrompt").nth(number)
    expect(prompt).to_have_text(f"[{number + 1}]:", timeout=SLOW_MS)


def stage(form: Any, wanted: str) -> None:
    expect(form).to_have_attribute("data-stage", wanted, timeout=SLOW_MS)


def focused(page: Any) -> str:
    return str(page.evaluate("document.activeElement.className || document.activeElement.type"))


def guess_by_keyboard(page: Any, form: Any) -> None:
    measure = form.get_by_role("button", name="Measure")
    number = form.get_by_label(NUMBER)
    # By keyboard alone; what is typed here is no shortcut of JupyterLab's.
    slider = form.get_by_label("Your guess, on a logarithmic slider")
    number.focus()
    page.keyboard.type("0")
    expect(measure).to_be_disabled()
    expect(form.get_by_role("status").last).to_contain_text("A guess is a number above 0")
    page.keyboard.press("Backspace")
    page.keyboard.type("20")
    expect(slider).to_have_attribute("aria-valuetext", "20 tokens per second")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(number).to_have_value("20.4")
    expect(page.locator(".jp-CodeCell")).to_have_count(5)
    form.get_by_role("button", name="Hint").press("Enter")
    expect(form).to_contain_text(
        "tokens per second ≈ memory bandwidth ÷ bytes read per token", timeout=SLOW_MS
    )
    expect(form).to_contain_text("B/s")


def measure_and_cancel(page: Any, form: Any) -> None:
    number = form.get_by_label(NUMBER)
    # Cancelled: the guess is there still, and nothing was measured.
    number.press("Enter")
    stage(form, "measuring")
    expect(number).to_be_disabled()
    assert focused(page) == "llmlab-predict-cancel"
    page.keyboard.press("Enter")
    stage(form, "asking")
    expect(number).to_have_value("20.4")
    expect(form.locator(".llmlab-predict-outcome")).to_be_hidden()


def measure_at_last(page: Any, form: Any) -> None:
    number = form.get_by_label(NUMBER)
    outcome = form.locator(".llmlab-predict-outcome")
    number.fill("20")
    number.press("Enter")
    stage(form, "measured")
    expect(outcome).to_contain_text("You guessed")
    expect(outcome.locator("[data-rate]")).to_have_count(3)
    expect(outcome.locator("[data-earlier]")).to_have_count(0)
    # The page has built the form anew to hold what came out; the keyboard is where it was.
    page.wait_for_function("document.activeElement.className.includes('llmlab-predict-again')")


def try_again(page: Any, form: Any) -> None:
    number = form.get_by_label(NUMBER)
    outcome = form.locator(".llmlab-predict-outcome")
    page.keyboard.press("Enter")
    stage(form, "asking")
    expect(number).to_have_value("")
    assert page.evaluate("document.activeElement.type") == "number"
    page.keyboard.type("300")
    page.keyboard.press("Enter")
    stage(form, "measured")
    expect(outcome.locator("[data-earlier]")).to_have_count(3)
    expect(outcome.locator("[data-earlier='20']")).to_have_count(1)


@pytest.mark.parametrize("theme", themes("Dark"))
def test_a_guess_is_made_by_keyboard_measured_tried_again_and_left_as_a_picture(
    theme, tmp_path, artifacts, require_browser, require_engine
):
    source = notebook(CELLS)
    (tmp_path / "predict.ipynb").write_text(source)
    cells = json.loads(source)["cells"]
    problems: list[str] = []
    with (
        jupyterlab(tmp_path, theme=theme) as address,
        opened(address, "predict.ipynb", require_browser, cells=len(cells)) as page,
    ):
        page.on("pageerror", lambda error: problems.append(str(error)))
        run_cells(page, cells[:3])
        cell = page.locator(".jp-CodeCell").nth(2)
        form = cell.locator(".llmlab-predict")
        expect(form).to_contain_text("How many tokens per second will synthetic:smollm2-135m:Q4_0 generate?")
        expect(form).to_contain_text("read per token")
        expect(form.get_by_role("button", name="Measure")).to_be_disabled()
        expect(form.get_by_text("Memory bandwidth, measured")).to_have_count(0)

        guess_by_keyboard(page, form)
        form.scroll_into_view_if_needed()
        form.screenshot(path=artifacts / f"predict-asking-{theme.lower()}.png")

        measure_and_cancel(page, form)
        measure_at_last(page, form)
        page.evaluate(SAVE)
        page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
        beside = json.loads((tmp_path / "predict.ipynb").read_text())["cells"][2]["outputs"][0]["data"]
        assert "You guessed" in "".join(beside["text/html"])

        try_again(page, form)
        form.scroll_into_view_if_needed()
        form.screenshot(path=artifacts / f"predict-measured-{theme.lower()}.png")

        # The same question in another cell is the same form.
        for n in (3, 4):
            page.locator(".jp-Notebook .jp-Cell").nth(n).click()
            run_next(page, n)
        printed = page.locator(".jp-CodeCell").nth(3).locator(".jp-OutputArea-output")
        expect(printed).to_have_text("2 300.0 True True")
        expect(page.locator(".jp-CodeCell").nth(4)).not_to_contain_text("roofline-")

        form.get_by_role("button", name="Done").press("Enter")
        expect(cell.locator(".llmlab-predict")).to_have_count(0)
        picture = cell.locator(".jp-OutputArea-output")
        expect(picture).to_contain_text("You guessed")
        expect(picture.locator("[data-earlier]")).to_have_count(3)
        picture.screenshot(path=artifacts / f"predict-done-{theme.lower()}.png")
        page.evaluate(SAVE)
        page.wait_for_function("!document.querySelector('.jp-mod-dirty')")

        # Whoever opens the file later sees the same.
        page.reload()
        ready(page, len(cells))
        expect(page.locator(".jp-CodeCell").nth(2)).to_contain_text("You guessed")
    assert problems == []
    saved = json.loads((tmp_path / "predict.ipynb").read_text())
    kept = saved["cells"][2]["outputs"][0]["data"]
    assert set(kept) == {"text/html", "text/plain"}
    assert "<svg" in "".join(kept["text/html"])
    assert "You guessed" in "".join(kept["text/plain"])


@pytest.mark.parametrize("theme", ["Light"])
def test_what_cannot_be_measured_is_said_and_asked_again(
    theme, tmp_path, artifacts, require_browser, require_engine
):
    source = notebook(BROKEN)
    (tmp_path / "broken.ipynb").write_text(source)
    cells = json.loads(source)["cells"]
    with (
        jupyterlab(tmp_path, theme=theme) as address,
        opened(address, "broken.ipynb", require_browser, cells=len(cells)) as page,
    ):
        run_cells(page, cells)
        form = page.locator(".llmlab-predict")
        slider = form.get_by_label("Your guess, on a logarithmic slider")
        slider.focus()
        page.keyboard.press("End")
        expect(form.get_by_label(NUMBER)).to_have_value("10000")
        form.get_by_role("button", name="Measure").click()
        expect(form.get_by_role("alert")).to_contain_text("It could not be measured", timeout=SLOW_MS)
        expect(form.get_by_role("alert")).to_contain_text("gone.gguf")
        stage(form, "asking")
        expect(form.get_by_label(NUMBER)).to_have_value("10000")
        form.screenshot(path=artifacts / f"predict-error-{theme.lower()}.png")
        # With a guess there is no form: the cell waits, and shows what came out.
        last = page.locator(".jp-CodeCell").nth(2)
        expect(last).to_contain_text("You guessed")
        expect(last.locator("[data-rate]")).to_have_count(3)
        last.screenshot(path=artifacts / f"predict-at-once-{theme.lower()}.png")
