"""What can be tried on a room of one's own: who is let in, whose turn it is, what is charged, who can listen.

    from llmlab.classrooms import trying
    keys = trying.enrol("ada", "grace")
    trying.knock(url, {"nobody": None, "ada": keys["ada"]})

Each attempt sends real requests to an open room, as learners would, and returns
what was seen. Lesson 07 is made of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmlab.classrooms import opening, places
from llmlab.classrooms.keys import Keys
from llmlab.classrooms.ledger import Charge, Ledger
from llmlab.classrooms.trying import asking
from llmlab.classrooms.trying.listening import Listener
from llmlab.classrooms.trying.views import BrokenOff, Door, Doors, Enrolled, Finish, Overheard, Race, Spent
from llmlab.errors import LabError, UnknownNameError, UsageError
from llmlab.lab.doors import Secret

__all__ = ["Enrolled", "break_off", "dismiss", "enrol", "knock", "overhear", "race", "spend"]

_QUESTION = "What is a container?"
_MOST_REQUESTS = 64
_SOON_S, _WAIT_S = 10.0, 60.0


def enrol(*names: str) -> Enrolled:
    """Make a key for each of these learners; who has one already loses it.

    Args:
        names: The learners. In a room that others use, take names that nobody has.

    Raises:
        UsageError: If a name does not fit.
    """
    keys = Keys(places.folder())
    held = {each.name for each in keys.all() if each.revoked is None}
    if again := [name for name in names if name in held]:
        keys.revoke(again)
    return Enrolled(keys={name: Secret(key) for name, key in keys.add(names).items()})


def dismiss(enrolled: Enrolled) -> tuple[str, ...]:
    """Take back the keys of those whom `enrol` gave one; returns who still had one."""
    keys = Keys(places.folder())
    held = {each.name for each in keys.all() if each.revoked is None}
    left = [name for name in enrolled.keys if name in held]
    return keys.revoke(left) if left else ()


def knock(url: str, keys: Mapping[str, str | None]) -> Doors:
    """Ask the room one short question with each key, and see what it says.

    Args:
        url: The room's address.
        keys: Who → key; None for somebody without one.

    Raises:
        ServerStoppedError: If the room does not answer.
    """
    found = []
    for who, key in keys.items():
        said = asking.ask(url, key, _QUESTION, tokens=2)
        found.append(
            Door(
                who=who,
                status=said.status,
                code=said.code,
                message=said.message,
                retry_after_s=said.retry_after_s,
            )
        )
    return Doors(doors=tuple(found))


def spend(url: str, key: str, *, most: int = _MOST_REQUESTS) -> Spent:
    """Ask short questions, one after the other, until the room refuses one.

    Args:
        url: The room's address.
        key: Whose quota is spent.
        most: How many at the most.

    Raises:
        ServerStoppedError: If the room does not answer.
    """
    for number in range(_checked("most", most)):
        said = asking.ask(url, key, _QUESTION, tokens=2)
        if said.status != asking.OK:
            return Spent(answered=number, code=said.code)
    return Spent(answered=most, code="")


def race(url: str, many: str, one: str, *, requests: int = 8, tokens: int = 32) -> Race:
    """Let one learner send many requests at once, and another a single one after them.

    Args:
        url: The room's address.
        many: The key of the learner who sends many.
        one: The other's.
        requests: How many they are.
        tokens: Tokens of each answer.

    Raises:
        UsageError: If nobody here has that key, or a number is out of range.
        RequestError: If the room refuses one of them.
        ServerStoppedError: If it does not answer.
    """
    first, second = _whose(many), _whose(one)
    done: list[tuple[float, str]] = []
    lock = threading.Lock()

    def asked(key: str, who: str) -> None:
        said = asking.ask(url, key, _QUESTION, tokens=tokens, exactly=True)
        at = time.monotonic()
        said.check(who)
        with lock:
            done.append((at, who))

    with ThreadPoolExecutor(_checked("requests", requests) + 1) as pool:
        works = [pool.submit(asked, many, first) for _ in range(requests)]
        ahead = _await_queue(first, requests, lambda: all(work.done() for work in works))
        began = time.monotonic()
        works.append(pool.submit(asked, one, second))
        for work in works:
            work.result()
    return Race(
        many=first,
        one=second,
        ahead=ahead,
        finishes=tuple(Finish(who=who, after_s=at - began) for at, who in sorted(done)),
    )


def break_off(url: str, key: str, *, after: int = 10, tokens: int = 200) -> BrokenOff:
    """Begin a long answer, go away in its middle, and see what the room has charged.

    Args:
        url: The room's address.
        key: The learner's key.
        after: Go away after so many pieces of the answer.
        tokens: How long the answer would be.

    Raises:
        UsageError: If nobody here has that key.
        RequestError: If the room refuses it.
        LabError: If nothing is charged.
        ServerStoppedError: If the room does not answer.
    """
    who = _whose(key)
    before = {charge.id for charge in Ledger(places.folder()).read()}
    received = asking.begin(url, key, _QUESTION, tokens=tokens, after=after)
    charge = _await_charge(who, before)
    return BrokenOff(
        who=who, asked=tokens, received=received, prompt=charge.prompt, charged=charge.completion
    )


def overhear(url: str, key: str, *, question: str = _QUESTION) -> Overheard:
    """Ask by way of a listener, as on a network that others use, and look for key and question in what passed.

    Args:
        url: The room's address.
        key: The learner's key.
        question: What is asked.

    Raises:
        UsageError: If nobody here has that key.
        RequestError: If the room refuses it.
        ServerStoppedError: If it does not answer.
    """
    who = _whose(key)
    with Listener(url) as listener:
        asking.ask(listener.url, key, question, tokens=2).check(who)
    heard = listener.heard()
    return Overheard(
        tls=url.startswith("https:"),
        bytes_heard=len(heard),
        question=question.encode() in heard,
        key=key.encode() in heard,
    )


def _whose(key: str) -> str:
    found = Keys(places.folder()).find(key)
    if found is None:
        raise UsageError(
            "that is no key of a learner here", hint='keys = trying.enrol("ada"), then keys["ada"]'
        )
    return found.name


def _checked(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_REQUESTS:
        raise UsageError(f"{name} is {value!r}", hint=f"a whole number from 1 to {_MOST_REQUESTS}")
    return value


def _await_queue(who: str, requests: int, ended: Callable[[], bool]) -> int:
    """Wait until all of a learner's requests are in the room; returns how many still wait or are answered."""
    deadline = time.monotonic() + _SOON_S
    while True:
        learners = {each["name"]: each for each in opening.board()["learners"]}
        if who not in learners:
            raise UnknownNameError("learner in the room", who, learners)
        inside = int(learners[who]["waiting"]) + int(learners[who]["answering"])
        if inside == requests or ended() or time.monotonic() > deadline:
            return inside
        time.sleep(0.005)


def _await_charge(who: str, before: set[str]) -> Charge:
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        for charge in Ledger(places.folder()).read():
            if charge.learner == who and charge.id not in before:
                return charge
        time.sleep(0.02)
    raise LabError("nothing was charged", hint="is it the open room's address?")
