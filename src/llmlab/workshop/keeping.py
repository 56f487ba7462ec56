"""What a learner has predicted and reached, in a file for each lesson."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from llmlab import runtime
from llmlab.errors import MALFORMED
from llmlab.reporting import reporter
from llmlab.workshop.tasks import Outcome

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of one task.

    Attributes:
        predicted: The prediction that counts, as JSON; None if there is none.
        predictions: How often it was predicted.
        tries: How often it was checked with an answer.
        outcome: What the last check said; None if it was never checked.
        text: What the last check found.
        passed_at: When it was passed first, seconds since the epoch, or None.
        changed_at: When anything was done about it last, likewise.
    """

    predicted: Any = None
    predictions: int = 0
    tries: int = 0
    outcome: Outcome | None = None
    text: str = ""
    passed_at: float | None = None
    changed_at: float | None = None


def folder() -> Path:
    """Where it is kept."""
    return runtime.state_dir() / "workshop"


def made_folder() -> Path:
    """The same, made if it is not there; others cannot look into it."""
    path = runtime.made_state_dir() / folder().name
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def read(number: str) -> dict[str, Kept]:
    """What is kept of a lesson: id of a task → what is kept of it.

    A file that cannot be read is laid aside, with a note.
    """
    path = folder() / f"{number}.json"
    try:
        return from_data(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, *MALFORMED) as error:
        aside = path.with_suffix(".unreadable.json")
        path.replace(aside)
        reporter().note(f"your progress in lesson {number} cannot be read ({error}); it was moved to {aside}")
        return {}


def from_data(data: Any) -> dict[str, Kept]:
    """What is kept of a lesson, from a file's JSON; unknown fields are left out.

    Raises:
        ValueError: It is of a later format, or no such file.
    """
    if not isinstance(data, dict) or not isinstance(data.get("tasks"), dict):
        raise ValueError("no lesson stands in it")  # noqa: TRY004 - what is wrong is the file
    if data.get("format") != _FORMAT:
        raise ValueError(f"its format is {data.get('format')!r}, not {_FORMAT}")
    return {str(task): _kept(kept) for task, kept in data["tasks"].items()}


def _kept(data: dict[str, Any]) -> Kept:
    names = {field.name for field in fields(Kept)}
    found = Kept(**{name: value for name, value in data.items() if name in names})
    counts = (found.predictions, found.tries)
    times = (found.passed_at, found.changed_at)
    if not (
        all(type(count) is int for count in counts)
        and all(one is None or isinstance(one, (int, float)) for one in times)
        and found.outcome in (None, *get_args(Outcome))
        and isinstance(found.text, str)
    ):
        raise ValueError("a field of it has another type than llmlab writes")
    return found


def to_data(number: str, kept: dict[str, Kept]) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "format": _FORMAT,
        "lesson": number,
        "tasks": {task: asdict(one) for task, one in kept.items()},
    }


def change(number: str, task: str, **changes: Any) -> Kept:
    """Write down what changed about a task; two notebooks may do so at the same time."""
    made_folder()
    with runtime.locked(folder() / f".{number}.lock"):
        kept = read(number)
        now = replace(kept.get(task, Kept()), changed_at=time.time(), **changes)
        path = folder() / f"{number}.json"
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(to_data(number, {**kept, task: now}), indent=1), encoding="utf-8")
        part.replace(path)
    return now


def plain(value: Any) -> Any:
    """A value as JSON can hold it: as it is, or as text."""
    if isinstance(value, (str, bool, int, float)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value)
