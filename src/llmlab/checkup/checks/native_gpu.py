"""GPUs for native servers: what the installed llama.cpp can compute on, and the line that mends it."""

from __future__ import annotations

import re

from llmlab.checkup.checks.base import Check, Finding, absent, ok, unknown, warning
from llmlab.checkup.facts import Facts

_CPU_ONLY = "models run on the CPU beside a GPU, without an error and many times slower"
# As llama-cpp-python's documentation has them: an index of wheels for each version of CUDA, and one for Metal.
_WHEELS = "https://abetlen.github.io/llama-cpp-python/whl"
_ANEW = "pip install --force-reinstall --no-cache-dir llama-cpp-python"
# The source may be newer than the newest wheel, and pip would take that.
_WHEEL = _ANEW.replace("install", "install --prefer-binary", 1)
# NVIDIA's driver branch from which on a version of CUDA runs, by its compatibility guide; the newest first.
_CUDA_WHEELS = ((555, "cu125"), (550, "cu124"), (545, "cu123"), (535, "cu122"), (530, "cu121"))
_FLAGS = {"cuda": "GGML_CUDA", "hip": "GGML_HIP", "vulkan": "GGML_VULKAN", "metal": "GGML_METAL"}
_NAMES = {"cuda": "NVIDIA", "hip": "AMD", "vulkan": "Intel", "metal": "Apple"}


def wanted(facts: Facts) -> str:
    """What llama.cpp would have to be compiled for on this machine: "cuda", "hip", "vulkan", "metal" or ""."""
    if facts.system == "Darwin":
        return "metal" if facts.machine == "arm64" else ""
    if facts.has_nvidia:
        return "cuda"
    if "/dev/kfd" in facts.nodes:
        return "hip"
    return "vulkan" if any(path.startswith("/dev/dri/render") for path in facts.nodes) else ""


def lines(kind: str, driver: str = "") -> tuple[str, ...]:
    """The lines that give llama-cpp-python a GPU: a compiled wheel where its makers have one, and the source.

    Args:
        kind: What it is to compute on.
        driver: The version of NVIDIA's driver, or "".
    """
    source = f'CMAKE_ARGS="-D{_FLAGS[kind]}=on" {_ANEW}'
    if kind == "metal":
        return f"{_WHEEL} --extra-index-url {_WHEELS}/metal", source
    branch = int(driver.partition(".")[0]) if driver.partition(".")[0].isdecimal() else 0
    wheel = next((name for least, name in _CUDA_WHEELS if branch >= least), None) if kind == "cuda" else None
    return (f"{_WHEEL} --extra-index-url {_WHEELS}/{wheel}", source) if wheel else (source,)


def _server(facts: Facts) -> Finding:
    kind = wanted(facts)
    if not kind:
        return absent("no GPU that llama.cpp could use natively")
    seen = facts.build
    if not seen.get("server") or seen.get("error"):
        return absent(f"there is no llama.cpp yet; {_building(kind)}")
    if found := seen.get("devices"):
        return ok(f"llama.cpp computes on {'; '.join(found)}")
    made_for = seen.get("accelerators") or []
    if found is None:
        return unknown("llama.cpp does not list its devices") if made_for else absent(_not_told(kind))
    if not made_for:
        # Of NVIDIA's, the row on llama.cpp says so.
        return absent(f"compiled for the CPU only, beside a GPU of {_NAMES[kind]}'s; {_building(kind)}")
    return warning(
        f"llama.cpp was compiled for {' and '.join(made_for)}, and sees no GPU",
        *_blind(kind, made_for),
        why=_CPU_ONLY,
    )


def _building(kind: str) -> str:
    return (
        "llmlab build uses Metal by itself" if kind == "metal" else f"llmlab build --gpu {kind} uses the GPU"
    )


def _not_told(kind: str) -> str:
    return f"this llama.cpp does not list its devices; {_building(kind)}"


def _blind(kind: str, made_for: list[str]) -> tuple[str, ...]:
    if kind not in made_for and kind != "metal":
        return (f"llmlab build --gpu {kind}",)
    return {
        "cuda": (
            "nvidia-smi   # shows the driver; llmlab build --gpu cuda --force compiles for the card at hand",
        ),
        "hip": ("ls -l /dev/kfd /dev/dri   # this user needs the groups render and video",),
        "vulkan": ("vulkaninfo --summary   # shows the drivers: sudo apt-get install mesa-vulkan-drivers",),
    }.get(kind, ("llmlab build --force",))


def _wheel(facts: Facts) -> Finding:
    kind, made_for = wanted(facts), facts.build.get("wheel")
    if not facts.packages.get("llama-cpp-python"):
        return absent("not installed")
    if made_for is None:
        return absent("it has no libraries of its own, and loads those of llama.cpp here")
    if made_for:
        return ok(f"compiled for {' and '.join(made_for)}, too")
    if not kind:
        return absent("compiled for the CPU only, and there is no GPU that it could use")
    fixes = lines(kind, _driver(facts))
    return Finding(
        "not applicable" if facts.build.get("devices") else "warning",
        f"compiled for the CPU only, beside a GPU of {_NAMES[kind]}'s",
        fixes,
        f"with --engine llama-cpp-python {_CPU_ONLY}",
    )


def _driver(facts: Facts) -> str:
    texts = (
        *(text for line, text in facts.outputs.items() if line.startswith("nvidia-smi")),
        facts.texts.get("/proc/driver/nvidia/version", ""),
    )
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", "\n".join(texts))
    return found[1] if found else ""


CHECKS = (
    Check(
        "native GPU",
        "natively, models run on the CPU beside a GPU that llama.cpp cannot use",
        _server,
        ("build",),
    ),
    Check("llama-cpp-python's GPU", "", _wheel, ("build", "packages")),
)
