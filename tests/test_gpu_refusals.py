"""What keeps a container engine from handing out a GPU: what engines say, here and on another machine."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace
from typing import Any, cast

import pytest

import llmlab
from llmlab.backends import docker_api, gpu_access, gpu_refusals, labels
from llmlab.errors import BackendError
from llmlab.isolation.gpus import DriverFiles
from tests.conftest import inventory, missing
from tests.docker_door import Door
from tests.tcp_door import tcp_door

# The `docker` package leaves it to Python to close the files of contexts.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file .*meta.json:ResourceWarning")


@pytest.fixture
def node(monkeypatch, tmp_path, require_docker, require_engine):
    """This machine's engine as a node by the name of gpu1, without NVIDIA's toolkit; what is asked of it can be altered."""
    if "nvidia" in (docker_api.connect().info.get("Runtimes") or {}):
        missing("engine without NVIDIA's toolkit", "this one has it")
    alter: list[Any] = []
    before = set(docker_api.connect().volumes(labels.MODEL))
    with (
        Door(tmp_path / "door", alter=lambda data: [each(data) for each in alter]) as door,
        tcp_door(door.url.removeprefix("unix://")) as address,
    ):
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker" / "config.json").write_text("{}", encoding="ascii")
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
        command = ["docker", "context", "create", "gpu1", "--docker", f"host={address}"]
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ))
        yield alter
    api = docker_api.connect()
    for volume in set(api.volumes(labels.MODEL)) - before:
        api.remove_volume(volume)


def test_a_toolkit_that_is_missing_on_another_machine_is_told_with_the_machine(node, isolated_runtime):
    with pytest.raises(BackendError) as told:
        llmlab.start("tiny", gpus="1", on="gpu1")
    assert told.value.message == (
        "the container engine of node gpu1 does not hand out the GPU: NVIDIA's container toolkit is missing, "
        "or it was not told of it"
    )
    assert told.value.hint.startswith("on node gpu1: install NVIDIA's container toolkit")
    assert "sudo nvidia-ctk runtime configure --runtime=docker" in told.value.hint
    assert "could not select device driver" in str(told.value.__cause__)
    assert inventory(isolated_runtime) == []


def test_an_interface_that_is_switched_off_is_told_with_the_line_that_switches_it_on(node, isolated_runtime):
    def by_cdi(data: dict[str, Any]) -> None:
        if data["HostConfig"].get("DeviceRequests"):
            data["HostConfig"]["DeviceRequests"] = [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}]

    node.append(by_cdi)
    with pytest.raises(BackendError, match="Container Device Interface is switched off") as told:
        llmlab.start("tiny", gpus="device=0", on="gpu1")
    assert '"features": {"cdi": true}' in told.value.hint
    assert inventory(isolated_runtime) == []


def test_a_device_file_that_is_gone_is_told(node, isolated_runtime):
    def by_hand(data: dict[str, Any]) -> None:
        if data["HostConfig"].pop("DeviceRequests", None):
            path = "/dev/nvidia-llmlab-none"
            data["HostConfig"]["Devices"] = [
                {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"}
            ]

    node.append(by_hand)
    with pytest.raises(BackendError, match=r"the device file /dev/nvidia-llmlab-none is gone"):
        llmlab.start("tiny", gpus="device=0", on="gpu1")
    assert inventory(isolated_runtime) == []


def test_what_has_nothing_to_do_with_gpus_is_told_as_it_is(node, isolated_runtime):
    node.append(lambda data: data["HostConfig"].update(NetworkMode="container:there-is-none"))
    with pytest.raises(BackendError, match=r"container engine refused: .*there-is-none"):
        llmlab.start("tiny", gpus="1", on="gpu1")
    assert inventory(isolated_runtime) == []


def test_on_this_machine_the_same_is_told_without_a_machine(
    monkeypatch, require_docker, require_engine, isolated_runtime
):
    if "nvidia" in (docker_api.connect().info.get("Runtimes") or {}):
        missing("engine without NVIDIA's toolkit", "this one has it")
    # As after the toolkit's package was installed while Docker ran.
    monkeypatch.setattr(gpu_access, "driver_files", lambda: DriverFiles(hook=True))
    with pytest.raises(BackendError, match="engine here does not hand out the GPU") as told:
        llmlab.start("tiny", gpus="1", backend="container")
    assert told.value.hint.startswith("install NVIDIA's container toolkit")
    assert inventory(isolated_runtime) == []


def engine(address: str = "ssh://ada@gpu1.example", **kind: bool) -> docker_api.DockerApi:
    """What is asked of an engine, for engines that are not here."""
    found: dict[str, Any] = {"address": address, "is_podman": kind.get("podman", False)}
    for name in ("local", "desktop", "rootless"):
        found[f"is_{name}"] = lambda name=name: kind.get(name, False)
    return cast("docker_api.DockerApi", SimpleNamespace(**found))


# As Docker, Podman and NVIDIA's toolkit write them, by the toolkit's issues; that of a lost GPU has NVML's words.
CLI = "OCI runtime create failed: runc create failed: unable to start container process: error during container init: "
CLI += "error running prestart hook #0: exit status 1, stdout: , stderr: Auto-detected mode as 'legacy'\n"
CLI += "nvidia-container-cli: "


@pytest.mark.parametrize(
    ("said", "cause", "remedy"),
    [
        (
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=7",
            "have no nvidia.com/gpu=7",
            "nvidia-ctk cdi generate",
        ),
        (
            "setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=0, nvidia.com/gpu=0:1: unknown",
            "have no nvidia.com/gpu=0, nvidia.com/gpu=0:1",
            "nvidia-ctk cdi list",
        ),
        (
            f"{CLI}initialization error: nvml error: driver not loaded: unknown",
            "NVIDIA's driver does not answer",
            "nvidia-smi",
        ),
        (
            f"{CLI}initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file: unknown",
            "not installed, or not loaded",
            "nvidia-smi",
        ),
        (
            f"{CLI}initialization error: nvml error: driver/library version mismatch: unknown",
            "after an update",
            "sudo reboot",
        ),
        (f"{CLI}detection error: nvml error: gpu is lost: unknown", "a GPU is lost", "dmesg"),
        (f"{CLI}detection error: nvml error: unknown error: unknown", "fails and does not say why", "dmesg"),
        (f"{CLI}device error: 3: unknown device: unknown", "there is no GPU 3", "nvidia-smi -L"),
        (
            f"{CLI}requirement error: unsatisfied condition: cuda>=12.9, please update your driver to a newer version",
            "the image needs cuda>=12.9",
            "update the driver",
        ),
        (
            f"{CLI}mount error: failed to add device rules: unable to find any existing device filters: unknown",
            "toolkit says: mount error: failed to add device rules",
            "nvidia-smi",
        ),
    ],
)
def test_what_engines_and_the_toolkit_say_is_told_in_words(said, cause, remedy):
    told = gpu_refusals.of(engine(), "gpu1", f"the container engine refused: {said}")
    assert told is not None
    assert cause in told.message
    assert "node gpu1" in told.message
    assert remedy in told.hint
    assert told.hint.startswith("on node gpu1 (ssh ada@gpu1.example): ")


def test_each_kind_of_engine_is_told_its_own_lines():
    said = 'could not select device driver "" with capabilities: [[gpu]]'
    hints = {
        kind: told.hint
        for kind in ("podman", "rootless", "desktop", "local")
        if (told := gpu_refusals.of(engine("tcp://10.0.0.5:2376", **{kind: True}), None, said))
    }
    assert "cdi generate" in hints["podman"]
    assert "$HOME/.config/docker/daemon.json" in hints["rootless"]
    assert "Docker Desktop" in hints["desktop"]
    assert hints["local"].startswith("install")
    assert hints["rootless"].startswith("on the machine of tcp://10.0.0.5:2376: ")
    assert gpu_refusals.of(engine(), None, "no such image") is None
