"""Series over time: the ring, the sampler's clock, what an engine says, recordings."""

from __future__ import annotations

import gzip
import json
import math
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.errors import LabError, UsageError
from llmlab.telemetry import recording
from llmlab.telemetry.bands import Band
from llmlab.telemetry.engine import EngineSource, parse
from llmlab.telemetry.gpu_share import GpuShare
from llmlab.telemetry.history import History, Series
from llmlab.telemetry.metrics import Metric, Rate
from llmlab.telemetry.recording import Recording
from llmlab.telemetry.sampler import Sampler
from tests.conftest import eventually

CPU = Metric(key="cpu", title="CPU", unit="CPUs", method="counted", most=2.0)


class Counting:
    """A source that says how often it was looked at."""

    subject = "a"
    metrics = (CPU,)

    def __init__(self, takes_s: float = 0.0) -> None:
        self.looks: list[float] = []
        self.closed = False
        self._takes_s = takes_s

    def read(self, now: float) -> dict[str, float | None]:
        assert not self.closed
        self.looks.append(now)
        time.sleep(self._takes_s)
        return {"cpu": float(len(self.looks))}

    def close(self) -> None:
        self.closed = True


# Rates


@pytest.mark.parametrize(
    ("looks", "rates"),
    [
        ([(0, 10), (2, 14)], [None, 2.0]),
        ([(0, 10), (1, 10)], [None, 0.0]),
        ([(0, 10), (1, 3), (2, 4)], [None, None, 1.0]),
        ([(0, 10), (1, None), (2, 12), (3, 13)], [None, None, None, 1.0]),
        ([(0, 10), (0, 12)], [None, None]),
    ],
)
def test_a_rate_is_the_change_per_second_and_unknown_where_it_cannot_be(looks, rates):
    rate = Rate()
    assert [rate.of(now, count) for now, count in looks] == rates


# History


def test_the_oldest_look_makes_room_and_what_is_missing_is_unknown():
    history = History(3)
    history.know("a", CPU)
    for i in range(5):
        history.add(10.0 + i, {} if i == 3 else {("a", "cpu"): float(i)})
    (found,) = history.series()
    assert found.times_s == (2.0, 3.0, 4.0)
    assert found.values == (2.0, None, 4.0)
    assert found.known == (2.0, 4.0)
    assert found.last == 4.0


def test_what_was_never_known_has_no_series():
    history = History(4)
    history.know("a", CPU)
    history.add(0.0, {("a", "cpu"): None})
    history.add(1.0, {("a", "cpu"): math.inf, ("b", "what"): 1.0})
    assert history.series() == ()


def test_a_metric_that_comes_later_was_unknown_before():
    history = History(4)
    history.know("a", CPU)
    history.add(0.0, {("a", "cpu"): 1.0})
    history.know("b", CPU)
    history.add(1.0, {("a", "cpu"): 1.0, ("b", "cpu"): 2.0})
    assert history.series()[1].values == (None, 2.0)


# Sampler


def test_the_sampler_looks_in_step_and_closes_what_it_looked_at():
    source = Counting()
    before = threading.active_count()
    with Sampler([source], hz=20, capacity=1000) as sampler:
        eventually(lambda: len(source.looks) > 15)
    assert source.closed
    assert threading.active_count() == before
    assert len(source.looks) == len(sampler.series()[0].values)
    # However late single looks are, they belong to the same clock.
    steps = (source.looks[-1] - source.looks[0]) * 20
    assert steps + 1 == pytest.approx(len(source.looks) + sampler.missed, abs=3)
    sampler.stop()


def test_looks_that_are_missed_are_counted_and_do_not_pile_up():
    source = Counting(takes_s=0.06)
    with Sampler([source], hz=100, capacity=1000) as sampler:
        eventually(lambda: len(source.looks) > 5)
    assert sampler.missed >= 5


def test_a_machine_that_has_slept_is_told_of(monkeypatch):
    real = time.clock_gettime
    slept = [0.0]
    monkeypatch.setattr(time, "clock_gettime", lambda clock: real(clock) + slept[0])
    with Sampler([Counting()], hz=20) as sampler:
        sampler.wait(2, 5)
        assert sampler.slept_s == 0
        slept[0] = 30.0
        sampler.wait(sampler.looks + 2, 5)
        sampler.wait(sampler.looks + 2, 5)
        assert sampler.slept_s == pytest.approx(30, abs=1)


# An engine


def page(**values: float) -> str:
    lines = [f"# HELP llamacpp:{name} Something\nllamacpp:{name} {value}" for name, value in values.items()]
    return "\n".join(lines)


class Engine:
    """What a server would say."""

    def __init__(self) -> None:
        self.metrics: str | Exception = page(
            tokens_predicted_total=0, requests_processing=0, requests_deferred=0
        )
        self.slots: Any = [{"is_processing": False}]
        self.asked = 0
        self.hangs = threading.Event()
        self.hangs.set()

    def __call__(self, path: str) -> str:
        self.asked += 1
        self.hangs.wait(20)
        if isinstance(self.metrics, Exception):
            raise self.metrics
        return self.metrics if path == "/metrics" else json.dumps(self.slots)


@pytest.fixture
def engine():
    found = Engine()
    source = EngineSource("a", found, slots=2, context=512)
    yield found, source
    found.hangs.set()
    source.close()


def read(source: EngineSource, key: str) -> Any:
    return source.read(time.monotonic()).get(key)


def test_tokens_of_requests_under_way_count_and_never_go_backwards(engine):
    said, source = engine
    said.metrics = page(tokens_predicted_total=100, requests_processing=1, requests_deferred=0)
    said.slots = [{"is_processing": True, "n_prompt_tokens": 20, "next_token": [{"n_decoded": 10}]}]
    eventually(lambda: read(source, "answering") == 1)
    assert read(source, "context") == 20
    # It has ended and is in neither answer for a moment: nothing was taken back.
    said.slots = [{"is_processing": False}]
    eventually(lambda: read(source, "context") == 0)
    assert read(source, "generated") in {0.0, None}
    said.metrics = page(tokens_predicted_total=150, requests_processing=0, requests_deferred=3)
    assert eventually(lambda: read(source, "generated")) > 0
    assert read(source, "waiting") == 3


def test_another_engine_under_the_same_name_begins_anew(engine):
    said, source = engine
    said.metrics = page(tokens_predicted_total=1000)
    eventually(lambda: read(source, "generated") is not None)
    said.metrics = page(tokens_predicted_total=0)
    eventually(lambda: read(source, "generated") is None)
    said.metrics = page(tokens_predicted_total=10)
    assert eventually(lambda: read(source, "generated")) > 0


def test_an_engine_that_hangs_keeps_nobody_waiting(engine):
    said, source = engine
    eventually(lambda: read(source, "answering") == 0)
    said.hangs.clear()
    eventually(lambda: said.asked % 2 == 1)
    threads = threading.active_count()
    for _ in range(50):
        source.read(time.monotonic())
    assert threading.active_count() == threads
    # What was said last is not for ever.
    assert source.read(time.monotonic() + 10) == {}


@pytest.mark.parametrize(
    "slots", ["nothing", {"is_processing": 1}, [{}], [{"is_processing": True, "next_token": [{}]}], None]
)
def test_what_is_no_engines_word_is_unknown(engine, slots):
    said, source = engine
    said.slots = slots
    source.read(time.monotonic())
    eventually(lambda: said.asked >= 2)
    assert source.read(time.monotonic()) == {}


def test_an_engine_that_tells_less_leaves_that_unknown(engine):
    said, source = engine
    said.metrics = page(tokens_predicted_total=5)
    said.slots = [{"is_processing": True}]
    eventually(lambda: source.read(time.monotonic()))
    assert read(source, "context") is None
    assert read(source, "waiting") is None


@given(st.text())
def test_any_page_can_be_parsed(text):
    assert all(math.isfinite(value) for value in parse(text).values())


def test_a_page_of_prometheus():
    text = 'llamacpp:a 1\nb{slot="2"} 2.5e3\n# c 3\nd nan\ne +Inf\n f 6\ng x\n'
    assert parse(text) == {"a": 1.0, "b": 2500.0}


# A server's part of the GPUs


class Gpu:
    subject = "gpu 0"
    latest: ClassVar[dict[str, float | None]] = {}

    def __init__(self, held: dict[int, float | None]) -> None:
        self._held = held

    def process_memory_mib(self, pids: Collection[int]) -> dict[int, float | None]:
        return {pid: self._held[pid] for pid in pids if pid in self._held}


@pytest.mark.parametrize(
    ("held", "total"),
    [
        ([{7: 100.0}, {7: 20.0, 8: 1.0}], 120.0),
        ([{7: 100.0}, {8: 1.0}], 100.0),
        ([{8: 1.0}], 0.0),
        ([{7: 100.0}, {7: None}], None),
        ([], None),
    ],
)
def test_what_a_server_holds_of_all_gpus(held, total):
    source = GpuShare("a", 7, [Gpu(each) for each in held])
    assert source.read(0.0)["gpu_memory"] == total
    source.close()
    assert source.read(0.0)["gpu_memory"] is None


# Recordings


def recorded(values: tuple[float | None, ...] = (1.0, None, 3.25)) -> Recording:
    times = tuple(0.5 * i for i in range(len(values)))
    series = tuple(Series(subject=name, metric=CPU, times_s=times, values=values) for name in ("host", "a"))
    return Recording(
        began="2026-01-01T00:00:00+00:00",
        machine={"cpu": "one"},
        series=series,
        requests=(Band(subject="a", began_s=-0.5, total_s=2.0, ttft_s=0.5, tokens=3, outcome="stop"),),
        notes=("n",),
    )


def test_a_recording_comes_back_as_it_was(tmp_path):
    path = tmp_path / "run.jsonl.gz"
    recording.write(recorded(), path)
    assert recording.read(path) == recorded()
    assert list(tmp_path.iterdir()) == [path]


def test_one_without_series_can_be_written(tmp_path):
    path = tmp_path / "run.jsonl.gz"
    empty = Recording(began="now", machine={}, series=())
    recording.write(empty, path)
    assert recording.read(path) == empty


def test_of_one_that_was_cut_off_there_is_what_could_be_read(tmp_path):
    path = tmp_path / "run.jsonl.gz"
    # Noise, which cannot be packed: so that half of the file is half of the looks.
    recording.write(recorded(tuple(math.sin(i * i) for i in range(3000))), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    found = recording.read(path)
    assert 100 < len(found.series[0].values) < 2900
    assert "missing or damaged" in found.notes[-1]
    assert found.series[0].values[5] == pytest.approx(math.sin(25), abs=1e-5)


def pack(path: Path, *lines: Any) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    return path


HEAD = {
    "format": "llmlab-recording",
    "version": 1,
    "began": "x",
    "machine": {},
    "notes": [],
    "metrics": [],
    "requests": [],
}


@pytest.mark.parametrize(
    "head",
    [
        "",
        "no json\n",
        "[]\n",
        {"format": "other"},
        {**HEAD, "metrics": [{"key": "a"}]},
        {**HEAD, "machine": 3},
        {**HEAD, "requests": [{"subject": "a", "began_s": "x", "total_s": 1}]},
        "[" * 9999,
    ],
    ids=range(8),
)
def test_what_is_no_recording_is_told(tmp_path, head):
    with pytest.raises(UsageError, match="no recording of llmlab's"):
        recording.read(pack(tmp_path / "x.gz", head))


def test_a_file_that_is_not_packed_is_no_recording(tmp_path):
    path = tmp_path / "x"
    path.write_text("hello")
    with pytest.raises(UsageError, match="no recording"):
        recording.read(path)
    with pytest.raises(UsageError, match="there is no recording"):
        recording.read(tmp_path / "none")
    with pytest.raises(UsageError, match="version 9"):
        recording.read(pack(tmp_path / "y.gz", {**HEAD, "version": 9}))


@pytest.mark.parametrize("row", ["[0.0]\n", "[null, 1, 2]\n", "{}\n", '[0, "x", 1]\n', "[0, 1\n", "7\n"])
def test_a_damaged_look_ends_it(tmp_path, row):
    path = tmp_path / "run.jsonl.gz"
    recording.write(recorded((1.0,)), path)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.readlines()
    found = recording.read(pack(path, *lines, row, *lines[1:]))
    assert found.series[0].values == (1.0,)
    assert "1 looks could be read" in found.notes[-1]


def test_one_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(LabError, match="cannot be written"):
        recording.write(recorded(), tmp_path / "no" / "run.jsonl.gz")
    folder = tmp_path / "run.jsonl.gz"
    folder.mkdir()
    with pytest.raises(LabError, match="cannot be written"):
        recording.write(recorded(), folder)
    assert list(tmp_path.iterdir()) == [folder]
