"""Predictions and what came of them: how far they can be trusted.

One line of JSON for each start and each longer answer, in the user's state directory.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from llmlab.errors import MALFORMED
from llmlab.results import Answer
from llmlab.runtime import made_state_dir, state_dir
from llmlab.specs import Record

_paused: ContextVar[bool] = ContextVar("llmlab_ledger_paused", default=False)
_FILE = "predictions.jsonl"
_KEPT = 500
# The file is cut down to the last lines when it has so many bytes.
_LONG_BYTES = 512 * 1024
# A rate of fewer tokens says more about the clock than about the model.
_MIN_TOKENS = 32


def started(record: Record) -> None:
    """Write down what a server was predicted to hold when ready, and what it holds."""
    if record.predicted and record.observed_mib:
        _append(record, "memory_mib", record.predicted.ready_mib, record.observed_mib)


def answered(record: Record, answer: Answer) -> None:
    """Write down the rate that an answer was predicted to have, and the one it had."""
    if not record.predicted or not answer.tokens_per_s or (answer.completion_tokens or 0) < _MIN_TOKENS:
        return
    depth = (answer.prompt_tokens or 0) + (answer.completion_tokens or 0) / 2
    if predicted := record.predicted.decode_at(depth):
        _append(record, "tokens_per_s", predicted, answer.tokens_per_s)


@contextmanager
def paused() -> Iterator[None]:
    """Write nothing down inside the `with` block: what runs there is no user's model."""
    token = _paused.set(True)
    try:
        yield
    finally:
        _paused.reset(token)


def summary() -> dict[str, Any] | None:
    """The errors so far, (predicted − observed) / observed; None if there are none yet.

    Returns:
        `starts`, `memory_median`, `memory_worst` (the farthest from 0), and
        the same of `answers` and `rate_…`; what was never seen is None.
    """
    errors: dict[str, list[float]] = {"memory_mib": [], "tokens_per_s": []}
    for line in _lines():
        with suppress(*MALFORMED, ZeroDivisionError):
            entry = json.loads(line)
            error = float(entry["predicted"]) / float(entry["observed"]) - 1
            if math.isfinite(error):
                errors[entry["what"]].append(error)
    if not any(errors.values()):
        return None
    found: dict[str, Any] = {}
    for what, count, name in (("memory_mib", "starts", "memory"), ("tokens_per_s", "answers", "rate")):
        values = errors[what]
        found[count] = len(values)
        found[f"{name}_median"] = statistics.median(values) if values else None
        found[f"{name}_worst"] = max(values, key=abs) if values else None
    return found


def _append(record: Record, what: str, predicted: float, observed: float) -> None:
    if _paused.get():
        return
    spec = record.spec
    entry = {
        "when": round(time.time()),
        "model": spec.model.name,
        "backend": record.backend,
        "engine": spec.engine,
        "context": spec.context,
        "slots": spec.slots,
        "kv_type": spec.kv_type,
        "threads": spec.threads,
        "what": what,
        "predicted": round(predicted, 2),
        "observed": round(observed, 2),
    }
    path = state_dir() / _FILE
    # A full disk or a directory that is read-only must not fail a start.
    with suppress(OSError):
        made_state_dir()
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if path.stat().st_size > _LONG_BYTES:
            draft = path.with_name(f".{_FILE}.{os.getpid()}")
            draft.write_text("".join(_lines()), encoding="utf-8")
            draft.replace(path)


def _lines() -> list[str]:
    try:
        with (state_dir() / _FILE).open(encoding="utf-8", errors="replace") as file:
            return list(deque(file, maxlen=_KEPT))
    except OSError:
        return []
