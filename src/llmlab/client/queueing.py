"""Who waits for a server: how many requests are under way, and how many have no slot yet."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from llmlab.errors import MALFORMED, ServerBusyError, ServerError
from llmlab.results import Answer

# Of llama-server's /metrics: requests that no slot has taken yet.
_DEFERRED = re.compile(r"^llamacpp:requests_deferred (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What a server says of those who ask it.

    Attributes:
        slots: Requests that it answers at the same time.
        answering: How many it answers now.
        waiting: How many have no slot yet.
    """

    slots: int
    answering: int
    waiting: int


def queue(fetch: Callable[[str], str]) -> Queue | None:
    """Look at who waits; None if the server does not tell, as llama-cpp-python's.

    Args:
        fetch: GETs a path of the server's.
    """
    try:
        slots = [bool(slot["is_processing"]) for slot in json.loads(fetch("/slots"))]
        found = _DEFERRED.search(fetch("/metrics"))
    except (ServerError, *MALFORMED):
        return None
    return Queue(slots=len(slots), answering=sum(slots), waiting=int(found[1])) if found else None


def waiting(seen: Queue | None) -> str:
    """Why nothing has come yet, in a few words; this request is one of those that are counted."""
    if seen is None:
        return "waiting for the first token"
    if not seen.waiting:
        others = f", beside {_count(seen.answering - 1, 'other request')}" if seen.answering > 1 else ""
        return f"reading the prompt{others}"
    taken = "its slot answers" if seen.slots == 1 else f"its {seen.slots} slots answer"
    behind = f", and {_count(seen.waiting - 1, 'more request')} waiting" if seen.waiting > 1 else ""
    return f"waiting: {taken} {_count(seen.answering, 'other request')}{behind}"


def silent(name: str, timeout_s: float, answer: Answer, seen: Queue | None) -> ServerBusyError:
    """The error for a server that sent nothing for so long.

    Args:
        name: The server's.
        timeout_s: How long was waited.
        answer: What had come before.
        seen: Who waited when that was over and the request was among them; None if that is not known.
    """
    if seen and seen.waiting:
        slots, answering = (_count(seen.slots, "slot"), _count(seen.answering, "request"))
        others = _count(seen.waiting - 1, "other request")
        busy = ServerBusyError(
            f"server {name!r} is busy: its {slots} answered {answering} and {others} waited "
            f"when this one had waited for {timeout_s:g} s",
            hint="ask again later, wait for longer (--timeout), or start a server with more --slots",
        )
    else:
        busy = ServerBusyError(
            f"server {name!r} sent nothing for {timeout_s:g} s", hint=f"look at its log: llmlab logs {name}"
        )
    busy.answer = answer
    return busy


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
