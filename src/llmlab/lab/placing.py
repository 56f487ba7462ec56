"""On which node a server is started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from llmlab.backends import docker_api, nodes
from llmlab.backends.nodes import Node
from llmlab.errors import BackendError, LabError, UsageError
from llmlab.lab import surveying
from llmlab.lab.node_views import NodeStatus
from llmlab.machine import Machine
from llmlab.reporting import reporter
from llmlab.specs import BackendName

ANY = "any"
"""What is written in place of a node's name, to leave the choice."""


@contextmanager
def placed(on: str | None, *, native: bool = False, gpus: bool = False) -> Iterator[str | None]:
    """Start what is started inside on a node; its name, or None if no node was asked for.

    Args:
        on: A node's name, an engine's address, `any`, or None.
        native: Whether it is to run natively.
        gpus: Whether it needs a GPU.

    Raises:
        UsageError: If there is no such node, or it cannot be had with the rest.
        BackendError: If none of them can be used.
    """
    if on is None:
        yield None
        return
    if native:
        raise UsageError("a native server runs on this machine only", hint="leave --native out, or --on")
    node = choose(gpus=gpus) if on == ANY else nodes.find(on)
    if on == ANY:
        reporter().note(f"node {node.name}: the least loaded of those that can be used")
    with docker_api.using(node.address):
        yield node.name


def choose(*, gpus: bool = False, without: frozenset[str] = frozenset()) -> Node:
    """The least loaded node: the fewest servers for its CPUs, then the most memory that nobody may take.

    Args:
        gpus: Only those with a GPU.
        without: Names of nodes that do not count.

    Raises:
        BackendError: If none can be used; it says why not, of each.
    """
    seen = [each for each in surveying.survey() if each.name not in without]
    usable = [each for each in seen if each.state == "ready" and (each.gpus or not gpus)]
    if not usable:
        why = "; ".join(f"{each.name}: {_why_not(each)}" for each in seen) or "there is none"
        raise BackendError(f"no node can be used: {why}", hint="llmlab nodes shows them")
    best = min(usable, key=load)
    return Node(name=best.name, address=best.address, current=best.current)


def load(node: NodeStatus) -> tuple[float, int, bool]:
    """How loaded a node is, to be compared with others."""
    return (len(node.servers) / max(node.cpus or 1, 1), -(node.free_mib or 0), not node.current)


def machine_of(place: BackendName, node: str | None) -> Machine | None:
    """The machine of the container engine that is meant, if that is another one than this.

    Args:
        place: The backend.
        node: The node's name, for messages.
    """
    if place != "container":
        return None
    # An engine that does not answer is told of by the start itself, with what else can be done.
    with suppress(LabError):
        return nodes.machine_of(docker_api.connect(), name=f"node {node}" if node else "")
    return None


def _why_not(node: NodeStatus) -> str:
    return node.detail if node.state != "ready" else "it has no GPU that containers could be given"
