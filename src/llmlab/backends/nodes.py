"""Container engines by name: this machine's, and those of other machines that the user's Docker knows."""

from __future__ import annotations

from dataclasses import dataclass

from llmlab import machine
from llmlab.backends import docker_api, docker_trouble, labels
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import LabError, UnknownNameError
from llmlab.machine import Machine

_MIB = 1 << 20
_SCHEMES = ("ssh://", "tcp://", "unix://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A container engine that has a name.

    Attributes:
        name: The name of its Docker context, or its address where it has none.
        address: Where it listens, as in `DOCKER_HOST`.
        current: Whether a container is started there if nothing else is said.
    """

    name: str
    address: str
    current: bool = False


def all_nodes() -> tuple[Node, ...]:
    """The engines that the user's Docker contexts name, and the one that the environment names.

    An address that two contexts have is one engine: the first name counts.

    Raises:
        DaemonError: If the `docker` package is not there.
        BackendError: If what is written down of a context cannot be read.
    """
    here = _current()
    found: dict[str, Node] = {}
    for context in docker_api.contexts():
        node = Node(name=context.name, address=context.address, current=context.address == here)
        found.setdefault(node.address, node)
    if here is not None and here not in found:
        found[here] = Node(name=here, address=here, current=True)
    return tuple(found.values())


def find(name: str) -> Node:
    """The engine of that name.

    Args:
        name: A Docker context's name, or an address such as `ssh://user@host`.

    Raises:
        UnknownNameError: If there is none.
        DaemonError, BackendError: As `all_nodes`.
    """
    known = all_nodes()
    for node in known:
        if name in {node.name, node.address}:
            return node
    # Of names for one address only the first is listed.
    for context in docker_api.contexts():
        if context.name == name:
            return Node(name=name, address=context.address)
    if name.startswith(_SCHEMES):
        return Node(name=name, address=name)
    raise UnknownNameError(
        "node",
        name,
        [node.name for node in known],
        hint=f"make it known to Docker: docker context create {name} --docker host=ssh://USER@HOST",
    )


def _current() -> str | None:
    """The address of the engine that is meant where none is named; None if that cannot be told."""
    if wanted := docker_trouble.wanted():
        return wanted
    try:
        return docker_api.connect().address
    except LabError:
        return None


def machine_of(api: DockerApi, *, name: str = "") -> Machine | None:
    """What the machine of an engine has; None where that is this machine.

    An engine does not tell how much memory is free. What all containers of llmlab's there
    are allowed to take counts as taken; what else runs there is not seen.

    Args:
        api: The engine.
        name: What the node is called.
    """
    if api.is_local():
        return None
    return _machine(api, name or f"the machine of {api.address}")


def _machine(api: DockerApi, name: str) -> Machine:
    total = int(api.info.get("MemTotal") or 0) // _MIB
    available = max(0, total - reserved_mib(api))
    return Machine(
        cpu="",
        cpus=int(api.info.get("NCPU") or 1),
        total_mib=total,
        available_mib=available,
        usable_mib=machine.usable_mib(total, available),
        name=name,
    )


def reserved_mib(api: DockerApi) -> int:
    """Memory that the servers in an engine's containers may take, whoever's they are."""
    listed = api.containers(labels.RECORD)
    limits = [record.limits for entry in listed if (record := labels.record_of(entry))]
    return sum(each.memory_mib or 0 for each in limits if each)
