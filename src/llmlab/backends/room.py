"""A classroom that was joined: a server on somebody else's machine, with one of its models.

Nothing is started or stopped there from here. What is kept on this machine is the room's
address and the learner's key, in files that only the user can read:

    <runtime>/<name>/key   the key of one server
    <state>/rooms.json     address → key, so that a room can be joined again after a restart of the machine
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from llmlab import render, runtime
from llmlab.backends.base import Found, Held, Starting
from llmlab.client import Opener, Verify, rooms
from llmlab.errors import (
    MALFORMED,
    BackendError,
    LabError,
    RequestError,
    ServerError,
    ServerStoppedError,
    UsageError,
)
from llmlab.reporting import reporter
from llmlab.results_isolation import Receipt, Traffic
from llmlab.runtime import Claim
from llmlab.specs import BackendName, Record

NAME: BackendName = "room"
KEY = "key"

_ANSWER_S = 3.0
_ROOMS = "rooms.json"
_CLOSED = frozenset({"room_closing"})
_KEY_REFUSED = frozenset({"missing_api_key", "invalid_api_key", "revoked_api_key", "not_in_class"})


def is_key_refused(error: RequestError) -> bool:
    """Whether a room has refused the key, and nothing else."""
    return error.code in _KEY_REFUSED


def kept() -> dict[str, str]:
    """The rooms that were joined and not left, the last one last: address → key."""
    try:
        found = json.loads((runtime.state_dir() / _ROOMS).read_text(encoding="utf-8"))
        return {url: key for url, key in found.items() if isinstance(url, str) and isinstance(key, str)}
    except (OSError, *MALFORMED):
        return {}


def keep(url: str, key: str) -> None:
    """Keep a room's address and the key for it, in place of what was kept of the same room."""
    others = {each: held for each, held in kept().items() if not is_same(each, url)}
    _write({**others, url: key})


def forget(url: str) -> None:
    """Keep nothing of a room any more."""
    _write({each: key for each, key in kept().items() if not is_same(each, url)})


def is_same(url: str, other: str) -> bool:
    """Whether two addresses lead to one room, though its certificate may have changed."""
    return url.partition("#")[0].rstrip("/") == other.partition("#")[0].rstrip("/")


def _write(found: dict[str, str]) -> None:
    path = runtime.made_state_dir() / _ROOMS
    if found:
        runtime.write_private(path, json.dumps(found))
    else:
        path.unlink(missing_ok=True)


def unavailable() -> LabError | None:
    """Nothing is started in a room from here."""
    return _not_started()


def _not_started() -> UsageError:
    return UsageError("a classroom is joined, not started", hint="join ADDRESS, which the teacher gives you")


def start(starting: Starting) -> Record:  # noqa: ARG001 - the protocol's signature
    """Refuse: a classroom is joined.

    Raises:
        UsageError: Always.
    """
    raise _not_started()


def find() -> list[Record]:
    """All rooms that were joined, a record for each of their models."""
    return [record for record in runtime.records() if record.backend == NAME and record.endpoint.url]


def usage(record: Record) -> Any:
    """What the learner has used of the room, and what is allowed, as the room tells it.

    Raises:
        ServerError: If the room does not tell.
    """
    url, key_file = record.endpoint.url or "", record.endpoint.key_file
    try:
        key = key_file.read_text(encoding="ascii").strip() if key_file else ""
    except (OSError, ValueError):
        raise RequestError(
            f"the key for {record.name!r} cannot be read", hint=f"join the room again: llmlab join {url}"
        ) from None
    return rooms.call(url, key, "GET", "/room/usage", timeout_s=_ANSWER_S)


def look(record: Record) -> Found:
    """How the room fares, as it says itself."""
    try:
        held, detail = _standing(record, usage(record))
    except RequestError as error:
        held = "unreachable"
        if error.code:
            held = "closed" if error.code in _CLOSED else "refused"
        detail = error.message
    except ServerStoppedError as error:
        held, detail = ("closed" if rooms.is_closed(error) else "unreachable"), error.message
    except ServerError as error:
        held, detail = "unreachable", f"{error.message}; {error.hint}"
    return Found(running=True, detail=detail, held=held)


def _standing(record: Record, found: Any) -> tuple[Held | None, str]:
    """What holds an answer back, and more on that."""
    model = record.spec.model.name
    try:
        models = [str(each) for each in found["models"]]
        spent = [
            f"{found[what]['used']} of {found[what]['allowed']} {what}"
            for what in ("requests", "tokens")
            if found[what]["allowed"] is not None and found[what]["used"] >= found[what]["allowed"]
        ]
        free = found.get("free_in_s")
        again = f"; some are free again in {render.duration_text(max(free, 1.0))}" if free is not None else ""
        if spent:
            window = render.duration_text(found["window_s"])
            return "over quota", f"you have used {' and '.join(spent)} within {window}{again}"
    except MALFORMED:
        return "unreachable", "what answers there is no classroom of llmlab"
    if model not in models:
        return (
            "lost",
            f"the room is open, and has no {model!r} now; it has: {', '.join(models) or 'none yet'}",
        )
    return None, ""


def verify(record: Record) -> Verify | None:  # noqa: ARG001 - the protocol's signature
    """None: the certificate is checked when the connection is made."""
    return None


def opener(record: Record) -> Opener | None:
    """Connects to the room; with a fingerprint in its address, to that very certificate only."""
    return partial(rooms.connect, record.endpoint.url or "")


def settle(record: Record) -> None:
    """Nothing: nothing was started."""


def resident_mib(record: Record) -> int | None:  # noqa: ARG001 - the protocol's signature
    """None: another machine's memory cannot be seen from here."""
    return None


def log(record: Record, lines: int | None = None) -> list[str]:  # noqa: ARG001 - the protocol's signature
    """Refuse: its log is with the teacher.

    Raises:
        BackendError: Always.
    """
    raise BackendError(
        f"{record.name!r} is a classroom: its servers' logs are on the teacher's machine",
        hint=f"how it fares from here: llmlab inspect {record.name}",
    )


def stop(record: Record, *, grace_s: float) -> None:  # noqa: ARG001 - the protocol's signature
    """Leave the room: forget its key, and with the last of its models its address; nothing ends there."""
    url = record.endpoint.url or ""
    others = [each for each in find() if each.name != record.name and is_same(each.endpoint.url or "", url)]
    if not others:
        forget(url)
    reporter().note(f"left {record.name}: nothing was stopped at {record.endpoint}")


def remove_abandoned(claim: Claim) -> None:
    """Nothing: all that there is lies in the directory."""


def remove_orphans() -> None:
    """Nothing: there are no processes."""


def controls(record: Record) -> Receipt:
    """What the room says, and that its isolation cannot be seen from here."""
    address = rooms.read_address(record.endpoint.url or "")
    facts = {
        "address": address.origin,
        "certificate": _certificate(address),
        "isolation": "cannot be seen from here; the teacher's llmlab inspect shows it",
    }
    try:
        facts |= _facts(usage(record))
    except (ServerError, *MALFORMED):
        facts["used"] = "unknown: the room does not tell now"
    return Receipt(facts=facts, traffic=Traffic(unknown="it is another machine's"))


def _certificate(address: rooms.Address) -> str:
    if not address.tls:
        return "none: keys and questions go unencrypted"
    return f"that of SHA-256 {address.pin}, and no other" if address.pin else "one that this machine trusts"


def _facts(found: Any) -> dict[str, str]:
    facts = {"learner": str(found["learner"]), "models": ", ".join(map(str, found["models"])) or "none yet"}
    window = render.duration_text(found["window_s"])
    for what in ("requests", "tokens"):
        used, allowed = found[what]["used"], found[what]["allowed"]
        left = "no limit" if allowed is None else f"{max(allowed - used, 0)} of {allowed} left"
        facts[f"{what} used"] = f"{used} within {window}; {left}"
    return {key: render.plain(value) for key, value in facts.items()}
