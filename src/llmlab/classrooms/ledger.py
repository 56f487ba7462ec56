"""What each learner has used, in a file that outlives the room.

A finished request is a line of `charges.jsonl`. One under way has a file of its own in
`flights/`, in which what has come is written down before it is handed on; whoever opens the
room after a crash makes a line of it. A line is known by its id: it counts once.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from llmlab.errors import MALFORMED
from llmlab.specs import value_of

Outcome = Literal["answered", "refused", "gone", "died", "stopped", "killed"]
"""answered: to its end. refused: by the engine. gone: the learner went away. died: the server did.
stopped: the teacher revoked the key or closed the room. killed: the room's process was."""
BY_THE_ROOM: tuple[Outcome, ...] = ("died", "killed")
FAILED: tuple[Outcome, ...] = ("refused", *BY_THE_ROOM)

_CHARGES, _FLIGHTS = "charges.jsonl", "flights"
_COUNTS = 48  # bytes of the line with the counts, so that it can be written over


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A request and what it took. Unknown is None.

    Attributes:
        id: Its own.
        learner: Who asked.
        at: When, seconds since the epoch.
        model: The model that was asked for.
        server: The server that answered.
        retried: What is the same for a request and its repetitions: a hash of the client's
            `Idempotency-Key` and the body; "" without one.
        prompt: Tokens of the prompt, as the engine counts.
        completion: Tokens that came.
        waited_s: Seconds in the queue.
        first_s: Seconds from the request to the first token.
        total_s: Seconds from the request to its end.
        outcome: How it ended.
    """

    id: str
    learner: str
    at: float
    model: str
    server: str
    retried: str = ""
    prompt: int | None = None
    completion: int | None = None
    waited_s: float | None = None
    first_s: float | None = None
    total_s: float | None = None
    outcome: Outcome = "killed"

    @property
    def tokens(self) -> int:
        """What is charged: what is known to have been read and written."""
        return (self.prompt or 0) + (self.completion or 0)


class Flight:
    """A request that is being answered.

    Args:
        ledger: Where its charge will be written.
        charge: What is known at the beginning.
        path: Its file.

    Attributes:
        ended: Whether it is over.
    """

    def __init__(self, ledger: Ledger, charge: Charge, path: Path) -> None:
        self._ledger = ledger
        self.charge = charge
        self._path = path
        head = json.dumps(asdict(charge)).encode() + b"\n"
        self._at = len(head)
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(self._file, head + b" " * _COUNTS)
        self._began = time.monotonic()
        self.ended = False

    def note(self, *, prompt: int | None = None, completion: int | None = None) -> None:
        """Write down what has come, before it is handed on."""
        charge = self.charge
        if completion and not charge.completion:
            charge = replace(charge, first_s=(charge.waited_s or 0.0) + time.monotonic() - self._began)
        self.charge = replace(
            charge,
            prompt=charge.prompt if prompt is None else prompt,
            completion=charge.completion if completion is None else completion,
        )
        counts = json.dumps([self.charge.prompt, self.charge.completion]).ljust(_COUNTS).encode()
        os.pwrite(self._file, counts, self._at)

    def end(self, outcome: Outcome) -> Charge:
        """It is over: the charge is written, once."""
        total = (self.charge.waited_s or 0.0) + time.monotonic() - self._began
        self.charge = replace(self.charge, outcome=outcome, total_s=total)
        self._ledger.write(self.charge)
        self._close()
        return self.charge

    def discard(self) -> None:
        """No server has taken it: there is nothing to charge."""
        self._close()

    def _close(self) -> None:
        self.ended = True
        os.close(self._file)
        self._path.unlink()


class Ledger:
    """The charges of a room.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _CHARGES
        self._flights = folder / _FLIGHTS

    def open(self) -> list[Charge]:
        """Begin to write: first what a killed room has left under way; returns all charges."""
        self._flights.mkdir(mode=0o700, exist_ok=True)
        self._whole()
        known = {charge.id: charge for charge in self.read()}
        for path in sorted(self._flights.iterdir()):
            left = _flight(path)
            if left and left.id not in known:
                known[left.id] = left
                self.write(left)
            path.unlink()
        return list(known.values())

    def begin(self, charge: Charge) -> Flight:
        """A request is handed to a server."""
        return Flight(self, charge, self._flights / charge.id)

    def write(self, charge: Charge) -> None:
        """Add a line, in one piece."""
        line = json.dumps(asdict(charge)).encode() + b"\n"
        handle = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)

    def read(self) -> Iterator[Charge]:
        """All charges, from any process; a line that cannot be read is none."""
        seen: set[str] = set()
        with suppress(FileNotFoundError), self._path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                with suppress(*MALFORMED):
                    charge = value_of(Charge, json.loads(line))
                    if charge.id not in seen and charge.outcome in get_args(Outcome):
                        seen.add(charge.id)
                        yield charge

    def _whole(self) -> None:
        """A line that was cut off, as by a full disk, must not take the next one with it."""
        with suppress(FileNotFoundError), self._path.open("r+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")


def new_id() -> str:
    """An id that nothing else has."""
    return secrets.token_hex(12)


def _flight(path: Path) -> Charge | None:
    """What had come of a request when the room was killed."""
    try:
        head, counts = path.read_text(encoding="utf-8").split("\n", 1)
        charge = value_of(Charge, json.loads(head))
        prompt, completion = (
            value_of(tuple[int | None, ...], json.loads(counts)) if counts.strip() else (None, None)
        )
        return replace(charge, prompt=prompt, completion=completion, outcome="killed")
    except (OSError, *MALFORMED):
        return None
