"""The three engines: made from nothing, taken apart and put together, and gone without a trace."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tools.engines_apart import removing
from tools.engines_apart.commands import EnginesError
from tools.three_engines import NODES, ThreeEngines

from tests.cluster.conftest import close_ssh, docker, require_engines
from tests.conftest import REPOSITORY, eventually, run_cli

pytestmark = pytest.mark.cluster

NAME = f"llmu{os.getpid()}"
FOLDER = Path(f"/tmp/{NAME}-engines")  # noqa: S108 - where the tool makes it


def tool(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.three_engines", "--name", NAME, "--folder", str(FOLDER), *words]
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command, capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=120, **options
    )


@pytest.fixture
def engines() -> Iterator[ThreeEngines]:
    """Engines that are not up yet."""
    require_engines()
    made = ThreeEngines(name=NAME, folder=FOLDER, say=lambda _: None)
    yield made
    made.down()


def said(*command: str) -> set[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Counters of packets, and when it was asked, are no part of what is there.
    return {re.sub(r"\[\d+:\d+\]", "", line) for line in done.stdout.splitlines() if line[:1] != "#"}


def of_processes() -> set[str]:
    """Processes of ours, and the namespaces that processes are in."""
    found = set()
    for process in psutil.process_iter():
        try:
            spaces = [str(Path(f"/proc/{process.pid}/ns/{kind}").readlink()) for kind in ("net", "uts")]
            words = " ".join(process.cmdline())
        except (psutil.Error, OSError):
            continue
        found |= set(spaces)
        if str(FOLDER) in words and "pytest" not in words:
            found.add(words)
    return found


def machine() -> dict[str, set[str]]:
    """What engines could leave on a machine."""
    places = [Path("/run"), Path("/opt"), Path("/etc/docker"), Path("/tmp")]  # noqa: S108 - looked at
    files = {
        str(path) for place in places for path in (place, *place.glob("*"), *place.glob("containerd/**/*"))
    }
    return {
        "links": said("ip", "-oneline", "link", "show"),
        "addresses": said("ip", "-oneline", "address", "show"),
        "routes": said("ip", "route", "show", "table", "all"),
        "firewall": said("iptables-save"),
        "mounts": set(Path("/proc/mounts").read_text("utf-8").splitlines()),
        "groups": {str(path) for path in Path("/sys/fs/cgroup").glob("**/") if NAME in str(path)},
        "processes": of_processes(),
        "settings": said("sysctl", "net.ipv4.ip_forward", "net.bridge"),
        "files": {each for each in files if "pytest" not in each and "llm-" not in each},
    }


def added(before: dict[str, set[str]]) -> dict[str, set[str]]:
    now = machine()
    return {kind: found for kind in before if (found := now[kind] - before[kind])}


def test_down_leaves_the_machine_as_it_was(
    engines: ThreeEngines,
    run_on: Callable[..., str],
    isolated_runtime: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    before = machine()
    engines.up()
    for key, value in engines.env().items():
        monkeypatch.setenv(key, value)
    run_cli("cluster", "init")
    run_cli("cluster", "join", "n2")
    docker(engines, "n1", "network", "create", "--driver", "overlay", "--attachable", "across")
    run_on(engines, "n1", "--network", "across")
    run_on(engines, "n2", "--network", "across")
    run_on(engines, "n2", "--publish", "8080:80")
    run_on(engines, "n3", "--network", "none")
    # The machine's own engine need not run.
    for node in NODES:
        run_cli("nodes", node)
    close_ssh(isolated_runtime)
    engines.kill("n2")
    engines.cut("n3")
    # Otherwise it would show nothing that all this is gone.
    kinds = {"links", "addresses", "routes", "mounts", "groups", "processes", "files"}
    assert kinds <= added(before).keys()
    engines.down()
    eventually(lambda: not added(before))


def test_up_after_a_run_that_was_killed(engines: ThreeEngines):
    command = [sys.executable, "-m", "tools.three_engines", "--name", NAME, "--folder", str(FOLDER), "up"]
    first = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    eventually((FOLDER / "n1" / "log").exists)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not engines.is_up()
    done = tool("up")
    assert done.returncode == 0, done.stderr
    assert "an earlier run" in done.stdout
    assert engines.is_up()


def test_up_again_keeps_engines_that_answer(engines: ThreeEngines):
    engines.up()
    before = (FOLDER / "n1" / "pid").read_text("ascii")
    done = tool("up")
    assert "up already" in done.stdout
    assert (FOLDER / "n1" / "pid").read_text("ascii") == before


def test_each_engine_is_one_of_its_own(engines: ThreeEngines):
    engines.up()
    told = {
        docker(engines, node, "info", "--format", "{{.Name}} {{.ID}} {{.DockerRootDir}}") for node in NODES
    }
    assert len(told) == len(NODES)
    assert {each.split()[0] for each in told} == set(NODES)
    assert len({each.split()[1] for each in told}) == len(NODES)


def test_without_ssh_the_third_is_reached_with_tls(engines: ThreeEngines):
    plain = ThreeEngines(name=NAME, folder=FOLDER, ssh=False, say=lambda _: None)
    plain.up()
    assert plain.hosts()["n3"].startswith("tcp://")
    environment = {**os.environ, **plain.env(), "DOCKER_HOST": ""}
    command = ["docker", "--context", "n3", "info", "--format", "{{.Name}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.strip() == "n3"


def reachable(address: str) -> bool:
    try:
        socket.create_connection((address, 2376), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_cut_cable_and_a_mended_one(engines: ThreeEngines):
    engines.up()
    assert reachable(engines.address("n2"))
    engines.cut("n2")
    assert not reachable(engines.address("n2"))
    assert any("n2  answers, cut off" in line for line in engines.status())
    engines.mend("n2")
    eventually(lambda: reachable(engines.address("n2")))


def test_a_killed_daemon_leaves_its_containers_running(engines: ThreeEngines, run_on: Callable[..., str]):
    engines.up()
    run_on(engines, "n1", "--network", "none")
    engines.kill("n1")
    assert not engines.engine("n1").answers()
    assert engines.engine("n1").containers() == 1
    with pytest.raises(EnginesError, match="does not run"):
        engines.kill("n1")
    engines.revive("n1")
    assert engines.engine("n1").answers()


def named_spin(folder: Path) -> list[psutil.Process]:
    """The processes of n1 that do nothing but use a CPU, once they are that."""
    found = removing.processes(folder, [f"{NAME}-n1"], [])
    return [process for process in found if process.name() == "spin"]


def test_the_cpus_of_an_engine_are_a_limit_for_all_of_its_containers(run_on: Callable[..., str]):
    require_engines()
    with ThreeEngines(name=NAME, folder=FOLDER, cpus=0.2, say=lambda _: None) as engines:
        for _ in range(2):
            run_on(engines, "n1", "--network", "none", program="spin")
        spinning = eventually(lambda: len(found := named_spin(engines.folder)) == 2 and found)
        first, began = sum(each.cpu_times().user for each in spinning), time.monotonic()
        time.sleep(3)
        used = sum(each.cpu_times().user for each in spinning) - first
        assert 0.05 < used / (time.monotonic() - began) < 0.35


def test_what_is_missing_is_said():
    require_engines()
    done = tool("up", env={"PATH": "/nonexistent"})
    assert done.returncode == 1
    assert "not installed: " in done.stderr
    assert "docker" in done.stderr
    assert not FOLDER.exists()


def test_an_unknown_node_is_refused_by_name(engines: ThreeEngines):
    engines.up()
    done = tool("cut", "n4")
    assert done.returncode == 1
    assert "there are n1, n2, n3" in done.stderr
