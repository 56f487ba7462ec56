"""What compiles llama.cpp on this machine, and with which flags."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from llmlab.builds import devices
from llmlab.errors import EngineMissingError

TARGETS = ("llama-server", "llama-bench", "llama-quantize")

_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    # Programs and libraries lie in one directory that can be moved as a whole.
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    # A compiler cache may leave a daemon behind that would inherit our lock.
    "-DGGML_CCACHE=OFF",
)
_LINUX = (
    # Not for the very CPU at hand: an image made from these files may be moved,
    # and what GCC makes of AMX with -march=native crashes on Q8_0.
    "-DGGML_NATIVE=OFF",
    # Symbols are half of the size.
    "-DCMAKE_EXE_LINKER_FLAGS=-s",
    "-DCMAKE_SHARED_LINKER_FLAGS=-s",
)
# Without GGML_NATIVE, ggml assumes a CPU with all of these.
_X86 = {"SSE42": "sse4_2", "AVX": "avx", "AVX2": "avx2", "BMI2": "bmi2", "FMA": "fma", "F16C": "f16c"}
GpuKind = Literal["cuda", "hip", "vulkan"]
"""What llama.cpp can be compiled for besides the CPU (on Apple's machines it uses Metal anyway)."""

_GPUS: dict[GpuKind, tuple[str, ...]] = {
    # One card for each server is the rule, so the library for several is left out.
    "cuda": ("-DGGML_CUDA=ON", "-DGGML_CUDA_NCCL=OFF"),
    "hip": ("-DGGML_HIP=ON",),
    "vulkan": ("-DGGML_VULKAN=ON",),
}


@dataclass(frozen=True, slots=True)
class _Compiler:
    """A compiler for GPUs: its program, the variable that names another, and where it is to be had."""

    program: str
    variable: str
    package: str


_GPU_COMPILERS = {
    "cuda": _Compiler("nvcc", "CUDACXX", "NVIDIA's CUDA toolkit and put its bin directory on PATH"),
    "hip": _Compiler("hipcc", "HIPCXX", "AMD's ROCm"),
    "vulkan": _Compiler("glslc", "Vulkan_GLSLC_EXECUTABLE", "libvulkan-dev, spirv-headers and glslc"),
}
_COMPILERS = ("c++", "g++", "clang++")
# One compiler process of this source took up to 1.1 GiB.
_BYTES_PER_JOB = 1_300_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs a build needs."""

    cmake: str
    ninja: str


def flags(gpu: GpuKind | None = None) -> tuple[str, ...]:
    """CMake's flags for this machine; they are part of the build's name.

    Args:
        gpu: What to compile for besides the CPU.
    """
    wanted = _GPUS[gpu] if gpu else ()
    if gpu == "cuda" and not os.environ.get("CUDAARCHS"):
        # For the cards at hand. CUDAARCHS, CMake's own variable, names others.
        wanted = (*wanted, "-DCMAKE_CUDA_ARCHITECTURES=native")
    if sys.platform != "linux":
        return (*_FLAGS, *wanted)
    return (*_FLAGS, *_LINUX, *cpu_flags(platform.machine(), _cpu_features()), *wanted)


def flags_hash(gpu: GpuKind | None = None) -> str:
    """A short name for `flags(gpu)`."""
    text = " ".join((sys.platform, platform.machine(), *flags(gpu)))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def find_tools(gpu: GpuKind | None = None) -> Tools:
    """The tools of this machine.

    Args:
        gpu: What to compile for besides the CPU.

    Raises:
        EngineMissingError: If one is missing; the hint says how to get it.
    """
    if not (os.environ.get("CXX") or any(shutil.which(name) for name in _COMPILERS)):
        raise EngineMissingError("compiling llama.cpp needs a C++ compiler", hint=_compiler_hint())
    compiler = _GPU_COMPILERS.get(gpu or "")
    if compiler and not (os.environ.get(compiler.variable) or shutil.which(compiler.program)):
        raise EngineMissingError(
            f"compiling llama.cpp for {gpu} needs {compiler.program}",
            hint=f"install {compiler.package}, or name the compiler in {compiler.variable}",
        )
    if gpu == "vulkan":
        _require_vulkan_headers()
    found = {name: _find(name) for name in ("cmake", "ninja")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise EngineMissingError(
            f"compiling llama.cpp needs {' and '.join(missing)}",
            hint=f"{sys.executable} -m pip install {' '.join(missing)}",
        )
    return Tools(cmake=str(found["cmake"]), ninja=str(found["ninja"]))


def _require_vulkan_headers() -> None:
    """Refuse headers that are too old before minutes are spent on them.

    Raises:
        EngineMissingError: If they are.
    """
    found = devices.vulkan_headers()
    if found and not found[1]:
        raise EngineMissingError(
            f"the Vulkan headers in {found[0]} are too old for llama.cpp: they lack VK_EXT_layer_settings",
            hint="install the Vulkan SDK and name its directory in VULKAN_SDK; Debian 13 has newer headers, too",
        )


def jobs() -> int:
    """How many compilers to run at the same time: CPUs, as far as memory goes.

    CMAKE_BUILD_PARALLEL_LEVEL, CMake's own variable, overrides it.
    """
    asked = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    cpus = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cpus, psutil.virtual_memory().available // _BYTES_PER_JOB))


def _find(name: str) -> str | None:
    """A program beside this Python first: the packages of the extra `build` put theirs there."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), sysconfig.get_path("scripts")))
    return shutil.which(name, path=beside) or shutil.which(name)


def cpu_flags(machine: str, features: set[str]) -> tuple[str, ...]:
    """Flags for what a CPU lacks of ggml's x86 baseline, or has above that of ARM."""
    if machine in {"x86_64", "AMD64"}:
        return tuple(f"-DGGML_{flag}=OFF" for flag, name in _X86.items() if name not in features)
    if machine == "aarch64" and "asimddp" in features:
        # The bare ARMv8-A of GGML_NATIVE=OFF is several times slower on quantised weights.
        half = "+fp16" if {"fphp", "asimdhp"} <= features else ""
        return (f"-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod{half}",)
    return ()


def _cpu_features() -> set[str]:
    """The features of the first CPU, as the kernel names them."""
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(("flags", "Features")):
                return set(line.partition(":")[2].split())
    return set()


def _compiler_hint() -> str:
    if sys.platform == "darwin":
        return "xcode-select --install"
    if shutil.which("dnf"):
        return "sudo dnf install gcc-c++"
    return "sudo apt-get install g++"
