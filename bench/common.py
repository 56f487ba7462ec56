"""What the benchmarks share: pairs and their spread, facts of the machine, output."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent.parent / "build" / "bench"


def machine() -> dict[str, Any]:
    """What the figures were measured on; no names of hosts or users."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    packages = ("llmlab", "docker", "ipykernel", "ipython", "jupyter_client")
    return {
        "cpu": model[1] if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: version for name in packages if (version := _version(name))},
        "load_1min_before": round(os.getloadavg()[0], 2),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def spread(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Median, quartiles and range of paired values; all of them as well."""
    low, median, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    )
    return {
        "median": round(median, digits),
        "quartiles": [round(low, digits), round(high, digits)],
        "range": [round(min(values), digits), round(max(values), digits)],
        "pairs": len(values),
        "values": [round(value, digits) for value in values],
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile, interpolated."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def show(title: str, found: dict[str, Any], unit: str, budget: str) -> None:
    """One line for a person; the budget stands beside it and is not judged."""
    low, high = found["quartiles"]
    print(
        f"  {title:<52} {found['median']:>9g} {unit:<3} "
        f"(quartiles {low:g} … {high:g}, {found['pairs']} pairs; budget {budget})",
        flush=True,
    )


def write(name: str, results: dict[str, Any]) -> None:
    """Keep the results with the facts of the machine."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(), **results}, indent=1, ensure_ascii=False)
    (OUTPUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")
