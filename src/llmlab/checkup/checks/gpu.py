"""GPUs: whether there is one, and whether a container would get it."""

from __future__ import annotations

import re

from llmlab import render
from llmlab.checkup.checks.base import (
    Check,
    Finding,
    absent,
    assessed,
    fail,
    first_line,
    ok,
    unknown,
    warning,
)
from llmlab.checkup.facts import Facts

_VENDORS = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel"}
# As NVIDIA's installation guide has it, for Debian and Ubuntu.
_KEY = "/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg"
_FROM = "https://nvidia.github.io/libnvidia-container"
_LIST = "nvidia-container-toolkit.list"
_SIGNED = f"sed 's#deb https://#deb [signed-by={_KEY}] https://#'"
_INSTALL = (
    f"curl -fsSL {_FROM}/gpgkey | sudo gpg --dearmor -o {_KEY}",
    f"curl -fsSL {_FROM}/stable/deb/{_LIST} | {_SIGNED} | sudo tee /etc/apt/sources.list.d/{_LIST}",
    "sudo apt-get update && sudo apt-get install nvidia-container-toolkit",
)
_SILENT = (
    "a program in a container then computes on the CPU, without an error and many times slower; "
    "only `docker run --gpus` complains"
)


def _driver(facts: Facts) -> Finding:
    if facts.system == "Darwin":
        return absent("Macs have none")
    smi = _output(facts, "nvidia-smi")
    if facts.gpus:
        cards = ", ".join(f"{gpu['name']} ({render.mib_text(gpu['total_mib'])})" for gpu in facts.gpus)
        return ok(f"{cards}, driver {_driver_version(facts, smi)}")
    if smi:
        return ok(f"{first_line(smi)}; Python's nvidia-ml-py does not see it")
    refusal = _refusal(facts, "nvidia-smi")
    if refusal:
        mismatch = "mismatch" in refusal
        return fail(
            f"nvidia-smi: {first_line(refusal)}",
            "sudo reboot" if mismatch else "sudo dmesg | grep -i nvidia",
            why="the driver was updated under the running kernel"
            if mismatch
            else "no program gets at the GPU",
        )
    return _driverless(facts)


def _driverless(facts: Facts) -> Finding:
    cards = [card for card in facts.pci if _VENDORS.get(card[:4]) == "NVIDIA"]
    if cards:
        return warning(
            f"a card ({', '.join(cards)}) and no NVIDIA driver",
            "sudo ubuntu-drivers install   # Debian: sudo apt-get install nvidia-driver",
            why="models run on the CPU until there is one",
        )
    if "/dev/dxg" in facts.nodes:
        return absent(
            "none; Windows offers WSL a GPU (/dev/dxg), and NVIDIA's driver for Windows is not there"
        )
    return absent("none")


def _driver_version(facts: Facts, smi: str) -> str:
    for text in (smi, facts.texts.get("/proc/driver/nvidia/version", "")):
        if found := re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", text):
            return found[1]
    return "unknown"


def _toolkit(facts: Facts) -> Finding:
    if not facts.has_nvidia:
        return absent("no NVIDIA GPU")
    if facts.is_desktop:
        return absent("Docker Desktop has its own")
    text = _output(facts, "nvidia-ctk")
    found = re.search(r"version (\d[\w.~-]*)", text)
    if found:
        return assessed(
            "nvidia-container-toolkit",
            found[1],
            "sudo apt-get update && sudo apt-get install --only-upgrade nvidia-container-toolkit",
        )
    if not facts.is_local and facts.info:
        return unknown("the engine is on another machine")
    if re.search(r"^ID(_LIKE)?=.*(fedora|rhel)", facts.texts.get("/etc/os-release", ""), re.MULTILINE):
        repository = f"curl -fsSL {_FROM}/stable/rpm/nvidia-container-toolkit.repo | sudo tee /etc/yum.repos.d/nvidia-container-toolkit.repo"
        return warning("it is not installed", repository, "sudo dnf install nvidia-container-toolkit")
    return warning("it is not installed", *_INSTALL)


def _in_containers(facts: Facts) -> Finding:
    if facts.system == "Darwin" and facts.info:
        return warning(
            "containers get no GPU on a Mac: Docker's virtual machine has none",
            "llmlab start MODEL --native",
            why="natively llama.cpp computes on the GPU by Metal; in a container on the CPU, without an error",
        )
    if not facts.has_nvidia:
        return absent("no NVIDIA GPU")
    if not facts.info:
        return absent("no engine has answered")
    ways = _ways(facts)
    if ways:
        return ok("; ".join(ways))
    if _output(facts, "nvidia-ctk"):
        return warning(
            "the toolkit is installed, and the engine does not know of it: no nvidia runtime, no CDI devices",
            *_configuring(facts),
            why=_SILENT,
        )
    return _without_a_way(facts)


def _without_a_way(facts: Facts) -> Finding:
    """The engine cannot hand out a GPU; llmlab can, where the driver has its device files."""
    if facts.is_local and any(node.startswith("/dev/nvidia") for node in facts.nodes):
        return warning(
            "the engine has no way to hand a GPU to a container; llmlab gives it the driver's files one by one",
            *_configuring(facts),
            why=_SILENT,
        )
    return fail(
        "a GPU on this machine, and no way for the engine to hand it to a container",
        *_configuring(facts),
        why=_SILENT,
    )


def _ways(facts: Facts) -> list[str]:
    """How the engine can hand a GPU to a container."""
    ways = []
    if "nvidia" in (facts.info.get("Runtimes") or {}):
        default = " (the default)" if facts.info.get("DefaultRuntime") == "nvidia" else ""
        ways.append(f"the engine has the nvidia runtime{default}")
    devices = [str(device.get("ID", "")) for device in facts.info.get("DiscoveredDevices") or ()]
    found = [name for name in devices if name.startswith("nvidia.com/")]
    if found:
        ways.append(f"CDI devices {', '.join(found[:3])}{', …' if len(found) > 3 else ''}")  # noqa: PLR2004
        return ways
    specs = [path for path in facts.cdi if "nvidia" in path]
    # Podman reads them always, Docker where it says which directories.
    if specs and (facts.is_podman or facts.info.get("CDISpecDirs")):
        ways.append(f"CDI by {', '.join(specs)}")
    return ways


def _configuring(facts: Facts) -> tuple[str, ...]:
    if facts.is_podman:
        return ("sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",)
    if facts.is_rootless:
        return (
            "nvidia-ctk runtime configure --runtime=docker --config=$HOME/.config/docker/daemon.json",
            "systemctl --user restart docker",
            "sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups --in-place",
        )
    return ("sudo nvidia-ctk runtime configure --runtime=docker", "sudo systemctl restart docker")


def _others(facts: Facts) -> Finding:
    if facts.system == "Darwin":
        if facts.machine == "arm64":
            return ok("Apple's, by Metal: for native servers only")
        return absent("llama.cpp computes on an Intel Mac's CPU")
    found = [_VENDORS[card[:4]] for card in facts.pci if _VENDORS.get(card[:4]) in {"AMD", "Intel"}]
    if "/dev/kfd" in facts.nodes and "AMD" not in found:
        found.append("AMD")
    nodes = [path for path in facts.nodes if path.startswith("/dev/dri/render") or path == "/dev/kfd"]
    if not found and not nodes:
        return absent("none")
    closed = [path for path in nodes if facts.nodes[path] != "rw"]
    seen = (
        f"{', '.join(dict.fromkeys(found)) or 'of an unknown make'} ({', '.join(nodes) or 'no device node'})"
    )
    seen += ": llmlab's own build computes on the CPU; a llama-server built for Vulkan, ROCm or SYCL runs natively"
    if closed:
        seen += f"; this user may not use {', '.join(closed)} (groups render and video)"
    return absent(seen)


def _output(facts: Facts, program: str) -> str:
    return next((text for line, text in facts.outputs.items() if line.split()[0] == program), "")


def _refusal(facts: Facts, program: str) -> str:
    return next((text for line, text in facts.refusals.items() if line.split()[0] == program), "")


CHECKS = (
    Check("NVIDIA driver", "without it no program gets at the GPU", _driver),
    Check("NVIDIA toolkit", "the engine hands out GPUs with it", _toolkit),
    Check("GPU in containers", "a container without its GPU computes on the CPU", _in_containers),
    Check("other GPUs", "", _others),
)
