"""What is asked of the container engine, as frozen data and as its API's JSON.

Field names of the JSON are those of Docker Engine's API ("Create a container").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from llmlab.specs import Limits

SOCKET_DIR = "/run/llmlab"
MODEL_DIR = "/models"
SCRATCH = "/tmp"  # noqa: S108 - a tmpfs of the container's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The isolation asked for; the defaults are the sealed profile's.

    Attributes:
        name: How tables call it.
        network: Docker's network mode. With "none" there is a loopback
            interface and nothing else: no egress of any kind.
        read_only: The root file system cannot be written.
        drop_capabilities: Capabilities taken away.
        no_new_privileges: setuid programs gain nothing.
        seccomp: The packaged system-call filter: Docker's default with
            sockets of the unix family only.
        scratch_mib: Size of the one writable directory, a tmpfs, in MiB.
        log_mib: Size at which the engine's log is rotated, in MiB; two are kept.
        open_files: Limit of open files.
    """

    name: str = "sealed"
    network: str = "none"
    read_only: bool = True
    drop_capabilities: tuple[str, ...] = ("ALL",)
    no_new_privileges: bool = True
    seccomp: bool = True
    scratch_mib: int = 64
    log_mib: int = 5
    open_files: int = 4096


SEALED = Profile()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file or directory of the host inside the container.

    Attributes:
        source: Path on the host.
        target: Path in the container.
        read_only: Whether it can only be read.
    """

    source: str
    target: str
    read_only: bool = True


def create_request(
    profile: Profile,
    *,
    image: str,
    argv: list[str],
    environment: dict[str, str],
    user: str,
    limits: Limits,
    mounts: list[Mount],
    labels: dict[str, str],
) -> dict[str, Any]:
    """The body of Docker's "create container" request.

    Args:
        profile: The isolation asked for.
        image: Image name or id.
        argv: The command line, program first; it replaces the image's entrypoint.
        environment: Environment variables.
        user: `uid:gid`.
        limits: The container's share of the machine.
        mounts: Files of the host.
        labels: The container's labels.
    """
    security = []
    if profile.no_new_privileges:
        security.append("no-new-privileges:true")
    if profile.seccomp:
        security.append(f"seccomp={seccomp_profile()}")
    memory = limits.memory_mib * 1024 * 1024
    return {
        "Image": image,
        "Entrypoint": argv[:1],
        "Cmd": argv[1:],
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "User": user,
        "Labels": labels,
        "WorkingDir": "/",
        # An image's health check would run a program in the container at intervals.
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": profile.network == "none",
        "HostConfig": {
            "NetworkMode": profile.network,
            "ReadonlyRootfs": profile.read_only,
            "CapDrop": list(profile.drop_capabilities),
            "SecurityOpt": security,
            # PID 1 that reaps and passes signals on: the server is not written to be one.
            "Init": True,
            "Memory": memory,
            # Equal to Memory: no swap.
            "MemorySwap": memory,
            "NanoCpus": round(limits.cpus * 1e9),
            "PidsLimit": limits.pids,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Tmpfs": {SCRATCH: f"rw,nosuid,nodev,noexec,size={profile.scratch_mib}m,mode=1777"},
            "Ulimits": [
                {"Name": "nofile", "Soft": profile.open_files, "Hard": profile.open_files},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": mount.source,
                    "Target": mount.target,
                    "ReadOnly": mount.read_only,
                    "BindOptions": {"Propagation": "rprivate"},
                }
                for mount in mounts
            ],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "local", "Config": {"max-size": f"{profile.log_mib}m", "max-file": "2"}},
        },
    }


def seccomp_profile() -> str:
    """The packaged system-call filter, as the one-line JSON that the API takes."""
    text = resources.files("llmlab.isolation").joinpath("seccomp.json").read_text(encoding="utf-8")
    return json.dumps(json.loads(text), separators=(",", ":"))
