"""The script for machines with a GPU: its plan, and the results that came back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.gpu import summary
from bench.gpu.parts import PARTS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "gpu"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(ROOT / "bench" / "gpu" / "run"), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHON": sys.executable}
    )


def test_the_plan_names_each_part_with_its_time_and_what_it_needs():
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    *lines, total = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(PARTS)
    assert all(" s  " in line and "needs " in line for line in lines)
    assert f"{sum(part.about_s for part in PARTS.values()):.0f} s" in total


def test_a_part_that_there_is_not_is_told_with_those_that_there_are():
    done = run("oven")
    assert done.returncode == 2
    assert done.stderr.strip() == f"no part 'oven'; there are: {', '.join(PARTS)}"


def test_without_a_gpu_a_part_says_so_and_loses_nothing_of_the_others(tmp_path, require_engine):
    done = run("machine", "instruments", "--rehearse", "--out", str(tmp_path))
    found = json.loads((tmp_path / "machine.json").read_text(encoding="utf-8"))
    assert found["machine"]["cpus"] >= 1
    if not found["gpus"]:
        assert done.returncode == 1
        assert "NVML does not answer" in done.stderr
        assert "Traceback" not in done.stderr
    assert "## machine" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_the_summary_of_what_came_back_is_made_of_it():
    assert (RESULTS / "summary.md").read_text(encoding="utf-8") == summary.text(RESULTS)
