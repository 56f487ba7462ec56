"""Lesson 05: loads on real servers, and its judges on loads."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

import llmlab
from llmlab import render, workshop
from llmlab.errors import ServerError, UsageError
from llmlab.lab import ledger
from llmlab.workshop import loading
from llmlab.workshop.loads import Level, Load

P95 = (0.4, 0.6, 0.9, 1.6)


def known(figure: float | None) -> float:
    assert figure is not None
    return figure


@pytest.fixture
def lesson():
    return workshop.lesson("05")


def level(learners: int, p95_s: float, **changes) -> Level:
    """As a server may have it that four learners share twice the rate of one."""
    values = {
        "learners": learners,
        "requests": 12,
        "seconds": 12 * p95_s / learners,
        "requests_per_s": learners / p95_s,
        "tokens_per_s": 32 * learners / p95_s,
        "each_tokens_per_s": 100 / learners**0.5,
        "ttft_p50_s": 0.04 * learners,
        "ttft_p95_s": 0.05 * learners,
        "mean_s": 0.98 * p95_s,
        "p50_s": 0.97 * p95_s,
        "p95_s": p95_s,
        "together": 0.95 * learners,
    }
    return Level(**{**values, **changes})


def load(*p95_s: float, **changes) -> Load:
    levels = tuple(level(2**i, each) for i, each in enumerate(p95_s or P95))
    values = {
        "server": "shared",
        "model": "synthetic:smollm2-135m:Q4_0",
        "slots": 8,
        "context": 512,
        "tokens": 32,
        "limit": 3.0,
        "levels": levels,
    }
    return Load(**{**values, **changes})


def said(checked):
    return checked.verdict.outcome, f"{checked.verdict.text} → {checked.verdict.hint}"


# Real loads


def test_learners_at_once_are_answered_together_by_as_many_slots(require_engine):
    with llmlab.start("tiny", backend="native", name="l", slots=4):
        seen = loading.load("l", learners=(1, 4), requests=8, tokens=48)
        assert [one.name for one in llmlab.ps()] == ["l"]
    one, four = seen.levels
    assert (one.learners, four.learners) == (1, 4)
    assert one.requests == four.requests == 8
    assert one.together == pytest.approx(1.0), "by the engine's own count"
    assert four.together is not None
    assert four.together > 1.2, "requests shared passes through the model"
    for each in seen.levels:
        assert each.tokens_per_s
        assert each.requests_per_s == pytest.approx(each.requests / each.seconds)
        assert known(each.ttft_p50_s) <= known(each.ttft_p95_s)
        assert known(each.ttft_p50_s) < known(each.p50_s) <= known(each.p95_s)
        # Little's law; all requests of a level begin and end within it.
        assert 0 < each.requests_per_s * each.mean_s <= each.learners * 1.01
    assert seen.slots == 4
    assert seen.limit_s == pytest.approx(3 * known(one.p95_s))


def test_more_learners_than_slots_wait_for_their_first_token(require_engine, lesson):
    with llmlab.start("tiny", backend="native", name="l", slots=1):
        seen = loading.load("l", learners=(1, 6), requests=12, tokens=64)
    few, many = seen.levels
    assert many.together == pytest.approx(1.0)
    assert known(many.ttft_p50_s) > 2 * known(few.ttft_p50_s)
    lesson.predict("queue", "the first token comes later")
    assert lesson.check("queue", seen).passed
    lesson.predict("queue", "each token takes longer")
    outcome, text = said(lesson.check("queue", seen))
    assert outcome == "failed"
    assert "waits for a slot" in text


def test_a_load_in_a_container_goes_over_its_socket(require_engine, require_docker):
    with llmlab.start("tiny", backend="container", name="l", slots=2) as server:
        seen = loading.load(server, learners=(2,), requests=2, tokens=8)
    assert seen.at(2).requests == 2


def test_a_load_does_not_count_as_experience_with_predictions(require_engine):
    with llmlab.start("tiny", backend="native", name="l"):
        before = ledger.summary()
        loading.load("l", learners=(2,), requests=2, tokens=48)
        assert ledger.summary() == before


def test_a_server_that_is_stopped_meanwhile_ends_the_load_with_its_reason(require_engine):
    with llmlab.start("tiny", backend="native", name="l", slots=2) as server:
        timer = threading.Timer(0.5, server.stop)
        timer.start()
        with pytest.raises(ServerError, match="l"):
            loading.load("l", learners=(2,), requests=4000, tokens=512)
        timer.join()


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"learners": ()}, "ascending"),
        ({"learners": (4, 1)}, "ascending"),
        ({"learners": 4}, "ascending"),
        ({"learners": (0, 1)}, "from 1"),
        ({"requests": 0}, "from 1"),
        ({"tokens": 1.5}, "whole number"),
        ({"limit": 0.5}, "1 or more"),
    ],
)
def test_what_cannot_be_a_load_is_refused_before_anybody_asks(wrong, hint):
    with pytest.raises(UsageError) as told:
        loading.load("nobody", **wrong)
    assert hint in told.value.hint


# As it is shown


def test_a_load_shows_all_its_levels_as_text_picture_and_frame():
    seen = load()
    text, html = str(seen), seen.to_html()
    for learners, p95 in zip("1248", ("400 ms", "600 ms", "900 ms", "1.60 s"), strict=True):
        assert any(line.split()[0] == learners and p95 in line for line in text.splitlines() if line.strip())
        assert p95 in html
    assert html.count('role="img"') == 2
    assert "3 × the first p95: 1.20 s" in html
    assert "synthetic" in html
    assert list(seen.to_frame()["learners"]) == [1, 2, 4, 8]
    assert seen.to_dict()["limit_s"] == pytest.approx(1.2)
    with pytest.raises(UsageError, match="3 learners"):
        seen.at(3)


def test_what_an_engine_does_not_tell_is_unknown_and_never_0():
    silent = {"tokens_per_s": None, "each_tokens_per_s": None, "together": None, "ttft_p50_s": None}
    seen = load(levels=(level(1, 0.4, **silent), level(2, 0.6, **silent)))
    row = next(line for line in str(seen).splitlines() if line.startswith("1 "))
    assert row.split()[2:5] == [render.UNKNOWN] * 3
    assert f"1: {render.UNKNOWN}; 2: {render.UNKNOWN}" in seen.to_html()
    assert not re.search(r">0( ms)?<", str(seen.to_html()).partition("<table")[2])


# The checks


def test_the_memory_of_eight_contexts_is_what_llmlab_predicts_for_them(lesson):
    predicted = llmlab.models("synthetic:smollm2-135m:Q4_0", context=512, slots=8)
    assert "KV cache 90 MiB" in str(predicted)
    assert lesson.check("cache", 90).passed
    for wrong, hint in (
        (90 / 8, "one slot's"),
        (45, "factor of 2"),
        (3, "one layer's"),
        (90 * 1024 * 1024, "in bytes"),
        (7, "all that stands in the formula"),
        ("90", "give the figure"),
    ):
        outcome, text = said(lesson.check("cache", wrong))
        assert outcome == "failed"
        assert hint in text, wrong


def test_a_gain_is_judged_within_a_factor_and_disturbances_refute_nobody(lesson):
    seen = load()
    assert known(seen.at(4).tokens_per_s) / known(seen.at(1).tokens_per_s) == pytest.approx(4 * 0.4 / 0.9)
    for guess, outcome in (
        (2.0, "passed"),
        (1.0, "passed"),
        (4.0, "failed"),
        (10.0, "failed"),
        (0.5, "failed"),
    ):
        lesson.predict("gain", guess)
        assert lesson.check("gain", seen).verdict.outcome == outcome, guess
    lesson.predict("gain", 2.0)
    for disturbed in (load(4.0, 0.6, 0.9, 1.6), load(0.4, 0.6, 4.0, 1.6)):
        outcome, text = said(lesson.check("gain", disturbed))
        assert outcome == "passed"
        assert "measure again" in text


def test_the_knee_is_the_last_level_that_keeps_the_line(lesson):
    seen = load()
    assert lesson.check("knee", 4, seen).passed
    for wrong, hint in (
        (8, "too long"),
        (1, "2 at once keep it, too"),
        (2, "4 at once keep it, too"),
        (3, "there are 1, 2, 4, 8"),
        (2.5, "whole number"),
        ("four", "give the figure"),
    ):
        outcome, text = said(lesson.check("knee", wrong, seen))
        assert outcome == "failed"
        assert hint in text, wrong


def test_near_the_line_both_neighbours_are_right_and_beyond_the_last_level_nothing_is_claimed(lesson):
    near = load(0.4, 0.6, 0.9, 1.25)
    assert lesson.check("knee", 4, near).passed
    assert lesson.check("knee", 8, near).passed
    outcome, text = said(lesson.check("knee", 8, load(0.4, 0.5, 0.6, 0.7)))
    assert outcome == "passed"
    assert "may lie beyond" in text


def test_littles_law_gives_the_learners_that_were_there(lesson):
    seen = load()
    assert lesson.check("little", 3.9, seen).passed
    outcome, text = said(lesson.check("little", 12, seen))
    assert outcome == "failed"
    assert "under way at a time" in text
    assert "multiply" in said(lesson.check("little", 1, seen))[1]


def test_a_queue_needs_more_learners_than_slots(lesson):
    lesson.predict("queue", "neither")
    outcome, text = said(lesson.check("queue", load()))
    assert outcome == "failed"
    assert "more learners than slots" in text


def test_a_class_is_served_by_what_fits_and_is_enough(lesson):
    fine: tuple[Any, ...] = ((8, 32768), (4, 32768), (16, 32768), [8, 40000])
    wrong: tuple[tuple[Any, str], ...] = (
        ((30, 32768), "Little's law"),
        ((8, 4096), "one slot's context"),
        ((2, 32768), "twice that"),
        (8, "(slots, context)"),
        ((8.0, 32768), "whole numbers"),
        ((0, 32768), "whole numbers"),
    )
    for choice in fine:
        assert lesson.check("class", choice).passed, choice
    for choice, hint in wrong:
        outcome, text = said(lesson.check("class", choice))
        assert outcome == "failed"
        assert hint in text, choice


def test_the_recorded_gpu_gives_the_figures_that_the_exercise_needs(lesson):
    rows = {(row["model"], row["at_once"]): row for row in lesson.recorded("05-gpu")["rows"]}
    eight = rows["synthetic:llama-3.1-8b:Q4_0", 8]["tokens_per_s"]
    seconds = 256 / (eight / 8)
    assert 30 / 60 * seconds == pytest.approx(1.6, abs=0.05), "as the notebook's answer says"
    assert "H100" in str(lesson.recorded("05-gpu"))


@pytest.mark.parametrize("task", ["knee", "little"])
def test_what_is_no_load_is_told(lesson, task):
    for values in ((4,), (4, None), (4, "seen")):
        assert said(lesson.check(task, *values))[0] == "failed"


def test_the_instructors_answers_pass_on_a_load_and_the_wrong_ones_do_not(lesson):
    seen = load()
    for task in ("knee", "little", "cache", "class"):
        about = (seen,) if task in ("knee", "little") else ()
        right, wrong = workshop.answers("05")[task], workshop.wrong_answers("05")[task]
        assert lesson.check(task, eval(right, {"seen": seen}), *about).passed, task  # noqa: S307 - the instructor's own
        assert not lesson.check(task, eval(wrong, {"seen": seen}), *about).passed, task  # noqa: S307 - likewise


def test_what_is_left_running_is_told(require_engine, lesson):
    with llmlab.start("tiny", backend="native", name="narrow"):
        assert not lesson.check("gone").passed
    assert lesson.check("gone").passed
