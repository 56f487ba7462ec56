"""Versions, compared with what is known of them (`advisories.json`)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_DISTRIBUTION = re.compile(r"\+dfsg|[+~]ds\d|ubuntu|[+~-]deb\d|\.(el|fc|amzn)\d", re.IGNORECASE)
_LINE = 2  # numbers of a version that name a release line: 1.3 of 1.3.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What is known of one version of a product.

    Attributes:
        faults: Those it has, as "CVE-…: what it is".
        grave: Whether one of them breaks the isolation.
        mended: Faults that the distribution's changelog says are mended in it.
        old: The version to have, if it is older than that.
        distribution: Whether a distribution has packaged it.
        reason: Why a newer one is better.
        date: When that was looked up.
    """

    faults: tuple[str, ...]
    grave: bool
    mended: tuple[str, ...]
    old: str
    distribution: bool
    reason: str
    date: str


@cache
def advisories() -> Mapping[str, Any]:
    """The packaged data: product → what is known."""
    path = Path(__file__).with_name("advisories.json")
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["products"]
    return found


def key(version: str) -> tuple[tuple[int, ...], int] | None:
    """What versions are ordered by; None if it has no number.

    A pre-release comes before its release; what a distribution adds counts for nothing.
    """
    match = re.match(
        r"\D{0,2}?(\d+(?:\.\d+)*)[-.~]?(rc|beta|alpha|dev|a\d|b\d)?", version.strip(), re.IGNORECASE
    )
    if match is None:
        return None
    numbers = [int(part) for part in match[1].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), 0 if match[2] else 1


def older(version: str, fixed: Sequence[str]) -> bool:
    """Whether a version lacks what was mended in these, each the first of its release line."""
    ours = key(version)
    marks = [found for each in fixed if (found := key(each))]
    if ours is None or not marks:
        return False
    of_line = [mark for mark in marks if _line(mark) == _line(ours)]
    return ours < (of_line[0] if of_line else max(marks))


def _line(found: tuple[tuple[int, ...], int]) -> tuple[int, ...]:
    return (*found[0], 0, 0)[:_LINE]


def assess(product: str, version: str, *, changelog: Collection[str] = (), packaged: str = "") -> Assessment:
    """What is known of a version.

    Args:
        product: Its name in `advisories.json`.
        version: What it says of itself.
        changelog: CVE numbers that the distribution's changelog names.
        packaged: More of its version that may show a distribution's hand.
    """
    known = advisories()[product]
    ours = key(version)
    faults, mended, grave = [], [], False
    for fault in known["faults"]:
        since = key(fault.get("since", "0"))
        if ours is None or (since and ours < since) or not older(version, fault["fixed"]):
            continue
        if fault["id"] in changelog:
            mended.append(fault["id"])
            continue
        faults.append(f"{fault['id']}: {fault['about']}")
        grave = grave or bool(fault.get("grave"))
    wanted = known["recommended"]
    return Assessment(
        faults=tuple(faults),
        grave=grave,
        mended=tuple(mended),
        old=" or ".join(wanted) if older(version, wanted) else "",
        distribution=bool(_DISTRIBUTION.search(f"{version} {packaged}")),
        reason=known["reason"],
        date=known["date"],
    )
