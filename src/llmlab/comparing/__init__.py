"""Two ways of running a model laid side by side, with what can be said and what cannot.

The package is not called as its verb is: `llmlab.compare` would be the package
as soon as it is imported.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Annotated, Any, cast

from llmlab.arguments import Arg
from llmlab.comparing import arms as sides
from llmlab.comparing import card as cards
from llmlab.comparing import environment, protocol, views
from llmlab.comparing.card import Arm, Block, Card, Inequality
from llmlab.comparing.design import FEWEST_BLOCKS
from llmlab.comparing.protocol import Measured, Wanted
from llmlab.comparing.results import Comparison
from llmlab.errors import UsageError
from llmlab.lab import registry
from llmlab.profiles import ProfileName
from llmlab.reporting import reporter
from llmlab.results import Result

__all__ = ["Comparison", "compare"]

_MODEL = "tiny"
_MOST_BLOCKS, _MOST_TOKENS, _MOST_MINUTES = 1000, 4096, 24 * 60.0


def compare(  # noqa: PLR0913 - each is an option of the command line
    model: Annotated[str | None, Arg(completes="model")] = None,
    *,
    a: Annotated[str | None, Arg(metavar="OPTIONS")] = None,
    b: Annotated[str | None, Arg(metavar="OPTIONS")] = None,
    threads: int | None = None,
    context: int | None = None,
    cpus: float | None = None,
    memory: Annotated[str | int | None, Arg(metavar="SIZE")] = None,
    profile: ProfileName | None = None,
    blocks: int | None = None,
    margin: float = 3.0,
    tokens: int | None = None,
    minutes: float = 20.0,
    seed: int | None = None,
    save: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    show: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    replay: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    against: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    ladder: bool = False,
    roofline: bool = False,
) -> Comparison:
    """Compare native against container: what does it cost, and can this machine tell?

    Both are started anew in each block and asked in turns; first the native one
    against itself, which says what this machine can tell apart. Ctrl-C ends it early
    with the verdict that the finished blocks allow. Servers that run are left alone.

    Args:
        model: The model, as for `start`. Unset: tiny, the built-in one.
        a: Another first arm: options of `start`, such as backend=native,threads=2.
        b: Another second arm, such as backend=container,cpus=1 or model=qwen2.5-0.5b.
        threads: Compute threads of both.
        context: Tokens of context of both.
        cpus: CPU limit of what runs in a container.
        memory: Memory limit of what runs in a container.
        profile: Isolation of what runs in a container.
        blocks: How many blocks. Unset: as many as the spread of the first ones says.
        margin: What counts as negligible, in percent.
        tokens: Tokens of each answer. Unset: as many as take about a second.
        minutes: Longest time for all of it, if blocks is unset.
        seed: Of the order in which the arms are asked. Unset: another one each time.
        save: Write the run card into this file: all that was measured.
        show: Show what is in such a file; nothing is measured.
        replay: Measure again what is in such a file: the same arms, order, lengths and number of blocks.
        against: Lay such a file beside the one that is shown, or beside what is measured now.
        ladder: Step by step instead: from the model in a process of its own to a container behind a
            published port, one change at a time; which of them costs how much.
        roofline: The model alone instead, natively: what memory and CPU allow, what is predicted, what is reached.

    Raises:
        UsageError: An option that is not known, or out of range.
        LabError: An arm cannot be started at all.
    """
    # Who asks for something else knows what comes; overloads would say all of the signature three times.
    other = None if against is None else _read(against)
    if show is not None:
        return cast("Comparison", _shown(show, other))
    _check(blocks=blocks, margin=margin, tokens=tokens, minutes=minutes)
    if roofline:
        from llmlab.comparing import roofline as roofs  # noqa: PLC0415 - only for who asks for it

        return cast("Comparison", roofs.roofline(model or _MODEL, threads=threads))
    if ladder:
        from llmlab.comparing import ladder as steps  # noqa: PLC0415 - likewise

        climbed = steps.ladder(
            model or _MODEL,
            threads=threads,
            context=context,
            cpus=cpus,
            blocks=blocks,
            tokens=tokens,
            seed=seed,
            minutes=minutes,
        )
        return cast("Comparison", climbed if save is None else climbed.save(save))
    common = {
        name: value
        for name, value in {
            "threads": threads,
            "context": context,
            "cpus": cpus,
            "memory": memory,
            "profile": profile,
        }.items()
        if value is not None
    }
    if replay is not None:
        pair, wanted = _again(replay, model)
    else:
        pair = sides.pair(model or _MODEL, common, _options(a), _options(b))
        wanted = Wanted(
            blocks=blocks,
            margin=margin / 100,
            tokens=tokens,
            minutes=minutes,
            seed=secrets.randbelow(2**31) if seed is None else seed,
        )
    machine, others = environment.look(), registry.count_here()
    report = reporter()
    report.begin(f"compare {pair[0].title} and {pair[1].title}", ("start", "A/A", "blocks"))
    failed = True
    try:
        found = protocol.measure(pair, wanted)
        failed = False
    finally:
        report.end(failed=failed)
    made = Comparison(card=_card(found, wanted, machine, others))
    if save is not None:
        made.save(save)
    return made if other is None else cast("Comparison", views.against(other, made))


def _read(path: str) -> Comparison:
    return Comparison(card=cards.read(Path(path).expanduser()), replayed=path)


def _again(path: str, model: str | None) -> tuple[tuple[Arm, Arm], Wanted]:
    """The arms and the layout of a card, to be measured once more."""
    made = cards.read(Path(path).expanduser())
    first, second = (replace(arm, facts={}) for arm in made.arms)
    if model is not None:
        # A card has no path: of a file of one's own only the name is in it.
        own = first.options.get("model")
        first, second = (
            replace(arm, options={**arm.options, "model": model}) if arm.options.get("model") == own else arm
            for arm in (first, second)
        )
    for arm in (first, second):
        sides.checked({name: value for name, value in arm.options.items() if name != "slots"})
    wanted = Wanted(
        blocks=max(made.planned, FEWEST_BLOCKS),
        margin=made.margin,
        tokens=made.tokens,
        prompt_tokens=made.prompt_tokens,
        minutes=_MOST_MINUTES,
        seed=made.seed,
    )
    return (first, second), wanted


def _shown(path: str, other: Comparison | None) -> Result:
    """What is in a file: a comparison, beside another if there is one, or a ladder."""
    if cards.format_of(Path(path).expanduser()) == cards.LADDER:
        from llmlab.comparing import ladder  # noqa: PLC0415 - it brings in much

        if other is not None:
            raise UsageError(f"{path} is a ladder", hint="--against lays two comparisons side by side")
        return ladder.read(path)
    made = _read(path)
    return made if other is None else views.against(made, other)


def _options(given: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """An arm's options, typed or as a mapping."""
    if given is None:
        return None
    return sides.options(given) if isinstance(given, str) else dict(given)


def _check(*, blocks: int | None, margin: float, tokens: int | None, minutes: float) -> None:
    if blocks is not None and not FEWEST_BLOCKS <= blocks <= _MOST_BLOCKS:
        raise UsageError(
            f"blocks is {blocks}",
            hint=f"of fewer than {FEWEST_BLOCKS} nothing can be said; at most {_MOST_BLOCKS}",
        )
    if not 0 < margin <= 100:  # noqa: PLR2004 - percent
        raise UsageError(f"margin is {margin:g}", hint="it is in percent, more than 0 and at most 100")
    if tokens is not None and not 2 <= tokens <= _MOST_TOKENS:  # noqa: PLR2004 - of one there is no rate
        raise UsageError(f"tokens is {tokens}", hint=f"it must be from 2 to {_MOST_TOKENS}")
    if not 0 < minutes <= _MOST_MINUTES or math.isnan(minutes):
        raise UsageError(f"minutes is {minutes:g}", hint="it must be more than 0, and at most a day")


def _card(found: Measured, wanted: Wanted, machine: Mapping[str, Any], others: int) -> Card:
    a, b = found.arms
    hashes = {
        arm.key: [
            request.answer for block in found.blocks for request in block.requests if request.arm == arm.key
        ]
        for arm in (a, b)
    }
    answers = sides.answers(a, b, hashes)
    unequal: tuple[Inequality, ...] = sides.inequalities(a, b)
    notes = [found.stopped] if found.stopped else []
    notes += _busy([*found.aa, *found.blocks])
    if others:
        notes.append(f"{others} other {'server was' if others == 1 else 'servers were'} running meanwhile")
    return Card(
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        arms=(_plain(a), _plain(b)),
        seed=wanted.seed,
        margin=wanted.margin,
        prompt_tokens=len(found.setting.prompt),
        tokens=found.setting.tokens,
        aa=tuple(found.aa),
        blocks=tuple(found.blocks),
        planned=found.planned,
        plan=found.plan,
        inequalities=unequal if answers is None else (*unequal, answers),
        machine=machine,
        notes=tuple(notes),
    )


def _busy(blocks: Sequence[Block]) -> list[str]:
    """What others did on this machine all the while, where that was much."""
    words = []
    for key, most, said in (
        ("others_cpus", 0.25, "the machine was busy: other programs used {:.1f} CPUs in the median block"),
        ("steal", 2.0, "the machine has neighbours: they took {:.0f} % of its CPUs in the median block"),
    ):
        known = [value for block in blocks if (value := block.evidence.get(key)) is not None]
        if known and (middle := median(known)) > most:
            words.append(said.format(middle))
    return words


def _plain(arm: Arm) -> Arm:
    """A model's path says where somebody's files are: its name is enough."""
    model = str(arm.options.get("model", ""))
    return replace(
        arm,
        options={**arm.options, "model": Path(model).name if "/" in model and ":" not in model else model},
    )
