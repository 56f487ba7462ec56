"""A whole audit of one sealed server, against one `docker run` of a program that does next to nothing."""

from __future__ import annotations

import statistics
import subprocess
import time
from typing import Any

import llmlab
from bench import common
from llmlab.backends import docker_api, tool_image

_PAIRS = 9


def run() -> dict[str, Any]:
    """Measure in turns; the first pair is discarded."""
    _, image = tool_image.make(docker_api.connect(), "probe")
    audits: list[llmlab.Audit] = []
    by_hand: list[float] = []
    with llmlab.start("tiny", backend="container", name="bench") as server:
        for _ in range(_PAIRS + 1):
            found = llmlab.audit(server.name)
            assert isinstance(found, llmlab.Audit)
            audits.append(found)
            by_hand.append(_docker_run_s(image))
    audits, by_hand = audits[1:], by_hand[1:]
    whole = common.spread([audit.seconds for audit in audits], 2)
    ratio = common.spread([a.seconds / hand for a, hand in zip(audits, by_hand, strict=True)], 2)
    common.show("a whole audit", whole, "s", "≤ 5 on a machine like this one")
    common.show("… against one docker run --rm of an empty program", ratio, "×", "–")
    last = audits[-1]
    stages = {name: round(statistics.median(a.stages[name] for a in audits), 2) for name in last.stages}
    print("  " + ", ".join(f"{name} {seconds:g} s" for name, seconds in stages.items()))
    checks = {
        finding.id: round(statistics.median(known), 1)
        for finding in last.findings
        if (known := [ms for audit in audits if (ms := audit[finding.id].ms) is not None])
    }
    dearest = sorted(checks, key=lambda check: -checks[check])
    print("  per check: " + ", ".join(f"{check} {checks[check]:g} ms" for check in dearest))
    return {
        "audit_s": {**whole, "budget": "<= 5 s on a quiet machine with 2 cores"},
        "against_docker_run": {
            **ratio,
            "definition": "audit over `docker run --rm --network none`, in turns",
        },
        "docker_run_s": common.spread(by_hand, 3),
        "stages_s": stages,
        "checks_ms": checks,
        "verdicts": last.counts,
        "engine": last.engine,
    }


def _docker_run_s(image: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "--entrypoint", "/probe", image, "whoami"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began
