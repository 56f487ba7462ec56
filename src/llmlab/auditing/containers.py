"""The audit's containers, as bodies of the engine's "create container" request.

The twin is made from what the engine itself has recorded of the server, not
from what llmlab has asked for: an option that the engine ignored is missing in
both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from llmlab.isolation.profile import MODEL_DIR, SCRATCH, SOCKET_DIR

_MIB = 1024 * 1024
SCALED_MEMORY_MIB, SCALED_CPUS, SCALED_PIDS = 64, 0.25, 256
_MORE_MIB, _MORE_PROCESSES, _MORE_FILES = 16, 16, 64
# A limit above that is as good as none; an engine may not be able to raise its own for the control.
_MOST_FILES, _SPARE_FILES = 8192, 1024
_BURN_S = 0.4
DOOR = "/x"
"""Where the directory of all servers is mounted for the check of another user."""
HOST_DIR = "/host"
_POWERS = ("SYS_ADMIN", "SYS_PTRACE", "SYS_RAWIO", "NET_ADMIN", "SYSLOG", "IPC_LOCK")
_DOCKER_SOCKET = "/var/run/docker.sock"
# Fields that say nothing about isolation, and that an engine records without taking them back.
_UNWANTED = ("ContainerIDFile", "ConsoleSize", "Binds", "Mounts", "AutoRemove", "PortBindings", "Links")


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How much is tried of each thing that is limited.

    Attributes:
        fill_mib: MiB written into a file.
        alloc_mib: MiB of memory.
        forks: Processes.
        files: Files opened.
        cpus: CPUs; more than half as much again is too much.
    """

    fill_mib: int = 72
    alloc_mib: int = SCALED_MEMORY_MIB + _MORE_MIB
    forks: int = SCALED_PIDS + _MORE_PROCESSES
    files: int = 4096 + _MORE_FILES
    cpus: float = SCALED_CPUS

    def most(self, other: Amounts) -> Amounts:
        """The larger of each."""
        return Amounts(
            fill_mib=max(self.fill_mib, other.fill_mib),
            alloc_mib=max(self.alloc_mib, other.alloc_mib),
            forks=max(self.forks, other.forks),
            files=max(self.files, other.files),
            cpus=max(self.cpus, other.cpus),
        )

    def words(self) -> list[str]:
        """As the probe takes them."""
        return [
            f"fill_mib={self.fill_mib}",
            f"alloc_mib={self.alloc_mib}",
            f"forks={self.forks}",
            f"fds={self.files}",
            f"burn_s={_BURN_S}",
            f"cpu_limit={self.cpus:g}",
        ]


def amounts(entry: Mapping[str, Any]) -> Amounts:
    """What would be more than a container's limits allow; where there is none, the sealed profile's."""
    host = entry["HostConfig"]
    found = Amounts()
    options = str((host.get("Tmpfs") or {}).get(SCRATCH, "")).split(",")
    if size := next((o.removeprefix("size=") for o in options if o.startswith("size=")), ""):
        found = replace(found, fill_mib=_tmpfs_mib(size) + 8)
    files = next((u for u in host.get("Ulimits") or () if u["Name"].lower().endswith("nofile")), None)
    if files and files["Hard"] <= _MOST_FILES:
        found = replace(found, files=files["Hard"] + _MORE_FILES)
    pids = host.get("PidsLimit") or 0
    if 0 < pids < SCALED_PIDS:
        found = replace(found, forks=pids + _MORE_PROCESSES)
    return found


def models(entry: Mapping[str, Any], names: Sequence[str] = ()) -> tuple[str, ...]:
    """Where a container has its models.

    Args:
        entry: The container, as the engine tells it.
        names: The files of its model, for a volume that holds them.
    """
    places = [str(mount["Destination"]) for mount in entry.get("Mounts") or ()]
    if MODEL_DIR in places:
        return tuple(f"{MODEL_DIR}/{name}" for name in names) or (MODEL_DIR,)
    return tuple(place for place in places if place.startswith(f"{MODEL_DIR}/"))


def twin(
    entry: Mapping[str, Any], image: str, words: Sequence[str], *, socket_dir: str | None
) -> dict[str, Any]:
    """A container with a server's own settings, and the probe in the engine's place.

    Args:
        entry: `docker inspect` of the server.
        image: The probe's image.
        words: The probe's arguments.
        socket_dir: What is mounted in place of the server's own directory; None
            for a tmpfs, where the engine does not share this machine's files.
    """
    recorded = entry["HostConfig"]
    # A zero of the engine's record is "not set"; but empty masks are a decision.
    host = {
        name: copy.deepcopy(value)
        for name, value in recorded.items()
        if name not in _UNWANTED
        and (value or (value is not None and name in {"MaskedPaths", "ReadonlyPaths"}))
        and name != "MemorySwappiness"
    }
    host["Mounts"] = [
        _mount(mount, socket_dir) for mount in entry.get("Mounts") or () if mount["Type"] != "tmpfs"
    ]
    host["RestartPolicy"] = {"Name": "no"}
    host["AutoRemove"] = True
    if host.get("LogConfig", {}).get("Type") in {"none", "syslog", "journald"}:
        # Nothing of an attempt belongs into the logs of this machine.
        host["LogConfig"] = {"Type": "json-file", "Config": {}}
    config = entry.get("Config") or {}
    return _request(
        image,
        words,
        host,
        user=str(config.get("User") or ""),
        network_disabled=bool(config.get("NetworkDisabled")),
    )


def scaled(request: dict[str, Any]) -> dict[str, Any]:
    """The same with smaller limits, so that exceeding them does not cost the machine; none is added."""
    made = copy.deepcopy(request)
    host = made["HostConfig"]
    if host.get("Memory", 0) > 0:
        host["Memory"] = min(SCALED_MEMORY_MIB * _MIB, host["Memory"])
        if host.get("MemorySwap", 0) > 0:
            host["MemorySwap"] = host["Memory"]
        host.pop("MemoryReservation", None)
    if host.get("NanoCpus", 0) > 0:
        host["NanoCpus"] = min(round(SCALED_CPUS * 1e9), host["NanoCpus"])
    elif host.get("CpuQuota", 0) > 0:
        host["CpuQuota"] = min(round(SCALED_CPUS * host.get("CpuPeriod", 100_000)), host["CpuQuota"])
    if host.get("PidsLimit", 0) > 0:
        host["PidsLimit"] = min(SCALED_PIDS, host["PidsLimit"])
    return made


def control(
    image: str,
    words: Sequence[str],
    *,
    engine_socket: str | None,
    folder: str | None,
    files: Sequence[str],
    dns: str,
    open_files: int,
    devices: Sequence[str],
    share_ipc: bool = True,
) -> dict[str, Any]:
    """The weak control: everything that a profile could forget, at once.

    Args:
        image: The probe's image.
        words: The probe's arguments.
        engine_socket: The container engine's own socket, or None.
        folder: A directory of this machine's, made for this; None if the engine is on another
            machine, where volumes stand in its place.
        files: Where it has models: each is a file of that directory, or of a volume.
        dns: The only name server.
        open_files: How many files it is to open.
        devices: GPU devices of this machine.
        share_ipc: Whether the engine can share this machine's IPC namespace.
    """
    spare = open_files + _SPARE_FILES
    if folder is None:
        places = dict.fromkeys((HOST_DIR, SOCKET_DIR, *(str(PurePosixPath(place).parent) for place in files)))
        mounts: list[dict[str, Any]] = [{"Type": "volume", "Target": place} for place in places]
    else:
        mounts = [
            _bind(folder, HOST_DIR),
            _bind(folder, SOCKET_DIR),
            *(_bind(f"{folder}/model", place) for place in files),
        ]
    if engine_socket:
        mounts.append(_bind(engine_socket, _DOCKER_SOCKET))
    host = {
        # What the attempts need, and not `Privileged`: an engine that does not have every
        # capability itself refuses that.
        "CapAdd": list(_POWERS),
        "MaskedPaths": [],
        "ReadonlyPaths": [],
        "Devices": [
            {"PathOnHost": node, "PathInContainer": node, "CgroupPermissions": "rwm"} for node in devices
        ],
        "NetworkMode": "bridge",
        "PidMode": "host",
        "IpcMode": "host" if share_ipc else "private",
        "UTSMode": "host",
        "CgroupnsMode": "host",
        "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined", "label=disable"],
        "Ulimits": [{"Name": "nofile", "Soft": spare, "Hard": spare}],
        # In memory: quicker than a disk, and gone with the container.
        "Tmpfs": {SCRATCH: "rw,exec,suid,dev,mode=1777"},
        "Mounts": mounts,
        "Dns": [dns],
        "AutoRemove": True,
    }
    return _request(image, words, host, user="0:0")


def sibling(image: str, words: Sequence[str], *, network: str = "bridge") -> dict[str, Any]:
    """The other container on the bridge, that listens; on the network of an engine's machine, its service."""
    host = {
        "NetworkMode": network,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        # Port 53 is the name service's.
        "CapAdd": ["NET_BIND_SERVICE"],
        "SecurityOpt": ["no-new-privileges:true"],
        "PidsLimit": 16,
        "AutoRemove": True,
    }
    return _request(image, ["serve", *words], host, user="0:0")


def visitor(image: str, folder: str, path: str, *, user: str) -> dict[str, Any]:
    """A container of a user's that tries to connect to a server's socket.

    Args:
        image: The probe's image.
        folder: The directory of all servers.
        path: The socket's place in it.
        user: `uid:gid`.
    """
    host = {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges:true"],
        "Mounts": [{**_bind(folder, DOOR), "ReadOnly": True}],
        "PidsLimit": 16,
        "AutoRemove": True,
    }
    return _request(image, ["connect", f"path={DOOR}/{path}"], host, user=user)


def _request(
    image: str, words: Sequence[str], host: dict[str, Any], *, user: str, network_disabled: bool = False
) -> dict[str, Any]:
    return {
        "Image": image,
        "Entrypoint": ["/probe"],
        "Cmd": list(words),
        "User": user,
        "WorkingDir": "/",
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": network_disabled,
        "AttachStdout": True,
        "HostConfig": host,
    }


def _bind(source: str, target: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": False}


def _mount(mount: Mapping[str, Any], socket_dir: str | None) -> dict[str, Any]:
    """A mount as the engine has recorded it; of the socket's directory, one like it."""
    target = str(mount["Destination"])
    if target == SOCKET_DIR:
        if socket_dir is None:
            return {"Type": "tmpfs", "Target": target, "TmpfsOptions": {"Mode": 0o1777}}
        return {**_bind(socket_dir, target), "ReadOnly": not mount.get("RW")}
    if mount["Type"] == "volume":
        return {"Type": "volume", "Source": mount["Name"], "Target": target, "ReadOnly": not mount.get("RW")}
    made = {"Type": "bind", "Source": mount["Source"], "Target": target, "ReadOnly": not mount.get("RW")}
    if mount.get("Propagation"):
        made["BindOptions"] = {"Propagation": mount["Propagation"]}
    return made


def _tmpfs_mib(size: str) -> int:
    units = {"k": 1 / 1024, "m": 1.0, "g": 1024.0}
    text = size.lower()
    scale = units.get(text[-1:])
    return max(1, round(float(text[:-1]) * scale)) if scale else max(1, int(text) // _MIB)
