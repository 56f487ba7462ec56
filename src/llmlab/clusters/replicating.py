"""A server with replicas: one on each of several nodes, and a gateway in front of them.

Each replica is a server of its own: sealed, without a network, started through its node's
engine. Beside it stands a door, which is in the cluster's network and passes connections on
to the replica's unix socket. The gateway is in that network as well. Nothing of it can be
reached from elsewhere.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace

from llmlab import backends, engines, runtime, weights
from llmlab.auditing import running
from llmlab.auditing.trials import Subject
from llmlab.backends import docker_api, gateway, labels, sidecar
from llmlab.backends.base import Starting
from llmlab.backends.container import begin
from llmlab.backends.docker_api import DockerApi
from llmlab.backends.gateway import Target
from llmlab.clusters import handing_over, networks, places
from llmlab.clusters.places import Ground, Place
from llmlab.errors import BackendError, LabError, UsageError
from llmlab.isolation.profile import PORT
from llmlab.lab import launch, registry
from llmlab.lab.planning import Wish
from llmlab.reporting import reporter
from llmlab.specs import Record

# What a profile promises and an engine could leave out without a word: attempted on each node.
_PROBED = frozenset({"N1", "N3", "N6", "N8", "F1", "F2", "F3", "P1", "P2", "P4"})
_SEALED = frozenset({"sealed", "gpu"})
_MOST = 64


def start(wish: Wish, count: int, *, timeout_s: float) -> Record:
    """Start a server with replicas; returns its record when all answer.

    Args:
        wish: The arguments of `start`.
        count: How many.
        timeout_s: Longest wait for each, seconds.

    Raises:
        UsageError: If there is no cluster, or an option does not go with replicas.
        BackendError: If no node takes one, or a node does not keep what it is asked for.
        LabError: As `llmlab.start`. Nothing is left then.
    """
    _check(wish, count)
    ground = places.ground(wish.on)
    # A server of that name may have left its own while a node could not be reached.
    networks.sweep(ground.manager)
    model = weights.resolve(wish.model)
    with launch.claimed(wish.name, model.name) as claim:
        network = labels.container_name(claim.name)
        begun: list[Record] = []
        with runtime.undone(lambda: _take_back(ground.manager, network, begun)):
            ground.manager.make_overlay(
                network, labels.mine(SERVER=claim.name), encrypted=ground.manager.swarm_encrypted()
            )
            used: list[str | None] = []
            for number in range(1, count + 1):
                place = ground.best(used)
                used.append(place.node.name)
                name = f"{claim.name}.{number}"
                reporter().note(f"replica {number} of {count} on {place.node.name}")
                begun.append(start_one(wish, place, name, network, timeout_s=timeout_s))
            record = _front(wish, claim, ground, network, begun)
            # To be taken back with the others: the replicas of a gateway are stopped before it.
            begun.insert(0, record)
            (claim.path / handing_over.WISH).write_text(json.dumps(asdict(wish)), encoding="utf-8")
            claim.write(record)
            gateway.tell(record, [target(each) for each in begun[1:]])
            place_of = backends.backend(record.backend)
            launch.await_ready(record, place_of, engines.engine(record.spec.engine), timeout_s)
            place_of.settle(record)
            record = replace(record, process=handing_over.spawn(record))
            claim.write(record)
            reporter().stage("ready", f"{record.name} answers at {record.endpoint}")
    return record


def start_one(wish: Wish, place: Place, name: str, network: str, *, timeout_s: float) -> Record:
    """Start a replica, and see that its node keeps what it is asked for.

    Args:
        wish: The arguments of `start`.
        place: The node.
        name: The replica's name.
        network: The network that it is to be reached from.
        timeout_s: Longest wait, seconds.

    Raises:
        BackendError: If the node's engine has left something out; the replica is stopped then.
        LabError: As `llmlab.start`.
    """
    # Who stops the server stops its replicas: they belong to it, and to nobody else.
    single = replace(
        wish,
        name=name,
        backend="container",
        on=place.node.name,
        keep=True,
        expose=None,
        overlay=network,
        replica_of=name.rpartition(".")[0],
    )
    with docker_api.using(place.node.address):
        record = launch.launch(single, timeout_s=timeout_s)
        with runtime.undone(lambda: registry.stop(record, grace_s=0, forget=True)):
            check(record, place)
    return record


def check(record: Record, place: Place) -> None:
    """See whether a node keeps what a replica is asked for: by its engine's record, and by attempts.

    Args:
        record: The replica's.
        place: Its node.

    Raises:
        BackendError: If it does not.
    """
    receipt = backends.backend(record.backend).controls(record)
    if differing := [each for each in receipt.controls if each.agrees is False]:
        told = ", ".join(f"{each.name} (asked: {each.asked}; there: {each.recorded})" for each in differing)
        raise _refused(place, f"its engine has made something else of {told}")
    if record.profile is None or record.profile.name not in _SEALED:
        return
    entry = place.api.container(record.container_id or "") or {}
    findings, _ = running.observe(place.api, [Subject(name=record.name, entry=entry, record=record)], _PROBED)
    if failed := [f"{each.id} {each.title}" for each in findings[0] if each.verdict == "fail"]:
        raise _refused(place, f"what must not work there works: {', '.join(failed)}")


def target(record: Record, *, draining: bool = False) -> Target:
    """A replica as its gateway is told of it.

    Raises:
        BackendError: If its door has no address.
    """
    api = docker_api.connect(record.container_engine)
    door = sidecar.find(api, record.name).get("door")
    address = sidecar.address_of(api, door, record.overlay or "") if door else None
    if address is None:
        raise BackendError(
            f"replica {record.name} has no address in the cluster's network",
            hint="nodes must reach each other at ports 7946 (TCP, UDP) and 4789 (UDP)",
        )
    return Target(name=record.name, address=address, port=PORT, slots=record.spec.slots, draining=draining)


def _check(wish: Wish, count: int) -> None:
    """Refuse what does not go with replicas.

    Raises:
        UsageError: With what to do.
    """
    if not 1 <= count <= _MOST:
        raise UsageError(f"replicas is {count}", hint=f"it must be 1 to {_MOST}")
    if wish.backend == "native":
        raise UsageError("replicas run in containers", hint="leave --native out")
    given = [
        f"--{name}"
        for name, value in (
            ("transport", wish.transport),
            ("network", wish.network),
            ("restart", wish.restart),
        )
        if value not in {None, "no"}
    ]
    if given or wish.profile not in {None, *_SEALED}:
        given += [] if wish.profile in {None, *_SEALED} else [f"--profile {wish.profile}"]
        raise UsageError(
            f"{', '.join(given)} and --replicas do not go together",
            hint="replicas are sealed, reached by their gateway, and replaced when they end",
        )


def _front(wish: Wish, claim: runtime.Claim, ground: Ground, network: str, replicas: list[Record]) -> Record:
    """Start the gateway."""
    first = replicas[0]
    starting = Starting(
        claim=claim,
        spec=first.spec,
        limits=gateway.LIMITS,
        owner=None if wish.keep else runtime.default_owner(),
        expose=wish.expose,
    )
    api = ground.gateway()
    prepared = gateway.prepare(api, starting, network=network, replicas=[each.name for each in replicas])
    nodes = [each.node or "" for each in replicas]
    clear = () if ground.manager.swarm_encrypted() else (_CLEAR,)
    notes = (f"replicas: {places.spread(nodes)}", *(clear if len(set(nodes)) > 1 else ()))
    for note in notes:
        reporter().note(note)
    prepared = replace(prepared, record=replace(prepared.record, notes=notes, predicted=first.predicted))
    return begin(api, prepared, claim)


_CLEAR = (
    "what is asked and answered crosses the network between the nodes unencrypted; "
    "cluster init --encrypted makes a cluster where it does not"
)


def _take_back(manager: DockerApi, network: str, begun: list[Record]) -> None:
    """Remove what was begun; the network last, when nobody is in it any more."""
    for record in begun:
        with suppress(LabError):
            registry.stop(record, grace_s=0, forget=True)
    with suppress(LabError):
        manager.remove_network(network)


def _refused(place: Place, why: str) -> BackendError:
    return BackendError(
        f"node {place.node.name} does not keep what a replica is asked for, and gets none: {why}",
        hint="audit shows more; dockerd --no-new-privileges helps engines that leave that out; "
        f"cluster drain {place.node.name} leaves the node out",
    )
