"""GPUs read through NVML: the genuine pynvml on a library that tells what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmlab.telemetry.nvml import reasons
from tests import nvml_mock
from tests.nvml_mock import Control, in_child


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml_mock.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control")


@pytest.fixture
def run(library: Path, control: Control, tmp_path: Path) -> Callable[[str], Any]:
    return lambda code: in_child(library, tmp_path / "control", code)


@pytest.mark.parametrize(
    "before", ["", "import sys; sys.modules['pynvml'] = None\n"], ids=["driver", "package"]
)
def test_where_there_is_none(before, tmp_path):
    # A file that is no library, since the machine itself may have the driver.
    (tmp_path / nvml_mock.LIBRARY).touch()
    code = before + "tell([gpu_sources(), machine.gpus(), nvml.hold(), nvml.query('nvmlDeviceGetCount')])"
    assert in_child(tmp_path, tmp_path / "control", code) == [[], None, False, None]


@pytest.mark.parametrize("code", [4, 9, 12, 18, 999])
def test_a_driver_that_cannot_be_started(code, control, run):
    control.gpu(0)
    control.set({"error.nvmlInitWithFlags": code})
    assert run("tell([gpu_sources(), machine.gpus(), references()])") == [[], None, 0]


def test_a_driver_without_gpus(control, run):
    control.set({"gpus": 0})
    assert run("tell([gpu_sources(), machine.gpus(), references()])") == [[], [], 0]


def test_two_gpus(control, run):
    control.gpu(0)
    control.gpu(1, utilisation=7, memory_used=2048, reasons=0x61)
    code = """
sources = gpu_sources()
before = references()
told = [[source.subject, dict(source.read(0.0))] for source in sources]
units = {metric.key: [metric.unit, metric.most] for metric in sources[0].metrics}
for source in sources:
    source.close()
    source.close()
while references(): time.sleep(0.01)
tell([told, units, before, sources[0].read(1.0)["power"]])
"""
    (first, second), units, before, closed = run(code)
    assert first == [
        "gpu 0",
        {
            "utilisation": 42,
            "memory": 1000,
            "power": 120.5,
            "energy": 5000,
            "sm_clock": 1400,
            "memory_clock": 2600,
            "temperature": 51,
            "reasons": 4,
        },
    ]
    assert second[0] == "gpu 1"
    assert [second[1][key] for key in ("utilisation", "memory", "reasons")] == [7, 2048, 0x61]
    assert units == {
        "utilisation": ["%", 100],
        "memory": ["MiB", 16384],
        "power": ["W", None],
        "energy": ["J", None],
        "sm_clock": ["MHz", 1980],
        "memory_clock": ["MHz", 2619],
        "temperature": ["°C", None],
        "reasons": ["", None],
    }
    assert before == 1  # however many sources: one start
    assert closed is None


def test_what_is_not_told_is_unknown(control, run):
    """Not supported, not permitted, not in this driver: never 0."""
    control.gpu(0, energy=None, utilisation=None)
    control.set({"error.nvmlDeviceGetPowerUsage": 4, "0.error.nvmlDeviceGetMemoryInfo": 999})
    control.set({"error.nvmlDeviceGetTemperatureV": 13, "error.nvmlDeviceGetCurrentClocksEventReasons": 13})
    told = run("tell(dict(gpu_sources()[0].read(0.0)))")
    assert {key for key, value in told.items() if value is None} == {
        "utilisation",
        "memory",
        "power",
        "energy",
    }
    # Older drivers have these two by another name.
    assert (told["temperature"], told["reasons"]) == (51, 4)


def test_a_gpu_that_may_not_be_opened_is_left_out(control, run):
    control.gpu(0)
    control.gpu(1)
    control.set({"0.error.nvmlDeviceGetUUID": 15})
    assert run("tell([source.subject for source in gpu_sources()])") == ["gpu 1"]
    control.set({"0.error.nvmlDeviceGetUUID": None, "error.nvmlDeviceGetHandleByIndex": 4})
    assert run("tell([gpu_sources(), machine.gpus()])") == [[], None]


def test_without_uuids_the_number_serves(control, run):
    control.gpu(0, mig=2)
    control.gpu(1, memory_used=7)
    control.set({"0.1.memory.total": 4096, "0.1.memory.used": 5, "error.nvmlDeviceGetUUID": 3})
    told = run("tell([[source.subject, source.read(0.0)['memory']] for source in gpu_sources()])")
    assert told == [["gpu 0", 1000], ["gpu 0 mig 1", 5], ["gpu 1", 7]]


def test_mig_devices(control, run):
    control.gpu(0, mig=3, utilisation=None)
    for part, used in ((0, 300), (2, 700)):
        control.set({f"0.{part}.memory.total": 4096, f"0.{part}.memory.used": used})
    control.set({"0.2.processes.compute": "12:600", "0.2.processes.graphics": ""})
    code = """
sources = gpu_sources()
told = {source.subject: dict(source.read(0.0)) for source in sources}
tell([told, sources[2].process_memory_mib([12, 13]), sources[1].process_memory_mib([12])])
"""
    told, processes, not_told = run(code)
    assert list(told) == ["gpu 0", "gpu 0 mig 0", "gpu 0 mig 2"]
    assert told["gpu 0"]["utilisation"] is None
    assert told["gpu 0"]["power"] == 120.5
    assert told["gpu 0 mig 0"] == {"utilisation": None, "memory": 300}
    assert told["gpu 0 mig 2"] == {"utilisation": None, "memory": 700}
    assert processes == {"12": 600}
    assert not_told == {"12": None}


def test_a_field_that_finds_the_gpu_lost(control, run):
    control.gpu(0, field_186=131000)
    code = """
[source] = gpu_sources()
control.set({"0.field.186.error": 15})
tell([source.read(0.0)["memory"]])
"""
    assert run(code) == [None]


@pytest.mark.parametrize(
    ("field", "capability", "word", "interval_s", "watts"),
    [
        (131000, "9.0", "field 186", 0.1, 131),
        (None, "9.0", "average over 1 s", 1.0, 120.5),
        (None, "8.6", "average over 1 s", 1.0, 120.5),
        (None, "8.0", "at this moment", 0.1, 120.5),
        (None, "7.5", "at this moment", 0.1, 120.5),
        (None, None, "an average of 1 s or", 1.0, 120.5),
    ],
)
def test_power_says_how_it_is_measured(field, capability, word, interval_s, watts, control, run):
    control.gpu(0, field_186=field, capability=capability)
    code = """
[source] = gpu_sources()
[metric] = [metric for metric in source.metrics if metric.key == "power"]
tell([metric.method, metric.interval_s, source.read(0.0)["power"]])
"""
    method, *rest = run(code)
    assert word in method
    assert rest == [interval_s, watts]


def test_power_and_energy_say_how_far_they_may_be_off(control, run):
    """Read 13 % too high, the truth is below; and they say who found that."""
    control.gpu(0)
    code = """
[source] = gpu_sources()
tell([[metric.key, metric.error, "2312.02741" in metric.method] for metric in source.metrics if metric.error])
"""
    assert run(code) == [["power", [0.13, 0.08], True], ["energy", [0.13, 0.08], True]]


def test_the_newest_look_is_kept_and_nothing_of_one_that_saw_nothing(control, run):
    control.gpu(0)
    code = """
[source] = gpu_sources()
told = [dict(source.latest)]
told += [dict(source.read(0.0)) == source.latest, source.latest["memory"]]
control.set({"0.error.*": 15})
source.read(1.0)
told += [source.latest]
control.set({"0.error.*": None})
source.read(2.0)                    # not tried yet
told += [source.latest]
source.read(7.0)
told += [source.latest["memory"]]
control.set({"0.sleep.nvmlDeviceGetMemoryInfo": 2})
source.read(8.0)
told += [source.latest]
control.set({"0.sleep.nvmlDeviceGetMemoryInfo": 0})
while source.read(9.0)["memory"] is None: time.sleep(0.05)
source.close()
tell([*told, source.latest])
"""
    assert run(code) == [{}, True, 1000, {}, {}, 1000, {}, {}]


def test_a_field_that_fails_later_is_unknown(control, run):
    """It is not filled with the average: that is another quantity."""
    control.gpu(0, field_186=131000)
    code = """
[source] = gpu_sources()
told = [source.read(0.0)["power"]]
control.set({"0.field.186": None})
tell([*told, source.read(1.0)["power"]])
"""
    assert run(code) == [131, None]


def test_a_lost_gpu_comes_back(control, run):
    """The other one has its number meanwhile: it must not be taken for it."""
    control.gpu(0)
    control.gpu(1, memory_used=7, processes_compute="12:500")
    code = """
first, second = gpu_sources()
def look(now):
    return [first.read(now)["memory"], second.read(now)["memory"]]
told = [look(0.0)]
control.set({"0.error.*": 15})
told += [look(1.0), look(2.0)]
told += [look(7.0)]                 # tried again, in vain
gone = [first.process_memory_mib([12]), second.process_memory_mib([12])]
began = starts()
control.set({"0.error.*": None})
told += [look(8.0)]                 # not tried yet
told += [began == starts()]
told += [look(13.0), set(first.read(14.0).values()) != {None}]
first.close(), second.close()
while references(): time.sleep(0.01)
tell([told, gone])
"""
    told, gone = run(code)
    assert told == [[1000, 7], [None, 7], [None, 7], [None, 7], [None, 7], True, [1000, 7], True]
    assert gone == [{"12": None}, {"12": 500}]


def test_a_lost_gpu_tells_nothing_at_all(control, run):
    control.gpu(0)
    code = """
[source] = gpu_sources()
control.set({"0.error.nvmlDeviceGetTemperatureV": 15})
tell(dict(source.read(0.0)))
"""
    told = run(code)
    assert len(told) == 8
    assert set(told.values()) == {None}


def test_a_driver_that_is_reloaded(control, run):
    """Its energy counter begins anew, too: the first look after that tells none."""
    control.gpu(0)
    code = """
[source] = gpu_sources()
def look(now):
    told = source.read(now)
    return [told["memory"], told["energy"]]
told = [look(0.0)]
control.set({"error.*": 1, "error.nvmlInitWithFlags": 9})
told += [look(1.0), look(7.0), machine.gpus()]
control.set({"error.*": None, "error.nvmlInitWithFlags": None, "0.energy": 1000})
told += [look(8.0), look(13.0), look(14.0)]
source.close()
while references(): time.sleep(0.01)
tell(told)
"""
    none = [None, None]
    assert run(code) == [[1000, 5000], none, none, None, none, [1000, None], [1000, 1]]


def test_energy_that_goes_backwards_is_unknown(control, run):
    control.gpu(0)
    code = """
[source] = gpu_sources()
told = []
for now, count in enumerate((5_000_000, 5_000_500, 4_000_000, 4_000_000, None, 4_002_000)):
    control.set({"0.energy": count})
    told.append(source.read(float(now))["energy"])
tell(told)
"""
    assert run(code) == [5000, 5000.5, None, 4000, None, 4002]


def test_a_call_that_hangs(control, run):
    """It is waited for once, by one thread, and the other GPU is read meanwhile."""
    control.gpu(0)
    control.gpu(1)
    code = """
first, second = gpu_sources()
first.read(0.0), second.read(0.0)
before = threading.active_count()
control.set({"0.sleep.nvmlDeviceGetUtilizationRates": 3})
began = time.monotonic()
stuck = [first.read(1.0)["memory"]]
waited = time.monotonic() - began
began = time.monotonic()
stuck += [first.read(1.0 + i)["memory"] for i in range(200)]
stuck += [first.process_memory_mib([1])[1]]
many = time.monotonic() - began
other = second.read(1.0)["memory"]
control.set({"0.sleep.nvmlDeviceGetUtilizationRates": 0})
after = threading.active_count()
while (again := first.read(9.0)["memory"]) is None: time.sleep(0.05)
tell([set(stuck) == {None}, waited < 3, many < 2, other, after - before, again])
"""
    assert run(code) == [True, True, True, 1000, 0, 1000]


def test_nothing_is_started_anew_while_a_call_hangs(control, run):
    """Not for a GPU that is lost, nor for a driver that is gone; the third is read meanwhile."""
    for index in range(3):
        control.gpu(index)
    code = """
sources = gpu_sources()
for source in sources: source.read(0.0)
control.set({"0.sleep.nvmlDeviceGetUtilizationRates": 3, "1.error.*": 15})
for source in sources: source.read(1.0)
began = starts()
told = [source.read(7.0)["memory"] for source in sources]
control.set({"1.error.*": None, "2.error.nvmlDeviceGetMemoryInfo": 1})
told += [source.read(14.0)["memory"] for source in sources]
told += [machine.gpus(), starts() - began]
control.set({"0.sleep.nvmlDeviceGetUtilizationRates": 0, "2.error.nvmlDeviceGetMemoryInfo": None})
while sources[0].read(15.0)["memory"] is None: time.sleep(0.05)
told += [source.read(21.0)["memory"] for source in sources]
for source in sources: source.close()
while references(): time.sleep(0.01)
tell(told)
"""
    none = [None, None, None]
    assert run(code) == [None, None, 1000, *none, None, 0, 1000, 1000, 1000]


def test_the_last_user_leaves_while_a_call_hangs(control, run):
    control.gpu(0)
    control.set({"sleep.nvmlDeviceGetCount": 0.5})
    code = """
nvml.hold()
told = []
thread = threading.Thread(target=lambda: told.append(nvml.query("nvmlDeviceGetCount")))
thread.start()
while not nvml._state.calls: time.sleep(0.001)
nvml.release()
told += [references()]
thread.join()
tell([*told, references()])
"""
    assert run(code) == [1, 1, 0]


def test_closing_and_ending_do_not_wait_for_a_call_that_hangs(control, run):
    """Nor is NVML shut down under it: the mock would end the process."""
    control.gpu(0)
    code = """
[source] = gpu_sources()
control.set({"sleep.nvmlDeviceGetMemoryInfo": 1000})
source.read(0.0)
began = time.monotonic()
source.close()
tell([time.monotonic() - began < 1, references(), source.read(1.0)["memory"]])
"""
    assert run(code) == [True, 1, None]


def test_what_hung_is_closed_when_it_goes_on(control, run):
    control.gpu(0)
    code = """
[source] = gpu_sources()
control.set({"sleep.nvmlDeviceGetMemoryInfo": 2})
source.read(0.0)
source.close()
while references(): time.sleep(0.01)
tell(threading.active_count() < 3)
"""
    assert run(code) is True


def test_a_driver_that_hangs_when_it_is_listed(control, run):
    control.gpu(0)
    control.set({"sleep.nvmlDeviceGetCount": 1})
    code = """
import llmlab.telemetry.nvml as module
module._LISTING_S = 0.2
told = gpu_sources()
while not references(): time.sleep(0.01)
while references(): time.sleep(0.01)
tell(told)
"""
    assert run(code) == []


def test_the_memory_of_processes(control, run):
    control.gpu(0, processes_compute="12:500,13:na,14:100,14:50", processes_graphics="12:520,15:30,13:8")
    code = """
[source] = gpu_sources()
told = [source.process_memory_mib([12, 13, 14, 15, 99]), source.process_memory_mib([])]
control.set({"0.processes.graphics": None})
source.read(1.0)
told += [source.process_memory_mib([12, 13, 99])]
control.set({"0.processes.compute": None})
source.read(2.0)
told += [source.process_memory_mib([12, 99])]
source.read(3.0)
control.set({"0.error.*": 15})
tell([*told, source.process_memory_mib([12])])
"""
    both, nobody, compute, neither, lost = run(code)
    # Process 12 is in both lists with all it has; 14 twice in one, with a part each.
    assert both == {"12": 520, "13": 8, "14": 150, "15": 30}
    assert nobody == {}
    # Without the other list nobody knows whether 99 has anything there.
    assert compute == {"12": 500, "13": None, "99": None}
    assert neither == {"12": None, "99": None}
    assert lost == {"12": None}


def test_the_lists_of_processes_are_read_once_for_each_look(control, run):
    """However many servers are asked about."""
    control.gpu(0, processes_compute="12:500")
    code = """
[source] = gpu_sources()
source.read(0.0)
told = [source.process_memory_mib([12])]
control.set({"0.processes.compute": "13:700"})
told += [source.process_memory_mib([12, 13])]
source.read(1.0)
tell([*told, source.process_memory_mib([12, 13])])
"""
    assert run(code) == [{"12": 500}, {"12": 500}, {"13": 700}]


WHOLE: dict[str, Any] = {"minor": None, "mig": False, "slices": []}


def test_the_machine_tells_the_slices_of_a_gpu_that_is_cut(control, run):
    control.gpu(0, mig=7)
    control.set({"0.1.memory.total": 4096, "0.1.memory.used": 96})
    [gpu] = run("from dataclasses import asdict\ntell([asdict(gpu) for gpu in machine.gpus()])")
    assert gpu["mig"] is True
    assert gpu["slices"] == [
        {"index": 1, "uuid": "MIG-mock-0-1", "total_mib": 4096, "free_mib": 4000, "instances": None}
    ]


def test_the_machine_tells_its_gpus(control, run):
    control.gpu(0)
    control.gpu(1, name="Another mock", memory_total=8192)
    code = """
from dataclasses import asdict
told = [asdict(gpu) for gpu in machine.gpus()]
left = references()
control.set({"1.memory.total": None})
tell([told, left, machine.gpus()])
"""
    told, left, not_told = run(code)
    assert told == [
        {**WHOLE, "name": "Mock", "total_mib": 16384, "free_mib": 15384, "uuid": "GPU-mock-0"},
        {**WHOLE, "name": "Another mock", "total_mib": 8192, "free_mib": 7192, "uuid": "GPU-mock-1"},
    ]
    assert left == 0
    assert not_told is None


def test_the_gate_counts_its_users(control, run):
    control.gpu(0)
    code = """
told = [nvml.query("nvmlDeviceGetCount"), nvml.hold(), nvml.hold(), references(), starts()]
nvml.release()
told += [nvml.query("nvmlDeviceGetCount"), nvml.query("nvmlNoSuchFunction")]
nvml.release()
tell([*told, references(), nvml.query("nvmlDeviceGetCount")])
"""
    assert run(code) == [None, True, True, 1, 1, 1, None, 0, None]


def test_many_threads_may_ask(control, run):
    """While others have NVML started anew, or begin and end."""
    control.gpu(0)
    code = """
sources = gpu_sources() + gpu_sources()
threads = [threading.Thread(target=lambda: [(nvml.renew(), machine.gpus()) for _ in range(100)])]
threads += [threading.Thread(target=lambda s=s: [s.read(0.0) for _ in range(100)]) for s in sources]
for thread in threads: thread.start()
for thread in threads: thread.join()
told = [source.read(9.0)["memory"] for source in sources]
for source in sources: source.close()
while references(): time.sleep(0.01)
tell(told)
"""
    assert run(code) == [1000, 1000]


def test_reasons_in_words():
    assert reasons(0) == ()
    assert reasons(1.0) == ("idle",)
    assert reasons(0x44) == ("power cap", "heat, slowed by the hardware")
    assert reasons(0x1004) == ("power cap", "not known to this version (0x1000)")


def test_a_watched_machine_shows_its_gpus_and_one_that_falls_off(control, run):
    control.gpu(0)
    control.gpu(1, utilisation=7)
    code = """
import llmlab, threading
threading.Timer(1.0, lambda: control.set({"0.error.*": 15})).start()
seen = llmlab.monitor(for_s=2.0, hz=10)
tell({f"{each.subject} {each.metric.key}": [each.values[1], each.last] for each in seen})
"""
    found = run(code)
    assert found["gpu 0 utilisation"] == [42, None]
    assert found["gpu 0 power"] == [120.5, None]
    assert found["gpu 1 utilisation"] == [7, 7]
    assert found["gpu 1 memory"][1] == 1000
