"""The kinds of machines that a kit can be for, and what their wheels are called."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable

from packaging import tags

from llmlab.errors import UnknownNameError, UsageError

PLATFORMS = ("linux-x86_64", "linux-aarch64", "macos-arm64", "macos-x86_64")
"""Names of platforms. Windows is linux-x86_64, since llmlab runs in WSL 2 there."""
_SYSTEMS = {"linux": "linux", "darwin": "macos"}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Wheels for a C library no newer than this run on Linux distributions since 2019.
_GLIBC_MINOR, _OLDEST_GLIBC_MINOR = 28, 5
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_MACOS = (14, 0)
_PYTHON = re.compile(r"3\.\d{1,2}")
_LEAST_PYTHON = (3, 10)


def here() -> str:
    """The name of this machine's platform; it need not be one of `PLATFORMS`."""
    machine = platform.machine().lower()
    if sys.platform == "linux":
        machine = _MACHINES.get(machine, machine)
    return f"{_SYSTEMS.get(sys.platform, sys.platform)}-{machine}"


def architecture(name: str) -> str:
    """A platform's architecture, as `uname -m` names it."""
    return name.partition("-")[2]


def python_here() -> str:
    """The version of this Python, such as "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def wheel_platforms(name: str) -> list[str]:
    """The platform tags of wheels that a platform can use, the best first."""
    system, _, machine = name.partition("-")
    if system == "macos":
        return list(tags.mac_platforms(_MACOS, machine))
    found = []
    for minor in range(_GLIBC_MINOR, _OLDEST_GLIBC_MINOR - 1, -1):
        found.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY:
            found.append(f"{_LEGACY[minor]}_{machine}")
    return found


def wheel_tags(name: str, python: str) -> list[tags.Tag]:
    """Every tag of wheels that a Python of a platform can use."""
    major, minor = (int(part) for part in python.split("."))
    usable = wheel_platforms(name)
    interpreter = f"cp{major}{minor}"
    return [
        *tags.cpython_tags((major, minor), platforms=usable),
        *tags.compatible_tags((major, minor), interpreter=interpreter, platforms=usable),
    ]


def environment(name: str, python: str) -> dict[str, str]:
    """What a Python of a platform answers to the markers in packages' requirements."""
    system, _, machine = name.partition("-")
    mac = system == "macos"
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Darwin" if mac else "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "darwin" if mac else "linux",
    }


def known(names: Iterable[str]) -> tuple[str, ...]:
    """The same names.

    Raises:
        UnknownNameError: If one of them is no platform.
    """
    found = tuple(names)
    for name in found:
        if name not in PLATFORMS:
            raise UnknownNameError("platform", name, PLATFORMS)
    return found


def pythons(versions: Iterable[str]) -> tuple[str, ...]:
    """The same versions.

    Raises:
        UsageError: If one of them is none, or older than llmlab can use.
    """
    found = tuple(versions)
    for version in found:
        if not _PYTHON.fullmatch(version) or tuple(map(int, version.split("."))) < _LEAST_PYTHON:
            raise UsageError(
                f"{version!r} is no version of Python that llmlab runs on",
                hint="write such as --python 3.11,3.12; 3.10 is the oldest",
            )
    return found
