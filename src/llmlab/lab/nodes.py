"""The verb `nodes`: where servers can be started."""

from __future__ import annotations

from typing import Annotated

from llmlab.arguments import Arg
from llmlab.lab import left_behind, surveying
from llmlab.lab.node_views import NodeList, NodeStatus
from llmlab.reporting import reporter

__all__ = ["NodeList", "NodeStatus", "nodes"]


def nodes(node: Annotated[str | None, Arg(completes="node")] = None) -> NodeList:
    """List the container engines on which servers can be started, and what they have.

    They are those that Docker knows by its contexts, reached through a unix socket, TLS or
    ssh. Another machine is made known with `docker context create NAME --docker
    host=ssh://USER@HOST`. Servers that you gave up while their node could not be reached
    are removed from those that answer again.

    Args:
        node: This one only. Unset: all.

    Raises:
        UsageError: No such node.
        BackendError: Docker's contexts cannot be read.
    """
    found = surveying.survey(() if node is None else (node,))
    swept = left_behind.sweep({each.address for each in found if each.state == "ready"})
    if swept:
        reporter().note(f"removed {', '.join(swept)}, given up while the node did not answer")
    return NodeList(found)
