"""What this machine has for containers with GPUs: device files, and the libraries of NVIDIA's driver."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from llmlab import machine
from llmlab.isolation.gpus.render_nodes import DeviceFile, RenderNode, kfd, render_nodes

WSL_DIR = "/usr/lib/wsl"
"""Where Windows' Linux has the driver's libraries."""
CDI_KIND = "nvidia.com/gpu"
# CUDA itself, and what it compiles kernels with that were not compiled for the card at hand.
_LIBRARIES = ("libcuda.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4", "libnvidia-gpucomp.so")
_FOUND = re.compile(r"^\s*(?P<name>\S+) \((?P<kind>[^)]*)\) => (?P<path>\S+)$", re.MULTILINE)
_HOOK = "nvidia-container-runtime-hook"
_CDI_DIRS = ("etc/cdi", "var/run/cdi")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFiles:
    """What the drivers have on this machine.

    Attributes:
        nodes: NVIDIA's device files.
        libraries: Name as programs ask for it → file.
        hook: Whether NVIDIA's hook for container engines is installed.
        cdi: Whether there is a file of the Container Device Interface for NVIDIA's devices.
        minors: A GPU's index or UUID → the number of its device file, where that is another one.
        wsl: Whether this is Windows' Linux, with a GPU.
        render: The render nodes.
        kfd: AMD's compute device, one for all GPUs.
        slices: A MIG slice's name → the device files that it takes.
    """

    nodes: tuple[str, ...] = ()
    libraries: Mapping[str, str] | None = None
    hook: bool = False
    cdi: bool = False
    minors: Mapping[str, int] = field(default_factory=dict)
    wsl: bool = False
    render: tuple[RenderNode, ...] = ()
    kfd: DeviceFile | None = None
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def driver_files(root: Path = Path("/")) -> DriverFiles:
    """What the GPUs' drivers have on this machine; nothing where there is none.

    Args:
        root: Where the machine's files are.
    """
    nodes = sorted(f"/dev/{path.name}" for path in (root / "dev").glob("nvidia*") if path.is_char_device())
    wsl = (root / "dev/dxg").exists() and (root / WSL_DIR[1:]).is_dir()
    specs = (path for folder in _CDI_DIRS for path in (root / folder).glob("*.*"))
    return DriverFiles(
        nodes=tuple(nodes),
        libraries=parse_ldconfig(_ldconfig(), _LIBRARIES) if nodes else None,
        hook=bool(shutil.which(_HOOK)),
        cdi=any(_names_gpus(path) for path in specs),
        minors=_minors() if nodes else {},
        wsl=wsl,
        render=render_nodes(root),
        kfd=kfd(root),
        slices=_slices(root) if nodes else {},
    )


def is_drivers(path: str) -> bool:
    """Whether a file's name is that of one of the driver's libraries, or of the directory of all of them.

    Args:
        path: The file.
    """
    return path == WSL_DIR or _wanted(path.rpartition("/")[2], _LIBRARIES)


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
        return CDI_KIND in path.read_text(encoding="utf-8", errors="replace")
    return False


def _minors() -> dict[str, int]:
    """GPUs are numbered by their place on the bus, device files by when the driver found them."""
    found: dict[str, int] = {}
    for index, gpu in machine.answering_gpus().items():
        if gpu.minor is not None:
            found |= {name: gpu.minor for name in (str(index), gpu.uuid) if name}
    return found


def _slices(root: Path) -> dict[str, tuple[str, ...]]:
    """Slices by their indices and UUIDs: the device file of the whole GPU, and those of the instances."""
    numbers = _numbers(root / "proc/driver/nvidia-caps/mig-minors")
    found: dict[str, tuple[str, ...]] = {}
    for index, gpu in machine.answering_gpus().items():
        card = index if gpu.minor is None else gpu.minor
        for part in gpu.slices:
            if part.instances is None:
                continue
            one = f"gpu{card}/gi{part.instances[0]}"
            names = (f"{one}/access", f"{one}/ci{part.instances[1]}/access")
            caps = tuple(f"/dev/nvidia-caps/nvidia-cap{numbers[name]}" for name in names if name in numbers)
            nodes = (f"/dev/nvidia{card}", *caps)
            found |= {name: nodes for name in (f"{index}:{part.index}", part.uuid) if name}
    return found


def _numbers(path: Path) -> dict[str, str]:
    """What is written in lines of a name and a number."""
    with suppress(OSError):
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
        return {words[0]: words[1] for line in lines if len(words := line.split()) == 2}  # noqa: PLR2004 - as it says
    return {}
