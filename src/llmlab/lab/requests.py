"""What was asked of a server, and when: written down by whoever asked, for all who watch.

One line of JSON for each answer, in the server's own directory, which goes with
it. No text of prompts or answers. Times are of the kernel's monotonic clock, which
all processes of a machine share.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from llmlab import runtime
from llmlab.results import Answer
from llmlab.specs import Record
from llmlab.telemetry.bands import Band, band_from_dict

_FILE = "requests.jsonl"
# Begun anew when it has so many bytes: some thousands of requests.
_LONG_BYTES = 1 << 20


def note(record: Record, began: float, answer: Answer) -> None:
    """Write down one request; where that cannot be done, nothing is.

    Args:
        record: The server.
        began: `time.monotonic()` when it was sent.
        answer: What came of it.
    """
    prefill_s = None
    if answer.prompt_tokens is not None and answer.prompt_tokens_per_s:
        prefill_s = (answer.prompt_tokens - (answer.cached_tokens or 0)) / answer.prompt_tokens_per_s
    line = {
        "began": began,
        "total_s": answer.total_s,
        "ttft_s": answer.ttft_s,
        "prefill_s": prefill_s,
        "tokens": answer.completion_tokens,
        "tokens_per_s": answer.tokens_per_s,
        "outcome": answer.finish_reason,
    }
    path = _path(record)
    with suppress(OSError):
        # Never make the directory: a server that was stopped meanwhile would come back as a ruin.
        mode = "w" if path.exists() and path.stat().st_size > _LONG_BYTES else "a"
        with path.open(mode, encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def between(record: Record, begin: float, end: float) -> tuple[Band, ...]:
    """The requests that were under way in a span of time and have ended since.

    Args:
        record: The server.
        begin: `time.monotonic()`; it is 0 s of the bands.
        end: `time.monotonic()`.
    """
    found = []
    try:
        lines = _path(record).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            data = json.loads(line)
            band = band_from_dict({**data, "subject": record.name, "began_s": data["began"] - begin})
            if band.began_s < end - begin and band.began_s + band.total_s > 0:
                found.append(band)
    return tuple(found)


def _path(record: Record) -> Path:
    return runtime.runtime_dir() / record.name / _FILE
