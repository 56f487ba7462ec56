"""The clock is set, and the machine sleeps."""

from __future__ import annotations

import time

import pytest

import llmlab
from llmlab.lab import registry
from tests.faults.contract import promise


@promise(
    part="Machine",
    fault="The wall clock is set, forward or back",
    sees="Right durations: rates and times to the first token come from a clock that nobody sets; no negative age",
    keeps="All servers: their owners are known by the machine's ticks, not by the time",
    cleans="Nothing is to be cleaned",
    within_s=20,
)
@pytest.mark.parametrize("by_s", [-86400.0, 86400.0])
@pytest.mark.parametrize("place", ["native", "container"])
def test_the_clock_is_set(require_engine, place, by_s, monkeypatch, request):
    if place == "container":
        request.getfixturevalue("require_docker")
    server = llmlab.start("tiny", name="a", backend=place)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + by_s)
    assert registry.sweep() == ()
    answer = server.ask("What is a GPU?", max_tokens=8)
    assert answer.ttft_s is not None
    assert 0 < answer.ttft_s <= answer.total_s < abs(by_s) / 2
    (row,) = llmlab.ps()
    assert (row.state, row.uptime_s >= 0) == ("ready", True)
    llmlab.stop("a")
