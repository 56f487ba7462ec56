"""What there is to measure. Each part stands alone; each leaves NAME.json."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part.

    Attributes:
        name: What it is called, and the function that does it.
        module: Where that is, in this package.
        what: What it measures.
        needs: What it needs besides Python and the packages.
        about_s: Seconds it took on one H100 with 16 CPUs; `build` on 16 CPUs.
    """

    name: str
    module: str
    what: str
    needs: str
    about_s: float


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
        needs="nvcc, cuBLAS, a C++ compiler, CMake, and the source package: PIP_FIND_LINKS=FOLDER PIP_NO_INDEX=1 "
        "where there is no network",
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
        needs="a llama-server for this GPU",
        about_s=180,
    ),
    Part(
        name="rates",
        module="serving",
        what="prefill and decode against the roofline, GPU memory against its prediction",
        needs="a llama-server for this GPU, and the part roofs before it",
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
        needs="a llama-server for this GPU and a container engine",
        about_s=200,
    ),
)
PARTS = {part.name: part for part in _LIST}
