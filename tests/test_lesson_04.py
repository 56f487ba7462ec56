"""Lesson 04: the judges on the recording's figures, and on a real server's memory."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

import pytest

import llmlab
from llmlab import workshop
from llmlab.workshop import sitting

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "04-watching-the-gpu.ipynb"


def verdict(task: str, *values: object, predicted: object = None) -> sitting.Checked:
    """What the lesson says, after a prediction if there is one."""
    lesson = workshop.lesson("04")
    if predicted is not None:
        assert lesson.predict(task, predicted).problem == ""
    return lesson.check(task, *values)


def recorded_watts() -> SimpleNamespace:
    """Mean watts, seconds and tokens of the stretch of one answer at a time."""
    seen = llmlab.monitor(replay="example-gpu")
    alone = [request for request in seen.requests if request.tokens == 512]
    begin, end = alone[0].began_s, alone[-1].began_s + alone[-1].total_s
    power = seen["gpu 0", "power"]
    watts = [w for t, w in zip(power.times_s, power.values, strict=True) if begin <= t <= end and w]
    return SimpleNamespace(watts=mean(watts), seconds=end - begin, tokens=sum(r.tokens or 0 for r in alone))


def test_the_lesson_takes_as_long_as_its_notebook_says():
    title = "".join(json.loads(NOTEBOOK.read_text())["cells"][0]["source"])
    assert "*25 minutes*" in title
    assert "25 minutes" in str(workshop.lesson("04"))


@pytest.mark.parametrize(
    ("predicted", "eight", "right"),
    [("falls", 27.0, True), ("rises", 27.0, False), ("rises", 90.0, True), ("stays", 64.0, True)],
)
def test_utilisation_is_judged_by_what_was_seen(predicted, eight, right):
    checked = verdict("utilisation", 62.0, eight, predicted=predicted)
    assert checked.passed is right
    assert right or "share of the time" in checked.verdict.hint


def test_two_figures_are_wanted_for_utilisation():
    checked = verdict("utilisation", 62.0, predicted="falls")
    assert not checked.passed
    assert "two figures" in checked.verdict.text
    assert "which is no number" in verdict("utilisation", 62.0, "much").verdict.text


@pytest.mark.parametrize(
    ("figure", "hint"),
    [
        (32, ""),
        (128, "KV heads"),
        (16, "keys and values"),
        (32 * 1024, "bytes"),
        (2, "layer"),
        (5, "formula"),
    ],
)
def test_each_usual_mistake_about_the_kv_cache_has_its_hint(figure, hint):
    checked = verdict("kv", figure)
    assert checked.passed is (hint == "")
    assert hint in checked.verdict.hint


@pytest.mark.parametrize(("predicted", "right"), [(3442, True), (2418, False), (4836, False), (2546, False)])
def test_gpu_memory_at_twice_the_context_is_judged_within_20_per_cent(predicted, right):
    checked = verdict("vram", None, predicted=predicted)
    assert checked.passed is right
    assert "llmlab's reckoning" in checked.verdict.text
    assert right or "KV cache" in checked.verdict.hint


def test_what_a_gpu_here_shows_counts_more_than_the_reckoning():
    seen = llmlab.monitor(replay="example-gpu")
    assert not verdict("vram", seen, predicted=3442).passed
    checked = verdict("vram", seen, predicted=2400)
    assert checked.passed
    assert "seen on the GPU" in checked.verdict.text
    without = seen.only("the machine")
    assert "reckoning" in verdict("vram", without, predicted=3442).verdict.text


def test_a_servers_memory_at_twice_the_context_follows_the_formula(require_engine):
    held = []
    for context in (8192, 16384):
        with llmlab.start("tiny", name="a", backend="native", context=context, slots=1) as server:
            held.append(server.record.observed_mib)
    short, long = (mib or 0 for mib in held)
    # 4 layers, 2 KV heads, 64 + 64 numbers of 2 bytes.
    assert verdict("memory", long, predicted=short + 4 * 2 * 128 * 2 * 8192 / 1024**2).passed
    doubled = verdict("memory", long, predicted=2 * short)
    assert not doubled.passed
    assert "add what the additional tokens" in doubled.verdict.hint


def test_memory_that_cannot_be_seen_is_said():
    assert "cannot be seen" in verdict("memory", None, predicted=500).verdict.text


def test_joules_per_token_are_watts_times_seconds_by_tokens():
    given = recorded_watts()
    assert verdict("joules", given.watts * given.seconds / given.tokens).passed
    for wrong, hint in (
        (given.watts / given.tokens, "multiply by the seconds"),
        (given.watts * given.seconds, "divide it by the tokens"),
        (given.watts * given.seconds / 16, "for each request"),
        (given.seconds / given.tokens, "watts are missing"),
        (7.0, "mean watts"),
    ):
        checked = verdict("joules", wrong)
        assert not checked.passed
        assert hint in checked.verdict.hint
    assert "no number" in verdict("joules", "half a joule").verdict.text


@pytest.mark.parametrize(
    ("predicted", "many", "right"),
    [("less", 0.16, True), ("more", 0.16, False), ("more", 0.9, True), ("about the same", 0.43, True)],
)
def test_the_price_of_a_token_is_judged_by_both_figures(predicted, many, right):
    checked = verdict("energy", 0.44, many, predicted=predicted)
    assert checked.passed is right
    assert right or "weights" in checked.verdict.hint


def test_no_energy_is_no_price():
    assert "nothing was used" in verdict("energy", 0, 0, predicted="less").verdict.text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("llama-3.2-3b", ""),
        ("llama-3.2-1b", "larger one"),
        ("llama-3.1-8b", "KV cache"),
        ("gpt-2", "they are"),
        (["llama-3.2-3b"], "they are"),
    ],
)
def test_the_largest_model_that_fits_is_wanted(name, hint):
    checked = verdict("fits", name)
    assert checked.passed is (hint == "")
    assert hint in checked.verdict.hint


def test_a_server_that_was_not_stopped_is_named(require_engine):
    with llmlab.start("tiny", name="long", backend="native"):
        assert "long" in verdict("gone").verdict.text
    assert verdict("gone").passed
