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

import psutil

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
_COMPILERS = ("c++", "g++", "clang++")
# One compiler process of this source took up to 1.1 GiB.
_BYTES_PER_JOB = 1_300_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs a build needs."""

    cmake: str
    ninja: str


def flags() -> tuple[str, ...]:
    """CMake's flags for this machine; they are part of the build's name."""
    if sys.platform != "linux":
        return _FLAGS
    return (*_FLAGS, *_LINUX, *cpu_flags(platform.machine(), _cpu_features()))


def flags_hash() -> str:
    """A short name for `flags()`."""
    text = " ".join((sys.platform, platform.machine(), *flags()))
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def find_tools() -> Tools:
    """The tools of this machine.

    Raises:
        EngineMissingError: If one is missing; the hint says how to get it.
    """
    if not (os.environ.get("CXX") or any(shutil.which(name) for name in _COMPILERS)):
        raise EngineMissingError("compiling llama.cpp needs a C++ compiler", hint=_compiler_hint())
    found = {name: _find(name) for name in ("cmake", "ninja")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise EngineMissingError(
            f"compiling llama.cpp needs {' and '.join(missing)}",
            hint=f"{sys.executable} -m pip install {' '.join(missing)}",
        )
    return Tools(cmake=str(found["cmake"]), ninja=str(found["ninja"]))


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
