"""Reading the reports of a room: whatever lies in the folder, none of it trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from llmlab import render
from llmlab.errors import UsageError
from llmlab.workshop.preflighting.fixes import is_known
from llmlab.workshop.preflighting.report import FORMAT, VERSION

Readiness = Literal["needs help", "natively", "in containers"]
"""The ones that need help first, as the table is sorted."""
READINESS: tuple[Readiness, ...] = ("needs help", "natively", "in containers")
_OF_MODE: dict[str, Readiness] = {"none": "needs help", "native": "natively", "container": "in containers"}
_MOST_BYTES, _MOST_FILES = 2_000_000, 2000
_MOST_TEXT, _MOST_NAME, _MOST_NUMBER = 160, 40, 1 << 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """One learner of a room. What cannot be told is None or "".

    Attributes:
        name: The name in the report, or the file's. Untrusted, as all texts here.
        readiness: Whether help is needed.
        verdict: The verdict in words.
        mode: "container", "native" or "none".
        gpu: The GPUs; "none" if there is none.
        memory_mib: Memory that was free, in MiB.
        disk_bytes: Disk that was free, in bytes.
        platform: The system.
        versions: Those of llmlab, Python, and the container engine.
        topic: The first thing to do, in a few words; "" if there is nothing.
        fix: Its command; "" where there is none, or it is none of llmlab's own.
        made: When the report was made, in UTC.
        file: The report's file name.
    """

    name: str
    readiness: Readiness
    verdict: str
    mode: str
    gpu: str
    memory_mib: int | None
    disk_bytes: int | None
    platform: str
    versions: str
    topic: str
    fix: str
    made: str
    file: str


@dataclass(frozen=True, slots=True)
class Read:
    """A report that was read: who it is of, when it was made, and what it says."""

    key: tuple[str, str]
    when: float
    learner: Learner


def reports(folder: str) -> tuple[list[Learner], list[tuple[str, str]]]:
    """All reports of a folder.

    Args:
        folder: Its path; only its own `*.json` files are looked at.

    Returns:
        The learners, each once; and (file, what is wrong) of what was left out.

    Raises:
        UsageError: If there is no such folder, or it cannot be read.
    """
    path = Path(folder).expanduser()
    try:
        files = sorted(each for each in path.iterdir() if each.name.endswith(".json"))
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read: {error.strerror or error}",
            hint="give the folder that the reports were gathered in",
        ) from error
    notes = [("", f"{len(files) - _MOST_FILES} files more were not read")] if len(files) > _MOST_FILES else []
    newest: dict[tuple[str, str], Read] = {}
    for file in files[:_MOST_FILES]:
        try:
            found = _read(file)
        except _UnreadableError as error:
            notes.append((_text(file.name), str(error)))
            continue
        other = newest.get(found.key)
        older, newer = sorted([found, other], key=lambda each: each.when) if other else (None, found)
        newest[found.key] = newer
        if older:
            notes.append(
                (older.learner.file, f"an older report of {newer.learner.name}; {newer.learner.file} counts")
            )
    learners = [each.learner for each in newest.values()]
    return sorted(learners, key=_order), [*notes, *_namesakes(learners)]


class _UnreadableError(Exception):
    """A file that is no report, in words."""


def _read(path: Path) -> Read:
    if not path.is_file():
        raise _UnreadableError("not a file")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _UnreadableError("too large for a report")
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _UnreadableError(f"cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _UnreadableError("not JSON, or cut off: ask for it again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _UnreadableError("no preflight report")
    version = data.get("version")
    if isinstance(version, int) and version > VERSION:
        raise _UnreadableError(
            f"written by a newer llmlab (format {_text(str(version))}): update llmlab to read it"
        )
    mode = data.get("mode")
    if version != VERSION or not isinstance(mode, str) or mode not in _OF_MODE:
        raise _UnreadableError("a damaged preflight report: ask for it again")
    return _report(path, data)


def _report(path: Path, data: Mapping[str, Any]) -> Read:
    who, machine = _mapping(data.get("learner")), _mapping(data.get("machine"))
    name = _text(who.get("name"), _MOST_NAME)
    number = _text(who.get("id"), _MOST_NAME)
    gpus = machine.get("gpus")
    todo = _first(data.get("lines"), str(data["mode"]))
    made, when = _time(data.get("made"))
    fix = todo.get("fix")
    learner = Learner(
        name=name or _text(path.stem, _MOST_NAME),
        readiness=_OF_MODE[str(data["mode"])],
        verdict=_text(data.get("verdict")),
        mode=str(data["mode"]),
        gpu=", ".join(_text(gpu, _MOST_NAME) for gpu in gpus[:8]) or "none" if isinstance(gpus, list) else "",
        memory_mib=_number(machine.get("free_memory_mib")),
        disk_bytes=_number(machine.get("free_disk_bytes")),
        platform=_text(machine.get("platform"), 80),
        versions=_versions(machine),
        topic=_text(todo.get("topic") or todo.get("name"), _MOST_NAME),
        fix=fix if isinstance(fix, str) and is_known(fix) else "",
        made=made,
        file=_text(path.name, 80),
    )
    # One machine may have several learners, one after the other, and a name several learners.
    key = (number or learner.file, name.casefold()) if number or not name else ("", name.casefold())
    return Read(key, when, learner)


def _first(lines: Any, mode: str) -> Mapping[str, Any]:
    """The first thing to do: what keeps from any mode first, then from containers, then what is better."""
    found = [_mapping(line) for line in lines[:50]] if isinstance(lines, list) else []
    wanted = {"none": "native", "native": "container"}.get(mode)
    blocking = [line for line in found if wanted in _list(line.get("blocks")) and line.get("fix")]
    advice = [line for line in found if line.get("state") in ["to do", "advice"] and line.get("fix")]
    return next(iter((*blocking, *advice)), {})


def _versions(machine: Mapping[str, Any]) -> str:
    known = _mapping(machine.get("versions"))
    names = {"llmlab": "llmlab", "python": "Python"}
    parts = [f"{shown} {_text(known[name], 20)}" for name, shown in names.items() if known.get(name)]
    engine = machine.get("container_engine")
    if isinstance(engine, str):
        parts.append(_text(re.split(r" \(| through |\+", engine[:200])[0], _MOST_NAME))
    return ", ".join(parts)


def _namesakes(learners: list[Learner]) -> Iterator[tuple[str, str]]:
    files: dict[str, list[str]] = {}
    for each in learners:
        files.setdefault(each.name.casefold(), []).append(each.file)
    names = {each.name.casefold(): each.name for each in learners}
    for name, several in files.items():
        if len(several) > 1:
            yield ", ".join(several[:5]), f"{len(several)} machines say {names[name]}: both are in the table"


def _order(learner: Learner) -> tuple[int, str, str, str]:
    return READINESS.index(learner.readiness), learner.topic, learner.name.casefold(), learner.file


def _time(value: Any) -> tuple[str, float]:
    """When a report was made, as a text in UTC and in seconds; the epoch if that cannot be told."""
    try:
        found = datetime.fromisoformat(str(value))
        found = found.replace(tzinfo=found.tzinfo or timezone.utc).astimezone(timezone.utc)
        return found.strftime("%Y-%m-%d %H:%M"), found.timestamp()
    except (ValueError, OverflowError, OSError):
        return "", 0.0


def _text(value: Any, most: int = _MOST_TEXT) -> str:
    """A text that is safe in a terminal, on one line, not longer than `most` columns."""
    return render.clipped(value[: 4 * most], most).strip() if isinstance(value, str) else ""


def _number(value: Any) -> int | None:
    fine = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_NUMBER
    return value if fine else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
