"""The live view's module alone in a real browser, with a model that speaks the protocol.

Screenshots are left in `$LLMLAB_ARTIFACTS`, where it is set: look at them after a change.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright

from tests import live_page
from tests.jupyterlab import FLAGS
from tests.live_page import append, looks, request, spec, state

BLUE, ORANGE = [0x4B, 0x62, 0xE4], [0xF3, 0x65, 0x0E]
PATIENCE_MS = 20_000
EVERYTHING = [0, 1, 0, 1]


@pytest.fixture(scope="module")
def browser_page(require_browser: str) -> Iterator[Page]:
    """One page for all of these tests."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_browser, args=FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": 900}, has_touch=True)
        page.set_default_timeout(PATIENCE_MS)
        page.set_content(live_page.html())
        yield page
        browser.close()


class Shown:
    """A view in the page, and the kernel's side of it."""

    def __init__(self, page: Page, what: dict[str, Any], seen: Any, *requests: Any, views: int = 1) -> None:
        self.page, self.what, self.seq = page, what, len(seen)
        page.evaluate(
            "([state, views]) => show(JSON.parse(state), views)", [state(what, seen, *requests), views]
        )
        self.root = page.locator(".llmlab-live").first
        self.wait("root.dataset.paints > 0")

    def wait(self, condition: str) -> None:
        """Until a condition on `root` and `model` holds."""
        self.page.wait_for_function(
            f"(() => {{ const root = document.querySelector('.llmlab-live'); return {condition}; }})()"
        )

    def data(self, name: str) -> float:
        """One of the figures on the root element."""
        return float(self.root.get_attribute(f"data-{name}") or "nan")

    def send(self, *seen: list[float | None], skipped: int = 0) -> None:
        """An "append" message."""
        self.seq += skipped + len(seen)
        message = {"t": "append", "v": self.what["version"], "seq": self.seq, "n": len(seen)}
        self.page.evaluate("([message, buffer]) => model.message(message, buffer)", [message, append(seen)])

    def history(self, seen: Any) -> None:
        """A "history" message."""
        self.seq = len(seen)
        buffer = live_page.history(self.what["version"], self.seq, seen, len(self.what["rows"]))
        self.page.evaluate("buffer => model.message({ t: 'history' }, buffer)", buffer)

    def respec(self, what: dict[str, Any]) -> None:
        """Another spec."""
        self.what = what
        self.page.evaluate("spec => model.set('spec', spec)", what)

    def sent(self, kind: str) -> int:
        """How many messages of a kind the page has sent."""
        return int(self.page.evaluate("kind => model.sent.filter(each => each.t === kind).length", kind))

    def ink(self, panel: int, part: Any = None, colour: list[int] | None = None) -> dict[str, float]:
        """Shares of pixels in a part of a plot: with `some` ink, and with ink `like` a colour."""
        script = (
            "([panel, part, colour]) => ink(document.querySelectorAll('.llmlab-panel')[panel], part, colour)"
        )
        found: dict[str, float] = self.page.evaluate(script, [panel, part or EVERYTHING, colour])
        return found

    def painted(self) -> None:
        """Wait for what has been asked for to be drawn: it is drawn with the page's next frame."""
        frame = "new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
        self.page.evaluate(f"() => {frame}")


@pytest.fixture
def show(browser_page: Page, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Shows a model's views; afterwards they are gone and nothing has failed in the page."""

    def shown(what: dict[str, Any], seen: Any, *requests: Any, views: int = 1) -> Shown:
        return Shown(browser_page, what, seen, *requests, views=views)

    browser_page.mouse.move(0, 0)
    browser_page.evaluate("() => { errors.length = 0; document.body.dataset.jpThemeLight = 'true'; }")
    yield shown
    if folder := os.environ.get("LLMLAB_ARTIFACTS"):
        browser_page.screenshot(path=Path(folder) / f"{request.node.name}.png", full_page=True)
    browser_page.evaluate("cleanup()")
    assert browser_page.locator(".llmlab-live").count() == 0
    assert browser_page.evaluate("model.listeners") == [], "a view that is gone listens to nothing"
    assert browser_page.evaluate("errors") == []


def flat(
    what: dict[str, Any], count: int, value: float | None, since: float = 0.0
) -> list[list[float | None]]:
    """Looks that all see the same."""
    return [[since + i / what["hz"], *([value] * len(what["rows"]))] for i in range(count)]


def test_the_first_picture_needs_no_message_and_data_flow_in(show):
    what = spec(("tiny", "big"), gpus=2, machine=True)
    seen = looks(what, 70)
    view = show(what, seen)
    assert view.sent("hello") == 1
    assert view.sent("need") == 0
    first = [i for i, panel in enumerate(what["panels"]) if panel["first"]]
    for panel in first[:4]:
        assert view.ink(panel, colour=BLUE)["like"] > 0.002
        assert view.ink(panel, colour=ORANGE)["like"] > 0.002
    assert view.data("looks") == 280
    assert view.data("to") == seen[-1][0]
    more = looks(what, 5, since=70)
    view.send(*more)
    view.wait(f"root.dataset.to === '{more[-1][0]}'")
    assert view.data("looks") == 300
    assert view.data("to") - view.data("from") == 60
    legend = view.root.locator(".llmlab-panel").first.locator(".llmlab-legend-item")
    assert [text.split("\xa0")[1] for text in legend.all_inner_texts()] == ["tokens/s"] * 2
    assert legend.first.get_attribute("title") == "tiny: generated of tiny, as its source tells"


def test_a_gap_in_the_sequence_is_asked_for_and_healed(show):
    what = spec()
    seen = looks(what, 30)
    view = show(what, seen[:80])
    view.send(seen[100], skipped=20)
    assert view.sent("need") == 1
    view.send(seen[101])
    assert view.sent("need") == 1, "at most once a second"
    assert view.data("looks") == 80, "what does not follow is left out"
    view.wait("model.sent.filter(each => each.t === 'need').length === 2")
    view.history(seen[:102])
    view.send(seen[102])
    view.wait("root.dataset.looks === '103'")
    view.page.wait_for_timeout(1100)
    assert view.sent("need") == 2, "nothing is missing any more"


def test_what_is_no_history_changes_nothing(show):
    what = spec()
    view = show(what, looks(what, 10))
    for buffer in (
        "",
        "AAAA",
        live_page.history(7, 1, [[0.0, *[1.0] * len(what["rows"])]], len(what["rows"])),
    ):
        view.page.evaluate("buffer => model.message({ t: 'history' }, buffer)", buffer)
    view.page.evaluate("model.message({ t: 'append', v: 1, seq: 41, n: 1 }, 'AAAA')")
    view.page.evaluate("model.message({ t: 'something else' })")
    assert view.data("looks") == 40
    assert view.sent("need") == 1


def test_unknown_is_hatched_and_never_a_zero(show):
    what = spec(("tiny", "big"))
    seen = flat(what, 241, 40.0)
    for look in seen[80:160]:  # the middle third: nothing is known
        look[1:] = [None] * len(what["rows"])
    for look in seen[200:]:
        look[2] = None  # the last sixth: nothing of `big`
    view = show(what, seen)
    unknown = [0.36, 0.64, 0, 1.02]  # with a line at zero, which lies half below
    assert 0.05 < view.ink(0, unknown)["some"] < 0.6, "hatched"
    for colour in (BLUE, ORANGE):
        assert view.ink(0, unknown, colour)["like"] == 0, "no line over what is unknown, nor at zero"
    assert view.ink(0, [0.1, 0.3, 0.3, 0.9])["some"] == pytest.approx(0, abs=0.02), "known is not hatched"
    strip, above = [0.86, 0.99, 0.93, 1], [0.86, 0.99, 0.3, 0.9]
    assert view.ink(0, strip, ORANGE)["like"] > 0.1, "a strip in the colour of what is unknown"
    assert view.ink(0, above)["some"] < 0.02
    values = view.root.locator(".llmlab-panel").first.locator(".llmlab-value")
    assert values.all_inner_texts() == ["40\xa0tokens/s", "unknown"]


def test_a_look_that_was_missed_is_unknown_and_a_single_value_is_a_dot(show):
    what = spec()
    seen = flat(what, 241, 40.0)
    alone = seen[150][:]
    for look in seen[120:180]:
        look[1:] = [None] * len(what["rows"])
    seen[150] = alone
    view = show(what, [look for i, look in enumerate(seen) if not 40 <= i < 80])
    assert view.ink(0, [0.18, 0.32, 0.02, 0.98])["some"] > 0.05
    assert view.ink(0, [0.18, 0.32, 0, 1.02], BLUE)["like"] == 0
    assert view.ink(0, [0.6, 0.65, 0, 0.5], BLUE)["like"] > 0.005, "the dot"


def test_peaks_survive_and_memory_is_bounded(show):
    what = spec(version=1)
    view = show(what, [])
    total, peak = 20_000, 17_003
    for since in range(0, total, 500):
        batch = flat(what, 500, 1.0, since / what["hz"])
        if since <= peak < since + 500:
            batch[peak - since][1] = 140.0
        view.send(*batch)
    view.root.locator(".llmlab-window-button", has_text="all").click()
    view.painted()
    assert view.data("looks") == 7200
    assert view.data("from") == (total - 7200) / what["hz"]
    place = (peak - (total - 7200)) / 7200
    around = [place - 0.01, place + 0.01]
    assert view.ink(0, [*around, 0.1, 0.3], BLUE)["like"] > 0.05
    assert view.ink(0, [0.05, place - 0.02, 0.1, 0.3], BLUE)["like"] == 0


def test_a_request_is_a_band_and_its_button_zooms(show):
    what = spec(("tiny", "big"), gpus=1)
    seen = flat(what, 241, 0.0)
    asked = request("big", 30.0, 10.0, queue_s=2.0, ttft_s=5.0)
    view = show(what, seen, request("tiny", 1.0, 2.0, joules_per_token=0.8), asked)
    decode, outside = [0.6, 0.65, 0.1, 0.4], [0.75, 0.95, 0.1, 0.4]
    assert view.ink(0, decode)["some"] > 0.9
    assert view.ink(0, outside)["some"] < 0.05
    button = view.root.locator(".llmlab-request").first
    assert button.inner_text() == "big · 10 s · 48.2 tokens/s"
    assert "no energy: nothing here counts it" in (button.get_attribute("title") or "")
    assert (
        view.root.locator(".llmlab-request").last.inner_text() == "tiny · 2 s · 48.2 tokens/s · 0.8 J/token"
    )
    button.click()
    view.wait("root.dataset.from === '28' && root.dataset.to === '42'")
    assert button.get_attribute("aria-pressed") == "true"
    view.root.press("Escape")
    view.wait("root.dataset.to === '60'")
    button.click()
    view.wait("root.dataset.to === '42'")
    button.click()
    view.wait("root.dataset.to === '60'")
    assert button.get_attribute("aria-pressed") == "false"
    items = [request("tiny", 50.0 + i / 10, 0.05) for i in range(300)]
    view.page.evaluate("items => model.message({ t: 'requests', items })", items + items)
    view.wait("root.dataset.requests === '200'")
    assert view.root.locator(".llmlab-request").count() == 12


def test_pause_stops_drawing_while_looks_go_on(show):
    what = spec()
    seen = looks(what, 60)
    view = show(what, seen[:200])
    view.root.locator(".llmlab-pause").click()
    view.wait("root.querySelector('.llmlab-state-word').textContent.includes('paused')")
    view.page.wait_for_timeout(400)
    before, shown_to = view.data("paints"), view.data("to")
    for look in seen[200:210]:
        view.send(look)
    view.page.wait_for_timeout(600)
    assert view.data("paints") == before
    assert view.data("looks") == 210
    view.root.locator(".llmlab-pause").click()
    view.wait(f"root.dataset.to === '{seen[209][0]}'")
    assert view.data("to") > shown_to


def test_drawing_is_at_most_four_times_a_second(show):
    what = spec()
    seen = looks(what, 60)
    view = show(what, seen[:100])
    view.page.wait_for_timeout(300)
    before, began = view.data("paints"), view.page.evaluate("performance.now()")
    for look in seen[100:200]:
        view.send(look)
        view.page.wait_for_timeout(10)
    seconds = (view.page.evaluate("performance.now()") - began) / 1000
    view.wait("root.dataset.looks === '200'")
    assert 1 <= view.data("paints") - before <= 4 * seconds + 2


def test_keys_work_and_do_not_leak(show):
    what = spec()
    seen = flat(what, 240, 5.0)
    seen[-3][1] = 17.0
    view = show(what, seen)
    view.page.evaluate("""() => {
        window.leaked = [];
        document.addEventListener('keydown', event => leaked.push(event.key));
    }""")
    value = view.root.locator(".llmlab-panel").first.locator(".llmlab-value")
    view.root.focus()
    for _ in range(3):
        view.page.keyboard.press("ArrowLeft")
    assert value.inner_text() == "17\xa0tokens/s"
    view.page.keyboard.press("ArrowRight")
    assert value.inner_text() == "5\xa0tokens/s"
    view.page.keyboard.press("+")
    view.wait("root.dataset.to - root.dataset.from === 30")
    view.page.keyboard.press("-")
    view.wait("root.dataset.to - root.dataset.from === 60")
    view.page.keyboard.press("0")
    view.wait("root.querySelector('.llmlab-leave').hidden")
    view.page.keyboard.press(" ")
    assert "paused" in view.root.locator(".llmlab-state-word").inner_text()
    view.page.keyboard.press("Home")
    assert view.root.locator(".llmlab-state-word").inner_text() == "live"
    view.page.keyboard.press("Escape")
    assert view.page.evaluate("leaked") == []
    view.page.keyboard.press("j")
    view.page.keyboard.press("Control+0")
    assert view.page.evaluate("leaked") == ["j", "Control", "0"], "other keys are others'"


def test_pointing_shows_values_in_all_panels_and_dragging_zooms(show):
    what = spec(("tiny", "big"))
    seen = flat(what, 241, 5.0)
    for look in seen[100:140]:
        look[1:] = [33.0] * len(what["rows"])
    view = show(what, seen)
    over = view.root.locator(".u-over").first
    box = over.bounding_box()
    assert box is not None
    view.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    for panel in view.root.locator(".llmlab-panel:visible").all():
        assert {text.split("\xa0")[0] for text in panel.locator(".llmlab-value").all_inner_texts()} == {"33"}
        assert panel.locator(".llmlab-cursor").is_visible()
    assert "−30 s" in view.root.locator(".llmlab-time").inner_text()
    view.page.mouse.down()
    view.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 20)
    view.page.mouse.up()
    view.wait("Math.abs(root.dataset.from - 30) < 1 && Math.abs(root.dataset.to - 45) < 1")
    over.dblclick()
    view.wait("root.dataset.to === '60'")
    view.page.mouse.move(0, 0)
    assert view.root.locator(".llmlab-cursor:visible").count() == 0
    assert over.evaluate("node => getComputedStyle(node).touchAction") == "pan-y"
    view.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 20)
    assert view.root.locator(".llmlab-cursor:visible").count() == 4, "what a finger has pointed at stays"


def test_sensor_windows_are_shown_on_demand(show):
    what = spec((), gpus=1)
    view = show(what, flat(what, 241, 350.0))
    power = view.root.locator(".llmlab-panel").nth(1)
    assert not power.locator(".llmlab-sensor").is_visible()
    near = [0.2, 0.8, 0.47, 0.49]  # 350 of 700, and a little above
    before = view.ink(1, near)["some"]
    view.root.locator(".llmlab-sensors").click()
    view.painted()
    assert power.locator(".llmlab-sensor").inner_text() == "one value per 1 s, sensor error −13 … +8 %"
    assert view.ink(1, near)["some"] > before + 0.5
    window, plot = (power.locator(css).bounding_box() for css in (".llmlab-window", ".u-over"))
    assert window is not None
    assert plot is not None
    assert window["width"] == pytest.approx(plot["width"] / 60, rel=0.1)


def test_more_charts_are_made_when_they_are_asked_for(show):
    what = spec(("tiny",))
    view = show(what, looks(what, 20))
    assert view.root.locator(".llmlab-panel:visible").count() == 4
    more = view.root.locator(".llmlab-more")
    assert more.inner_text() == "more charts (2)"
    more.click()
    view.wait("root.querySelectorAll('.llmlab-panel canvas').length === 6")
    assert more.get_attribute("aria-pressed") == "true"


def test_a_theme_that_changes_changes_the_colours(show):
    what = spec()
    seen = flat(what, 241, None)
    view = show(what, seen)
    darkest = (
        "() => { const { data } = pixels(document.querySelector('.llmlab-panel')); let sum = 0, ink = 0;"
    )
    darkest += "for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 30) { sum += data[i]; ink++; } return sum / ink; }"
    assert view.page.evaluate(darkest) < 100
    view.page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    view.painted()
    assert view.page.evaluate(darkest) > 150


def test_what_is_not_on_the_screen_is_not_drawn(show):
    what = spec()
    seen = looks(what, 60)
    view = show(what, seen[:200])
    view.page.evaluate("document.getElementById('place').style.marginTop = '3000px'")
    view.page.wait_for_timeout(400)
    before = view.data("paints")
    for look in seen[200:210]:
        view.send(look)
    view.page.wait_for_timeout(500)
    assert view.data("paints") == before
    assert view.data("looks") == 210
    view.page.evaluate("document.getElementById('place').style.marginTop = ''")
    view.wait(f"root.dataset.to === '{seen[209][0]}'")


def test_a_recording_is_marked_and_can_be_played(show):
    sentence = "A recording of 2026-11-26T13:00, on Xeon, 2 CPUs: not what happens now"
    what = spec(state="recording", recording=sentence)
    seen = flat(what, 9, 0.0)
    view = show(what, seen)
    middle = [0.15, 0.85, 0.35, 0.65]
    for panel in range(4):
        assert view.ink(panel, middle)["some"] > 0.1, "RECORDING stands on each"
    assert view.root.locator(".llmlab-recording").inner_text() == sentence
    assert view.root.locator(".llmlab-state-word").inner_text() == "a recording"
    assert view.root.locator(".llmlab-stop").is_hidden()
    play = view.root.locator(".llmlab-pause")
    assert play.inner_text() == "play"
    play.click()
    assert play.inner_text() == "pause"
    view.wait("/^1 s/.test(root.querySelector('.llmlab-time').textContent)")
    play.click()
    view.page.wait_for_timeout(1500)
    assert play.inner_text() == "play", "it waits"
    play.click()
    view.wait("root.querySelector('.llmlab-time').textContent === '2 s long'")
    live = show(spec(), seen)
    assert live.ink(0, middle)["some"] < 0.05


def test_hostile_names_are_only_text(show):
    hostile = "<img src=x onerror=window.hacked=1>"
    what = spec((hostile, "big"), notes=[hostile], title=hostile, why=hostile, recording=hostile)
    for row in what["rows"]:
        row |= {"title": hostile, "unit": hostile, "method": hostile}
    for panel in what["panels"]:
        panel |= {"title": hostile, "unit": hostile}
    asked = request(hostile, 2.0, 3.0, outcome=hostile, energy_note=hostile)
    view = show(what, looks(spec((hostile, "big")), 20), asked)
    view.root.locator(".llmlab-request").click()
    view.painted()
    view.respec(what | {"compact": True, "version": 2})
    view.page.wait_for_timeout(200)
    assert view.root.locator("img").count() == 0
    assert view.page.evaluate("window.hacked") is None
    assert hostile in view.root.inner_text()


@pytest.mark.parametrize(
    "wrong", [None, [], {"rows": [None, 3], "panels": [{"rows": [7, "x"]}, 1], "hz": "often"}]
)
def test_a_spec_that_is_none_breaks_nothing(wrong, show):
    what = spec()
    view = show(what, looks(what, 5))
    view.page.evaluate("spec => model.set('spec', spec)", wrong)
    view.page.evaluate("model.message({ t: 'requests', items: [null, 3, { subject: 1, began_s: 'x' }] })")
    view.painted()
    assert view.root.locator(".llmlab-state-word").inner_text() == "stopped"


def test_two_views_of_one_model(show):
    what = spec()
    seen = looks(what, 40)
    view = show(what, seen[:100], views=2)
    both = view.page.locator(".llmlab-live")
    assert both.count() == 2
    both.nth(1).locator(".llmlab-window-button", has_text="5 min").click()
    view.send(*seen[100:])
    view.page.wait_for_function(
        f"[...document.querySelectorAll('.llmlab-live')].every(each => each.dataset.to === '{seen[-1][0]}')"
    )
    spans = [
        float(each.get_attribute("data-to")) - float(each.get_attribute("data-from")) for each in both.all()
    ]
    assert spans == [60, 300], "each has a window of its own"
    both.nth(1).locator(".llmlab-stop").click()
    assert both.locator(".llmlab-stop").all_inner_texts() == ["stopping…"] * 2
    assert view.sent("stop") == 1
    view.respec(what | {"state": "stopped", "why": "stopped by the button"})
    assert both.locator(".llmlab-state-word").all_inner_texts() == ["stopped"] * 2
    assert both.nth(0).locator(".llmlab-why").inner_text() == "stopped by the button"
    view.wait("root.dataset.from === '0'")  # all is shown now
    assert view.data("looks") == 160


def test_another_spec_brings_another_panel_and_keeps_the_data(show):
    before, after = spec(without=[("tiny", "gpu_memory")]), spec(("tiny", "big"), version=2)
    view = show(before, flat(before, 100, 7.0))
    assert view.root.locator(".llmlab-panel:visible").count() == 3
    view.respec(after)
    panels = view.root.locator(".llmlab-panel:visible")
    view.wait("root.querySelectorAll('canvas').length === 4")
    assert panels.nth(0).locator(".llmlab-value").all_inner_texts() == ["7\xa0tokens/s", "unknown"]
    view.send(*flat(after, 1, 8.0, since=25.0))
    assert view.sent("need") == 1, "the history of this spec is not here yet"
    view.history(flat(after, 101, 9.0))
    view.wait("root.querySelector('.llmlab-value').textContent.startsWith('9')")
    assert view.data("looks") == 101
    assert panels.nth(0).locator(".llmlab-value").all_inner_texts() == ["9\xa0tokens/s"] * 2


def test_the_compact_form_has_a_line_for_each_server(show):
    what = spec(("tiny", "big"), gpus=1, compact=True, without=[("big", "gpu_memory")])
    view = show(what, flat(what, 241, 7.0))
    lines = view.root.locator(".llmlab-line:not(.llmlab-line-titles)")
    assert lines.locator("> .llmlab-name").all_inner_texts() == ["tiny", "big"]
    values = lines.nth(1).locator(".llmlab-value").all_inner_texts()
    assert values == ["7\xa0tokens/s", "7\xa0CPUs", "7\xa0MiB", "not measured"]
    assert [button.inner_text() for button in view.root.locator("button:visible").all()] == ["stop"]
    dark = """node => { const { data, width, height } = node.getContext('2d').getImageData(0, 0, node.width, node.height);
        return data.filter((value, i) => i % 4 === 3 && value > 100).length / width / height; }"""
    for canvas in lines.locator("canvas").all():
        assert canvas.evaluate(dark) > 0.01


def test_a_kernel_that_says_nothing_is_told_of(require_browser, browser_page):
    what = spec(hz=10.0)
    page = browser_page.context.browser.new_page()
    page.clock.install()
    page.set_content(live_page.html())
    page.evaluate("state => show(JSON.parse(state), 1)", state(what, looks(what, 5)))
    silence = page.locator(".llmlab-silence")
    page.clock.run_for(4000)
    assert silence.is_hidden()
    page.clock.run_for(3500)
    assert silence.inner_text().startswith("no news for 7 s: the kernel is busy or gone")
    page.evaluate("model.message({ t: 'requests', items: [] })")
    assert silence.is_hidden()
    page.close()


def test_the_palette_can_be_seen_in_both_themes():
    chart = (live_page.STATIC / "live_chart.js").read_text()
    palette = json.loads(chart.split("const PALETTE = ")[1].split(";")[0])

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else math.pow((c + 0.055) / 1.055, 2.4) for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert len(set(palette)) >= 8
    for colour in palette:
        assert 1.05 / (luminance(colour) + 0.05) >= 3, f"{colour} on white"
        assert (luminance(colour) + 0.05) / (luminance("#111111") + 0.05) >= 3, f"{colour} on #111"


def test_the_module_is_of_parts_that_are_listed():
    listed = (live_page.STATIC / "live.js").read_text().split("const ")[0]
    assert {path.name for path in live_page.STATIC.glob("live*.js")} == set(live_page.SCRIPTS) - {
        "uPlot.iife.min.js"
    }
    assert [name for name in listed.replace("\n//", " ").split() if name.endswith(".js")][
        : len(live_page.SCRIPTS)
    ] == [*live_page.SCRIPTS]
