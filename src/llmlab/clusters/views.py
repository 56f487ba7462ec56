"""What `cluster` returns, as text and HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from llmlab import render
from llmlab.render import frames
from llmlab.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNode(Result):
    """A node of a cluster. Unknown is None.

    Attributes:
        name: The name of its Docker context, or its host's name where none is known here.
        id: The swarm's id for it.
        role: "manager" or "worker".
        leader: Whether it leads the managers; None without a quorum.
        state: "ready" or "down", as the managers see it; without a quorum "answers" or
            "lost", as seen from here.
        availability: "active", or "drain" if it is to get nothing more; "pause" is the same
            to llmlab. None without a quorum.
        address: Where the other nodes reach it.
        engine: Its engine's version.
        cpus: Its CPUs.
        memory_mib: Its memory.
        resources: What it declares besides, such as {"NVIDIA-GPU": 1}; {} if nothing.
        servers: llmlab's servers on it, whoever's; None if its engine does not answer here.
    """

    name: str
    id: str
    role: Literal["manager", "worker"]
    state: str
    leader: bool | None = None
    availability: str | None = None
    address: str | None = None
    engine: str | None = None
    cpus: float | None = None
    memory_mib: int | None = None
    resources: dict[str, int] | None = None
    servers: tuple[str, ...] | None = None

    def row(self) -> list[str]:
        """The cells of `ClusterStatus.HEADER`."""
        declared = [f"{kind}: {number}" for kind, number in (self.resources or {}).items()]
        return [
            self.name,
            "manager, leads" if self.leader else self.role,
            self.state,
            self.availability or render.UNKNOWN,
            self.address or render.UNKNOWN,
            self.engine or render.UNKNOWN,
            render.UNKNOWN if self.cpus is None else f"{self.cpus:g}",
            render.mib_text(self.memory_mib),
            render.UNKNOWN if self.resources is None else ", ".join(declared) or "none declared",
            render.UNKNOWN if self.servers is None else ", ".join(self.servers) or "none",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus(Result):
    """A cluster, or that there is none.

    Attributes:
        id: The swarm's id; None if there is no cluster, or no quorum.
        nodes: Its nodes.
        managers: How many managers it has.
        answering: How many of them answer.
        quorum: Whether more than half of them do, and reach each other; None if there is no
            cluster, or none of its managers is known to Docker here.
        encrypted: Whether networks between its nodes are to be encrypted; None if unknown.
        networks: llmlab's networks between its nodes; None if unknown.
        strays: Nodes that were struck off its list and do not know it.
        done: What the verb has done, in sentences.
    """

    id: str | None
    nodes: tuple[ClusterNode, ...] = ()
    managers: int = 0
    answering: int = 0
    quorum: bool | None = None
    encrypted: bool | None = None
    networks: tuple[str, ...] | None = None
    strays: tuple[str, ...] = ()
    done: tuple[str, ...] = ()

    HEADER = (
        *("node", "role", "state", "availability", "address"),
        *("engine", "CPUs", "memory", "declared", "servers"),
    )

    @property
    def exit_status(self) -> int:
        """1 if a node is missing, or there is no quorum."""
        return int(self.quorum is False or any(node.state in {"down", "lost"} for node in self.nodes))

    def __str__(self) -> str:
        """What was done, a table, and what holds for the cluster."""
        lines = [*self.done]
        if self.nodes:
            lines.append(render.text_table(self.HEADER, self._rows()))
        return "\n".join([*lines, *self._remarks()])

    def to_html(self) -> str:
        """The same."""
        table = render.html_table(self.HEADER, self._rows()) if self.nodes else ""
        done = "".join(map(render.html_text, self.done))
        return done + table + "".join(map(render.html_small, self._remarks()))

    def to_frame(self) -> Any:
        """A pandas data frame: a row a node, a column for each attribute.

        Raises:
            UsageError: If pandas is not installed.
        """
        return frames.frame_of(self.nodes, ClusterNode)

    def _rows(self) -> list[list[str]]:
        return [[render.plain(cell) for cell in node.row()] for node in self.nodes]

    def _remarks(self) -> list[str]:
        if not self.nodes:
            return ["no node known here is in a cluster; make one: cluster init"]
        count = f"{self.answering} of {self.managers} managers answer"
        if self.quorum is None:
            return [f"none of its managers is known to Docker here; {count}"]
        needed = self.managers // 2 + 1
        said = [f"{'quorum' if self.quorum else 'no quorum'}: {count}, {needed} needed"]
        said += [
            f"{name} was struck off its list and does not know it: cluster leave {name}"
            for name in self.strays
        ]
        if self.networks is not None:
            listed = ", ".join(self.networks) or "none; a server with replicas has one"
            said.append(f"networks between its nodes: {listed}")
        if self.encrypted:
            said.append("they are encrypted; nothing gets through where a node's kernel has no IPsec (ESP)")
        if any(node.availability not in {"active", None} for node in self.nodes):
            said.append("drained: nothing more is started there; servers that are there go on")
        return [render.plain(each) for each in said]
