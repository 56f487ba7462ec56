"""What a room is opened with."""

from __future__ import annotations

from dataclasses import dataclass

from llmlab.classrooms.quotas import Quota
from llmlab.specs import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A room as the teacher wants it.

    Attributes:
        host: The address that it listens at.
        port: The port; 0 for any that is free.
        servers: Names of the servers behind it; None for all of the teacher's.
        quota: What each learner may use.
        certificate: File with the TLS certificate, or None for plain HTTP.
        certificate_key: File with its key.
        fingerprint: SHA-256 of the certificate, where learners have to know it; "" otherwise.
        host_names: Further names under which the room is reached.
        approved: Models that it starts for learners.
        hub: The API of a JupyterHub whose users are the learners; None for keys.
        hub_groups: Groups of whose users the learners are; () for all.
        owner: The process with whose end it closes; None keeps it.
    """

    host: str
    port: int
    servers: tuple[str, ...] | None
    quota: Quota
    certificate: str | None = None
    certificate_key: str | None = None
    fingerprint: str = ""
    host_names: tuple[str, ...] = ()
    approved: tuple[str, ...] = ()
    hub: str | None = None
    hub_groups: tuple[str, ...] = ()
    owner: Process | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An open room, as its process writes it down.

    Attributes:
        url: Where learners reach it.
        process: Its process.
        since: When it was opened, seconds since the epoch.
    """

    url: str
    process: Process
    since: float
