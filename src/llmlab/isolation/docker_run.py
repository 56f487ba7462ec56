"""A "create container" request as the words of `docker run`, each with its reason.

The dry run is made from the very request that a start would send, by one table
from its keys to flags. A key that is not in the table is an error here, so that
nothing of a request can be left out without anybody's noticing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llmlab.isolation.gpus import is_drivers

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One flag, or the command in the container.

    Attributes:
        words: Its words, as a program gets them.
        control: What it is for: a name of `reasons.REASONS`.
    """

    words: tuple[str, ...]
    control: str


def docker_run(
    name: str, request: dict[str, Any], *, program: str, keep_filter: Callable[[str], str]
) -> tuple[Part, ...]:
    """The command that makes and starts the container of a request.

    Args:
        name: The container's name.
        request: The body of the engine's "create container" request.
        program: "docker" or "podman", which take the same words.
        keep_filter: Puts a system-call filter into a file, and returns its path.

    Raises:
        ValueError: If the request has something that there are no words for.
    """
    host = dict(request.get("HostConfig") or {})
    parts = [
        Part((program, "run", "--detach"), "background"),
        Part(("--name", name), "name"),
        *_flags(_HOST, host, {"SecurityOpt": lambda value: _security(value, keep_filter)}),
        *_flags(_TOP, {k: v for k, v in request.items() if k not in _ENDING}, {}),
    ]
    if request.get("NetworkDisabled") and host.get("NetworkMode") != "none":
        raise ValueError("a network that is disabled and not none cannot be written as a command")
    program_words = list(request.get("Entrypoint") or ())
    if len(program_words) > 1:
        raise ValueError("an entrypoint of several words cannot be written as a command")
    parts += [Part(("--entrypoint", word), "program") for word in program_words]
    parts.append(Part((str(request["Image"]),), "image"))
    if command := tuple(request.get("Cmd") or ()):
        parts.append(Part(command, "program"))
    return tuple(parts)


_Flags = Callable[[Any], Iterator[Part]]
# These stand at the end of the command. NetworkDisabled has no flag of its own:
# with the network "none" it says the same once more.
_ENDING = frozenset({"HostConfig", "Image", "Entrypoint", "Cmd", "NetworkDisabled"})


def _flags(table: dict[str, _Flags], values: dict[str, Any], more: dict[str, _Flags]) -> list[Part]:
    table = {**table, **more}
    if unknown := sorted(set(values) - set(table)):
        raise ValueError(f"no words are known for {', '.join(unknown)}")
    # In the order of the table: what isolates most stands first.
    return [part for key, flags in table.items() if key in values for part in flags(values[key])]


def _value(flag: str, control: str) -> _Flags:
    """A flag that is followed by the value; none for an empty value."""

    def flags(value: Any) -> Iterator[Part]:
        if value not in (None, "", 0):
            yield Part((flag, str(value)), control)

    return flags


def _each(flag: str, control: str) -> _Flags:
    """The flag once for each value."""

    def flags(values: Any) -> Iterator[Part]:
        for value in values or ():
            yield Part((flag, str(value)), control)

    return flags


def _switch(flag: str, control: str) -> _Flags:
    """A flag without a value; nothing where it is false, which is what engines take for granted."""

    def flags(value: Any) -> Iterator[Part]:
        if value:
            yield Part((flag,), control)

    return flags


def _size(flag: str, control: str) -> _Flags:
    def flags(value: Any) -> Iterator[Part]:
        if value:
            yield Part(
                (flag, f"{value // _MIB}m" if value > 0 and value % _MIB == 0 else str(value)), control
            )

    return flags


def _network(value: Any) -> Iterator[Part]:
    control = {"none": "network", "host": "host network"}.get(value, "open network")
    yield Part(("--network", str(value)), control)


def _user(value: Any) -> Iterator[Part]:
    if value:
        root = str(value).partition(":")[0] in {"0", "root"}
        yield Part(("--user", str(value)), "root user" if root else "user")


def _init(value: Any) -> Iterator[Part]:
    # Engines can be set up to add one by themselves, so "no" is said as well.
    yield Part(("--init",), "init") if value else Part(("--init=false",), "no init")


def _cpus(value: Any) -> Iterator[Part]:
    if value:
        yield Part(("--cpus", f"{value / 1e9:.9f}".rstrip("0").rstrip(".")), "CPU")


def _ulimits(values: Any) -> Iterator[Part]:
    for limit in values or ():
        control = "open files" if limit["Name"] == "nofile" else "core dumps"
        yield Part(("--ulimit", f"{limit['Name']}={limit['Soft']}:{limit['Hard']}"), control)


def _security(values: Any, keep_filter: Callable[[str], str]) -> Iterator[Part]:
    for option in values or ():
        kind, _, value = str(option).partition("=")
        if kind == "seccomp":
            # On a command line it is the name of a file; through the API it is the filter itself.
            path = keep_filter(value) if value.startswith("{") else value
            control = "no filter" if value == "unconfined" else "system calls"
            yield Part(("--security-opt", f"seccomp={path}"), control)
        elif option.startswith("no-new-privileges"):
            yield Part(("--security-opt", option), "no new privileges")
        else:
            yield Part(("--security-opt", option), "security label")


def _tmpfs(values: Any) -> Iterator[Part]:
    for target, options in (values or {}).items():
        yield Part(("--tmpfs", f"{target}:{options}" if options else target), "scratch")


_MOUNT_KEYS = frozenset({"Type", "Source", "Target", "ReadOnly", "BindOptions", "VolumeOptions"})


def _mounts(values: Any) -> Iterator[Part]:
    for mount in values or ():
        options = {**(mount.get("BindOptions") or {}), **(mount.get("VolumeOptions") or {})}
        if unknown := sorted({*mount} - _MOUNT_KEYS) + sorted({*options} - {"Propagation", "NoCopy"}):
            raise ValueError(f"no words are known for a mount's {', '.join(unknown)}")
        fields = [f"type={mount['Type']}", f"source={mount['Source']}", f"target={mount['Target']}"]
        if mount.get("ReadOnly"):
            fields.append("readonly")
        if propagation := options.get("Propagation"):
            fields.append(f"bind-propagation={propagation}")
        if options.get("NoCopy"):
            fields.append("volume-nocopy")
        target = str(mount["Target"])
        if is_drivers(target):
            yield Part(("--mount", _csv(fields)), "GPU driver")
            continue
        models = "models" if mount.get("ReadOnly") else "writable models"
        control = models if target.startswith("/models") else "other mounts"
        yield Part(("--mount", _csv(fields)), "socket directory" if target == "/run/llmlab" else control)


def _csv(fields: list[str]) -> str:
    """Fields with commas between them, as engines read a mount: a path may have commas of its own."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _log(value: Any) -> Iterator[Part]:
    if not value:
        return
    yield Part(("--log-driver", value["Type"]), "log")
    for key, setting in (value.get("Config") or {}).items():
        yield Part(("--log-opt", f"{key}={setting}"), "log")


def _restart(value: Any) -> Iterator[Part]:
    if value and value.get("Name"):
        most = value.get("MaximumRetryCount")
        yield Part(("--restart", f"{value['Name']}:{most}" if most else value["Name"]), "restart")


def _publish(values: Any) -> Iterator[Part]:
    for port, bindings in (values or {}).items():
        for binding in bindings:
            address, number = binding.get("HostIp") or "", binding.get("HostPort") or ""
            before = f"{address}:{number}:" if address else f"{number}:" if number else ""
            yield Part(("--publish", f"{before}{port}"), "open port")


def _gpus(values: Any) -> Iterator[Part]:
    for wanted in values or ():
        if wanted.get("Driver") == "cdi":
            yield from (Part(("--device", name), "devices") for name in wanted.get("DeviceIDs") or ())
            continue
        if wanted.get("Capabilities") != [["gpu"]] or wanted.get("Driver"):
            raise ValueError("a device that is no GPU cannot be written as a command")
        # The value is read as comma-separated, hence the quotes that belong to it.
        ids = ",".join(wanted.get("DeviceIDs") or ())
        count = "all" if wanted.get("Count") == -1 else str(wanted.get("Count"))
        yield Part(("--gpus", f'"device={ids}"' if ids else count), "devices")


def _devices(values: Any) -> Iterator[Part]:
    for device in values or ():
        words = (device["PathOnHost"], device["PathInContainer"], device["CgroupPermissions"])
        yield Part(("--device", ":".join(words)), "devices")


def _variables(values: Any) -> Iterator[Part]:
    for value in values or ():
        control = "kernel cache" if str(value).startswith("CUDA_CACHE_") else "environment"
        yield Part(("--env", str(value)), control)


def _labels(values: Any) -> Iterator[Part]:
    for key, value in (values or {}).items():
        yield Part(("--label", f"{key}={value}"), "labels")


def _ports(values: Any) -> Iterator[Part]:
    for port in values or {}:
        yield Part(("--expose", port), "open port")


def _health(value: Any) -> Iterator[Part]:
    if value and value.get("Test") != ["NONE"]:
        raise ValueError("a health check cannot be written as a command here")
    if value:
        yield Part(("--no-healthcheck",), "health check")


_HOST: dict[str, _Flags] = {
    "NetworkMode": _network,
    "PortBindings": _publish,
    "ReadonlyRootfs": _switch("--read-only", "root file system"),
    "CapDrop": _each("--cap-drop", "capabilities"),
    "CapAdd": _each("--cap-add", "added capabilities"),
    "Privileged": _switch("--privileged", "privileged"),
    "SecurityOpt": _each("--security-opt", "security label"),
    "Mounts": _mounts,
    "Tmpfs": _tmpfs,
    "Memory": _size("--memory", "memory"),
    "MemorySwap": _size("--memory-swap", "swap"),
    "NanoCpus": _cpus,
    "PidsLimit": _value("--pids-limit", "processes"),
    "Ulimits": _ulimits,
    "IpcMode": _value("--ipc", "ipc"),
    "CgroupnsMode": _value("--cgroupns", "cgroup"),
    "PidMode": _value("--pid", "shared namespaces"),
    "UTSMode": _value("--uts", "host name"),
    "DeviceRequests": _gpus,
    "Devices": _devices,
    "Runtime": _value("--runtime", "namespaces"),
    "ShmSize": _size("--shm-size", "shared memory"),
    "GroupAdd": _each("--group-add", "device group"),
    "Init": _init,
    "LogConfig": _log,
    "RestartPolicy": _restart,
}
_TOP: dict[str, _Flags] = {
    "User": _user,
    "Env": _variables,
    "WorkingDir": _value("--workdir", "working directory"),
    "ExposedPorts": _ports,
    "Healthcheck": _health,
    "Labels": _labels,
}
