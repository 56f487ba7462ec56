"""All servers of this user, wherever they run and whoever started them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from llmlab import backends, engines, runtime
from llmlab.backends import Found, container, room
from llmlab.client import Client
from llmlab.errors import (
    BackendError,
    DaemonError,
    EndpointError,
    LabError,
    ServerBusyError,
    UnknownNameError,
    UsageError,
)
from llmlab.lab import by_hand, ending, gpu_lost, left_behind, replicas, verdict
from llmlab.reporting import reporter
from llmlab.results import ServerStatus, State
from llmlab.specs import Record
from llmlab.testing.stand_ins import MARK

# Starting may take minutes (an image is pulled, a large model is loaded), but
# who stops a server wants to know soon that he has to wait.
_HOLD_S = 20.0
_HEALTH_S = 1.0


def find_all() -> list[Record]:
    """All records, newest first."""
    places = (*backends.backend_names(), room.NAME)
    found = [record for name in places for record in backends.backend(name).find()]
    return sorted(found, key=lambda record: record.created, reverse=True)


def count_here() -> int:
    """How many servers take something of what is measured here: rooms that were joined do not."""
    return sum(not record.endpoint.url for record in find_all())


def require_here(record: Record, what: str) -> None:
    """Refuse to do something with a classroom that was joined.

    Args:
        record: The server.
        what: What needs a server of one's own.

    Raises:
        UsageError: If it is such a classroom.
    """
    if record.endpoint.url:
        raise UsageError(
            f"{record.name!r} is a classroom that you have joined: {what} needs a server of your own",
            hint="start one: start tiny",
        )


def select(name: str | None, *, newest: bool = True) -> Record:
    """The server of that name, or the one that is meant without a name.

    Args:
        name: Its name, or None.
        newest: Without a name, take the newest; otherwise it must be the only one.

    Raises:
        UsageError: If there is none, or if it is not clear which one.
    """
    found = find_all()
    names = [record.name for record in found]
    if name is not None:
        for record in found:
            if record.name == name:
                return record
        hint = "" if names else "no server is there; start one: start tiny"
        raise UnknownNameError("server", name, names, hint=hint)
    if not found:
        raise UsageError("no server is running", hint="start one: start tiny")
    if not newest and len(found) > 1:
        raise UsageError("which server?", hint="name one of " + ", ".join(names) + ", or use --all")
    return found[0]


def client(record: Record) -> Client:
    """A client of a server, that checks who it talks to."""
    place = backends.backend(record.backend)
    return Client(
        record.name,
        record.endpoint,
        place.verify(record),
        place.opener(record),
        model=record.spec.model.name,
    )


def is_gone(record: Record) -> bool:
    """Whether this very server has been stopped, not only ended."""
    return not any((each.name, each.created) == (record.name, record.created) for each in find_all())


def status(record: Record) -> ServerStatus:
    """A server's row of `ps`."""
    state, detail, found = _state(record)
    gone = gpu_lost.told(record) or (verdict.lost(record) if state == "ready" else "")
    detail = "; ".join(filter(None, (detail, gone)))
    ended = found.ended if found else None
    return ServerStatus(
        name=record.name,
        model=record.spec.model.name,
        engine=_engine(record),
        backend="swarm" if record.replicas else record.backend,
        state=state,
        detail=detail,
        uptime_s=max(0.0, (ended or time.time()) - record.created),
        endpoint=str(record.endpoint),
        context=record.spec.context,
        slots=record.spec.slots,
        isolation=_isolation(record),
        remedy=ending.remedy(record, found) if found and not found.running else "",
        node=record.node,
    )


def _engine(record: Record) -> str:
    """The engine's name, and that it is a stand-in where it has said so."""
    stand_in = any(MARK in note for note in record.notes)
    return f"{record.spec.engine} (stand-in)" if stand_in else record.spec.engine


def _isolation(record: Record) -> str:
    """The isolation of what holds the model: of one with replicas, theirs."""
    if record.endpoint.url:
        return "not seen from here"
    held = replicas.of(record) or (record,)
    return ", ".join(dict.fromkeys(each.profile.label if each.profile else "not isolated" for each in held))


def stop(record: Record, *, grace_s: float, forget: bool = False) -> bool:
    """Stop and remove one server; whether there was something left to stop.

    Args:
        record: The server.
        grace_s: Seconds it may take to end by itself.
        forget: If its container engine does not answer, give it up: it is removed when that is back.

    Raises:
        ServerBusyError: If another process starts or stops it for long.
        DaemonError: If its container engine does not answer.
    """
    place = backends.backend(record.backend)
    if record.process and record.replicas:
        # Who would start its replicas anew.
        replicas.end_keeper(record.process)
    for each in replicas.all_of(record) if record.replicas else ():
        stop(each, grace_s=grace_s, forget=True)
    with runtime.hold(record.name, wait_s=_HOLD_S) as claim:
        # Another server may have taken the name while we waited.
        current = runtime.read_record(record.name) if claim else None
        ours = claim is not None and (current is None or current.created == record.created)
        try:
            place.stop(record, grace_s=grace_s)
        except DaemonError as error:
            if not forget:
                error.hint = f"{error.hint}; or give the server up: stop {record.name} --forget"
                raise
            left_behind.leave(record)
        by_hand.remove(record)
        if record.replicas:
            replicas.remove_network(record)
        if claim and ours:
            claim.remove()
        return ours or record.container_id is not None


def remove_ended(record: Record) -> bool:
    """Remove what is left of a server that has ended; False if it runs after all.

    Between creating a container and starting it, a server looks as if it had
    ended; so it is looked at once more when nobody holds its lock.
    """
    place = backends.backend(record.backend)
    try:
        with runtime.hold(record.name, wait_s=_HOLD_S) as claim:
            current = runtime.read_record(record.name) if claim else None
            if place.look(record).running or (current and current.created != record.created):
                return False
            place.stop(record, grace_s=0)
            by_hand.remove(record)
            if claim:
                claim.remove()
    except ServerBusyError:
        return False
    return True


def stop_all(*, grace_s: float, forget: bool = False) -> tuple[str, ...]:
    """Stop every server of this user; returns their names."""
    return tuple(record.name for record in find_all() if stop(record, grace_s=grace_s, forget=forget))


def sweep() -> tuple[str, ...]:
    """Remove what dead owners and dead starts have left; returns the names.

    What another process is just starting or stopping is left to it.
    """
    swept = []
    found = find_all()
    for record in found:
        if record.owner and runtime.has_ended(record.owner):
            with suppress(LabError):
                stop(record, grace_s=1.0)
                swept.append(record.name)
    for record in container.lost(found):
        with suppress(LabError), runtime.hold(record.name, wait_s=0) as claim:
            if claim and runtime.read_record(record.name) == record:
                backends.backend(record.backend).remove_abandoned(claim)
                claim.remove()
                swept.append(record.name)
    swept += [name for name in runtime.abandoned() if _remove_abandoned(name, found)]
    for record in filter(replicas.is_orphan, found):
        with suppress(LabError):
            stop(record, grace_s=1.0, forget=True)
            swept.append(record.name)
    for place in backends.backend_names():
        with suppress(LabError):
            backends.backend(place).remove_orphans()
    by_hand.sweep({record.name for record in found})
    if swept:
        reporter().note(f"removed {', '.join(swept)}: what started it has ended")
    return tuple(swept)


def _remove_abandoned(name: str, found: Sequence[Record]) -> bool:
    """Remove what a start that died has left under a name; whether that was it."""
    known = next((record for record in found if record.name == name), None)
    with suppress(LabError), runtime.hold(name, wait_s=0) as claim:
        if claim and known and (claim.path / runtime.RECORD).exists():
            # Its file is damaged, but its container carries the same in labels.
            claim.write(known)
        elif claim and runtime.read_record(name) is None:
            for place in backends.backend_names():
                backends.backend(place).remove_abandoned(claim)
            claim.remove()
            return True
    return False


def _state(record: Record) -> tuple[State, str, Found | None]:
    """Its state, more on that, and what its backend says of it."""
    try:
        found = backends.backend(record.backend).look(record)
    except BackendError as error:
        return "lost", error.message, None
    detail = ending.told(record, found)
    if found.running and record.replicas:
        detail = replicas.told(record) or detail
    if not found.running:
        return "exited", detail, found
    if found.held:
        return found.held, detail, found
    if record.endpoint.url:
        return "ready", detail, found  # it has just said so
    if record.endpoint.socket and not record.endpoint.socket.parent.exists():
        return "lost", "its socket's directory is gone", found
    return _asked(record, detail, found)


def _asked(record: Record, detail: str, found: Found) -> tuple[State, str, Found]:
    """The state of one that runs, as it says it itself."""
    try:
        healthy = client(record).healthy(
            path=engines.engine(record.spec.engine).HEALTH_PATH, timeout_s=_HEALTH_S
        )
    except EndpointError as error:
        return "lost", error.message, found
    if healthy:
        # A start that was killed has not come to this.
        backends.backend(record.backend).settle(record)
    return ("ready" if healthy else "loading"), detail, found
