"""What a notebook can do on this machine, said plainly."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from llmlab import backends, machine, render
from llmlab.errors import LabError
from llmlab.lab import surveying
from llmlab.results import Result

# Beside this one.
_OTHERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode(Result):
    """What there is here: decides which cells run live and which show a recording.

    Attributes:
        container: Whether a container engine answers.
        no_container: Why none does; "" if one does.
        gpus: Names of the NVIDIA GPUs; () if there is none.
        binder: Whether this is a session of Binder's.
        nodes: Names of the other machines whose container engines answer; None if nobody has looked.
    """

    container: bool
    no_container: str
    gpus: tuple[str, ...]
    binder: bool
    nodes: tuple[str, ...] | None = None

    @property
    def gpu(self) -> bool:
        """Whether there is a GPU."""
        return bool(self.gpus)

    @property
    def cluster(self) -> bool:
        """Whether there are three machines for containers: a cluster of fewer survives the loss of none."""
        return self.container and len(self.nodes or ()) >= _OTHERS

    @property
    def backend(self) -> Literal["container", "native"]:
        """Where `%llm start` puts a server here."""
        return "container" if self.container else "native"

    def facts(self) -> list[tuple[str, str]]:
        """Label and value of each thing that matters."""
        found = [
            ("models run", "in containers, or natively" if self.container else "natively, not in containers"),
            ("GPU", ", ".join(self.gpus) if self.gpus else "none; what a GPU shows is replayed"),
        ]
        if self.binder:
            found.append(("place", "Binder: two CPUs at most, 1 to 2 GB of memory, no containers"))
        if self.no_container:
            found.append(("no containers", self.no_container))
        if self.nodes is not None:
            found.append(("other machines", ", ".join(self.nodes) or "none; what they show is replayed"))
        return found

    def __str__(self) -> str:
        """The mode in a line for each fact."""
        return "\n".join(f"{label}: {render.plain(value)}" for label, value in self.facts())

    def to_html(self) -> str:
        """The same as a table."""
        return render.html_pairs(self.facts())


def here(*, nodes: bool = False) -> Mode:
    """Look at this machine; quick, and nothing is started.

    Args:
        nodes: Whether to ask other machines, too. One that does not answer takes some seconds.
    """
    problem = backends.backend("container").unavailable()
    return Mode(
        container=problem is None,
        no_container=f"{problem.message}" if problem else "",
        gpus=tuple(gpu.name for gpu in machine.gpus() or ()),
        binder="BINDER_SERVICE_HOST" in os.environ or "BINDER_LAUNCH_HOST" in os.environ,
        nodes=_others() if nodes else None,
    )


def _others() -> tuple[str, ...]:
    """Other machines' engines: those that models have to be sent to."""
    with suppress(LabError):
        return tuple(
            node.name for node in surveying.survey() if node.state == "ready" and node.models is not None
        )
    return ()
