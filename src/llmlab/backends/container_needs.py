"""What an engine needs of the isolation, and what a container engine does not give of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmlab import engines
from llmlab.backends.docker_api import DockerApi
from llmlab.profiles import PROFILES, Profile
from llmlab.specs import Limits


def profile(asked: Profile, engine: engines.Engine, *, tcp: bool) -> Profile:
    """The isolation asked for, as far as the engine can do with it; what it cannot is in the receipt.

    Args:
        asked: The isolation asked for.
        engine: The program that serves.
        tcp: Whether it listens on TCP in its container.
    """
    needs = engines.image_of(engine)
    changes: dict[str, Any] = {}
    if asked.seccomp == "unix" and (tcp or (needs and needs.loopback)):
        # A filter that lets it open unix sockets only would leave it without any.
        changes["seccomp"] = "loopback" if asked.network == "none" else "default"
    if needs:
        for name in ("pids", "open_files", "scratch_mib"):
            has, least = getattr(asked, name), getattr(needs, name)
            # What was asked for by number is left as it is.
            if has is not None and has == getattr(PROFILES[asked.name], name) and has < least:
                changes[name] = least
        if needs.scratch_exec and asked.scratch_mib is not None:
            changes["scratch_exec"] = True
    return replace(asked, **changes)


def limits(asked: Limits, wished: Profile, made: Profile) -> Limits:
    """The limits of a container, with the number of processes that its engine needs.

    Args:
        asked: What was planned.
        wished: The isolation that it was planned for.
        made: The same as `profile` gives it.
    """
    return replace(asked, pids=made.pids) if made.pids != wished.pids else asked


def unlimited(api: DockerApi, limits: Limits | None) -> tuple[str, ...]:
    """What is asked to be limited and will not be: engines take such a request without a word.

    Args:
        api: The container engine.
        limits: What is asked for.
    """
    if limits is None:
        return ()
    wanted = {
        "memory": ("MemoryLimit", limits.memory_mib),
        "CPU time": ("CpuCfsQuota", limits.cpus),
        "processes": ("PidsLimit", limits.pids),
    }
    # Control groups v1 are root's alone; the engine names what the kernel could do, not what it may.
    nothing = api.is_rootless() and str(api.info.get("CgroupVersion")) == "1"
    lost = [
        what
        for what, (field, most) in wanted.items()
        if most is not None and (nothing or api.info.get(field) is False)
    ]
    why = "it is rootless, on control groups v1" if nothing else "it says so itself"
    return (f"this container engine does not limit {', '.join(lost)}: {why}",) if lost else ()
