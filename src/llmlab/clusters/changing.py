"""What changes a cluster: made, joined, drained, left. Nobody sees or types a token."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmlab.backends import labels
from llmlab.backends.docker_api import DockerApi
from llmlab.backends.docker_swarm import QuorumError
from llmlab.clusters.looking import host_address, host_name, name_of, overlays
from llmlab.clusters.members import Cluster, Member, cluster_of, named, survey
from llmlab.errors import BackendError, LabError, UnknownNameError, UsageError

_READY_S = 20.0
# A manager that comes back makes the others choose a leader anew.
_LEADER_S = 60.0


def make(on: str | None, *, advertise: str | None, encrypted: bool) -> str:
    """Make a cluster of one node; returns what was done.

    Raises:
        UsageError: If the node is in one already, or cannot make one.
        BackendError: If its engine does not answer.
    """
    member, api = _asked(survey(), on)
    if api.is_podman:
        raise UsageError(f"{member.name} is Podman, which has no Swarm", hint="a cluster needs Docker Engine")
    if member.in_swarm:
        raise UsageError(
            f"{member.name} is in a cluster already", hint=f"cluster status; cluster leave {member.name}"
        )
    api.swarm_init(advertise=advertise, encrypted=encrypted)
    return f"made a cluster; {member.name} manages it"


def join(names: Sequence[str], on: str | None, *, managers: bool, advertise: str | None) -> list[str]:
    """Let nodes join the cluster; returns what was done.

    Raises:
        UsageError: If one is in another cluster, or there is none to join.
        BackendError: If one does not answer, or does not reach the managers.
    """
    if advertise and len(names) > 1:
        raise UsageError("--advertise is the address of one node", hint="let the nodes join one by one")
    members = survey()
    cluster = _needed(members, on)
    api, listed = _manager(cluster)
    token = api.swarm_inspect()["JoinTokens"]["Manager" if managers else "Worker"]
    # All are looked at before one is changed.
    wanted = [_asked(members, name) for name in names]
    for member, _ in wanted:
        if member.in_swarm and member not in cluster.members:
            raise UsageError(
                f"{member.name} is in another cluster", hint=f"first: cluster leave {member.name}"
            )
    done = []
    for member, engine in wanted:
        if any(entry["ID"] == member.id for entry in listed):
            done.append(f"{member.name} is in the cluster already")
            continue
        if member.in_swarm:
            # It was struck off the list while it could not be told.
            engine.swarm_leave(force=True)
        _join(member, engine, list(cluster.managers.values()), token, advertise)
        done.append(_joined(member, api))
    return done


def _join(member: Member, engine: DockerApi, managers: list[str], token: str, advertise: str | None) -> None:
    try:
        engine.swarm_join(managers, token, advertise=advertise)
    except LabError as error:
        # It would go on trying, and be in a cluster some time, when nobody expects it.
        if engine.swarm_state().get("LocalNodeState") not in {"", "inactive", None}:
            engine.swarm_leave(force=True)
        if isinstance(error, UsageError):
            raise UsageError(f"{member.name}: {error.message}", hint=error.hint) from error
        raise BackendError(f"{member.name} cannot join: {error.message}", hint=error.hint) from error


def _joined(member: Member, manager: DockerApi) -> str:
    """Wait until the managers have seen a node that has just joined; what is to be said of it."""
    own = manager.swarm_nodes

    def seen() -> Mapping[str, Any] | None:
        state = member.api.swarm_state() if member.api else {}
        listed = (entry for entry in own() if entry["ID"] == state.get("NodeID"))
        entry = next(listed, None)
        return entry if entry and entry["Status"].get("State") == "ready" else None

    entry = _waited(seen)
    if not entry:
        return f"{member.name} has joined; the managers do not see it as ready yet"
    # What an earlier membership of the same machine has left in the list.
    for old in own():
        same = (host_name(old), host_address(old)) == (host_name(entry), host_address(entry))
        if same and old["ID"] != entry["ID"] and old["Status"].get("State") == "down":
            manager.swarm_remove_node(old["ID"])
    return f"{member.name} has joined as {entry['Spec']['Role']}"


def give_work(names: Sequence[str], on: str | None, *, availability: str) -> list[str]:
    """Say of nodes whether more may be started on them; returns what was done.

    Args:
        names: The nodes.
        on: A node of the cluster that is meant.
        availability: "active" or "drain".

    Raises:
        UsageError: If one is not in the cluster.
        QuorumError: If there is no quorum.
    """
    cluster = _needed(survey(), on)
    api, listed = _manager(cluster)
    # All are looked up before one is changed.
    entries = [_entry(name, cluster, listed) for name in names]
    for entry in entries:
        api.swarm_change_node(entry["ID"], Availability=availability)
    word = "is drained: nothing more is started there" if availability == "drain" else "is active"
    return [f"{name} {word}" for name in names]


def leave(names: Sequence[str], on: str | None, *, force: bool) -> list[str]:
    """Take nodes out of the cluster; returns what was done.

    Raises:
        UsageError: If one is in none, has servers in the cluster's networks, or is the only
            manager, and nothing is forced.
        BackendError: If one does not answer and nothing is forced.
    """
    done = []
    for name in names:
        members = survey()
        member = named(members, name) if _is_known(name) else None
        if member and member.api and not member.in_swarm:
            raise UsageError(f"{name} is in no cluster", hint="cluster status shows who is")
        # One that answers says itself which cluster it is in.
        cluster = _needed(members, name if member and member.api else on)
        if member and member.api:
            done.append(_take_out(member, member.api, cluster, force=force))
        else:
            done.append(_strike_off(name, cluster, force=force))
    return done


def _take_out(member: Member, engine: DockerApi, cluster: Cluster, *, force: bool) -> str:
    """Let a node leave whose engine answers."""
    try:
        api, listed = _manager(cluster)
    except LabError as error:
        if not force:
            # Of a worker whose managers are gone for good, nobody is asked.
            raise type(error)(error.message, hint=f"{member.name} can leave all the same: --force") from error
        engine.swarm_leave(force=True)
        return f"{member.name} has left the cluster; its managers were not asked"
    if not any(entry["ID"] == member.id for entry in listed):
        engine.swarm_leave(force=True)
        return f"{member.name} has left the cluster, whose list it was struck off before"
    servers = _attached(engine, set(overlays(api)))
    if servers and not force:
        raise UsageError(
            f"servers on {member.name} are in the cluster's networks: {', '.join(servers)}",
            hint="stop them, or add --force",
        )
    if member.is_manager:
        others = [each for each in cluster.members if each.is_manager and each is not member and each.api]
        if sum(entry["Spec"].get("Role") == "manager" for entry in listed) == 1:
            return _end(member, engine, listed, force=force)
        if not others:
            raise UsageError(
                f"none of the other managers is known to Docker here, so {member.name} cannot be replaced",
                hint="make one known: docker context create NAME --docker host=ssh://USER@HOST",
            )
        api = others[0].api or api
        # It hands its part over, so that the others never lack a majority.
        _demote(api, member.id, cluster)
        _waited(lambda: not engine.swarm_state().get("ControlAvailable"))
    engine.swarm_leave(force=force)
    _strike(api, member.id)
    return f"{member.name} has left the cluster"


def _end(member: Member, engine: DockerApi, listed: Sequence[Mapping[str, Any]], *, force: bool) -> str:
    """Let the only manager leave: that is the end of the cluster."""
    workers = [host_name(entry) for entry in listed if entry["ID"] != member.id]
    if workers and not force:
        raise UsageError(
            f"{member.name} is the only manager, and {', '.join(workers)} would be left without one",
            hint="let them leave first, or add --force",
        )
    engine.swarm_leave(force=True)
    return f"{member.name} has left, and the cluster is no more"


def _strike_off(name: str, cluster: Cluster, *, force: bool) -> str:
    """Strike a node off the list whose engine does not answer here."""
    api, listed = _manager(cluster)
    entry = _entry(name, cluster, listed)
    if not force:
        raise BackendError(
            f"{name} does not answer, so it cannot be told to leave",
            hint="if it is gone for good, strike it off the cluster's list: --force",
        )
    if entry["Spec"].get("Role") == "manager":
        api.swarm_change_node(entry["ID"], Role="worker")
    _strike(api, entry["ID"])
    return f"{name} is struck off the cluster's list; should it come back: cluster leave {name} --force"


def _manager(cluster: Cluster) -> tuple[DockerApi, list[dict[str, Any]]]:
    """As `Cluster.manager`; while the managers choose a leader, that is waited for.

    Raises:
        QuorumError: If too few of them answer, or they come to no end.
    """
    try:
        return cluster.manager()
    except QuorumError:
        if 2 * cluster.answering() <= len(cluster.managers):
            raise
    found: tuple[DockerApi, list[dict[str, Any]]] | None = _waited(cluster.manager, _LEADER_S)
    return found or cluster.manager()


def _entry(name: str, cluster: Cluster, listed: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A node in the managers' list by the name it has here, or by that of its machine."""
    for called in (lambda entry: name_of(entry, cluster), host_name):
        for entry in listed:
            if called(entry) == name:
                return entry
    raise UnknownNameError("node in the cluster", name, [name_of(entry, cluster) for entry in listed])


def _asked(members: Sequence[Member], name: str | None) -> tuple[Member, DockerApi]:
    """A node that answers, and its engine; the current one if none is named."""
    current = next((each for each in members if each.node.current), None)
    member = named(members, name) if name else current
    if member is None:
        raise UsageError("which node?", hint="cluster init --on NODE")
    if member.api is None:
        raise BackendError(f"{member.name} does not answer: {member.detail}", hint="nodes shows who does")
    return member, member.api


def _needed(members: Sequence[Member], on: str | None) -> Cluster:
    found = cluster_of(members, on)
    if found is None:
        raise UsageError("no node known here is in a cluster", hint="make one: cluster init")
    return found


def _is_known(name: str) -> bool:
    try:
        named((), name)
    except UnknownNameError:
        return False
    return True


def _attached(engine: DockerApi, networks: set[str]) -> list[str]:
    """Llmlab's servers on a node that are attached to some networks."""
    found = []
    for entry in engine.containers(labels.RECORD):
        has = ((entry.get("NetworkSettings") or {}).get("Networks") or {}).keys()
        record = labels.record_of(entry)
        if record and networks & has:
            found.append(record.name)
    return sorted(found)


def _demote(api: DockerApi, node_id: str, cluster: Cluster) -> None:
    """Make a manager a worker; one that has just come back counts as lost to the others a little longer."""

    def demoted() -> bool:
        try:
            api.swarm_change_node(node_id, Role="worker")
        except BackendError:
            return False
        return True

    if cluster.answering() < len(cluster.managers) or not _waited(demoted, _LEADER_S):
        # At once where one is lost; and for what it says.
        api.swarm_change_node(node_id, Role="worker")


def _strike(api: DockerApi, node_id: str) -> None:
    """Strike a node off the list; who was a manager is one to the others a little longer."""

    def struck() -> bool:
        try:
            api.swarm_remove_node(node_id)
        except BackendError:
            return False
        return True

    if not _waited(struck):
        # For what it says.
        api.swarm_remove_node(node_id)


def _waited(condition: Callable[[], Any], within_s: float = _READY_S) -> Any:
    """What a condition finds, as soon as it finds something; what it found last, after a while."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            found = condition()
        except QuorumError:
            # The managers are choosing a leader.
            found = None
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)
