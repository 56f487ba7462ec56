"""Audits as text and as HTML. What containers have said is shown as text only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from llmlab import render

if TYPE_CHECKING:
    from llmlab.auditing.results import Attempt, Audit, Finding, Verdict

_COLUMNS = 100
_SHOWN = 4  # findings that a card tells in full; more are folded
_CELL = f"padding:3px 14px 3px 0;border-bottom:1px solid {render.LINE};vertical-align:top;text-align:left"
_RED = render.STATE_COLOURS["lost"]
_FILLED = f"background:{_RED};color:#fff;font-weight:600"
# The mark, the word, and the colour of the mark. What failed is filled as well.
_LOOKS: Mapping[Verdict, tuple[str, str, str]] = {
    "pass": ("✓", "pass", render.STATE_COLOURS["ready"]),
    "fail": ("✗", "FAIL", "#fff"),
    "inconclusive": ("?", "inconclusive", render.STATE_COLOURS["loading"]),
    "not applicable": ("–", "n.a.", render.STATE_COLOURS["stopped"]),
}
_MEANINGS: Mapping[Verdict, str] = {
    "pass": "attempted, and did not work; in the control it did",
    "fail": "attempted, and it worked",
    "inconclusive": "it did not work in the control either, so that proves nothing",
    "not applicable": "there is nothing of the kind here",
}


# Text


def finding_text(finding: Finding) -> str:
    """One line."""
    return f"{finding.id} {_word(finding.verdict)}: {finding.title}: {render.plain(finding.observed)}"


def audit_text(audit: Audit) -> str:
    """A table in the order of the checks, and below it what failed."""
    head = f"audit of {audit.server} ({audit.isolation}): {_counted(audit)}"
    rows = [
        (
            _word(finding.verdict),
            finding.id,
            finding.title,
            finding.severity,
            render.clipped(finding.observed or render.UNKNOWN, 40),
        )
        for finding in audit.findings
    ]
    lines = [*render.wrapped(head, _COLUMNS), "", render.text_table(_HEADER, rows, gap=2)]
    for finding in _of(audit, "fail", "inconclusive"):
        said = f"{_word(finding.verdict)} {finding.id} {finding.title}: {finding.observed}"
        said += f". {_sentence(finding)}" if finding.verdict == "fail" else ""
        lines += ["", *render.wrapped(said, _COLUMNS)]
    return "\n".join([*lines, "", *render.wrapped(_made_by(audit), _COLUMNS)])


def comparison_text(audits: Sequence[Audit]) -> str:
    """Checks down, servers across."""
    if not audits:
        return "nothing to compare"
    room = max(8, (_COLUMNS - 34) // len(audits) - 2)
    header = ("id", _HEADER[2], *(render.clipped(audit.server, room) for audit in audits))
    rows = [
        (each[0].id, each[0].title, *(_word(finding.verdict) for finding in each))
        for each in _side_by_side(audits)
    ]
    rows.insert(0, ("", "", *(render.clipped(audit.isolation, room) for audit in audits)))
    totals = ("", "passed / failed", *(_score(audit) for audit in audits))
    lines = [render.text_table(header, [*rows, totals], gap=2), ""]
    return "\n".join([*lines, *render.wrapped(_made_by(audits[0]), _COLUMNS)])


# HTML


def audit_html(audit: Audit) -> str:
    """All checks at one look, what failed, and the rest folded away."""
    parts = [_grid(audit), _legend(audit)]
    for verdict, title in _TITLES.items():
        found = _of(audit, verdict)
        told = "".join(map(_told, found))
        if len(found) > _SHOWN:
            parts.append(render.html_fold(f"{title} ({len(found)})", told))
        elif found:
            parts.append(render.html_section(title, told))
    parts += [render.html_note(note) for note in audit.notes]
    parts.append(render.html_fold(f"All {len(audit.findings)} checks", _table(audit.findings)))
    attempts = sum(len(finding.attempts) for finding in audit.findings)
    parts.append(render.html_fold(f"All {attempts} attempts, and their control", _attempts(audit.findings)))
    parts.append(render.html_small(_made_by(audit)))
    return render.html_card(
        f"audit of {audit.server}", "".join(parts), side=render.html_muted(audit.isolation)
    )


def comparison_html(audits: Sequence[Audit]) -> str:
    """Checks down, servers across."""
    if not audits:
        return render.html_text("nothing to compare")
    heads = "".join(
        f'<th scope="col" style="{_CELL};font-weight:600">{escape(audit.server)}<br>{render.html_muted(audit.isolation)}</th>'
        for audit in audits
    ).replace("<br>", " ")
    body = []
    for group, rows in groupby(_side_by_side(audits), key=lambda row: row[0].group):
        body.append(
            f'{render.ROW}<th scope="row" colspan="{len(audits) + 2}" style="text-align:left;padding:9px 0 2px 0;'
            f'{render.MUTED};font-weight:600">{escape(group)}</th></tr>'
        )
        body += [_comparison_row(row, audits) for row in rows]
    totals = "".join(f'<td style="{_CELL}">{escape(_score(audit))}</td>' for audit in audits)
    table = (
        f'<table style="border-collapse:collapse;{render.FONT};margin:4px 0"><thead>{render.ROW}'
        f'<th scope="col" style="{_CELL};{render.MUTED}"></th><th scope="col" style="{_CELL};{render.MUTED}">{escape(_HEADER[2])}</th>{heads}</tr></thead>'
        f'<tbody>{"".join(body)}{render.ROW}<td style="{_CELL}"></td>'
        f'<td style="{_CELL};{render.MUTED}">passed / failed</td>{totals}</tr></tbody></table>'
    )
    title = "audits of " + ", ".join(audit.server for audit in audits)
    folds = "".join(
        render.html_fold(f"What failed on {audit.server} ({len(found)})", "".join(map(_told, found)))
        for audit in audits
        if (found := _of(audit, "fail", "inconclusive"))
    )
    return render.html_card(title, table + folds + render.html_small(_made_by(audits[0])))


_HEADER = ("verdict", "id", "what must not work", "severity", "observed")
_TITLES: Mapping[Verdict, str] = {"fail": "Failed", "inconclusive": "Inconclusive"}


def _grid(audit: Audit) -> str:
    """One tile for each check, one line for each group."""
    rows = []
    for group, findings in groupby(audit.findings, key=lambda finding: finding.group):
        tiles = "".join(map(_tile, findings))
        rows.append(
            f'{render.ROW}<th scope="row" style="text-align:left;font-weight:400;padding:2px 14px 2px 0;{render.MUTED}">'
            f'{escape(group)}</th><td style="text-align:left;padding:2px 0">{tiles}</td></tr>'
        )
    return f'<table style="border-collapse:collapse;{render.FONT};margin:8px 0 4px 0"><tbody>{"".join(rows)}</tbody></table>'


def _tile(finding: Finding) -> str:
    mark, word, colour = _LOOKS[finding.verdict]
    look = {
        "pass": f"border:1px solid {render.LINE}",
        "fail": f"border:1px solid {_RED};{_FILLED}",
        "inconclusive": f"border:1px dashed {colour}",
        "not applicable": f"border:1px solid transparent;{render.MUTED}",
    }[finding.verdict]
    said = f"{finding.id} {finding.title}: {word}. {finding.observed}"
    return (
        f'<span title="{escape(said)}" aria-label="{escape(said)}" style="display:inline-block;box-sizing:border-box;'
        f'min-width:46px;text-align:center;padding:1px 6px;margin:1px 4px 1px 0;border-radius:4px;white-space:nowrap;{look}">'
        f'{escape(finding.id)} <span style="color:{colour};font-weight:600">{mark}</span></span>'
    )


def _legend(audit: Audit) -> str:
    """What the marks mean, and how many there are of each."""
    entries = "".join(
        f'<span title="{escape(_MEANINGS[verdict])}" style="margin-right:16px;white-space:nowrap">'
        f"{_verdict(verdict) if count else _LOOKS[verdict][1]} {count}</span>"
        for verdict, count in audit.counts.items()
        if count or verdict in {"fail", "pass"}
    )
    return f'<div style="{render.FONT};margin:2px 0 4px 0">{entries}</div>'


def _verdict(verdict: Verdict) -> str:
    """Mark and word; what failed is filled."""
    mark, word, colour = _LOOKS[verdict]
    if verdict == "fail":
        return (
            f'<span style="white-space:nowrap;padding:0 6px;border-radius:3px;{_FILLED}">{mark} {word}</span>'
        )
    look = render.MUTED if verdict == "not applicable" else ""
    return (
        f'<span style="white-space:nowrap;{look}"><span aria-hidden="true" style="color:{colour};font-weight:600">{mark}</span>'
        f" {word}</span>"
    )


def _told(finding: Finding) -> str:
    """A finding that wants to be read."""
    chips: list[tuple[str, str, str]] = [("severity", finding.severity, "how grave it is")]
    if finding.cis:
        chips.append(("CIS", finding.cis, "recommendation of the CIS Docker Benchmark 1.6"))
    return (
        f'<div style="{render.FONT};margin:6px 0">{_verdict(finding.verdict)} <strong>{escape(finding.id)}</strong> '
        f"{escape(finding.title)} {render.html_chips(chips)}"
        f"{render.html_text(finding.observed)}{render.html_small(_sentence(finding))}</div>"
    )


def _table(findings: Iterable[Finding]) -> str:
    rows = [
        [
            _verdict(finding.verdict),
            escape(finding.id),
            f'<span title="{escape(finding.meaning)}">{escape(finding.title)}</span>',
            escape(finding.severity),
            escape(finding.cis or render.UNKNOWN),
            _wrapping(finding.attempted),
            _wrapping(finding.observed),
        ]
        for finding in findings
    ]
    header = ("verdict", "id", "what must not work", "severity", "CIS", "attempted", "observed")
    return _wide(render.html_grid(header, rows))


def _attempts(findings: Iterable[Finding]) -> str:
    rows = [
        [
            escape(finding.id),
            _wrapping(attempt.text),
            _outcome(attempt.succeeded, attempt.observed),
            _outcome(attempt.control, attempt.control_observed),
            escape(_took(attempt)),
        ]
        for finding in findings
        for attempt in finding.attempts
    ]
    header = ("id", "attempt", "on the server's twin", "in the control", "ms")
    return _wide(render.html_grid(header, rows, right=("ms",)))


def _outcome(succeeded: bool | None, observed: str) -> str:  # noqa: FBT001 - three-valued
    word = {True: "worked", False: "did not work", None: "not attempted"}[succeeded]
    return f"{escape(word)}{render.html_small(observed) if observed and observed != word else ''}"


def _comparison_row(row: Sequence[Finding], audits: Sequence[Audit]) -> str:
    first = row[0]
    found = dict(zip((audit.server for audit in audits), row, strict=True))
    cells = "".join(
        f'<td style="{_CELL}" title="{escape(finding.observed)}">{_verdict(finding.verdict)}</td>'
        for finding in found.values()
    )
    return (
        f'{render.ROW}<th scope="row" style="{_CELL};font-weight:400">{escape(first.id)}</th>'
        f'<td style="{_CELL}" title="{escape(first.meaning)}">{escape(first.title)}</td>{cells}</tr>'
    )


def _side_by_side(audits: Sequence[Audit]) -> list[tuple[Finding, ...]]:
    """The findings on each check that all of them have."""
    known = [{finding.id: finding for finding in audit.findings} for audit in audits]
    return [
        tuple(each[finding.id] for each in known)
        for finding in audits[0].findings
        if all(finding.id in each for each in known)
    ]


def _of(audit: Audit, *verdicts: Verdict) -> list[Finding]:
    return [finding for finding in audit.findings if finding.verdict in verdicts]


def _word(verdict: Verdict) -> str:
    mark, word, _ = _LOOKS[verdict]
    return f"{mark} {word}"


def _counted(audit: Audit) -> str:
    return ", ".join(
        f"{count} {_LOOKS[verdict][1]}"
        for verdict, count in audit.counts.items()
        if count or verdict in {"fail", "pass"}
    )


def _score(audit: Audit) -> str:
    return f"{audit.counts['pass']} / {audit.counts['fail']}"


def _sentence(finding: Finding) -> str:
    return f"{finding.meaning[:1].upper()}{finding.meaning[1:]}."


def _made_by(audit: Audit) -> str:
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in audit.stages.items() if seconds >= 0.05)  # noqa: PLR2004 - would read 0.0
    return f"{audit.engine}; took {audit.seconds:.1f} s" + (f" ({stages})" if stages else "")


def _took(attempt: Attempt) -> str:
    return render.UNKNOWN if attempt.ms is None else f"{attempt.ms:.1f}"


def _wrapping(text: str) -> str:
    return f'<span style="overflow-wrap:anywhere">{escape(text)}</span>'


def _wide(html: str) -> str:
    """A table that may be wider than its card."""
    return f'<div style="overflow-x:auto;font-size:90%">{html}</div>'
