"""Servers are started and stopped two hundred times; nothing grows."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

import llmlab
from tests.conftest import inventory
from tests.faults.contract import promise

# The connections that the engine's client keeps for the next call are opened by the first ones.
_WARM_UP = 4
# Between the middles of the two halves: a cycle that kept a tenth of a MiB would be seen.
_GROWTH_MIB = 4.0


@dataclass(frozen=True)
class Held:
    """What this process holds at one moment."""

    descriptors: int
    threads: int
    rss_mib: float

    @classmethod
    def now(cls) -> Held:
        """Look, once what is garbage has gone."""
        gc.collect()
        here = psutil.Process(os.getpid())
        return cls(here.num_fds(), threading.active_count(), here.memory_info().rss / 1024**2)


def cycle(place: str) -> None:
    """One start, one question, one stop."""
    with llmlab.start("tiny", name="a", backend=place) as server:
        assert server.ask("What is a GPU?", max_tokens=3).text


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("place", "cycles"), [("native", 120), ("container", 80)], ids=["native", "container"]
)
@promise(
    part="Notebooks and kernels",
    fault="A server is started, asked and stopped 200 times in one process: 120 times natively, 80 in a container",
    sees="Nothing: the last time is as the first",
    keeps="Nothing is to be kept",
    cleans="Each `stop` removes all of its server: file descriptors, threads, containers, directories and memory do"
    " not grow",
    within_s=1200,
)
def test_nothing_grows_with_many_starts_and_stops(place, cycles, require_engine, isolated_runtime, request):
    if place == "container":
        request.getfixturevalue("require_docker")
    for _ in range(_WARM_UP):
        cycle(place)
    first: list[Held] = []
    second: list[Held] = []
    for number in range(cycles):
        cycle(place)
        (first if number < cycles // 2 else second).append(Held.now())
        if number % 10 == 0:
            assert inventory(isolated_runtime) == []
            assert list(Path(isolated_runtime).glob("[!.]*")) == []
    assert max(held.descriptors for held in second) <= max(held.descriptors for held in first)
    assert max(held.threads for held in second) <= max(held.threads for held in first)
    assert median(second) - median(first) < _GROWTH_MIB


def median(held: list[Held]) -> float:
    """The middle of what was resident, in MiB."""
    return sorted(each.rss_mib for each in held)[len(held) // 2]
