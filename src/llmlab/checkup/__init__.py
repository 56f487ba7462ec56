"""What stands in the way on this machine, and the command that mends it.

Facts are gathered once (`gathering`, `engine`, `python`) into one plain value;
checks are pure functions from it to rows, so the facts of another machine, sent
as a file, are examined in the same way.

The package is not called as its verb is: `llmlab.doctor` would be the package
as soon as it is imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from llmlab.arguments import Arg
from llmlab.checkup import nodes
from llmlab.checkup.checks import examine
from llmlab.checkup.facts import Facts, from_dict
from llmlab.checkup.gathering import gather
from llmlab.checkup.rows import Diagnosis, Row
from llmlab.errors import UsageError
from llmlab.reporting import reporter

__all__ = ["Diagnosis", "Facts", "Row", "doctor"]


def doctor(
    *,
    all: bool = False,  # noqa: A002 - what it is called on the command line
    facts: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    on: Annotated[str | None, Arg(metavar="NODE", completes="node")] = None,
) -> Diagnosis:
    """Look this machine over: what works, what is missing, and the command that mends it.

    Nothing is changed, and nothing is sent anywhere. The exit status is 1 if a row fails.

    Args:
        all: Show what is healthy in full as well.
        facts: Examine the facts of another machine, which `llmlab doctor --json`
            has printed there, in place of this one.
        on: Examine a node's container engine, as far as it tells of itself, in place of this
            machine; run `llmlab doctor` there for the rest.

    Raises:
        UsageError: The file holds no facts, or there is no such node.
    """
    if on is not None:
        if facts is not None:
            raise UsageError("--facts and --on do not go together", hint="leave one of them out")
        there = nodes.facts_of(on)
        return Diagnosis(rows=examine(there, nodes.GROUPS), facts=there, verbose=all)
    if facts is not None:
        return _diagnosis(_saved(facts), verbose=all)
    report = reporter()
    report.begin("doctor", ("look",))
    report.stage("look", "at this machine")
    failed = True
    try:
        found = _diagnosis(gather(), verbose=all)
        failed = False
    finally:
        report.end(failed=failed)
    return found


def _diagnosis(facts: Facts, *, verbose: bool) -> Diagnosis:
    return Diagnosis(rows=examine(facts), facts=facts, verbose=verbose)


def _saved(path: str) -> Facts:
    try:
        data = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", hint="save facts with: llmlab doctor --json > facts.json"
        ) from error
    return from_dict(data)
