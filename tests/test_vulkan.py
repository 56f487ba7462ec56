"""`llmlab build --gpu vulkan`, and a server whose layers really are on a Vulkan device, without a GPU.

Mesa's llvmpipe is such a device, and computes on the CPU. Compiling takes 5 to 20 minutes;
`LLMLAB_VULKAN_CACHE` names a directory where the build is kept. On Debian 12, `VULKAN_SDK` has to
name newer headers.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import llmlab
from llmlab.builds import devices, toolchain
from llmlab.errors import EngineMissingError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not list(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json")):
        pytest.skip("Mesa's software device is not here: apt-get install mesa-vulkan-drivers")
    if not shutil.which("glslc"):
        pytest.skip("the shaders' compiler is not here: apt-get install glslc libvulkan-dev spirv-headers")
    try:
        toolchain.find_tools("vulkan")
    except EngineMissingError as error:
        pytest.skip(str(error))
    named = os.environ.get("LLMLAB_VULKAN_CACHE")
    return Path(named) if named else tmp_path_factory.mktemp("vulkan")


@pytest.fixture(autouse=True)
def _with_vulkan(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(cache))
    monkeypatch.delenv("LLMLAB_LLAMA_SERVER", raising=False)


def test_a_build_for_vulkan_computes_on_a_vulkan_device_and_the_verdict_says_what_is_not_known(monkeypatch):
    built = llmlab.build(gpu="vulkan").build
    assert built.accelerators == ("vulkan",)
    with monkeypatch.context() as patch:
        # llama.cpp takes a device that is none of a GPU's only if it is named.
        patch.setenv("GGML_VK_VISIBLE_DEVICES", "0")
        assert any("llvmpipe" in device for device in devices.listed(built.server))
    with llmlab.start("tiny", name="vulkan", backend="native", gpus="device=0", gpu_layers="all") as server:
        found = server.record.verdict
        assert found is not None
        assert found.layers.shown is True
        assert "5 of 5 layers" in found.layers.text
        assert server.ask("What is a container?", max_tokens=4, timeout_s=280).text.strip()
        if not Path("/dev/nvidiactl").exists():
            # NVML knows of NVIDIA's GPUs only, so it is not claimed.
            assert (found.memory.shown, found.on_gpu) == (None, None)
        assert "5 of 5 layers" in server.inspect().facts["GPU"]


def test_a_build_for_vulkan_that_finds_no_gpu_is_told_although_its_server_answers():
    if Path("/dev/dri").exists():
        pytest.skip("this machine has a GPU")
    llmlab.build(gpu="vulkan")
    with llmlab.start("tiny", name="blind", backend="native", gpu_layers="all") as server:
        found = server.record.verdict
        assert found is not None
        assert found.on_gpu is False
        assert found.cause == "the engine sees no GPU"
        assert "not on the GPU" in str(found)
