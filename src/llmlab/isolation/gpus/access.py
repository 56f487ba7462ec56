"""The request for GPUs, in the fields of the engine's API, and how it is read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llmlab.errors import BackendError, UsageError
from llmlab.isolation.gpus.files import CDI_KIND, WSL_DIR, DriverFiles
from llmlab.profiles import GpuRequest, Mount, parse_gpus

Way = Literal["runtime", "cdi", "files", "wsl", "render"]

_CONTROL_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
_NODE = re.compile(r"/dev/nvidia(\d+)")
_DXG = "/dev/dxg"
_CUDA_CACHE_BYTES = 256 * 1024 * 1024
_INSTALL = (
    "install NVIDIA's container toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker && "
    "sudo systemctl restart docker; llmlab doctor has the lines"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuAccess:
    """What a request asks for, so that a container gets GPUs.

    Attributes:
        way: How.
        host_config: Fields of the engine API's HostConfig.
        mounts: Files of the driver.
        environment: Variables for the driver's libraries; LD_LIBRARY_PATH is added to what the engine has.
        note: What the user should know; "" if nothing.
    """

    way: Way
    host_config: Mapping[str, Any]
    mounts: tuple[Mount, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def groups(self) -> tuple[int, ...]:
        """Further groups of the server's."""
        return tuple(int(group) for group in self.host_config.get("GroupAdd") or ())


def access(
    gpus: str,
    info: Mapping[str, Any],
    files: DriverFiles | None,
    *,
    libraries_to: str,
    scratch: str | None = None,
    podman: bool = False,
) -> GpuAccess:
    """The way that this engine has.

    Args:
        gpus: The GPUs, in words that `parse_gpus` takes.
        info: What the engine's `GET /info` says.
        files: What the drivers have on the engine's machine; None if that is another machine.
        libraries_to: Where programs in the container look for libraries.
        scratch: The directory there that can be written, or None.
        podman: Whether the engine is Podman, which reads the interface's files itself.

    Raises:
        UsageError: If it cannot hand out these.
        BackendError: If it has no way to hand out any.
    """
    request = parse_gpus(gpus)
    if request.maker != "nvidia":
        return _render(request, files)
    cache = {}
    if scratch:
        # In memory, so bounded: it counts as the server's.
        size = str(_CUDA_CACHE_BYTES)
        cache = {"CUDA_CACHE_PATH": f"{scratch}/cuda", "CUDA_CACHE_MAXSIZE": size}
    runtime = "nvidia" in (info.get("Runtimes") or {})
    names = _cdi_names(request, info, files, podman=podman, runtime=runtime)
    if names is not None:
        ids = [f"{CDI_KIND}={name}" for name in names]
        return GpuAccess(
            way="cdi",
            host_config={"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ids}]},
            environment=cache,
        )
    # Whether another machine has NVIDIA's hook is not told: its engine says so when it starts the container.
    if runtime or files is None or files.hook:
        return GpuAccess(
            way="runtime",
            host_config={"DeviceRequests": [{**_chosen(request), "Capabilities": [["gpu"]]}]},
            environment=cache,
        )
    if files.nodes and files.libraries:
        return _by_hand(request, files, libraries_to, cache)
    if files.wsl:
        return _wsl(request, cache)
    raise BackendError("the container engine has no way to hand out NVIDIA's GPUs", hint=_no_way(files))


def environment(engine: Mapping[str, str], gpus: GpuAccess | None) -> dict[str, str]:
    """An engine's variables with those that a GPU's driver needs.

    Args:
        engine: The engine's.
        gpus: How the container gets its GPUs, or None.
    """
    more = dict(gpus.environment) if gpus else {}
    if "LD_LIBRARY_PATH" in more and (own := engine.get("LD_LIBRARY_PATH")):
        more["LD_LIBRARY_PATH"] = f"{own}:{more['LD_LIBRARY_PATH']}"
    return {**engine, **more}


def _no_way(files: DriverFiles) -> str:
    makers = {node.maker for node in files.render}
    others = [name for name in ("amd", "intel") if name in makers]
    if others and not files.nodes:
        return f"this machine has no NVIDIA GPU; write --gpus {others[0]} for what it has"
    return _INSTALL if files.nodes else f"this machine shows none; where there is one: {_INSTALL}"


def _chosen(request: GpuRequest) -> dict[str, Any]:
    """The same in the words of the API's DeviceRequest."""
    if request.names:
        return {"DeviceIDs": list(request.names)}
    return {"Count": -1 if request.count is None else request.count}


def _cdi_names(
    request: GpuRequest, info: Mapping[str, Any], files: DriverFiles | None, *, podman: bool, runtime: bool
) -> list[str] | None:
    """The names that the interface has for what is asked; None if the engine does not know NVIDIA's devices by it.

    Raises:
        UsageError: If it has no such device.
    """
    # Docker Engine 28.3 and newer lists what it has found.
    ids = (str(each.get("ID", "")) for each in info.get("DiscoveredDevices") or ())
    listed = [name.removeprefix(f"{CDI_KIND}=") for name in ids if name.startswith(f"{CDI_KIND}=")]
    # Older ones, from 25 on, and only where that is switched on, say where they look. With the
    # toolkit's runtime the usual request works there as well.
    looks = podman or bool(info.get("CDISpecDirs"))
    if not listed and not (looks and files and files.cdi and not runtime):
        return None
    if request.all:
        return ["all"]
    wanted = list(request.names)
    if request.count is not None:
        # The interface knows no numbers of devices.
        numbers = sorted(int(name) for name in listed if name.isdecimal()) or range(request.count)
        wanted = [str(number) for number in numbers[: request.count]]
    missing = [name for name in wanted if listed and name not in listed]
    if missing and runtime:
        return None  # the toolkit's runtime knows more names
    if missing or len(wanted) < (request.count or 0):
        what = f"GPU {', '.join(missing)}" if missing else f"{request.count} GPUs"
        raise UsageError(
            f"the container engine knows no {what}: its files of the Container Device Interface have "
            f"{', '.join(listed)}",
            hint="take one of these, or write them anew: sudo nvidia-ctk cdi generate "
            "--device-name-strategy=index --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml",
        )
    return wanted


def _by_hand(
    request: GpuRequest, files: DriverFiles, libraries_to: str, cache: Mapping[str, str]
) -> GpuAccess:
    if slices := [name for name in request.names if ":" in name or name.startswith("MIG-")]:
        raise UsageError(
            f"MIG slice {', '.join(slices)} cannot be handed out without NVIDIA's container toolkit: its device "
            "file alone is the whole GPU",
            hint=_INSTALL,
        )
    numbers = _numbers(request, files)
    cards = [node for node in files.nodes if (match := _NODE.fullmatch(node)) and int(match[1]) in numbers]
    if missing := numbers - {int(node.removeprefix("/dev/nvidia")) for node in cards}:
        gone = ", ".join(f"/dev/nvidia{number}" for number in sorted(missing))
        raise UsageError(f"there is no {gone}", hint="nvidia-smi -L shows the GPUs that there are")
    nodes = [*cards, *(node for node in files.nodes if node in _CONTROL_NODES)]
    return GpuAccess(
        way="files",
        host_config={"Devices": _devices(nodes)},
        mounts=tuple(
            Mount(source=path, target=f"{libraries_to}/{name}")
            for name, path in sorted((files.libraries or {}).items())
        ),
        environment=cache,
        note="NVIDIA's container toolkit is not there: the device files and the driver's libraries are given "
        "one by one",
    )


def _numbers(request: GpuRequest, files: DriverFiles) -> set[int]:
    """The numbers of the device files that are asked for.

    Raises:
        UsageError: If a name's number is not known.
    """
    there = sorted(int(match[1]) for node in files.nodes if (match := _NODE.fullmatch(node)))
    if not request.names:
        return set(there if request.count is None else there[: request.count])
    found = set()
    for name in request.names:
        if name not in files.minors and not name.isdecimal():
            raise UsageError(
                f"which device file belongs to {name} is not known here", hint="write its number: device=0"
            )
        found.add(files.minors.get(name, int(name) if name.isdecimal() else 0))
    return found


def _wsl(request: GpuRequest, cache: Mapping[str, str]) -> GpuAccess:
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(request.names)} if request.names else {}
    return GpuAccess(
        way="wsl",
        host_config={"Devices": _devices([_DXG])},
        mounts=(Mount(source=WSL_DIR, target=WSL_DIR),),
        environment={**cache, **seen, "LD_LIBRARY_PATH": f"{WSL_DIR}/lib"},
        note="Windows' Linux has one device file for all GPUs, so the container can open each of them",
    )


def _render(request: GpuRequest, files: DriverFiles | None) -> GpuAccess:
    """AMD's or Intel's: device files, and the groups that may use them.

    Raises:
        UsageError: If they are on another machine, or there are no such.
    """
    maker = {"amd": "AMD", "intel": "Intel"}[request.maker]
    if files is None:
        raise UsageError(
            f"which device files another machine has for its {maker} GPUs is not told by its container engine",
            hint="start llmlab there",
        )
    there = [node for node in files.render if node.maker == request.maker]
    if not there or (request.maker == "amd" and not files.kfd):
        raise UsageError(
            f"there is no {maker} GPU that a container could be given",
            hint="this machine has no /dev/kfd: is the driver amdgpu loaded?"
            if there
            else "ls -l /dev/dri shows which there are",
        )
    if missing := [name for name in request.names if int(name) >= len(there)]:
        known = ", ".join(f"{index} ({node.path})" for index, node in enumerate(there))
        raise UsageError(f"there is no {maker} GPU {', '.join(missing)}", hint=f"this machine has {known}")
    chosen = [there[int(name)] for name in request.names] or (there if request.all else there[:1])
    given = [*([files.kfd] if request.maker == "amd" and files.kfd else []), *chosen]
    groups = sorted({each.group for each in given if each.group is not None})
    config: dict[str, Any] = {
        "Devices": [
            {"PathOnHost": each.path, "PathInContainer": each.inside, "CgroupPermissions": "rw"}
            for each in given
        ]
    }
    # A device file of root's group would make the server a member of that.
    if added := [str(group) for group in groups if group]:
        config["GroupAdd"] = added
    return GpuAccess(
        way="render",
        host_config=config,
        note=""
        if 0 not in groups
        else f"of {', '.join(each.inside for each in given)} some are for root's group: the server cannot open these",
    )


def _devices(paths: Iterable[str]) -> list[dict[str, str]]:
    return [{"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"} for path in paths]


def asked(host_config: Mapping[str, Any]) -> tuple[str, ...]:
    """The GPUs that a container's HostConfig asks for, as words: "GPUs 0,1", "GPUs all"; others as they are.

    Args:
        host_config: The request's, or the engine's record's.
    """
    found = [_of_request(request) for request in host_config.get("DeviceRequests") or ()]
    nodes = [str(device.get("PathInContainer")) for device in host_config.get("Devices") or ()]
    cards = [match[1] for node in nodes if (match := _NODE.fullmatch(node))]
    if cards:
        found.append(f"GPUs {','.join(cards)}")
    return (*found, *(node for node in nodes if node not in _CONTROL_NODES and not _NODE.fullmatch(node)))


def _of_request(request: Mapping[str, Any]) -> str:
    ids = ",".join(str(name).removeprefix(f"{CDI_KIND}=") for name in request.get("DeviceIDs") or ())
    count = request.get("Count") or 0
    return f"GPUs {ids or ('all' if count < 0 else f'× {count}')}"
