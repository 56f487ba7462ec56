"""Joules per token: what counters of energy say of requests, and when they say nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from llmlab.monitoring.results import Monitoring
from llmlab.telemetry import container_stats
from llmlab.telemetry.bands import Band, band_from_dict
from llmlab.telemetry.energy import over_window, with_energy
from llmlab.telemetry.gpu_share import GpuShare
from llmlab.telemetry.history import Series
from llmlab.telemetry.metrics import HOST, Metric
from llmlab.telemetry.recording import Recording
from tests import nvml_mock
from tests.nvml_mock import Control, in_child

TIMES = tuple(i / 2 for i in range(61))


def series(
    subject: str, key: str, value: Callable[[float], float | None], method: str = "the kernel"
) -> Series:
    metric = Metric(key=key, title=key, unit="", method=method)
    return Series(subject=subject, metric=metric, times_s=TIMES, values=tuple(map(value, TIMES)))


def band(began_s: float = 2.25, total_s: float = 12.0, **other: Any) -> Band:
    return Band(**{"subject": "a", "began_s": began_s, "total_s": total_s, "tokens": 100, **other})


HERE = series("a", "cpu", lambda _: 1.0)
# 50 W, and 300 W from the fifth second on.
GPU = series("a", "gpu_energy", lambda t: 50 * t + 250 * max(0.0, t - 5))
PACKAGES = series(HOST, "energy_j", lambda t: 20 * t)
ON_A_GPU = series("a", "gpu_memory", lambda _: 900.0)
ON_NONE = series("a", "gpu_memory", lambda _: 0.0)
A_GPU = series("gpu 0", "power", lambda _: 50.0)


def only(bands: tuple[Band, ...]) -> Band:
    [found] = bands
    return found


def test_joules_are_what_the_counter_grew_by_between_the_edges():
    found = only(with_energy([band()], [HERE, GPU, ON_A_GPU, PACKAGES, A_GPU]))
    # Its edges lie between two looks.
    assert found.joules == pytest.approx(50 * 12 + 250 * 9.25)
    assert found.joules_per_token == pytest.approx((50 * 12 + 250 * 9.25) / 100)
    assert found.energy_note.startswith("energy counter of the GPUs that hold this server")
    assert "idle power included" in found.energy_note


@pytest.mark.parametrize("seen", [[ON_NONE, A_GPU], []], ids=["on none of the GPUs", "no GPU"])
def test_a_server_that_is_on_no_gpu_has_the_energy_of_the_cpus(seen):
    found = only(with_energy([band()], [HERE, PACKAGES, *seen]))
    assert found.joules == pytest.approx(20 * 12)
    assert found.energy_note.startswith("energy counter of the CPU packages")


AWAY = series("a", "cpu", lambda _: 1.0, f"{container_stats.METHOD}: change")
GOES_BACK = series("a", "gpu_energy", lambda t: t if t < 8 else t - 8)


@pytest.mark.parametrize(
    ("asked", "seen", "note"),
    [
        (band(), [HERE], "no energy counter: needs an NVIDIA GPU of the Volta generation or later"),
        (band(), [HERE, ON_A_GPU, A_GPU, PACKAGES], "no energy counter"),
        (band(), [HERE, A_GPU, PACKAGES], "not known whether it was on a GPU"),
        (band(), [HERE, series("amd gpu 0", "power", lambda _: 9.0), PACKAGES], "not known whether it was"),
        (band(), [AWAY, PACKAGES], "not known whether it runs on this machine"),
        (band(), [PACKAGES], "not known whether it runs on this machine"),
        (band(), [HERE, replace(GPU, subject="b")], "no energy counter"),
        (band(total_s=3.2), [HERE, GPU], "window too short: 3.2 s of the 10 s that a figure needs"),
        (band(total_s=9.99), [HERE, GPU], "window too short: 9.9 s of the 10 s"),
        (band(began_s=-1), [HERE, GPU], "before the first look"),
        (band(total_s=30), [HERE, GPU], "after the last one"),
        (band(), [HERE, GOES_BACK], "began anew"),
        (
            band(),
            [HERE, series("a", "gpu_energy", lambda t: None if 2 < t < 4 else t)],
            "could not be read when it began or ended",
        ),
        (
            band(),
            [HERE, series("a", "gpu_energy", lambda t: None if t > 14 else t)],
            "could not be read when it began or ended",
        ),
    ],
)
def test_what_is_not_known_has_no_figure_and_says_why(asked, seen, note):
    found = only(with_energy([asked], seen))
    assert found.joules is None
    assert found.joules_per_token is None
    assert note in found.energy_note


def test_a_figure_needs_looks_near_its_edges():
    rare = Series(subject="a", metric=GPU.metric, times_s=(0.0, 7.0, 14.0, 21.0), values=(0.0, 1.0, 2.0, 3.0))
    found = only(with_energy([band()], [HERE, rare]))
    assert found.joules is None
    assert "too few looks" in found.energy_note


def test_a_hole_between_the_edges_is_no_hole_in_a_counter():
    counter = series("a", "gpu_energy", lambda t: None if 6 < t < 9 else 10 * t)
    assert only(with_energy([band()], [HERE, counter])).joules == pytest.approx(120)


def test_edges_at_the_very_time_of_a_look_need_no_neighbours():
    asked = band(began_s=0.0, total_s=30.0)
    assert only(with_energy([asked], [HERE, GPU])).joules == pytest.approx(GPU.values[-1])


def test_requests_at_the_same_time_are_said_to_share_it():
    every = [
        band(),
        band(began_s=13.0, total_s=1.0, subject="b"),
        band(began_s=1.0, total_s=2.0),
        band(began_s=14.5, total_s=1.0),  # after it
        band(began_s=1.0, total_s=1.0),  # before it
    ]
    found = with_energy(every, [HERE, GPU])
    assert found[0].energy_note.endswith("; shared with 2 other requests")
    assert with_energy([every[0], *every[3:]], [HERE, GPU])[0].energy_note.endswith("idle power included")


def test_a_request_without_tokens_has_joules_and_none_per_token():
    for tokens in (None, 0):
        found = only(with_energy([band(tokens=tokens)], [HERE, GPU]))
        assert found.joules is not None
        assert found.joules_per_token is None


def test_short_requests_make_a_window_together():
    every = [band(began_s=2.0 * i, total_s=1.5, tokens=10) for i in range(8)]
    found = over_window("a", [*every, band(subject="b", began_s=20.0)], [HERE, GPU])
    assert (found.window_s, found.tokens) == (15.5, 80)
    assert found.joules == pytest.approx(50 * 15.5 + 250 * 10.5)
    assert found.joules_per_token == pytest.approx((50 * 15.5 + 250 * 10.5) / 80)
    assert "GPUs that hold this server" in found.method
    assert found.note == ""
    recorded = Recording(began="", machine={}, series=(HERE, GPU), requests=tuple(every))
    assert Monitoring(recorded=recorded, seconds=30.0).energy("a") == over_window("a", every, [HERE, GPU])
    part = over_window("a", every, [HERE, GPU], begin_s=1.0, end_s=14.0)
    # The one that began before and the one that ended later are left out.
    assert (part.tokens, part.window_s) == (60, 11.5)


def test_a_window_says_what_is_missing_of_it():
    every = [band(began_s=2.0 * i, total_s=1.5, tokens=10) for i in range(3)]
    short = over_window("a", every, [HERE, GPU])
    assert (short.joules, short.joules_per_token, short.tokens) == (None, None, 30)
    assert "window too short: 5.5 s" in short.note
    silent = over_window("a", [band(), band(tokens=None), band(subject="b")], [HERE, GPU])
    assert (silent.tokens, silent.joules_per_token) == (None, None)
    assert silent.joules is not None
    assert silent.note == "shared with 1 other request; 1 of 2 do not tell their tokens"
    assert over_window("a", [], [HERE, GPU]).note == "no request"
    assert over_window("a", [band()], []).note.startswith("no energy counter")


def test_a_band_is_written_and_read_with_its_energy_and_without():
    found = only(with_energy([band()], [HERE, GPU]))
    assert band_from_dict(asdict(found)) == found
    older = {key: value for key, value in asdict(band()).items() if key not in {"joules", "energy_note"}}
    assert band_from_dict(older) == band()
    with pytest.raises(ValueError, match="finite"):
        band_from_dict({**older, "joules": float("nan")})


# The energy of the GPUs that a server is on


@dataclass
class Gpu:
    """What a GPU tells at one look."""

    latest: Mapping[str, float | None] = field(default_factory=dict)
    held: Mapping[int, float | None] = field(default_factory=dict)

    def process_memory_mib(self, pids: Collection[int]) -> dict[int, float | None]:
        return {pid: self.held[pid] for pid in pids if pid in self.held}


def test_energy_is_of_the_gpus_that_the_server_is_on():
    first, second = Gpu({"energy": 100.0}), Gpu({"energy": 1000.0})
    share = GpuShare("a", 7, [first, second])
    told = []

    def look(one: float | None, two: float | None, on: tuple[int, ...]) -> None:
        first.latest, second.latest = {"energy": one}, {"energy": two}
        first.held, second.held = ({7: 5.0} if place in on else {} for place in (0, 1))
        told.append(share.read(0.0)["gpu_energy"])

    look(100, 1000, ())  # on none
    look(110, 1010, (0,))  # counted from here on
    look(130, 1020, (0,))
    look(150, 1030, (0, 1))  # the other joins, from here on
    look(160, 1040, (0, 1))
    look(None, 1050, (0, 1))  # not told: unknown, and nothing is lost
    look(180, 1060, (0, 1))
    look(200, 1080, (1,))  # left the first one
    look(300, 1090, ())
    look(400, 2000, (0,))  # back again: nothing of what it took meanwhile
    look(410, 2100, (0,))
    assert told == [None, 0, 20, 40, 60, None, 100, 120, None, 120, 130]


def test_energy_is_unknown_for_good_once_a_counter_began_anew():
    gpu = Gpu({"energy": 100.0}, {7: 5.0})
    share = GpuShare("a", 7, [gpu])
    told = []
    for count in (100.0, 120.0, 3.0, 50.0):
        gpu.latest = {"energy": count}
        told.append(share.read(0.0)["gpu_energy"])
    assert told == [0, 20, None, None]


def test_a_gpu_that_does_not_tell_who_is_on_it_makes_both_unknown():
    gpu = Gpu({"energy": 100.0}, {7: 5.0})
    share = GpuShare("a", 7, [gpu])
    share.read(0.0)
    gpu.held, gpu.latest = {7: None}, {"energy": 110.0}
    assert share.read(1.0) == {"gpu_memory": None, "gpu_energy": None}
    gpu.held, gpu.latest = {7: 5.0}, {"energy": 130.0}
    assert share.read(2.0) == {"gpu_memory": 5.0, "gpu_energy": 30.0}
    share.close()
    assert set(share.read(3.0).values()) == {None}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml_mock.build(tmp_path_factory.mktemp("nvml"))


def test_a_request_on_gpus_that_are_read_through_nvml(library, tmp_path):
    """The genuine pynvml and sources; 14 s of looks are told at once."""
    control = Control(tmp_path / "control")
    control.gpu(0, energy=5_000_000, processes_compute="12:500")
    control.gpu(1, energy=1_000_000)
    code = """
from llmlab.telemetry.bands import Band
from llmlab.telemetry.energy import with_energy
from llmlab.telemetry.gpu_share import GpuShare
from llmlab.telemetry.history import History
gpus = gpu_sources()
sources = [*gpus, GpuShare("a", 12, gpus)]
history = History(100)
for source in sources:
    for metric in source.metrics:
        history.know(source.subject, metric)
for look in range(29):
    control.set({"0.energy": 5_000_000 + look * 150_000, "1.energy": 1_000_000 + look * 30_000})
    seen = {(s.subject, key): value for s in sources for key, value in s.read(look / 2).items()}
    history.add(look / 2, seen)
request = Band(subject="a", began_s=1.2, total_s=12.0, tokens=200)
[found] = with_energy([request], history.series())
control.set({"0.energy": None})
lost = [dict(source.read(15.0)) for source in sources][-1]
for source in sources: source.close()
tell([found.joules, found.joules_per_token, found.energy_note, lost["gpu_energy"], lost["gpu_memory"]])
"""
    joules, per_token, note, lost, memory = in_child(library, tmp_path / "control", code)
    assert joules == pytest.approx(300 * 12)
    assert per_token == pytest.approx(18)
    assert "GPUs that hold this server" in note
    assert (lost, memory) == (None, 500)
