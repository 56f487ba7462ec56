"""Audit every profile on every container engine that answers; the table of docs/isolation.md.

    python tools/engine_checks.py                                  # the machine's own engine
    python tools/engine_checks.py unix:///run/other.sock …         # others, as in DOCKER_HOST

Each engine starts `tiny` in each profile, audits all of them in one run, and
stops them. What is printed is Markdown: checks down, engines across, and in
each cell a mark for each profile, "·" for one that did not start there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

PROFILES = ("sealed", "exposed", "video", "none")
MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "not applicable": "–"}


def llmlab(*words: str, environment: dict[str, str]) -> dict[str, Any]:
    """What a verb says as JSON."""
    command = [sys.executable, "-m", "llmlab", *words, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    if "error" in found:
        said = f"llmlab {' '.join(words)}: {found['error']['message']}"
        print(f"{environment.get('DOCKER_HOST', 'the engine')}: {said}", file=sys.stderr)
    return found


def audits(engine: str | None) -> list[dict[str, Any]]:
    """An audit of each profile that starts on an engine; whatever was started is stopped.

    Raises:
        SystemExit: If none can be audited.
    """
    with tempfile.TemporaryDirectory(prefix="llm-") as folder:
        environment = {**os.environ, "LLMLAB_RUNTIME_DIR": folder, "LLMLAB_STATE_DIR": f"{folder}-state"}
        if engine:
            environment["DOCKER_HOST"] = engine
        try:
            started = [
                profile
                for profile in PROFILES
                if "error"
                not in llmlab(
                    "start",
                    "tiny",
                    "--name",
                    profile,
                    "--profile",
                    profile,
                    "--timeout",
                    "30",
                    environment=environment,
                )
            ]
            words = ("audit", *started[:1], "--against", ",".join(started))
            compared = llmlab(*words, environment=environment) if started else {}
        finally:
            llmlab("stop", "--all", environment=environment)
    found: list[dict[str, Any]] = compared.get("audits", [])
    if not found:
        raise SystemExit(f"{engine or 'the engine'}: nothing was audited")
    return found


def table(engines: list[list[dict[str, Any]]]) -> str:
    """Checks down, engines across."""
    heads = [audits[0]["engine"] for audits in engines]
    lines = [f"| check | what must not work | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
    for number, finding in enumerate(engines[0][0]["findings"]):
        cells = []
        for audits in engines:
            found = {audit["server"]: MARKS[audit["findings"][number]["verdict"]] for audit in audits}
            cells.append(" ".join(found.get(profile, "·") for profile in PROFILES))
        lines.append(f"| {finding['id']} | {finding['title']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and below it why something is inconclusive or fails where it should not."""
    engines = [audits(engine) for engine in sys.argv[1:] or [None]]
    print(f"In each cell: {', '.join(PROFILES)}.\n\n{table(engines)}")
    for found in engines:
        for audit in found:
            for finding in audit["findings"]:
                sealed = audit["server"] in {"sealed", "exposed"} and finding["verdict"] == "fail"
                if sealed or finding["verdict"] == "inconclusive":
                    said = f"{audit['engine']}, {audit['server']}, {finding['id']} {finding['verdict']}"
                    print(f"- {said}: {finding['observed']}")


if __name__ == "__main__":
    main()
