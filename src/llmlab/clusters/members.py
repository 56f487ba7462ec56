"""Which of the nodes that Docker knows here are in which cluster, as their engines tell it."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmlab.backends import docker_api, nodes
from llmlab.backends.docker_api import DockerApi
from llmlab.backends.docker_swarm import QuorumError
from llmlab.backends.nodes import Node
from llmlab.errors import BackendError, LabError, UsageError

_MOST_AT_ONCE = 16
_KNOCK_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """A node that Docker knows here, and what its engine says of a swarm.

    Attributes:
        node: The node.
        api: Its engine; None if that does not answer.
        swarm: What it says; {} if it does not answer.
        detail: Why it does not.
    """

    node: Node
    api: DockerApi | None = None
    swarm: Mapping[str, Any]
    detail: str = ""

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name

    @property
    def host(self) -> str:
        """The host of its address; "" for a unix socket."""
        return urlsplit(self.node.address).hostname or ""

    @property
    def id(self) -> str:
        """The swarm's id for it; "" if it is in none."""
        return str(self.swarm.get("NodeID") or "")

    @property
    def in_swarm(self) -> bool:
        """Whether it is in a swarm, or is trying to join one."""
        return self.swarm.get("LocalNodeState", "inactive") not in {"", "inactive"}

    @property
    def is_manager(self) -> bool:
        """Whether it manages a swarm."""
        return bool(self.swarm.get("ControlAvailable"))

    @property
    def managers(self) -> dict[str, str]:
        """The managers of its swarm as far as it knows them: id → address."""
        listed = self.swarm.get("RemoteManagers") or ()
        return {str(each["NodeID"]): str(each["Addr"]) for each in listed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The nodes known here that are in one swarm.

    Attributes:
        members: Those; the one that was asked for is the first.
        managers: All its managers, whether they are known here or not: id → address.
        silent: The nodes known here that do not answer; they may be in it.
    """

    members: tuple[Member, ...]
    managers: dict[str, str]
    silent: tuple[Member, ...] = ()

    def manager(self) -> tuple[DockerApi, list[dict[str, Any]]]:
        """A manager that is with the majority, and the swarm's nodes as it lists them.

        Raises:
            QuorumError: If there is none.
            UsageError: If no manager is known here.
        """
        asked = [member for member in self.members if member.is_manager]
        if not asked and not self.silent:
            raise UsageError(
                "none of the cluster's managers is known to Docker here: "
                f"{', '.join(sorted(self.managers.values()))}",
                hint="make one known: docker context create NAME --docker host=ssh://USER@HOST",
            )
        for member in asked:
            if member.api is None:
                continue
            try:
                listed = member.api.swarm_nodes()
            except QuorumError:
                continue
            if _has_quorum(listed):
                return member.api, listed
        raise self.no_quorum()

    def answering(self) -> int:
        """How many managers can be reached from here."""
        known = {member.id for member in self.members if member.is_manager and member.api}
        others = [place for key, place in self.managers.items() if key not in known]
        return len(known) + sum(map(listens, others))

    def no_quorum(self) -> QuorumError:
        """The error where too few managers are with each other."""
        count, answering = len(self.managers), self.answering()
        if 2 * answering > count:
            return QuorumError(
                f"no quorum yet: {answering} of {count} managers answer, and choose a leader",
                hint="try again in some seconds",
            )
        hint = f"{count // 2 + 1} of them have to run and reach each other; bring them back"
        first = next((member.name for member in self.members if member.is_manager), None)
        if first:
            hint += (
                f", or if they are lost for good, go on with {first} alone: "
                f"docker --context {first} swarm init --force-new-cluster"
            )
        return QuorumError(f"no quorum: {answering} of {count} managers answer", hint=hint)


def survey(gone: Collection[str] = ()) -> tuple[Member, ...]:
    """All nodes that Docker knows here, asked at once; the current one first.

    Args:
        gone: Addresses of those that are known not to answer, and are not asked.

    Raises:
        BackendError: If Docker's contexts cannot be read.
    """
    known = sorted(nodes.all_nodes(), key=lambda node: not node.current)
    if not known:
        return ()
    with ThreadPoolExecutor(min(len(known), _MOST_AT_ONCE)) as pool:
        return tuple(pool.map(lambda node: _silent(node) if node.address in gone else look(node), known))


def look(node: Node) -> Member:
    """One node."""
    try:
        place = urlsplit(node.address)
        if place.scheme == "tcp" and not listens(place.netloc):
            return _silent(node)
        api = docker_api.connect(node.address)
        return Member(node=node, api=api, swarm=api.swarm_state())
    except LabError as error:
        return Member(node=node, swarm={}, detail=error.message)


def _silent(node: Node) -> Member:
    return Member(node=node, swarm={}, detail=f"nothing answers at {node.address}")


def named(members: Sequence[Member], name: str) -> Member:
    """One of them by its name, or what else `nodes.find` takes.

    Raises:
        UnknownNameError: If there is none.
    """
    node = nodes.find(name)
    return next((each for each in members if each.node.address == node.address), None) or look(node)


def cluster_of(members: Sequence[Member], on: str | None = None) -> Cluster | None:
    """The cluster that is meant: of a node, else of the current node, else the only one; None if there is none.

    Args:
        members: All nodes, the current one first.
        on: A node's name.

    Raises:
        UsageError: If the node is in none, or it is not clear which cluster is meant.
        BackendError: If the node does not answer.
    """
    if on is not None:
        first = named(members, on)
        if first.api is None:
            raise BackendError(f"{on} does not answer: {first.detail}", hint="nodes shows who does")
        if not first.in_swarm:
            raise UsageError(f"{on} is in no cluster", hint="cluster init --on NODE makes one")
        return _around(first, members)
    inside = [member for member in members if member.in_swarm]
    if not inside:
        return None
    found = _around(inside[0], members)
    others = [member.name for member in inside if member not in found.members]
    if others and not inside[0].node.current:
        raise UsageError(
            f"there are several clusters: {inside[0].name} is in one, {others[0]} in another",
            hint="say which one is meant: --on NODE",
        )
    return found


def _around(first: Member, members: Sequence[Member]) -> Cluster:
    """The cluster of one member: those who share a manager with it."""
    managers = dict(first.managers)
    mates = [first]
    for member in members:
        if member is not first and member.in_swarm and managers.keys() & member.managers.keys():
            mates.append(member)
            managers = member.managers | managers
    silent = tuple(member for member in members if member.api is None)
    return Cluster(members=tuple(mates), managers=managers, silent=silent)


def _has_quorum(listed: Sequence[Mapping[str, Any]]) -> bool:
    """Whether more than half of the managers reach each other, by what one of them says."""
    roles = [each["ManagerStatus"] for each in listed if each.get("ManagerStatus")]
    reached = len([role for role in roles if role.get("Reachability") == "reachable"])
    return 2 * reached > len(roles)


def listens(place: str) -> bool:
    """Whether something answers at a TCP address, host:port."""
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S):
            return True
    except (OSError, ValueError):
        return False
