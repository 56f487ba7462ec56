"""Checks of what is in force on a running server, which several lessons share.

Each reads the server's receipt, as `inspect` does: what was asked for, what the
container engine wrote down, and what is seen on the process. A line that only
the engine confirms counts as held, since on some machines nothing else can be
seen; one that differs from what was asked for does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmlab.results_isolation import Control, Inspection
from llmlab.workshop import judges
from llmlab.workshop.tasks import Verdict, failed, passed

_CPU_STEP = 0.001


def in_container(name: Any) -> Verdict:
    """Whether a server runs in a container.

    Args:
        name: The server's name, or its handle.

    Raises:
        UsageError: There is no such server, or it is not ready.
    """
    status = judges.server(name)
    if status.backend == "container":
        return passed(f"{status.name} runs in a container, isolation: {status.isolation}.")
    return failed(
        f"{status.name} runs natively: it may do what you may.",
        f"`%llm inspect {status.name}`: nothing was asked for in any line. What keeps a program in is a container; "
        "`%llm ps` tells which servers have one",
    )


def no_network(name: Any) -> Verdict:
    """Whether a server has no network: no interface but loopback.

    Args:
        name: The server's name, or its handle.

    Raises:
        UsageError: There is no such server, or it is not ready.
    """
    return _held(
        judges.inspected(name),
        "network",
        "{name} has no network: {seen}.",
        "{name} has a network: {seen}. What it reads could be sent away.",
        "it comes from the option --network or from the profile; without either, a container has none",
    )


def read_only_root(name: Any) -> Verdict:
    """Whether a server cannot write to its root file system.

    Args:
        name: The server's name, or its handle.

    Raises:
        UsageError: There is no such server, or it is not ready.
    """
    return _held(
        judges.inspected(name),
        "root file system",
        "{name} cannot change its root file system: {seen}.",
        "The root file system of {name} is {seen}: the engine's own files could be replaced.",
        "it comes from the option --writable or from the profile",
    )


def no_capabilities(name: Any) -> Verdict:
    """Whether a server has none of root's powers, and can get none.

    Args:
        name: The server's name, or its handle.

    Raises:
        UsageError: There is no such server, or it is not ready.
    """
    return _held(
        judges.inspected(name),
        "capabilities",
        "{name} has no capability: {seen}.",
        "{name} has capabilities, or can get them: {seen}.",
        "they come from the profile: not every one drops them all",
    )


def memory_limited(name: Any) -> Verdict:
    """Whether a limit of memory is in force on a server.

    Args:
        name: The server's name, or its handle.

    Raises:
        UsageError: There is no such server, or it is not ready.
    """
    return _held(
        judges.inspected(name),
        "memory",
        "{name} may use {seen} of memory.",
        "Memory of {name}: {seen}. It could use up what this machine has.",
        "some profiles set no limit; the option --memory does",
    )


def limits(name: Any, *, memory_mib: int, cpus: float) -> Verdict:
    """Whether the limits of a server are those that were wanted, and are in force.

    Args:
        name: The server's name, or its handle.
        memory_mib: The limit of memory, in MiB.
        cpus: The limit of CPU time per second of wall time.

    Raises:
        UsageError: There is no such server, or it is not ready.
    """
    inspection = judges.inspected(name)
    if (inside := in_container(name)).outcome != "passed":
        return inside
    server = inspection.status.name
    asked = inspection.record["limits"] or {}
    if asked.get("memory_mib") != memory_mib:
        return failed(
            f"{server} was started with a memory limit of {_said(asked.get('memory_mib'), 'MiB')}, "
            f"not {memory_mib} MiB.",
            "`%llm start --help`: how the limit is written, and what a bare number means",
        )
    if asked.get("cpus") is None or abs(asked["cpus"] - cpus) > _CPU_STEP:
        return failed(
            f"{server} was started with a limit of {_said(asked.get('cpus'), 'CPUs')}, not {cpus:g} CPUs.",
            "threads say how many the engine uses, not how much CPU time it may have: "
            "`%llm start --help` has both",
        )
    for line in ("memory", "CPU"):
        if not held(judges.control(inspection, line)):
            return failed(
                f"{server} was started with the right limits, but {line} is not in force.",
                f"`%llm inspect {server}`, line {line}: an engine may take a limit and not enforce it, as rootless "
                "ones do on control groups v1. `%llm doctor` says so under 'limits'",
            )
    return passed(
        f"{server} may use {memory_mib} MiB and {cpus:g} CPUs, and both are in force. "
        f"That they hold is shown by: %llm audit {server} --checks R"
    )


def sealed(name: Any) -> Verdict:
    """Whether a server is in a container, without network, root or capabilities, and with a memory limit.

    Args:
        name: The server's name, or its handle.

    Raises:
        UsageError: There is no such server, or it is not ready.
    """
    looks: tuple[Callable[[Any], Verdict], ...] = (
        in_container,
        no_network,
        read_only_root,
        no_capabilities,
        memory_limited,
    )
    for look in looks:
        if (verdict := look(name)).outcome != "passed":
            return verdict
    server = judges.server(name).name
    return passed(
        f"{server} has no network, cannot write to its root file system, has no capability, and its memory is limited."
    )


def held(control: Control | None) -> bool:
    """Whether a line of the receipt holds something back: asked for, and not refuted by the process."""
    return control is not None and control.verdict in ("as asked", "as recorded")


def _held(inspection: Inspection, line: str, good: str, bad: str, where: str) -> Verdict:
    control = judges.control(inspection, line)
    name = inspection.status.name
    # What cannot be seen is not made up: then the engine's word stands there.
    seen = (control.in_force or control.recorded or "unknown") if control else "unknown"
    if held(control):
        return passed(good.format(name=name, seen=seen))
    if inspection.status.backend != "container":
        where = "nothing was asked for, since it runs natively: it may do what you may"
    elif control and control.verdict == "DIFFERS":
        where = f"asked for was {control.asked!r}: this container engine does not do it"
    return failed(bad.format(name=name, seen=seen), f"`%llm inspect {name}`, line '{line}': {where}")


def _said(value: float | None, unit: str) -> str:
    return "none" if value is None else f"{value:g} {unit}"
