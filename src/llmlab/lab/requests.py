"""What was asked of a server, and when: written down by whoever asked, for all who watch.

One line of JSON for each answer, in the server's own directory, which goes with
it. No text of prompts or answers. Times are of the kernel's monotonic clock, which
all processes of a machine share.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from llmlab import runtime
from llmlab.errors import MALFORMED
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


class Reader:
    """Reads what was asked of a server, as it is written down.

    Args:
        record: The server.
    """

    def __init__(self, record: Record) -> None:
        self._subject = record.name
        self._path = _path(record)
        self._read = 0

    def news(self) -> list[Band]:
        """What was written down since the last time, from the oldest on.

        Their `began_s` is `time.monotonic()`. What is no request is passed over.
        """
        try:
            with self._path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read:
                    self._read = 0  # it was begun anew
                file.seek(self._read)
                # A line that is just being written is for the next time.
                whole, end, _ = file.read(_LONG_BYTES * 2).rpartition(b"\n")
        except OSError:
            return []
        self._read += len(whole) + len(end)
        found = []
        for line in whole.decode("utf-8", errors="replace").splitlines():
            with suppress(*MALFORMED):
                data = json.loads(line)
                found.append(band_from_dict({**data, "subject": self._subject, "began_s": data["began"]}))
        return found


def _path(record: Record) -> Path:
    return runtime.runtime_dir() / record.name / _FILE
