"""What a check is: a pure function from facts to a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmlab.checkup import versions
from llmlab.checkup.facts import Facts
from llmlab.checkup.rows import RowState


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found.

    Attributes:
        state: How it is.
        seen: What was seen.
        fix: Commands that mend it.
        why: Why it matters, if not what the check always says.
        details: More that was seen, a line each.
    """

    state: RowState
    seen: str
    fix: tuple[str, ...] = ()
    why: str = ""
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Attributes:
        name: What is looked at.
        why: Why it matters.
        look: Facts → finding.
        needs: Probes without which nothing can be said.
    """

    name: str
    why: str
    look: Callable[[Facts], Finding]
    needs: tuple[str, ...] = ()


def ok(seen: str) -> Finding:
    """All is well."""
    return Finding("ok", seen)


def warning(seen: str, *fix: str, why: str = "") -> Finding:
    """It works, with a gap."""
    return Finding("warning", seen, fix, why)


def fail(seen: str, *fix: str, why: str = "") -> Finding:
    """It does not work, or is not safe."""
    return Finding("fail", seen, fix, why)


def absent(seen: str) -> Finding:
    """It is of no concern here."""
    return Finding("not applicable", seen)


def unknown(seen: str, *fix: str) -> Finding:
    """It cannot be told."""
    return Finding("unknown", seen, fix)


def first_line(text: str) -> str:
    """The first line of what a program printed."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def no_engine(facts: Facts) -> Finding | None:
    """What to say of an engine's properties where none has answered."""
    return None if facts.info else absent("no engine has answered")


def assessed(
    product: str, version: str, *fix: str, changelog: Sequence[str] = (), packaged: str = "", seen: str = ""
) -> Finding:
    """A version against the advisories.

    A distribution mends faults without changing the version: what its changelog
    names is left out, and of the rest it cannot be told, so nothing fails.
    """
    found = versions.assess(product, version, changelog=changelog, packaged=packaged)
    what = seen or version
    if found.distribution:
        what += ", packaged by a distribution"
    if found.old:
        what += f"; wanted: {found.old} or newer"
    mended = tuple(f"{fault}: mended in this package, by its changelog" for fault in found.mended)
    if not found.faults and not found.old:
        return Finding("ok", what, details=mended)
    why = f"{found.reason} (as of {found.date})"
    if found.distribution and found.faults:
        why += "; the distribution may have mended more than its changelog names"
    state: RowState = "fail" if found.grave and not found.distribution else "warning"
    return Finding(state, what, fix, why, (*found.faults, *mended))
