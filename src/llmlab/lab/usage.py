"""What each server takes now, for `ps`: a few looks within half a second."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from llmlab.errors import LabError
from llmlab.lab import holding, sources
from llmlab.results import Usage
from llmlab.specs import Record
from llmlab.telemetry.history import Key
from llmlab.telemetry.metrics import Source
from llmlab.telemetry.nvml import gpu_sources

_BETWEEN_S = 0.4
# What an engine said is read at the next look: it is asked once more at the end, and given that long.
_STEP_S, _PATIENCE_S = 0.1, 0.6
_KEYS = ("cpu", "memory", "gpu_memory", "generated")
_RATES = ("cpu", "generated")
_Seen = dict[Key, float | None]


def of(records: Sequence[Record]) -> dict[str, Usage]:
    """The usage of each server, by its name; what cannot be seen is None.

    Args:
        records: The servers.
    """
    gpus = gpu_sources()
    watched: list[Source] = []
    try:
        for record in records:
            # A container engine that does not answer takes nothing from the list.
            with suppress(LabError):
                watched += sources.of_server(record, holding.gpus_in(gpus))
        seen = _looked(watched)
    finally:
        for source in (*watched, *gpus):
            source.close()
    return {record.name: _usage(record.name, seen) for record in records}


def _looked(watched: Sequence[Source]) -> _Seen:
    """Rates come from the time between two looks; an engine's answer is there a moment after it was asked."""
    _look(watched)
    time.sleep(_BETWEEN_S)
    seen = _look(watched)
    end = time.monotonic() + _PATIENCE_S
    while _waited_for(watched, seen) and time.monotonic() < end:
        time.sleep(_STEP_S)
        later = _look(watched)
        # The rest keeps what was seen over the longer time.
        seen = {**later, **{key: value for key, value in seen.items() if value is not None}}
    return seen


def _look(watched: Sequence[Source]) -> _Seen:
    now = time.monotonic()
    return {
        (source.subject, key): value
        for source in watched
        for key, value in source.read(now).items()
        if key in _KEYS
    }


def _waited_for(watched: Sequence[Source], seen: Mapping[Key, float | None]) -> bool:
    """Whether a rate that is promised has not yet been told."""
    return any(
        metric.key in _RATES and seen.get((source.subject, metric.key)) is None
        for source in watched
        for metric in source.metrics
    )


def _usage(name: str, seen: Mapping[Key, float | None]) -> Usage:
    cpu, memory, gpu_memory, generated = (seen.get((name, key)) for key in _KEYS)
    return Usage(cpus=cpu, memory_mib=memory, gpu_memory_mib=gpu_memory, tokens_per_s=generated)
