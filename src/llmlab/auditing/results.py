"""What an audit has found, as frozen values; `views` draws them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmlab.auditing import views
from llmlab.auditing.checks import Group, Severity
from llmlab.render import frames
from llmlab.results import Result
from llmlab.specs import to_dict

Verdict = Literal["pass", "fail", "inconclusive", "not applicable"]

_FAILED, _INCONCLUSIVE = 1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One violation that was attempted.

    Attributes:
        text: What was attempted.
        succeeded: Whether it worked; None if it was not come to.
        observed: What was observed.
        control: Whether the same worked in the control; None if it was not attempted there.
        control_observed: What was observed there.
        ms: Milliseconds it took, by the probe's clock.
    """

    text: str
    succeeded: bool | None
    observed: str
    control: bool | None
    control_observed: str = ""
    ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Result):
    """The verdict on one check.

    Attributes:
        id: The check, such as "N1".
        title: What is kept from happening.
        group: What it is about.
        severity: How grave it is if it can happen.
        cis: Number of the recommendation in the CIS Docker Benchmark 1.6, or "".
        meaning: What could happen if it failed.
        verdict: "pass" if no attempt succeeded and at least one of them did in
            the control; "fail" if one did; "inconclusive" if none did in the
            control either; "not applicable" where there is nothing to attempt.
        attempted: What was attempted.
        observed: What was observed, or why there is no verdict.
        attempts: Each attempt.
        ms: Milliseconds that the attempts took.
    """

    id: str
    title: str
    group: Group
    severity: Severity
    cis: str
    meaning: str
    verdict: Verdict
    attempted: str
    observed: str
    attempts: tuple[Attempt, ...] = ()
    ms: float | None = None

    def __str__(self) -> str:
        """One line."""
        return views.finding_text(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit(Result):
    """What an audit of one server has found.

    Attributes:
        server: The server.
        isolation: Its profile, as `ps` names it.
        engine: The container engine and its version.
        findings: A verdict on every check that was wanted.
        seconds: How long it took; with several servers, all of them together.
        stages: How long its parts took, in seconds.
        notes: What should be known about it.
    """

    server: str
    isolation: str
    engine: str
    findings: tuple[Finding, ...]
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check that applies has passed."""
        return self.exit_status == 0

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many checks have each verdict."""
        found = Counter(finding.verdict for finding in self.findings)
        return {
            "fail": found["fail"],
            "pass": found["pass"],
            "inconclusive": found["inconclusive"],
            "not applicable": found["not applicable"],
        }

    @property
    def exit_status(self) -> int:
        """0 if every check that applies passed, 1 if one failed, 3 if one is inconclusive."""
        counts = self.counts
        return _FAILED if counts["fail"] else _INCONCLUSIVE if counts["inconclusive"] else 0

    def __getitem__(self, check: str) -> Finding:
        """The finding on a check, such as `audit["N1"]`."""
        for finding in self.findings:
            if finding.id == check.upper():
                return finding
        raise KeyError(check)

    def failed(self) -> tuple[str, ...]:
        """Ids of the checks that failed."""
        return tuple(finding.id for finding in self.findings if finding.verdict == "fail")

    def beside(self, *others: Audit) -> AuditComparison:
        """This audit and others, side by side."""
        return AuditComparison((self, *others))

    def to_dict(self) -> dict[str, Any]:
        """The audit as plain JSON data."""
        return {**to_dict(self), "passed": self.passed, "counts": self.counts}

    def to_frame(self) -> Any:
        """A pandas data frame: a row a check, with the server.

        Raises:
            UsageError: If pandas is not installed.
        """
        return _frame([self])

    def __str__(self) -> str:
        """A table, what failed first."""
        return views.audit_text(self)

    def to_html(self) -> str:
        """A card: all checks at one look, then what failed, then the details."""
        return views.audit_html(self)


@dataclass(frozen=True, slots=True)
class AuditComparison(Result, Sequence[Audit]):
    """Several audits side by side; a sequence of `Audit`."""

    audits: tuple[Audit, ...]

    def __getitem__(self, index: Any) -> Any:
        """The audit at an index, or a tuple of them for a slice."""
        return self.audits[index]

    def __len__(self) -> int:
        """Number of audits."""
        return len(self.audits)

    def __iter__(self) -> Iterator[Audit]:
        """The audits, in the order they were named."""
        return iter(self.audits)

    @property
    def exit_status(self) -> int:
        """The worst of them: 1 before 3 before 0."""
        found = {audit.exit_status for audit in self.audits}
        return next((status for status in (_FAILED, _INCONCLUSIVE) if status in found), 0)

    def to_dict(self) -> dict[str, Any]:
        """The audits as plain JSON data."""
        return {"audits": [audit.to_dict() for audit in self.audits]}

    def to_frame(self) -> Any:
        """A pandas data frame: a row a server and check.

        Raises:
            UsageError: If pandas is not installed.
        """
        return _frame(self.audits)

    def __str__(self) -> str:
        """A table: checks down, servers across."""
        return views.comparison_text(self.audits)

    def to_html(self) -> str:
        """The same as a card."""
        return views.comparison_html(self.audits)


def _frame(audits: Sequence[Audit]) -> Any:
    found = [(audit.server, finding) for audit in audits for finding in audit.findings]
    return frames.frame_of([each for _, each in found], Finding, server=[server for server, _ in found])
