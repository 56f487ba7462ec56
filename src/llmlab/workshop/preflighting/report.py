"""The preflight as a file that a teacher can gather: what is in it, and how it is read again.

Nothing goes in but what is named here: no environment, no paths, no user or host name.
The learner's own name only if it was given.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llmlab import __version__
from llmlab.checkup.facts import Facts
from llmlab.checkup.rows import Row
from llmlab.errors import UsageError
from llmlab.workshop.preflighting.lines import gpu_names

FORMAT, VERSION = "llmlab-preflight", 1
_MOST_NAME, _LEAST_NAME = 80, 3
_HOMES = re.compile(r"(?<![\w.])(/home/|/Users/|/root\b|~)[^\s:,;'\"]*")


def learner(name: str | None, *, keep: bool) -> dict[str, Any]:
    """Who a report is of: the name that was given, and a random number that stays the same here.

    Args:
        name: The name, or None.
        keep: Make such a number, and keep it, if there is none yet.

    Raises:
        UsageError: If the name is empty or far too long.
    """
    if name is not None and not 0 < len(name.strip()) <= _MOST_NAME:
        raise UsageError(f"{name[:_MOST_NAME]!r} cannot be a name", hint=f"give 1 to {_MOST_NAME} characters")
    return {"name": name.strip() if name else None, "id": _number(keep=keep)}


def _number(*, keep: bool) -> str | None:
    """The random number that a machine's reports are recognised by; None if there is none."""
    from llmlab import runtime  # noqa: PLC0415 - not on Windows

    path = runtime.state_dir() / "workshop" / "preflight-id"
    with suppress(OSError, ValueError):
        if re.fullmatch(r"[0-9a-f]{16}", known := path.read_text(encoding="ascii").strip()):
            return known
    with suppress(OSError):
        if not keep:
            return None
        runtime.made_state_dir()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        number = secrets.token_hex(8)
        path.write_text(f"{number}\n", encoding="ascii")
        return number
    return None


def machine(facts: Facts, rows: Mapping[str, Row]) -> dict[str, Any]:
    """What a report says of the machine. Memory in MiB, disk in bytes; unknown is None."""
    answers = rows["engine"].seen.partition(" at ")[0] if facts.info else None
    free = [int(disk["free_bytes"]) for place, disk in facts.disks.items() if place != "images"]
    return {
        "platform": rows["platform"].seen if rows["platform"].state != "unknown" else facts.system or None,
        "cpus": facts.memory.get("cpus"),
        "memory_mib": facts.memory.get("total"),
        "free_memory_mib": facts.memory.get("usable"),
        "free_disk_bytes": min(free) if free else None,
        "gpus": list(gpu_names(facts)),
        "container_engine": answers,
        "versions": {
            "llmlab": __version__,
            "python": facts.python.get("version"),
            "jupyterlab": facts.packages.get("jupyterlab"),
            "ipywidgets": facts.packages.get("ipywidgets"),
            "engine": str(facts.build.get("version") or "") or None,
        },
    }


def document(
    who: Mapping[str, Any],
    verdict: str,
    mode: str,
    parts: Mapping[str, Sequence[Any]],
    here: Mapping[str, Any],
) -> dict[str, Any]:
    """The report, without anything that names a user or a machine.

    Args:
        who: See `learner`.
        verdict: The verdict in words.
        mode: "container", "native" or "none".
        parts: `lines`, `models` and `tries`, each a sequence of dataclasses.
        here: See `machine`.
    """
    found = {
        "format": FORMAT,
        "version": VERSION,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "verdict": verdict,
        "mode": mode,
        **{name: [asdict(each) for each in part] for name, part in parts.items()},
        "machine": dict(here),
    }
    return {**_nameless(found, _names()), "learner": dict(who)}


def _names() -> dict[str, str]:
    """What must not stand in a report → what stands there in its place."""
    users = {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME")}
    with suppress(Exception):
        users.add(getpass.getuser())
    host = platform.node()
    names = {host: "HOST", host.partition(".")[0]: "HOST", **dict.fromkeys(users, "USER")}
    # root is everybody's name, and no word of one or two letters could be told from others.
    return {
        name: stand_in
        for name, stand_in in names.items()
        if len(name) >= _LEAST_NAME and name not in {"root", "localhost"}
    }


def _nameless(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        value = _HOMES.sub("~", value)
        for name, stand_in in names.items():
            value = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", stand_in, value)
        return value
    if isinstance(value, dict):
        return {key: _nameless(each, names) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_nameless(each, names) for each in value]
    return value


def save(report: Mapping[str, Any], file: str) -> Path:
    """Write a report; a folder gets a file of its own name. Returns where it is.

    Raises:
        UsageError: If it cannot be written, or something else stands there.
    """
    path = Path(file).expanduser()
    if path.is_dir() or file.endswith("/"):
        path = path / _file_name(report["learner"])
    elif path.exists() and not _is_report(path):
        raise UsageError(f"{path} is there and is no preflight report", hint="give another file to --save")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UsageError(
            f"the report cannot be written to {path}: {error.strerror or error}",
            hint="give another file to --save",
        ) from error
    return path


def _file_name(who: Mapping[str, Any]) -> str:
    name = re.sub(r"[^\w-]+", "-", who["name"] or "").strip("-").lower()
    number = who["id"] or secrets.token_hex(8)
    return f"preflight-{name}-{number[:6]}.json" if name else f"preflight-{number}.json"


def _is_report(path: Path) -> bool:
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(found, dict) and found.get("format") == FORMAT
    return False
