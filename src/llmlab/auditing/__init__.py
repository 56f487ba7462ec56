"""The audit: each violation attempted, in a throwaway twin of a server.

A claim of isolation is only worth what an attempt to break it shows. Every
check is attempted twice: in a twin of the server's container, with the very
settings that the container engine has recorded of it, and in a weak control
container in which the attempt must succeed; otherwise it proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

from llmlab.arguments import Arg
from llmlab.auditing import running
from llmlab.auditing.checks import BY_ID, CHECKS
from llmlab.auditing.results import Attempt, Audit, AuditComparison, Finding
from llmlab.auditing.trials import Subject
from llmlab.backends import docker_api
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import ServerStoppedError, UnknownNameError, UsageError
from llmlab.lab import registry
from llmlab.specs import Record

__all__ = ["Attempt", "Audit", "AuditComparison", "Finding", "audit"]


def audit(
    name: Annotated[str | None, Arg(completes="server")] = None,
    *,
    against: Annotated[str | None, Arg(completes="server")] = None,
    checks: Annotated[str | None, Arg(metavar="N1,F2")] = None,
) -> Audit | AuditComparison:
    """Attempt to break out of a server's container, and show what happened.

    Each attempt is made in a throwaway twin with the server's own settings,
    and once more in a container without any, in which it must succeed: if it
    does not, the check is inconclusive. The server itself goes on, and nothing
    outside of this machine is contacted. The command ends with 0 if all that
    applies passed, with 1 if a check failed, and with 3 if none failed and one
    is inconclusive.

    Args:
        name: The server. Unset: the newest.
        against: Other servers to lay beside it, separated by commas.
        checks: Ids or first letters of checks, such as N,F2. Unset: all.

    Raises:
        UsageError: No such server or check, or it does not run in a container.
        ServerStoppedError: It is not running.
        BackendError: The container engine does not do it.
    """
    wanted = _wanted(checks)
    records = [registry.select(name)]
    for other in against.split(",") if against else ():
        record = registry.select(other.strip())
        if record not in records:
            records.append(record)
    for record in records:
        _require_container(record)
    by_name: dict[str, Audit] = {}
    with running.reported(f"audit {', '.join(record.name for record in records)}"):
        # Each on the engine that has it: what one refuses, another may let pass.
        for address in dict.fromkeys(record.container_engine for record in records):
            there = [record for record in records if record.container_engine == address]
            by_name |= _audited(docker_api.connect(address), there, wanted, asked=checks is not None)
    audits = tuple(by_name[record.name] for record in records)
    return AuditComparison(audits) if against else audits[0]


def _audited(
    api: DockerApi, records: Sequence[Record], wanted: frozenset[str], *, asked: bool
) -> dict[str, Audit]:
    """The audits of an engine's servers, by their names."""
    began = time.monotonic()
    subjects = [_subject(api, record) for record in records]
    found, stages = running.observe(api, subjects, wanted, asked=asked)
    seconds = time.monotonic() - began
    engine = f"{_engine(api)} {api.info.get('ServerVersion', '')}".strip()
    return {
        record.name: Audit(
            server=record.name,
            isolation=record.profile.label if record.profile else "unknown",
            engine=engine if record.node is None else f"{engine} on {record.node}",
            findings=findings,
            seconds=seconds,
            stages=stages,
        )
        for record, findings in zip(records, found, strict=True)
    }


def _wanted(checks: str | None) -> frozenset[str]:
    """Ids of checks: all, or those that are named by id or by first letter."""
    if checks is None:
        return frozenset(BY_ID)
    found: set[str] = set()
    for word in checks.upper().replace(" ", "").split(","):
        matching = {check.id for check in CHECKS if word in {check.id, check.id[0]}}
        if not matching:
            raise UnknownNameError("check", word, BY_ID)
        found |= matching
    return frozenset(found)


def _require_container(record: Record) -> None:
    registry.require_here(record, "the audit")
    if record.backend != "container":
        raise UsageError(
            f"server {record.name!r} runs natively: there is no isolation to audit",
            hint=f"start it in a container: start {record.spec.model.reference} --container",
        )


def _subject(api: DockerApi, record: Record) -> Subject:
    entry = api.container(record.container_id or "")
    if entry is None or not (entry.get("State") or {}).get("Running"):
        raise ServerStoppedError(
            f"server {record.name!r} is not running, so it cannot be audited",
            hint=f"start it again: start {record.spec.model.reference} --name {record.name}",
        )
    return Subject(name=record.name, entry=entry, record=record)


def _engine(api: DockerApi) -> str:
    name = "Podman" if api.is_podman else "Docker Engine"
    return f"rootless {name}" if api.is_rootless() else name
