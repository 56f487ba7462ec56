"""Lesson 07: attempts on a real room, and the judges on what they have shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

import llmlab
from llmlab import workshop
from llmlab.classrooms import trying
from llmlab.classrooms.trying.views import BrokenOff, Door, Doors, Finish, Overheard, Race
from llmlab.errors import ServerStoppedError, UsageError
from tests.classrooms import room as verb
from tests.conftest import missing

NAMES = ("ada-07", "grace-07", "linus-07")
MODEL = "synthetic:smollm2-135m:Q4_0"


@pytest.fixture
def lesson():
    return workshop.lesson("07")


@pytest.fixture
def keys() -> trying.Enrolled:
    return trying.enrol(*NAMES)


@pytest.fixture
def url(require_engine: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """A room in front of a server of two slots that takes its time for an answer."""
    options = getattr(request, "param", {})
    with llmlab.start(MODEL, backend="native", name="shared", slots=2, context=512):
        try:
            yield verb("open", servers="shared", concurrent=8, **options).url
        finally:
            verb("close")


def said(checked: Any) -> tuple[str, str]:
    return checked.verdict.outcome, f"{checked.verdict.text} → {checked.verdict.hint}"


# Attempts on a real room


def test_the_turn_goes_to_the_learner_who_has_fewest_and_not_to_the_next_request(
    url: str, keys: trying.Enrolled, lesson
):
    race = trying.race(url, many=keys["grace-07"], one=keys["ada-07"], requests=6, tokens=24)
    assert sorted(each.who for each in race.finishes) == ["ada-07", *["grace-07"] * 6]
    assert [each.after_s for each in race.finishes] == sorted(each.after_s for each in race.finishes)
    assert race.ahead > race.before > 0
    lesson.predict("turn", "at the next free slot")
    assert lesson.check("turn", race).passed
    lesson.predict("turn", "after all eight")
    outcome, text = said(lesson.check("turn", race))
    assert outcome == "failed"
    assert "whose turn" in text.lower()


def test_an_answer_that_is_broken_off_costs_what_had_come(url: str, keys: trying.Enrolled, lesson):
    broken = trying.break_off(url, keys["linus-07"], after=5, tokens=150)
    assert broken.received == 5
    assert broken.charged is not None
    assert 5 <= broken.charged < 150
    assert broken.prompt
    lesson.predict("charge", "what had come")
    assert lesson.check("charge", broken).passed
    # The slot is free again for others.
    assert trying.knock(url, {"ada": keys["ada-07"]}).doors[0].status == 200


def test_a_listener_reads_question_and_key_without_tls(url: str, keys: trying.Enrolled, lesson):
    plain = trying.overhear(url, keys["ada-07"], question="Is this a secret?")
    assert (plain.tls, plain.question, plain.key) == (False, True, True)
    assert "readable" in str(plain)
    assert keys["ada-07"] not in f"{plain} {plain.to_html()} {plain.to_dict()}"
    with pytest.raises(UsageError, match="no key of a learner"):
        trying.overhear(url, "llm-no-such-key")


@pytest.mark.parametrize("url", [{"self_signed": True, "requests": 4, "window_s": 60.0}], indirect=True)
def test_with_tls_nothing_is_read_and_each_refusal_has_its_status(url: str, keys: trying.Enrolled, lesson):
    if not shutil.which("openssl"):
        missing("openssl", "not on PATH")
    sealed = trying.overhear(url, keys["ada-07"], question="Is this a secret?")
    assert (sealed.tls, sealed.question, sealed.key) == (True, False, False)
    assert sealed.bytes_heard > 500
    assert lesson.check("tls", "that somebody asks", sealed).passed
    assert not lesson.check("tls", "the question", sealed).passed

    verb("keys", revoke="linus-07")
    spent = trying.spend(url, keys["grace-07"])
    assert (spent.answered, spent.code) == (4, "requests_quota")
    asking = {"nobody": None, "stranger": "llm-no-such-key", **{name: keys[name] for name in NAMES}}
    doors = trying.knock(url, asking)
    assert {each.who: each.status for each in doors.doors} == {
        "nobody": 401,
        "stranger": 401,
        "linus-07": 403,
        "grace-07": 429,
        "ada-07": 200,
    }
    assert {each.who: each.retry_after_s is not None for each in doors.doors}["grace-07"]
    for task, right in (("nobody", "401"), ("revoked", "403"), ("spent", "429")):
        lesson.predict(task, right)
        assert lesson.check(task, doors).passed
        lesson.predict(task, "200")
        assert said(lesson.check(task, doors))[0] == "failed"
    assert lesson.check("others", doors).passed
    assert not lesson.check("own", llmlab.classroom()).passed


def test_who_is_enrolled_again_loses_the_old_key_and_who_is_dismissed_has_none(require_engine):
    first = trying.enrol("ada-07", "grace-07")
    second = trying.enrol("ada-07")
    assert first["ada-07"] != second["ada-07"]
    assert first["ada-07"] not in f"{first} {first.to_html()} {first!r} {first.to_dict()}"
    verb("keys", add="a teacher's own")
    assert trying.dismiss(first) == ("ada-07", "grace-07")
    assert trying.dismiss(first) == ()
    assert verb("keys").learners == ("a teacher's own",)


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (lambda _: trying.race("http://127.0.0.1:9", "x", "y"), UsageError, "no key of a learner"),
        (
            lambda _: trying.knock("http://127.0.0.1:9", {"nobody": None}),
            ServerStoppedError,
            "does not answer",
        ),
        (lambda _: trying.knock("tiny", {"nobody": None}), UsageError, "no.* room's address"),
        (
            lambda keys: trying.spend("http://127.0.0.1:9", keys["ada-07"], most=0),
            UsageError,
            "most is 0",
        ),
    ],
    ids=["key", "closed", "address", "number"],
)
def test_an_attempt_without_a_room_or_a_key_says_what_is_wrong(keys, attempt, error, message):
    with pytest.raises(error, match=message):
        attempt(keys)


# Judges


def race(*order: str, ahead: int = 8) -> Race:
    return Race(
        many="grace-07",
        one="ada-07",
        ahead=ahead,
        finishes=tuple(Finish(who=f"{who}-07", after_s=0.1 * place) for place, who in enumerate(order)),
    )


@pytest.mark.parametrize(
    ("seen", "right"),
    [
        (race(*["grace"] * 2, "ada", *["grace"] * 6), "at the next free slot"),
        (race("ada", *["grace"] * 8), "at once"),
    ],
    ids=["next", "once"],
)
def test_the_turn_is_judged_by_the_order_that_was_seen(lesson, seen, right):
    for choice in ("after all eight", "at the next free slot", "at once"):
        lesson.predict("turn", choice)
        assert lesson.check("turn", seen).passed == (choice == right)


def test_a_race_without_a_queue_shows_nothing(lesson):
    lesson.predict("turn", "at the next free slot")
    outcome, text = said(lesson.check("turn", race(*["grace"] * 7, "ada", "grace", ahead=2)))
    assert outcome == "failed"
    assert "run the race again" in text


def test_an_answer_that_came_whole_shows_nothing_of_charges(lesson):
    lesson.predict("charge", "all that was asked for")
    whole = BrokenOff(who="linus-07", asked=20, received=10, prompt=17, charged=20)
    assert "ask for more tokens" in said(lesson.check("charge", whole))[1]
    nothing = BrokenOff(who="linus-07", asked=20, received=10, prompt=17, charged=0)
    lesson.predict("charge", "nothing")
    assert lesson.check("charge", nothing).passed


def test_the_two_rooms_are_not_mixed_up(lesson):
    plain = Overheard(tls=False, bytes_heard=900, question=True, key=True)
    sealed = Overheard(tls=True, bytes_heard=3000, question=False, key=False)
    lesson.predict("listener", "the question and the key")
    assert lesson.check("listener", plain).passed
    assert "give `plain`" in said(lesson.check("listener", sealed))[1]
    assert "give `sealed`" in said(lesson.check("tls", "that somebody asks", plain))[1]
    assert "an answer and what was heard" in said(lesson.check("tls", sealed))[1]


def test_who_is_throttled_while_the_other_is_served(lesson):
    def doors(grace: int, ada: int) -> Doors:
        def door(who: str, status: int) -> Door:
            return Door(who=who, status=status, code="", message="", retry_after_s=None)

        return Doors(doors=(door("grace-07", grace), door("ada-07", ada)))

    assert lesson.check("others", doors(429, 200)).passed
    for statuses in ((429, 429), (200, 200)):
        assert "wait" in said(lesson.check("others", doors(*statuses)))[1]
    lesson.predict("nobody", "401")
    assert "nobody has not asked" in said(lesson.check("nobody", doors(429, 200)))[1]


@pytest.mark.parametrize("task", ["turn", "charge", "listener", "nobody", "others", "own", "gone"])
def test_what_was_not_measured_is_no_answer(lesson, task):
    for choice in ("at once", "nothing", "the question", "401"):
        lesson.predict(task, choice)
    outcome, text = said(lesson.check(task, "something"))
    assert outcome == "failed"
    assert "that is not what was measured" in text
