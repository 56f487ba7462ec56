"""What servers take of this machine over a while, as it is measured.

The package is not called as its verb is: `llmlab.monitor` would be the package
as soon as it is imported.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, overload

from llmlab.arguments import Arg
from llmlab.errors import UsageError
from llmlab.lab import registry
from llmlab.monitoring.results import Monitoring, Seen
from llmlab.monitoring.watch import Watch
from llmlab.reporting import reporter
from llmlab.telemetry import recording

__all__ = ["Monitoring", "Seen", "Watch", "monitor"]

_MOST_HZ, _MOST_S = 20.0, 3600.0
_EXAMPLES = ("example", "example-gpu")


@overload
def monitor(
    name: str | None = ..., *, hz: float = ..., save: str | None = ..., compact: bool = ...
) -> Watch: ...
@overload
def monitor(
    name: str | None = ...,
    *,
    for_s: float,
    hz: float = ...,
    save: str | None = ...,
    compact: bool = ...,
) -> Monitoring: ...
@overload
def monitor(*, replay: str) -> Monitoring: ...
def monitor(
    name: Annotated[str | None, Arg(completes="server")] = None,
    *,
    for_s: float | None = None,
    hz: float = 2.0,
    save: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    replay: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    compact: bool = False,
) -> Watch | Monitoring:
    """Watch what servers take of this machine: CPU, memory, GPU, tokens; live.

    What cannot be seen is unknown, never 0. In a notebook the charts go on while
    other cells run, until their Stop button, `stop()` on what is returned, or the
    end of the server; then a picture stays. In a terminal, Ctrl-C ends it.

    Args:
        name: The server. Unset: all that there are or will be.
        for_s: Wait for so many seconds, then stop. Unset: go on until stopped.
        hz: Looks per second.
        save: Write what was seen into this file when it is over, to be replayed.
        replay: Show what is in such a file, in place of this machine; "example" and "example-gpu" (an H100)
            come with llmlab.
        compact: In a notebook, show a line for each server.

    Returns:
        What was seen, if `for_s` or `replay` is given; else what is being seen, with
        `stop()`.

    Raises:
        UsageError: No such server or recording, or a time that cannot be.
        LabError: The recording cannot be written.
    """
    if replay is not None:
        return _replayed(replay)
    if for_s is not None and not 0 < for_s <= _MOST_S:
        raise UsageError(f"for is {for_s:g}", hint="it must be more than 0 s, and at most 3600 s")
    if not 0 < hz <= _MOST_HZ:
        raise UsageError(f"hz is {hz:g}", hint=f"it must be more than 0, and at most {_MOST_HZ:g} per second")
    names = None if name is None else [registry.select(name).name]
    path = None if save is None else recording.writable(Path(save).expanduser())
    report = reporter()
    watch = Watch(names, hz=hz, kept_s=for_s, save=path, compact=compact)
    try:
        report.watching(watch)
    except BaseException:
        watch.stop()
        raise
    return watch if for_s is None else watch.follow(for_s, report.looked)


def _replayed(path: str) -> Monitoring:
    if path in _EXAMPLES:
        with resources.as_file(resources.files(__name__) / f"{path}.jsonl.gz") as file:
            found = recording.read(file)
    else:
        found = recording.read(Path(path).expanduser())
    times = found.series[0].times_s if found.series else ()
    # A metric of which nothing was known has no chart.
    kept = tuple(each for each in found.series if each.known)
    return Monitoring(
        recorded=replace(found, series=kept),
        seconds=times[-1] - times[0] if times else 0.0,
        replayed=path,
    )
