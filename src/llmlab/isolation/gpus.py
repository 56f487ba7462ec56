"""How a container gets NVIDIA's GPUs: what is asked of the container engine, by what it can do.

- **runtime**: NVIDIA's container toolkit, as `docker run --gpus` asks for it; it brings the
  device files and the driver's libraries in.
- **cdi**: the Container Device Interface. A file that the toolkit has written says what a device
  needs, and the engine does that itself.
- **files**: neither is there. The device files and the driver's libraries are named one by one,
  which is all that the other two do for a program that computes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmlab.profiles import Mount

Way = Literal["runtime", "cdi", "files"]

_CONTROL_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_NODE = re.compile(r"/dev/nvidia(\d+)")
# CUDA itself, and what it compiles kernels with that were not compiled for the card at hand.
_LIBRARIES = ("libcuda.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4", "libnvidia-gpucomp.so")
_FOUND = re.compile(r"^\s*(?P<name>\S+) \((?P<kind>[^)]*)\) => (?P<path>\S+)$", re.MULTILINE)
_CDI_KIND = "nvidia.com/gpu"
_HOOK = "nvidia-container-runtime-hook"
_CDI_DIRS = ("/etc/cdi", "/var/run/cdi")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFiles:
    """What the driver has on this machine.

    Attributes:
        nodes: Its device files.
        libraries: Name as programs ask for it → file.
        hook: Whether NVIDIA's hook for container engines is installed.
        cdi: Whether there is a file of the Container Device Interface for NVIDIA's devices.
    """

    nodes: tuple[str, ...] = ()
    libraries: Mapping[str, str] | None = None
    hook: bool = False
    cdi: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuAccess:
    """What a request asks for, so that a container gets GPUs.

    Attributes:
        way: How.
        host_config: Fields of the engine API's HostConfig.
        mounts: Files of the driver.
        note: What the user should know; "" if nothing.
    """

    way: Way
    host_config: Mapping[str, Any]
    mounts: tuple[Mount, ...] = ()
    note: str = ""


def access(
    gpus: str, info: Mapping[str, Any], files: DriverFiles | None, *, libraries_to: str, podman: bool = False
) -> GpuAccess:
    """The way that this engine has.

    Args:
        gpus: "all", or indices such as "0,1".
        info: What the engine's `GET /info` says.
        files: What the driver has on the engine's machine; None if that is another machine.
        libraries_to: Where programs in the container look for libraries.
        podman: Whether the engine is Podman, which reads the interface's files itself.
    """
    if _has_cdi(info, files, podman=podman):
        names = ["all"] if gpus == "all" else gpus.split(",")
        ids = [f"{_CDI_KIND}={name}" for name in names]
        return GpuAccess(way="cdi", host_config={"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ids}]})
    by_hand = files is not None and bool(files.nodes) and bool(files.libraries)
    if by_hand and files and not files.hook and "nvidia" not in (info.get("Runtimes") or {}):
        return _by_hand(gpus, files, libraries_to)
    chosen = {"Count": -1} if gpus == "all" else {"DeviceIDs": gpus.split(",")}
    return GpuAccess(way="runtime", host_config={"DeviceRequests": [{**chosen, "Capabilities": [["gpu"]]}]})


def _has_cdi(info: Mapping[str, Any], files: DriverFiles | None, *, podman: bool) -> bool:
    """Whether the engine knows NVIDIA's devices by that interface."""
    # Docker Engine 28.3 and newer lists what it has found.
    if any(str(each.get("ID", "")).startswith(_CDI_KIND) for each in info.get("DiscoveredDevices") or ()):
        return True
    # Older ones, from 25 on, and only where that is switched on, say where they look. With the
    # toolkit's runtime the usual request works there as well.
    looks = podman or bool(info.get("CDISpecDirs"))
    return looks and bool(files and files.cdi) and "nvidia" not in (info.get("Runtimes") or {})


def _by_hand(gpus: str, files: DriverFiles, libraries_to: str) -> GpuAccess:
    numbers = None if gpus == "all" else set(gpus.split(","))
    cards = [node for node in files.nodes if (match := _NODE.fullmatch(node)) and _chosen(match[1], numbers)]
    nodes = [*cards, *(node for node in files.nodes if node in _CONTROL_NODES)]
    return GpuAccess(
        way="files",
        host_config={
            "Devices": [
                {"PathOnHost": node, "PathInContainer": node, "CgroupPermissions": "rw"} for node in nodes
            ]
        },
        mounts=tuple(
            Mount(source=path, target=f"{libraries_to}/{name}")
            for name, path in sorted((files.libraries or {}).items())
        ),
        note="NVIDIA's container toolkit is not there: the device files and the driver's libraries are given "
        "one by one",
    )


def _chosen(number: str, numbers: set[str] | None) -> bool:
    return numbers is None or number in numbers


def asked(host_config: Mapping[str, Any]) -> tuple[str, ...]:
    """The GPUs that a container's HostConfig asks for, as words: "GPUs 0,1", "GPUs all"; others as they are.

    Args:
        host_config: The request's, or the engine's record's.
    """
    found = [_of_request(request) for request in host_config.get("DeviceRequests") or ()]
    nodes = [str(device.get("PathInContainer")) for device in host_config.get("Devices") or ()]
    cards = [match[1] for node in nodes if (match := _NODE.fullmatch(node))]
    if cards:
        found.append(f"GPUs {','.join(cards)}")
    return (*found, *(node for node in nodes if node not in _CONTROL_NODES and not _NODE.fullmatch(node)))


def _of_request(request: Mapping[str, Any]) -> str:
    ids = ",".join(str(name).removeprefix(f"{_CDI_KIND}=") for name in request.get("DeviceIDs") or ())
    count = request.get("Count") or 0
    return f"GPUs {ids or ('all' if count < 0 else f'× {count}')}"


def is_drivers(path: str) -> bool:
    """Whether a file's name is that of one of the driver's libraries.

    Args:
        path: The file.
    """
    return _wanted(path.rpartition("/")[2], _LIBRARIES)


def driver_files() -> DriverFiles:
    """What NVIDIA's driver has on this machine; nothing where there is none."""
    nodes = sorted(str(path) for path in Path("/dev").glob("nvidia*") if path.is_char_device())
    if not nodes:
        return DriverFiles()
    specs = (path for folder in _CDI_DIRS for path in Path(folder).glob("*.*"))
    return DriverFiles(
        nodes=tuple(nodes),
        libraries=parse_ldconfig(_ldconfig(), _LIBRARIES),
        hook=bool(shutil.which(_HOOK)),
        cdi=any(_names_gpus(path) for path in specs),
    )


def parse_ldconfig(text: str, names: Sequence[str]) -> dict[str, str]:
    """Libraries of this machine's kind in the output of `ldconfig -p`: name → file.

    Args:
        text: What it has printed.
        names: The libraries' names; one that ends in ".so" stands for its versions.
    """
    found: dict[str, str] = {}
    for match in _FOUND.finditer(text):
        name = match["name"]
        # Of a name's files the first is the one that the loader would take; 32-bit ones have no such word.
        if "64" in match["kind"] and _wanted(name, names):
            found.setdefault(name, match["path"])
    return found


def _wanted(name: str, names: Iterable[str]) -> bool:
    return any(name == each or (each.endswith(".so") and name.startswith(f"{each}.")) for each in names)


def _ldconfig() -> str:
    program = shutil.which("ldconfig") or shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if not program:
        return ""
    done = subprocess.run([program, "-p"], check=False, capture_output=True, text=True, errors="replace")
    return done.stdout


def _names_gpus(path: Path) -> bool:
    with suppress(OSError):
        return _CDI_KIND in path.read_text(encoding="utf-8", errors="replace")
    return False
