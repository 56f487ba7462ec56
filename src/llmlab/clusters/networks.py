"""The networks between a cluster's nodes that servers with replicas have."""

from __future__ import annotations

from contextlib import suppress

from llmlab import runtime
from llmlab.backends import labels
from llmlab.backends.docker_api import DockerApi
from llmlab.clusters import members
from llmlab.errors import LabError
from llmlab.specs import Record


def remove(record: Record) -> None:
    """Remove the network of a server whose containers are gone.

    A node that cannot be reached may still have a container in it: then it is left to `sweep`.

    Args:
        record: The server's.
    """
    with suppress(LabError):
        found = members.cluster_of(members.survey())
        if found and record.overlay:
            manager, _ = found.manager()
            manager.remove_network(record.overlay)


def sweep(manager: DockerApi) -> tuple[str, ...]:
    """Remove networks of this user's whose server is gone; returns their names.

    Args:
        manager: The engine of a manager.
    """
    removed = []
    for network in manager.networks(f"{labels.USER}={runtime.scope()}", labels.SERVER):
        name = str((network.get("Labels") or {}).get(labels.SERVER))
        # A start under way has its directory before its record.
        if network.get("Driver") == "overlay" and not (runtime.runtime_dir() / name).exists():
            with suppress(LabError):
                manager.remove_network(str(network["Id"]))
                removed.append(str(network["Name"]))
    return tuple(removed)
