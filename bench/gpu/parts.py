"""What there is to measure, and what has to be carried to a machine without a network. Nothing is imported for that."""

from __future__ import annotations

from dataclasses import dataclass

LIMIT_MIB = 64
"""Most that is carried in one call."""
REHEARSAL = "LLMLAB_GPU_REHEARSAL"
"""If this variable is set, a small model runs on the CPU: that tries the script, and measures nothing."""
CARRIED = "LLMLAB_GPU_CARRIED"
"""The variable that names the folder that was carried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part.

    Attributes:
        name: What it is called, and the function that does it.
        module: Where that is, in this package.
        what: What it measures.
        needs: What it needs besides Python and the packages.
        carried: Bundles that bring it what the machine may lack.
        about_s: Seconds it took on one H100 with 16 CPUs; `build` on 16 CPUs.
    """

    name: str
    module: str
    what: str
    needs: str
    carried: tuple[str, ...] = ("python",)
    about_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What is carried to a machine without a network.

    Attributes:
        name: What it is called, and its folder.
        what: What it is.
        about_mib: Its size when it was last fetched.
    """

    name: str
    what: str
    about_mib: float


_BUNDLES = (
    Bundle(name="python", what="llmlab's Python packages, as wheels for Python 3.12", about_mib=52),
    Bundle(
        name="source", what="llama.cpp's source without what is not compiled, CMake and Ninja", about_mib=36
    ),
    Bundle(name="engine", what="Debian's packages of Docker Engine, containerd and runc", about_mib=63),
)
BUNDLES = {bundle.name: bundle for bundle in _BUNDLES}

_LIST = (
    Part(
        name="machine",
        module="looking",
        what="what machine this is, for GPUs and for containers",
        needs="nothing",
        about_s=15,
    ),
    Part(
        name="build",
        module="looking",
        what="llama.cpp compiled for the card at hand",
        needs="nvcc, cuBLAS, a C++ compiler, CMake, Ninja, and llama.cpp's source",
        carried=("python", "source"),
        about_s=400,
    ),
    Part(
        name="roofs",
        module="looking",
        what="the card's memory bandwidth and its rate of 16-bit products",
        needs="nvcc and cuBLAS, or LLMLAB_ROOFS with the compiled program",
        about_s=20,
    ),
    Part(
        name="instruments",
        module="looking",
        what="what each question to NVML takes, how often its sensors change, what the sampler takes",
        needs="a llama-server for this GPU",
        about_s=75,
    ),
    Part(
        name="recordings",
        module="serving",
        what="idle, load, prefill, decode and 8 requests at once, 60 s each of a 1 B and an 8 B model",
        needs="a llama-server for this GPU, 6 GB of disk",
        about_s=180,
    ),
    Part(
        name="rates",
        module="serving",
        what="prefill and decode against the roofline, GPU memory against its prediction",
        needs="a llama-server for this GPU, the part roofs before it, 6 GB of disk",
        about_s=60,
    ),
    Part(
        name="cpu",
        module="arms",
        what="the same binary and model on the CPU against on the GPU, by the comparison's protocol",
        needs="a llama-server for this GPU",
        about_s=150,
    ),
    Part(
        name="containers",
        module="arms",
        what="sealed in a container with one GPU against native on it, by the comparison's protocol",
        needs="a llama-server for this GPU and a container engine: bench/gpu/engine starts a carried one, as root",
        carried=("python", "engine"),
        about_s=200,
    ),
)
PARTS = {part.name: part for part in _LIST}
