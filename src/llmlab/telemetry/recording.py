"""Recordings: series in a file, with everything that is needed to understand them.

A recording is gzipped JSON, a value a line. The first line describes it:

    {"format": "llmlab-recording", "version": 1, "began": "2026-11-26T13:00:00+00:00",
     "machine": {…}, "notes": […], "metrics": [{"subject": "the machine", "key": "cpu", "unit": "CPUs", …}, …],
     "requests": [{"subject": "tiny", "began_s": 0.4, "ttft_s": 0.01, …}, …]}

Each further line is one look: seconds since the first, then a value for each
metric in their order, null where it is unknown.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmlab.errors import MALFORMED, LabError, UsageError
from llmlab.telemetry.bands import Band, band_from_dict, number, optional_number
from llmlab.telemetry.history import Series
from llmlab.telemetry.metrics import Metric

_FORMAT, _VERSION = "llmlab-recording", 1
# A file of a few kilobytes may unpack to anything.
_MOST_BYTES = 256 << 20
_BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Series, and where they are from.

    Attributes:
        began: When, as ISO 8601 with time zone.
        machine: What it was recorded on.
        series: All series; they share their times.
        notes: What should be known about it.
        requests: What was asked meanwhile.
    """

    began: str
    machine: Mapping[str, Any]
    series: tuple[Series, ...]
    requests: tuple[Band, ...] = ()
    notes: tuple[str, ...] = ()


def packed(recording: Recording) -> bytes:
    """A recording as it stands in a file."""
    head = {
        "format": _FORMAT,
        "version": _VERSION,
        "began": recording.began,
        "machine": dict(recording.machine),
        "notes": list(recording.notes),
        "metrics": [{"subject": each.subject, **asdict(each.metric)} for each in recording.series],
        "requests": [asdict(band) for band in recording.requests],
    }
    times = recording.series[0].times_s if recording.series else ()
    rows = zip(times, *(each.values for each in recording.series), strict=True)
    lines = [json.dumps(head), *(json.dumps([_rounded(value) for value in row]) for row in rows)]
    # The same series make the same file, whenever it is written.
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def writable(path: Path) -> Path:
    """The path, if a recording can be written there, as far as can be told beforehand.

    Raises:
        LabError: If it cannot.
    """
    if path.is_dir():
        raise _not_written(path, "it is a directory")
    if not os.access(path.parent, os.W_OK):
        raise _not_written(path, "there is no such directory, or it is not yours")
    return path


def write(recording: Recording, path: Path) -> None:
    """Write a recording; a file of that name is replaced when it is complete.

    Args:
        recording: What to write.
        path: The file.

    Raises:
        LabError: If it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(packed(recording))
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _not_written(path, error.strerror or str(error)) from error


def _not_written(path: Path, why: str) -> LabError:
    return LabError(
        f"the recording {path} cannot be written: {why}",
        hint="name a file in a directory of yours: --save run.jsonl.gz",
    )


def read(path: Path) -> Recording:
    """Read a recording; of one that was cut off, what there is.

    Args:
        path: The file.

    Raises:
        UsageError: If it is not there, no recording, or of a later version.
    """
    lines, whole = _lines(path)
    try:
        head = json.loads(lines[0])
    except (IndexError, ValueError, RecursionError) as error:
        raise _no_recording(path) from error
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        raise _no_recording(path)
    if head.get("version") != _VERSION:
        raise UsageError(
            f"{path} is a recording of version {head.get('version')}, which this llmlab does not know",
            hint="upgrade llmlab: pip install --upgrade llmlab",
        )
    try:
        metrics = [(str(each["subject"]), _metric(each)) for each in head["metrics"]]
        began, machine, notes = str(head["began"]), dict(head["machine"]), tuple(map(str, head["notes"]))
        bands = tuple(band_from_dict(each) for each in head["requests"])
    except MALFORMED as error:
        raise _no_recording(path) from error
    rows = []
    for line in lines[1:]:
        row = _row(line, len(metrics) + 1)
        if row is None:
            whole = False
            break
        rows.append(row)
    columns: Sequence[tuple[float | None, ...]] = list(zip(*rows, strict=True)) or [()] * (len(metrics) + 1)
    times = tuple(value or 0.0 for value in columns[0])
    series = (
        Series(subject=subject, metric=metric, times_s=times, values=columns[column])
        for column, (subject, metric) in enumerate(metrics, start=1)
    )
    if not whole:
        notes = (*notes, f"its end is missing or damaged: {len(rows)} looks could be read")
    return Recording(began=began, machine=machine, series=tuple(series), requests=bands, notes=notes)


def _metric(data: Mapping[str, Any]) -> Metric:
    key, title, unit, method = (str(data[name]) for name in ("key", "title", "unit", "method"))
    interval_s, most = (optional_number(data.get(name)) for name in ("interval_s", "most"))
    error = data.get("error")
    return Metric(
        key=key,
        title=title,
        unit=unit,
        method=method,
        interval_s=interval_s,
        most=most,
        error=None if error is None else (number(error[0]), number(error[1])),
    )


def _lines(path: Path) -> tuple[list[str], bool]:
    """What can be unpacked, and whether that is all of it."""
    # Not gzip's own reader, which gives nothing of the piece in which the damage is.
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    found = bytearray()
    try:
        with path.open("rb") as file, suppress(zlib.error):
            while len(found) < _MOST_BYTES and (block := file.read(_BLOCK)):
                found += unpacking.decompress(block)
    except FileNotFoundError:
        raise UsageError(
            f"there is no recording {path}", hint="make one: llmlab monitor --save run.jsonl.gz"
        ) from None
    except OSError as error:
        raise UsageError(
            f"the recording {path} cannot be read: {error.strerror or error}", hint="is it a file of yours?"
        ) from error
    return found.decode("utf-8", errors="replace").splitlines(), unpacking.eof


def _row(line: str, length: int) -> tuple[float | None, ...] | None:
    try:
        row = json.loads(line)
        if len(row) != length or row[0] is None:
            return None
        values = tuple(None if value is None else float(value) for value in row)
    except MALFORMED:
        return None
    return tuple(value if value is None or math.isfinite(value) else None for value in values)


def _no_recording(path: Path) -> UsageError:
    return UsageError(
        f"{path} is no recording of llmlab's", hint="make one: llmlab monitor --save run.jsonl.gz"
    )


def _rounded(value: float | None) -> float | None:
    """Six digits: no sensor has more."""
    return None if value is None else float(f"{value:.6g}")
