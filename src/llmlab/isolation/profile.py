"""What is asked of the container engine, as frozen data and as its API's JSON.

Field names of the JSON are those of Docker Engine's API ("Create a container").
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any

from llmlab.isolation.gpus import GpuAccess
from llmlab.profiles import Mount, Profile
from llmlab.specs import Limits

SOCKET_DIR = "/run/llmlab"
MODEL_DIR = "/models"
SCRATCH = "/tmp"  # noqa: S108 - the container's own
_AF_INET, _AF_INET6, _AF_NETLINK = 2, 10, 16
PORT = 8080
"""Where an engine listens in a container that it can be reached in through TCP."""
CLOSED = "ro,nosuid,nodev,noexec,size=64k,mode=755"
"""Options of a tmpfs that lies over a place which would be writable otherwise; the probe knows it by its size."""


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
    gpus: GpuAccess | None = None,
) -> dict[str, Any]:
    """The body of Docker's "create container" request.

    Args:
        profile: The isolation asked for.
        image: Image name or id.
        argv: The command line, program first; it replaces the image's entrypoint.
        environment: Environment variables.
        user: `uid:gid`; empty for the image's own.
        limits: The container's share of the machine.
        mounts: Files of the host.
        labels: The container's labels.
        gpus: How it gets the GPUs that the profile has.
    """
    request: dict[str, Any] = {
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
        "HostConfig": host_config(profile, limits, [*mounts, *profile.mounts], gpus),
    }
    if profile.publish:
        request["ExposedPorts"] = {f"{PORT}/tcp": {}}
    return request


def host_config(
    profile: Profile, limits: Limits, mounts: list[Mount], gpus: GpuAccess | None = None
) -> dict[str, Any]:
    """The part of the request that isolates; what is not asked for is left out."""
    open_files = profile.open_files
    wanted: dict[str, Any] = {
        "NetworkMode": profile.network,
        "ReadonlyRootfs": profile.read_only,
        "CapDrop": list(profile.drop_capabilities),
        "CapAdd": list(profile.add_capabilities) or None,
        "SecurityOpt": _security(profile),
        "Privileged": profile.privileged or None,
        # PID 1 that reaps and passes signals on: the server is not written to be one.
        "Init": profile.init,
        "Memory": _bytes(limits.memory_mib),
        # Equal to Memory: no swap.
        "MemorySwap": _bytes(limits.memory_mib),
        "NanoCpus": None if limits.cpus is None else round(limits.cpus * 1e9),
        "PidsLimit": limits.pids,
        "IpcMode": "host" if "ipc" in profile.share else "private",
        "PidMode": "host" if "pid" in profile.share else None,
        "UTSMode": "host" if "uts" in profile.share else None,
        "CgroupnsMode": "private",
        "Tmpfs": None if profile.scratch_mib is None else {SCRATCH: _scratch_options(profile)},
        "Ulimits": None if open_files is None else [_ulimit("nofile", open_files), _ulimit("core", 0)],
        "Mounts": [_mount(mount) for mount in (*mounts, *(gpus.mounts if gpus else ()))],
        # Every address of the machine, a port of the engine's choice.
        "PortBindings": {f"{PORT}/tcp": [{"HostIp": "", "HostPort": ""}]} if profile.publish else None,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": None
        if profile.log_mib is None
        else {"Type": "local", "Config": {"max-size": f"{profile.log_mib}m", "max-file": "2"}},
    }
    if gpus:
        wanted |= gpus.host_config
    return {key: value for key, value in wanted.items() if value is not None}


def closed_volumes(profile: Profile, volumes: Iterable[str]) -> dict[str, str]:
    """Mounts that close the volumes which an image declares.

    Each would be a directory on the machine's disk, without a size, in which
    programs can be run. They are left where a profile limits nothing of that kind.

    Args:
        profile: The isolation asked for.
        volumes: Their places in the container.
    """
    if not profile.read_only or profile.scratch_mib is None:
        return {}
    return {place: CLOSED for place in volumes if place != SCRATCH}


def _security(profile: Profile) -> list[str]:
    options = ["no-new-privileges:true"] if profile.no_new_privileges else []
    if profile.seccomp in {"unix", "loopback"}:
        options.append(f"seccomp={seccomp_profile(loopback=profile.seccomp == 'loopback')}")
    elif profile.seccomp == "unconfined":
        options.append("seccomp=unconfined")
    return options


def _scratch_options(profile: Profile) -> str:
    execution = "exec" if profile.scratch_exec else "noexec"
    return f"rw,nosuid,nodev,{execution},size={profile.scratch_mib}m,mode=1777"


def _mount(mount: Mount) -> dict[str, Any]:
    common = {"Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}
    if mount.volume:
        # By default the image's directory is copied into an empty volume, its owner too.
        return {"Type": "volume", **common, "VolumeOptions": {"NoCopy": True}}
    return {"Type": "bind", **common, "BindOptions": {"Propagation": "rprivate"}}


def _ulimit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib * 1024 * 1024


def seccomp_profile(*, loopback: bool = False) -> str:
    """The packaged system-call filter, as the one-line JSON that the API takes.

    Args:
        loopback: Allow sockets of the internet family, too, and asking the kernel for
            interfaces: what programs need that talk to each other by the loopback interface.
    """
    text = resources.files("llmlab.isolation").joinpath("seccomp.json").read_text(encoding="utf-8")
    found = json.loads(text)
    if loopback:
        found["syscalls"] += [_socket(family) for family in (_AF_INET, _AF_INET6)]
        # Protocol 0 of netlink is the one of routes and interfaces.
        found["syscalls"].append(_socket(_AF_NETLINK, _equal(2, 0)))
    return json.dumps(found, separators=(",", ":"))


def _socket(family: int, *more: dict[str, Any]) -> dict[str, Any]:
    return {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [_equal(0, family), *more]}


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}
