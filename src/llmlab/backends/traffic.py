"""The traffic witness: what a server has sent and received, as the kernel has counted."""

from __future__ import annotations

from dataclasses import asdict

from llmlab.isolation import ProcessFacts
from llmlab.results_isolation import InterfaceTraffic, Traffic


def of_container(facts: ProcessFacts, *, running: bool) -> Traffic:
    """What went through the interfaces of a container's own network.

    Args:
        facts: What the kernel says of its process.
        running: Whether it runs.
    """
    if not running:
        return Traffic(unknown="it does not run, and its counters ended with it")
    if facts.interfaces is None:
        return Traffic(unknown="its process cannot be seen from here")
    if (facts.own_namespaces or {}).get("net") is False:
        return Traffic(unknown="it has this machine's network, whose counters are everybody's")
    counted = []
    for interface in facts.interfaces:
        values = asdict(interface)
        counted.append(InterfaceTraffic(interface=values.pop("name"), **values))
    return Traffic(interfaces=tuple(counted))


def of_process() -> Traffic:
    """A native server has no network of its own."""
    return Traffic(unknown="it uses this machine's network, whose counters are everybody's")
