"""What `nodes` returns, as text and HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmlab import render
from llmlab.render import frames
from llmlab.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus(Result):
    """A container engine and the machine that it runs on. Unknown is None.

    Attributes:
        name: The name of its Docker context, or its address.
        address: Where it listens, as in `DOCKER_HOST`.
        current: Whether a container is started there if nothing else is said.
        state: "ready", or "lost" if it does not answer.
        detail: Why it does not, and what to do.
        engine: Docker or Podman, and its version.
        system: Its operating system.
        architecture: As the engine says it: x86_64, aarch64.
        cpus: Its CPUs.
        memory_mib: Its memory.
        free_mib: What of that a server may take: on this machine what is free; on another
            what servers of llmlab's there are not allowed to take.
        gpus: The GPUs that containers can be given.
        image: Whether it has the image that is made from this machine's llama.cpp.
        models: The models that were sent to it; None where it reads this machine's files.
        servers: The names of llmlab's servers there, whoever's they are.
    """

    name: str
    address: str
    current: bool
    state: Literal["ready", "lost"]
    detail: str = ""
    engine: str = ""
    system: str = ""
    architecture: str = ""
    cpus: int | None = None
    memory_mib: int | None = None
    free_mib: int | None = None
    gpus: tuple[str, ...] | None = None
    image: bool | None = None
    models: tuple[str, ...] | None = None
    servers: tuple[str, ...] = ()

    def row(self) -> list[str]:
        """The cells of `NodeList.HEADER`."""
        lost = self.state == "lost"
        return [
            f"{self.name} *" if self.current else self.name,
            self.state,
            self.engine or render.UNKNOWN,
            render.UNKNOWN if self.cpus is None else str(self.cpus),
            render.mib_text(self.memory_mib),
            render.mib_text(self.free_mib),
            render.UNKNOWN if self.gpus is None else ", ".join(self.gpus) or "none",
            render.UNKNOWN if self.image is None else "there" if self.image else "not yet",
            render.UNKNOWN
            if lost
            else "this machine's files"
            if self.models is None
            else ", ".join(self.models) or "none",
            render.UNKNOWN if lost else ", ".join(self.servers) or "none",
            self.address,
        ]

    def __str__(self) -> str:
        """The row under its header."""
        return str(NodeList((self,)))


@dataclass(frozen=True, slots=True)
class NodeList(Result, Sequence[NodeStatus]):
    """The container engines that Docker knows here; a sequence of `NodeStatus`."""

    HEADER = (
        *("node", "state", "engine", "CPUs", "memory", "for servers"),
        *("GPUs", "image", "models", "servers", "address"),
    )

    nodes: tuple[NodeStatus, ...]

    def __getitem__(self, index: Any) -> Any:
        """The node at an index, or a tuple of them for a slice."""
        return self.nodes[index]

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.nodes)

    def __iter__(self) -> Iterator[NodeStatus]:
        """The nodes, as Docker lists them."""
        return iter(self.nodes)

    @property
    def exit_status(self) -> int:
        """1 if one does not answer."""
        return int(any(node.state == "lost" for node in self.nodes))

    def __str__(self) -> str:
        """A table, and below it why a node is lost."""
        return "\n".join([render.text_table(self.HEADER, self._rows()), *self._remarks()])

    def to_html(self) -> str:
        """The same table."""
        return render.html_table(self.HEADER, self._rows()) + "".join(map(render.html_small, self._remarks()))

    def to_frame(self) -> Any:
        """A pandas data frame: a row a node, a column for each attribute.

        Raises:
            UsageError: If pandas is not installed.
        """
        return frames.frame_of(self.nodes, NodeStatus)

    def _rows(self) -> list[list[str]]:
        return [node.row() for node in self.nodes]

    def _remarks(self) -> list[str]:
        said = [f"{node.name}: {node.detail}" for node in self.nodes if node.detail]
        if any(node.current for node in self.nodes):
            said.append("* where a container is started if nothing else is said; elsewhere: start --on NODE")
        return [render.plain(" ".join(remark.split())) for remark in said]
