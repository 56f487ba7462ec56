"""The sampler where things go wrong: clocks, halts, counters, GPUs, containers that vanish, other samplers."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

import llmlab
from llmlab.lab import sources
from llmlab.telemetry.history import Series
from llmlab.telemetry.host import HostSource
from llmlab.telemetry.metrics import HOST, Metric, Rate
from llmlab.telemetry.process import ProcessSource
from llmlab.telemetry.sampler import Sampler
from tests import nvml_mock
from tests.conftest import eventually
from tests.faults.contract import promise
from tests.nvml_mock import Control, in_child
from tests.test_telemetry_sources import LATER, Tree, v2

REPOSITORY = Path(__file__).parent.parent
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


class Ticking:
    """A counter that grows by 100 a second of the monotonic clock."""

    subject = "clock"
    metrics = (Metric(key="rate", title="rate", unit="1/s", method="counted"),)

    def __init__(self) -> None:
        self._rate = Rate()

    def read(self, now: float) -> Mapping[str, float | None]:
        return {"rate": self._rate.of(now, 100 * now)}

    def close(self) -> None:
        pass


def named(sampler: Sampler, subject: str, key: str) -> Series:
    [found] = [each for each in sampler.series() if (each.subject, each.metric.key) == (subject, key)]
    return found


def total(series: Series) -> float:
    """What a rate adds up to."""
    steps = zip(pairwise(series.times_s), series.values[1:], strict=True)
    return sum((later - earlier) * value for (earlier, later), value in steps if value is not None)


@contextmanager
def program(code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Code in a process of its own, spoken to line by line."""
    command = [sys.executable, "-c", code, *words]
    pipe = subprocess.PIPE
    child = subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def ask(child: subprocess.Popen[str], answer: str) -> None:
    """Have it go on, and wait for what it says then."""
    assert child.stdin is not None
    assert child.stdout is not None
    print("go on", file=child.stdin, flush=True)
    assert child.stdout.readline() == f"{answer}\n"


@pytest.fixture
def busy() -> Iterator[int]:
    """A process that keeps one CPU busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml_mock.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control")


@pytest.fixture
def run(library: Path, control: Control, tmp_path: Path) -> Callable[[str], Any]:
    prelude = """
from llmlab.lab import sources
from llmlab.telemetry.gpu_share import GpuShare
from llmlab.telemetry.host import HostSource
from llmlab.telemetry.metrics import HOST
from llmlab.telemetry.sampler import Sampler
def eventually(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
def more(sampler, looks):
    seen = sampler.wait(-1, 0)
    eventually(lambda: sampler.wait(-1, 0) >= seen + looks)
def whole(sampler, key):
    return [[each.subject, *each.values] for each in sampler.series() if each.metric.key == key]
"""
    return lambda code: in_child(library, tmp_path / "control", prelude + code)


# Clocks and halts


@LINUX
def test_a_wall_clock_that_jumps_changes_nothing(busy, monkeypatch):
    chance = random.Random(1)  # noqa: S311 - where it jumps to is no secret
    monkeypatch.setattr(time, "time", lambda: chance.uniform(0, 4e9))
    monkeypatch.setattr(time, "time_ns", lambda: chance.randrange(4 * 10**18))
    began = time.monotonic()
    with Sampler([Ticking(), HostSource(), ProcessSource("busy", busy)], hz=50) as sampler:
        eventually(lambda: sampler.wait(-1, 0) > 50)
    times = named(sampler, "clock", "rate").times_s
    assert all(later > earlier for earlier, later in pairwise(times))
    assert times[0] == 0
    assert times[-1] <= time.monotonic() - began
    assert named(sampler, "clock", "rate").known == pytest.approx([100.0] * (len(times) - 1))
    # One thread cannot use more than the time that passed.
    assert 0 < total(named(sampler, "busy", "cpu")) <= times[-1] + 0.05


HALTED = """
import json, sys, time
from llmlab.telemetry.process import ProcessSource
from llmlab.telemetry.sampler import Sampler
from tests.test_sampler_faults import Ticking, named
with Sampler([Ticking(), ProcessSource("busy", int(sys.argv[1]))], hz=20) as sampler:
    for line in sys.stdin:
        seen = sampler.wait(-1, 0)
        while sampler.wait(-1, 0) < seen + 10: time.sleep(0.01)
        print("looked", flush=True)
clock, busy = named(sampler, "clock", "rate"), named(sampler, "busy", "cpu")
print(json.dumps([clock.times_s, clock.values, busy.values, sampler.missed]))
"""


@promise(
    part="Machine",
    fault="The machine sleeps while it is watched",
    sees="A gap in the charts, neither zeros nor a burst",
    keeps="What was seen before",
    cleans="Nothing is to be cleaned",
    within_s=60,
)
@LINUX
def test_a_halted_sampler_leaves_a_gap_and_no_burst(busy):
    halted_s, period_s = 2.0, 0.05
    with program(HALTED, str(busy)) as child:
        ask(child, "looked")
        child.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(child.pid).status() == psutil.STATUS_STOPPED)
        before = sum(psutil.Process(busy).cpu_times()[:2])
        time.sleep(halted_s)
        used = sum(psutil.Process(busy).cpu_times()[:2]) - before
        child.send_signal(signal.SIGCONT)
        ask(child, "looked")
        times, clock, cpu, missed = json.loads(child.communicate()[0])
    steps = [later - earlier for earlier, later in pairwise(times)]
    gap = max(range(len(steps)), key=lambda number: steps[number])
    assert steps[gap] >= halted_s
    # Across the gap, too, a rate is the change over all of that time.
    assert clock[1:] == pytest.approx([100.0] * len(steps))
    assert cpu[gap + 1] * steps[gap] == pytest.approx(used, rel=0.1, abs=0.2)
    # What was missed is not made up for, and counted.
    assert len(times) + missed == pytest.approx(times[-1] / period_s, abs=3)
    assert missed >= halted_s / period_s - 3
    # Nor does the next look come too soon after the first: of so short a time no rate can be told.
    assert min(steps[gap + 1 :]) >= period_s / 4


# Counters


def test_counters_that_grow_stick_go_back_and_vanish(tmp_path):
    """Sticking is 0, known; going back is unknown; so is what is gone, with all else as it was."""
    tree: Tree = v2(tmp_path)
    [stat] = [path for path in tree.files if path.name == "cpu.stat"]
    with Sampler([tree.source(), HostSource()], hz=50) as sampler:

        def look(changed: Mapping[str, str] | None = None, looks: int = 3) -> tuple[float | None, ...]:
            seen = sampler.wait(-1, 0)
            # After that: the look that sees the change is among those that are waited for.
            if changed:
                tree.change(changed)
            eventually(lambda: sampler.wait(-1, 0) >= seen + looks)
            return named(sampler, "a", "cpu").values[seen:]

        look()
        grown = [value for value in look(LATER) if value]
        assert len(grown) == 1
        assert set(look()) == {0.0}
        back = look({new: old for old, new in LATER.items()})
        assert back.count(None) == 1
        assert {value for value in back if value is not None} == {0.0}
        stat.write_bytes(b"")
        look()
        assert set(look()) == {None}
        assert sampler.latest()["a", "memory"] == 70.0
        assert sampler.latest()[HOST, "memory"]
    assert all(value >= 0 for value in named(sampler, "a", "cpu").known)


# GPUs, on the mock of NVIDIA's library


def test_eight_gpus_and_ten_servers(control, run):
    """Each server is found where it is; the lists are read once for each GPU, not for each server."""
    for index in range(8):
        listed = ",".join(
            f"{100 + server}:{100 * (index + 1)}" for server in range(10) if server % 8 == index
        )
        control.gpu(index, utilisation=index, processes_compute=listed)
    code = """
from llmlab.telemetry import nvml as telemetry
before = threading.active_count()
calls, query = [], nvml.query
def counted(name, *arguments):
    calls.append(name)
    return query(name, *arguments)
nvml.query = counted
def cost(gpus, servers):
    found = gpu_sources()
    for gpu in found[gpus:]: gpu.close()
    kept = found[:gpus]
    shares = [GpuShare(f"server-{n}", 100 + n, kept) for n in range(servers)]
    with Sampler([*kept, *shares], hz=20) as sampler:
        more(sampler, 3)
        seen, begun = sampler.wait(-1, 0), len(calls)
        more(sampler, 10)
        looks = sampler.wait(-1, 0) - seen
        each = (len(calls) - begun) / looks
        return each, sampler.latest()
one, _ = cost(1, 10)
few, _ = cost(8, 1)
many, latest = cost(8, 10)
eventually(lambda: not references() and threading.active_count() == before)
held = [latest[f"server-{n}", "gpu_memory"] for n in range(10)]
used = [latest[f"gpu {n}", "utilisation"] for n in range(8)]
tell([held, used, many / one, many / few])
"""
    held, used, by_gpus, by_servers = run(code)
    assert held == [100 * (server % 8 + 1) for server in range(10)]
    assert used == list(range(8))
    # A look may be under way when they are counted.
    assert by_gpus == pytest.approx(8, rel=0.25)
    assert by_servers == pytest.approx(1, rel=0.25)


def test_a_gpu_that_hangs_holds_the_others_up_once(control, run):
    for index in range(2):
        control.gpu(index, processes_compute="12:500")
    code = """
found = gpu_sources()
with Sampler([HostSource(), *found, GpuShare("a", 12, found)], hz=20) as sampler:
    more(sampler, 5)
    control.set({"0.sleep.nvmlDeviceGetMemoryInfo": 4})
    eventually(lambda: sampler.latest()["gpu 0", "memory"] is None)
    hung = sampler.wait(-1, 0)
    more(sampler, 20)
    # Without this it would sleep again.
    control.set({"0.sleep.nvmlDeviceGetMemoryInfo": 0})
    meanwhile = sampler.wait(-1, 0)
    eventually(lambda: sampler.latest()["gpu 0", "memory"])
    more(sampler, 2)
memory = {subject: values for subject, *values in whole(sampler, "memory")}
times = sampler.series()[0].times_s
steps = [later - earlier for earlier, later in zip(times, times[1:])]
tell([
    sampler.latest()["a", "gpu_memory"],
    [memory["gpu 0"].count(None) >= 20, memory["gpu 1"].count(None), memory[HOST].count(None)],
    set(memory["gpu 0"][hung:meanwhile]) == {None},
    sum(step > 0.9 for step in steps),
])
"""
    assert run(code) == [1000, [True, 0, 0], True, 1]


@promise(
    part="Machine",
    fault="NVIDIA's driver hangs",
    sees="Its values become unknown after one pause; all else goes on",
    keeps="All other series",
    cleans="The thread that hangs ends with the process",
    within_s=60,
)
def test_a_driver_that_hangs_as_a_whole_holds_a_look_up_once_and_not_for_each_gpu(control, run):
    for index in range(8):
        control.gpu(index)
    code = """
with Sampler([HostSource(), *gpu_sources()], hz=20) as sampler:
    more(sampler, 3)
    control.set({"sleep.nvmlDeviceGetMemoryInfo": 12})
    eventually(lambda: all(sampler.latest()[f"gpu {n}", "memory"] is None for n in range(8)))
    control.set({"sleep.nvmlDeviceGetMemoryInfo": 0})
    more(sampler, 10)
    meanwhile = [sampler.latest()[f"gpu {n}", "memory"] for n in range(8)]
    eventually(lambda: all(sampler.latest()[f"gpu {n}", "memory"] for n in range(8)))
times = sampler.series()[0].times_s
tell([max(later - earlier for earlier, later in zip(times, times[1:])) < 5, meanwhile])
"""
    assert run(code) == [True, [None] * 8]


@promise(
    part="Machine",
    fault="A GPU is lost in the middle, and comes back",
    sees="Its values become unknown, with the reason; then they go on",
    keeps="All other series",
    cleans="Nothing is to be cleaned",
    within_s=60,
)
def test_a_gpu_that_falls_off_and_comes_back(control, run):
    control.gpu(0)
    control.gpu(1, memory_used=7)
    code = """
from llmlab.telemetry import nvml as telemetry
telemetry._RETRY_S = 0.3
with Sampler(gpu_sources(), hz=20) as sampler:
    more(sampler, 5)
    control.set({"0.error.*": 15})
    eventually(lambda: sampler.latest()["gpu 0", "memory"] is None)
    more(sampler, 10)
    control.set({"0.error.*": None, "0.energy": 1000})
    eventually(lambda: sampler.latest()["gpu 0", "memory"])
    more(sampler, 5)
eventually(lambda: not references())
tell([whole(sampler, "memory"), whole(sampler, "energy")[0][1:]])
"""
    (first, second), energy = run(code)
    assert first[0] == "gpu 0"
    gone = [value is None for value in first[1:]]
    assert set(first[1:]) == {None, 1000}
    # Known, unknown for a while, known again: no flicker.
    assert sum(a != b for a, b in pairwise(gone)) == 2
    assert set(second[1:]) == {7}
    # Its counter began anew: the first look after that tells no energy.
    assert (energy[0], energy[-1]) == (5000, 1)
    assert energy.count(None) == gone.count(True) + 1


@pytest.mark.parametrize("error", [4, 9, None], ids=["no permission", "no driver", "no library"])
def test_where_there_is_no_gpu_to_ask_all_else_is_seen(error, control, run, library, tmp_path):
    control.gpu(0)
    if error is None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / nvml_mock.LIBRARY).touch()
    control.set({"error.nvmlInitWithFlags": error})
    code = """
from llmlab.lab import sources
from llmlab.telemetry.sampler import Sampler
with Sampler(sources.of([]), hz=20) as sampler:
    while sampler.wait(-1, 0) < 5: time.sleep(0.01)
tell(sorted({each.subject for each in sampler.series()}))
"""
    told = in_child(tmp_path / "empty" if error is None else library, tmp_path / "control", code)
    assert HOST in told
    assert not [subject for subject in told if "gpu" in subject]


def test_a_permission_that_is_taken_away_makes_one_figure_unknown(control, run):
    control.gpu(0)
    code = """
with Sampler(gpu_sources(), hz=20) as sampler:
    more(sampler, 3)
    control.set({"error.nvmlDeviceGetTotalEnergyConsumption": 4})
    more(sampler, 3)
    tell({key: value for (_, key), value in sampler.latest().items() if value is None})
"""
    assert run(code) == {"energy": None}


# Servers


@pytest.mark.usefixtures("require_docker", "require_engine")
@pytest.mark.parametrize("looks", [0, 5], ids=["before the first look", "while it looks"])
def test_a_container_that_is_removed(looks):
    """Behind everybody's back, after its files were opened."""
    server = llmlab.start("tiny", name="a", backend="container")
    sampler = Sampler(sources.of([server.record]), hz=20)
    remove = ["docker", "rm", "--force", server.record.container_id or ""]
    if not looks:
        subprocess.run(remove, check=True, capture_output=True)
    with sampler:
        if looks:
            eventually(lambda: sampler.wait(-1, 0) >= looks)
            assert sampler.latest()["a", "memory"]
            subprocess.run(remove, check=True, capture_output=True)
        # What an engine said last counts for some seconds.
        eventually(
            lambda: not [1 for (of, _), value in sampler.latest().items() if of == "a" and value is not None]
        )
        seen = sampler.wait(-1, 0)
        eventually(lambda: sampler.wait(-1, 0) >= seen + 5)
        assert sampler.latest()[HOST, "memory"]


BESIDE = """
import json, sys, time
from llmlab.lab import registry, sources
from llmlab.telemetry.sampler import Sampler
from tests.test_sampler_faults import named, total
from tests.faults.contract import promise
def looked(looks):
    seen = sampler.wait(-1, 0)
    while sampler.wait(-1, 0) < seen + looks: time.sleep(0.01)
with Sampler(sources.of(registry.find_all()), hz=10) as sampler:
    for line in sys.stdin:
        looked(15)  # what the engine says comes a look or two later
        print("looked", flush=True)
keys = sorted(each.metric.key for each in sampler.series() if each.subject == "a")
memory = named(sampler, "a", "memory").last
print(json.dumps([total(named(sampler, "a", "cpu")), total(named(sampler, "a", "generated")), memory, keys]))
"""


@LINUX
@pytest.mark.usefixtures("require_engine")
def test_two_samplers_beside_each_other_see_the_same():
    """Two processes on one server: neither takes anything away from the other."""
    server = llmlab.start("tiny", name="a", backend="native")
    with program(BESIDE) as one, program(BESIDE) as two:
        for child in (one, two):
            ask(child, "looked")
        answers = [server.ask("Tell me a story.", max_tokens=200) for _ in range(30)]
        for child in (one, two):
            ask(child, "looked")
        told = [json.loads(child.communicate()[0]) for child in (one, two)]
    (cpu, generated, memory, keys), other = told
    # The engine's rates are between its answers, and those are not quite as far apart as the looks.
    assert other == [
        pytest.approx(cpu, rel=0.05, abs=0.05),
        pytest.approx(generated, rel=0.2),
        pytest.approx(memory, rel=0.02),
        keys,
    ]
    assert generated == pytest.approx(sum(each.completion_tokens or 0 for each in answers), rel=0.2)
    assert cpu > 0
