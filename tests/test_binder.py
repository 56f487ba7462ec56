"""Binder, simulated: its environment from binder/ alone, and the notebooks in sessions as it gives them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from tools import binder, binder_lock, limits, notebooks
from tools.binder_lock import BINDER, REPOSITORY

from tests.conftest import long_ones_slow, missing

NOTEBOOKS = notebooks.find()
SCRIPTS = ("postBuild", "start")
_LOOK = """
import json, os, socket
from llmlab import machine, workshop
def reaches(address):
    try:
        socket.create_connection(address, timeout=5).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
here = workshop.here()
print(json.dumps({
    "uid": os.getuid(),
    "cpus": len(os.sched_getaffinity(0)),
    "total_mib": machine.look().total_mib,
    "interfaces": sorted(name for _, name in socket.if_nameindex()),
    "internet": reaches(("192.0.2.1", 80)),
    "sockets": [path for path in ("/run/docker.sock", "/var/run/docker.sock") if os.path.exists(path)],
    "checkout": os.listdir(CHECKOUT) if os.path.isdir(CHECKOUT) else [],
    "docker_host": os.environ.get("DOCKER_HOST"),
    "container": here.container, "binder": here.binder,
    "privileges": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")],
    "module": workshop.__file__,
}))
"""


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """The environment, built once."""
    if problem := binder.unavailable():
        missing("binder", problem)
    with binder.image() as folder:
        yield folder


# What stands in binder/


def test_every_file_is_one_that_repo2docker_reads():
    names = {path.name for path in BINDER.iterdir()}
    assert names <= binder.KNOWN
    assert {"requirements.txt", "runtime.txt", "apt.txt", "postBuild", "start"} <= names
    assert not list(REPOSITORY.glob("Dockerfile")), "repo2docker would use it and nothing else"


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_bash_that_stops_at_an_error(name):
    path = BINDER / name
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert os.access(path, os.X_OK)


def test_start_ends_with_the_command_it_is_given():
    assert (BINDER / "start").read_text().splitlines()[-1] == 'exec "$@"'
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = 'echo "$OMP_NUM_THREADS $1"; exec python -c "import os; print(len(os.sched_getaffinity(0)))"'
    done = subprocess.run(
        [BINDER / "start", "bash", "-c", script, "bash", "two words"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    cpus = min(2, len(os.sched_getaffinity(0)))
    assert done.stdout.splitlines() == ["2 two words", str(cpus)]
    status = subprocess.run([BINDER / "start", "sh", "-c", "exit 7"], env=environment, check=False).returncode
    assert status == 7


def test_requirements_are_those_of_the_lock_each_with_its_hashes():
    text = (BINDER / "requirements.txt").read_text()
    assert text == binder_lock.text(), "make it anew: python -m tools.binder_lock"
    lock = (REPOSITORY / "requirements.lock").read_text()
    blocks = re.findall(r"^[a-z0-9].*\n(?:[ \t]+.*\n)*", text, re.MULTILINE)
    assert len(blocks) > 50
    for block in blocks:
        assert block in lock
        assert "--hash=sha256:" in block
    names = {re.split(r"[=\[ ]", block)[0] for block in blocks}
    assert {"jupyterlab", "anywidget", "ipywidgets", "docker", "cmake", "ninja", "hatchling"} <= names
    assert not names & {"pytest", "ruff", "mypy", "sphinx", "playwright"}, "a session needs no tools of ours"


def test_the_pythons_version_is_one_that_the_package_supports():
    text = (BINDER / "runtime.txt").read_text().strip()
    assert re.fullmatch(r"python-3\.\d+", text)
    project = (REPOSITORY / "pyproject.toml").read_text()
    wanted = re.findall(r'^requires-python = "(.*)"$', project, re.MULTILINE)
    assert binder_lock.python_version() in SpecifierSet(wanted[0])


def test_the_packages_of_debian_have_something_to_compile_with():
    assert "g++" in binder.packages()


# The simulation keeps what it promises


def test_a_limit_ends_a_program_that_takes_more():
    if problem := binder.unavailable():
        missing("binder", problem)
    limits.prove(binder.LIMIT_MIB)


def test_a_limit_lets_a_program_that_takes_less_be_and_sees_what_it_takes():
    if problem := binder.unavailable():
        missing("binder", problem)
    take = (
        "block = bytearray(200 << 20); block[::4096] = b'x' * len(block[::4096]); import time; time.sleep(1)"
    )
    with limits.Limit(512) as limit:
        done = limit.run([sys.executable, "-c", take], env=os.environ)
        assert (done.returncode, limit.kills) == (0, 0), done.stdout
    assert 200 <= limit.peak_mib < 300
    assert not limit.folder.exists()


@pytest.mark.timeout(900)
def test_a_session_has_binders_user_memory_and_threads_and_no_network_or_engine(image):
    look = f"CHECKOUT = {str(REPOSITORY)!r}\n{_LOOK}"
    session = binder.session(image, ["python", "-c", look], server=False)
    assert session.status == 0, session.output
    found = json.loads(session.output.splitlines()[-1])
    assert found["uid"] == binder.USER
    assert found["cpus"] <= 2
    assert found["total_mib"] == binder.LIMIT_MIB
    assert found["interfaces"] == ["lo"]
    assert "unreachable" in found["internet"]
    assert found["sockets"] == []
    assert found["checkout"] == [], "this checkout is out of sight"
    assert found["docker_host"] is None
    assert (found["container"], found["binder"]) == (False, True)
    assert int(found["privileges"][0], 16) == 0
    assert found["module"].startswith("/srv/conda/envs/notebook/"), "the package was installed by postBuild"


def test_a_session_that_takes_too_much_memory_is_ended(image):
    greedy = "block = bytearray(1 << 30); block[::4096] = b'x' * len(block[::4096])"
    session = binder.session(image, ["python", "-c", greedy], server=False)
    assert session.killed
    assert session.status != 0


def test_nothing_of_a_session_outlives_it(image):
    script = "sleep 1234567 & disown; echo started"
    session = binder.session(image, ["bash", "-c", script], server=False)
    assert session.output.splitlines()[-1] == "started"
    words = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"1234567" in line for line in words)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", long_ones_slow(NOTEBOOKS))
def test_a_notebook_runs_in_a_session_of_binders(path, image, tmp_path, record_property):
    (run,) = notebooks.run_in_binder([path], ["answered"], tmp_path, image)
    assert run.ok, run.problem
    assert not run.open
    assert run.session_mib is not None
    assert run.session_mib < binder.LIMIT_MIB
    record_property("session_mib", run.session_mib)
    record_property("minutes", round(run.seconds / 60, 2))
    assert (tmp_path / f"{path.stem}.answered.ipynb").is_file()
