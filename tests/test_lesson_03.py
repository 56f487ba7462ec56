"""Lesson 03: its judges on comparisons, its rounds on real servers."""

from __future__ import annotations

import pytest

import llmlab
from llmlab import workshop
from llmlab.errors import UsageError
from llmlab.workshop.turns import Round, Turns, take
from tests import comparing_examples as examples


@pytest.fixture
def lesson():
    return workshop.lesson("03")


def played(*rates: tuple[float, float]) -> Turns:
    return Turns(names=("left", "right"), tokens=64, rounds=tuple(Round(a=a, b=b) for a, b in rates))


def said(checked):
    return checked.verdict.outcome, f"{checked.verdict.text} → {checked.verdict.hint}"


# Rounds by hand


def test_rounds_with_two_servers_tell_the_rate_of_each_and_leave_them_running(require_engine):
    with (
        llmlab.start("tiny", backend="native", name="left"),
        llmlab.start("tiny", backend="native", name="right") as right,
    ):
        seen = take("left", right, rounds=3, tokens=16)
        assert {one.name for one in llmlab.ps()} == {"left", "right"}
    assert seen.names == ("left", "right")
    assert len(seen.rounds) == 3
    assert all(one.a > 0 and one.b > 0 for one in seen.rounds)
    assert sum(seen.ahead) <= 3
    assert "sign test" in str(seen)
    html = seen.to_html()
    assert html.count('role="img"') == 1
    assert "aria-label" in html
    assert len(seen.to_dict()["rounds"]) == 3


def test_a_score_is_called_a_winner_only_where_chance_seldom_makes_it():
    even = played((2, 1), (1, 2), (2, 1), (1, 2))
    assert even.ahead == (2, 2)
    assert even.flips == 3
    assert even.by_chance == 1.0
    assert even.winner is None
    assert played(*[(2.0, 1.0)] * 9, *[(1.0, 2.0)] * 3).winner is None
    ten = played(*[(2.0, 1.0)] * 10, *[(1.0, 2.0)] * 2)
    assert ten.by_chance == pytest.approx(2 * 79 / 4096)
    assert ten.winner == "left"
    assert played((1, 1)).by_chance == 1.0, "a draw is nobody's"


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"rounds": True}, {"tokens": 1}, {"rounds": "many"}])
def test_rounds_out_of_range_are_refused_before_anything_is_asked(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        take("left", "right", **wrong)


def test_the_same_question_asked_twice_is_read_once(require_engine, lesson):
    question = "A container is kept apart from the rest. " * 12 + "What is a container?"
    with llmlab.start("tiny", backend="native", name="left") as left:
        first, second = (left.ask(question, max_tokens=8) for _ in range(2))
    lesson.predict("again", "later")
    outcome, text = said(lesson.check("again", first, second))
    assert outcome == "failed"
    assert "'cached'" in text
    lesson.predict("again", "sooner")
    assert lesson.check("again", first, second).passed
    outcome, text = said(lesson.check("again", first, first))
    assert outcome == "failed", "nothing of the first one was cached"
    assert "word by word" in text


def test_of_a_score_nothing_is_claimed_that_it_does_not_show(lesson):
    close = played(*[(2.0, 1.0)] * 7, *[(1.0, 2.0)] * 5)
    assert lesson.check("winner", "cannot tell", close).passed
    outcome, text = said(lesson.check("winner", "left", close))
    assert outcome == "failed"
    assert "coin" in text
    clear = played(*[(2.0, 1.0)] * 12)
    assert lesson.check("winner", "left", clear).passed
    assert lesson.check("winner", "cannot tell", clear).passed
    assert not lesson.check("winner", "right", clear).passed
    outcome, text = said(lesson.check("winner", "nobody", clear))
    assert outcome == "failed"
    assert "'cannot tell'" in text
    assert lesson.check("winner", ..., clear).verdict.outcome == "unanswered"


# The comparison


def test_a_ratio_is_right_near_the_interval_and_wrong_far_from_it(lesson):
    seen = examples.equivalent()
    assert lesson.check("ratio", seen).verdict.outcome == "unanswered", "it was not predicted"
    for guess, outcome in ((1.0, "passed"), (1.05, "passed"), (0.5, "failed"), (0.1, "failed")):
        lesson.predict("ratio", guess)
        assert lesson.check("ratio", seen).verdict.outcome == outcome, guess
    assert "the same program" in said(lesson.check("ratio", seen))[1]


def test_an_interval_is_read_off_as_it_is_shown(lesson):
    seen = examples.equivalent()
    found = seen.findings["generated"]
    right = (round(found.low, 2), round(found.high, 2), "equivalent")
    assert lesson.check("interval", right, seen).passed
    assert lesson.check("interval", list(right), seen).passed


def test_each_way_of_misreading_an_interval_has_a_hint_of_its_own(lesson):
    seen = examples.equivalent()
    found, other = seen.findings["generated"], seen.findings["start_s"]
    for answer, hint in (
        (found.ratio, "one number does not say"),
        ((found.low, found.high), "verdict in words"),
        ((found.high, found.low, "equivalent"), "the lower end comes first"),
        ((other.low, other.high, "equivalent"), "in another row"),
        ((0.5, 2.0, "equivalent"), "'A/A floor' is another thing"),
        ((found.low, found.high, "different"), "does the 95 % interval hold 1"),
        (("low", "high", "equivalent"), "give the figure"),
    ):
        outcome, text = said(lesson.check("interval", answer, seen))
        assert outcome == "failed"
        assert hint in text, answer


def test_that_nothing_can_be_told_is_a_right_answer_where_it_is_so(lesson):
    seen = examples.inconclusive()
    found = seen.findings["generated"]
    assert lesson.check("interval", (found.low, found.high, "inconclusive"), seen).passed
    assert lesson.check("interval", (found.low, found.high, "cannot tell"), seen).passed
    assert not lesson.check("interval", (found.low, found.high, "equivalent"), seen).passed


def test_blocks_are_the_samples_and_requests_are_not(lesson):
    seen = examples.equivalent(blocks=8)
    assert lesson.check("sample", 8, seen).passed
    outcome, text = said(lesson.check("sample", 32, seen))
    assert outcome == "failed"
    assert "32 requests in 8 blocks" in text


@pytest.mark.parametrize("task", ["interval", "sample"])
def test_what_is_no_comparison_or_has_too_few_blocks_is_told(lesson, task):
    for thing in (None, 3, "seen"):
        outcome, text = said(lesson.check(task, 6, thing))
        assert outcome == "failed"
        assert f'lesson.check("{task}"' in text
    outcome, text = said(lesson.check(task, (1, 2, "x") if task == "interval" else 6, examples.one_block()))
    assert outcome == "failed"
    assert "to its end" in text


def test_the_quota_is_judged_by_the_recording(lesson):
    quota = lesson.recorded("03-quota")
    assert 0.8 < quota["findings"]["generated"]["ratio"] < 0.9
    lesson.predict("quota", "half as fast")
    outcome, text = said(lesson.check("quota", quota))
    assert outcome == "failed"
    assert "CPU time and whole request" in text
    lesson.predict("quota", "a little slower")
    assert lesson.check("quota", quota).passed
    assert not lesson.check("quota", examples.quota()).passed, "that is another measurement"


def test_the_recordings_show_what_the_notebook_says_of_them(lesson):
    compared = lesson.recorded("03-compare")
    assert compared["verdict"] == "equivalent"
    assert compared["blocks"] == 20
    assert "RECORDING" in str(compared)
    assert "held back in 100 % of its periods" in str(lesson.recorded("03-quota")).replace("\n", " ")


# The exercise


def own(lesson, design, seen):
    lesson.predict("own", design)
    return said(lesson.check("own", seen))


def test_a_comparison_of_ones_own_is_judged_by_its_verdict(lesson):
    assert own(lesson, ("cpus=4", "different"), examples.different())[0] == "passed"
    outcome, text = own(lesson, ("cpus=4", "equivalent"), examples.different())
    assert outcome == "failed"
    assert "the last prediction counts" in text
    assert own(lesson, ("context=256", "equivalent"), examples.equivalent())[0] == "passed"
    assert own(lesson, ("context=256", "different"), examples.negligible())[0] == "passed"
    outcome, text = own(lesson, ("context=256", "equivalent"), examples.inconclusive())
    assert outcome == "passed", "noise refutes nobody"
    assert "Neither shown nor refuted" in text


def test_the_same_against_itself_is_no_design(lesson):
    outcome, text = own(lesson, ("threads=1", "different"), examples.different(inequalities=()))
    assert outcome == "failed"
    assert "A/A" in text


@pytest.mark.parametrize("design", ["threads=2", ("threads=2",), ("threads=2", "faster")])
def test_a_design_is_options_and_a_verdict(lesson, design):
    outcome, text = own(lesson, design, examples.different())
    assert outcome == "failed"
    assert "different" in text


def test_a_real_comparison_passes_with_what_was_read_off(require_engine, lesson):
    seen = llmlab.compare("tiny", a="backend=native", b="backend=native,context=512", blocks=3, tokens=8)
    names = {"seen": seen}
    for task in ("interval", "sample"):
        right, wrong = workshop.answers("03")[task], workshop.wrong_answers("03")[task]
        assert lesson.check(task, eval(right, names), seen).passed, task  # noqa: S307 - the instructor's own
        assert not lesson.check(task, eval(wrong, names), seen).passed, task  # noqa: S307 - likewise


def test_what_is_left_running_is_told(require_engine, lesson):
    with llmlab.start("tiny", backend="native", name="right"):
        assert not lesson.check("gone").passed
    assert lesson.check("gone").passed
