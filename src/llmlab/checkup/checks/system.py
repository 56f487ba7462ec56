"""The machine: its system, memory, disks, and the directory of servers."""

from __future__ import annotations

import re

from llmlab import render
from llmlab.checkup.checks.base import Check, Finding, fail, ok, unknown, warning
from llmlab.checkup.facts import Facts

# A model of 0.5 B parameters with its context, and one of 8 B in 4 bits, as `models --fit` predicts them.
_SMALL_MIB, _MEDIUM_MIB = 1200, 7000
_FEW_BYTES, _LITTLE_BYTES = 1_000_000_000, 6_000_000_000
_MOST_SOCKET_BYTES = 103  # Linux allows 107, macOS 103
_DISK_NAMES = {"engines": "engines", "models": "models", "images": "container images"}


def _platform(facts: Facts) -> Finding:
    if facts.system == "Windows":
        return fail(
            f"Windows {facts.release}: Python runs outside of Linux",
            "wsl --install -d Ubuntu-24.04",
            "wsl -d Ubuntu-24.04",
            why="llmlab needs unix sockets and Linux's or macOS's processes; inside WSL 2 all of it works",
        )
    if facts.system == "Darwin":
        return _mac(facts)
    name = _distribution(facts)
    kernel = f"{name}, Linux {facts.release}, {facts.machine}"
    if facts.wsl == 1:
        return fail(
            f"WSL 1 ({kernel})",
            f"wsl.exe --set-version {facts.variables.get('WSL_DISTRO_NAME', 'Ubuntu')} 2",
            why="WSL 1 has no Linux kernel, so no containers",
        )
    if facts.wsl:
        return ok(f"WSL 2, {kernel}; {_docker_of_wsl(facts)}")
    if not facts.texts.get("/proc/version"):
        return unknown(f"{facts.system} {facts.release} {facts.machine}")
    inside = any(mark in facts.nodes for mark in ("/.dockerenv", "/run/.containerenv"))
    where = f"{facts.hosted}, " if facts.hosted else ""
    return ok(f"{where}{kernel}{', inside of a container' if inside else ''}")


def _mac(facts: Facts) -> Finding:
    if facts.outputs.get("sysctl -n sysctl.proc_translated", "").strip() == "1":
        return warning(
            f"macOS on Apple silicon (Darwin {facts.release}), with a Python made for Intel",
            "arch -arm64 python3 -m venv .venv",
            why="translated, it computes several times slower and without the GPU",
        )
    if facts.machine == "arm64":
        return ok(f"macOS on Apple silicon, Darwin {facts.release}")
    return warning(
        f"Intel Mac, Darwin {facts.release}",
        "llmlab start tiny --native",
        why="llama.cpp computes on its CPU only, and containers run in a virtual machine beside it",
    )


def _distribution(facts: Facts) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', facts.texts.get("/etc/os-release", ""), re.MULTILINE)
    return found[1] if found else "an unnamed distribution"


def _docker_of_wsl(facts: Facts) -> str:
    if not facts.info:
        return "no Docker inside"
    if facts.is_desktop:
        return "Docker is Docker Desktop's, by its WSL integration (it runs beside this distribution)"
    return "Docker runs inside this distribution"


def _memory(facts: Facts) -> Finding:
    usable, total = facts.memory.get("usable"), facts.memory.get("total")
    if usable is None or total is None:
        return unknown("it could not be measured")
    seen = f"{render.mib_text(usable)} usable of {render.mib_text(total)}"
    more: tuple[str, ...] = ()
    if facts.wsl:
        seen += " (Windows gives WSL half of its memory unless told otherwise)"
        more = ("# set memory= under [wsl2] in %UserProfile%\\.wslconfig, then:", "wsl.exe --shutdown")
    if usable < _SMALL_MIB:
        return fail(f"{seen}: not enough for a model of 0.5 B", *(more or ("llmlab ps",)))
    if usable < _MEDIUM_MIB:
        return warning(
            f"{seen}: enough for models up to about 3 B; one of 8 B in 4 bits needs about 7 GiB",
            *more,
            "llmlab models --fit",
        )
    return ok(f"{seen}: enough for a model of 8 B in 4 bits")


def _disk(facts: Facts) -> Finding:
    if not facts.disks:
        return unknown("no disk could be looked at")
    places, least = [], None
    for name, disk in facts.disks.items():
        if name == "images" and not facts.is_local:
            continue  # they lie elsewhere
        free = int(disk["free_bytes"])
        least = free if least is None else min(least, free)
        places.append(f"{render.bytes_text(free)} free for {_DISK_NAMES.get(name, name)} ({disk['path']})")
    seen = ", ".join(places)
    fixes = ("docker system df", "llmlab models") if facts.info else ("llmlab models",)
    if least is not None and least < _FEW_BYTES:
        return fail(seen, *fixes)
    if least is not None and least < _LITTLE_BYTES:
        return warning(seen, *fixes)
    return ok(seen)


def _runtime(facts: Facts) -> Finding:
    seen = facts.runtime
    if error := seen.get("error"):
        return fail(str(error), "export LLMLAB_RUNTIME_DIR=$(mktemp -d /tmp/llm-XXXX)")
    path, length = seen.get("path"), int(seen.get("socket_bytes", 0))
    if not path:
        return unknown("it could not be looked at")
    if length > _MOST_SOCKET_BYTES:
        return fail(
            f"{path}: the path of a server's socket would have {length} bytes, {_MOST_SOCKET_BYTES} are possible",
            "export LLMLAB_RUNTIME_DIR=$(mktemp -d /tmp/llm-XXXX)",
        )
    if not seen.get("writable", True):
        return fail(f"{path} cannot be written to", f"chmod 700 {path}")
    return ok(
        f"{path}, mode {seen.get('mode')}, a socket's path has up to {length} of {_MOST_SOCKET_BYTES} bytes"
    )


CHECKS = (
    Check("platform", "what works differs from one to the other", _platform, ("texts",)),
    Check("memory", "a model that does not fit is refused, or slows down everything", _memory, ("memory",)),
    Check("disk", "models take gigabytes, and a full disk breaks downloads", _disk, ("disks",)),
    Check("servers' directory", "servers' sockets and records lie there", _runtime, ("runtime",)),
)
