"""What `inspect` returns: a server, and its isolation asked for against in force."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from llmlab import render
from llmlab.results import Result, ServerStatus

Verdict = Literal["as asked", "as recorded", "not asked", "left open", "DIFFERS", "unknown"]

_MEANINGS: dict[Verdict, str] = {
    "as asked": "seen in force",
    "as recorded": "the container engine says so; it cannot be seen on the process",
    "not asked": "nothing was asked for; something holds it back all the same",
    "left open": "nothing was asked for, and nothing holds it back",
    "DIFFERS": "not what was asked for",
    "unknown": "it cannot be seen from here",
}
_LOOKS: dict[Verdict, render.Finding] = {
    "as asked": "good",
    "as recorded": "plain",
    "not asked": "plain",
    "left open": "open",
    "DIFFERS": "bad",
    "unknown": "plain",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Control(Result):
    """One line of the isolation receipt.

    Attributes:
        name: What is controlled, such as "network".
        asked: What the profile asks for.
        recorded: What the container engine wrote down; None if it says nothing.
        in_force: What is seen on the running process; None if it cannot be seen.
        agrees: False if something differs from what was asked for, None if
            nothing could be compared.
        left_open: Whether what was asked for holds nothing back.
    """

    name: str
    asked: str
    recorded: str | None
    in_force: str | None
    agrees: bool | None
    left_open: bool = False

    @property
    def verdict(self) -> Verdict:
        """The line's outcome in two words."""
        if self.agrees is False:
            return "DIFFERS"
        if self.left_open:
            return "left open"
        if self.agrees is None:
            return "unknown" if self.in_force is None else "not asked"
        return "as recorded" if self.in_force is None else "as asked"

    def to_dict(self) -> dict[str, Any]:
        """The line with its verdict."""
        return {**super(Control, self).to_dict(), "verdict": self.verdict}

    def row(self) -> list[str]:
        """The cells of `Inspection.HEADER`."""
        return [
            self.name,
            self.asked,
            self.recorded or render.UNKNOWN,
            self.in_force or render.UNKNOWN,
            self.verdict,
        ]

    def __str__(self) -> str:
        """The row under its header."""
        return render.text_table(Inspection.HEADER, [self.row()])


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceTraffic:
    """What one network interface of a server has counted since it started.

    Attributes:
        interface: Such as "eth0".
        received_bytes: Bytes that came in.
        received_packets: Packets that came in.
        sent_bytes: Bytes that went out.
        sent_packets: Packets that went out.
    """

    interface: str
    received_bytes: int
    received_packets: int
    sent_bytes: int
    sent_packets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic(Result):
    """What a server sent and received since it started, as the kernel has counted.

    Attributes:
        interfaces: The interfaces of its own network, loopback included; none
            if they cannot be seen.
        unknown: Why nothing can be said; empty if something can.
    """

    interfaces: tuple[InterfaceTraffic, ...] = ()
    unknown: str = ""

    @property
    def outward(self) -> tuple[InterfaceTraffic, ...]:
        """The interfaces that lead out: all but loopback."""
        return tuple(one for one in self.interfaces if one.interface != "lo")

    @property
    def sent_bytes(self) -> int | None:
        """Bytes that left it."""
        return None if self.unknown else sum(one.sent_bytes for one in self.outward)

    @property
    def received_bytes(self) -> int | None:
        """Bytes that came in."""
        return None if self.unknown else sum(one.received_bytes for one in self.outward)

    def to_dict(self) -> dict[str, Any]:
        """The counters and their sums."""
        sums = {"sent_bytes": self.sent_bytes, "received_bytes": self.received_bytes}
        return {**super(Traffic, self).to_dict(), **sums}

    def __str__(self) -> str:
        """One sentence."""
        if self.unknown:
            return f"unknown: {self.unknown}"
        said = f"sent {render.bytes_text(self.sent_bytes)}, received {render.bytes_text(self.received_bytes)}"
        if not self.outward:
            return f"{said}: it has no interface but loopback"
        through = "; ".join(
            f"{one.interface} {one.sent_packets} packets out, {one.received_packets} in"
            for one in self.outward
        )
        return f"{said} ({through})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a backend says of a server's isolation.

    Attributes:
        controls: Asked for, recorded and in force, control by control.
        facts: What else was seen, label → value.
        traffic: What it has sent and received.
    """

    controls: tuple[Control, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    traffic: Traffic | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection(Result):
    """Everything known about one server.

    Attributes:
        status: Its row of `ps`.
        record: What was written down when it started.
        command: The engine's command line.
        isolation: Asked for, recorded and in force, control by control.
        facts: What else was seen, label → value.
        traffic: What it has sent and received since it started.
    """

    HEADER = ("control", "asked for", "recorded", "in force", "verdict")

    status: ServerStatus
    record: dict[str, Any]
    command: tuple[str, ...]
    isolation: tuple[Control, ...]
    facts: dict[str, str] = field(default_factory=dict)
    traffic: Traffic | None = None

    @property
    def differences(self) -> tuple[Control, ...]:
        """The controls that are not what was asked for."""
        return tuple(control for control in self.isolation if control.agrees is False)

    @property
    def exit_status(self) -> int:
        """1 if something is not what was asked for."""
        return 1 if self.differences else 0

    def to_dict(self) -> dict[str, Any]:
        """All of it, each control with its verdict."""
        plain = super(Inspection, self).to_dict()
        plain["isolation"] = [control.to_dict() for control in self.isolation]
        plain["traffic"] = self.traffic.to_dict() if self.traffic else None
        return plain

    def summary(self) -> str:
        """The receipt in one sentence."""
        counted: dict[Verdict, list[str]] = {}
        for control in self.isolation:
            counted.setdefault(control.verdict, []).append(control.name)
        parts = [f"{len(self.isolation)} controls"]
        for verdict in _MEANINGS:
            names = counted.get(verdict, [])
            if names and verdict in {"DIFFERS", "left open"}:
                parts.append(f"{len(names)} {verdict}: {', '.join(names)}")
            elif names:
                parts.append(f"{len(names)} {verdict}")
        return "; ".join(parts)

    def _pairs(self) -> list[tuple[str, str]]:
        status = self.status
        return [
            ("state", f"{status.state} ({status.detail})" if status.detail else status.state),
            *([("what to do", status.remedy)] if status.remedy else []),
            ("model", f"{status.model} ({self.record['spec']['model']['path']})"),
            ("model sha256", self.record["spec"]["model"]["sha256"]),
            ("engine", status.engine),
            ("backend", f"{status.backend}, isolation: {status.isolation}"),
            ("endpoint", status.endpoint),
            ("context", f"{status.context} tokens × {status.slots} slots"),
            ("up", render.duration_text(int(status.uptime_s))),
            *([("traffic", str(self.traffic))] if self.traffic else []),
            *self.facts.items(),
        ]

    def __str__(self) -> str:
        """All of it as text."""
        pairs = self._pairs()
        width = max(len(key) for key, _ in pairs)
        lines = [f"server {self.status.name}", *(f"  {k.ljust(width)}  {v}" for k, v in pairs)]
        if self.command:
            lines += ["", "command", "  " + " ".join(self.command)]
        if self.isolation:
            rows = [control.row() for control in self.isolation]
            lines += ["", f"isolation: {self.summary()}", "", render.text_table(self.HEADER, rows)]
        return "\n".join(lines)

    def to_html(self) -> str:
        """All of it as a card."""
        parts = [render.html_pairs(self._pairs())]
        if self.command:
            parts.append(render.html_code([" ".join(self.command)]))
        if self.isolation:
            shown: set[Verdict] = {control.verdict for control in self.isolation}
            legend = [(word, _LOOKS[word], meaning) for word, meaning in _MEANINGS.items() if word in shown]
            body = render.html_small(self.summary()) + render.html_findings(
                self.HEADER,
                [(control.row(), _LOOKS[control.verdict]) for control in self.isolation],
            )
            parts.append(render.html_section("Isolation", body + render.html_meanings(legend)))
        return render.html_card(
            f"server {self.status.name}",
            "".join(parts),
            side=render.html_state(self.status.state),
            wide=bool(self.isolation),
        )
