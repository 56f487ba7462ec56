"""Servers that consist of several: what there is to know of them without a cluster's tools."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from importlib import import_module
from typing import cast

from llmlab import runtime
from llmlab.backends import gateway
from llmlab.errors import LabError, UsageError
from llmlab.lab.planning import Wish
from llmlab.specs import Process, Record

_KEEPER_S = 15.0
_TICK_S = 0.05


def start(wish: Wish, count: int, *, timeout_s: float) -> Record:
    """Start a server with replicas on a cluster's nodes.

    Args:
        wish: The arguments of `start`.
        count: How many.
        timeout_s: Longest wait for each, seconds.

    Raises:
        LabError: As `llmlab.start`.
    """
    # It tries the isolation of each node, as the audit does, which stands above the verbs.
    place = import_module("llmlab.clusters.replicating")
    return cast("Record", place.start(wish, count, timeout_s=timeout_s))


def of(record: Record) -> tuple[Record, ...]:
    """The records of a server's replicas, as far as there are any."""
    found = (runtime.read_record(name) for name in record.replicas)
    return tuple(each for each in found if each and each.replica_of == record.name)


def all_of(record: Record) -> tuple[Record, ...]:
    """Its replicas, those that are on their way out as well."""
    return tuple(each for each in runtime.records() if each.replica_of == record.name)


def is_orphan(record: Record) -> bool:
    """Whether a replica's server was never ready, and whoever started it is gone."""
    # A start under way has its directory before its record.
    return record.replica_of is not None and not (runtime.runtime_dir() / record.replica_of).exists()


def told(record: Record) -> str:
    """How many of a server's replicas are ready, and what is wrong with the others; "" if all are well."""
    try:
        seen = gateway.ask(record)
    except LabError as error:
        return error.message
    ready = [each for each in seen if each.state == "ready"]
    wrong = [
        f"{each.name} is {each.state}{f' ({each.error})' if each.error else ''}"
        for each in seen
        if each.state != "ready"
    ]
    missing = set(record.replicas) - {each.name for each in seen}
    wrong += [f"{name} is missing" for name in sorted(missing)]
    keeper = "" if record.process is None or runtime.is_alive(record.process) else "its keeper has ended"
    count = f"{len(ready)} of {len(record.replicas)} replicas ready"
    return "; ".join(filter(None, (count if wrong else "", *wrong, keeper)))


def described(record: Record) -> str:
    """Where a server's replicas stand, and that its own receipt is that of the gateway before them."""
    held = ", ".join(f"{each.name} on {each.node}" for each in of(record)) or "none"
    return (
        f"{held}. Each has a receipt of its own (inspect {record.replicas[0]}); this one is the gateway's, which "
        "holds no model and is in the cluster's network with their doors"
    )


def refuse(record: Record) -> None:
    """Refuse to do to one replica what is to be done to the server.

    Raises:
        UsageError: If the record is a replica's.
    """
    if record.replica_of and runtime.read_record(record.replica_of):
        raise UsageError(
            f"{record.name} is a replica of {record.replica_of}, and would be started anew",
            hint=f"stop {record.replica_of}, or take its node out: cluster drain {record.node}",
        )


def remove_network(record: Record) -> None:
    """Remove the network of a server with replicas, once their containers are gone."""
    import_module("llmlab.clusters.networks").remove(record)


def end_keeper(keeper: Process) -> None:
    """End the process that starts replicas anew, and wait until it has taken back what it had begun."""
    if keeper.pid == os.getpid():
        return
    deadline = time.monotonic() + _KEEPER_S
    with suppress(ProcessLookupError):
        while runtime.is_alive(keeper):
            late = time.monotonic() > deadline
            os.kill(keeper.pid, signal.SIGKILL if late else signal.SIGTERM)
            time.sleep(_TICK_S)
