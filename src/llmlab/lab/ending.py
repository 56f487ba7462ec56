"""How a server came to its end: when, why, what shows that, and what to do.

Nobody watches servers all the time. What is known was written down by who ended
with it or after it: the container engine, the shell around a native server, the
kernel's log, the server's own last words.
"""

from __future__ import annotations

import time
from contextlib import suppress

from llmlab import backends, engines, render
from llmlab.backends import Found
from llmlab.errors import LabError
from llmlab.specs import Record

_MINUTE_S = 60
# What a limit is raised in; a figure such as 1337m looks as if it were exact.
_STEP_MIB = 64


def ago(then: float) -> str:
    """How long ago something was, as a person says it; a clock that was put back makes no negative times."""
    seconds = max(time.time() - then, 0)
    return f"{render.duration_text(seconds)} ago" if seconds < _MINUTE_S else f"{_coarse(seconds)} ago"


def told(record: Record, found: Found) -> str:
    """When and why a server ended, and what shows it: "ended 3 min ago: …"; of one that runs, its restarts."""
    if found.running:
        if found.held == "restarting":
            return f"{found.detail}; this is restart {found.restarts}"
        if found.held or not found.restarts:
            return found.detail
        last = f", last {ago(found.since)}" if found.since else ""
        return f"started anew {_times(found.restarts)}{last}"
    when = f"ended {ago(found.ended)}: " if found.ended else ""
    tries = f"; it had been started anew {_times(found.restarts)}" if found.restarts else ""
    return f"{when}{_why(record, found)}{tries}"


def is_anew(found: Found, asked: float) -> bool:
    """Whether it is being started anew, or was since a moment, in seconds since the epoch."""
    return found.held == "restarting" or (found.running and (found.since or 0) >= asked)


def failed(record: Record, found: Found) -> str:
    """What has become of a server that did not answer."""
    if found.held == "restarting":
        return f"is being started anew; {told(record, found)}"
    if found.running:
        return f"died, and was {told(record, found)}"
    return f"is not running: {told(record, found)}"


def remedy(record: Record, found: Found) -> str:
    """What can be pasted to have it again, and on what condition that helps."""
    if found.running:
        return "ask again in a moment"
    again = f"start {record.spec.model.reference} --name {record.name}"
    if not found.out_of_memory:
        return f"see its log (logs {record.name}); start it again: {again}"
    limit = record.limits.memory_mib if record.limits else None
    if limit is None:
        return f"free memory, or start it with a smaller --context than {record.spec.context}: {again}"
    return f"start it with more memory, or with a smaller --context: {again} --memory {_more(record, limit)}m"


def _why(record: Record, found: Found) -> str:
    """The cause, with what shows it."""
    if found.out_of_memory:
        return f"out of memory{_figures(record)}"
    # A program that was told to end, or was killed, says nothing of it in its log.
    with suppress(LabError):
        engine, log = engines.engine(record.spec.engine), backends.backend(record.backend).log(record)
        if reason := (engine.explain(log) or ("",))[0]:
            return f"{reason} ({found.detail})"
    return found.detail


def _figures(record: Record) -> str:
    limit = record.limits.memory_mib if record.limits else None
    figures = [] if limit is None else [f"the limit is {limit} MiB"]
    if record.predicted:
        figures.append(f"it was predicted to hold up to {record.predicted.resident_mib} MiB")
    if record.observed_mib is not None:
        figures.append(f"it held {record.observed_mib} MiB when it was ready")
    return f" ({', '.join(figures)})" if figures else ""


def _more(record: Record, limit: int) -> int:
    """A limit that is half as much again, and not below what is predicted."""
    needed = record.predicted.resident_mib if record.predicted else 0
    most = max(limit * 3 // 2, needed)
    return -(-most // _STEP_MIB) * _STEP_MIB


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _coarse(seconds: float) -> str:
    """In minutes, from an hour on as `duration_text`; seconds would change with every look."""
    minutes = int(seconds // _MINUTE_S)
    return f"{minutes} min" if minutes < 60 else render.duration_text(minutes * _MINUTE_S)  # noqa: PLR2004
