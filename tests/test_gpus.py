"""GPU requests to the field, by what an engine says of itself; what goes onto a GPU, and whether it got there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from llmlab import machine
from llmlab.builds.closure import parse_ldd
from llmlab.engines import base, engine
from llmlab.engines.base import Paths
from llmlab.errors import MemoryFitError, UsageError
from llmlab.isolation import gpus as requests
from llmlab.isolation.gpus import DriverFiles
from llmlab.isolation.profile import host_config
from llmlab.lab import offload
from llmlab.machine import Gpu
from llmlab.profiles import SEALED, Mount, Profile
from llmlab.specs import Limits
from llmlab.weights import fit, outline
from tests import examples

# What `GET /info` says on hosts with NVIDIA's toolkit, with CDI, in WSL2, and with Podman.
HOSTS = Path(__file__).parent / "data" / "doctor"
LDCONFIG = """3 libs found in cache `/etc/ld.so.cache'
\tlibnvidia-gpucomp.so.580.95.05 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libnvidia-gpucomp.so.580.95.05
\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1
\tlibcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1
\tlibcudart.so.13 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.13
"""
HERE = DriverFiles(
    nodes=("/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-modeset"),
    libraries={"libcuda.so.1": "/usr/lib/x86_64-linux-gnu/libcuda.so.580.1"},
)
LIMITS = Limits(memory_mib=512, cpus=1.0)
SETTING = fit.Setting(context=4096, slots=1)
MODEL = outline.of_shape("llama-3.1-8b", "Q4_0")
ALL = MODEL.n_layers + 1


def asked(host: str, gpus: str, files: DriverFiles | None = None) -> requests.GpuAccess:
    info = json.loads((HOSTS / f"{host}.json").read_text(encoding="utf-8"))["engine"]["info"]
    return requests.access(gpus, info, files, libraries_to="/opt/llama.cpp", podman="podman" in host)


@pytest.mark.parametrize(
    ("host", "files"),
    [
        ("wsl2-docker-desktop", None),
        ("ubuntu-nvidia-no-toolkit", replace(HERE, hook=True)),
        ("rootless-docker", None),
    ],
)
def test_with_the_toolkits_runtime_the_request_is_that_of_docker_run_gpus(host, files):
    found = asked(host, "0,2", files)
    assert (found.way, found.mounts, found.note) == ("runtime", (), "")
    assert found.host_config == {"DeviceRequests": [{"DeviceIDs": ["0", "2"], "Capabilities": [["gpu"]]}]}
    assert asked(host, "all", files).host_config["DeviceRequests"][0]["Count"] == -1


@pytest.mark.parametrize("host", ["ubuntu-nvidia-toolkit-cdi", "debian-podman-5.8", "rootless-docker"])
def test_where_the_engine_knows_nvidias_devices_they_are_asked_for_by_their_cdi_names(host):
    found = asked(host, "0,1", replace(HERE, cdi=True))
    assert found.host_config == {
        "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]}]
    }
    assert requests.asked(found.host_config) == ("GPUs 0,1",)


@pytest.mark.parametrize("host", ["ubuntu-nvidia-no-toolkit", "debian-podman-5.8", "debian12-docker-20.10"])
def test_without_the_toolkit_device_files_and_libraries_are_named_one_by_one(host):
    found = asked(host, "1", HERE)
    assert found.way == "files"
    assert [each["PathOnHost"] for each in found.host_config["Devices"]] == [
        "/dev/nvidia1",
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
    ]
    assert {each["CgroupPermissions"] for each in found.host_config["Devices"]} == {"rw"}
    assert found.mounts == (
        Mount(source="/usr/lib/x86_64-linux-gnu/libcuda.so.580.1", target="/opt/llama.cpp/libcuda.so.1"),
    )
    assert "toolkit is not there" in found.note
    assert requests.asked(found.host_config) == ("GPUs 1",)


def test_on_another_machine_nothing_is_named_by_hand():
    assert asked("debian12-docker-20.10", "0", None).way == "runtime"


def test_a_request_stands_in_the_host_config_and_takes_no_control_away():
    profile = Profile(gpus="1")
    sealed, sent = (
        host_config(SEALED, LIMITS, []),
        host_config(profile, LIMITS, [], asked("debian12-docker-20.10", "1", HERE)),
    )
    assert "DeviceRequests" not in sealed
    assert "Devices" not in sealed
    assert {name for name in sent if sent[name] != sealed.get(name)} == {"Devices", "Mounts"}
    assert all(mount["ReadOnly"] for mount in sent["Mounts"])


def test_other_device_files_are_told_as_they_are():
    assert requests.asked({"Devices": [{"PathInContainer": "/dev/sda"}]}) == ("/dev/sda",)


def test_the_drivers_libraries_are_those_of_this_machines_kind():
    found = requests.parse_ldconfig(LDCONFIG, ("libcuda.so.1", "libnvidia-gpucomp.so"))
    assert found == {
        "libcuda.so.1": "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "libnvidia-gpucomp.so.580.95.05": "/usr/lib/x86_64-linux-gnu/libnvidia-gpucomp.so.580.95.05",
    }


def test_an_image_is_made_without_the_driver_that_belongs_to_the_machines_kernel():
    text = "\tlibcuda.so.1 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n"
    assert list(parse_ldd(text)) == ["libc.so.6"]


@pytest.fixture
def cards(monkeypatch):
    """A machine with two cards and a llama.cpp that was compiled for them."""
    found = (
        Gpu(name="Small", total_mib=8192, free_mib=3000),
        Gpu(name="Large", total_mib=24576, free_mib=20000),
    )
    monkeypatch.setattr(machine, "gpus", lambda: found)
    monkeypatch.setattr(offload, "_compiled_for", lambda: ("cuda",))


def decide(place="native", layers=None, gpus=None, **more) -> offload.Offload:
    return offload.decide(MODEL, SETTING, place, layers=layers, gpus=gpus, name="big", **more)


def test_by_default_a_native_server_takes_all_layers_to_the_emptiest_card(cards):
    assert decide() == offload.Offload(layers=ALL, gpus="1")


def test_a_container_sees_no_card_that_was_not_asked_for(cards):
    assert decide("container") == offload.Offload()
    assert decide("container", gpus="1") == offload.Offload(layers=ALL, gpus="1")
    with pytest.raises(UsageError, match="no GPU unless it is given one"):
        decide("container", layers="all")


def test_what_does_not_fit_stays_on_the_cpu_and_a_note_says_so(cards):
    found = decide(gpus="0")
    assert 0 < found.layers < ALL
    assert f"{found.layers} of the {ALL} layers of big fit into the 3000 MiB" in found.notes[0]
    fitting = fit.need(MODEL, replace(SETTING, gpu_layers=found.layers))
    one_more = fit.need(MODEL, replace(SETTING, gpu_layers=found.layers + 1))
    assert fitting.vram_mib <= 3000 < one_more.vram_mib


def test_more_layers_than_fit_are_refused_with_the_number_that_would(cards):
    most = decide(gpus="0").layers
    with pytest.raises(MemoryFitError, match="3000 MiB are free") as told:
        decide(gpus="0", layers="all")
    assert f"--gpu-layers {most} would fit" in str(told.value)
    assert decide(gpus="0", layers="all", force=True).layers == ALL


@pytest.mark.parametrize(
    ("layers", "gpus", "message"),
    [
        ("many", None, "'many' is no number of layers"),
        ("-1", None, "no number"),
        (None, "5", "there is no GPU 5"),
    ],
)
def test_what_cannot_be_is_told_with_what_could(cards, layers, gpus, message):
    with pytest.raises(UsageError, match=message):
        decide(layers=layers, gpus=gpus)


def test_a_container_cannot_be_given_a_card_that_there_is_not(cards):
    with pytest.raises(UsageError, match="there is no GPU 7") as told:
        decide("container", gpus="7")
    assert "0 (Small), 1 (Large)" in str(told.value)


def test_zero_layers_use_no_gpu_wherever_it_runs(cards):
    assert decide(layers="0") == decide("container", layers="0", gpus="0") == offload.Offload()


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


@pytest.mark.parametrize(
    ("reported", "held", "told"),
    [
        ((33, 33), 5000.0, "on the GPU: 33 of 33 layers, and NVML shows its process with 5000 MiB there"),
        (
            (33, 33),
            0.0,
            "not known to run on the GPU, though that was asked for: NVML does not show its process there",
        ),
        (None, 0.0, "the engine does not say that it has put any layer there and NVML does not show"),
        ((33, 33), None, "NVML does not tell which processes are there"),
    ],
)
def test_on_the_gpu_is_said_only_where_engine_and_nvml_agree(monkeypatch, reported, held, told):
    record = examples.record(spec=examples.spec(gpu_layers=33))
    monkeypatch.setattr(offload, "_held_mib", lambda _: held)
    assert told in offload.seen(record, reported)[0]
    assert offload.seen(examples.record(), reported) == ()


def test_the_drivers_files_are_known_by_their_names():
    assert requests.is_drivers("/opt/llama.cpp/libcuda.so.1")
    assert requests.is_drivers("/opt/llama.cpp/libnvidia-gpucomp.so.580.95.05")
    assert not requests.is_drivers("/etc/shadow")
    assert not requests.is_drivers("/opt/libcudart.so.13")


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
