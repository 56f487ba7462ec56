"""All checks, group by group."""

from __future__ import annotations

from collections.abc import Container, Mapping

from llmlab.checkup.checks import building, engine, gpu, limits, native_gpu, notebook, system
from llmlab.checkup.checks.base import Check, Finding, absent, unknown
from llmlab.checkup.facts import Facts
from llmlab.checkup.rows import Row

GROUPS: Mapping[str, tuple[Check, ...]] = {
    "Machine": system.CHECKS,
    "Container engine": (*engine.CHECKS, *limits.CHECKS),
    "GPU": (*gpu.CHECKS, *native_gpu.CHECKS),
    "Python and notebook": notebook.CHECKS,
    "Engines and build tools": building.CHECKS,
}
# llmlab's servers do not run there: nothing else is to be said before that is mended.
_NOT_ON_WINDOWS = frozenset(
    check.name
    for group, checks in GROUPS.items()
    for check in checks
    if (group not in {"GPU", "Python and notebook"} and check.name not in {"platform", "memory"})
    or check in native_gpu.CHECKS
)


def examine(facts: Facts, groups: Container[str] = frozenset(GROUPS)) -> tuple[Row, ...]:
    """Every check of some groups, whatever becomes of the others."""
    return tuple(
        _row(group, check, facts) for group, checks in GROUPS.items() if group in groups for check in checks
    )


def _row(group: str, check: Check, facts: Facts) -> Row:
    finding = _finding(check, facts)
    return Row(
        group=group,
        name=check.name,
        state=finding.state,
        seen=finding.seen,
        why=finding.why or check.why,
        details=finding.details,
        fix=finding.fix,
    )


def _finding(check: Check, facts: Facts) -> Finding:
    if facts.system == "Windows" and check.name in _NOT_ON_WINDOWS:
        return absent("it is looked for inside WSL 2")
    for probe in check.needs:
        if probe in facts.failed:
            return unknown(f"it could not be looked at: {facts.failed[probe]}")
    try:
        return check.look(facts)
    except Exception as error:  # noqa: BLE001 - one check must not stop the others
        return unknown(f"the check failed: {type(error).__name__}: {error}")
