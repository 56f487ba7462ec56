"""What each node has, asked of all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from llmlab import machine
from llmlab.backends import docker_api, image, labels, nodes
from llmlab.backends.docker_api import DockerApi
from llmlab.backends.nodes import Node
from llmlab.builds import find_build
from llmlab.errors import EngineError, LabError
from llmlab.lab.node_views import NodeStatus

_MOST_AT_ONCE = 16
_CDI_KIND = "nvidia.com/gpu="
_MIB = 1 << 20


def survey(names: Sequence[str] = ()) -> tuple[NodeStatus, ...]:
    """All nodes, or some by their names.

    Args:
        names: Of these only, in this order; none for all.

    Raises:
        UnknownNameError: If there is no such node.
    """
    found = tuple(nodes.find(name) for name in names) if names else nodes.all_nodes()
    if not found:
        return ()
    identity = _identity()
    with ThreadPoolExecutor(min(len(found), _MOST_AT_ONCE)) as pool:
        return tuple(pool.map(lambda node: look(node, identity), found))


def look(node: Node, image_name: str | None = None) -> NodeStatus:
    """One node.

    Args:
        node: The node.
        image_name: The image that it might have; None if that is not known.
    """
    try:
        api = docker_api.connect(node.address)
        return _described(node, api, image_name)
    except LabError as error:
        detail = "; ".join(filter(None, (error.message, error.hint)))
        return NodeStatus(
            name=node.name, address=node.address, current=node.current, state="lost", detail=detail
        )


def _described(node: Node, api: DockerApi, image_name: str | None) -> NodeStatus:
    api.ping()
    info = api.info
    records = [record for entry in api.containers(labels.RECORD) if (record := labels.record_of(entry))]
    elsewhere = nodes.machine_of(api)
    there = elsewhere or machine.look()
    sent = None if elsewhere is None else _models(api)
    return NodeStatus(
        name=node.name,
        address=node.address,
        current=node.current,
        state="ready",
        engine=f"{'Podman' if api.is_podman else 'Docker'} {info.get('ServerVersion', '')}".strip(),
        system=str(info.get("OperatingSystem") or ""),
        architecture=str(info.get("Architecture") or ""),
        cpus=there.cpus,
        memory_mib=there.total_mib,
        free_mib=there.usable_mib,
        gpus=_gpus(info, local=elsewhere is None),
        image=None if image_name is None else api.image_id(image_name) is not None,
        models=sent,
        servers=tuple(sorted(record.name for record in records)),
    )


def _models(api: DockerApi) -> tuple[str, ...]:
    """What was sent there: names, or the beginning of a hash where an older llmlab has sent it."""
    found = api.labels_of_volumes(labels.MODEL).values()
    return tuple(sorted(each.get(labels.MODEL_NAME) or each[labels.MODEL][:12] for each in found))


def _gpus(info: Mapping[str, Any], *, local: bool) -> tuple[str, ...] | None:
    """The GPUs that containers there can be given; None if the engine does not tell which."""
    if local and (here := machine.gpus()) is not None:
        return tuple(gpu.name for gpu in here)
    ids = [str(each.get("ID", "")) for each in info.get("DiscoveredDevices") or ()]
    numbered = [each.removeprefix(_CDI_KIND) for each in ids if each.startswith(_CDI_KIND)]
    if cards := [each for each in numbered if each.isdecimal()]:
        return tuple(f"NVIDIA {each}" for each in cards)
    if "nvidia" in (info.get("Runtimes") or {}):
        return ("NVIDIA, how many is not told",)
    return () if not info.get("CDISpecDirs") else None


def _identity() -> str | None:
    """The name of the image that is made here; None where nothing is compiled."""
    with suppress(EngineError, LabError):
        return image.name_of(find_build())
    return None
