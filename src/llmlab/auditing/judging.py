"""From what was attempted to a verdict.

An attempt counts only if it succeeds in the control: what fails there as well
proves nothing about the server. But what succeeds in the twin is a failure,
whatever the control says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from llmlab.auditing.checks import CHECKS, Check
from llmlab.auditing.results import Attempt, Finding, Verdict

Line = Mapping[str, Any]
_FIGURES = re.compile(r"\d+(?:\.\d+)?")
_UNTHROTTLED = "throttled 0 times"
_TOLD_BY_THE_RECEIVER = {"N4": "dns", "N5": "udp"}
# Of these a control may try more than the twin, which only makes it stronger.
_BY_AMOUNT = frozenset({"F4", "R1", "R2", "R3", "R4"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one container's probe has said, and what has reached the sibling from it.

    Attributes:
        lines: The probe's lines.
        complete: Whether it came to its end.
        arrived: Kinds of datagrams of its own that the sibling has received.
        models: Where it has models.
        left_out: What stands in the attempts that it was not asked to make.
    """

    lines: Sequence[Line]
    complete: bool
    arrived: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()
    left_out: str = ""


_LOOPBACK = re.compile(r"\bAF_(?:INET6?|NETLINK)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a verdict depends on besides the probes.

    Attributes:
        own_namespaces: Inode → kind ("ipc namespace") of this process's own namespaces.
        gpus: Patterns of the device files of the GPUs that were asked for.
        loopback: Whether sockets of the internet family were asked for, for its own loopback interface.
        in_force: Check → what the limit is on the server itself.
        scaled: Check → what the limit was in the twin.
        without: Check → why it does not apply here.
        on_server: Check → attempts made on the server itself.
    """

    own_namespaces: Mapping[str, int] = field(default_factory=dict)
    gpus: frozenset[str] = frozenset()
    loopback: bool = False
    in_force: Mapping[str, str] = field(default_factory=dict)
    scaled: Mapping[str, str] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    on_server: Mapping[str, Sequence[Attempt]] = field(default_factory=dict)


def judge(twin: Seen, control: Seen, context: Context, wanted: frozenset[str]) -> tuple[Finding, ...]:
    """A verdict on every check that is wanted.

    Args:
        twin: What was seen in the twin, its scaled sister included.
        control: What was seen in the control.
        context: What else matters.
        wanted: Ids of checks.
    """
    return tuple(_finding(check, twin, control, context) for check in CHECKS if check.id in wanted)


def is_doubtful(line: Line) -> bool:
    """Whether a busy machine, and not the isolation, may be why an attempt did not work."""
    observed = str(line.get("observed", ""))
    if line.get("succeeded"):
        return False
    return " within " in observed or (line.get("check") == "R3" and _UNTHROTTLED in observed)


def _finding(check: Check, twin: Seen, control: Seen, context: Context) -> Finding:
    if check.id in context.without:
        return _made(check, "not applicable", context.without[check.id], ())
    attempts = context.on_server.get(check.id)
    if attempts is None:
        attempts = _paired(check.id, twin, control, context)
    return decide(check, attempts, complete=twin.complete, context=context)


def decide(
    check: Check, attempts: Sequence[Attempt], *, complete: bool = True, context: Context | None = None
) -> Finding:
    """The verdict on one check.

    Args:
        check: The check.
        attempts: What was attempted, each with its control.
        complete: Whether nothing is missing.
        context: For what is said besides.
    """
    context = context or Context()
    through = [attempt for attempt in attempts if attempt.succeeded]
    counted = [attempt for attempt in attempts if attempt.control and attempt.succeeded is not None]
    missing = [attempt for attempt in attempts if attempt.control and attempt.succeeded is None]
    note = _limits_note(check.id, context)
    if through:
        said = _said(through, with_text=len(attempts) > 1)
        return _made(check, "fail", said + note, attempts)
    if check.id == "G1" and not attempts:
        return _made(check, "not applicable", "no GPU device on this machine", attempts)
    if counted and not missing:
        return _made(check, "pass", _said(counted) + note, attempts)
    if missing or not complete:
        reason = (
            "not come to" if not complete else "; ".join(dict.fromkeys(each.observed for each in missing))
        )
    elif attempts:
        reason = "the control could not do it either: " + _said(attempts, of_control=True)
    else:
        reason = "nothing to attempt here"
    return _made(check, "inconclusive", reason, attempts)


def _limits_note(check: str, context: Context) -> str:
    parts = []
    if check == "N8" and context.loopback:
        parts.append(
            "without AF_INET, AF_INET6 and AF_NETLINK, which the engine's own loopback interface needs"
        )
    if check in context.scaled:
        parts.append(f"tried with {context.scaled[check]}")
    if check in context.in_force:
        parts.append(f"the server has {context.in_force[check]}")
    return f" ({'; '.join(parts)})" if parts else ""


def _said(attempts: Sequence[Attempt], *, with_text: bool = False, of_control: bool = False) -> str:
    """What was observed, each thing once."""
    found: dict[str, int] = {}
    for attempt in attempts:
        observed = attempt.control_observed if of_control else attempt.observed
        text = f"{attempt.text}: {observed}" if with_text else observed
        found[text] = found.get(text, 0) + 1
    return "; ".join(f"{text} (×{count})" if count > 1 else text for text, count in found.items())


def _made(check: Check, verdict: Verdict, observed: str, attempts: Sequence[Attempt]) -> Finding:
    times = [attempt.ms for attempt in attempts if attempt.ms is not None]
    return Finding(
        id=check.id,
        title=check.title,
        group=check.group,
        severity=check.severity,
        cis=check.cis,
        meaning=check.meaning,
        verdict=verdict,
        attempted="; ".join(attempt.text for attempt in attempts),
        observed=observed,
        attempts=tuple(attempts),
        ms=sum(times) if times else None,
    )


def _paired(check: str, twin: Seen, control: Seen, context: Context) -> list[Attempt]:
    """Each attempt of a check with its control."""
    mine, theirs = _keyed(check, twin), _keyed(check, control)
    made = []
    for key in dict.fromkeys([*theirs, *mine]):
        line, weak = mine.get(key), theirs.get(key)
        if check == "G1" and _was_asked_for(key, context.gpus):
            continue
        if check == "N8" and context.loopback and _LOOPBACK.search(key):
            continue
        if twin.left_out and twin.left_out in key:
            continue
        shown = line or weak or {}
        controlled = _succeeded(check, weak, control, context) if weak else None
        succeeded = _succeeded(check, line, twin, context) if line else None
        observed = _observed(line, succeeded)
        if check == "P6":
            same = line and weak and line.get("inode") and line["inode"] == weak.get("inode") and controlled
            succeeded = bool(succeeded or same) if line else None
        if line is None and check == "G1":
            # A device that is not there cannot be opened.
            succeeded, observed = False, "not there"
        made.append(
            Attempt(
                text=_text(str(shown.get("attempt", "")), twin.models if line else control.models),
                succeeded=succeeded,
                observed=observed,
                control=controlled,
                control_observed=_observed(weak, controlled),
                ms=line.get("ms") if line else None,
            )
        )
    return made


def _keyed(check: str, seen: Seen) -> dict[str, Line]:
    found = {}
    for line in seen.lines:
        if line.get("check") == check:
            text = _text(str(line.get("attempt", "")), seen.models)
            found[_FIGURES.sub("#", text) if check in _BY_AMOUNT else text] = line
    return found


def _text(text: str, models: Sequence[str]) -> str:
    """An attempt in words that two containers with different models share."""
    for model in models:
        text = text.replace(model, "the model")
    return text


def _succeeded(check: str, line: Line, seen: Seen, context: Context) -> bool | None:
    """Whether the violation happened; None if that cannot be told."""
    if line.get("succeeded"):
        return True
    if kind := _TOLD_BY_THE_RECEIVER.get(check):
        return bool(line.get("sent")) and kind in seen.arrived
    if check == "P6":
        own = context.own_namespaces.get(str(line.get("attempt")))
        return own is not None and line.get("inode") == own
    # It had too little of the machine to reach the limit, if there is one.
    return None if check == "R3" and is_doubtful(line) else False


def _observed(line: Line | None, succeeded: bool | None) -> str:  # noqa: FBT001 - three-valued
    if line is None:
        return "not attempted"
    text = str(line.get("observed", ""))
    if "inode" in line:
        return f"{text}, the machine's own" if succeeded else text
    if line.get("sent") and succeeded and not line.get("succeeded"):
        return "it arrived"
    return text


def _was_asked_for(text: str, gpus: frozenset[str]) -> bool:
    """Whether a device belongs to a GPU that was asked for."""
    path = text.rpartition(" ")[2]
    return any(fnmatchcase(path, pattern) for pattern in gpus)
