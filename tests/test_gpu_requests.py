"""GPU requests to the field of the engine's API, by what an engine says of itself."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmlab.auditing import gpu_nodes
from llmlab.auditing.judging import Context, Seen, judge
from llmlab.backends import visible_gpus
from llmlab.builds.closure import parse_ldd
from llmlab.errors import BackendError, UsageError
from llmlab.isolation import gpus as requests
from llmlab.isolation.gpus import DriverFiles
from llmlab.isolation.profile import host_config
from llmlab.profiles import PROFILES, SEALED, Mount, Profile, parse_gpus
from llmlab.specs import GivenGpus, Limits

# What `GET /info` says on hosts with NVIDIA's toolkit, with CDI, in WSL2, with Podman, and rootless.
DATA = Path(__file__).parent / "data"
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
MIG = "MIG-4e4b4bb7-d5c4-5d92-a1c3-c6d34f7d0d1e"
SCRATCH = "/tmp"  # noqa: S108 - the container's
LIMITS = Limits(memory_mib=512, cpus=1.0)


def info_of(host: str) -> dict[str, Any]:
    place = DATA / "gpu_hosts" / f"{host}.json"
    if not place.exists():
        place = DATA / "doctor" / f"{host}.json"
    data = json.loads(place.read_text(encoding="utf-8"))
    info: dict[str, Any] = data["info"] if "info" in data else data["engine"]["info"]
    return info


def asked(host: str, gpus: str, files: DriverFiles | None = None, **more: str) -> requests.GpuAccess:
    podman = "podman" in host
    return requests.access(gpus, info_of(host), files, libraries_to="/opt/llama.cpp", podman=podman, **more)


# Words


@pytest.mark.parametrize(
    ("words", "canonical"),
    [
        ("all", "all"),
        ("1", "1"),
        ("2", "2"),
        ("device=0", "device=0"),
        ('"device=0,1"', "device=0,1"),
        ("0,1", "device=0,1"),
        ("device=0:1", "device=0:1"),
        (f"device={MIG}", f"device={MIG}"),
        (
            "device=GPU-8f6e1a8e-4c3f-3c5e-7a4b-0a1b2c3d4e5f",
            "device=GPU-8f6e1a8e-4c3f-3c5e-7a4b-0a1b2c3d4e5f",
        ),
        ("amd", "amd"),
        ("amd=all", "amd=all"),
        ("amd=0,1", "amd=0,1"),
        ("intel=0", "intel=0"),
    ],
)
def test_gpus_are_asked_for_in_dockers_words(words, canonical):
    assert str(parse_gpus(words)) == canonical
    assert parse_gpus(canonical) == parse_gpus(words)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("0", "device=0"),
        ("GPU-8f6e1a8e", "device=GPU-8f6e1a8e"),
        ("", "write all"),
        ("device=", "write all"),
        ("device=all", "write all"),
        ("nvidia", "write all"),
        ("-1", "write all"),
        ("amd=0:1", "write all"),
        ("device=0,,1", "write all"),
        ("device=device=0", "write all"),
    ],
)
def test_what_names_no_gpus_is_told_with_what_would(words, hint):
    with pytest.raises(UsageError) as told:
        parse_gpus(words)
    assert hint in told.value.hint


def test_the_profile_gpu_is_one_gpu():
    assert PROFILES["gpu"].gpus == "1"


@pytest.mark.parametrize(
    ("gpus", "cuda", "hip"),
    [
        ("", "", ""),
        ("device=0,2", "0,2", "0,2"),
        ("2", "0,1", "0,1"),
        ("amd=1", "1", "1"),
        (f"device={MIG}", MIG, None),
    ],
)
def test_a_native_server_sees_what_it_was_given(gpus, cuda, hip):
    found = visible_gpus.environment(gpus)
    assert found["CUDA_VISIBLE_DEVICES"] == cuda
    assert found.get("HIP_VISIBLE_DEVICES") == hip
    assert visible_gpus.environment("all") == visible_gpus.environment(None) == {}


# NVIDIA's, by runtime, CDI or files


@pytest.mark.parametrize(
    ("host", "files"),
    [
        ("docker-27-nvidia-runtime", HERE),
        ("docker-27-nvidia-runtime", None),
        ("wsl2-docker-desktop", None),
        ("ubuntu-nvidia-no-toolkit", replace(HERE, hook=True)),
        ("rootless-docker", None),
    ],
)
@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("device=0,2", {"DeviceIDs": ["0", "2"]}),
        (f"device={MIG}", {"DeviceIDs": [MIG]}),
        ("device=0:1", {"DeviceIDs": ["0:1"]}),
        ("all", {"Count": -1}),
        ("2", {"Count": 2}),
    ],
)
def test_with_the_toolkits_runtime_the_request_is_that_of_docker_run_gpus(host, files, words, chosen):
    found = asked(host, words, files)
    assert (found.way, found.mounts, found.note) == ("runtime", (), "")
    assert found.host_config == {"DeviceRequests": [{**chosen, "Capabilities": [["gpu"]]}]}


@pytest.mark.parametrize(
    "host", ["docker-26-cdi", "docker-29-rootless", "debian-podman-5.8", "rootless-docker"]
)
def test_where_the_engine_reads_nvidias_cdi_file_they_are_asked_for_by_its_names(host):
    found = asked(host, "0,1", replace(HERE, cdi=True))
    assert found.host_config == {
        "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]}]
    }
    assert requests.asked(found.host_config) == ("GPUs 0,1",)
    # The interface knows no numbers of devices.
    assert asked(host, "1", replace(HERE, cdi=True)).host_config["DeviceRequests"][0]["DeviceIDs"] == [
        "nvidia.com/gpu=0"
    ]


@pytest.mark.parametrize(
    ("words", "names"),
    [("device=0:1", ["0:1"]), (f"device={MIG}", [MIG]), ("1", ["1"]), ("all", ["all"])],
)
def test_where_the_engine_lists_devices_the_names_are_those_of_the_list(words, names):
    request = asked("docker-29-mig-cdi", words).host_config["DeviceRequests"][0]
    assert request == {"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={name}" for name in names]}


@pytest.mark.parametrize(("words", "what"), [("device=5", "GPU 5"), ("2", "2 GPUs"), ("device=0", "GPU 0")])
def test_a_device_that_the_engines_list_has_not_is_told_with_those_that_it_has(words, what):
    with pytest.raises(UsageError, match=f"knows no {what}.*0:0, 0:1") as told:
        asked("docker-29-mig-cdi", words)
    assert "nvidia-ctk cdi generate" in told.value.hint


def test_what_the_list_has_not_is_left_to_the_toolkits_runtime_where_that_is_there():
    assert asked("ubuntu-nvidia-toolkit-cdi", "device=0").way == "cdi"
    assert asked("ubuntu-nvidia-toolkit-cdi", f"device={MIG}").way == "runtime"


@pytest.mark.parametrize("host", ["ubuntu-nvidia-no-toolkit", "debian-podman-5.8", "debian12-docker-20.10"])
def test_without_the_toolkit_device_files_and_libraries_are_named_one_by_one(host):
    found = asked(host, "device=1", HERE)
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


def test_device_files_go_by_their_own_numbers_not_by_those_of_the_bus():
    swapped = replace(HERE, minors={"0": 1, "1": 0, "GPU-aaaaaaaa": 1})
    for words in ("device=0", "device=GPU-aaaaaaaa"):
        assert (
            asked("debian12-docker-20.10", words, swapped).host_config["Devices"][0]["PathOnHost"]
            == "/dev/nvidia1"
        )
    with pytest.raises(UsageError, match="not known here"):
        asked("debian12-docker-20.10", "device=GPU-bbbbbbbb", swapped)
    with pytest.raises(UsageError, match="there is no /dev/nvidia7"):
        asked("debian12-docker-20.10", "device=7", swapped)


def test_a_slice_is_not_given_by_files_since_they_are_the_whole_gpu():
    with pytest.raises(UsageError, match="MIG slice 0:1 cannot"):
        asked("debian12-docker-20.10", "device=0:1", HERE)


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (DriverFiles(), "this machine shows none"),
        (DriverFiles(nodes=("/dev/nvidia0",)), "nvidia-ctk runtime configure"),
    ],
)
def test_an_engine_without_any_way_is_told_with_what_to_install(files, hint):
    with pytest.raises(BackendError, match="no way to hand out NVIDIA's GPUs") as told:
        asked("debian12-docker-20.10", "1", files)
    assert hint in told.value.hint


def test_on_another_machine_nothing_is_named_by_hand():
    assert asked("debian12-docker-20.10", "device=0", None).way == "runtime"


def test_in_windows_linux_one_device_file_and_the_drivers_directory_are_given():
    found = asked("wsl2-docker-inside", "device=0", DriverFiles(wsl=True))
    assert found.way == "wsl"
    assert found.host_config == {
        "Devices": [{"PathOnHost": "/dev/dxg", "PathInContainer": "/dev/dxg", "CgroupPermissions": "rw"}]
    }
    assert found.mounts == (Mount(source="/usr/lib/wsl", target="/usr/lib/wsl"),)
    merged = requests.environment({"LD_LIBRARY_PATH": "/opt", "HOME": SCRATCH}, found)
    assert merged["LD_LIBRARY_PATH"] == "/opt:/usr/lib/wsl/lib"
    assert merged["CUDA_VISIBLE_DEVICES"] == "0"
    assert requests.is_drivers("/usr/lib/wsl")


def test_compiled_kernels_are_kept_in_the_scratch_directory_if_there_is_one():
    found = asked("docker-27-nvidia-runtime", "1", None, scratch=SCRATCH)
    assert found.environment["CUDA_CACHE_PATH"] == f"{SCRATCH}/cuda"
    assert int(found.environment["CUDA_CACHE_MAXSIZE"]) < (PROFILES["gpu"].scratch_mib or 0) << 20
    assert asked("docker-27-nvidia-runtime", "1").environment == {}


def test_a_request_stands_in_the_host_config_and_takes_no_control_away():
    profile = Profile(gpus="device=1")
    sealed, sent = (
        host_config(SEALED, LIMITS, []),
        host_config(profile, LIMITS, [], asked("debian12-docker-20.10", "device=1", HERE)),
    )
    assert "DeviceRequests" not in sealed
    assert "Devices" not in sealed
    assert {name for name in sent if sent[name] != sealed.get(name)} == {"Devices", "Mounts"}
    assert all(mount["ReadOnly"] for mount in sent["Mounts"])


def test_each_exception_of_the_gpu_profile_is_named_with_its_reason():
    way = requests.GpuAccess(
        way="render", host_config={"GroupAdd": ["109"]}, environment={"CUDA_CACHE_PATH": f"{SCRATCH}/cuda"}
    )
    found = requests.exceptions(PROFILES["gpu"], way)
    for what in ("512 processes", "448 open files", "512 MiB", f"{SCRATCH}/cuda", "group 109"):
        assert sum(what in each and "since" in each for each in found) == 1
    assert requests.exceptions(SEALED, way) == ()


def test_other_device_files_are_told_as_they_are():
    assert requests.asked({"Devices": [{"PathInContainer": "/dev/sda"}]}) == ("/dev/sda",)


def test_the_drivers_libraries_are_those_of_this_machines_kind():
    found = requests.parse_ldconfig(LDCONFIG, ("libcuda.so.1", "libnvidia-gpucomp.so"))
    assert found == {
        "libcuda.so.1": "/usr/lib/x86_64-linux-gnu/libcuda.so.1",
        "libnvidia-gpucomp.so.580.95.05": "/usr/lib/x86_64-linux-gnu/libnvidia-gpucomp.so.580.95.05",
    }


def test_the_drivers_files_are_known_by_their_names():
    assert requests.is_drivers("/opt/llama.cpp/libcuda.so.1")
    assert requests.is_drivers("/opt/llama.cpp/libnvidia-gpucomp.so.580.95.05")
    assert not requests.is_drivers("/etc/shadow")
    assert not requests.is_drivers("/opt/libcudart.so.13")


def test_an_image_is_made_without_the_driver_that_belongs_to_the_machines_kernel():
    text = "\tlibcuda.so.1 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n"
    assert list(parse_ldd(text)) == ["libc.so.6"]


# AMD's and Intel's, by what the kernel shows


def a_node(root: Path, number: int, vendor: str, address: str, *, mode: int = 0o660, **files: int) -> Path:
    device = root / "sys/devices/pci0000:00" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    for name, value in files.items():
        (device / name).write_text(f"{value}\n")
    entry = root / f"sys/class/drm/renderD{number}"  # codespell:ignore
    entry.mkdir(parents=True)
    (entry / "device").symlink_to(device)
    path = root / f"dev/dri/renderD{number}"  # codespell:ignore
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(mode)
    return path


@pytest.fixture
def tree(tmp_path):
    """A machine with an Intel GPU, two of AMD, and one whose maker is not known."""
    a_node(tmp_path, 1280, "0x1002", "0000:83:00.0", mem_info_vram_total=16 << 30, mem_info_vram_used=4 << 30)
    a_node(tmp_path, 128, "0x8086", "0000:00:02.0")
    a_node(tmp_path, 129, "0x1002", "0000:03:00.0", mode=0o666)
    a_node(tmp_path, 131, "0x1234", "0000:99:00.0")
    kfd = tmp_path / "dev/kfd"
    kfd.touch()
    kfd.chmod(0o660)
    return tmp_path


def test_render_nodes_are_told_with_maker_memory_and_group(tree):
    intel, first, second = requests.render_nodes(tree)
    assert [each.inside[-3:] for each in (intel, first, second)] == ["128", "129", "280"]
    assert (intel.maker, first.maker, second.maker) == ("intel", "amd", "amd")
    assert (intel.total_mib, first.free_mib) == (None, None)
    assert (second.total_mib, second.free_mib, second.address) == (16384, 12288, "0000:83:00.0")
    assert intel.group == os.getgid()
    assert first.group is None  # everybody may use it
    assert requests.render_nodes(tree / "none") == ()


def drivers(tree: Path, group: int) -> DriverFiles:
    found = requests.driver_files(tree)
    assert found.kfd
    return replace(
        found,
        kfd=replace(found.kfd, group=group + 1),
        render=tuple(replace(each, group=each.group and group) for each in found.render),
    )


@pytest.mark.parametrize(
    ("words", "nodes", "groups"),
    [
        ("amd", ["kfd", "dri/renderD129"], ["45"]),
        ("amd=1", ["kfd", "dri/renderD1280"], ["44", "45"]),
        ("amd=all", ["kfd", "dri/renderD129", "dri/renderD1280"], ["44", "45"]),
        ("intel", ["dri/renderD128"], ["44"]),
        ("intel=0", ["dri/renderD128"], ["44"]),
    ],
)
def test_amds_and_intels_are_device_files_and_the_numbers_of_their_groups(tree, words, nodes, groups):
    here = drivers(tree, 44)
    # As root the group of made files is root's, which is never joined.
    here = replace(
        here,
        render=tuple(
            replace(each, group=None if each.inside.endswith("129") else 44) for each in here.render
        ),
    )
    found = asked("debian12-docker-20.10", words, here)
    assert found.way == "render"
    assert found.host_config == {
        "Devices": [
            {"PathOnHost": f"{tree}/dev/{node}", "PathInContainer": f"/dev/{node}", "CgroupPermissions": "rw"}
            for node in nodes
        ],
        "GroupAdd": groups,
    }
    assert requests.asked(found.host_config) == tuple(f"/dev/{node}" for node in nodes)
    assert found.environment == {}


def test_roots_group_is_not_joined_for_a_device_file_and_a_note_says_so(tree):
    here = replace(drivers(tree, 44), kfd=None)
    here = replace(here, render=tuple(replace(each, group=0) for each in here.render))
    found = asked("debian12-docker-20.10", "intel", here)
    assert "GroupAdd" not in found.host_config
    assert "root's group" in found.note


@pytest.mark.parametrize(
    ("words", "change", "told"),
    [
        ("amd=2", {}, "no AMD GPU 2"),
        ("amd", {"kfd": None}, "no AMD GPU that a container"),
        ("intel", {"render": ()}, "no Intel GPU that a container"),
    ],
)
def test_a_gpu_of_amd_or_intel_that_is_not_there_is_told(tree, words, change, told):
    with pytest.raises(UsageError, match=told) as caught:
        asked("debian12-docker-20.10", words, replace(requests.driver_files(tree), **change))
    assert caught.value.hint
    with pytest.raises(UsageError, match="another machine"):
        asked("debian12-docker-20.10", words, None)


# An image that is newer than the driver


@pytest.mark.parametrize(
    ("variables", "needed"),
    [
        ({}, ""),
        ({"CUDA_VERSION": "12.9.1"}, ""),
        ({"CUDA_VERSION": "13.0.0"}, "cuda>=13.0"),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.2"}, ""),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.8"}, "cuda>=12.8"),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.8 brand=tesla,driver>=535,driver<536"}, ""),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.8 brand=tesla,driver>=470,driver<471"}, "cuda>=12.8"),
        ({"NVIDIA_REQUIRE_CUDA": "cuda>=12.8", "NVIDIA_DISABLE_REQUIRE": "1"}, ""),
    ],
)
def test_what_an_image_needs_is_compared_with_the_driver(variables, needed):
    assert requests.unmet(variables, (12, 4), (535, 104, 5)) == needed
    # What is not known is no reason to refuse.
    assert requests.unmet(variables, None, None) == ""


# The audit: only what was asked for may be opened

PARTS = replace(
    HERE, minors={"0": 0, "1": 1}, slices={"0:1": ("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12")}
)


def g1(given: GivenGpus, opened: list[str]) -> str:
    there = [*HERE.nodes, "/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps/nvidia-cap21"]
    there += ["/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD129", "/dev/dxg"]

    def seen(nodes: list[str]) -> Seen:
        lines = [
            {"check": "G1", "attempt": f"open {node}", "succeeded": True, "observed": "opened"}
            for node in nodes
        ]
        return Seen(lines=lines, complete=True)

    context = Context(gpus=gpu_nodes.asked_for(given, PARTS))
    [finding] = judge(seen(opened), seen(there), context, frozenset({"G1"}))
    return finding.verdict


CONTROL = ["/dev/nvidiactl", "/dev/nvidia-uvm"]


@pytest.mark.parametrize(
    ("given", "own", "others"),
    [
        (GivenGpus(asked=("GPUs 1",)), ["/dev/nvidia1", *CONTROL], "/dev/nvidia0"),
        (GivenGpus(asked=("GPUs × 1",)), ["/dev/nvidia0", *CONTROL], "/dev/nvidia1"),
        (
            GivenGpus(asked=("GPUs 0:1",)),
            ["/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap12", *CONTROL],
            "/dev/nvidia-caps/nvidia-cap21",
        ),
        (GivenGpus(asked=("GPUs all",)), ["/dev/nvidia0", "/dev/nvidia1", *CONTROL], "/dev/dri/renderD128"),
        (
            GivenGpus(asked=("/dev/kfd",), nodes=("/dev/kfd", "/dev/dri/renderD128")),
            ["/dev/kfd", "/dev/dri/renderD128"],
            "/dev/dri/renderD129",
        ),
        (GivenGpus(nodes=("/dev/dri/renderD129",)), ["/dev/dri/renderD129"], "/dev/nvidia0"),
        (GivenGpus(nodes=("/dev/dxg",)), ["/dev/dxg"], "/dev/kfd"),
        (GivenGpus(), [], "/dev/dxg"),
    ],
)
def test_only_the_device_files_of_what_was_asked_for_may_be_opened(given, own, others):
    assert g1(given, own) == "pass"
    assert g1(given, [*own, others]) == "fail"
