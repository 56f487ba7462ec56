"""AMD's and Intel's GPUs, as the kernel shows them: device files, whose they are, and who may use them."""

from __future__ import annotations

import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmlab.profiles import GpuMaker

_MAKERS: dict[str, GpuMaker] = {"0x1002": "amd", "0x8086": "intel", "0x10de": "nvidia"}
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFile:
    """A device file.

    Attributes:
        path: Where it is on this machine.
        inside: Where programs look for it, such as "/dev/dri/renderD128".
        group: The group that may use it; None if it takes none, since all may.
    """

    path: str
    inside: str
    group: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderNode(DeviceFile):
    """A device file for computing on a GPU.

    Attributes:
        maker: Whose GPU it is.
        address: Where it is on the bus, such as "0000:03:00.0".
        total_mib: The GPU's memory; None where the driver does not tell.
        free_mib: What of it is free now; likewise.
    """

    maker: GpuMaker
    address: str
    total_mib: int | None = None
    free_mib: int | None = None


def render_nodes(root: Path = Path("/")) -> tuple[RenderNode, ...]:
    """The render nodes of known makers, by their numbers.

    Args:
        root: Where the machine's files are.
    """
    found = []
    for entry in sorted((root / "sys/class/drm").glob("render*"), key=_number):
        path = root / "dev/dri" / entry.name
        maker = _MAKERS.get(_read(entry / "device/vendor"))
        if maker is None or not path.exists():
            continue
        # The driver amdgpu tells both; those of Intel's tell neither.
        total = _mib(entry / "device/mem_info_vram_total")
        used = _mib(entry / "device/mem_info_vram_used")
        found.append(
            RenderNode(
                path=str(path),
                inside=f"/dev/dri/{entry.name}",
                maker=maker,
                address=(entry / "device").resolve().name,
                group=group_of(path),
                total_mib=total,
                free_mib=None if total is None or used is None else max(0, total - used),
            )
        )
    return tuple(found)


def kfd(root: Path = Path("/")) -> DeviceFile | None:
    """AMD's compute device, one for all GPUs; None if there is none."""
    path = root / "dev/kfd"
    return DeviceFile(path=str(path), inside="/dev/kfd", group=group_of(path)) if path.exists() else None


def group_of(path: Path) -> int | None:
    """The group through which a device file can be used; None if everybody may use it."""
    status = path.stat()
    everybody = stat.S_IROTH | stat.S_IWOTH
    return None if status.st_mode & everybody == everybody else status.st_gid


def _number(entry: Path) -> int:
    digits = re.search(r"\d+$", entry.name)
    return int(digits[0]) if digits else 0


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace").strip()
    return ""


def _mib(path: Path) -> int | None:
    text = _read(path)
    return int(text) // _MIB if text.isdecimal() else None
