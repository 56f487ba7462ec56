"""What of a model goes onto a GPU, onto which, and what others were promised of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from llmlab import machine, runtime
from llmlab.engines import base, engine
from llmlab.engines.base import Paths
from llmlab.errors import MemoryFitError, UsageError
from llmlab.isolation.gpus import RenderNode
from llmlab.lab import gpu_choice, offload, reservations
from llmlab.machine import Gpu, Slice
from llmlab.profiles import parse_gpus
from llmlab.specs import GivenGpus, Prediction
from llmlab.weights import fit, outline
from tests import examples, nvml_mock

SETTING = fit.Setting(context=4096, slots=1)
MODEL = outline.of_shape("llama-3.1-8b", "Q4_0")
ALL = MODEL.n_layers + 1


@pytest.fixture
def cards(monkeypatch):
    """A machine with two cards and a llama.cpp that was compiled for them."""
    found = (
        Gpu(name="Small", total_mib=8192, free_mib=3000, uuid="GPU-small"),
        Gpu(name="Large", total_mib=24576, free_mib=20000, uuid="GPU-large"),
    )
    monkeypatch.setattr(machine, "gpus", lambda: found)
    monkeypatch.setattr(offload, "_compiled_for", lambda: ("cuda",))


def decide(place="native", layers=None, gpus=None, **more) -> offload.Offload:
    return offload.decide(MODEL, SETTING, place, layers=layers, gpus=gpus, name="big", **more)


def test_by_default_a_native_server_takes_all_layers_to_the_emptiest_card(cards):
    assert decide() == offload.Offload(layers=ALL, gpus="device=1", ids=("GPU-large",))


def test_a_container_sees_no_card_that_was_not_asked_for(cards):
    assert decide("container") == offload.Offload()
    assert decide("container", gpus="1") == offload.Offload(layers=ALL, gpus="device=1", ids=("GPU-large",))
    with pytest.raises(UsageError, match="no GPU unless it is given one"):
        decide("container", layers="all")


def test_what_does_not_fit_stays_on_the_cpu_and_a_note_says_so(cards):
    found = decide(gpus="device=0")
    assert 0 < found.layers < ALL
    assert f"{found.layers} of the {ALL} layers of big fit into the 3000 MiB that are left" in found.notes[0]
    fitting = fit.need(MODEL, replace(SETTING, gpu_layers=found.layers))
    one_more = fit.need(MODEL, replace(SETTING, gpu_layers=found.layers + 1))
    assert fitting.vram_mib <= 3000 < one_more.vram_mib


def test_more_layers_than_fit_are_refused_with_the_number_that_would(cards):
    most = decide(gpus="device=0").layers
    with pytest.raises(MemoryFitError, match=r"3000 MiB are left: GPU 0 .Small. has 3000 MiB free") as told:
        decide(gpus="device=0", layers="all")
    assert f"--gpu-layers {most} would fit" in str(told.value)
    assert decide(gpus="device=0", layers="all", force=True).layers == ALL


@pytest.mark.parametrize(
    ("layers", "gpus", "message"),
    [
        ("many", None, "'many' is no number of layers"),
        ("-1", None, "no number"),
        (None, "device=5", "there is no GPU 5"),
        (None, "GPU-large", "no number of GPUs"),
        (None, "3", "3 GPUs were asked for"),
    ],
)
def test_what_cannot_be_is_told_with_what_could(cards, layers, gpus, message):
    with pytest.raises(UsageError, match=message):
        decide(layers=layers, gpus=gpus)


def test_a_container_cannot_be_given_a_card_that_there_is_not(cards):
    with pytest.raises(UsageError, match="there is no GPU 7") as told:
        decide("container", gpus="device=7")
    assert "GPU 0 (Small), GPU 1 (Large)" in str(told.value)


def test_zero_layers_use_no_gpu_wherever_it_runs(cards):
    assert decide(layers="0") == decide("container", layers="0", gpus="device=0") == offload.Offload()


def test_a_build_for_the_cpu_is_told_and_how_to_get_another(monkeypatch):
    monkeypatch.setattr(offload, "_compiled_for", lambda: ())
    monkeypatch.setattr(machine, "gpus", lambda: pytest.fail("NVIDIA's library was asked in vain"))
    assert decide() == offload.Offload()
    with pytest.raises(UsageError, match="compiled for the CPU only") as told:
        decide(layers="all")
    assert "llmlab build --gpu cuda" in str(told.value)


def test_layers_are_counted_in_llama_cpps_log():
    log = ["x", "load_tensors: offloaded 17/33 layers to GPU", "y"]
    assert base.offloaded(log) == (17, 33)
    assert base.offloaded(["no word of it"]) is None


def test_llama_server_is_told_in_so_many_words_to_use_no_gpu():
    paths = Paths(
        program=PurePosixPath("/program"), model=PurePosixPath("/model"), scratch=PurePosixPath("/scratch")
    )
    none = engine("llama-server").argv(examples.spec(), paths)
    some = engine("llama-server").argv(examples.spec(gpu_layers=9), paths)
    assert none[none.index("--device") + 1] == "none"
    assert "--device" not in some
    assert some[some.index("--n-gpu-layers") + 1] == "9"


# Layers, slots → MiB that NVML showed for llama-server's process on an H100 (bench/results/gpu).
@pytest.mark.parametrize(
    ("shape", "slots", "seen_mib"),
    [("llama-3.2-1b", 4, 1892), ("llama-3.2-1b", 8, 2404), ("llama-3.1-8b", 8, 8954)],
)
def test_gpu_memory_is_predicted_as_it_was_seen(shape, slots, seen_mib):
    model = outline.of_shape(shape, "Q4_0")
    needed = fit.need(model, fit.Setting(context=4096, slots=slots, gpu_layers=model.n_layers + 1))
    assert needed.vram_mib == pytest.approx(seen_mib, rel=0.02)
    assert needed.parts["weights"] > 0  # the rows of the prompt's tokens are looked up here


@pytest.mark.parametrize("words", ["device=GPU-large", "device=GPU-lar", "device=1", "0,1", "all", "2"])
def test_gpus_are_found_by_number_and_by_uuid(cards, words):
    found = decide("container", gpus=words)
    assert "GPU-large" in found.ids
    assert found.gpus is not None
    # What is asked for by name is asked of the engine by that name.
    assert found.gpus == {"0,1": "device=0,1", "2": "device=1,0"}.get(words, words)


def test_on_another_machine_the_engine_is_asked_for_a_number(cards):
    assert decide("container", gpus="1", elsewhere=True) == offload.Offload(layers=ALL, gpus="1")


# Slices


CUT = Gpu(
    name="H100",
    total_mib=81559,
    free_mib=81000,
    uuid="GPU-cut",
    mig=True,
    slices=(
        Slice(index=0, uuid="MIG-aaaaaaaa", total_mib=9856, free_mib=9800),
        Slice(index=1, uuid="MIG-bbbbbbbb", total_mib=9856, free_mib=9800),
    ),
)


@pytest.mark.parametrize("words", ["1", "device=0", "device=GPU-cut"])
def test_a_gpu_that_is_cut_is_given_by_its_slices_only(monkeypatch, words):
    monkeypatch.setattr(machine, "gpus", lambda: (CUT,))
    with pytest.raises(UsageError, match=r"GPU 0 .H100. is cut into MIG slices, and none is named") as told:
        decide("container", gpus=words)
    assert "device=0:0 (9800 MiB free), device=0:1" in told.value.hint


def test_a_whole_gpu_is_taken_before_one_that_is_cut(monkeypatch):
    whole = Gpu(name="Whole", total_mib=24576, free_mib=20000, uuid="GPU-whole")
    monkeypatch.setattr(machine, "gpus", lambda: (CUT, whole))
    assert decide("container", gpus="1").ids == ("GPU-whole",)


@pytest.mark.parametrize("words", ["device=0:1", "device=MIG-bbbbbbbb"])
def test_a_slice_is_asked_for_by_its_uuid_which_cuda_knows_as_well(monkeypatch, words):
    monkeypatch.setattr(machine, "gpus", lambda: (CUT,))
    found = decide("container", gpus=words)
    assert (found.layers, found.gpus, found.ids) == (ALL, "device=MIG-bbbbbbbb", ("MIG-bbbbbbbb",))


def test_a_slice_is_one_servers(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: (CUT,))
    with reservations.booking() as first:
        first.take("alpha", decide("container", gpus="device=0:1").ids, 6000)
        with pytest.raises(UsageError, match="slice 0:1 of H100 is taken by alpha") as told:
            decide("container", gpus="device=0:1")
        assert "stop alpha" in told.value.hint
        assert decide("container", gpus="device=0:0").layers == ALL
    assert decide("container", gpus="device=0:1").layers == ALL


# What others were promised


def test_two_starts_are_not_planned_into_the_same_memory(cards):
    with reservations.booking() as first:
        first.take("alpha", decide(gpus="device=1").ids, 18500)
        then = decide(gpus="device=1")
        assert 0 < then.layers < ALL
        assert "GPU 1 (Large) has 20000 MiB free, of which are reserved: 18500 by alpha" in then.notes[0]
        with pytest.raises(MemoryFitError, match=r"1500 MiB are left: .*18500 by alpha"):
            decide(gpus="device=1", layers="all")
    assert decide(gpus="device=1").layers == ALL


def test_one_gpu_is_the_one_with_the_most_left_after_reservations(cards):
    with reservations.booking() as first:
        first.take("alpha", ("GPU-large",), 18500)
        assert decide(gpus="1").ids == ("GPU-small",)


def test_a_gpu_that_is_full_is_told_with_who_waits_for_its_memory(cards):
    with reservations.booking() as first:
        first.take("alpha", ("GPU-large",), 20000)
        with pytest.raises(MemoryFitError, match=r"not one layer of big fits.*20000 by alpha") as told:
            decide("container", gpus="device=1")
        assert "--gpu-layers 0" in told.value.hint
        assert decide("container", gpus="device=1", force=True).ids == ("GPU-large",)


def test_a_promise_has_its_servers_name_when_it_has_one(cards):
    with reservations.booking() as first:
        first.take("tiny", ("GPU-large",), 100)
        first.name("tiny-2")
        assert reservations.outstanding() == {"GPU-large": {"tiny-2": 100}}
        assert reservations.users() == {"GPU-large": ["tiny-2"]}


def test_a_promise_ends_with_the_process_that_has_made_it(isolated_runtime):
    code = "from llmlab.lab.reservations import Booking; Booking().take('alpha', ('GPU-x',), 5)"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ), timeout=100)
    assert list(isolated_runtime.glob(".gpus-*"))
    assert reservations.outstanding() == {}
    assert not list(isolated_runtime.glob(".gpus-*"))


def test_a_damaged_promise_counts_as_none(isolated_runtime):
    path = isolated_runtime / ".gpus-x.json"
    path.write_text('{"server": 5}', encoding="utf-8")
    assert reservations.outstanding() == {}
    path.unlink()


def test_only_one_start_decides_at_a_time():
    order = []
    with reservations.Booking().deciding(gpus=True):
        code = (
            "from llmlab.lab.reservations import Booking\n"
            "with Booking().deciding(gpus=False): print('free', flush=True)\n"
            "with Booking().deciding(gpus=True): print('decides', flush=True)\n"
        )
        other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert other.stdout
        assert other.stdout.readline() == "free\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
        order.append("we")
    assert other.stdout.readline() == "decides\n"
    other.stdout.close()
    assert other.wait(100) == 0


def ready(name: str, vram_mib: int, gpu: str = "GPU-mock-0") -> None:
    """A record of a native server that this very process stands for."""
    record = examples.record(
        name=name,
        backend="native",
        container_id=None,
        owner=None,
        process=runtime.process(os.getpid()),
        gpus=GivenGpus(ids=(gpu,)),
        predicted=Prediction(required_mib=1, resident_mib=1, ready_mib=1, vram_mib=vram_mib),
    )
    with runtime.claim(name) as claim:
        claim.write(record)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The mock library, compiled once."""
    return nvml_mock.build(tmp_path_factory.mktemp("nvml"))


@pytest.mark.parametrize(
    ("listed", "left"),
    [("{pid}:1000", {"GPU-mock-0": {"alpha": 4000}}), ("{pid}:5000", {}), ("{pid}:na", {}), ("1:700", None)],
)
def test_what_a_server_does_not_hold_yet_of_its_prediction_is_reserved(library, tmp_path, listed, left):
    control = nvml_mock.Control(tmp_path / "control")
    control.gpu(0)
    code = """
import os
from llmlab.lab import holding, reservations
from tests import test_gpus
test_gpus.ready("alpha", 5000)
control.set({"0.processes.compute": LISTED.format(pid=os.getpid())})
found = reservations.outstanding(), reservations.users(), holding.counts_as_the_driver()
from llmlab.runtime import Claim, runtime_dir
Claim(runtime_dir() / "alpha").remove()
tell(found)
""".replace("LISTED", repr(listed))
    outstanding, users, counts = nvml_mock.in_child(library, tmp_path / "control", code)
    if left is None:
        # A process that is not listed holds nothing, where both count processes alike.
        left = {"GPU-mock-0": {"alpha": 5000}} if counts else {}
    assert outstanding == left
    assert users == {"GPU-mock-0": ["alpha"]}


def test_a_gpu_that_is_lost_in_mid_run_is_told(library, tmp_path):
    control = nvml_mock.Control(tmp_path / "control")
    control.gpu(0)
    control.gpu(1)
    code = """
from llmlab.lab import gpu_lost
from llmlab.specs import GivenGpus, Prediction
from tests import examples
record = examples.record(gpus=GivenGpus(ids=("GPU-mock-1",)))
told = [gpu_lost.told(record)]
control.set({"1.error.*": 15})
told += [gpu_lost.told(record), gpu_lost.told(examples.record())]
tell(told)
"""
    before, after, without = nvml_mock.in_child(library, tmp_path / "control", code)
    assert before == without == ""
    assert "its GPU is lost: GPU-mock-1" in after
    assert "Xid" in after


# Before a start


@pytest.fixture
def lost(library, tmp_path):
    """What is decided on a machine of two GPUs whose driver tells what is given, for each of some wishes."""

    def decided(values, *wishes):
        control = nvml_mock.Control(tmp_path / "control")
        control.gpu(0)
        control.gpu(1, memory_used=4000)
        control.set(values)
        code = f"""
from llmlab.lab import offload
from llmlab.errors import LabError
from llmlab.weights import fit, outline
offload._compiled_for = lambda: ("cuda",)
model, setting = outline.of_shape("llama-3.2-1b", "Q4_0"), fit.Setting(context=4096, slots=1)
def decide(place, gpus, layers=None):
    try:
        found = offload.decide(model, setting, place, layers=layers, gpus=gpus, name="big")
        return [found.layers, found.gpus, found.ids, found.notes]
    except LabError as error:
        return [error.message, error.hint]
tell([decide(*wish) for wish in {wishes!r}])
"""
        return nvml_mock.in_child(library, tmp_path / "control", code)

    return decided


# The driver counts GPU 0 and does not open it: it has fallen off the bus, or says no more than "Unknown Error".
FALLEN = {"0.error.nvmlDeviceGetHandleByIndex": 15, "0.error.nvmlDeviceGetHandleByUUID": 15}
UNKNOWN = {"0.error.nvmlDeviceGetHandleByIndex": 999, "0.error.nvmlDeviceGetHandleByUUID": 999}
PLACES = ("container", "native")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            FALLEN,
            {
                "device=0": r"lost: 0 \(it has fallen off the bus\)",
                "device=GPU-mock-0": r"lost: GPU-mock-0 \(the driver knows it",
                "device=0:1": "lost: 0:1",
                "all": r"lost: 0 \(it has fallen off the bus\)",
                "2": "2 GPUs were asked for, and 1 of this machine's answers: GPU 0 is lost",
                "device=GPU-other": "no GPU GPU-other that answers, and GPU 0 is lost",
            },
        ),
        (
            UNKNOWN,
            {"device=0": r"lost: 0 \(the driver does not say why\)", "device=GPU-mock-0": "lost: GPU-mock-0"},
        ),
        ({"1.error.nvmlDeviceGetMemoryInfo": 15}, {"device=1": r"lost: 1 \(it has fallen off the bus\)"}),
        ({"1.error.nvmlDeviceGetMemoryInfo": 16}, {"device=1": r"lost: 1 \(it has to be reset\)"}),
    ],
    ids=["fallen", "unknown", "fallen later", "reset"],
)
def test_a_gpu_that_is_lost_is_told_before_a_start_with_those_that_answer(lost, values, told):
    wishes = [(place, gpus) for place in PLACES for gpus in told]
    for (_, gpus), found in zip(wishes, lost(values, *wishes), strict=True):
        message, hint = found
        assert re.search(told[gpus], message)
        assert "dmesg" in hint
        assert f"--gpus device={0 if '1.error.nvmlDeviceGetMemoryInfo' in values else 1}" in hint


@pytest.mark.parametrize(
    ("values", "message", "remedy"),
    [
        ({"error.nvmlDeviceGetHandleByIndex": 999}, "is lost|none of this machine's answer", "reboot"),
        ({"error.nvmlInitWithFlags": 18}, "its libraries are not those of the driver", "sudo reboot"),
        ({"error.nvmlInitWithFlags": 9}, "it is not loaded", "modprobe"),
        ({"error.nvmlInitWithFlags": 999}, "cannot be asked", "dmesg"),
        ({"error.*": 9}, "no longer answers", "dmesg"),
        ({"0.error.*": 15, "1.error.*": 15}, "knows of no GPU", "is lost"),
    ],
)
def test_a_driver_that_does_not_answer_is_no_reason_to_take_the_cpu(lost, values, message, remedy):
    wishes = [(place, gpus) for place in PLACES for gpus in ("1", "device=0", "device=GPU-mock-0", "all")]
    for told, hint in lost(values, *wishes, ("native", None, "all")):
        assert re.search(message, told)
        assert remedy in hint


def test_one_gpu_is_one_that_answers_and_is_named_by_what_stays_true(lost):
    for layers, words, ids, notes in lost(FALLEN, ("container", "1"), ("native", "1"), ("native", None)):
        # Its number may be another one for CUDA, which does not count those that are lost.
        assert (layers, words, ids) == (17, "device=GPU-mock-1", ["GPU-mock-1"])
        assert ["GPU 0 is lost (it has fallen off the bus)" in note for note in notes] == [True]
    whole = lost(dict.fromkeys(FALLEN), ("container", "device=1"))
    assert whole == [[17, "device=1", ["GPU-mock-1"], []]]


def test_where_no_gpu_was_asked_for_the_cpu_is_taken_with_a_note(lost):
    [[layers, words, ids, [note]]] = lost({"error.nvmlInitWithFlags": 18}, ("native", None))
    assert (layers, words, ids) == (0, None, [])
    assert "no GPU is used" in note
    assert "sudo reboot" in note


def test_a_gpu_that_answers_and_does_not_tell_its_memory_is_not_lost(lost):
    untold = {"0.memory.total": None, "1.memory.total": None}
    assert lost(untold, ("container", "device=0")) == [[17, "device=0", [], []]]


def test_a_uuid_that_nobody_knows_may_be_that_of_a_gpu_that_was_lost_earlier(cards):
    with pytest.raises(UsageError, match="there is no GPU GPU-other") as told:
        decide("container", gpus="device=GPU-other")
    assert "one that was there before is lost" in told.value.hint
    with pytest.raises(UsageError) as told:
        decide("container", gpus="device=7")
    assert "lost" not in told.value.hint


# AMD's


def test_amds_gpus_have_memory_and_reservations_too():
    nodes = [
        RenderNode(
            path=f"/dev/dri/renderD{128 + index}",  # codespell:ignore
            inside=f"/dev/dri/renderD{128 + index}",  # codespell:ignore
            maker="amd",
            address=f"0000:0{index}:00.0",
            total_mib=16384,
            free_mib=8000 + index,
        )
        for index in range(2)
    ]
    there = gpu_choice.render(nodes, {"0000:01:00.0": {"alpha": 5000}})
    request = parse_gpus("amd")
    [chosen] = gpu_choice.choose(request, there, {})
    assert chosen.title == "AMD GPU 0 (/dev/dri/renderD128)"
    assert gpu_choice.words(request, [chosen]) == "amd=0"
    assert there[1].told().endswith("of which are reserved: 5000 by alpha")
    with pytest.raises(UsageError, match="there is no GPU 2"):
        gpu_choice.choose(parse_gpus("amd=2"), there, {})


def test_a_build_for_nvidia_is_not_given_amds(cards):
    with pytest.raises(UsageError, match="compiled for cuda, which is not for GPUs of amd") as told:
        decide(gpus="amd")
    assert "llmlab build --gpu hip" in told.value.hint
