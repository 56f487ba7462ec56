"""Before a workshop: can it be followed on this machine, and what is to be done first?

One screen, made from the doctor's facts; and for whoever teaches, the reports of a
room in one table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from llmlab.arguments import Arg
from llmlab.checkup.checks import examine
from llmlab.checkup.facts import Facts
from llmlab.checkup.gathering import gather
from llmlab.checkup.rows import Diagnosis
from llmlab.errors import UsageError
from llmlab.reporting import reporter
from llmlab.workshop.preflighting import lines as lines
from llmlab.workshop.preflighting import needs as needing
from llmlab.workshop.preflighting import report as reports
from llmlab.workshop.preflighting import trying as trying
from llmlab.workshop.preflighting.lines import Line, Way
from llmlab.workshop.preflighting.room import Room, gathered
from llmlab.workshop.preflighting.views import Preflight, verdict

__all__ = ["Line", "Preflight", "Room", "preflight"]


def preflight(
    *,
    models: Annotated[str | None, Arg(metavar="MODEL,…")] = None,
    name: str | None = None,
    save: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    no_try: bool = False,
    collect: Annotated[str | None, Arg(metavar="FOLDER", completes="path")] = None,
) -> Preflight | Room:
    """See whether a workshop can be followed on this machine, and what to do first.

    One screen: what works, and for what does not, one command. The built-in model is
    started, asked and stopped, natively and in a container where that is possible.
    Nothing is sent anywhere. The exit status is 1 if there is no way to follow it.

    Args:
        models: The models that the workshop uses, with commas between them; memory and
            disk are compared with what they need. Unset: tiny, the built-in one.
        name: Your name, for the report: without it no name is in there.
        save: Write a report for whoever teaches, to a file or into a folder.
        no_try: Start nothing.
        collect: Read all reports in a folder, and show one table for the room: who
            needs help comes first.

    Raises:
        UsageError: An option does not fit, a model's name is unknown, or a file
            cannot be written.
    """
    if collect is not None:
        given = {"models": models, "name": name, "save": save, "no-try": no_try or None}
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"--{option} and --collect do not go together", hint="leave one of them out")
        return gathered(collect)
    who = reports.learner(name, keep=save is not None)
    report = reporter()
    report.begin("preflight", ("look", "native", "container"))
    failed = True
    try:
        report.stage("look", "at this machine")
        facts = gather()
        found = look(facts, models="tiny" if models is None else models, no_try=no_try, who=who)
        if save is not None:
            found = _saved(found, save)
        failed = False
    finally:
        report.end(failed=failed)
    return found


def look(
    facts: Facts, *, models: str = "tiny", no_try: bool = True, who: dict[str, str | None] | None = None
) -> Preflight:
    """The preflight of a machine whose facts are known.

    Args:
        facts: What the doctor has seen.
        models: References of the models, with commas between them.
        no_try: Start nothing: these may be the facts of another machine.
        who: Who the report is of.

    Raises:
        UsageError: A model's name is unknown.
    """
    rows = examine(facts)
    by_name = {row.name: row for row in rows}
    wanted = needing.needs(models, facts.memory.get("usable"))
    gpu, phrase = lines.gpu(facts, by_name)
    first = lines.machine(by_name)
    found = [
        first,
        lines.python(facts, by_name),
        *(
            lines.later()
            if first.blocks
            else (lines.engine(facts, by_name), lines.containers(facts, by_name))
        ),
        gpu,
        needing.memory(facts, by_name, wanted),
        needing.disk(facts, wanted),
    ]
    why_not = "--no-try" if no_try else _untried(found)
    tries = () if why_not else tuple(_tried(facts))
    found.append(trying.line(tries, why_not))
    mode, words = verdict(tuple(found), phrase)
    parts = {"lines": found, "models": wanted, "tries": tries}
    return Preflight(
        verdict=words,
        mode=mode,
        lines=tuple(found),
        models=wanted,
        tries=tries,
        report=reports.document(
            who or {"name": None, "id": None}, words, mode, parts, reports.machine(facts, by_name)
        ),
        diagnosis=Diagnosis(rows=rows, facts=facts),
    )


def _untried(found: list[Line]) -> str:
    """Why nothing can be started yet; "" if something can."""
    by_name = {line.name: line for line in found}
    for name, why in (
        ("Machine", "the machine comes first"),
        ("Python", "Python comes first"),
        ("Engine", "the engine comes first"),
    ):
        if "native" in by_name[name].blocks:
            return why
    return ""


def _tried(facts: Facts) -> Iterator[trying.Try]:
    ways: tuple[Way, ...] = ("native", "container")
    for way in ways:
        # A container's engine is llama-server; a wheel runs natively only.
        if way == "native" or (facts.info and facts.build.get("server")):
            reporter().stage(way, f"starting {trying.MODEL}")
            yield trying.attempt(way)


def _saved(found: Preflight, file: str) -> Preflight:
    return replace(found, saved=reports.save(found.report, file))
