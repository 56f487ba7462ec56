"""Predict, then measure: the words and the axis by hand, the measuring for real, each door without the form."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmlab
from llmlab.comparing.predicting import Guess, Guessing, guess, predict, views
from llmlab.comparing.predicting.picture import Axis
from llmlab.errors import UnknownNameError, UsageError
from llmlab.reporting import Reporter, reporting_to
from tests.behaviour import Recorder
from tests.conftest import run_cli
from tests.test_kernel import Kernel, kernel  # noqa: F401 - a fixture
from tests.test_monitoring_views import Chart
from tests.test_results import EVIL
from tests.test_roofline import line


def seen(
    value: float = 42.0, predicted: float | None = 24.0, measured: float = 20.0, **changes: Any
) -> Guess:
    given: dict[str, Any] = {
        "model": "llama-3.1-8b:Q4_0",
        "synthetic": False,
        "cpu": "AMD EPYC",
        "threads": 2,
        "guess": value,
        "predicted": predicted,
        "measured": measured,
        "runs": (19.0, measured, 21.0),
        "bytes_per_token": 500_000_000,
        "bandwidth_bytes_per_s": 12e9,
        "reason": "decode reaches 83 % of the memory roof: it is bound by memory",
    }
    return Guess(**{**given, **changes})


class Card(Chart):
    """A card with a table that has drawings in it."""

    TAGS = Chart.TAGS | {"line", "circle"}
    ATTRIBUTES = Chart.ATTRIBUTES | {"x1", "x2", "y1", "y2", "r", "data-rate", "data-earlier"}


def page(html: str) -> Card:
    found = Card()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


def places(html: str, kind: str) -> list[tuple[float, str]]:
    """Where marks lie, per cent of the width, and what they stand for."""
    return [
        (float(x), rate) for x, rate in re.findall(rf'<svg x="([\d.]+)%"[^>]*data-{kind}="([^"]+)"', html)
    ]


# Words


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (2.1, "2.1 times too much"),
        (1 / 2.1, "2.1 times too little"),
        (1.2, "1.2 times too much"),
        (15.4, "15 times too much"),
        (1 / 1234, "1200 times too little"),
        (9.96, "10 times too much"),
        (1.05, "5 % too much"),
        (0.95, "5 % too little"),
        (1.0, "right, to 2 %"),
        (0.99, "right, to 2 %"),
    ],
)
def test_how_far_off_a_value_is_in_words(ratio: float, said: str):
    assert views.off(ratio) == said


@given(st.floats(1e-9, 1e9))
def test_too_much_and_too_little_mirror_each_other(ratio: float):
    if not 0.9 < ratio < 1.2:
        mirrored = views.off(1 / ratio).replace("little", "x").replace("much", "little").replace("x", "much")
        assert views.off(ratio) == mirrored


def test_a_guess_says_how_far_off_it_and_the_roofline_were():
    made = seen()
    said = "You guessed 2.1 times too much; the roofline 1.2 times too much."
    assert made.to_dict()["sentence"] == said
    assert said in str(made)
    card = page(made.to_html())
    for words in (said, "42 tokens/s", "24 tokens/s", "20 tokens/s", "(19 … 21)", "it is bound by memory."):
        assert words in card.said
    for words in ("your guess   42", "roofline     24", "measured     20"):
        assert words in str(made)


def test_a_roofline_that_is_not_known_is_said_and_not_drawn():
    made = seen(predicted=None)
    assert made.predicted_ratio is None
    assert "the roofline is not known here." in str(made)
    assert "–" in str(made)
    assert len(places(made.to_html(), "rate")) == 2
    assert made.to_dict()["predicted_ratio"] is None


def test_ratios_and_shares_are_those_to_what_was_measured():
    made = seen(24.0, predicted=10.0)
    assert (made.guess_ratio, made.predicted_ratio) == (1.2, 0.5)
    assert made.within(0.2)
    assert made.within(0.25)
    assert not made.within(0.19)
    assert seen(16.0).within(0.2)
    assert not seen(15.9).within(0.2)


@pytest.mark.parametrize("wrong", [0, -0.2, math.nan, math.inf, True, "20 %", None])
def test_a_share_that_is_none_is_refused(wrong: Any):
    with pytest.raises(UsageError, match="is no share"):
        seen().within(wrong)


def test_what_came_out_is_plain_data():
    data = json.loads(json.dumps(seen(notes=("busy",)).to_dict()))
    assert (data["guess"], data["predicted"], data["measured"], data["unit"]) == (42, 24, 20, "tokens/s")
    assert (data["guess_ratio"], data["predicted_ratio"]) == (2.1, 1.2)
    assert "engine's own clock" in data["method"]
    assert data["runs"] == [19, 20, 21]
    assert data["notes"] == ["busy"]


def test_a_guess_is_held_against_the_median_and_the_prediction_of_a_roofline():
    under = line()
    made = Guess.of(5, under)
    assert (made.measured, made.predicted) == (4.1, under.predicted)
    assert made.bytes_per_token == under.decode.work.nbytes
    assert made.bandwidth_bytes_per_s == under.machine.bytes_per_s
    assert made.reason.startswith("decode reaches")


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_hostile_gets_into_text_or_card(evil: str):
    made = seen(model=evil, cpu=evil, reason=evil, notes=(evil,))
    page(made.to_html())
    page(views.guess_card(made, [made]))
    assert "\x1b" not in str(made)
    facts = replace(Guessing("tiny").facts, model=evil, cpu=evil, quantisation=evil)
    page(views.question_card(facts))
    assert "\x1b" not in views.question_text(facts)


# The axis


def test_marks_lie_on_one_logarithmic_axis():
    html = seen(80.0, predicted=5.0, measured=20.0).to_html()
    (guess_x, _), (predicted_x, _), (measured_x, rate) = places(html, "rate")
    assert rate == "20"
    # Four times too much is as far away as four times too little.
    assert guess_x - measured_x == pytest.approx(measured_x - predicted_x, abs=0.03)
    assert predicted_x < measured_x < guess_x


def test_earlier_tries_are_faint_marks_on_the_same_axis():
    html = views.guess_card(seen(20.0), [seen(1000.0), seen(0.5, predicted=None)])
    assert [rate for _, rate in places(html, "rate")] == ["20", "24", "20"]
    old = places(html, "earlier")
    assert [rate for _, rate in old] == ["1000", "0.5", "24", "20", "20"]
    assert all('opacity=".32"' in mark for mark in re.findall(r"<svg[^>]*data-earlier[^>]*>", html))
    assert all(0 <= x <= 100 for x, _ in old)
    assert "try 3. Faint marks: earlier tries, guesses of 1000, 0.5 tokens/s" in page(html).said


@given(st.lists(st.floats(1e-3, 1e7), min_size=1, max_size=6))
def test_an_axis_holds_all_rates_and_has_a_few_numbers(rates: list[float]):
    axis = Axis.around(rates)
    assert all(0 < axis.across(rate) < 100 for rate in rates)
    ticks = axis.ticks
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    # No two so near that their numbers touch in a narrow cell.
    spots = [axis.across(tick) for tick in ticks]
    assert all(right - left > 8 for left, right in pairwise(spots))


# The question


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, True, "ten", None])
def test_a_guess_that_is_no_rate_is_refused_before_anything_is_done(wrong: Any):
    with pytest.raises(UsageError, match="cannot be a guess") as caught:
        guess.checked(wrong)
    assert "above 0" in str(caught.value.hint)
    if wrong is not None:
        recorder = Recorder()
        with reporting_to(recorder), pytest.raises(UsageError):
            predict("no-such-model", guess=wrong)
        assert not getattr(recorder, "stages", [])


def test_a_question_shows_what_may_be_reasoned_from_and_how_to_guess():
    asked = predict("llama-3.1-8b:Q4_0")
    assert isinstance(asked, Guessing)
    assert asked.guesses == ()
    said = page(asked.to_html()).said
    for words in ("8.03 billion", "read per token", "CPU", "--guess 20", "How many tokens per second"):
        assert words in said
        assert words in str(asked)
    facts = asked.to_dict()
    assert facts["guesses"] == []
    assert facts["bytes_per_token"] < facts["file_bytes"]
    assert "bandwidth" not in json.dumps(facts), "that is the hint"
    assert llmlab.ps().servers == ()


def test_of_a_mixture_of_experts_the_parameters_that_are_used_are_told():
    known = dict(views.model_facts(Guessing("qwen3-30b-a3b:Q4_0").facts))
    assert known["parameters"] == "30.5 billion, 3.04 billion of them used for a token"
    assert "used" not in dict(views.model_facts(Guessing("tiny").facts))["parameters"]


def test_a_model_that_is_not_known_is_refused_at_once():
    with pytest.raises(UnknownNameError):
        predict("no-such-model")


# On this machine


def test_a_model_is_measured_and_stopped_and_guesses_are_kept(require_engine):
    asked = Guessing("tiny")
    with reporting_to(Reporter()):
        first = asked.measure(5)
        second = asked.measure(50_000_000)
    assert asked.guesses == (first, second)
    assert llmlab.ps().servers == ()
    assert first.measured > 0
    assert len(first.runs) == 5
    assert first.predicted
    assert "too little" in str(first).splitlines()[1]
    assert "too much" in str(second).splitlines()[1]
    assert len(places(asked.to_html(), "earlier")) == 3
    assert len(asked.to_dict()["guesses"]) == 2
    assert str(asked) == str(second)


def test_the_hint_is_measured_once(monkeypatch):
    asked = Guessing("tiny")
    found = asked.bandwidth_bytes_per_s()
    if found is None:
        pytest.skip("there is not enough memory to measure its bandwidth")
    assert 1e8 < found < 1e13
    monkeypatch.setattr("llmlab.machine.read_bandwidth_gb_per_s", lambda _: pytest.fail("once more"))
    assert asked.bandwidth_bytes_per_s() == found


def test_the_command_line_measures_at_once(require_engine):
    told = json.loads(run_cli("predict", "tiny", "--guess", "20", "--json").stdout)
    assert told["guess"] == 20
    assert told["measured"] > 0
    assert told["guess_ratio"] == pytest.approx(20 / told["measured"])


def test_without_a_terminal_the_command_line_says_how_to_guess():
    done = run_cli("predict", "tiny", stdin=subprocess.DEVNULL)
    assert "llmlab predict tiny --guess 20" in done.stdout


@pytest.mark.parametrize(("typed", "outcome"), [("twenty\n-3\n20\n", "You guessed"), ("\n", "--guess 20")])
def test_a_terminal_asks_until_it_gets_a_number_or_nothing(typed: str, outcome: str, require_engine):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "llmlab", "predict", "tiny"]
    process = subprocess.Popen(command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True)
    try:
        os.write(ours, typed.encode())
        out, _ = process.communicate(timeout=200)
        shown = os.read(ours, 65536).decode()
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    assert outcome in out
    assert "How many tokens per second will tiny generate?" in shown
    assert shown.count("A number above 0") == typed.count("\n") - 1


def test_without_anywidget_a_notebook_says_how_to_guess(kernel: Kernel):  # noqa: F811 - the fixture
    code = "import sys; sys.modules['anywidget'] = None\n%load_ext llmlab\n%llm predict tiny"
    cell = kernel.finish(kernel.begin(code))
    assert cell.ok
    assert "How many tokens per second will tiny generate?" in cell.texts("execute_result")[0]


def test_a_notebook_gets_a_form_and_what_stands_beside_it_in_the_file(kernel: Kernel):  # noqa: F811 - the fixture
    cell = kernel.finish(kernel.begin("%load_ext llmlab\n%llm predict tiny"))
    assert cell.ok
    (shown,) = [output["data"] for output in cell.outputs if output["kind"] == "display_data"]
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert "--guess 20" in shown["text/html"]
    assert cell.texts("execute_result") == []
