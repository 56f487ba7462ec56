"""What a line of the receipt is made from, and how one is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmlab.isolation import podman
from llmlab.isolation.facts import ProcessFacts
from llmlab.isolation.profile import SCRATCH
from llmlab.profiles import SEALED, Mount, Profile
from llmlab.results_isolation import Control
from llmlab.specs import Limits, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a line of the receipt is made from.

    Attributes:
        record: What was asked for.
        entry: `docker inspect` of the container.
        facts: What the kernel says about the server's process.
        machine_bytes: Memory of the machine it runs on; None if that is not known.
        endpoint: What is seen of the endpoint, or None.
        endpoint_agrees: Whether that is what was asked for.
        models: The model's files where an engine has them in another place than by their names.
        mounts: What the transport mounts; a source that is not known is "".
        tmpfs: Where it has a file system in memory.
        volumes: Where its image declares volumes that are to be closed.
        podman: Whether the engine is Podman, which is told the same in its own words.
        log: How its log is written, and the bound in bytes, as seen; None if it is not.
    """

    record: Record
    entry: dict[str, Any]
    facts: ProcessFacts
    machine_bytes: int | None = None
    endpoint: str | None = None
    endpoint_agrees: bool | None = None
    models: tuple[Mount, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    podman: bool = False
    log: tuple[str, int | None] | None = None

    @property
    def profile(self) -> Profile:
        """The isolation asked for."""
        return self.record.profile or SEALED

    @property
    def network(self) -> str:
        """The network asked for; a gateway to replicas stands in theirs."""
        return self.record.overlay if self.record.overlay and self.record.replicas else self.profile.network

    @property
    def limits(self) -> Limits:
        """The limits asked for."""
        return self.record.limits or Limits(memory_mib=None, cpus=None, pids=None)

    @property
    def host(self) -> dict[str, Any]:
        """The part of the engine's record that isolates."""
        found: dict[str, Any] = self.entry.get("HostConfig") or {}
        return found

    @property
    def closed(self) -> tuple[str, ...]:
        """What the engine would open under a read-only root, and is told to leave closed."""
        opened = podman.OPENED if self.podman and self.profile.read_only else ()
        scratch = () if self.profile.scratch_mib is None else (SCRATCH,)
        return tuple(target for target in (*opened, *self.volumes) if target not in scratch)

    @property
    def security(self) -> dict[str, str]:
        """The recorded security options, name → value."""
        pairs = (str(o).replace("=", ":", 1).partition(":") for o in self.host.get("SecurityOpt") or ())
        return {name: value for name, _, value in pairs}


def control(
    name: str,
    asked: str,
    recorded: str | None,
    in_force: str | None,
    *verdicts: bool | None,
    left_open: bool = False,
) -> Control:
    """A line; it agrees if every comparison that could be made does."""
    judged = [verdict for verdict in verdicts if verdict is not None]
    return Control(
        name=name,
        asked=asked,
        recorded=recorded,
        in_force=in_force,
        agrees=all(judged) if judged else None,
        left_open=left_open,
    )
