"""Gathering facts: all probes at the same time, each on its own.

A probe may crash or hang (a disk that is gone, a driver that is stuck): the
others' results come all the same, after a few seconds at most.
"""

from __future__ import annotations

import gzip
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmlab.checkup import compiled, engine, python
from llmlab.checkup.facts import Facts, from_dict

_DEADLINE_S = 8.0
_COMMAND_S = 4.0
_TEXT = 2000
_TEXTS = (
    "/etc/os-release",
    "/proc/version",
    "/proc/driver/nvidia/version",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/sys/kernel/security/lsm",
)
_NODES = (
    "/dev/nvidia*",
    "/dev/dri/render*",
    "/dev/kfd",
    "/dev/dxg",
    "/.dockerenv",
    "/run/.containerenv",
)
_COMMANDS = (
    "docker --version",
    "podman --version",
    "nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader",
    "nvidia-ctk --version",
    "ollama --version",
    "cmake --version",
    "ninja --version",
    "c++ --version",
    "g++ --version",
    "clang++ --version",
    "cc -print-file-name=libc.a",
)
# Where a program lies that is often not on PATH.
_ELSEWHERE = {"nvidia-smi": "/usr/lib/wsl/lib/nvidia-smi"}
# The programs of container engines, as distributions package them.
_PACKAGES = ("docker.io", "runc", "containerd", "podman", "crun")
_WHY_LATE = f"no answer within {_DEADLINE_S:.0f} s"


def gather() -> Facts:
    """The facts of this machine, now."""
    for name in ("llmlab.machine", "llmlab.weights.hub_cache", "llmlab.builds.locate"):
        # Threads that import the same modules at once may see half of one. What
        # cannot be imported is told by the probe that needs it.
        with suppress(Exception):
            importlib.import_module(name)
    results, failed = _at_once(_probes())
    outputs = {name[2:]: text for name, (fine, text) in _said(results) if fine}
    refusals = {name[2:]: text for name, (fine, text) in _said(results) if not fine}
    # Late or crashed commands are of the same kind as those that fail.
    refusals |= {name[2:]: why for name, why in failed.items() if name.startswith("$ ")}
    known = {name: value for name, value in results.items() if not name.startswith("$ ")}
    failed = {name: why for name, why in failed.items() if not name.startswith("$ ")}
    data = {
        "system": platform.system(),
        "machine": platform.machine(),
        "release": platform.release(),
        "variables": engine.tidy_variables(os.environ),
        "outputs": outputs,
        "refusals": refusals,
        "failed": failed,
        **known,
    }
    return from_dict(_without_home(data))


def _said(results: dict[str, Any]) -> list[tuple[str, tuple[bool, str]]]:
    return [(name, value) for name, value in results.items() if name.startswith("$ ") and value]


def _probes() -> dict[str, Callable[[], Any]]:
    probes: dict[str, Callable[[], Any]] = {
        "engine": engine.ask,
        "texts": _texts,
        "user": _user,
        "nodes": _nodes,
        "pci": _pci,
        "cdi": _cdi,
        "gpus": _gpus,
        "memory": _memory,
        "disks": _disks,
        "packages": python.packages,
        "python": python.look,
        "build": compiled.look,
        "runtime": _runtime,
        "changelogs": _changelogs,
    }
    commands = [*_COMMANDS, *(["sysctl -n sysctl.proc_translated"] if sys.platform == "darwin" else [])]
    for line in commands:
        probes[f"$ {line}"] = lambda line=line: _output(line)  # type: ignore[misc]  # a default binds it
    return probes


def _at_once(probes: dict[str, Callable[[], Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Run all probes in threads that nobody waits for at the end of the process."""
    results: dict[str, Any] = {}
    failed: dict[str, str] = {}

    def run(name: str, probe: Callable[[], Any]) -> None:
        try:
            results[name] = probe()
        except Exception as error:  # noqa: BLE001 - a probe that crashes must not stop the others
            failed[name] = f"{type(error).__name__}: {error}"

    threads = [threading.Thread(target=run, args=item, name=item[0], daemon=True) for item in probes.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _DEADLINE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    done, wrong = dict(results), dict(failed)  # late threads may still write into the others
    return done, wrong | {name: _WHY_LATE for name in probes if name not in done and name not in wrong}


def find(name: str) -> str | None:
    """A program beside this Python first: packages put theirs there."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), sysconfig.get_path("scripts")))
    elsewhere = _ELSEWHERE.get(name, "")
    return (
        shutil.which(name, path=beside)
        or shutil.which(name)
        or (elsewhere and shutil.which(elsewhere))
        or None
    )


def _output(line: str) -> tuple[bool, str] | None:
    """Whether a command worked, and what it printed; None if it is not installed."""
    name, *arguments = line.split()
    program = find(name)
    if program is None:
        return None
    done = subprocess.run(
        [program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=_COMMAND_S,
        check=False,
    )
    return done.returncode == 0, done.stdout.decode("utf-8", errors="replace").strip()[:_TEXT]


def _texts() -> dict[str, str]:
    found = {}
    for path in _TEXTS:
        with suppress(OSError), Path(path).open(encoding="utf-8", errors="replace") as file:
            found[path] = file.read(_TEXT)
    return found


def _user() -> dict[str, Any]:
    if not hasattr(os, "getuid"):
        return {}
    import grp  # noqa: PLC0415 - not on Windows
    import pwd  # noqa: PLC0415

    groups, listed = [], False
    for number in {os.getegid(), *os.getgroups()}:
        with suppress(KeyError):
            groups.append(grp.getgrgid(number).gr_name)
    with suppress(KeyError):
        listed = pwd.getpwuid(os.getuid()).pw_name in grp.getgrnam("docker").gr_mem
    return {"uid": os.getuid(), "groups": sorted(groups), "listed": listed}


def _nodes() -> dict[str, str]:
    found = {}
    for pattern in _NODES:
        for path in sorted(Path("/").glob(pattern[1:])):
            if not path.is_dir():
                rights = (("r", os.R_OK), ("w", os.W_OK))
                found[str(path)] = "".join(letter for letter, right in rights if os.access(path, right))
    return found


def _pci() -> list[str]:
    """Graphics cards, with a driver or without."""
    found = []
    for device in Path("/sys/bus/pci/devices").glob("*"):
        with suppress(OSError):
            if (device / "class").read_text(encoding="ascii").startswith("0x03"):
                names = [
                    (device / name).read_text(encoding="ascii").strip()[2:] for name in ("vendor", "device")
                ]
                driver = device / "driver"
                found.append(f"{':'.join(names)} {driver.resolve().name if driver.exists() else ''}".strip())
    return found


def _cdi() -> list[str]:
    return [str(path) for folder in ("/etc/cdi", "/var/run/cdi") for path in sorted(Path(folder).glob("*.*"))]


def _gpus() -> list[dict[str, Any]] | None:
    from llmlab import machine  # noqa: PLC0415 - psutil may be missing

    found = machine.gpus()
    return None if found is None else [{"name": gpu.name, "total_mib": gpu.total_mib} for gpu in found]


def _memory() -> dict[str, Any]:
    from llmlab import machine  # noqa: PLC0415 - psutil may be missing

    seen = machine.look()
    return {
        "total": seen.total_mib,
        "available": seen.available_mib,
        "usable": seen.usable_mib,
        "cpu": seen.cpu,
        "cpus": seen.cpus,
    }


def _disks() -> dict[str, Any]:
    from llmlab import runtime  # noqa: PLC0415 - not on Windows
    from llmlab.weights import hub_cache  # noqa: PLC0415

    places = {"engines": runtime.cache_dir(), "models": hub_cache.target()}
    if os.name != "nt":
        places["images"] = Path("/var/lib/docker")
    found: dict[str, Any] = {}
    for name, path in places.items():
        with suppress(OSError):
            there = path
            while not there.exists():
                there = there.parent
            usage = shutil.disk_usage(there)
            found[name] = {"path": str(path), "free_bytes": usage.free, "total_bytes": usage.total}
    return found


def _runtime() -> dict[str, Any]:
    from llmlab import runtime  # noqa: PLC0415 - not on Windows
    from llmlab.errors import LabError  # noqa: PLC0415

    try:
        path = runtime.runtime_dir()
    except LabError as error:
        return {"error": str(error)}
    # The longest usual name of a server, and what comes after it.
    longest = path / ("n" * 20) / "socket" / "llm.sock"
    return {
        "path": str(path),
        "mode": f"{path.stat().st_mode & 0o777:04o}",
        "socket_bytes": len(os.fsencode(longest)),
        "writable": os.access(path, os.W_OK | os.X_OK),
    }


def _changelogs() -> dict[str, dict[str, Any]]:
    """Of a distribution's packages, the version and the CVE numbers their changelogs name as mended."""
    found: dict[str, dict[str, Any]] = {}
    for name in _PACKAGES:
        for path in Path(f"/usr/share/doc/{name}").glob("changelog.Debian*.gz"):
            with (
                suppress(OSError, EOFError),
                gzip.open(path, "rt", encoding="utf-8", errors="replace") as file,
            ):
                text = file.read(_TEXT * 500)
                head = re.match(r"\S+ \(([^)]+)\)", text)
                known = found.setdefault(name, {"version": "", "mended": []})
                known["version"] = known["version"] or (head[1] if head else "")
                known["mended"] = sorted({*known["mended"], *re.findall(r"CVE-\d{4}-\d+", text)})
    return found


def _without_home(value: Any) -> Any:
    """The same with "~" for the home directory: facts may be sent to somebody."""
    home = os.path.expanduser("~")  # noqa: PTH111 - a text that is replaced in texts
    if isinstance(value, str):
        return re.sub(rf"(^|:\s?|//){re.escape(home)}(?=/|$)", r"\1~", value) if len(home) > 1 else value
    if isinstance(value, dict):
        return {key: _without_home(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_home(each) for each in value]
    return value
