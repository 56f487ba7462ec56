"""Three engines that the tests share, as they are after each test: running, joined to nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tools.engines_apart.commands import EnginesError, check
from tools.three_engines import NODES, ThreeEngines

import llmlab
from llmlab.backends import docker_api
from llmlab.backends.docker_api import DockerApi
from llmlab.clusters import ClusterNode, ClusterStatus
from tests.conftest import missing

# Declared, not there: what schedules by it must not need one.
OPTIONS = {"n2": {"node-generic-resources": ["NVIDIA-GPU=1"]}}
# The `docker` package leaves it to Python to close the files of contexts.
UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed file .*meta.json:ResourceWarning")
_PREFIX = "llmt"
PROGRAM = "int main(void) { for (volatile long turns = 0; SPIN || turns < 1; turns++) {} for (;;) pause(); }"


def require_engines() -> None:
    """Skip where engines cannot be made."""
    try:
        check()
    except EnginesError as error:
        missing("engines", str(error))


@pytest.fixture(scope="session")
def session_engines() -> Iterator[ThreeEngines]:
    """The engines."""
    require_engines()
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-engines"):
        name = folder.name.removesuffix("-engines")
        # Left by a run that was killed; one that goes on keeps its own.
        if not psutil.pid_exists(int(name.removeprefix(_PREFIX))):
            ThreeEngines(name=name, say=lambda _: None).down()
    with ThreeEngines(name=f"{_PREFIX}{os.getpid()}", options=OPTIONS, say=lambda _: None) as made:
        yield made


@pytest.fixture
def three(
    session_engines: ThreeEngines, isolated_runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ThreeEngines]:
    """The engines, and an environment in which they are what Docker knows."""
    for key, value in session_engines.env().items():
        monkeypatch.setenv(key, value)
    for key in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(key, raising=False)
    # Without their contexts, Docker would mean the machine's own engine.
    assert session_engines.is_up()
    # ssh connections are shared by way of the runtime directory, which is another in each test.
    clients: dict[Any, docker_api.DockerApi] = {}
    monkeypatch.setattr(docker_api, "_clients", clients)
    yield session_engines
    for node in NODES:
        session_engines.mend(node)
        session_engines.revive(node)
        remove_containers(session_engines, node)
        # One that is in none says so, and that is well.
        with suppress(subprocess.CalledProcessError):
            docker(session_engines, node, "swarm", "leave", "--force")
    for client in clients.values():
        client._api.close()
    close_ssh(isolated_runtime)


def docker(three: ThreeEngines, node: str, *words: str) -> str:
    """What the `docker` command says, at a node's own socket."""
    command = ["docker", "--host", f"unix://{three.engine(node).socket}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def remove_containers(three: ThreeEngines, node: str) -> None:
    if made := docker(three, node, "ps", "--all", "--quiet").split():
        docker(three, node, "rm", "--force", *made)


def close_ssh(runtime: Path) -> None:
    """End the connections that ssh would keep for the next command."""
    for path in (runtime / ".ssh").glob("*"):
        command = ["ssh", "-O", "exit", "-o", f"ControlPath={path}", "nobody"]
        subprocess.run(command, capture_output=True, check=False)
    shutil.rmtree(runtime / ".ssh", ignore_errors=True)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root file system of an image with two programs: one that waits, one that uses a CPU."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "program.c").write_text(f"#include <unistd.h>\n{PROGRAM}\n", encoding="ascii")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        missing("compiler", "an image of the test's own needs one")
    for name, spin in (("wait", 0), ("spin", 1)):
        made = ["-static", f"-DSPIN={spin}", "-o", f"{folder}/{name}", f"{folder}/program.c"]
        subprocess.run([str(compiler), *made], check=True)
    file = folder / "image.tar"
    subprocess.run(["tar", "-C", folder, "-cf", file, "wait", "spin"], check=True)
    return file


@pytest.fixture
def run_on(archive: Path) -> Callable[..., str]:
    """Runs a container on a node; returns its id."""

    def run(three: ThreeEngines, node: str, *options: str, program: str = "wait") -> str:
        if "llmtest/image" not in docker(three, node, "images", "--format", "{{.Repository}}"):
            docker(three, node, "import", str(archive), "llmtest/image")
        return docker(three, node, "run", "--detach", *options, "llmtest/image", f"/{program}")

    return run


def within(three: ThreeEngines, node: str, container: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this machine in a container's network."""
    pid = docker(three, node, "inspect", "--format", "{{.State.Pid}}", container)
    words = ["nsenter", f"--net=/proc/{pid}/ns/net", *command]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30, env={**os.environ})


def by_name(status: ClusterStatus) -> dict[str, ClusterNode]:
    return {node.name: node for node in status.nodes}


def engine(three: ThreeEngines, node: str) -> DockerApi:
    return docker_api.connect(three.hosts()[node])


def made(*, managers: int = 1) -> ClusterStatus:
    """A cluster of all three, with so many managers."""
    llmlab.cluster("init")
    if others := NODES[1:managers]:
        llmlab.cluster("join", ",".join(others), manager=True)
    if workers := NODES[managers:]:
        llmlab.cluster("join", ",".join(workers))
    return llmlab.cluster()
