"""Views of isolation that the lessons lay on the table: receipts, evidence, what is shared.

Each takes what runs here. Where that cannot be had, a lesson shows a recording
of the same view, and `facts_of` reads both alike.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from llmlab import lab, render
from llmlab.backends import docker_api
from llmlab.errors import BackendError, UsageError
from llmlab.results import Result
from llmlab.results_isolation import Inspection
from llmlab.workshop import judges
from llmlab.workshop.recordings import Recording

_LOOKS: dict[str, render.Finding] = {
    "as asked": "good",
    "as recorded": "good",
    "left open": "open",
    "DIFFERS": "bad",
}
_LEGEND: tuple[tuple[str, render.Finding, str], ...] = (
    ("held", "good", "asked for, and in force"),
    ("left open", "open", "nothing holds it back"),
    ("other", "plain", "not asked for, or not to be seen from here"),
)
# What the lessons do not speak of; `inspect` shows it.
_ASIDE = frozenset({"security label", "log", "image"})
_NAMESPACES = {
    "net": "network interfaces",
    "mnt": "file systems",
    "pid": "process numbers",
    "ipc": "shared memory",
    "uts": "host name",
    "cgroup": "control groups",
    "user": "user numbers",
    "time": "clock",
}
Sharing = Literal["its own", "shared", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One control of one server.

    Attributes:
        seen: What is in force, or what the engine wrote down where that cannot be seen.
        verdict: As in the receipt, such as "left open".
    """

    seen: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipts(Result):
    """The receipts of several servers, side by side.

    Attributes:
        titles: Server → its isolation, as `ps` names it.
        cells: Server → control → what is in force.
    """

    titles: Mapping[str, str]
    cells: Mapping[str, Mapping[str, Cell]]

    def _controls(self) -> list[str]:
        """All controls, in the order of the longest receipt."""
        by_length = sorted(self.cells.values(), key=len, reverse=True)
        return list(dict.fromkeys(control for cells in by_length for control in cells))

    def __str__(self) -> str:
        """Controls down, servers across."""
        rows = [
            [control, *(self._text(server, control) for server in self.cells)] for control in self._controls()
        ]
        return render.text_table(("in force", *self.cells), rows)

    def _text(self, server: str, control: str) -> str:
        cell = self.cells[server].get(control)
        return cell.seen if cell else render.UNKNOWN

    def to_html(self) -> str:
        """The same as a card."""
        rows = [
            [
                f'<span style="white-space:nowrap">{escape(control)}</span>',
                *(self._html(server, control) for server in self.cells),
            ]
            for control in self._controls()
        ]
        sides = [f"{name}: {title}" for name, title in self.titles.items()]
        body = render.html_small(" · ".join(sides)) + render.html_grid(("in force", *self.cells), rows)
        return render.html_card("Receipts", body + render.html_meanings(_LEGEND), wide=True)

    def _html(self, server: str, control: str) -> str:
        cell = self.cells[server].get(control)
        if cell is None or cell.seen == render.UNKNOWN:
            return render.html_muted(render.UNKNOWN)
        mark = render.html_finding("", _LOOKS.get(cell.verdict, "plain"))
        return f'<span style="overflow-wrap:anywhere" title="{escape(cell.verdict)}">{mark}{escape(cell.seen)}</span>'


def receipts(*names: str) -> Receipts:
    """What is in force on each of several servers.

    Args:
        names: Their names, in the order of the columns.

    Raises:
        UsageError: No names, or no such server, or one that is not ready.
    """
    if not names:
        raise UsageError("no server is named", hint='receipts("plain", "boxed")')
    seen = [judges.inspected(name) for name in names]
    return Receipts(
        titles={one.status.name: one.status.isolation for one in seen},
        cells={one.status.name: _cells(one) for one in seen},
    )


def _cells(inspection: Inspection) -> dict[str, Cell]:
    return {
        one.name: Cell(seen=one.in_force or one.recorded or render.UNKNOWN, verdict=one.verdict)
        for one in inspection.isolation
        if one.name not in _ASIDE
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(Result):
    """What one check of an audit attempted, on the server's twin and in the control.

    Attributes:
        check: Its id, such as "F1".
        title: What must not work.
        server: The server.
        verdict: What came of it.
        observed: What was observed in all.
        attempts: What was attempted, what was seen on the twin, and in the control.
    """

    check: str
    title: str
    server: str
    verdict: str
    observed: str
    attempts: tuple[tuple[str, str, str], ...]

    def _head(self) -> str:
        return f"{self.check} {self.title}, {self.server}: {self.verdict}"

    def __str__(self) -> str:
        """A table."""
        rows = [list(attempt) for attempt in self.attempts]
        if not rows:
            return f"{self._head()}\n{render.plain(self.observed)}"
        return f"{self._head()}\n{render.text_table(_EVIDENCE, rows)}"

    def to_html(self) -> str:
        """The same as a card."""
        rows = [[escape(text) for text in attempt] for attempt in self.attempts]
        body = render.html_grid(_EVIDENCE, rows) if rows else render.html_text(self.observed)
        return render.html_card(self._head(), body)


_EVIDENCE = ("attempted", "on the server's twin", "in the control")


def evidence(audit: Any, server: str, check: str) -> Evidence:
    """What an audit saw of one check.

    Args:
        audit: An audit, several side by side, or a recording of either.
        server: Whose.
        check: The check's id, such as "F1".

    Raises:
        UsageError: It is no audit, or the server or check is not in it.
    """
    found = finding(audit, server, check)
    return Evidence(
        check=found["id"],
        title=found["title"],
        server=server,
        verdict=found["verdict"],
        observed=found["observed"],
        attempts=tuple(
            (each["text"], each["observed"], each["control_observed"]) for each in found["attempts"]
        ),
    )


def finding(audit: Any, server: str, check: str) -> Mapping[str, Any]:
    """The finding of an audit on one check of one server, as plain data.

    Raises:
        UsageError: It is no audit, or the server or check is not in it.
    """
    one = next((each for each in audits(audit) if each["server"] == server), None)
    if one is None:
        raise UsageError(
            f"the audit has no server {server!r}", hint="give the audit with the servers side by side"
        )
    for found in one["findings"]:
        if found["id"] == check.upper():
            return dict(found)
    raise UsageError(
        f"the audit has no check {check!r}", hint="its ids are such as F1: run it without --checks"
    )


def audits(value: Any) -> Sequence[Mapping[str, Any]]:
    """The audits in a result, or in a recording of one, as plain data.

    Raises:
        UsageError: It is none.
    """
    data = facts_of(value)
    found = data.get("audits", [data] if "findings" in data else None)
    if found is None:
        raise UsageError(
            f"{type(value).__name__} is no audit", hint="give what the cell with the audit has kept"
        )
    return list(found)


def facts_of(value: Any) -> Mapping[str, Any]:
    """The data of a result, or of a recording of one.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(value, Recording):
        return value.data
    if isinstance(value, Result):
        return value.to_dict()
    raise UsageError(f"{value!r} is no result", hint="give what the cell above has kept, without quotes")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptApart(Result):
    """What a server has for itself, and what it shares with this notebook.

    Attributes:
        server: The server.
        kernel: Whose kernel it runs on, and its release.
        parts: Kind of namespace → whether the server has one of its own.
    """

    server: str
    kernel: str
    parts: Mapping[str, Sharing]

    def _rows(self) -> list[tuple[str, str, render.Finding]]:
        looks: dict[str, render.Finding] = {"its own": "good", "shared": "open"}
        rows: list[tuple[str, str, render.Finding]] = [("kernel", self.kernel, "open")]
        return rows + [(_NAMESPACES[kind], how, looks.get(how, "plain")) for kind, how in self.parts.items()]

    def __str__(self) -> str:
        """A line for each part."""
        return render.text_table(
            ("part", f"of {self.server}"), [[part, how] for part, how, _ in self._rows()]
        )

    def to_html(self) -> str:
        """The same as a card."""
        table = render.html_findings(
            ("part", f"of {self.server}"), [([part, how], look) for part, how, look in self._rows()]
        )
        return render.html_card(f"What {self.server} has for itself", table)


def kept_apart(name: str) -> KeptApart:
    """What a running server has for itself, by the kernel's own numbers.

    Two processes that share a namespace show the same number for it in
    `/proc/PID/ns`; what cannot be read from here is unknown.

    Args:
        name: The server.

    Raises:
        UsageError: There is no such server, or it is not ready.
    """
    inspection = lab.inspect(judges.server(name).name)
    process = inspection.facts.get("pid", "")
    return KeptApart(
        server=inspection.status.name,
        kernel=_kernel(inspection),
        parts={kind: _sharing(process, kind) for kind in _NAMESPACES},
    )


def _sharing(process: str, kind: str) -> Sharing:
    if not process.isdigit():
        return "unknown"
    try:
        same = Path(f"/proc/{process}/ns/{kind}").readlink() == Path(f"/proc/self/ns/{kind}").readlink()
    except OSError:
        return "unknown"
    return "shared" if same else "its own"


def _kernel(inspection: Inspection) -> str:
    release = platform.release()
    if inspection.status.backend != "container":
        return f"shared: {platform.system()} {_version(release)}"
    try:
        there = str(docker_api.connect().info.get("KernelVersion") or "")
    except BackendError:
        there = ""
    if not there:
        return "unknown"
    if there == release:
        return f"shared: {platform.system()} {_version(release)}"
    return f"shared with all containers: {_version(there)}; here runs {_version(release)}"


def _version(release: str) -> str:
    """A kernel's version without what a distribution adds to it."""
    return release.split("-", maxsplit=1)[0]
