"""Which nodes of a cluster replicas can be started on, and which next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from llmlab.backends.docker_api import DockerApi
from llmlab.backends.nodes import Node
from llmlab.clusters import members
from llmlab.clusters.members import Cluster
from llmlab.errors import BackendError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """A node of a cluster that takes replicas.

    Attributes:
        node: The node.
        api: Its engine.
        cpus: Its CPUs.
    """

    node: Node
    api: DockerApi
    cpus: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """A cluster as replicas see it.

    Attributes:
        manager: The engine of a manager.
        places: The nodes that take replicas.
        drained: The names of those that are to get rid of theirs.
        wrong: Why the others take none: name → reason.
    """

    manager: DockerApi
    places: tuple[Place, ...]
    drained: frozenset[str]
    wrong: dict[str, str]

    def best(self, used: Iterable[str | None], without: frozenset[str] = frozenset()) -> Place:
        """The place for the next replica: the one with the fewest for its CPUs.

        Args:
            used: The nodes' names of the replicas that there are.
            without: Names of nodes that do not count.

        Raises:
            BackendError: If none takes one; it says why not, of each.
        """
        fit = [place for place in self.places if place.node.name not in without]
        if not fit:
            why = "; ".join(f"{name}: {reason}" for name, reason in sorted(self.wrong.items()))
            raise BackendError(
                f"no node of the cluster takes a replica{f' ({why})' if why else ''}",
                hint="cluster status shows them",
            )
        counts = Counter(used)
        return min(fit, key=lambda place: (counts[place.node.name] / place.cpus, not place.node.current))

    def gateway(self) -> DockerApi:
        """The engine for the gateway: one whose sockets can be reached from here, else a manager's."""
        return next((place.api for place in self.places if place.api.is_local()), self.manager)


def ground(on: str | None = None, gone: Collection[str] = ()) -> Ground:
    """The cluster that is meant.

    Args:
        on: The name of a node; then replicas are started there only.
        gone: Addresses of nodes that are known not to answer, and are not asked.

    Raises:
        UsageError: If there is no cluster.
        QuorumError: If too few of its managers reach each other.
        BackendError: If the node does not answer.
    """
    found = members.cluster_of(members.survey(gone), on)
    if found is None:
        raise UsageError(
            "there is no cluster for replicas",
            hint="make one: cluster init, then cluster join NODE for each other node that `nodes` lists",
        )
    return _of(found, on)


def _of(cluster: Cluster, on: str | None) -> Ground:
    manager, listed = cluster.manager()
    said = {str(entry["ID"]): entry for entry in listed}
    places: list[Place] = []
    wrong = {member.name: f"it does not answer: {member.detail}" for member in cluster.silent}
    drained: list[str] = []
    for member in cluster.members:
        entry = said.get(member.id)
        availability = str(((entry or {}).get("Spec") or {}).get("Availability") or "active")
        state = str(((entry or {}).get("Status") or {}).get("State") or "unknown")
        if availability == "drain":
            drained.append(member.name)
        if on is not None and member.name != on:
            wrong[member.name] = "another node was asked for"
        elif member.api is None:
            wrong[member.name] = f"it does not answer: {member.detail}"
        elif availability != "active" or state != "ready":
            wrong[member.name] = f"it is {availability}, {state}"
        else:
            cpus = int(member.api.info.get("NCPU") or 1)
            places.append(Place(node=member.node, api=member.api, cpus=cpus))
    return Ground(manager=manager, places=tuple(places), drained=frozenset(drained), wrong=wrong)


def spread(names: Sequence[str]) -> str:
    """Nodes' names with how many there are of each, for messages."""
    return ", ".join(f"{count} on {name}" for name, count in sorted(Counter(names).items()))
