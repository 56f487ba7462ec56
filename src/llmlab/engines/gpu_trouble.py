"""Why an engine computes without its GPU, as the logs of llama.cpp, Ollama, vLLM and NVIDIA's tools tell it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_NO_DRIVER: Final = (
    "llmlab doctor looks at the driver; of an image, take one for an older CUDA; or update NVIDIA's driver"
)
_TOO_LARGE: Final = (
    "use fewer --gpu-layers or a smaller --context, or end what else computes there (nvidia-smi)"
)
_NO_KERNEL: Final = (
    "llmlab build --gpu cuda --force compiles it for the card at hand; of an image, take one that has it"
)
_CGROUPFS: Final = (
    "stop the server and start it anew; for good, write "
    '"exec-opts": ["native.cgroupdriver=cgroupfs"] into /etc/docker/daemon.json and restart Docker'
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a log says.

    Attributes:
        cause: In words.
        remedy: What to do; "" where that depends on how the server was started.
        blind: Whether all that is said is that the engine sees no GPU, which has causes of its own.
    """

    cause: str
    remedy: str = ""
    blind: bool = False


TAKEN_AWAY: Final = Trouble(
    "the container's GPU was taken away from it: where systemd keeps the control groups, "
    "`systemctl daemon-reload` closes the device files that it does not know of",
    _CGROUPFS,
)
_FULL: Final = (
    r"cudaMalloc failed: out of memory|(unable|failed) to allocate (CUDA|ROCm|Vulkan)\d+ buffer|"
    r"ErrorOutOfDeviceMemory|CUDA out of memory|less than desired GPU memory utilization"
)
_BLIND: Final = (
    r"no (CUDA|ROCm)-capable device is detected|ggml_vulkan: No devices found|no usable GPU found|"
    r"not compiled with GPU offload support|no compatible GPUs were discovered|"
    r'msg="inference compute" id=\S+ library=cpu|Failed to infer device type|No CUDA GPUs are available'
)
# The first that is found counts, so those that say why stand before those that say that there is none.
_TROUBLES: Final = (
    (
        r"driver version is insufficient for CUDA runtime",
        Trouble("NVIDIA's driver is older than the CUDA that the engine was compiled with", _NO_DRIVER),
    ),
    (
        r"unsupported display driver / cuda driver combination|driver/library version mismatch",
        Trouble(
            "the driver's libraries are not those of the driver in the kernel, as after an update of the driver",
            "sudo reboot",
        ),
    ),
    (
        r"no kernel image is available|no device code compatible with CUDA arch|invalid device function",
        Trouble("the engine was compiled without this GPU's architecture", _NO_KERNEL),
    ),
    (r"Failed to initialize NVML: Unknown Error", TAKEN_AWAY),
    (
        r"fallen off the bus|GPU is lost|ErrorDeviceLost|\bXid\b",
        Trouble("the GPU was lost", "sudo dmesg | grep -i xid says more; sudo reboot brings it back"),
    ),
    (
        _FULL,
        Trouble("there is not enough memory on the GPU for the model", _TOO_LARGE),
    ),
    (
        _BLIND,
        Trouble("the engine sees no GPU", blind=True),
    ),
)
_CAPABILITY: Final = re.compile(r"Device \d+: .*compute capability (\d+)\.(\d+)")
_COMPILED_FOR: Final = re.compile(r"\bARCHS = (\d+(?:,\d+)*)")


def told(log: Iterable[str]) -> Trouble | None:
    """What a log says of why there is no GPU; None if it says nothing of the sort."""
    text = "\n".join(log)
    for pattern, trouble in _TROUBLES:
        if re.search(pattern, text):
            return trouble
    return _too_old(text)


def _too_old(text: str) -> Trouble | None:
    """An engine compiled for newer GPUs only: newer ones can do with code for older ones, never the other way."""
    archs = _COMPILED_FOR.search(text)
    cards = [int(major) * 100 + int(minor) * 10 for major, minor in _CAPABILITY.findall(text)]
    if not archs or not cards:
        return None
    least = min(map(int, archs[1].split(",")))
    if least <= max(cards):
        return None
    return Trouble(
        f"the engine was compiled for GPUs of compute capability {least / 100:.1f} and newer, and the newest here has "
        f"{max(cards) / 100:.1f}",
        _NO_KERNEL,
    )
