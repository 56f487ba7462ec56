"""Asked for against what is in force: the container engine's record, and the process."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmlab.isolation.profile import seccomp_profile
from llmlab.profiles import Profile
from llmlab.results import Control
from llmlab.specs import Limits


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What the kernel says about a running process; None where it cannot be read.

    Attributes:
        uids: Real, effective, saved and file-system user id.
        capabilities: Effective capabilities, a bit mask.
        no_new_privileges: Whether the flag is set.
        seccomp: 0 off, 1 strict, 2 filter.
        interfaces: Network interfaces it sees.
        root_read_only: Whether its root is mounted read-only.
    """

    uids: tuple[int, ...] | None = None
    capabilities: int | None = None
    no_new_privileges: bool | None = None
    seccomp: int | None = None
    interfaces: tuple[str, ...] | None = None
    root_read_only: bool | None = None


def process_facts(pid: int | None) -> ProcessFacts:
    """Read `/proc/<pid>` of a process on this machine.

    Args:
        pid: Its process id, or None.
    """
    if not pid:
        return ProcessFacts()
    folder = Path(f"/proc/{pid}")
    status = dict(re.findall(r"^(\w+):\s*(.*)$", _read(folder / "status"), re.MULTILINE))
    if not status:
        return ProcessFacts()
    devices = re.findall(r"^\s*([^\s:]+):", _read(folder / "net" / "dev"), re.MULTILINE)
    # The fifth field of mountinfo is the mount point, the sixth its options.
    root = re.search(r"^\S+ \S+ \S+ \S+ / (\S+)", _read(folder / "mountinfo"), re.MULTILINE)
    return ProcessFacts(
        uids=tuple(int(uid) for uid in status["Uid"].split()) if "Uid" in status else None,
        capabilities=int(status["CapEff"], 16) if "CapEff" in status else None,
        no_new_privileges=status["NoNewPrivs"] == "1" if "NoNewPrivs" in status else None,
        seccomp=int(status["Seccomp"]) if "Seccomp" in status else None,
        interfaces=tuple(devices) or None,
        root_read_only="ro" in root[1].split(",") if root else None,
    )


def receipt(
    profile: Profile, limits: Limits, user: str, recorded: dict[str, Any], facts: ProcessFacts
) -> tuple[Control, ...]:
    """Lay side by side what was asked for, recorded and is in force.

    Args:
        profile: What was asked for.
        limits: The share of the machine that was asked for.
        user: `uid:gid` that was asked for.
        recorded: `docker inspect` of the container.
        facts: What the kernel says about the server's process.
    """
    host = recorded.get("HostConfig", {})
    security = host.get("SecurityOpt") or []
    ports = (recorded.get("NetworkSettings") or {}).get("Ports") or {}
    published = [f"{port} → {where}" for port, where in ports.items() if where]
    no_new_privileges = not {"no-new-privileges", "no-new-privileges:true"}.isdisjoint(security)
    filtered = _filter(security)
    added = host.get("CapAdd") or []
    memory = (limits.memory_mib or 0) * 1024 * 1024
    uid = user.split(":", maxsplit=1)[0]
    return (
        _control(
            "network",
            profile.network,
            host.get("NetworkMode"),
            None if facts.interfaces is None else "interfaces: " + ", ".join(facts.interfaces),
            host.get("NetworkMode") == profile.network,
            None
            if facts.interfaces is None or profile.network != "none"
            else set(facts.interfaces) <= {"lo"},
        ),
        _control("published ports", "none", ", ".join(published) or "none", None, not published),
        _control(
            "root file system",
            "read-only" if profile.read_only else "writable",
            "read-only" if host.get("ReadonlyRootfs") else "writable",
            _word(facts.root_read_only, "read-only", "writable"),
            host.get("ReadonlyRootfs") == profile.read_only,
            None if facts.root_read_only is None else facts.root_read_only == profile.read_only,
        ),
        _control(
            "capabilities",
            "none" if "ALL" in profile.drop_capabilities else "some",
            "all: privileged"
            if host.get("Privileged")
            else "dropped: "
            + (", ".join(host.get("CapDrop") or []) or "none")
            + (", added: " + ", ".join(added) if added else ""),
            None if facts.capabilities is None else f"{facts.capabilities:#x}",
            (host.get("CapDrop") or []) == list(profile.drop_capabilities)
            and not added
            and not host.get("Privileged"),
            None if facts.capabilities is None else facts.capabilities == 0,
        ),
        _control(
            "no new privileges",
            _word(profile.no_new_privileges, "yes", "no") or "",
            "yes" if no_new_privileges else "no",
            _word(facts.no_new_privileges, "yes", "no"),
            no_new_privileges == profile.no_new_privileges,
            None if facts.no_new_privileges is None else facts.no_new_privileges == profile.no_new_privileges,
        ),
        _control(
            "system calls",
            "filtered, unix sockets only" if profile.seccomp == "unix" else "as the engine likes",
            _FILTERS[filtered],
            None
            if facts.seccomp is None
            else {0: "not filtered", 2: "filtered"}.get(facts.seccomp, "strict"),
            filtered == "ours" if profile.seccomp == "unix" else None,
            None if facts.seccomp is None else facts.seccomp == 2 or profile.seccomp == "unconfined",  # noqa: PLR2004 - the kernel's number for "filter"
        ),
        _control(
            "user",
            user,
            (recorded.get("Config") or {}).get("User"),
            None if facts.uids is None else f"uid {facts.uids[1]} on the host",
            (recorded.get("Config") or {}).get("User") == user,
            # With a user namespace the host's uid is another one: not comparable.
            None if facts.uids is None or uid == "0" else str(facts.uids[1]) == uid,
        ),
        _control(
            "memory",
            f"{limits.memory_mib} MiB, no swap",
            f"{(host.get('Memory') or 0) // (1024 * 1024)} MiB",
            None,
            host.get("Memory") == memory and host.get("MemorySwap") == memory,
        ),
        _control(
            "CPU",
            f"{limits.cpus or 0:g}",
            f"{(host.get('NanoCpus') or 0) / 1e9:g}",
            None,
            host.get("NanoCpus") == round((limits.cpus or 0) * 1e9),
        ),
        _control(
            "processes",
            str(limits.pids),
            str(host.get("PidsLimit")),
            None,
            host.get("PidsLimit") == limits.pids,
        ),
    )


_FILTERS = {
    "ours": "the filter of llmlab",
    "other": "another filter",
    "off": "no filter",
    "default": "not recorded",
}


def _filter(security: list[str]) -> Literal["ours", "other", "off", "default"]:
    found = next((o.partition("=")[2] for o in security if o.startswith("seccomp=")), None)
    if found is None:
        return "default"
    if found == "unconfined":
        return "off"
    try:
        same = json.loads(found) == json.loads(seccomp_profile())
    except ValueError:
        same = False
    return "ours" if same else "other"


def _control(
    name: str, asked: str, recorded: str | None, in_force: str | None, *verdicts: bool | None
) -> Control:
    known = [verdict for verdict in verdicts if verdict is not None]
    return Control(
        name=name,
        asked=asked,
        recorded=recorded,
        in_force=in_force,
        agrees=all(known) if known else None,
    )


def _word(value: bool | None, yes: str, no: str) -> str | None:  # noqa: FBT001 - three-valued
    return None if value is None else yes if value else no


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
