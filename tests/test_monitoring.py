"""`monitor`: real servers watched, recordings replayed, charts that say what is unknown."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

import llmlab
from llmlab.errors import BackendError, UsageError
from llmlab.lab import requests
from llmlab.monitoring import sources, views
from llmlab.monitoring.results import Monitoring
from llmlab.reporting import Reporter, reporting_to
from llmlab.telemetry.bands import Band
from llmlab.telemetry.engine import EngineSource, parse
from llmlab.telemetry.history import Series
from llmlab.telemetry.metrics import HOST, Metric
from llmlab.telemetry.recording import Recording
from tests.conftest import eventually, run_cli
from tests.test_results import EVIL
from tests.test_views import Page

PLACES = ["native", "container"]


class Chart(Page):
    TAGS = Page.TAGS | {"figure", "figcaption", "svg", "polyline", "rect", "line", "text"}
    ATTRIBUTES = Page.ATTRIBUTES | {
        "width", "height", "viewbox", "points", "x", "y", "x1", "y1", "x2", "y2",
        "text-anchor", "font-size", "fill", "opacity", "letter-spacing",
    }  # fmt: skip


def page(html: str) -> Chart:
    found = Chart()
    found.feed(html)
    found.close()
    return found


def asking(server: llmlab.Server, times: int) -> threading.Thread:
    def ask() -> None:
        for _ in range(times):
            server.ask("What is a GPU?", max_tokens=60)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


# Real servers


@pytest.mark.parametrize("place", PLACES)
def test_a_server_at_work_is_seen_at_work(place, require_engine, request):
    if place == "container":
        request.getfixturevalue("require_docker")
    server = llmlab.start("tiny", name="a", backend=place)
    thread = asking(server, 60)
    seen = llmlab.monitor("a", for_s=3, hz=5)
    thread.join()
    assert max(seen["a", "cpu"].known) > 0.01
    # What the receipt of memory says is what is seen here, but for what came and went between.
    assert 5 < max(seen["a", "memory"].known) < 200
    assert max(seen["a", "generated"].known) > 10
    assert max(seen["a", "answering"].known) <= 4
    assert max(seen[HOST, "cpu"].known) > 0
    assert {each.subject for each in seen} >= {HOST, "a"}
    assert len(seen.requests) > 3
    for band in seen.requests:
        assert band.outcome in {"stop", "length"}
        assert 0 < (band.ttft_s or 0) <= band.total_s
        assert (band.queue_s or 0) < (band.ttft_s or 0)
    assert 8 <= len(seen["a", "cpu"].times_s) <= 16
    for shown in (str(seen), seen.to_html()):
        assert "generated" in shown
        assert "tokens/s" in shown
        assert "TTFT" in shown
    page(seen.to_html())


def test_requests_are_written_down_for_others_and_hold_no_text(require_engine, isolated_runtime):
    server = llmlab.start("tiny", name="a", backend="native")
    run_cli("ask", "a", "What is a GPU?")
    path = isolated_runtime / "a" / "requests.jsonl"
    assert "GPU" not in path.read_text()
    # What somebody else wrote there is passed over.
    with path.open("a") as file:
        file.write('garbage\n{"began": "x"}\n[]\n{"began": 1e999, "total_s": 1}\n')
    assert len(requests.between(server.record, 0.0, time.monotonic())) == 1
    assert requests.between(server.record, time.monotonic(), time.monotonic() + 1) == ()
    path.write_text("x" * (2 << 20))
    server.ask("What is a GPU?", max_tokens=3)
    assert path.stat().st_size < 1000
    server.stop()
    assert not path.exists()


def test_several_servers_lie_side_by_side(require_engine):
    for name in ("a", "b"):
        llmlab.start("tiny", name=name, backend="native")
    seen = llmlab.monitor(for_s=1, hz=5)
    assert {each.subject for each in seen} >= {"a", "b"}
    assert {each.subject for each in seen.only("b")} == {"b"}


def test_a_server_of_any_name_is_not_taken_for_the_machine(require_engine):
    llmlab.start("tiny", name="host", backend="native")
    seen = llmlab.monitor("host", for_s=1, hz=5)
    assert seen["host", "memory"].metric.method != seen[HOST, "memory"].metric.method


def test_what_was_opened_is_closed_if_something_cannot_be(require_engine, monkeypatch):
    server = llmlab.start("tiny", name="a", backend="native")
    before = threading.active_count()

    def refused(_: Any) -> None:
        raise BackendError("no")

    with monkeypatch.context() as patch:
        patch.setattr(sources, "_pid", refused)
        patch.setattr(sources, "_beside", lambda: [EngineSource("x", str, slots=1, context=1)], raising=True)
        with pytest.raises(BackendError):
            llmlab.monitor("a", for_s=1)
    eventually(lambda: threading.active_count() <= before)
    server.stop()


def test_a_server_that_ends_meanwhile_is_unknown_from_then_on(require_engine):
    server = llmlab.start("tiny", name="a", backend="native")
    timer = threading.Timer(1.0, server.stop)
    timer.start()
    seen = llmlab.monitor("a", for_s=5, hz=5)
    timer.join()
    memory = seen["a", "memory"].values
    assert memory[0] is not None
    assert memory[-1] is None
    assert "unknown" not in seen["a", "memory"].metric.title


def test_an_engine_without_metrics_is_watched_from_outside(require_engine, require_llama_cpp):
    llmlab.start("tiny", name="a", engine="llama-cpp-python", backend="native")
    seen = llmlab.monitor("a", for_s=1, hz=5)
    keys = {each.metric.key for each in seen if each.subject == "a"}
    assert "memory" in keys
    assert "generated" not in keys


def test_a_machine_without_servers_is_watched_alone():
    seen = llmlab.monitor(for_s=0.5, hz=10)
    assert {each.subject for each in seen if not each.subject.startswith("gpu ")} == {HOST}
    assert seen[HOST, "memory"].last


def test_ctrl_c_shows_what_was_seen_until_then():
    timer = threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    before = threading.active_count()
    seen = llmlab.monitor(for_s=60, hz=10)
    assert seen.seconds < 50
    assert seen.series
    assert threading.active_count() <= before


def test_the_command_line(tmp_path, require_engine):
    llmlab.start("tiny", name="a", backend="native")
    path = str(tmp_path / "run.jsonl.gz")
    data = json.loads(run_cli("monitor", "a", "--for", "1", "--hz", "5", "--save", path, "--json").stdout)
    assert {each["subject"] for each in data["series"]} >= {HOST, "a"}
    assert all(len(each["values"]) == len(data["times_s"]) for each in data["series"])
    shown = run_cli("monitor", "--replay", path)
    assert "not what happens now" in shown.stdout
    replayed = json.loads(run_cli("monitor", "--replay", path, "--json").stdout)
    assert replayed["replayed"] == path
    assert [each["key"] for each in replayed["series"]] == [each["key"] for each in data["series"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"for_s": 0}, "for is 0"),
        ({"for_s": 1e9}, "for is 1e"),
        ({"for_s": math.nan}, "for is nan"),
        ({"hz": 0}, "hz is 0"),
        ({"hz": 1000}, "hz is 1000"),
        ({"name": "nobody"}, "no server 'nobody'"),
        ({"replay": "/nowhere"}, "there is no recording"),
    ],
)
def test_bad_arguments_are_told_in_one_line(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        llmlab.monitor(**options)
    assert caught.value.hint


# Views


def series(*values: float | None, subject: str = "a", **metric: Any) -> Series:
    given = {"key": "cpu", "title": "CPU", "unit": "CPUs", "method": "counted", **metric}
    times = tuple(0.5 * i for i in range(len(values)))
    return Series(subject=subject, metric=Metric(**given), times_s=times, values=values)


def monitoring(*found: Series, replayed: str | None = None, notes: tuple[str, ...] = ()) -> Monitoring:
    recorded = Recording(began="2026-01-01T00:00:00+00:00", machine={"cpu": "one"}, series=found, notes=notes)
    return Monitoring(recorded=recorded, seconds=3.0, replayed=replayed)


@pytest.mark.parametrize(
    ("values", "most", "shown"),
    [
        ((0.0, 1.0, 2.0), 2.0, "▁▅█"),
        ((None, 1.0, None), 1.0, "·█·"),
        ((0.0, 0.0), 0.0, "▁▁"),
        ((5.0,), 1.0, "█"),
        ((), 1.0, ""),
        (tuple(float(i) for i in range(64)), 64.0, "▁▁▁▁▂▂▂▂"),
    ],
)
def test_a_course_as_text(values, most, shown):
    assert views.spark(values, most, 32)[:8] == shown


def test_the_present_in_one_line():
    now = {(HOST, "cpu"): 1.0, (HOST, "load1"): 3.0, ("a", "memory"): 33.21, ("a", "generated"): None}
    assert views.live(now) == "the machine: 1 CPUs · a: 33.2 MiB"
    assert views.live({("a", "faults"): 1.0}) == ""


def test_what_happens_is_shown_while_it_does():
    class Details(Reporter):
        def __init__(self) -> None:
            self.told: list[str] = []

        def stage(self, stage: str, detail: str = "") -> None:
            self.told.append(f"{stage} {detail}")

    with reporting_to(Details()) as seen:
        llmlab.monitor(for_s=1.6, hz=10)
    assert len(seen.told) >= 3
    assert seen.told[-1].startswith("watch the machine: ")


def test_an_axis_ends_where_something_is_seen():
    assert views.top(series(0.1, 0.2, most=2.0)) == 0.2
    assert views.top(series(0.1, 1.2, most=2.0)) == 2.0
    assert views.top(series(0.0, 0.0)) == 1.0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.23456, "1.23"),
        (250.4, "250"),
        (1234567.0, "1\u202f234\u202f567"),
        (3.0, "3"),
    ],
)
def test_numbers_are_short(value, shown):
    assert views.number(value) == shown


def test_what_is_unknown_is_a_gap_and_no_zero():
    html = monitoring(series(1.0, None, None, 2.0, 3.0)).to_html()
    assert html.count("<polyline") == 2
    assert html.count("<rect") == 1
    page(html)
    assert "·" in str(monitoring(series(1.0, None, None, 2.0)))
    ends = monitoring(series(1.0, None)).to_html()
    assert ends.count("<rect") == 1


def test_a_long_course_is_drawn_with_its_peaks_and_stays_small():
    values = [1.0] * 7200
    values[3333] = 50.0
    html = monitoring(series(*values)).to_html()
    assert len(html) < 10_000
    heights = [
        float(point.split(",")[1]) for point in html.partition('points="')[2].partition('"')[0].split()
    ]
    assert min(heights) < 10
    assert max(heights) > 50


def test_what_is_0_throughout_is_a_word_and_no_chart():
    html = monitoring(series(0.0, 0.0, title="faults"), series(0.0, 1.0)).to_html()
    assert html.count("<svg") == 1
    assert "0 throughout: faults" in html


def test_a_replay_says_so_wherever_it_is_drawn():
    seen = monitoring(series(1.0, 2.0), series(1.0, 2.0, subject="b"), replayed="run.gz", notes=("cut",))
    html = seen.to_html()
    assert html.count("RECORDING") == 2
    for text in (html, str(seen)):
        assert "not what happens now" in text
        assert "cut" in text
    assert "RECORDING" not in replace(seen, replayed=None).to_html()


def test_requests_are_bands_behind_the_course():
    band = Band(
        subject="a", began_s=0.2, total_s=0.6, ttft_s=0.2, prefill_s=0.15, tokens=9, tokens_per_s=20.0
    )
    seen = monitoring(series(1.0, 2.0, 3.0), series(1.0, 2.0, 3.0, subject=HOST))
    seen = replace(seen, recorded=replace(seen.recorded, requests=(band, replace(band, began_s=-5.0))))
    html = seen.to_html()
    # Until the first token and after it, of the one that is in the picture, with its server only.
    assert html.count("<rect") == 2
    for text in (html, str(seen)):
        assert "2 requests, TTFT 200 ms, of it in the queue 50 ms, rate 20 tokens/s (medians)" in text
    page(html)


def test_nothing_at_all_is_said():
    assert "nothing could be measured" in str(monitoring())
    assert "nothing could be measured" in monitoring().to_html()


def test_a_series_is_found_by_name_and_everything_is_plain_data():
    seen = monitoring(series(1.0, None), series(2.0, 3.0, subject="b"))
    assert seen["b", "cpu"].last == 3.0
    with pytest.raises(KeyError):
        seen["c", "cpu"]
    data = json.loads(json.dumps(seen.to_dict()))
    assert data["series"][0]["values"] == [1.0, None]
    assert data["times_s"] == [0.0, 0.5]


def test_newest_values_for_a_dashboard():
    hostile = series(1.0, 2.5, subject='a"\n\\', key="decode-ms", method="one\ntwo")
    text = monitoring(hostile, series(1.0, None), series(3.0, subject="b")).to_prometheus()
    assert text.splitlines() == [
        "# HELP llmlab_decode_ms one two",
        "# TYPE llmlab_decode_ms gauge",
        'llmlab_decode_ms{of="a\\"\\n\\\\",unit="CPUs"} 2.5',
        "# HELP llmlab_cpu counted",
        "# TYPE llmlab_cpu gauge",
        'llmlab_cpu{of="b",unit="CPUs"} 3.0',
    ]
    # The same reader that reads an engine's page reads ours.
    assert parse(text) == {"llmlab_cpu": 3.0} or parse(text)["llmlab_cpu"] == 3.0


def test_a_frame_needs_pandas(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(UsageError, match="needs pandas"):
        monitoring(series(1.0)).to_frame()


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_nothing_hostile_becomes_markup_or_reaches_a_terminal(text):
    seen = monitoring(
        series(1.0, 2.0, subject=text, title=text, unit=text, method=text), replayed=text, notes=(text,)
    )
    page(seen.to_html())
    shown = seen._repr_mimebundle_()["text/plain"]
    assert not [c for c in shown if not c.isprintable() and c not in "\n\t\u00a0\u200d"]
