"""Comparisons composed by hand, as a machine could have measured them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from llmlab.comparing.card import Arm, Block, Card, Inequality, Request
from llmlab.comparing.results import Comparison

BEGAN = datetime(2026, 1, 1, 12, 0, tzinfo=timezone.utc)
# What arm a takes and how far blocks spread, as a standard deviation of the logarithm.
USUAL = {
    "generated": (41.2, 0.012),
    "prompt": (312.0, 0.015),
    "ttft_s": (1.64, 0.015),
    "total_s": (4.71, 0.011),
    "cpu_s": (9.3, 0.01),
    "start_s": (0.92, 0.05),
    "cold_ttft_s": (1.71, 0.03),
    "memory_mib": (212.0, 0.004),
}
_STARTS = {"start_s", "cold_ttft_s", "memory_mib", "gpu_memory_mib", "joules_per_token"}
# Natively is quicker to start, whatever the machine.
_USUAL_RATIOS = {"start_s": 1.62, "memory_mib": 1.004, "cold_ttft_s": 1.02}

SHA = "9f3c2b7a" * 8
FILES = "4c1d0e5f" * 8


def dice_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - to be thrown again


def arm(key: str, title: str, **changes: Any) -> Arm:
    container = title.startswith("container")
    facts = {
        "model": "tiny",
        "weights sha256": SHA,
        "engine": "llama-server",
        "engine's files": FILES,
        "backend": "container" if container else "native",
        "threads": "8",
        "context": "2048",
        "image": f"llmlab-engine:{FILES}" if container else "none",
    }
    options: dict[str, Any] = {"model": "tiny", "backend": facts["backend"], "slots": 1}
    return Arm(key=key, title=title, options={**options, **changes}, facts={**facts, **changes})


def wanted() -> tuple[Inequality, ...]:
    return (
        Inequality(what="backend", a="native", b="container", wanted=True),
        Inequality(what="image", a="none", b=f"llmlab-engine:{FILES}", wanted=True),
    )


def block(
    number: int,
    dice: random.Random,
    ratios: Mapping[str, float],
    *,
    began_s: float = 0.0,
    usual: Mapping[str, tuple[float, float]] = USUAL,
    tokens: int = 128,
    evidence: Mapping[str, Mapping[str, float | None]] | None = None,
    machine: Mapping[str, float | None] | None = None,
    **changes: Any,
) -> Block:
    """A block: each arm's own level, and a little noise at each request."""
    order = "ABBA" if dice.random() < 0.5 else "BAAB"
    level = {
        (side, key): base * (ratios.get(key, 1.0) if side == "b" else 1.0) * math.exp(dice.gauss(0, spread))
        for side in "ab"
        for key, (base, spread) in usual.items()
    }
    requests = tuple(
        Request(
            arm=side.lower(),
            began_s=6.0 + 6.5 * place,
            values={
                key: level[side.lower(), key] * math.exp(dice.gauss(0, 0.006))
                for key in usual
                if key not in _STARTS
            },
            evidence=(evidence or {}).get(side.lower(), {}),
            answer="c0ffee",
            tokens=tokens,
        )
        for place, side in enumerate(order)
    )
    values: dict[str, Any] = {
        "number": number,
        "order": order,
        "began": (BEGAN + timedelta(seconds=began_s)).isoformat(),
        "starts": {side: {key: level[side, key] for key in usual if key in _STARTS} for side in "ab"},
        "requests": requests,
        "evidence": {"load1": 0.4, "steal": 0.1, **(machine or {})},
    }
    return Block(**{**values, **changes})


def card(
    ratios: Mapping[str, float] | None = None,
    *,
    blocks: int = 8,
    aa: int = 6,
    seed: int = 11,
    usual: Mapping[str, tuple[float, float]] = USUAL,
    evidence: Mapping[str, Mapping[str, float | None]] | None = None,
    titles: tuple[str, str] = ("native", "container"),
    **changes: Any,
) -> Card:
    dice = dice_of(seed)
    found = {**_USUAL_RATIOS, **(ratios or {})}
    values: dict[str, Any] = {
        "made": BEGAN.isoformat(),
        "arms": (arm("a", titles[0]), arm("b", titles[1])),
        "seed": seed,
        "margin": 0.03,
        "prompt_tokens": 512,
        "tokens": 128,
        "aa": tuple(block(i + 1, dice, {}, began_s=38.0 * i, usual=usual) for i in range(aa)),
        "blocks": tuple(
            block(i + 1, dice, found, began_s=38.0 * (aa + i), usual=usual, evidence=evidence)
            for i in range(blocks)
        ),
        "planned": blocks,
        "plan": "6 blocks spread by 1.5 % (at worst 2.2 %): 8 blocks resolve ±3 % in 4 runs of 5",
        "inequalities": wanted(),
        "machine": {
            "cpu": "Some CPU at 3 GHz",
            "cpus": 8,
            "memory_mib": 15843,
            "kernel": "6.12",
            "turbo": None,
        },
    }
    return Card(**{**values, **changes})


def comparison(ratios: Mapping[str, float] | None = None, **changes: Any) -> Comparison:
    replayed = changes.pop("replayed", None)
    return Comparison(card=card(ratios, **changes), replayed=replayed)


def equivalent(**changes: Any) -> Comparison:
    return comparison({"generated": 0.997, "ttft_s": 1.004}, **changes)


def quota(**changes: Any) -> Comparison:
    """More threads than the quota has CPUs: the container stands still for most of the time."""
    evidence = {"a": {"throttled": None, "faults": 0.0}, "b": {"throttled": 83.0, "faults": 2.0}}
    ratios = {
        "generated": 0.0222,
        "prompt": 0.061,
        "ttft_s": 16.4,
        "total_s": 44.0,
        "cpu_s": 1.31,
        "cold_ttft_s": 16.0,
    }
    titles = ("native", "container cpus 2")
    return comparison(ratios, titles=titles, **{"evidence": evidence, **changes})


def different(**changes: Any) -> Comparison:
    """The quota costs half."""
    evidence = {"a": {"throttled": 0.0, "faults": 0.0}, "b": {"throttled": 62.4, "faults": 0.0}}
    ratios = {"generated": 0.551, "prompt": 0.53, "ttft_s": 1.88, "total_s": 1.84, "cold_ttft_s": 1.9}
    limit = (Inequality(what="CPU limit", a="none", b="4", wanted=True),)
    titles = ("container", "container cpus 4")
    return comparison(ratios, titles=titles, **{"evidence": evidence, "inequalities": limit, **changes})


def page_cache(**changes: Any) -> Comparison:
    evidence = {"a": {"faults": 3.0, "throttled": None}, "b": {"faults": 41230.0, "throttled": 0.0}}
    return comparison({"generated": 0.71, "ttft_s": 1.5}, **{"evidence": evidence, **changes})


def way_there(**changes: Any) -> Comparison:
    """The engines are alike, the client waits longer."""
    return comparison({"generated": 1.001, "prompt": 0.999, "ttft_s": 1.18, "total_s": 1.06}, **changes)


def negligible(**changes: Any) -> Comparison:
    return comparison({"generated": 0.985}, usual={**USUAL, "generated": (41.2, 0.003)}, **changes)


def inconclusive(**changes: Any) -> Comparison:
    return comparison({"generated": 0.98}, usual={**USUAL, "generated": (41.2, 0.06)}, **changes)


def not_comparable(**changes: Any) -> Comparison:
    unequal = (
        *wanted(),
        Inequality(what="context", a="2048", b="4096"),
        Inequality(what="engine's files", a=FILES, b="77aa" * 16, fatal=True),
    )
    return comparison({"generated": 0.9}, **{"inequalities": unequal, **changes})


def interrupted(**changes: Any) -> Comparison:
    whole = card({"generated": 0.997}, blocks=3)
    failed = block(4, dice_of(3), {}, began_s=400.0, requests=(), starts={}, trouble="the server has ended")
    notes = ("interrupted after 4 of 8 blocks",)
    return Comparison(card=replace(whole, blocks=(*whole.blocks, failed), planned=8, notes=notes, **changes))


def one_block(**changes: Any) -> Comparison:
    return comparison(blocks=1, aa=0, planned=8, plan="", **changes)


def nothing(**changes: Any) -> Comparison:
    return comparison(blocks=0, aa=0, planned=8, machine={}, inequalities=(), **changes)


def everything(**changes: Any) -> Comparison:
    """All metrics there are."""
    usual = {**USUAL, "gpu_memory_mib": (1034.0, 0.0), "joules_per_token": (0.82, 0.02)}
    return comparison(**{"usual": usual, "blocks": 12, "aa": 4, **changes})


def unknown_metrics(**changes: Any) -> Comparison:
    """An engine that tells no rates: the client's clock is all there is."""
    usual = {key: each for key, each in USUAL.items() if key in {"ttft_s", "total_s", "start_s"}}
    return comparison(usual=usual, **changes)


def two_engines(**changes: Any) -> Comparison:
    """One of two engines tells no times, so that the client's clock measures both."""
    told = {
        "output": (1507.0, 0.012),
        "client_generated": (1661.0, 0.012),
        "generated": (1655.0, 0.012),
        "ttft_s": (0.019, 0.015),
        "total_s": (0.17, 0.011),
    }
    whole = card(
        {"output": 0.34, "client_generated": 0.3, "ttft_s": 1.7, "total_s": 2.9},
        usual={**USUAL, **told},
        titles=("llama-server", "llama-cpp-python"),
        inequalities=(Inequality(what="engine", a="llama-server", b="llama-cpp-python", wanted=True),),
    )

    def silent(request: Request) -> Request:
        untold = {key: None for key in ("generated", "prompt") if request.arm == "b"}
        return replace(request, values={**request.values, **untold})

    blocks = tuple(replace(each, requests=tuple(map(silent, each.requests))) for each in whole.blocks)
    return Comparison(card=replace(whole, **{"blocks": blocks, **changes}))


def with_outlier(**changes: Any) -> Comparison:
    """One block in which the machine slept, of twelve."""
    whole = card({"generated": 0.997, "ttft_s": 1.004}, blocks=12)
    disturbed = {"slept_s": 4.0, "steal": 11.0}
    slow = block(5, dice_of(3), {"generated": 0.8}, began_s=38.0 * 10, machine=disturbed)
    return Comparison(card=replace(whole, blocks=(*whole.blocks[:4], slow, *whole.blocks[5:]), **changes))


def hostile(text: str) -> Comparison:
    """Everything that is text in a card is hostile."""
    whole = card(
        titles=(text, f"{text}!"),
        plan=text,
        made=text,
        notes=(text, text),
        machine={text: text, "cpu": text, "nested": {"x": [text]}},
        inequalities=(
            Inequality(what=text, a=text, b=text),
            Inequality(what=text, a=text, b=text, wanted=True),
        ),
    )
    bad = Block(number=9, order=text, began=text, trouble=text or "?")
    arms = tuple(
        Arm(key=each.key, title=each.title, options={text: text}, facts={text: {text: text}, "x": each.key})
        for each in whole.arms
    )
    return Comparison(
        card=replace(whole, arms=(arms[0], arms[1]), blocks=(*whole.blocks, bad)), replayed=text
    )
