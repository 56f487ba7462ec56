"""A look that goes on: one sampler for all who look, servers that come and go, requests as they end."""

from __future__ import annotations

import gc
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest

import llmlab
from llmlab.errors import LabError
from llmlab.monitoring.shared import SHARED
from llmlab.monitoring.watch import Watch
from llmlab.telemetry.metrics import HOST
from tests.conftest import eventually


def last(watch: Watch, subject: str, key: str) -> float | None:
    """The newest value, None if it is unknown, or was never known."""
    found = [each.last for each in watch if (each.subject, each.metric.key) == (subject, key)]
    return found[0] if found else None


@pytest.fixture(autouse=True)
def nobody_looks_afterwards():
    before = set(threading.enumerate())
    yield
    gc.collect()
    eventually(lambda: set(threading.enumerate()) <= before)


def test_it_goes_on_beside_other_work_until_it_is_stopped(require_engine):
    server = llmlab.start("tiny", name="a", backend="native")
    watch = llmlab.monitor("a", hz=10)
    assert isinstance(watch, Watch)
    answer = server.ask("What is a GPU?", max_tokens=20)
    eventually(lambda: len(watch.requests) == 1)
    assert watch.requests[0].tokens == answer.completion_tokens
    assert "goes on" in str(watch)
    eventually(lambda: last(watch, "a", "memory"))
    seen = watch.stop()
    assert not watch.running
    assert watch.stop() is seen is watch.snapshot()
    assert watch["a", "memory"] == seen["a", "memory"]
    assert "goes on" not in str(watch)
    assert "stopped" in repr(watch)


def test_all_who_look_share_one_sampler_at_the_highest_rate():
    with llmlab.monitor(hz=2) as slow, llmlab.monitor(hz=20) as quick:
        assert slow._sampler is quick._sampler
        assert slow._sampler.hz == 20
        samplers = [t for t in threading.enumerate() if t.name == "llmlab sampler"]
        assert len(samplers) == 1
        eventually(lambda: last(quick, HOST, "load1") is not None)
        quick.stop()
        assert slow._sampler.hz == 2
        # Each has its own beginning.
        assert slow.began < quick.began
        assert slow[HOST, "load1"].times_s[0] < 0.01
    assert SHARED._sampler is None


def test_what_is_over_stays_as_it_was_while_others_go_on_looking(require_engine):
    server = llmlab.start("tiny", name="a", backend="native")
    with llmlab.monitor(hz=20) as other:
        watch = llmlab.monitor("a", hz=20)
        server.ask("What is a GPU?", max_tokens=5)
        eventually(lambda: len(watch.requests) == 1)
        eventually(lambda: last(watch, "a", "cpu") is not None)
        seen = watch.stop()
        keys = [(each.subject, each.metric.key) for each in seen]
        looks = other._sampler.looks
        other.wait(looks + 5, 5)
        server.ask("What is a GPU?", max_tokens=5)
        eventually(lambda: len(other.requests) == 2)
        _, times, columns = watch.looks(keys, 0)
        assert tuple(times) == pytest.approx(seen.series[0].times_s)
        assert len(columns) == len(keys)
        # What a page gets that is loaded anew.
        assert len(watch.asked()[1]) == 1


def test_servers_that_come_are_seen_and_those_that_go_are_unknown_from_then_on(require_engine):
    with llmlab.monitor(hz=10) as watch:
        server = llmlab.start("tiny", name="later", backend="native")
        eventually(lambda: last(watch, "later", "memory"))
        server.stop()
        eventually(lambda: watch["later", "memory"].last is None)
        assert max(watch["later", "memory"].known) > 1
        assert watch.running


@pytest.mark.parametrize("place", ["native", "container"])
def test_a_server_that_is_started_again_under_its_name_is_seen_again(place, require_engine, request):
    if place == "container":
        request.getfixturevalue("require_docker")
    first = llmlab.start("tiny", name="a", backend=place)
    with llmlab.monitor(hz=10) as watch:
        eventually(lambda: last(watch, "a", "memory"))
        eventually(lambda: last(watch, "a", "cpu") is not None)
        first.stop()
        eventually(lambda: last(watch, "a", "memory") is None)
        second = llmlab.start("tiny", name="a", backend=place)
        eventually(lambda: last(watch, "a", "memory"))
        second.ask("What is a GPU?", max_tokens=5)
        eventually(lambda: len(watch.requests) == 1)
        eventually(lambda: last(watch, "a", "cpu") is not None)
        values = watch["a", "cpu"].values
        # No rate reaches over from the one to the other.
        assert all(value is None or value < 50 for value in values)
        assert None in values[1:]


def test_a_named_server_that_ends_ends_it_and_leaves_what_was_seen(require_engine, tmp_path):
    server = llmlab.start("tiny", name="a", backend="native")
    path = tmp_path / "run.jsonl.gz"
    watch = llmlab.monitor("a", hz=10, save=str(path))
    ended: list[str] = []
    watch.when_over(lambda: ended.append(watch.why))
    eventually(lambda: last(watch, "a", "memory"))
    server.stop()
    eventually(lambda: not watch.running)
    eventually(lambda: ended == ["the server has ended"])
    eventually(path.exists)
    assert llmlab.monitor(replay=str(path))["a", "memory"].known
    watch.when_over(lambda: ended.append("at once"))
    assert ended[-1] == "at once"


def test_a_server_that_crashes_ends_it_as_well(require_engine):
    server = llmlab.start("tiny", name="a", backend="native")
    watch = llmlab.monitor("a", hz=10)
    assert server.record.process
    os.kill(server.record.process.pid, signal.SIGKILL)
    eventually(lambda: not watch.running)
    server.stop()


def test_one_that_everybody_has_forgotten_ends(require_engine):
    llmlab.monitor(hz=10)
    gc.collect()
    eventually(lambda: SHARED._sampler is None)


def test_a_file_that_cannot_be_written_is_told_before_and_loses_nothing_after(tmp_path):
    with pytest.raises(LabError, match="no such directory") as told:
        llmlab.monitor(save=str(tmp_path / "nowhere" / "run.gz"))
    assert told.value.hint
    folder = tmp_path / "folder"
    folder.mkdir()
    watch = llmlab.monitor(hz=10, save=str(folder / "run.gz"))
    eventually(lambda: watch.series)
    folder.rmdir()
    with pytest.raises(LabError, match="cannot be written"):
        watch.stop()
    assert watch.series
    assert not watch.running
    assert watch.save(tmp_path / "run.gz").series == watch.series


def test_what_is_kept_is_bounded_and_its_times_stay():
    with llmlab.monitor(hz=20) as watch:
        eventually(lambda: watch._sampler.looks > 5)
        first = watch[HOST, "load1"].times_s
        count, times, columns = watch.looks([(HOST, "load1"), ("nobody", "cpu")], 0)
        assert count >= len(times) >= len(first)
        assert times[: len(first)] == pytest.approx(first)
        assert all(value != value for value in columns[1])  # noqa: PLR0124 - NaN is unknown
        later, more, _ = watch.looks([(HOST, "load1")], count)
        assert later - count == len(more)


# Two processes


def test_two_processes_look_at_one_server_and_both_see_its_requests(require_engine):
    server = llmlab.start("tiny", name="a", backend="native")
    code = (
        "import llmlab, json, sys\n"
        "w = llmlab.monitor('a', hz=10)\n"
        "print('looking', flush=True); sys.stdin.readline(); s = w.stop()\n"
        "print(json.dumps([len(s.requests), max(s['a', 'memory'].known)]))"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other, llmlab.monitor("a", hz=10) as watch:
        assert other.stdout
        assert other.stdin
        assert other.stdout.readline() == "looking\n"
        for _ in range(3):
            server.ask("What is a GPU?", max_tokens=5)
        eventually(lambda: len(watch.requests) == 3)
        time.sleep(0.5)
        other.stdin.write("\n")
        other.stdin.flush()
        asked, memory = json.loads(other.stdout.readline())
        assert asked == 3
        assert max(watch["a", "memory"].known) == pytest.approx(memory, rel=0.2)


# Terminals


def test_a_terminal_shows_its_course_until_ctrl_c_and_then_the_whole(require_engine):
    llmlab.start("tiny", name="a", backend="native")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "llmlab", "monitor", "a", "--hz", "10"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, text=True)
    os.close(follower)
    painted = b""
    while painted.count(b"\x1b[J") < 5:
        painted += os.read(leader, 4096)
    running.send_signal(signal.SIGINT)
    shown = running.communicate(timeout=60)[0]
    os.close(leader)
    assert running.returncode == 0
    assert b"memory" in painted
    assert "memory" in shown
    assert "a " in shown


def test_a_program_reads_along_until_it_has_enough(require_engine):
    llmlab.start("tiny", name="a", backend="native")
    command = [sys.executable, "-m", "llmlab", "monitor", "a", "--hz", "10", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        samples = [json.loads(running.stdout.readline()) for _ in range(4)]
        running.stdout.close()
        assert running.wait(timeout=60) != 0
    steps = [later["t_s"] - sooner["t_s"] for sooner, later in pairwise(samples)]
    assert all(step > 0 for step in steps)
    assert samples[-1]["values"]["a"]["memory"] > 1
