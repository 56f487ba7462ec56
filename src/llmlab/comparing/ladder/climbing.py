"""How a ladder is measured: all rungs alive in each block, there and back in a random order.

Each rung is started once alone, to see whether it can be; a warm-up block follows, which is
not counted and tells how long a block takes. The number of blocks is fixed after that.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

from llmlab import machine, runtime
from llmlab.comparing import arms, design
from llmlab.comparing.card import Arm, Block, Request
from llmlab.comparing.ladder.rungs import Candidate, How
from llmlab.comparing.progress import LadderSoFar, RungSoFar, State
from llmlab.comparing.running import Running, Setting
from llmlab.errors import LabError, MemoryFitError, StartError
from llmlab.reporting import Reporter, reporter, reporting_to
from llmlab.specs import ServeSpec
from llmlab.telemetry.sampler import slept_s
from llmlab.weights import anatomy, fit

DEFAULT_BLOCKS = 8
_REQUEST_S = 1.0
# So many failures one after the other, and the rest would fail, too.
_FAILURES = 2
_FEWEST_RUNGS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for.

    Attributes:
        blocks: How many; None for 8, or as many as there is time for.
        tokens: Tokens of each answer; None for about a second's.
        seed: Of the orders.
        minutes: Most time for all of it, if blocks is None.
        prompt_tokens: Tokens of each prompt.
        timeout_s: Longest wait for a start, or for the next token.
    """

    blocks: int | None
    tokens: int | None
    seed: int
    minutes: float
    prompt_tokens: int = 128
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One rung of a ladder.

    Attributes:
        key: Its name in cards.
        title: What it is called.
        change: What is changed of the rung below, a sentence.
        facts: What its server turned out to be.
    """

    key: str
    title: str
    change: str
    facts: dict[str, str]


@dataclass(slots=True, kw_only=True)
class Climbed:
    """What has been measured; filled as it goes, so that Ctrl-C loses nothing that is complete.

    Attributes:
        rungs: From the lowest on.
        hows: How each is started, by key.
        setting: What the requests are.
        warm_up: The first block, which is not counted.
        blocks: The others.
        planned: How many these were to be.
        plan: Why so many.
        notes: What was left out, and what else should be known.
        tried: By key, how far each candidate is.
    """

    rungs: list[Rung] = field(default_factory=list)
    hows: dict[str, How] = field(default_factory=dict)
    setting: Setting = field(default_factory=lambda: Setting(prompt=(), tokens=0))
    warm_up: Block | None = None
    blocks: list[Block] = field(default_factory=list)
    planned: int = 0
    plan: str = ""
    notes: list[str] = field(default_factory=list)
    tried: dict[str, RungSoFar] = field(default_factory=dict)

    def mark(self, candidate: Candidate, state: State, why: str = "") -> None:
        """How far a candidate is, and why it is left out."""
        self.tried[candidate.key] = RungSoFar(title=candidate.title, state=state, why=why)
        if why:
            self.notes.append(f"left out: {candidate.title}, because {why}")

    def show(
        self, report: Reporter, stage: Literal["rungs", "blocks"], wanted: Wanted, left_s: float | None = None
    ) -> None:
        """Show how far it is; never while something is measured."""
        report.course(
            LadderSoFar(
                stage=stage,
                rungs=dict(self.tried),
                warmed=self.warm_up is not None,
                blocks=tuple(self.blocks),
                planned=self.planned or wanted.blocks,
                left_s=left_s,
            )
        )


def climb(candidates: Sequence[Candidate], spec: ServeSpec, wanted: Wanted) -> Climbed:
    """Measure; Ctrl-C ends it early.

    Args:
        candidates: The rungs to try.
        spec: What is served.
        wanted: What is asked for.

    Raises:
        MemoryFitError: If not all rungs fit into memory at the same time.
        LabError: If fewer than two rungs can be had.
    """
    begun = time.monotonic()
    report = reporter()
    found = Climbed()
    with reporting_to(Reporter()), runtime.owned_servers():
        _check_memory(sum(not each.missing for each in candidates), spec)
        _try(candidates, spec, wanted, found, report)
        try:
            _measure(found, wanted, begun, report)
        except KeyboardInterrupt:
            of = found.planned or "so far unknown"
            found.notes.append(f"interrupted after {len(found.blocks)} of {of} blocks")
    return found


def _check_memory(rungs: int, spec: ServeSpec) -> None:
    """All rungs run at the same time, and share the weights in the page cache.

    Raises:
        MemoryFitError: If that is more than there is.
    """
    setting = fit.Setting(context=spec.context, slots=spec.slots, kv_type=spec.kv_type, engine=spec.engine)
    need = fit.need(anatomy.of_file(spec.model.path), setting)
    weights = need.parts["weights"]
    each = need.resident_mib - weights
    room = machine.look().usable_mib
    if (total := weights + rungs * each) > room:
        raise MemoryFitError(
            f"the ladder of {spec.model.name} has {rungs} rungs, which run at the same time: that takes {total} MiB"
            f" ({weights} for weights, which all share, and {each} for each), and this machine can give {room} MiB now",
            hint="use less --context, or a smaller model",
        )


def _try(
    candidates: Sequence[Candidate], spec: ServeSpec, wanted: Wanted, found: Climbed, report: Reporter
) -> None:
    """Start each alone; one that cannot be is left out, and the next changes the one before."""
    how, error = How(spec=spec), None
    for candidate in candidates:
        found.mark(candidate, "left out" if candidate.missing else "ahead", candidate.missing)
    for candidate in candidates:
        if candidate.missing:
            continue
        found.mark(candidate, "now")
        found.show(report, "rungs", wanted)
        changed = candidate.changed(how)
        try:
            facts = _known(candidate, changed, wanted, found)
        except LabError as caught:
            error = caught
            found.mark(candidate, "left out", caught.message)
            continue
        found.mark(candidate, "done")
        how = found.hows[candidate.key] = changed
        found.rungs.append(
            Rung(key=candidate.key, title=candidate.title, change=candidate.change, facts=facts)
        )
    if len(found.rungs) < _FEWEST_RUNGS:
        raise error or StartError("there are fewer than two rungs here", hint="; ".join(found.notes))


def _known(candidate: Candidate, how: How, wanted: Wanted, found: Climbed) -> dict[str, str]:
    """Start it, ask it once; what it is."""
    with _running(candidate.key, candidate.title, how, wanted) as running:
        if not found.setting.prompt and how.place != "child":
            found.setting = running.setting(wanted.prompt_tokens, wanted.tokens, _REQUEST_S)
        if found.setting.prompt:
            running.warm(found.setting)
        facts = arms.facts(running.record)
    if how.place == "child":
        facts |= {"engine": "llama-cpp-python", "way there": "none: function calls"}
    return {**facts, "page cache": "dropped before each start" if how.cold else "as it is"}


def _running(key: str, title: str, how: How, wanted: Wanted) -> Running:
    return Running(
        Arm(key=key, title=title, options={}),
        f"ladder-{os.getpid()}-{key}",
        wanted.timeout_s,
        starter=how.start,
    )


def _measure(found: Climbed, wanted: Wanted, begun: float, report: Reporter) -> None:
    """The warm-up, and then as many blocks as were planned."""
    count = len(found.rungs)
    found.show(report, "blocks", wanted)
    began = time.monotonic()
    found.warm_up = _block(0, design.ladder_order(count, 1, wanted.seed + 1)[0], found, wanted)
    took_s = time.monotonic() - began
    found.planned, found.plan = _planned(wanted, took_s, 60 * wanted.minutes - (time.monotonic() - begun))
    failures = 0
    for number, order in enumerate(design.ladder_order(count, found.planned, wanted.seed), start=1):
        found.show(report, "blocks", wanted, left_s=took_s * (found.planned - number + 1))
        found.blocks.append(block := _block(number, order, found, wanted))
        failures = failures + 1 if block.trouble else 0
        if failures == _FAILURES:
            found.notes.append(f"{failures} blocks failed one after the other: {block.trouble}")
            return


def _planned(wanted: Wanted, took_s: float, left_s: float) -> tuple[int, str]:
    """How many blocks, and why."""
    if wanted.blocks is not None:
        return wanted.blocks, f"{wanted.blocks} blocks, as asked for"
    most = max(design.FEWEST_BLOCKS, math.floor(left_s / max(took_s, 1e-3)))
    if most >= DEFAULT_BLOCKS:
        return DEFAULT_BLOCKS, f"{DEFAULT_BLOCKS} blocks, unless asked otherwise"
    return most, f"{most} blocks of about {took_s:.0f} s: for {wanted.minutes:g} min"


def _block(number: int, order: Sequence[int], found: Climbed, wanted: Wanted) -> Block:
    """One block; what fails in it is told in its `trouble`."""
    began, wall, slept = time.monotonic(), datetime.now(timezone.utc), slept_s()
    keys = [found.rungs[index].key for index in order]
    titles = {rung.key: rung.title for rung in found.rungs}
    requests: list[Request] = []
    starts: dict[str, dict[str, float | None]] = {}
    trouble = at = ""
    try:
        with ExitStack() as stack:
            running = {}
            # Once a server has the file mapped, no kernel drops it: the cold one is first.
            for key in sorted(dict.fromkeys(keys), key=lambda key: not found.hows[key].cold):
                at = titles[key]
                running[key] = stack.enter_context(_running(key, at, found.hows[key], wanted))
            for key, each in running.items():
                at = titles[key]
                each.warm(found.setting)
            for key in keys:
                at = titles[key]
                requests += [running[key].measure(found.setting, began) for _ in range(found.setting.repeats)]
            starts = {key: each.at_the_end() for key, each in running.items()}
    except LabError as error:
        trouble = f"{at}: {error.message}"
    return Block(
        number=number,
        order=" ".join(keys),
        began=wall.isoformat(timespec="milliseconds"),
        starts=starts,
        requests=tuple(requests),
        evidence=_evidence(requests, slept_s() - slept),
        trouble=trouble,
    )


def _evidence(requests: Sequence[Request], slept: float) -> dict[str, float | None]:
    """What the machine did meanwhile."""

    def most(what: str) -> float | None:
        known = [value for each in requests if (value := each.evidence.get(what)) is not None]
        return max(known, default=None)

    return {
        "load1": os.getloadavg()[0],
        "steal": most("steal"),
        "others_cpus": most("others_cpus"),
        "slept_s": max(0.0, slept),
    }
