"""How a comparison is measured: the same against itself first, then blocks whose number is fixed.

The protocol, and why:

1. A/A: arm a against itself, a few blocks. It says what this machine can tell apart, and
   its spread says how many blocks it takes (the pilot); its blocks are not counted later.
2. A block: both arms started anew, one after the other, a first request each that is not
   counted, then two turns each of measured requests, in the order ABBA or BAAB by a recorded coin.
   A drift that is linear within the block falls out.
3. The block is the sample: requests of one block share its luck.
4. The number of blocks is fixed before the first. To go on until it suits finds what is not there.
5. Between blocks it is shown how far they are, without a verdict, by this thread. Within one nothing is.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Literal

from llmlab import runtime
from llmlab.comparing import design
from llmlab.comparing.arms import facts
from llmlab.comparing.card import Arm, Block, Request
from llmlab.comparing.progress import ComparisonSoFar
from llmlab.comparing.reading import differences, main_of
from llmlab.comparing.running import Running, Setting
from llmlab.errors import LabError
from llmlab.reporting import Reporter, reporter, reporting_to
from llmlab.telemetry.sampler import slept_s

AA_BLOCKS = 4
_PROMPT_TOKENS = 128
_REQUEST_S = 1.0
_MOST_BLOCKS = 40
# So many failures one after the other, and the rest would fail, too.
_FAILURES = 2


@dataclass(slots=True, kw_only=True)
class Wanted:
    """What is asked for.

    Attributes:
        blocks: Blocks of a against b; None for as many as the pilot says.
        margin: What counts as negligible, a ratio − 1.
        tokens: Tokens of each answer; None for about a second's.
        prompt_tokens: Tokens of each prompt.
        minutes: Most time for all of it.
        seed: Of the orders.
        timeout_s: Longest wait for a start, or for the next token.
    """

    blocks: int | None
    margin: float
    tokens: int | None
    seed: int
    minutes: float
    prompt_tokens: int = _PROMPT_TOKENS
    timeout_s: float = 300.0


@dataclass(slots=True, kw_only=True)
class Measured:
    """What has been measured; filled as it goes, so that Ctrl-C loses nothing that is complete.

    Attributes:
        arms: With the facts of their servers, as soon as these are known.
        setting: What the requests are.
        aa: Blocks of arm a against itself.
        blocks: Blocks of a against b.
        planned: How many these were to be.
        plan: Why so many.
        stopped: Why it ended early, "" if it did not.
        took_s: What a block takes, in seconds; None while nobody knows.
    """

    arms: tuple[Arm, Arm]
    setting: Setting
    aa: list[Block]
    blocks: list[Block]
    planned: int = 0
    plan: str = ""
    stopped: str = ""
    took_s: float | None = None


Stage = Literal["start", "A/A", "blocks"]
Show = Callable[["Measured | None", Stage, "float | None"], None]


def measure(arms: tuple[Arm, Arm], wanted: Wanted) -> Measured:
    """Measure; Ctrl-C ends it early.

    Args:
        arms: The two sides.
        wanted: What is asked for.

    Raises:
        LabError: If an arm cannot be started at all, or does not answer.
    """
    begun = time.monotonic()
    show = _shown_by(reporter(), arms, wanted)
    with _quiet(), runtime.owned_servers():
        show(None, "start", None)
        found = _prepared(arms, wanted)
        try:
            _blocks(found, wanted, _same(found.arms[0]), AA_BLOCKS, found.aa, "A/A", show)
            took_s = (time.monotonic() - begun) / (AA_BLOCKS + 1)
            found.planned, found.plan = _planned(found.aa, wanted, took_s, begun)
            _blocks(found, wanted, found.arms, found.planned, found.blocks, "blocks", show)
        except KeyboardInterrupt:
            found.stopped = (
                f"interrupted after {len(found.blocks)} of {found.planned or 'so far unknown'} blocks"
            )
    return found


def _prepared(arms: tuple[Arm, Arm], wanted: Wanted) -> Measured:
    """Start each arm once: what it is, and what the requests will be."""
    setting: Setting | None = None
    known = []
    for arm in arms:
        with Running(arm, _name(arm), wanted.timeout_s) as running:
            if setting is None:
                setting = running.setting(wanted.prompt_tokens, wanted.tokens, _REQUEST_S)
            setting = running.agreed(setting)
            running.warm(setting)
            known.append(replace(arm, facts=facts(running.record)))
    assert setting is not None  # noqa: S101 - there are two arms
    return Measured(arms=(known[0], known[1]), setting=setting, aa=[], blocks=[])


def _same(arm: Arm) -> tuple[Arm, Arm]:
    return arm, replace(arm, key="b")


def _planned(aa: Sequence[Block], wanted: Wanted, took_s: float, begun: float) -> tuple[int, str]:
    """How many blocks, and why."""
    if wanted.blocks is not None:
        return wanted.blocks, f"{wanted.blocks} blocks, as asked for"
    left_s = 60 * wanted.minutes - (time.monotonic() - begun)
    most = max(design.FEWEST_BLOCKS, min(_MOST_BLOCKS, math.floor(left_s / max(took_s, 1e-3))))
    spread = list(differences(aa, main_of(aa)).values())
    if len(spread) < design.FEWEST_BLOCKS:
        return most, f"{most} blocks: the pilot told nothing of the spread"
    plan = design.planned_blocks(spread, margin=wanted.margin, most=most)
    return plan.blocks, plan.reason


def _blocks(
    found: Measured,
    wanted: Wanted,
    arms: tuple[Arm, Arm],
    count: int,
    into: list[Block],
    stage: Stage,
    show: Show,
) -> None:
    """Measure so many blocks, one after the other, and show between them how far they are."""
    began = time.monotonic()
    failures = 0
    ahead = (wanted.blocks or 0) if stage == "A/A" else 0
    # The pilot's coin is another one.
    for number, order in enumerate(design.order(count, wanted.seed + (stage == "A/A")), start=1):
        if number > 1:
            found.took_s = (time.monotonic() - began) / (number - 1)
        show(found, stage, None if found.took_s is None else found.took_s * (count - number + 1 + ahead))
        block = _block(number, order, arms, found.setting, wanted.timeout_s)
        into.append(block)
        failures = failures + 1 if block.trouble else 0
        if failures == _FAILURES:
            found.stopped = f"{failures} blocks failed one after the other: {block.trouble}"
            return


def _block(number: int, order: str, arms: tuple[Arm, Arm], setting: Setting, timeout_s: float) -> Block:
    """One block; what fails in it is told in its `trouble`."""
    began, wall, slept = time.monotonic(), datetime.now(timezone.utc), slept_s()
    by_key = dict(zip("AB", arms, strict=True))
    requests: list[Request] = []
    starts: dict[str, dict[str, float | None]] = {}
    trouble = ""
    try:
        with ExitStack() as stack:
            running = {}
            for letter in order[:2]:
                arm = by_key[letter]
                running[letter] = stack.enter_context(Running(arm, _name(arm), timeout_s))
            for letter in order[:2]:
                running[letter].warm(setting)
            for letter in order:
                requests += [running[letter].measure(setting, began) for _ in range(setting.repeats)]
            starts = {each.arm.key: each.at_the_end() for each in running.values()}
    except LabError as error:
        trouble = error.message
    steal = [each.evidence.get("steal") for each in requests]
    known = [value for value in steal if value is not None]
    others = [value for each in requests if (value := each.evidence.get("others_cpus")) is not None]
    return Block(
        number=number,
        order=order,
        began=wall.isoformat(timespec="milliseconds"),
        starts=starts,
        requests=tuple(requests),
        evidence={
            "load1": os.getloadavg()[0],
            "steal": max(known, default=None),
            "others_cpus": max(others, default=None),
            "slept_s": slept_s() - slept,
        },
        trouble=trouble,
    )


def _name(arm: Arm) -> str:
    return f"compare-{os.getpid()}-{arm.key}"


def _shown_by(report: Reporter, arms: tuple[Arm, Arm], wanted: Wanted) -> Show:
    """What shows how far it is: what has been measured if anything has, the stage, the seconds left or None."""

    def show(found: Measured | None, stage: Stage, left_s: float | None) -> None:
        report.course(
            ComparisonSoFar(
                arms=arms,
                stage=stage,
                aa=tuple(found.aa) if found else (),
                aa_planned=AA_BLOCKS,
                blocks=tuple(found.blocks) if found else (),
                planned=(found.planned if found else 0) or wanted.blocks,
                left_s=left_s,
            )
        )

    return show


@contextmanager
def _quiet() -> Iterator[None]:
    """Starts and answers do not show themselves; who draws takes time from who is measured."""
    with reporting_to(Reporter()):
        yield
