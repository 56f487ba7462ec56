"""What a native server is kept from: honestly, nothing."""

from __future__ import annotations

import math

from llmlab.backends import traffic
from llmlab.isolation import ProcessFacts, process_facts
from llmlab.isolation.capabilities import said
from llmlab.results_isolation import Control, Receipt
from llmlab.specs import Record

_FILTERING = 2
_MIB = 1024 * 1024
_NO_LIMIT = "no limit"


def controls(record: Record) -> Receipt:
    """The lines of a container's receipt, with nothing asked for."""
    pid = record.process.pid if record.process else None
    facts = process_facts(pid)
    return Receipt(
        controls=tuple(_line(name, *seen) for name, seen in _seen(facts).items()),
        facts={"pid": "unknown" if pid is None else str(pid)},
        traffic=traffic.of_process(),
    )


def _seen(facts: ProcessFacts) -> dict[str, tuple[str | None, bool]]:
    """Line → what is in force, and whether that holds something back all the same."""
    you = facts.uids is not None
    limited = {
        "memory": _size(facts.memory_bytes),
        "CPU": _count(facts.cpus),
        "processes": _count(facts.pids),
    }
    return {
        "network": (_network(facts), False),
        "root file system": (_root(facts), False),
        "models": ("what you may write" if you else None, False),
        "other mounts": ("all of this machine's files that you may see" if you else None, False),
        "scratch": ("what you may write" if you else None, False),
        "capabilities": _capabilities(facts),
        "no new privileges": (_word(facts.no_new_privileges), bool(facts.no_new_privileges)),
        "system calls": (
            {None: None, 0: "not filtered", _FILTERING: "filtered"}.get(facts.seccomp, "strict"),
            bool(facts.seccomp),
        ),
        "user": (f"uid {facts.uids[1]}, yours" if facts.uids else None, False),
        "namespaces": _namespaces(facts),
        **{name: (text, text not in {None, _NO_LIMIT}) for name, text in limited.items()},
        "open files": (_count(facts.open_files), False),
        "devices": ("all that you may use" if you else None, False),
        "security label": (
            "none: not in this kernel" if facts.label == "" else facts.label,
            bool(facts.label) and facts.label != "unconfined",
        ),
    }


def _network(facts: ProcessFacts) -> str | None:
    if facts.interfaces is None:
        return None
    return "this machine's: " + ", ".join(interface.name for interface in facts.interfaces)


def _root(facts: ProcessFacts) -> str | None:
    return None if facts.root is None else "read-only" if facts.root.read_only else "writable"


def _capabilities(facts: ProcessFacts) -> tuple[str | None, bool]:
    if facts.capabilities is None:
        return None, False
    return said(facts.capabilities), not facts.capabilities.effective


def _namespaces(facts: ProcessFacts) -> tuple[str | None, bool]:
    if facts.own_namespaces is None:
        return None, False
    own = [name for name, is_own in facts.own_namespaces.items() if is_own]
    return (f"its own: {', '.join(own)}" if own else "yours"), bool(own)


def _line(name: str, seen: str | None, held: bool) -> Control:  # noqa: FBT001 - of one table
    return Control(
        name=name,
        asked="nothing",
        recorded=None,
        in_force=seen or None,
        agrees=None,
        left_open=bool(seen) and not held,
    )


def _word(value: bool | None) -> str | None:  # noqa: FBT001 - three-valued
    return None if value is None else "yes" if value else "no"


def _size(number: float | None) -> str | None:
    if number is None:
        return None
    return _NO_LIMIT if math.isinf(number) else f"{number / _MIB:.10g} MiB"


def _count(number: float | None) -> str | None:
    if number is None:
        return None
    return _NO_LIMIT if math.isinf(number) else f"{number:.10g}"
