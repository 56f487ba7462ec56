"""What measuring costs in `compare`: requests with its instruments read around them, and without, in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

from bench import common
from llmlab.backends import backend
from llmlab.comparing import statistics as findings
from llmlab.comparing.asking import Setting
from llmlab.comparing.card import Arm
from llmlab.comparing.running import Running
from llmlab.reporting import Reporter, reporting_to

_BLOCKS, _REPEATS, _READS = 40, 3, 300
_PROMPT, _TOKENS, _REQUEST_S = 128, 192, 1.0
_MARGIN = 0.01
_SHOWN = {"ttft_s": "time to first token", "total_s": "whole request", "generated": "generation rate"}

Turn = dict[str, list[float]]
"""Metric → a value for each request."""


def run() -> dict[str, Any]:
    """Measure natively, and in a container where there can be one."""
    places = ["native"]
    if problem := backend("container").unavailable():
        print(f"  not measured in a container: {problem.message}", flush=True)
    else:
        places.append("container")
    return {
        "definition": "one server, asked in turns of requests, ABBA: a without the instruments, b with all of "
        "them read before and after, as `compare` does; ratios b over a of a block's mean logarithms. "
        "The same without them in either says what this machine can tell apart.",
        "budget": f"no difference to be seen, and none as large as {100 * _MARGIN:g} %",
        **{place: _measured(place) for place in places},
    }


def _measured(place: str) -> dict[str, Any]:
    arm = Arm(key="a", title=place, options={"model": "tiny", "backend": place, "slots": 1})
    with reporting_to(Reporter()), Running(arm, f"bench-{place}", 300.0) as running:
        setting = running.setting(_PROMPT, _TOKENS, _REQUEST_S)
        for _ in range(_REPEATS):
            running.warm(setting)
            running.measure(setting, 0.0)
        blocks = []
        for number in range(_BLOCKS):
            # What is measured and its control in turns as well, so that what drifts meets both.
            kinds = (True, False) if number % 2 == 0 else (False, True)
            blocks.append({read: _block(running, setting, number, read=read) for read in kinds})
        reads = [_timed(running) for _ in range(_READS)]
    found: dict[str, Any] = {"instruments": sorted(running._instruments), "gpus": len(running._gpus)}  # noqa: SLF001
    for key, name in _SHOWN.items():
        found[key] = {
            "with_over_without": _told(f"{name}, {place}: with over without", [b[True] for b in blocks], key),
            "without_over_without": _told("… without over without", [b[False] for b in blocks], key),
        }
    found["ms_per_reading"] = common.spread([1000 * each for each in reads], 4)
    common.show(f"reading all instruments once, {place}", found["ms_per_reading"], "ms", "–")
    return found


def _block(running: Running, setting: Setting, number: int, *, read: bool) -> dict[str, Turn]:
    """Four turns, ABBA or BAAB; in those of b the instruments are read if that is what is measured."""
    turns: dict[str, Turn] = {side: {key: [] for key in _SHOWN} for side in "ab"}
    for side in "abba" if number // 2 % 2 == 0 else "baab":
        for _ in range(_REPEATS):
            values = _request(running, setting, read=read and side == "b")
            for key, kept in turns[side].items():
                if value := values.get(key):
                    kept.append(value)
    return turns


def _request(running: Running, setting: Setting, *, read: bool) -> dict[str, float | None]:
    if read:
        return dict(running.measure(setting, 0.0).values)
    done = running._complete(setting)  # noqa: SLF001 - what `measure` does, without its instruments
    rate = (len(done.tokens) - 1) / done.generated_s if done.generated_s else None
    return {"ttft_s": done.ttft_s, "total_s": done.total_s, "generated": rate}


def _timed(running: Running) -> float:
    began = time.perf_counter()
    running._read()  # noqa: SLF001 - as above
    return time.perf_counter() - began


def _told(title: str, blocks: Sequence[dict[str, Turn]], key: str) -> dict[str, Any]:
    """Ratios of blocks, whether a difference can be seen in them, and the quickest of each side."""
    pairs = [(block["a"][key], block["b"][key]) for block in blocks]
    differences = [findings.difference(a, b) for a, b in pairs if a and b]
    ratios = common.spread([math.exp(each) for each in differences])
    said = findings.compare(differences, margin=_MARGIN)
    best = max if key == "generated" else min
    quickest = [best(value for pair in pairs for value in pair[side]) for side in (0, 1)]
    common.show(title, ratios, "×", "1")
    print(f"      {said.sentence('difference', 'a', 'b')}", flush=True)
    return {
        **ratios,
        "verdict": said.verdict,
        "interval": [round(said.low, 4), round(said.high, 4)],
        "signed_rank_interval": [end and round(end, 4) for end in (said.robust_low, said.robust_high)],
        "ratio_of_the_quickest": round(quickest[1] / quickest[0], 4),
        "median_without": round(statistics.median(value for a, _ in pairs for value in a), 6),
    }
