"""What an installed llama.cpp can compute on, and what the doctor says to that."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmlab.builds import closure, devices, toolchain
from llmlab.checkup.checks import examine, native_gpu
from llmlab.checkup.facts import Facts
from llmlab.checkup.rows import Row
from llmlab.errors import BuildError, EngineMissingError
from tests.conftest import missing

CUDA = "CUDA0: NVIDIA GeForce RTX 4090 (24217 MiB, 23818 MiB free)"
SERVER = "/opt/llama.cpp/llama-server"


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["libggml-base.so", "libggml-cpu-haswell.so", "libggml-rpc.so", "libggml.so.0", "libllama.so"], ()),
        (["libggml-cuda.so.0", "libggml-cuda.so", "libggml-vulkan.so"], ("cuda", "vulkan")),
        (["libggml-metal.dylib", "libggml-blas.dylib"], ("metal",)),
        (["ggml-hip.dll", "ggml-cpu.dll"], ("hip",)),
    ],
    ids=["cpu", "linux", "mac", "windows"],
)
def test_libraries_tell_what_a_build_is_for(names, found):
    assert devices.kinds(names) == found


def test_the_engine_of_this_machine_lists_its_devices(require_engine):
    if not require_engine.accelerators:
        assert devices.listed(require_engine.server) == ()
    else:
        assert all(":" in device for device in devices.listed(require_engine.server))


def test_devices_are_read_from_what_llama_server_lists(tmp_path):
    text = f"ggml_cuda_init: found 1 CUDA devices\\nAvailable devices:\\n  {CUDA}\\n  RPC0: a (1 MiB, 1 MiB free)"
    assert devices.listed(script(tmp_path / "s", f'printf "{text}\\n"')) == (
        CUDA,
        "RPC0: a (1 MiB, 1 MiB free)",
    )


@pytest.mark.parametrize("body", ["exit 1", "echo error: invalid argument: --list-devices", "sleep 60"])
def test_a_program_that_does_not_list_its_devices_is_not_taken_for_one_without(tmp_path, body):
    with pytest.raises(BuildError, match="does not list its devices"):
        devices.listed(script(tmp_path / "s", f"exec 2>&1\n{body}"), timeout_s=1)
    with pytest.raises(BuildError, match="does not list its devices"):
        devices.listed(tmp_path / "nothing")


@pytest.mark.skipif(sys.platform != "linux", reason="images are made of Linux programs")
def test_a_gpus_library_that_is_loaded_at_run_time_belongs_to_a_build_unless_it_cannot_be(
    require_engine, tmp_path
):
    if not (compiler := shutil.which("cc")):
        missing("compiler", "no cc on PATH")
    folder = tmp_path / "bin"
    shutil.copytree(require_engine.server.parent, folder, symlinks=True)
    beside = folder / "ggml" / "backends0"
    beside.mkdir(parents=True)

    def library(path: Path, *flags: str) -> None:
        source = tmp_path / "empty.c"
        source.write_text("int answer(void) { return 42; }\n")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source, *flags], check=True)

    gone = tmp_path / "libgone.so"
    library(gone)
    library(beside / "libggml-vulkan.so")
    library(folder / "libggml-cuda.so", "-Wl,--no-as-needed", str(gone))
    gone.unlink()
    names = {Path(file.target).name for file in closure.engine_files(folder / "llama-server")}
    assert "libggml-vulkan.so" in names
    assert "libggml-cuda.so" not in names
    assert "llama-server" in names


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ([], None),
        (["libllama.so", "libggml.so", "libggml-cpu.so"], ()),
        (["libggml-base.so", "libggml-cuda.so"], ("cuda",)),
    ],
    ids=["no libraries", "cpu", "cuda"],
)
def test_a_wheel_is_told_by_its_libraries_without_being_imported(tmp_path, monkeypatch, files, found):
    package = tmp_path / "llama_cpp"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it was imported')\n")
    for name in files:
        (package / "lib" / name).touch()
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert devices.wheel() == found


@pytest.mark.parametrize(
    ("text", "new"), [("#define VK_HEADER_VERSION 239", False), ("VK_EXT_layer_settings", True)]
)
def test_vulkan_headers_that_are_too_old_are_told_before_anything_is_compiled(
    tmp_path, monkeypatch, text, new
):
    header = tmp_path / "include" / "vulkan" / "vulkan_core.h"
    header.parent.mkdir(parents=True)
    header.write_text(text)
    monkeypatch.setenv("VULKAN_SDK", str(tmp_path))
    monkeypatch.setenv("Vulkan_GLSLC_EXECUTABLE", "glslc")
    assert devices.vulkan_headers() == (tmp_path / "include", new)
    if new:
        assert toolchain.find_tools("vulkan").cmake
    else:
        with pytest.raises(EngineMissingError, match="too old") as told:
            toolchain.find_tools("vulkan")
        assert "VULKAN_SDK" in told.value.hint


# --- the doctor ---------------------------------------------------------------

NVIDIA = {
    "nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader": "RTX A4000, 550.54.15, 16376 MiB"
}


def row(name: str, **facts: object) -> Row:
    values = {"system": "Linux", "machine": "x86_64", **facts}
    return next(row for row in examine(Facts(**values), {"GPU"}) if row.name == name)  # type: ignore[arg-type]  # of Facts


@pytest.mark.parametrize(
    ("facts", "state", "words"),
    [
        ({"outputs": NVIDIA, "build": {"server": SERVER, "accelerators": ["cuda"], "devices": [CUDA]}}, "ok", CUDA),
        (
            {"outputs": NVIDIA, "build": {"server": SERVER, "accelerators": ["cuda"], "devices": []}},
            "warning",
            "compiled for cuda, and sees no GPU",
        ),
        (
            {"outputs": NVIDIA, "build": {"server": SERVER, "accelerators": [], "devices": []}},
            "not applicable",
            "llmlab build --gpu cuda",
        ),
        ({"nodes": {"/dev/kfd": "rw"}}, "not applicable", "llmlab build --gpu hip"),
        ({"nodes": {"/dev/dri/renderD128": "rw"}}, "not applicable", "llmlab build --gpu vulkan"),
        ({"system": "Darwin", "machine": "arm64"}, "not applicable", "Metal by itself"),
        ({"system": "Darwin", "machine": "x86_64"}, "not applicable", "no GPU"),
        ({}, "not applicable", "no GPU"),
        ({"outputs": NVIDIA, "build": {"server": SERVER}}, "not applicable", "does not list its devices"),
    ],
    ids=["seen", "blind", "cpu only", "amd", "intel", "apple", "intel mac", "none", "not told"],
)  # fmt: skip
def test_the_doctor_tells_what_llama_cpp_computes_on_natively(facts, state, words):
    found = row("native GPU", **facts)
    assert (found.state, words in found.seen) == (state, True), found
    if state == "warning":
        assert found.fix
        assert "without an error" in found.why


@pytest.mark.parametrize(
    ("kind", "driver", "expected"),
    [
        ("cuda", "580.95.05", ("whl/cu125", "-DGGML_CUDA=on")),
        ("cuda", "550.54.15", ("whl/cu124", "-DGGML_CUDA=on")),
        ("cuda", "470.1", ("-DGGML_CUDA=on",)),
        ("cuda", "", ("-DGGML_CUDA=on",)),
        ("metal", "", ("whl/metal", "-DGGML_METAL=on")),
        ("vulkan", "", ("-DGGML_VULKAN=on",)),
        ("hip", "", ("-DGGML_HIP=on",)),
    ],
)
def test_the_lines_for_a_wheel_suit_platform_and_driver(kind, driver, expected):
    found = native_gpu.lines(kind, driver)
    assert len(found) == len(expected)
    for line, words in zip(found, expected, strict=True):
        assert words in line
        assert "pip install" in line


@pytest.mark.parametrize(
    ("build", "packages", "state", "words"),
    [
        ({"wheel": []}, {"llama-cpp-python": "0.3.36"}, "warning", "CPU only"),
        ({"wheel": [], "devices": [CUDA]}, {"llama-cpp-python": "0.3.36"}, "not applicable", "CPU only"),
        ({"wheel": ["cuda"]}, {"llama-cpp-python": "0.3.36"}, "ok", "compiled for cuda"),
        ({}, {"llama-cpp-python": "0.3.36"}, "not applicable", "no libraries of its own"),
        ({}, {}, "not applicable", "not installed"),
    ],
    ids=["cpu", "cpu beside a llama-server for it", "cuda", "no libraries", "not installed"],
)
def test_the_doctor_tells_what_the_wheel_computes_on(build, packages, state, words):
    found = row("llama-cpp-python's GPU", outputs=NVIDIA, build=build, packages=packages)
    assert (found.state, words in found.seen) == (state, True), found
    if state == "warning":
        assert "whl/cu124" in found.fix[0]
