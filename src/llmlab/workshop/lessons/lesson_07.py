"""Lesson 07: a class in front of one server; keys, turns, quotas, and who can listen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmlab.errors import UsageError
from llmlab.workshop import judges
from llmlab.workshop.tasks import Given, Lesson, Task, Verdict, failed, passed

_LAST, _NEXT, _FIRST = "after all eight", "at the next free slot", "at once"
_NOTHING, _CAME, _ALL = "nothing", "what had come", "all that was asked for"
_SOMETHING, _QUESTION, _BOTH = "that somebody asks", "the question", "the question and the key"
_STATUSES = ("200", "401", "403", "429")
_NOBODY, _REVOKED, _SPENT, _FRUGAL = "nobody", "linus-07", "grace-07", "ada-07"
_OURS = (_SPENT, _REVOKED, _FRUGAL)
_OK, _TOO_MANY = 200, 429
_REQUESTS, _WINDOW_S = 20, 600.0


def _turn(given: Given) -> Verdict:
    seen = _facts(given.value, "finishes", "race = trying.race(…), then lesson.check(…, race)")
    many, ahead, before = seen["many"], int(seen["ahead"]), int(seen["before"])
    if ahead <= before or ahead < len(seen["finishes"]) // 2:
        return failed(
            f"Only {ahead} of {many}'s requests were there when {seen['one']} asked, {before} were answered first.",
            "there was no queue to speak of: run the race again",
        )
    held = _FIRST if before == 0 else _NEXT
    text = f"{before} of {ahead} were answered before {seen['one']}'s. You predicted: {given.predicted}."
    if given.predicted == held:
        return passed(
            f"{text} An answer under way is not stopped, and a slot that becomes free is for whoever has fewest."
        )
    return failed(
        text,
        "count: how many slots has the server, and how many answers have to end before one is free? "
        "Whose turn is it then: the next request's, or the next learner's?",
    )


def _charge(given: Given) -> Verdict:
    seen = _facts(given.value, "charged", "broken = trying.break_off(…), then lesson.check(…, broken)")
    asked, charged = int(seen["asked"]), seen["charged"]
    if charged is None:
        raise UsageError("how much came is not known", hint="break another answer off")
    if charged >= asked:
        return failed(
            f"All {asked} tokens came before it was broken off.", "that shows nothing: ask for more tokens"
        )
    held = _CAME if charged else _NOTHING
    text = f"Asked for {asked} tokens, {seen['received']} were read, {charged} are charged."
    if given.predicted == held:
        return passed(f"{text} The engine has worked for as many, and for the prompt as well.")
    return failed(text, "what has the engine done for this learner by the time it notices that nobody reads?")


def _listener(given: Given) -> Verdict:
    seen = _facts(given.value, "bytes_heard", "plain = trying.overhear(…), then lesson.check(…, plain)")
    held = _BOTH if seen["key"] else _QUESTION if seen["question"] else _SOMETHING
    how = "by TLS" if seen["tls"] else "unencrypted"
    text = f"Of {seen['bytes_heard']} bytes that passed {how}, a listener can read: {held}."
    if seen["tls"]:
        raise UsageError(
            "that room has TLS", hint="this prediction is about the room without it: give `plain`"
        )
    if given.predicted == held:
        return passed(f"{text} With the key, the listener is that learner.")
    return failed(text, "the key is sent with each question, in a header: what hides it on the way?")


def _tls(given: Given) -> Verdict:
    if len(given.values) != 2:  # noqa: PLR2004 - the answer and what was heard
        raise UsageError("an answer and what was heard are wanted", hint='lesson.check("tls", "…", sealed)')
    said = given.values[0]
    seen = _facts(given.values[1], "bytes_heard", 'lesson.check("tls", "…", sealed)')
    if not seen["tls"]:
        raise UsageError("that room has no TLS", hint="open it with self_signed=True: give `sealed`")
    held = _BOTH if seen["key"] else _QUESTION if seen["question"] else _SOMETHING
    if said == held:
        return passed(
            f"Of {seen['bytes_heard']} bytes, a listener can read: {held}. And that it is this room is known by the "
            "certificate's fingerprint in the address."
        )
    return failed(f"{said!r} is not what was found.", "read the last two lines of the table for `sealed`")


def _door(given: Given, who: str, why: str) -> Verdict:
    door = _of(given.value, who)
    text = f"{who}: {door['status']} {door['code'] or 'answered'}. You predicted {given.predicted}."
    if given.predicted == str(door["status"]):
        return passed(f"{text} {why}")
    return failed(
        text,
        "401: who are you? 403: I know you, and the answer is no. 429: you may, but not now. Which of them fits?",
    )


def _nobody(given: Given) -> Verdict:
    return _door(given, _NOBODY, "A program can tell from it that a key is missing.")


def _revoked(given: Given) -> Verdict:
    return _door(given, _REVOKED, "The room knows whose key it was, and says so.")


def _spent(given: Given) -> Verdict:
    return _door(given, _SPENT, "Beside it the room says when to come back.")


def _others(given: Given) -> Verdict:
    spent, frugal = _of(given.value, _SPENT), _of(given.value, _FRUGAL)
    text = f"{_SPENT}: {spent['status']}; {_FRUGAL}: {frugal['status']}."
    if spent["status"] == _TOO_MANY and frugal["status"] == _OK:
        return passed(f"{text} A quota is each learner's own.")
    return failed(
        text,
        f"{_SPENT} has to be over the quota and {_FRUGAL} not. Where {_FRUGAL} has asked more than 10 times within a "
        "minute, wait for one, and run the two cells above again",
    )


def _own(given: Given) -> Verdict:
    seen = _facts(given.value, "allowed", "open it, then give the board: llmlab.classroom()")
    requests, window = seen["allowed"]["requests"], float(seen["window_s"])
    if requests != _REQUESTS:
        return failed(
            f"Each learner may send {'any number of' if requests is None else requests} requests, not {_REQUESTS}.",
            "`%llm classroom --help`: --requests; close the room, and open it again",
        )
    if window != _WINDOW_S:
        return failed(
            f"They are counted within {window:g} s, not {_WINDOW_S:g} s.",
            "`%llm classroom --help`: which option is the length of the window, and in which unit?",
        )
    return passed(f"{requests} requests within {window:g} s for each learner, and the room is open.")


def _gone(given: Given) -> Verdict:
    seen = _facts(given.value, "learners", 'lesson.check("gone", llmlab.classroom("keys"))')
    if left := [name for name in _OURS if name in seen["learners"]]:
        return failed(f"{', '.join(left)}: still with a key.", "trying.dismiss(keys) takes them back")
    return judges.nothing_left(("shared",))


def _of(value: Any, who: str) -> Mapping[str, Any]:
    doors = _facts(value, "doors", "doors = trying.knock(…), then lesson.check(…, doors)")["doors"]
    if who not in doors:
        raise UsageError(f"{who} has not asked", hint="run the cell with trying.knock as it stands")
    return dict(doors[who])


def _facts(value: Any, part: str, how: str) -> Mapping[str, Any]:
    """What was seen, as data; the room's own parts stand above the lessons, so that only this is known of them."""
    facts = value.to_dict() if hasattr(value, "to_dict") else None
    if not isinstance(facts, Mapping) or part not in facts:
        raise UsageError("that is not what was measured", hint=how)
    return facts


LESSON = Lesson(
    number="07",
    title="One class, one server",
    minutes=30,
    tasks=(
        Task(
            id="turn",
            title="Whose turn it is",
            judge=_turn,
            key="At the next free slot: two answers are under way and end, then it is the turn of whoever has fewest. "
            "The usual mistake is to think of a queue at a till: that would be after all eight.",
            choices=(_LAST, _NEXT, _FIRST),
            predicts=True,
            answer=repr(_NEXT),
            wrong=repr(_LAST),
        ),
        Task(
            id="charge",
            title="What a broken answer costs",
            judge=_charge,
            key="What had come, as the engine counts, and the prompt. A little more than was read may be charged: "
            "the engine notices a moment later that nobody reads.",
            choices=(_NOTHING, _CAME, _ALL),
            predicts=True,
            answer=repr(_CAME),
            wrong=repr(_ALL),
        ),
        Task(
            id="listener",
            title="What a listener reads without TLS",
            judge=_listener,
            key="The question and the key: HTTP sends both as they are. The usual mistake is to take a key for a cipher.",
            choices=(_SOMETHING, _QUESTION, _BOTH),
            predicts=True,
            answer=repr(_BOTH),
            wrong=repr(_SOMETHING),
        ),
        Task(
            id="tls",
            title="What a listener reads with TLS",
            judge=_tls,
            key="That somebody asks, when and roughly how much: neither question nor key stand in what passes.",
            answer=repr(_SOMETHING),
            wrong=repr(_QUESTION),
        ),
        Task(
            id="nobody",
            title="Without a key",
            judge=_nobody,
            key="401 Unauthorized, which should be called unauthenticated: the room does not know who asks.",
            choices=_STATUSES,
            predicts=True,
            answer="'401'",
            wrong="'403'",
        ),
        Task(
            id="revoked",
            title="With a revoked key",
            judge=_revoked,
            key="403 Forbidden: the room knows the key's hash and whose it was. 401 is the usual mistake.",
            choices=_STATUSES,
            predicts=True,
            answer="'403'",
            wrong="'401'",
        ),
        Task(
            id="spent",
            title="Over the quota",
            judge=_spent,
            key="429 Too Many Requests, with Retry-After. It is no refusal of the person, so not 403.",
            choices=_STATUSES,
            predicts=True,
            answer="'429'",
            wrong="'403'",
        ),
        Task(
            id="others",
            title="One is throttled, the other is not",
            judge=_others,
            key="Read off the same table: grace-07 429, ada-07 200.",
        ),
        Task(
            id="own",
            title="A room with limits of your own",
            judge=_own,
            key="%llm classroom open shared --requests 20 --window-s 600. Usual mistakes: the window in minutes, and a room "
            "that is still open from before.",
            answer='llmlab.classroom("open", "shared", requests=20, window_s=600) and llmlab.classroom()',
            wrong='llmlab.classroom("open", "shared", requests=20, window_s=10) and llmlab.classroom()',
        ),
        Task(
            id="gone",
            title="Nothing is left behind",
            judge=_gone,
            key="The room is closed, shared is stopped, and the three keys are taken back.",
        ),
    ),
)
