"""A cluster: several nodes as one Docker Swarm, for servers with replicas on several of them."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from llmlab.arguments import Arg
from llmlab.clusters import changing, looking
from llmlab.clusters.members import cluster_of, survey
from llmlab.clusters.views import ClusterNode, ClusterStatus
from llmlab.errors import UnknownNameError, UsageError

__all__ = ["Action", "ClusterNode", "ClusterStatus", "cluster"]

Action = Literal["init", "join", "status", "drain", "activate", "leave"]
_OPTIONS = {
    "advertise": ("init", "join"),
    "encrypted": ("init",),
    "manager": ("join",),
    "force": ("leave",),
}


def cluster(
    action: Annotated[Action, Arg(metavar="init|join|status|drain|activate|leave")] = "status",
    names: Annotated[str | None, Arg(metavar="NODES", completes="node")] = None,
    *,
    on: Annotated[str | None, Arg(metavar="NODE", completes="node")] = None,
    advertise: Annotated[str | None, Arg(metavar="ADDRESS")] = None,
    encrypted: bool = False,
    manager: bool = False,
    force: bool = False,
) -> ClusterStatus:
    """Make several nodes one cluster, let nodes join and leave, see how they are.

    The cluster is a Docker Swarm; llmlab uses it for membership and for networks between
    nodes. Nodes are what Docker knows by its contexts (the verb nodes lists them). The
    token that a node joins with goes from the manager's engine to the node's; nobody types it.

    Args:
        action: What to do; status, if nothing is said.
        names: join, drain, activate, leave: the nodes, such as n2,n3. A drained node gets
            no more servers; those that are there go on.
        on: init: the node that is to be the first manager. Otherwise a node of the cluster that
            is meant, if there are several. Unset: the current node.
        advertise: init, join: the address at which the other nodes reach it, where it has several.
        encrypted: init: encrypt what goes between nodes over the cluster's networks. Their
            kernels need IPsec (ESP) for that; where it is missing, nothing gets through.
        manager: join: as managers. As long as more than half of the managers run, the cluster
            can be changed: with three, one may fail.
        force: leave: even if it has servers in the cluster's networks, if the cluster ends
            with it, or if it does not answer.

    Raises:
        UsageError: An option does not fit, a node is in another cluster, or it is not clear which is meant.
        BackendError: A node does not answer, or the managers have no quorum.
    """
    if action not in get_args(Action):
        raise UnknownNameError("action", action, get_args(Action))
    given = {"advertise": advertise, "encrypted": encrypted, "manager": manager, "force": force}
    for option, actions in _OPTIONS.items():
        if given[option] and action not in actions:
            raise UsageError(f"--{option} is for cluster {' and '.join(actions)}", hint="leave it out")
    nodes = tuple(each.strip() for each in (names or "").split(",") if each.strip())
    if nodes and action in {"init", "status"}:
        raise UsageError(f"cluster {action} takes no nodes", hint=f"cluster {action} --on {nodes[0]}")
    if not nodes and action not in {"init", "status"}:
        raise UsageError("which nodes?", hint=f"cluster {action} NODE")
    if action == "init":
        done = [changing.make(on, advertise=advertise, encrypted=encrypted)]
    elif action == "join":
        done = changing.join(nodes, on, managers=manager, advertise=advertise)
    elif action == "leave":
        done = changing.leave(nodes, on, force=force)
        # The one that was named may have been it.
        return looking.status(cluster_of(survey()), done)
    elif action in {"drain", "activate"}:
        availability = "drain" if action == "drain" else "active"
        done = changing.give_work(nodes, on, availability=availability)
    else:
        done = []
    return looking.status(cluster_of(survey(), on), done)
