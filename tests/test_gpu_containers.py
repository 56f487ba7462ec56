"""Device files as AMD's and Intel's GPUs have them, given to real containers, read back and audited.

The files are made here: they are the machine's /dev/null by other names, in a tree that
looks as the kernel's does. What a GPU would do with them is not tried.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab import runtime
from llmlab.auditing.results import Audit, AuditComparison
from llmlab.backends import docker_api, gpu_access
from llmlab.errors import BackendError, UsageError
from llmlab.isolation import Sources, process_facts, receipt
from llmlab.isolation.gpus import driver_files, render_nodes
from llmlab.lab import launch, offload, reservations
from llmlab.results_dry_run import DryRun
from llmlab.specs import Record
from tests import nvml_mock
from tests.conftest import missing

GROUP = 4321
NULL = os.makedev(1, 3)


@pytest.fixture
def amd(tmp_path, monkeypatch):
    """A machine with an AMD GPU, whose device files belong to a group of their own."""
    if os.geteuid():
        missing("root", "device files can be made by root only")
    device = tmp_path / "sys/devices/0000:03:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1002\n")
    (device / "mem_info_vram_total").write_text(f"{16 << 30}\n")
    (device / "mem_info_vram_used").write_text("0\n")
    entry = tmp_path / "sys/class/drm/renderD128"
    entry.mkdir(parents=True)
    (entry / "device").symlink_to(device)
    for name in ("kfd", "dri/renderD128"):
        path = tmp_path / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mknod(path, stat.S_IFCHR | 0o660, NULL)
        os.chown(path, 0, GROUP)
        path.chmod(0o660)
    monkeypatch.setattr(gpu_access, "driver_files", partial(driver_files, tmp_path))
    monkeypatch.setattr(offload, "render_nodes", partial(render_nodes, tmp_path))
    return tmp_path


def entry_of(server: llmlab.Server) -> tuple[Record, dict[str, Any]]:
    record = runtime.read_record(server.name)
    assert record
    assert record.container_id
    entry = docker_api.connect().container(record.container_id)
    assert entry
    return record, entry


def test_device_files_and_their_group_are_taken_by_the_engine_and_read_back(require_engine, amd):
    server = llmlab.start("tiny", name="amd", profile="gpu", gpus="amd", backend="container")
    record, entry = entry_of(server)
    host = entry["HostConfig"]
    assert host["GroupAdd"] == [str(GROUP)]
    assert {(each["PathOnHost"], each["PathInContainer"]) for each in host["Devices"]} == {
        (f"{amd}/dev/{name}", f"/dev/{name}") for name in ("kfd", "dri/renderD128")
    }
    assert {each["CgroupPermissions"] for each in host["Devices"]} == {"rw"}
    lines = {control.name: control for control in server.inspect().isolation}
    assert lines["devices"].asked == lines["devices"].recorded == "/dev/kfd, /dev/dri/renderD128"
    assert lines["devices"].in_force == "kfd, dri/renderD128"
    assert lines["devices"].verdict == "as asked"
    assert f"groups {GROUP}, the GPU's" in lines["user"].asked
    assert f"groups {GROUP}" in str(lines["user"].in_force)
    assert lines["user"].verdict == "as asked"
    assert [name for name, line in lines.items() if line.verdict == "DIFFERS"] == []
    assert any("beyond sealed" in note and f"group {GROUP}, since" in note for note in record.notes)
    assert server.ask("Hello", max_tokens=1).text is not None


def test_a_group_that_was_not_asked_for_is_a_difference(require_engine, amd):
    server = llmlab.start("tiny", name="amd", profile="gpu", gpus="amd", backend="container")
    record, entry = entry_of(server)
    entry["HostConfig"]["GroupAdd"].append("999")
    entry["HostConfig"]["Devices"].append({"PathInContainer": "/dev/sda"})
    sources = Sources(record=record, entry=entry, facts=process_facts(None))
    found = {line.name: line.verdict for line in receipt(sources)}
    assert found["user"] == found["devices"] == "DIFFERS"


def test_what_a_server_will_take_is_reserved_until_it_is_ready(
    require_engine, amd, monkeypatch, isolated_runtime
):
    llmlab.start("tiny", backend="container")
    seen = []
    wait = launch.await_ready

    def looking(*given: Any) -> None:
        seen.append((reservations.outstanding(), reservations.users()))
        wait(*given)

    monkeypatch.setattr(launch, "await_ready", looking)
    server = llmlab.start("tiny", profile="gpu", gpus="amd", backend="container")
    record, _ = entry_of(server)
    assert record.gpus
    assert record.gpus.ids == ("0000:03:00.0",)
    assert record.profile
    assert record.profile.gpus == "amd=0"
    assert record.predicted
    assert record.predicted.vram_mib
    assert seen == [
        ({"0000:03:00.0": {"tiny-2": record.predicted.vram_mib}}, {"0000:03:00.0": ["tiny-2"]}),
    ]
    assert not list(isolated_runtime.glob(".gpus-*"))


def test_the_dry_run_has_each_part_with_its_reason(require_engine, amd):
    found = llmlab.start("tiny", name="amd", profile="gpu", gpus="amd", backend="container", dry_run=True)
    assert isinstance(found, DryRun)
    flags = {flag.words: flag.why for flag in found.flags}
    assert "belong to this group" in flags["--group-add", str(GROUP)]
    assert "Only the devices" in flags["--device", f"{amd}/dev/dri/renderD128:/dev/dri/renderD128:rw"]


def test_an_audit_passes_with_the_files_that_were_asked_for_and_no_others(require_engine, amd):
    llmlab.start("tiny", name="amd", profile="gpu", gpus="amd", backend="container")
    llmlab.start("tiny", name="plain", profile="sealed", backend="container")
    # The machine's own device files are what a control is given.
    there = Path(f"/dev/nvidia-llmlab-test-{os.getpid()}")
    os.mknod(there, stat.S_IFCHR | 0o666, NULL)
    try:
        there.chmod(0o666)
        compared = llmlab.audit("amd", against="plain", checks="G1")
    finally:
        there.unlink()
    assert isinstance(compared, AuditComparison)
    given, plain = compared
    for audit in (given, plain):
        assert audit["G1"].verdict == "pass", audit["G1"]
        assert f"open {there}" in audit["G1"].attempted
        assert audit["G1"].observed == "not there"
    assert not any("renderD128" in attempt.text for attempt in given["G1"].attempts)


def test_an_audit_fails_with_a_device_file_that_was_not_asked_for(require_engine, amd):
    server = llmlab.start("tiny", name="amd", profile="gpu", gpus="amd", backend="container")
    record, _ = entry_of(server)
    assert record.gpus
    with runtime.hold("amd", wait_s=5) as claim:
        assert claim
        claim.write(replace(record, gpus=replace(record.gpus, nodes=("/dev/kfd",))))
    audit = llmlab.audit("amd", checks="G1")
    assert isinstance(audit, Audit)
    assert audit["G1"].verdict == "fail"
    assert "open /dev/dri/renderD128" in audit["G1"].attempted


def test_a_gpu_that_the_engine_cannot_hand_out_is_told_and_nothing_is_left(
    require_engine, tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu_access, "driver_files", partial(driver_files, tmp_path))
    if "nvidia" in (docker_api.connect().info.get("Runtimes") or {}) or driver_files().hook:
        pytest.skip("this engine has a way")
    with pytest.raises(BackendError, match="no way to hand out NVIDIA's GPUs"):
        llmlab.start("tiny", profile="gpu", backend="container")
    with pytest.raises(UsageError, match="no Intel GPU"):
        llmlab.start("tiny", gpus="intel", backend="container")
    assert llmlab.ps().servers == ()


# An image that is newer than the driver


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The mock of NVIDIA's library."""
    return nvml_mock.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def image(require_docker, tmp_path):
    """Make images that say in their environment what they need, as NVIDIA's do."""
    made: list[str] = []

    def make(**variables: str) -> str:
        name = f"llmlab-test/cuda-{os.getpid()}-{len(made)}:1"
        with tarfile.open(tmp_path / "root.tar", "w"):
            pass
        changes = [f"--change=ENV {key}={value}" for key, value in variables.items()]
        command = ["docker", "import", *changes, str(tmp_path / "root.tar"), name]
        subprocess.run(command, check=True, capture_output=True)
        made.append(name)
        return name

    yield make
    for name in made:
        subprocess.run(["docker", "rmi", name], check=True, capture_output=True)


def found_for(library: Path, control: Path, name: str, **told: Any) -> list[str]:
    """What a start with one GPU and that image says, with a driver that tells such versions."""
    values = nvml_mock.Control(control)
    values.gpu(0)
    values.set({"driver": None, "cuda": None, "error.nvmlInitWithFlags": None, **told})
    code = f"""
from llmlab.backends import docker_api, gpu_access
from llmlab.errors import LabError
from llmlab.profiles import Profile
from llmlab.isolation.gpus import DriverFiles
gpu_access.driver_files = lambda: DriverFiles(hook=True)
try:
    found = gpu_access.find(docker_api.connect(), Profile(gpus="1"), image={name!r}, libraries_to="/lib")
    tell([found.way])
except LabError as error:
    tell([type(error).__name__, error.message, error.hint])
"""
    told_: list[str] = nvml_mock.in_child(library, control, code)
    return told_


OLD, NEW = {"driver": "535.104.05", "cuda": 12020}, {"driver": "580.65.06", "cuda": 13000}


def test_an_image_for_a_newer_cuda_than_the_drivers_is_refused_with_both_versions(library, tmp_path, image):
    name = image(CUDA_VERSION="13.0.1")
    kind, message, hint = found_for(library, tmp_path / "control", name, **OLD)
    assert kind == "ImageError"
    assert message == (
        "NVIDIA's driver here (535.104.05) knows CUDA 12.2 at most, and the image needs cuda>=13.0"
    )
    assert "update the driver" in hint
    assert found_for(library, tmp_path / "control", name, **NEW) == ["runtime"]


def test_what_an_image_requires_in_words_of_the_toolkits_is_compared_as_well(library, tmp_path, image):
    name = image(NVIDIA_REQUIRE_CUDA="'cuda>=12.8 brand=tesla,driver>=550,driver<551'")
    kind, message, _ = found_for(library, tmp_path / "control", name, **OLD)
    assert (kind, message.rpartition(" ")[2]) == ("ImageError", "cuda>=12.8")
    # NVIDIA lets some older drivers of data centres run it.
    datacentre = {"driver": "550.54.15", "cuda": 12040}
    assert found_for(library, tmp_path / "control", name, **datacentre) == ["runtime"]
    # Of a driver that tells neither nothing is known against it.
    assert found_for(library, tmp_path / "control", name) == ["runtime"]
    newer = image(NVIDIA_REQUIRE_CUDA="'driver>=550'")
    kind, message, _ = found_for(library, tmp_path / "control", newer, driver=OLD["driver"])
    assert kind == "ImageError"
    assert message.endswith("(535.104.05) knows an older CUDA, and the image needs driver>=550")


def test_a_driver_that_cannot_be_asked_is_not_taken_for_an_old_one(library, tmp_path, image):
    name = image(CUDA_VERSION="13.0.1")
    silent = {**OLD, "error.nvmlInitWithFlags": 9}
    assert found_for(library, tmp_path / "control", name, **silent) == ["runtime"]
    gone = {**OLD, "error.nvmlSystemGetCudaDriverVersion": 9}
    assert found_for(library, tmp_path / "control", name, **gone) == ["runtime"]
