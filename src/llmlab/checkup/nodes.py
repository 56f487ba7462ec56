"""What the container engine of a node tells of itself and its machine."""

from __future__ import annotations

from typing import Any

from llmlab.checkup import engine
from llmlab.checkup.facts import Facts
from llmlab.errors import DaemonPermissionError, LabError

GROUPS = frozenset({"Container engine"})
"""The groups of checks that look at nothing else."""


def facts_of(name: str) -> Facts:
    """The facts of a node, as far as its engine tells them.

    Args:
        name: The node's name, or its engine's address.

    Raises:
        UnknownNameError: If there is no such node.
    """
    # The doctor also runs where llmlab's own packages are missing.
    from llmlab.backends import docker_api, nodes  # noqa: PLC0415 - see above

    node = nodes.find(name)
    found: dict[str, Any] = {
        "address": node.address,
        "source": f"node {node.name}",
        "tls": node.address.startswith("tcp://"),
    }
    try:
        api = docker_api.connect(node.address)
        found["version"] = api.version
        found["info"] = {key: api.info[key] for key in engine.INFO if key in api.info}
    except LabError as error:
        kind = "permission" if isinstance(error, DaemonPermissionError) else "unreachable"
        found |= {"error": kind, "detail": "; ".join(filter(None, (error.message, error.hint)))}
    info = found.get("info") or {}
    return Facts(
        note=f"node {node.name}, as its container engine tells it",
        system={"linux": "Linux", "windows": "Windows"}.get(str(info.get("OSType") or "linux"), "Linux"),
        machine=str(info.get("Architecture") or ""),
        release=str(info.get("KernelVersion") or ""),
        engine=found,
    )
