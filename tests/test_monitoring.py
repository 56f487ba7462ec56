"""`monitor`: real servers watched, recordings replayed, charts that say what is unknown."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import docker
import pytest

import llmlab
from llmlab.errors import BackendError, UsageError
from llmlab.lab import requests, sources
from llmlab.monitoring.watch import Watch
from llmlab.reporting import Reporter, reporting_to
from llmlab.telemetry.engine import EngineSource, parse
from llmlab.telemetry.metrics import HOST
from tests.conftest import eventually, run_cli
from tests.test_monitoring_views import monitoring, page, series

PLACES = ["native", "container"]


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
    reader = requests.Reader(server.record)
    assert len(reader.news()) == 1
    assert reader.news() == []
    path.write_text("x" * (2 << 20))
    server.ask("What is a GPU?", max_tokens=3)
    assert path.stat().st_size < 1000
    # It was begun anew, and a line that is still being written waits until it is whole.
    with path.open("a") as file:
        file.write('{"began": 1.0, "total_s"')
        file.flush()
        assert [band.tokens for band in reader.news()] == [3]
        file.write(': 1.0, "tokens": 7}\n')
    assert [band.tokens for band in reader.news()] == [7]
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
        patch.setattr(sources, "server_pid", refused)
        patch.setattr(sources, "beside", lambda: ([EngineSource("x", str, slots=1, context=1)], ()))
        with pytest.raises(BackendError):
            llmlab.monitor("a", for_s=1)
    eventually(lambda: threading.active_count() <= before)
    server.stop()


def test_with_the_server_that_was_named_it_is_over(require_engine):
    server = llmlab.start("tiny", name="a", backend="native")
    timer = threading.Timer(1.0, server.stop)
    timer.start()
    seen = llmlab.monitor("a", for_s=60, hz=20)
    timer.join()
    assert seen.seconds < 40
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
    told = run_cli("monitor", "a", "--for", "1", "--hz", "5", "--save", path, "--json").stdout
    samples = [json.loads(line) for line in told.splitlines()]
    assert 3 <= len(samples) <= 7
    assert samples[-1]["values"]["a"]["memory"] > 1
    assert {"t_s", "time", "values", "requests"} == set(samples[0])
    shown = run_cli("monitor", "--replay", path)
    assert "not what happens now" in shown.stdout
    replayed = json.loads(run_cli("monitor", "--replay", path, "--json").stdout)
    assert replayed["replayed"] == path
    assert {each["subject"] for each in replayed["series"]} >= {HOST, "a"}
    assert all(len(each["values"]) == len(replayed["times_s"]) for each in replayed["series"])
    assert replayed["times_s"][-1] == pytest.approx(samples[-1]["t_s"], abs=0.01)


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


# Results


def test_what_happens_is_shown_while_it_does():
    class Looks(Reporter):
        def __init__(self) -> None:
            self.told: list[str] = []

        def looked(self, watch: Watch) -> None:
            self.told.append(watch.present())

    with reporting_to(Looks()) as seen:
        llmlab.monitor(for_s=1.6, hz=10)
    assert len(seen.told) >= 3
    assert seen.told[-1].startswith("the machine: ")


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


def test_inside_a_container_there_is_a_sensible_view(require_docker):
    """Of this Python with all it needs, in a container that has nothing else: no engine, no GPU, no servers."""
    engine = docker.from_env()
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        folder = tarfile.TarInfo("home")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    image = engine.api.import_image_from_data(empty.getvalue(), repository="llmlab-test-empty")
    name = json.loads(image.splitlines()[-1])["status"]
    needed = {
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        sys.prefix,
        sys.base_prefix,
        str(Path(llmlab.__file__).parents[2]),
    }
    mounts = [f"{path}:{path}:ro" for path in sorted(needed) if Path(path).exists()]
    command = [sys.executable, "-m", "llmlab", "monitor", "--for", "1", "--hz", "10", "--json"]
    try:
        told = engine.containers.run(
            name, command, volumes=mounts, tmpfs={"/home": ""}, environment={"HOME": "/home", "TMPDIR": "/home"},
            network_mode="none", remove=True,
        )  # fmt: skip
    finally:
        engine.images.remove(name, force=True)
    last = json.loads(told.splitlines()[-1])
    assert last["values"][HOST]["memory"] > 1
    assert last["values"][HOST]["cpu"] is not None
