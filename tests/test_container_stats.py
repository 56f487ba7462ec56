"""What a container's engine tells of it: for real, beside the control group, and as rubbish."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmlab
from llmlab.backends import docker_api, labels
from llmlab.backends.container_receipt import server_pid
from llmlab.errors import BackendError
from llmlab.lab import registry, sources
from llmlab.telemetry import container_stats
from llmlab.telemetry.cgroup import CgroupSource
from llmlab.telemetry.container_stats import ContainerStatsSource
from llmlab.telemetry.metrics import Source
from tests.conftest import eventually
from tests.tcp_door import tcp_door

MIB = 1024 * 1024


def said(seconds: float = 0.0, **changes: Any) -> dict[str, Any]:
    """What Docker Engine says where control groups are of version 1, so long after the first time."""
    return {
        "read": f"2026-11-26T15:01:{40 + int(seconds):02d}.15519586Z",
        "pids_stats": {"current": 14, "limit": 256},
        "blkio_stats": {
            "io_service_bytes_recursive": [
                {"major": 8, "minor": 0, "op": "Read", "value": int((1 + seconds) * MIB)},
                {"major": 8, "minor": 0, "op": "Write", "value": 0},
                {"major": 8, "minor": 0, "op": "Total", "value": 9 * MIB},
                {"major": 8, "minor": 16, "op": "Read", "value": int((1 + seconds) * MIB)},
            ]
        },
        "cpu_stats": {
            "cpu_usage": {"total_usage": int((5 + 1.5 * seconds) * 1e9)},
            "throttling_data": {
                "periods": 100 + int(10 * seconds),
                "throttled_periods": 7 + int(3 * seconds),
            },
        },
        "memory_stats": {
            "usage": 100 * MIB,
            "stats": {"inactive_file": MIB, "total_inactive_file": 30 * MIB},
        },
        **changes,
    }


def listening() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("llmlab stats")]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    eventually(lambda: not listening())


class Told:
    """A stream that tells some objects and then waits until it is closed."""

    def __init__(self, *objects: Any, ends: bool = False) -> None:
        self._objects, self._ends = objects, ends
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        yield from self._objects
        if not self._ends:
            assert self.closed.wait(60)

    def close(self) -> None:
        self.closed.set()


def values(source: Source) -> Mapping[str, float | None]:
    return source.read(time.monotonic())


def test_values_are_the_ones_of_a_control_group():
    source = ContainerStatsSource("a", partial(Told, said(), said(2)), {"memory": 512.0, "cpu": None})
    found = eventually(lambda: values(source) if values(source).get("cpu") is not None else None)
    assert found == {
        "cpu": pytest.approx(1.5),
        "throttled": pytest.approx(30.0),
        "memory": 70.0,
        "read": pytest.approx(2.0),
        "written": 0.0,
        "processes": 14.0,
    }
    # It counts for three seconds.
    assert source.read(time.monotonic() + 4) == {}
    source.close()
    assert values(source) == {}


def test_metrics_say_what_those_of_a_control_group_say():
    source = ContainerStatsSource("a", Told, {"memory": 512.0})
    group = {metric.key: metric for metric in CgroupSource("a", 1).metrics}
    for metric in source.metrics:
        like = group[metric.key]
        assert (metric.title, metric.unit) == (like.title, like.unit)
        assert "stats stream" in metric.method
        assert metric.interval_s == 1.0
    assert {metric.key: metric.most for metric in source.metrics if metric.most} == {
        "memory": 512.0,
        "throttled": 100.0,
    }
    source.close()


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"blkio_stats": {"io_service_bytes_recursive": None}}, {"read", "written"}),
        ({"blkio_stats": None}, {"read", "written"}),
        ({"blkio_stats": {"io_service_bytes_recursive": [{"op": "Read"}]}}, {"read"}),
        ({"blkio_stats": {"io_service_bytes_recursive": [7]}}, {"read", "written"}),
        ({"memory_stats": {"usage": 5, "stats": {}}}, {"memory"}),
        ({"memory_stats": {"usage": 5, "stats": {"inactive_file": 6}}}, {"memory"}),
        ({"memory_stats": {}}, {"memory"}),
        ({"cpu_stats": {"throttling_data": {"periods": 0, "throttled_periods": 0}}}, {"cpu", "throttled"}),
        ({"cpu_stats": {"cpu_usage": {"total_usage": -1}}}, {"cpu", "throttled"}),
        ({"cpu_stats": {"cpu_usage": {"total_usage": True}}}, {"cpu", "throttled"}),
        ({"cpu_stats": {"cpu_usage": {"total_usage": 10**400}}}, {"cpu", "throttled"}),
        ({"read": "0001-01-01T00:00:00Z"}, {"cpu", "read", "written"}),
        ({"read": "2026-13-45T99:00:00Z"}, {"cpu", "read", "written"}),
        ({"read": 7}, {"cpu", "read", "written"}),
        ({"pids_stats": {"current": "14"}}, {"processes"}),
    ],
)
def test_what_is_not_told_is_unknown(changes, unknown):
    readings = container_stats._Readings()
    readings.of(said())
    found = readings.of(said(2, **changes))
    assert {key for key, value in found.items() if value is None} == unknown


def test_nothing_that_was_read_yet_is_0():
    readings = container_stats._Readings()
    nothing: dict[str, Any] = {"io_service_bytes_recursive": []}
    readings.of(said(blkio_stats=nothing))
    assert readings.of(said(1, blkio_stats=nothing))["read"] == 0.0


def test_control_groups_of_version_2():
    readings = container_stats._Readings()
    memory = {"usage": 100 * MIB, "stats": {"anon": 1, "inactive_file": 10 * MIB}}
    moved = {"io_service_bytes_recursive": [{"major": 8, "minor": 0, "op": "read", "value": MIB}]}
    found = readings.of(said(memory_stats=memory, blkio_stats=moved))
    assert found["memory"] == 90.0
    found = readings.of(said(1, memory_stats=memory, blkio_stats=moved))
    assert (found["read"], found["written"]) == (0.0, 0.0)


def test_counters_of_another_container_are_no_change():
    readings = container_stats._Readings()
    readings.of(said(10))
    found = readings.of(said(0))
    assert (found["cpu"], found["read"], found["throttled"]) == (None, None, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def altered(draw: st.DrawFn) -> Any:
    """What an engine says, with anything in one place."""
    data = said(draw(st.integers(0, 9)))
    place: Any = data
    while True:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not place[key] or not isinstance(place[key], dict | list) or draw(st.booleans()):
            place[key] = draw(JSON)
            return data
        place = place[key]


@given(st.lists(JSON | altered(), max_size=4))
def test_whatever_is_said_is_a_number_or_unknown(objects):
    readings = container_stats._Readings()
    for data in objects:
        for value in readings.of(data).values():
            assert value is None or 0 <= value < float("inf")


def test_a_stream_that_breaks_is_opened_again(monkeypatch):
    monkeypatch.setattr(container_stats, "_PAUSE_S", 0.01)
    opened: list[Told] = []

    def open_stream() -> Told:
        if len(opened) == 1:
            opened.append(Told())
            raise BackendError("the container engine refused")
        opened.append(Told(said(pids_stats={"current": len(opened)}), "rubbish", ends=len(opened) == 0))
        return opened[-1]

    source = ContainerStatsSource("a", open_stream)
    eventually(lambda: len(opened) == 3)
    assert opened[0].closed.is_set()
    source.close()
    assert opened[2].closed.is_set()
    assert len(opened) == 3


def test_closing_does_not_wait_for_an_engine_that_hangs():
    go_on = threading.Event()
    stream = Told(said())

    def open_stream() -> Told:
        assert go_on.wait(60)
        return stream

    source = ContainerStatsSource("a", open_stream)
    source.close()
    assert listening()
    go_on.set()
    # What it opens after all is closed, and nothing of it counts.
    eventually(lambda: not listening())
    assert stream.closed.is_set()
    assert values(source) == {}


# For real


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, require_docker: None, require_engine: Any) -> Iterator[Any]:
    """The machine's container engine as if it were another machine's, and as it is."""
    here = docker_api.connect()
    with tcp_door() as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        yield here
        llmlab.stop(all=True, grace_s=1)
        api = docker_api.connect()
        for volume in (*api.volumes(labels.MODEL), *api.volumes(labels.TOOL)):
            api.remove_volume(volume)


def streamed(found: list[Source]) -> ContainerStatsSource:
    [source] = [each for each in found if isinstance(each, ContainerStatsSource)]
    return source


def close(found: list[Source]) -> None:
    for source in found:
        source.close()


def each_time(source: Source, times: int) -> Iterator[Mapping[str, float | None]]:
    """What it tells, as often as it tells something new."""
    before: Any = None

    def new() -> Any:
        told = values(source)
        return told if told is not before else None

    for _ in range(times):
        before = eventually(new)
        yield before


def busy(server: llmlab.Server, until: threading.Event) -> threading.Thread:
    def work() -> None:
        while not until.is_set():
            server.ask("What is a GPU?", max_tokens=60)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_an_engine_on_another_machine_tells_what_the_control_group_says(away):
    assert not docker_api.connect().is_local()
    server = llmlab.start("tiny", name="a")
    entry = away.container(server.record.container_id or "")
    pid = server_pid(entry) if away.is_local() else None
    if pid is None or not Path(f"/proc/{pid}/cgroup").exists():
        pytest.skip("its processes cannot be seen here")
    found = sources.of_server(server.record, [])
    group, idle = CgroupSource("a", pid), threading.Event()
    try:
        source = streamed(found)
        working = busy(server, idle)
        try:
            told = each_time(source, 8)
            next(told), next(told)
            group.read(time.monotonic())
            # Both are asked at the same moments.
            pairs = [(each["cpu"], group.read(time.monotonic())["cpu"]) for each in told]
        finally:
            idle.set()
            working.join()
        theirs, ours = ([value for value in side if value is not None] for side in zip(*pairs, strict=True))
        assert len(theirs) == len(ours) == 6
        assert sum(ours) > 0.5
        assert sum(theirs) == pytest.approx(sum(ours), rel=0.15)
        # Levels are compared when nothing moves any more.
        for key, tolerance in (("memory", 0.05), ("processes", 0.0)):
            eventually(partial(agree, source, group, key, tolerance))
        limits = server.record.limits
        assert limits is not None
        assert {m.key: m.most for m in source.metrics}["memory"] == limits.memory_mib
        # A connection that breaks is made anew.
        assert source._stream is not None
        source._stream.close()
        before = values(source)
        eventually(lambda: (again := values(source)) and again is not before)
        # What is removed is unknown.
        server.stop()
        eventually(lambda: not values(source))
    finally:
        close(found)
        group.close()
    assert not listening()


def agree(one: Source, other: Source, key: str, tolerance: float) -> bool:
    first, second = values(one).get(key), values(other).get(key)
    return bool(first and second and abs(first - second) <= tolerance * second)


def test_a_source_that_cannot_be_made_leaves_nothing_behind(away, monkeypatch):
    server = llmlab.start("tiny", name="a")

    def refused(*_: Any) -> None:
        assert listening()
        raise BackendError("no")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "client", refused)
        with pytest.raises(BackendError, match="no"):
            sources.of_server(server.record, [])
    assert not listening()


@pytest.mark.usefixtures("require_docker", "require_engine")
def test_a_control_group_that_cannot_be_read_from_here(tmp_path, monkeypatch):
    server = llmlab.start("tiny", name="a", backend="container")
    if not docker_api.connect().is_local():
        pytest.skip("the container engine is on another machine")
    found = sources.of_server(server.record, [])
    near = [source for source in found if isinstance(source, CgroupSource)]
    close(found)
    # As in a container that sees no control groups but its own.
    monkeypatch.setattr(sources, "CgroupSource", partial(CgroupSource, proc=tmp_path))
    found = sources.of_server(server.record, [])
    source = streamed(found)
    assert eventually(lambda: values(source).get("memory"))
    close(found)
    assert near or not Path("/sys/fs/cgroup").exists()


@pytest.mark.usefixtures("require_docker", "require_engine")
def test_a_container_that_is_not_there_is_refused_and_unknown():
    api = docker_api.connect()
    with pytest.raises(BackendError, match="No such container"):
        api.stats("llmlab-no-such-container")
    server = llmlab.start("tiny", name="a", backend="container")
    server.stop()
    gone = replace(server.record)
    found = sources.of_server(gone, [])
    assert values(streamed(found)) == {}
    close(found)


@pytest.mark.usefixtures("require_docker", "require_engine")
def test_a_stream_is_closed_while_it_is_read():
    server = llmlab.start("tiny", name="a", backend="container")
    stream = docker_api.connect().stats(server.record.container_id or "")
    told: list[str] = []

    def read() -> None:
        # A stream that is closed may end in any way.
        with suppress(Exception):
            told.extend(json.dumps(each)[:1] for each in stream)

    thread = threading.Thread(target=read)
    thread.start()
    eventually(lambda: told)
    stream.close()
    thread.join(10)
    assert not thread.is_alive()
    assert set(told) == {"{"}
