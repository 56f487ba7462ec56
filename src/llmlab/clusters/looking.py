"""A cluster as its managers, its nodes and their engines tell it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmlab.backends import labels
from llmlab.backends.docker_api import DockerApi
from llmlab.backends.docker_swarm import ENCRYPTED, QuorumError
from llmlab.clusters import networks
from llmlab.clusters.members import Cluster, Member, listens
from llmlab.clusters.views import ClusterNode, ClusterStatus
from llmlab.errors import LabError, UsageError

_MIB = 1 << 20


def status(cluster: Cluster | None, done: Sequence[str] = ()) -> ClusterStatus:
    """What there is to know of a cluster.

    Args:
        cluster: The cluster; None if there is none.
        done: What was done to it.

    """
    if cluster is None:
        return ClusterStatus(id=None, done=tuple(done))
    with ThreadPoolExecutor(len(cluster.members)) as pool:
        servers = dict(zip(cluster.members, pool.map(_servers, cluster.members), strict=True))
    try:
        api, listed = cluster.manager()
        swarm = api.swarm_inspect()
        swept = [f"removed the network {name}: its server is gone" for name in networks.sweep(api)]
        return ClusterStatus(
            id=str(swarm["ID"]),
            nodes=tuple(_described(entry, name_of(entry, cluster), servers) for entry in listed),
            managers=sum(bool(entry.get("ManagerStatus")) for entry in listed),
            answering=sum(_reachable(entry) for entry in listed),
            quorum=True,
            strays=_strays(cluster, listed),
            encrypted=ENCRYPTED in ((swarm.get("Spec") or {}).get("Labels") or {}),
            networks=tuple(sorted(overlays(api))),
            done=(*done, *swept),
        )
    except (QuorumError, UsageError) as error:
        return ClusterStatus(
            id=None,
            nodes=(*(_seen(member, found) for member, found in servers.items()), *_missed(cluster)),
            managers=len(cluster.managers),
            answering=cluster.answering(),
            quorum=False if isinstance(error, QuorumError) else None,
            done=tuple(done),
        )


def overlays(api: DockerApi) -> Iterator[str]:
    """The names of llmlab's networks that span a cluster's nodes; asked of a manager."""
    for network in api.networks(labels.USER):
        if network.get("Driver") == "overlay":
            yield str(network["Name"])


def host_name(entry: Mapping[str, Any]) -> str:
    """What a node's machine calls itself."""
    return str((entry.get("Description") or {}).get("Hostname") or "")


def host_address(entry: Mapping[str, Any]) -> str:
    """Where other nodes reach a node."""
    address = str((entry.get("Status") or {}).get("Addr") or "")
    # A manager that leads may see itself at no address.
    manager = str((entry.get("ManagerStatus") or {}).get("Addr") or "").rpartition(":")[0]
    return manager if address in {"", "0.0.0.0", "127.0.0.1"} and manager else address  # noqa: S104 - compared


def name_of(entry: Mapping[str, Any], cluster: Cluster) -> str:
    """The name that Docker here has for a node of a cluster, else what its machine calls itself."""
    for member in cluster.members:
        if member.id == entry["ID"]:
            return member.name
    address = host_address(entry)
    silent = (member.name for member in cluster.silent if member.host and member.host == address)
    return next(silent, host_name(entry))


def _described(
    entry: Mapping[str, Any], name: str, servers: Mapping[Member, tuple[str, ...] | None]
) -> ClusterNode:
    member = next((each for each in servers if each.id == entry["ID"]), None)
    spec, about = entry["Spec"], entry.get("Description") or {}
    has = about.get("Resources") or {}
    return ClusterNode(
        name=name,
        id=str(entry["ID"]),
        role="manager" if spec.get("Role") == "manager" else "worker",
        leader=bool((entry.get("ManagerStatus") or {}).get("Leader")),
        state=str((entry.get("Status") or {}).get("State") or "unknown"),
        availability=str(spec.get("Availability") or "active"),
        address=host_address(entry) or None,
        engine=(about.get("Engine") or {}).get("EngineVersion"),
        cpus=has["NanoCPUs"] / 1e9 if has.get("NanoCPUs") else None,
        memory_mib=has["MemoryBytes"] // _MIB if has.get("MemoryBytes") else None,
        resources=_declared(has.get("GenericResources") or ()),
        servers=servers[member] if member else None,
    )


def _declared(listed: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Generic resources by kind: a number of them, or so many that have names."""
    found: dict[str, int] = {}
    for each in listed:
        if number := each.get("DiscreteResourceSpec"):
            found[str(number["Kind"])] = found.get(str(number["Kind"]), 0) + int(number["Value"])
        elif named := each.get("NamedResourceSpec"):
            found[str(named["Kind"])] = found.get(str(named["Kind"]), 0) + 1
    return found


def _seen(member: Member, servers: tuple[str, ...] | None) -> ClusterNode:
    """A node without a quorum: what its engine tells by itself."""
    return ClusterNode(
        name=member.name,
        id=member.id,
        role="manager" if member.is_manager else "worker",
        state="answers" if member.api else "lost",
        address=str(member.swarm.get("NodeAddr") or "") or None,
        servers=servers,
    )


def _missed(cluster: Cluster) -> Iterator[ClusterNode]:
    """The managers without a quorum whose engines do not answer here."""
    known = {member.id for member in cluster.members}
    for key, place in cluster.managers.items():
        if key not in known:
            host = place.rpartition(":")[0]
            name = next((member.name for member in cluster.silent if member.host == host), host)
            state = "answers" if listens(place) else "lost"
            yield ClusterNode(name=name, id=key, role="manager", state=state, address=host)


def _strays(cluster: Cluster, listed: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of nodes that take themselves for members and are on no list."""
    known = {entry["ID"] for entry in listed}
    return tuple(member.name for member in cluster.members if member.id not in known)


def _reachable(entry: Mapping[str, Any]) -> bool:
    return bool((entry.get("ManagerStatus") or {}).get("Reachability") == "reachable")


def _servers(member: Member) -> tuple[str, ...] | None:
    """The names of llmlab's servers on a node; None if its engine does not answer."""
    if member.api is None:
        return None
    try:
        listed = member.api.containers(labels.RECORD)
    except LabError:
        return None
    records = [record for entry in listed if (record := labels.record_of(entry))]
    return tuple(sorted(record.name for record in records))
