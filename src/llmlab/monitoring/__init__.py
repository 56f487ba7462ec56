"""What servers take of this machine over a while, as it is measured.

The package is not called as its verb is: `llmlab.monitor` would be the package
as soon as it is imported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

from llmlab import machine
from llmlab.arguments import Arg
from llmlab.errors import UsageError
from llmlab.lab import registry, requests
from llmlab.monitoring import sources, views
from llmlab.monitoring.results import Monitoring
from llmlab.reporting import reporter
from llmlab.specs import Record
from llmlab.telemetry import recording
from llmlab.telemetry.recording import Recording
from llmlab.telemetry.sampler import Sampler

__all__ = ["Monitoring", "monitor"]

_MOST_HZ, _MOST_S = 20.0, 3600.0
_TICK_S, _SHOWN_EVERY_S = 0.05, 0.5


def monitor(
    name: Annotated[str | None, Arg(completes="server")] = None,
    *,
    for_s: float = 10.0,
    hz: float = 2.0,
    save: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    replay: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
) -> Monitoring:
    """Watch for a while what servers take of this machine: CPU, memory, GPU, tokens.

    What cannot be seen is unknown, never 0. Ctrl-C ends it early and shows what
    was seen until then.

    Args:
        name: The server. Unset: all that run.
        for_s: How long, in seconds.
        hz: Looks per second.
        save: Write what was seen into this file, to be replayed.
        replay: Show what is in such a file, in place of this machine.

    Raises:
        UsageError: No such server or recording, or a time that cannot be.
        LabError: The recording cannot be written.
    """
    if replay is not None:
        return _replayed(replay)
    if not 0 < for_s <= _MOST_S:
        raise UsageError(f"for is {for_s:g}", hint="it must be more than 0 s, and at most 3600 s")
    if not 0 < hz <= _MOST_HZ:
        raise UsageError(f"hz is {hz:g}", hint=f"it must be more than 0, and at most {_MOST_HZ:g} per second")
    records = registry.find_all() if name is None else [registry.select(name)]
    report = reporter()
    report.begin(f"monitor {name or 'all servers'}", ("watch",))
    report.stage("watch", f"for {for_s:g} s; Ctrl-C ends it")
    failed = True
    try:
        seen = _watched(records, for_s, hz)
        failed = False
    finally:
        report.end(failed=failed)
    return seen if save is None else seen.save(save)


def _watched(records: Sequence[Record], for_s: float, hz: float) -> Monitoring:
    """Look until the time is over, or Ctrl-C."""
    found = sources.of(records)
    began, wall = time.monotonic(), datetime.now(timezone.utc)
    sampler = Sampler(found, hz=hz, capacity=math.ceil(for_s * hz) + 2)
    shown = began
    with sampler, suppress(KeyboardInterrupt):
        while (left := began + for_s - time.monotonic()) > 0:
            # In small steps, so that Ctrl-C is heard.
            time.sleep(min(left, _TICK_S))
            if (now := time.monotonic()) - shown >= _SHOWN_EVERY_S:
                shown = now
                reporter().stage("watch", views.live(sampler.latest()))
    here, first = machine.look(), sampler.history.began
    end = time.monotonic()
    bands = [requests.between(record, began if first is None else first, end) for record in records]
    recorded = Recording(
        began=wall.isoformat(timespec="seconds"),
        machine={"cpu": here.cpu, "cpus": here.cpus, "memory_mib": here.total_mib},
        series=sampler.series(),
        requests=tuple(band for each in bands for band in each),
    )
    return Monitoring(recorded=recorded, seconds=end - began, missed=sampler.missed)


def _replayed(path: str) -> Monitoring:
    found = recording.read(Path(path).expanduser())
    times = found.series[0].times_s if found.series else ()
    # A metric of which nothing was known has no chart.
    kept = tuple(each for each in found.series if each.known)
    seconds = times[-1] - times[0] if times else 0.0
    return Monitoring(
        recorded=replace(found, series=kept),
        seconds=seconds,
        replayed=path,
    )
