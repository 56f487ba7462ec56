"""What a comparison ran on: enough to judge it, nothing that names a host or a user."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from llmlab import machine
from llmlab.backends import docker_api
from llmlab.errors import LabError

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_PACKAGES = ("llmlab", "numpy", "scipy")


def look() -> dict[str, Any]:
    """CPU, memory, kernel, governor, control groups, container engine, versions, load."""
    here = machine.look()
    return {
        "cpu": here.cpu,
        "cpus": here.cpus,
        "memory_mib": here.total_mib,
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "governor": _governor(),
        "control groups": 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
        "container engine": _engine(),
        "gpus": [gpu.name for gpu in machine.gpus() or ()],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "load_1min_before": round(os.getloadavg()[0], 2),
    }


def _governor() -> str:
    """How the CPU's frequency is steered; a virtual machine does not tell."""
    with suppress(OSError):
        return _GOVERNOR.read_text(encoding="utf-8").strip()
    return "unknown"


def _engine() -> str:
    with suppress(LabError):
        return str(docker_api.connect().info.get("ServerVersion", "unknown"))
    return "none"


def _version(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None
