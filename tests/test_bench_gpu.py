"""The script for machines with a GPU: its plan, and the results that came back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest
from bench.gpu import carrying, summary
from bench.gpu.parts import BUNDLES, CARRIED, LIMIT_MIB, PARTS

from llmlab.builds import locate, source

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "gpu"


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(ROOT / "bench" / "gpu" / "run"), *words]
    environment = {**os.environ, "PYTHON": sys.executable, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_plan_names_each_part_with_its_time_and_what_it_needs():
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    plan, _, carried = done.stdout.partition("\n\n")
    *lines, total = plan.splitlines()
    assert [line.split()[0] for line in lines] == list(PARTS)
    assert all(" s  " in line and "needs " in line for line in lines)
    assert f"{sum(part.about_s for part in PARTS.values()):.0f} s" in total
    heading, *bundles = carried.splitlines()
    assert f"at most {LIMIT_MIB} MiB a call" in heading
    assert [line.split()[0] for line in bundles] == list(BUNDLES)
    assert all(bundle.about_mib <= LIMIT_MIB for bundle in BUNDLES.values())


def test_the_plan_of_one_part_names_what_is_to_be_carried_for_it_alone():
    told = run("roofs", "--dry-run").stdout
    assert "python " in told
    assert "engine " not in told
    assert "for roofs" in told


def test_no_part_takes_longer_than_a_machine_lends_for_one_command():
    assert all(part.about_s < 600 for part in PARTS.values())
    assert all(name in BUNDLES for part in PARTS.values() for name in part.carried)


@pytest.mark.parametrize("words", [["--dry-run"], ["machine"], ["--fetch", "/nowhere"]])
def test_a_python_without_the_packages_gets_the_plan_or_the_line_that_installs_them(words, tmp_path):
    # An environment of its own has none.
    venv.create(tmp_path, with_pip=False)
    done = run(*words, PYTHON=str(tmp_path / "bin" / "python"))
    assert "Traceback" not in done.stderr
    if words == ["--dry-run"]:
        assert (done.returncode, "in all" in done.stdout) == (0, True)
    else:
        assert done.returncode == 1
        assert "--no-index FOLDER/python/*.whl" in done.stderr


def test_a_part_whose_compiler_fails_says_what_it_needs(tmp_path):
    broken = tmp_path / "nvcc"
    broken.write_text(
        "#!/bin/sh\necho 'roofs.cu:9: fatal error: cublas_v2.h: No such file or directory' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    for compiler in (broken, tmp_path / "nothing"):
        done = run("roofs", "--out", str(tmp_path / "out"), CUDACXX=str(compiler), LLMLAB_ROOFS="")
        assert done.returncode == 1
        assert "this part needs nvcc and cuBLAS" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "roofs.json").exists()


def test_a_source_that_was_carried_is_put_where_the_build_looks_for_it(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    (tmp_path / "CMakeLists.txt").write_text("project(llama)\n")
    with tarfile.open(tmp_path / "source" / "llama.cpp.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "CMakeLists.txt", arcname="source/CMakeLists.txt")
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "cache"))
    carrying.put_source()
    assert not list((tmp_path / "cache").rglob("CMakeLists.txt"))
    monkeypatch.setenv(CARRIED, str(tmp_path))
    carrying.put_source()
    carrying.put_source()
    target = locate.own_dir("cuda")
    assert source.tree(target.with_name(f".{target.name}.work")).joinpath("CMakeLists.txt").is_file()


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("dpkg-deb"), reason="root starts an engine, of Debian's packages"
)
def test_a_carried_engine_never_runs_in_this_machines_network(tmp_path):
    # An engine that does may take away the bridge of another one.
    program = tmp_path / "package" / "usr" / "sbin" / "dockerd"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nreadlink /proc/self/ns/net /proc/self/ns/mnt\necho "$@"\n')
    program.chmod(0o755)
    control = tmp_path / "package" / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text(
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@example.org>\nDescription: d\n"
    )
    (tmp_path / "debs").mkdir()
    subprocess.run(
        ["dpkg-deb", "-b", tmp_path / "package", tmp_path / "debs" / "p.deb"], check=True, capture_output=True
    )
    command = ["sh", ROOT / "bench" / "gpu" / "engine", tmp_path / "debs", tmp_path / "work"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    address, network, mounts, options = done.stdout.splitlines()
    assert address == f"DOCKER_HOST=unix://{tmp_path}/work/docker.sock"
    assert network != str(Path("/proc/self/ns/net").readlink())
    assert mounts != str(Path("/proc/self/ns/mnt").readlink())
    assert "--iptables=false" in options
    assert f"--data-root {tmp_path}/work/data" in options


@pytest.mark.parametrize("words", [[], ["nowhere", "work"]])
def test_the_script_for_a_carried_engine_says_how_it_is_called(words):
    script = str(ROOT / "bench" / "gpu" / "engine")
    done = subprocess.run(["sh", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bench/gpu/engine")


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
