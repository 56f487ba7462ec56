"""What a server's keeper is told, and how it is started."""

from __future__ import annotations

from llmlab import runtime
from llmlab.lab import detached
from llmlab.specs import Process, Record

WISH = "wish.json"
"""What a server's replicas are started with, in its directory."""
LOG = "keeper.log"


def spawn(record: Record) -> Process | None:
    """Start the keeper of a server."""
    log = runtime.runtime_dir() / record.name / LOG
    return detached.spawn("llmlab.clusters.keeping", record.name, log=log)
