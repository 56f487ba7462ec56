"""The kernel's side of the live view: what it sends, how often, and what it leaves behind."""

from __future__ import annotations

import json
import re
import struct
import time
from array import array
from queue import Empty
from typing import Any

import pytest

import llmlab
from llmlab.monitoring.results import Monitoring
from llmlab.notebook.feeds import RecordingFeed, WatchFeed
from llmlab.notebook.live import LiveView
from llmlab.render import SERIES_COLOURS
from llmlab.telemetry.bands import Band
from llmlab.telemetry.history import Series
from llmlab.telemetry.metrics import HOST, Metric
from llmlab.telemetry.recording import Recording
from tests.conftest import eventually
from tests.faults.contract import promise
from tests.test_kernel import Kernel, kernel  # noqa: F401 - a fixture

VIEW = "application/vnd.jupyter.widget-view+json"


def unpacked(data: bytes) -> tuple[int, int, list[float], list[list[float]]]:
    """Version, number of the last look, times, and the values of each series."""
    version, count, rows, looks = struct.unpack_from("<4I", data)
    times = array("d", data[16 : 16 + 8 * looks])
    values = array("f", data[16 + 8 * looks :])
    assert len(values) == rows * looks
    return version, count, times.tolist(), [values[n * looks : (n + 1) * looks].tolist() for n in range(rows)]


# Feeds


def test_a_watch_is_told_piece_by_piece_without_a_gap():
    with llmlab.monitor(hz=20) as watch:
        feed = WatchFeed(watch)
        eventually(lambda: (feed.grown(), len(feed.spec()["rows"]) > 2)[1])
        version, count, times, columns = unpacked(feed.history())
        spec = feed.spec()
        assert spec["version"] == version
        assert len(columns) == len(spec["rows"])
        last = count
        for _ in range(5):
            watch.wait(last, 5)
            head, data = feed.news() or ({}, b"")
            assert head["seq"] - head["n"] == last
            last = head["seq"]
            assert len(data) == head["n"] * (8 + 4 * len(spec["rows"]))
            more = array("d", data[: 8 * head["n"]])
            assert more[0] > times[-1]
            times += more
        assert unpacked(feed.history())[2] == times
        memory = next(
            n for n, row in enumerate(spec["rows"]) if (row["subject"], row["key"]) == (HOST, "memory")
        )
        seen = watch[HOST, "memory"].values[: len(columns[memory])]
        assert columns[memory] == pytest.approx(seen, rel=1e-6)
        assert spec["state"] == "live"
    assert feed.spec()["state"] == "stopped"
    assert feed.spec()["why"] == "stopped"


def test_a_server_that_comes_later_gets_its_charts(require_engine):
    with llmlab.monitor(hz=10) as watch:
        feed = WatchFeed(watch)
        eventually(feed.grown)
        before = feed.spec()
        server = llmlab.start("tiny", name="late", backend="native")
        eventually(lambda: (feed.grown(), "late" in {each["name"] for each in feed.spec()["subjects"]})[1])
        after = feed.spec()
        assert after["version"] > before["version"]
        assert unpacked(feed.history())[0] == after["version"]
        server.ask("What is a GPU?", max_tokens=5)
        eventually(lambda: [each["tokens"] for each in feed.new_requests()] == [5])
        assert feed.new_requests() == []
        assert [each["tokens"] for each in feed.requests()] == [5]


def test_a_recording_is_one_wherever_it_is_drawn():
    metric = Metric(
        key="cpu", title="CPU", unit="CPUs", method="", interval_s=1.0, most=4.0, error=(0.1, 0.2)
    )
    series = Series(subject="a", metric=metric, times_s=(0.0, 0.5, 1.0), values=(1.0, None, 3.0))
    asked = Band(subject="a", began_s=0.1, total_s=0.5, ttft_s=0.2, tokens=3)
    recorded = Recording(
        began="2026-11-26T13:00:00+00:00", machine={"cpu": "Xeon"}, series=(series,), requests=(asked,)
    )
    feed = RecordingFeed(Monitoring(recorded=recorded, seconds=1.0, replayed="run.gz"))
    spec = feed.spec()
    json.dumps(spec)
    assert spec["state"] == "recording"
    assert "2026-11-26" in spec["recording"]
    assert "Xeon" in spec["recording"]
    assert spec["hz"] == 2.0
    assert spec["panels"] == [
        {"group": "servers", "title": "CPU", "unit": "CPUs", "rows": [0], "first": True}
    ]
    version, count, times, columns = unpacked(feed.history())
    assert (version, count, times) == (1, 3, [0.0, 0.5, 1.0])
    assert columns[0][0] == 1.0
    assert columns[0][1] != columns[0][1]
    assert feed.requests()[0]["queue_s"] is None
    nothing = RecordingFeed(Monitoring(recorded=Recording(began="?", machine={}, series=()), seconds=0.0))
    assert unpacked(nothing.history()) == (1, 0, [], [])
    assert nothing.spec()["panels"] == []


def test_the_picture_has_the_colours_of_the_view():
    script = LiveView._esm
    found = re.search(r"const PALETTE = (\[.*?\]);", script)
    assert found
    assert tuple(json.loads(found[1])) == SERIES_COLOURS


# A kernel


class Page:
    """Hears what a page would hear of a widget, and says what it would say."""

    def __init__(self, running: Kernel) -> None:
        self.kernel = running
        self.state: dict[str, Any] = {}
        self.comm = ""
        self.outputs: list[dict[str, Any]] = []
        self.updates: list[dict[str, Any]] = []
        self.told: list[tuple[float, dict[str, Any], list[bytes]]] = []

    def listen(self, seconds: float) -> None:
        """Hear for a while."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                message = self.kernel.client.get_iopub_msg(timeout=left)
            except Empty:
                return
            self._hear(message)

    def until(self, condition: Any) -> None:
        """Hear until something is so."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            self.listen(0.2)

    def say(self, content: dict[str, Any]) -> None:
        """Send a message of the page's to the widget."""
        client = self.kernel.client
        data = {"comm_id": self.comm, "data": {"method": "custom", "content": content}}
        client.shell_channel.send(client.session.msg("comm_msg", data))

    def run(self, code: str) -> None:
        """Run a cell and hear all it sends."""
        number = self.kernel.begin(code)
        self.kernel.reply(number)
        self.listen(0.3)

    def _hear(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "comm_open" and "spec" in content["data"].get("state", {}):
            self.comm = content["comm_id"]
            self.state = content["data"]["state"]
            for path, data in zip(content["data"]["buffer_paths"], message["buffers"], strict=True):
                self.state[path[0]] = bytes(data)
        elif kind == "comm_msg" and content["comm_id"] == self.comm:
            data = content["data"]
            if data["method"] == "update":
                self.state.update(data["state"])
            else:
                self.told.append((time.monotonic(), data["content"], [bytes(b) for b in message["buffers"]]))
        elif kind in {"display_data", "execute_result", "error", "stream"}:
            self.outputs.append(content)
        elif kind == "update_display_data":
            self.updates.append(content)


@pytest.fixture
def page(kernel: Kernel) -> Page:  # noqa: F811 - the fixture
    return Page(kernel)


def test_it_is_shown_live_and_becomes_a_picture(page):
    page.run("seen = %llm monitor --hz 10")
    page.until(lambda: page.comm and len(page.told) > 4)
    shown = page.outputs[-1]["data"]
    assert set(shown) == {VIEW, "text/plain", "text/html"}
    assert "goes on" in shown["text/plain"], "whoever has no widgets is told"
    assert len(page.outputs) == 1, "it is not shown twice"
    # What is first painted is there with the widget, not after it.
    assert unpacked(page.state["hist"])[0] >= 1
    rate = [when for when, content, _ in page.told if content["t"] == "append"]
    if len(rate) > 2:
        assert (rate[-1] - rate[0]) / (len(rate) - 1) > 0.2, "at most about four times a second"
    page.told.clear()
    page.say({"t": "need"})
    page.until(lambda: any(content["t"] == "history" for _, content, _ in page.told))
    page.run("final = seen.stop(); print(final['the machine', 'memory'].last > 0)")
    assert page.outputs[-1]["text"] == "True\n"
    page.until(lambda: page.updates)
    assert set(page.updates[-1]["data"]) == {"text/plain", "text/html"}
    assert "<svg" in page.updates[-1]["data"]["text/html"]
    assert "memory" in page.updates[-1]["data"]["text/plain"]
    page.run("seen")
    assert VIEW not in page.outputs[-1]["data"]


def test_the_button_stops_it_and_a_second_view_is_the_same_widget(page):
    page.run("seen = llmlab.monitor(hz=10)")
    page.run("seen")
    page.until(lambda: len(page.outputs) == 2)
    ids = {output["data"][VIEW]["model_id"] for output in page.outputs}
    assert ids == {page.comm}
    page.say({"t": "hello"})
    page.say({"t": "stop"})
    page.until(lambda: len(page.updates) == 2)
    page.run("print(seen.why, seen.running)")
    assert page.outputs[-1]["text"] == "stopped False\n"


def test_waiting_for_its_end_shows_it_live_and_the_result_once(page):
    page.run("%llm monitor --for 2 --hz 10")
    page.until(lambda: page.updates)
    assert len(page.outputs) == 1
    assert VIEW in page.outputs[0]["data"]
    assert any(content["t"] in {"append", "history"} for _, content, _ in page.told)
    assert "<svg" in page.updates[-1]["data"]["text/html"]


@promise(
    part="Notebooks and kernels",
    fault="The kernel is shut down while a monitor is shown",
    sees="A picture of what was seen, in the monitor's place",
    keeps="What was seen until then, in the notebook",
    cleans="The watch ends with its kernel",
    within_s=60,
)
def test_a_kernel_that_ends_leaves_a_picture(page):
    page.run("seen = llmlab.monitor(hz=10)")
    page.until(lambda: len(page.told) > 2)
    page.kernel.client.shutdown()
    page.until(lambda: page.updates)
    assert "<svg" in page.updates[-1]["data"]["text/html"]


def test_a_recording_is_replayed_live(page, tmp_path):
    path = tmp_path / "run.gz"
    llmlab.monitor(for_s=1, hz=10).save(path)
    page.run(f"%llm monitor --replay {path}")
    page.until(lambda: page.outputs)
    shown = page.outputs[-1]["data"]
    assert VIEW in shown
    assert page.state["spec"]["state"] == "recording"
    assert "RECORDING" in shown["text/html"], "and where there are no widgets it is a picture"


def test_without_widgets_the_picture_is_painted_again_and_again(page):
    page.run("import sys; sys.modules['anywidget'] = None\nseen = llmlab.monitor(hz=10)")
    page.until(lambda: len(page.updates) >= 2)
    assert VIEW not in page.outputs[-1]["data"]
    assert "<svg" in page.updates[-1]["data"]["text/html"]
    page.run("seen.stop()")
    before = len(page.updates)
    page.listen(1.5)
    assert len(page.updates) <= before + 1
