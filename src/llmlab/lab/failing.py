"""A question that is not answered: why nothing comes, and what has become of the server."""

from __future__ import annotations

import re
import time
from contextlib import suppress

from llmlab import backends
from llmlab.backends import Found
from llmlab.client import Client, queueing, rooms
from llmlab.errors import BackendError, ServerBusyError, ServerStoppedError
from llmlab.lab import ending, registry
from llmlab.reporting import reporter
from llmlab.specs import Record

# Between the end of a server's connections and its container engine noticing that it has ended.
_NOTICED_S = 1.0
_PAUSE_S = 0.05
_LOG_LINES = 5
# What a classroom says to those who wait for their turn.
_PLACE = re.compile(r"waiting, position (\d{1,6})")


def waits(record: Record, client: Client) -> None:
    """Nothing has come yet: say why.

    Raises:
        ServerBusyError: If nothing will, since it is halted.
    """
    if record.endpoint.url:
        reporter().waiting(queueing.waiting(None))
        return
    with suppress(BackendError):
        found = backends.backend(record.backend).look(record)
        if found.held == "paused":
            # Why, and what lets it go on, is said by `say_why`.
            raise ServerBusyError(
                f"server {record.name!r} does not answer",
                hint=f"let it go on, or stop it: stop {record.name}",
            )
    reporter().waiting(queueing.waiting(client.queue()))


def commented(comment: str) -> None:
    """A server has said something beside its answer: a classroom tells the place in its queue."""
    if found := _PLACE.fullmatch(comment):
        reporter().waiting(f"waiting for its turn in the classroom: place {found[1]}")


def say_why(record: Record, error: ServerBusyError) -> None:
    """Add to an error why the server does not answer, if it is to be seen that it cannot."""
    with suppress(BackendError):
        found = backends.backend(record.backend).look(record)
        if found.held == "paused":
            error.message += f": it is {found.detail}"


def explained(record: Record, error: ServerStoppedError, asked: float) -> ServerStoppedError:
    """The same error with the reason, where there is one to be seen.

    Args:
        record: The server.
        error: What its client has seen.
        asked: When the question was asked, seconds since the epoch.
    """
    if record.endpoint.url and not registry.is_gone(record):
        return rooms.unreached(record.endpoint.url, error)
    if registry.is_gone(record):
        better = ServerStoppedError(
            f"server {record.name!r} has been stopped",
            hint=f"start it again: start {record.spec.model.reference} --name {record.name}",
        )
    else:
        try:
            found = _settled(record, asked)
            if found.running and not ending.is_anew(found, asked):
                return error
            log = backends.backend(record.backend).log(record, _LOG_LINES)
        except BackendError:
            return error
        better = ServerStoppedError(
            f"server {record.name!r} {ending.failed(record, found)}",
            hint=ending.remedy(record, found),
            log_tail=tuple(log),
        )
    better.answer = error.answer
    return better


def _settled(record: Record, asked: float) -> Found:
    """How it fares, once that shows."""
    place, deadline = backends.backend(record.backend), time.monotonic() + _NOTICED_S
    while True:
        found = place.look(record)
        if not found.running or ending.is_anew(found, asked) or time.monotonic() > deadline:
            return found
        time.sleep(_PAUSE_S)
