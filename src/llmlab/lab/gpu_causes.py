"""Why a server is not on the GPU that it was to use: what its log and the machine tell, and nothing that they do not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from llmlab.backends import docker_api
from llmlab.engines import gpu_trouble
from llmlab.errors import LabError
from llmlab.specs import Record

_KINDS = ("cuda", "hip", "metal", "musa", "opencl", "sycl", "vulkan")
_CPU_ONLY = "the engine was compiled without GPU support"
_NO_WAY = (
    "the container engine has no way to hand out a GPU: neither NVIDIA's runtime nor a file of the Container Device "
    "Interface"
)
_LISTING = (28, 3)
_REMEDY = "llmlab doctor has the lines for this machine"


def likely(record: Record, log: Sequence[str], *, blind: bool) -> tuple[str, str]:
    """The likely cause and what to do about it; "" for what nothing tells.

    Args:
        record: The server.
        log: What it has written.
        blind: Whether the engine has put nothing onto a GPU.
    """
    trouble = gpu_trouble.told(log)
    if trouble and not trouble.blind:
        return trouble.cause, trouble.remedy
    if not trouble and not blind:
        return "", ""
    if record.build and not any(f"ggml-{kind}" in name for name in record.build for kind in _KINDS):
        return _CPU_ONLY, "llmlab build --gpu cuda compiles it anew"
    if record.backend == "container" and has_no_way(info_of(record)):
        return _NO_WAY, _REMEDY
    return (trouble.cause, _REMEDY) if trouble else ("", "")


def taken_away(info: Mapping[str, Any]) -> tuple[str, str]:
    """Why a container may lose a GPU that it had; "" if its engine says nothing that would explain it.

    Args:
        info: What the container engine says of itself.
    """
    if info.get("CgroupDriver") == "systemd":
        return gpu_trouble.TAKEN_AWAY.cause, gpu_trouble.TAKEN_AWAY.remedy
    return "", ""


def info_of(record: Record) -> Mapping[str, Any]:
    """What a server's container engine says of itself; {} if it does not answer."""
    if record.backend == "container":
        with suppress(LabError):
            return docker_api.connect(record.container_engine).info
    return {}


def has_no_way(info: Mapping[str, Any]) -> bool:
    """Whether a container engine says of itself that it cannot hand out an NVIDIA GPU.

    Args:
        info: What it says; of Podman that is nothing on the Container Device Interface.
    """
    if not info or "BuildahVersion" in info or "nvidia" in (info.get("Runtimes") or {}):
        return False
    listed = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ()]
    version = tuple(map(int, re.findall(r"\d+", str(info.get("ServerVersion")))[:2]))
    # Docker Engine 28.3 and newer lists what its files have; older ones say no more than where they look.
    silent = bool(info.get("CDISpecDirs")) and version < _LISTING
    return not silent and not any(name.startswith("nvidia.com/") for name in listed)
