"""A server's replicas: where they stand, what each has answered, and the wait until they stand elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from llmlab import lab, render, runtime
from llmlab.backends import gateway
from llmlab.errors import LabError, UsageError
from llmlab.lab import left_behind, registry, replicas
from llmlab.reporting import reporter
from llmlab.results import Result
from llmlab.specs import Record
from llmlab.workshop import judges

_LOOK_S = 0.5
_PATIENCE_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One of a server's replicas. Unknown is None.

    Attributes:
        name: Its name.
        node: The machine that it runs on.
        state: How the gateway sees it.
        network: The network that its container engine has given it.
        answered: Requests that the gateway has given it so far.
    """

    name: str
    node: str | None
    state: str
    network: str | None
    answered: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas(Result):
    """The replicas behind one address.

    Attributes:
        server: The name of the whole.
        listens: Where it is reached, as it is written: a unix socket, or through the container engine.
        network: The network of the cluster that the gateway and the doors of the replicas are in.
        replicas: Each of them.
    """

    server: str
    listens: str
    network: str | None
    replicas: tuple[Replica, ...]

    HEADER = ("replica", "machine", "state", "network", "requests")

    def rows(self) -> list[list[str]]:
        """A row for each."""
        return [
            [
                each.name,
                each.node or render.UNKNOWN,
                each.state,
                each.network or render.UNKNOWN,
                render.UNKNOWN if each.answered is None else str(each.answered),
            ]
            for each in self.replicas
        ]

    def _facts(self) -> list[tuple[str, str]]:
        return [("reached at", self.listens), ("network of the gateway", self.network or render.UNKNOWN)]

    def __str__(self) -> str:
        """A table, under where the whole is reached."""
        head = [f"{self.server}"] + [f"  {label}: {render.plain(value)}" for label, value in self._facts()]
        return "\n".join([*head, render.text_table(self.HEADER, self.rows())])

    def to_html(self) -> str:
        """The same as a card."""
        body = render.html_pairs(self._facts()) + render.html_table(self.HEADER, self.rows())
        return render.html_card(self.server, body)


def look(name: Any) -> Replicas:
    """The replicas of a server.

    Args:
        name: The server's name, or its handle.

    Raises:
        UsageError: There is no such server, or it has none.
        BackendError: Its gateway does not answer.
    """
    record = _whole(name)
    seen = {each.name: each for each in gateway.ask(record)}
    found = []
    for each in replicas.of(record):
        there = seen.get(each.name)
        found.append(
            Replica(
                name=each.name,
                node=each.node,
                state=there.state if there else "missing",
                network=_network(each),
                answered=there.served if there else None,
            )
        )
    return Replicas(
        server=record.name, listens=str(record.endpoint), network=record.overlay, replicas=tuple(found)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited(Result):
    """How long something has taken that llmlab does by itself.

    Attributes:
        what: What has come about.
        seconds: From the call to then.
    """

    what: str
    seconds: float

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.what}, after {self.seconds:.1f} s"

    def to_html(self) -> str:
        """The same sentence."""
        return render.html_text(str(self))


def moved(name: Any, *, off: str, within_s: float = _PATIENCE_S) -> Waited:
    """Wait until no replica of a server is on a machine any more, and as many as before are ready elsewhere.

    Args:
        name: The server's name, or its handle.
        off: The machine that they are to be off.
        within_s: Longest wait, seconds.

    Raises:
        UsageError: There is no such server, or it has no replicas.
        LabError: It has not come to that.
    """
    server = _whole(name).name

    def there() -> bool:
        record = _whole(server)
        with suppress(LabError):
            seen = {each.name: each.state for each in gateway.ask(record)}
            nodes = [each.node for each in replicas.of(record)]
            ready = all(seen.get(each) == "ready" for each in record.replicas)
            return ready and len(nodes) == len(record.replicas) and off not in nodes
        return False

    what = f"all replicas of {server} are ready, none of them on {off}"
    return _waited(
        f"wait for {server}", what, there, within_s, f"replicas.look({server!r}) shows how they are"
    )


def swept(*, within_s: float = _PATIENCE_S) -> Waited:
    """Wait until nothing is left behind on machines that had been lost.

    Args:
        within_s: Longest wait, seconds.

    Raises:
        LabError: It has not come to that.
    """
    names = ", ".join(_given_up())
    what = f"{names} was given up, and is removed" if names else "nothing is left behind"
    hint = "its machine must answer again; `%llm nodes` removes it, too"
    return _waited("wait for what was left behind", what, lambda: not _given_up(), within_s, hint)


def _given_up() -> list[str]:
    """Replicas that are to be removed: noted down, or just on their way out."""
    records = runtime.records()
    kept = {name for each in records for name in each.replicas}
    leaving = [each.name for each in records if each.replica_of and each.name not in kept]
    return sorted({*leaving, *(each.name for each in left_behind.waiting())})


def _waited(title: str, what: str, there: Callable[[], bool], within_s: float, hint: str) -> Waited:
    began, report = time.monotonic(), reporter()
    report.begin(title, ["ready"])
    failed = True
    try:
        while not there():
            if time.monotonic() - began > within_s:
                raise LabError(f"after {within_s:g} s it is not so that {what}", hint=hint)
            time.sleep(_LOOK_S)
        report.stage("ready")
        failed = False
    finally:
        report.end(failed=failed)
    return Waited(what=what, seconds=time.monotonic() - began)


def _whole(name: Any) -> Record:
    """The record of a server that has replicas."""
    record = registry.select(getattr(name, "name", name))
    if not record.replicas:
        of = f", and a replica of {record.replica_of}" if record.replica_of else ""
        raise UsageError(
            f"{record.name} is a single server{of}",
            hint="the name of the whole is wanted: what was given to start with --replicas",
        )
    return record


def _network(replica: Record) -> str | None:
    with suppress(LabError):
        control = judges.control(lab.inspect(replica.name), "network")
        return control.recorded if control else None
    return None
