"""Why a container engine does not start a container with GPUs, in words that say what to do, and on which machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from llmlab.backends.docker_api import DockerApi
from llmlab.errors import BackendError
from llmlab.specs import Record

_CDI_FILE: Final = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
_INSTALL: Final = "install NVIDIA's container toolkit (llmlab doctor has the lines)"
_SMI: Final = "look with nvidia-smi, which has to work first"


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What an engine says, and what that means.

    Attributes:
        pattern: What it says, as Docker, containerd, Podman and NVIDIA's toolkit write it.
        cause: In words; {0} is what the pattern's group has.
        remedy: What to do on its machine; "" for configuring the toolkit.
    """

    pattern: str
    cause: str
    remedy: str = ""


# The first that is found counts.
_REFUSALS: Final = (
    _Refusal(
        r'could not select device driver "cdi"',
        "its Container Device Interface is switched off",
        'write "features": {"cdi": true} into /etc/docker/daemon.json, then: sudo systemctl restart docker',
    ),
    _Refusal(r"could not select device driver", "NVIDIA's container toolkit is missing, or it was not told of it"),
    _Refusal(
        r"unresolvable CDI devices ((?:[\w.-]+/[\w.-]+=[\w.:-]+(?:, ?)?)+)",
        "its files of the Container Device Interface have no {0}",
        f"write them anew: {_CDI_FILE}; nvidia-ctk cdi list shows what they have",
    ),
    _Refusal(
        r"driver/library version mismatch",
        "the libraries of NVIDIA's driver are not those of the driver in the kernel, as after an update",
        "sudo reboot",
    ),
    _Refusal(
        r"driver not loaded|driver rpc error|libnvidia-ml\.so\.1: cannot open shared object",
        "NVIDIA's driver does not answer: it is not installed, or not loaded",
        _SMI,
    ),
    _Refusal(
        r"(?i)gpu is lost|fallen off the bus|unable to determine the device handle",
        "a GPU is lost: the driver does not reach it",
        "sudo dmesg | grep -i xid says why; sudo reboot mostly brings it back",
    ),
    _Refusal(
        r"nvml error: unknown error",
        "NVIDIA's driver fails and does not say why, as where a GPU is lost or the driver is not installed whole",
        f"{_SMI}; sudo dmesg | grep -i -e nvrm -e xid says more",
    ),
    _Refusal(
        r"device error: (\S+?): unknown device", "there is no GPU {0}", "nvidia-smi -L shows those that there are"
    ),
    _Refusal(
        r'adding custom device "(/dev/[^"]+)": no such file',
        "the device file {0} is gone",
        "nvidia-smi -L shows the GPUs that there are",
    ),
    _Refusal(
        r"unsatisfied condition: ((?:cuda|driver)\S*?)(?:,|\s|$)",
        "the image needs {0} of NVIDIA's driver, which is older",
        "update the driver, or take an image for an older CUDA",
    ),
    _Refusal(r"nvidia-container-cli: ([^\\\n]{1,200})", "NVIDIA's container toolkit says: {0}", _SMI),
)  # fmt: skip


@contextmanager
def explained(api: DockerApi, record: Record) -> Iterator[None]:
    """Say in words what keeps an engine from starting a container with GPUs.

    Args:
        api: The engine.
        record: The server that is started.

    Raises:
        BackendError: As the engine's, if it is one of those that are known.
    """
    try:
        yield
    except BackendError as error:
        if record.gpus is None or (better := of(api, record.node, error.message)) is None:
            raise
        raise better from error


def of(api: DockerApi, node: str | None, said: str) -> BackendError | None:
    """The error for what an engine has said; None if that is about something else.

    Args:
        api: The engine.
        node: The node's name, or None if none was asked for.
        said: What it has said.
    """
    for refusal in _REFUSALS:
        if found := re.search(refusal.pattern, said):
            cause = refusal.cause.format(*(group.strip(" ,") for group in found.groups()))
            whose = "here" if api.is_local() else f"of {_machine(api, node)}"
            return BackendError(
                f"the container engine {whose} does not hand out the GPU: {cause}",
                hint=f"{_where(api, node)}{refusal.remedy or _configuring(api)}; "
                "or leave --gpus out, for the CPU",
            )
    return None


def _machine(api: DockerApi, node: str | None) -> str:
    return f"node {node}" if node else f"the machine of {api.address}"


def _where(api: DockerApi, node: str | None) -> str:
    """On which machine to do it, and how to get there where that is known."""
    if api.is_local():
        return ""
    there = urlsplit(api.address)
    way = f" (ssh {there.netloc})" if there.scheme == "ssh" else ""
    return f"on {_machine(api, node)}{way}: "


def _configuring(api: DockerApi) -> str:
    """The lines that make the toolkit known to an engine of this kind."""
    if api.is_podman:
        return f"{_INSTALL}, then: {_CDI_FILE}"
    if api.is_desktop():
        return "switch on the WSL 2 engine in Docker Desktop, and install NVIDIA's driver for Windows"
    if api.is_rootless():
        return (
            f"{_INSTALL}, then: nvidia-ctk runtime configure --runtime=docker "
            "--config=$HOME/.config/docker/daemon.json && systemctl --user restart docker && "
            "sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups --in-place"
        )
    return f"{_INSTALL}, then: sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
