"""Checks of servers with replicas, of machines that were lost, and of what is left of either."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from llmlab import lab, runtime
from llmlab.backends import docker_api
from llmlab.errors import LabError
from llmlab.lab import left_behind, registry, surveying
from llmlab.workshop import judges, replicas
from llmlab.workshop.replicas import Replicas
from llmlab.workshop.tasks import Verdict, failed, passed

_OUTSIDE = ("", "inactive")


def spread(name: Any, *, count: int) -> Verdict:
    """Whether a server has so many replicas, all ready, each on a machine of its own and without a network.

    Args:
        name: The server's name, or its handle.
        count: How many.

    Raises:
        UsageError: There is no such server, or it is not ready.
        BackendError: Its gateway does not answer.
    """
    status = judges.server(name)
    record = registry.select(status.name)
    if not record.replicas:
        what = (
            f"one replica, and stands behind {record.replica_of}" if record.replica_of else "a single server"
        )
        return failed(
            f"{status.name} is {what}.", "the address of all three is wanted: `%llm ps` lists it as 'swarm'"
        )
    seen = replicas.look(status.name)
    if len(seen.replicas) != count:
        return failed(
            f"{seen.server} has {len(seen.replicas)} replicas, not {count}.",
            f"start it with --replicas {count}",
        )
    if waiting := [each.name for each in seen.replicas if each.state != "ready"]:
        return failed(
            f"Not ready: {', '.join(waiting)}.", "wait for the keeper, some seconds, and check again"
        )
    return _apart(seen)


def _apart(seen: Replicas) -> Verdict:
    """Whether each replica is on a machine of its own, and without a network."""
    nodes = {each.node for each in seen.replicas}
    if len(nodes) < len(seen.replicas):
        return failed(
            f"{len(seen.replicas)} replicas are on {len(nodes)} machines.",
            "`%llm cluster status`: a machine that is drained or down gets none",
        )
    if open_ := [each.name for each in seen.replicas if each.network != "none"]:
        return failed(
            f"{open_[0]} has the network {seen.replicas[0].network or 'unknown'}.",
            f"`%llm inspect {open_[0]}`, line 'network'",
        )
    where = ", ".join(f"{each.name} on {each.node}" for each in seen.replicas)
    return passed(
        f"{where}: all ready, and none has a network, by what their container engines have recorded."
    )


def swept(node: Any, server: Any) -> Verdict:
    """Whether a machine that was lost is back, and nothing is left there but what belongs there.

    Args:
        node: The machine, as `nodes` calls it.
        server: The server that had a replica there.

    Raises:
        UsageError: There is no such server.
        UnknownNameError: There is no such machine.
    """
    there = surveying.survey((str(node),))[0]
    if there.state != "ready":
        return failed(f"{node} is {there.state}.", "plug its cable in again, in the cell above")
    if waiting := [each.name for each in left_behind.waiting()]:
        return failed(
            f"Still to be removed: {', '.join(waiting)}.",
            "the keeper does it when the machine answers; `%llm nodes` does it, too",
        )
    belonging = set(registry.select(getattr(server, "name", server)).replicas)
    if left := [each for each in there.servers or () if each not in belonging and _ours(each)]:
        return failed(f"Left on {node}: {', '.join(left)}.", "wait some seconds, and check again")
    return passed(f"{node} is back, and what was given up there is removed.")


def _ours(name: str) -> bool:
    """Whether a server on another machine is one of this user's: others' are not looked at."""
    return name.partition(".")[0] in {each.name.partition(".")[0] for each in runtime.records()}


def nothing_left(names: Iterable[str], *, cluster: bool) -> Verdict:
    """Whether servers are gone with their replicas, and this machine is in no cluster.

    Args:
        names: The servers.
        cluster: Whether one was made; otherwise a cluster is none of the lesson's.
    """
    own = tuple(names)
    more = [one.name for one in lab.ps() if one.name.rpartition(".")[0] in own]
    verdict = judges.nothing_left((*own, *more))
    if verdict.outcome != "passed":
        return verdict
    if waiting := [each.name for each in left_behind.waiting()]:
        return failed(f"Still to be removed: {', '.join(waiting)}.", "%llm nodes, once their machine answers")
    if not cluster:
        return passed("The servers are gone.")
    with suppress(LabError):
        state = docker_api.connect().swarm_state().get("LocalNodeState")
        if state not in (None, *_OUTSIDE):
            return failed(
                f"This machine's container engine is still in a cluster ({state}).",
                "%llm cluster status, then %llm cluster leave NODE; one that was there before may stay",
            )
    return passed("Servers and cluster are gone.")
