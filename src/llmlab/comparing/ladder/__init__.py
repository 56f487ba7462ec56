"""The ladder: what each part of running a model in a container costs, from no server at all on.

Every rung changes one thing of the one below it, and all are measured in the same blocks: so the
logarithms of the steps' ratios add up to that of the whole gap.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llmlab import machine
from llmlab.comparing import environment
from llmlab.comparing.card import Block, block_from_dict
from llmlab.comparing.design import FEWEST_BLOCKS
from llmlab.comparing.ladder import climbing, rungs
from llmlab.comparing.ladder import starts as rung_starts
from llmlab.comparing.ladder import steps as ladder_steps
from llmlab.comparing.ladder import views as ladder_views
from llmlab.comparing.ladder.climbing import Climbed, Rung, Wanted
from llmlab.comparing.ladder.steps import CHAINED, Gap
from llmlab.errors import LabError, UsageError
from llmlab.lab import launch, registry
from llmlab.reporting import reporter
from llmlab.results import Result
from llmlab.specs import ServeSpec

FORMAT, VERSION = "llmlab-ladder-card", 1
_MOST_BLOCKS, _MOST_TOKENS, _MOST_MINUTES = 1000, 4096, 24 * 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder(Result):
    """A ladder as it was measured, and what follows from it.

    Attributes:
        made: When, ISO 8601.
        model: The model's name.
        rungs: From the lowest on.
        seed: Of the orders.
        prompt_tokens: Tokens of each prompt.
        tokens: Tokens of each answer, the same for all.
        warm_up: The first block, which is not counted; None if it was not complete.
        blocks: The blocks; their number was fixed before the first.
        planned: How many these were to be.
        plan: Why so many.
        machine: What it ran on.
        notes: What was left out, and what else should be known.
    """

    made: str
    model: str
    rungs: tuple[Rung, ...]
    seed: int
    prompt_tokens: int
    tokens: int
    warm_up: Block | None
    blocks: tuple[Block, ...]
    planned: int
    plan: str
    machine: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def gaps(self) -> dict[str, Gap]:
        """Metric → its steps; without those of which fewer than three blocks or two rungs tell."""
        found = {metric.key: ladder_steps.gap(self.rungs, self.blocks, metric) for metric in CHAINED}
        return {key: each for key, each in found.items() if each}

    def to_dict(self) -> dict[str, Any]:
        """The card, with what follows from it under `gaps`, as plain JSON data."""
        return {
            "format": FORMAT,
            "version": VERSION,
            **asdict(self),
            "gaps": {key: each.to_dict() for key, each in self.gaps.items()},
        }

    def save(self, path: str | Path) -> Ladder:
        """Write its card; a file of that name is replaced when it is complete.

        Raises:
            LabError: If it cannot be written.
        """
        target = Path(path).expanduser()
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
            draft.write_text(text + "\n", encoding="utf-8")
            draft.replace(target)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise LabError(
                f"the ladder's card {target} cannot be written: {error.strerror or error}",
                hint="name a file in a directory of yours",
            ) from error
        return self

    def __str__(self) -> str:
        """A table of rungs, and for each metric a line for each step."""
        return ladder_views.text(self)

    def to_html(self) -> str:
        """The same, with waterfalls."""
        return ladder_views.html(self)


def ladder(
    model: str,
    *,
    threads: int | None = None,
    context: int | None = None,
    blocks: int | None = None,
    tokens: int | None = None,
    seed: int | None = None,
    cpus: float | None = None,
    minutes: float = 20.0,
) -> Ladder:
    """Measure what each step from the bare model to a container with all that may surround it costs.

    Ctrl-C ends it early and keeps the complete blocks. Servers that run are left alone.

    Args:
        model: The model, as for `start`.
        threads: Compute threads of all rungs.
        context: Tokens of context of all rungs.
        blocks: How many blocks. Unset: 8, or as many as there is time for, at least 3.
        tokens: Tokens of each answer. Unset: as many as take about a second.
        seed: Of the order in which rungs are asked. Unset: another one each time.
        cpus: CPU quota of one more rung, such as one below the threads.
        minutes: Longest time for all of it, if blocks is unset.

    Raises:
        UsageError: An option that is out of range.
        MemoryFitError: Not all rungs fit into memory at the same time.
        LabError: The model cannot be used, or fewer than two rungs can be had.
    """
    _check(blocks=blocks, tokens=tokens, cpus=cpus, minutes=minutes)
    spec = _spec(model, threads, context)
    wanted = Wanted(
        blocks=blocks, tokens=tokens, seed=secrets.randbelow(2**31) if seed is None else seed, minutes=minutes
    )
    here, others = environment.look(), registry.count_here()
    report = reporter()
    report.begin(f"ladder of {spec.model.name}", ("rungs", "blocks"))
    failed = True
    try:
        found = climbing.climb(rungs.candidates(spec, cpus), spec, wanted)
        failed = False
    finally:
        report.end(failed=failed)
    if others:
        found.notes.append(
            f"{others} other {'server was' if others == 1 else 'servers were'} running meanwhile"
        )
    return _ladder(found, spec, wanted, here)


def read(path: str | Path) -> Ladder:
    """Read a ladder's card.

    Raises:
        UsageError: If it is not there, no such card, or of a later version.
    """
    source = Path(path).expanduser()
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no ladder's card {source}", hint="make one: save a ladder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _no_card(source) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _no_card(source)
    if data.get("version") != VERSION:
        raise UsageError(
            f"{source} is a ladder's card of version {data.get('version')}, which this llmlab does not know",
            hint="upgrade llmlab: pip install --upgrade llmlab",
        )
    try:
        return _from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _no_card(source) from error


def _from_dict(data: Mapping[str, Any]) -> Ladder:
    """The inverse of `Ladder.to_dict`; what stands in a file may be anything."""
    return Ladder(
        made=str(data["made"]),
        model=str(data["model"]),
        rungs=tuple(
            Rung(
                key=str(each["key"]),
                title=str(each["title"]),
                change=str(each["change"]),
                facts={str(name): str(fact) for name, fact in each["facts"].items()},
            )
            for each in data["rungs"]
        ),
        seed=int(data["seed"]),
        prompt_tokens=int(data["prompt_tokens"]),
        tokens=int(data["tokens"]),
        warm_up=block_from_dict(data["warm_up"]) if data["warm_up"] else None,
        blocks=tuple(block_from_dict(each) for each in data["blocks"]),
        planned=int(data["planned"]),
        plan=str(data["plan"]),
        machine=dict(data["machine"]),
        notes=tuple(map(str, data["notes"])),
    )


def _no_card(path: Path) -> UsageError:
    return UsageError(f"{path} is no ladder's card of llmlab's", hint="make one: save a ladder")


def _check(*, blocks: int | None, tokens: int | None, cpus: float | None, minutes: float) -> None:
    if blocks is not None and not FEWEST_BLOCKS <= blocks <= _MOST_BLOCKS:
        raise UsageError(
            f"blocks is {blocks}",
            hint=f"of fewer than {FEWEST_BLOCKS} nothing can be said; at most {_MOST_BLOCKS}",
        )
    if tokens is not None and not 2 <= tokens <= _MOST_TOKENS:  # noqa: PLR2004 - of one there is no rate
        raise UsageError(f"tokens is {tokens}", hint=f"it must be from 2 to {_MOST_TOKENS}")
    if cpus is not None and not 0 < cpus <= machine.cpus():
        raise UsageError(f"cpus is {cpus:g}", hint=f"this machine has {machine.cpus()}")
    if not 0 < minutes <= _MOST_MINUTES or math.isnan(minutes):
        raise UsageError(f"minutes is {minutes:g}", hint="it must be more than 0, and at most a day")


def _spec(model: str, threads: int | None, context: int | None) -> ServeSpec:
    """What all rungs serve, as a native start would decide it.

    Raises:
        LabError: As `llmlab.start`.
    """
    wish = rung_starts.wish(
        model=model,
        backend="native",
        engine="llama-server",
        name=None,
        context=context,
        slots=1,
        threads=threads,
    )
    return launch.decide(wish).spec


def _ladder(found: Climbed, spec: ServeSpec, wanted: Wanted, here: Mapping[str, Any]) -> Ladder:
    return Ladder(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=spec.model.name,
        rungs=tuple(found.rungs),
        seed=wanted.seed,
        prompt_tokens=len(found.setting.prompt),
        tokens=found.setting.tokens,
        warm_up=found.warm_up,
        blocks=tuple(found.blocks),
        planned=found.planned,
        plan=found.plan,
        machine=here,
        notes=(*found.notes, *_answers(found)),
    )


def _answers(found: Climbed) -> tuple[str, ...]:
    """Which rungs have not generated the same tokens as the others: their work may be another."""
    told: dict[str, set[str]] = {}
    for block in found.blocks:
        for request in block.requests:
            if request.answer:
                told.setdefault(request.arm, set()).add(request.answer)
    everything = [answer for each in told.values() for answer in each]
    if not everything:
        return ()
    usual = max(set(everything), key=everything.count)
    titles = {rung.key: rung.title for rung in found.rungs}
    return tuple(
        f"{titles[key]} has not generated the same tokens as the others"
        for key, each in told.items()
        if each != {usual}
    )
