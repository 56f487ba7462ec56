"""The run card: everything that a comparison has measured, and what is needed to repeat it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from llmlab.comparing.metrics import MAIN_BY_CLIENT
from llmlab.errors import MALFORMED, LabError, UsageError

FORMAT, VERSION = "llmlab-run-card", 1
LADDER = "llmlab-ladder-card"
ArmKey = Literal["a", "b"]
Clock = Literal["engine", "client"]
Values = Mapping[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One of the two sides.

    Attributes:
        key: "a" or "b"; ratios are b over a.
        title: What it is called, such as "native".
        options: The arguments of `start` it was started with.
        facts: What came of them: engine, threads, hashes, image.
    """

    key: str
    title: str
    options: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One measured request.

    Attributes:
        arm: Whose.
        began_s: Seconds since the block began.
        values: Metric → value, None where unknown.
        evidence: What else was counted meanwhile: throttled (% of periods), faults (major), steal (%).
        answer: A hash of the generated token ids, "" where the engine does not tell them.
        tokens: Generated tokens.
    """

    arm: str
    began_s: float
    values: Values
    evidence: Values = field(default_factory=dict)
    answer: str = ""
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fresh start of both arms, and their requests in turns; the sample of the statistics.

    Attributes:
        number: From 1.
        order: "ABBA" or "BAAB".
        began: When, ISO 8601.
        starts: Arm → metric → value, of what is measured once at each start.
        requests: In the order in which they were made, without the discarded first ones.
        evidence: What the machine did meanwhile: load1, steal (%), slept_s.
        trouble: Why it is not complete, "" if it is.
    """

    number: int
    order: str
    began: str
    starts: Mapping[str, Values] = field(default_factory=dict)
    requests: tuple[Request, ...] = ()
    evidence: Values = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inequality:
    """Something in which the arms differ.

    Attributes:
        what: What.
        a: What arm a has.
        b: What arm b has.
        wanted: Whether that is what is compared.
        fatal: Whether it makes the figures not comparable.
    """

    what: str
    a: str
    b: str
    wanted: bool = False
    fatal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A comparison, as it was made.

    Attributes:
        made: When, ISO 8601.
        arms: The two sides.
        seed: Of the orders.
        margin: What counts as negligible, a ratio − 1.
        prompt_tokens: Tokens of each prompt.
        tokens: Tokens of each answer, the same for all.
        aa: Blocks in which both sides were arm a.
        blocks: Blocks of a against b; their number was fixed before the first.
        planned: How many blocks that were.
        plan: Why so many.
        inequalities: In what the arms differ.
        machine: What it ran on.
        notes: What should be known besides.
    """

    made: str
    arms: tuple[Arm, Arm]
    seed: int
    margin: float
    prompt_tokens: int
    tokens: int
    aa: tuple[Block, ...]
    blocks: tuple[Block, ...]
    planned: int
    plan: str
    inequalities: tuple[Inequality, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def clock(self) -> Clock:
        """By whose clock the rates are: the engines', or the client's where one of them tells no times."""
        return clock_of((*self.aa, *self.blocks))

    def to_dict(self) -> dict[str, Any]:
        """It as plain JSON data."""
        return {"format": FORMAT, "version": VERSION, "clock": self.clock, **asdict(self)}


def clock_of(blocks: Iterable[Block]) -> Clock:
    """By whose clock the rates of some blocks are."""
    by_client = any(MAIN_BY_CLIENT in request.values for block in blocks for request in block.requests)
    return "client" if by_client else "engine"


def write(card: Card, path: Path) -> None:
    """Write a card; a file of that name is replaced when it is complete.

    Raises:
        LabError: If it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(card.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise LabError(
            f"the run card {path} cannot be written: {error.strerror or error}",
            hint="name a file in a directory of yours: --save card.json",
        ) from error


def format_of(path: Path) -> str:
    """What a file says that it is; "" if it says nothing, or cannot be read."""
    with suppress(OSError, ValueError, RecursionError):
        data = json.loads(path.read_text(encoding="utf-8"))
        return str(data.get("format", "")) if isinstance(data, dict) else ""
    return ""


def read(path: Path) -> Card:
    """Read a card.

    Raises:
        UsageError: If it is not there, no run card, or of a later version.
    """
    try:
        # Half a surrogate pair is no text that could be shown or written again.
        data = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(data, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise UsageError(
            f"there is no run card {path}", hint="make one: llmlab compare --save card.json"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _no_card(path) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _no_card(path)
    if data.get("version") != VERSION:
        raise UsageError(
            f"{path} is a run card of version {data.get('version')}, which this llmlab does not know",
            hint="upgrade llmlab: pip install --upgrade llmlab",
        )
    try:
        return from_dict(data)
    except MALFORMED as error:
        raise _no_card(path) from error


def from_dict(data: Mapping[str, Any]) -> Card:
    """The inverse of `Card.to_dict`; what stands in a file may be anything.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: If that is no card.
    """
    first, second = (_arm(each) for each in data["arms"])
    margin = float(data["margin"])
    if not 0 < margin <= 1:
        raise ValueError(f"margin is {margin}")
    return Card(
        made=str(data["made"]),
        arms=(first, second),
        seed=int(data["seed"]),
        margin=margin,
        prompt_tokens=int(data["prompt_tokens"]),
        tokens=int(data["tokens"]),
        aa=tuple(block_from_dict(each) for each in data["aa"]),
        blocks=tuple(block_from_dict(each) for each in data["blocks"]),
        planned=int(data["planned"]),
        plan=str(data["plan"]),
        inequalities=tuple(_inequality(each) for each in data["inequalities"]),
        machine=dict(data["machine"]),
        notes=tuple(map(str, data["notes"])),
    )


def _arm(data: Mapping[str, Any]) -> Arm:
    facts = {str(key): str(value) for key, value in data["facts"].items()}
    return Arm(key=str(data["key"]), title=str(data["title"]), options=dict(data["options"]), facts=facts)


def _inequality(data: Mapping[str, Any]) -> Inequality:
    what, a, b = (str(data[name]) for name in ("what", "a", "b"))
    return Inequality(what=what, a=a, b=b, wanted=bool(data["wanted"]), fatal=bool(data["fatal"]))


def block_from_dict(data: Mapping[str, Any]) -> Block:
    """The inverse of `dataclasses.asdict` for a `Block`.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: If that is no block.
    """
    return Block(
        number=int(data["number"]),
        order=str(data["order"]),
        began=str(data["began"]),
        starts={str(arm): _values(values) for arm, values in data["starts"].items()},
        requests=tuple(_request(each) for each in data["requests"]),
        evidence=_values(data["evidence"]),
        trouble=str(data["trouble"]),
    )


def _request(data: Mapping[str, Any]) -> Request:
    return Request(
        arm=str(data["arm"]),
        began_s=float(data["began_s"]),
        values=_values(data["values"]),
        evidence=_values(data["evidence"]),
        answer=str(data["answer"]),
        tokens=int(data["tokens"]),
    )


def _values(data: Mapping[str, Any]) -> dict[str, float | None]:
    found = {str(key): None if value is None else float(value) for key, value in data.items()}
    return {
        key: value if value is not None and math.isfinite(value) else None for key, value in found.items()
    }


def _no_card(path: Path) -> UsageError:
    return UsageError(f"{path} is no run card of llmlab's", hint="make one: llmlab compare --save card.json")
