"""What becomes of a server that dies, halts or is kept waiting, and how that is told."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import llmlab
from llmlab import runtime
from llmlab.backends import Found, backend, docker_api, kernel_log, labels, native
from llmlab.client import queueing
from llmlab.comparing import arms
from llmlab.errors import ServerBusyError, ServerStoppedError, StartError, UsageError
from llmlab.lab import ending
from llmlab.lab.planning import parse_restart
from llmlab.reporting import Reporter, reporting_to
from llmlab.results import ServerList
from llmlab.specs import Limits, Prediction
from tests import examples
from tests.conftest import eventually, inventory, kill, run_cli
from tests.faults.contract import promise
from tests.test_results import status

NOW = 1_000_000_000.0


@pytest.fixture(params=["native", "container"])
def place(request, require_engine):
    """Where it runs."""
    if request.param == "container":
        request.getfixturevalue("require_docker")
    return request.param


def _pid(server: llmlab.Server) -> int:
    return int(server.inspect().facts["pid"])


# The story


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s ago"), (7, "7 s ago"), (61, "1 min ago"), (3 * 60 + 59, "3 min ago"), (7300, "2 h 1 min ago")],
)
def test_how_long_ago(seconds, text, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW)
    assert ending.ago(NOW - seconds) == text


def test_one_of_before_the_machine_was_restarted():
    here = runtime.process(os.getpid())
    assert here
    earlier = replace(here, start=here.start.replace(here.start.split(":")[0], "another-boot"))
    record = examples.record(name="a", backend="native", process=earlier)
    found = backend("native").look(record)
    assert not found.running
    assert "started before this machine was" in found.detail
    assert found.ended is None
    assert backend("native").look(replace(record, process=replace(here, pid=2**22 + 1))).detail == (
        "it is gone, and so is what would have seen it end"
    )


def _record(**changes):
    needed = Prediction(required_mib=90, resident_mib=96, ready_mib=80)
    limits = Limits(memory_mib=64, cpus=1.0)
    return examples.record(name="a", limits=limits, predicted=needed, observed_mib=60, **changes)


def test_a_lack_of_memory_is_told_with_its_figures_and_what_would_help(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW)
    found = Found(running=False, detail="killed", ended=NOW - 200, out_of_memory=True)
    assert ending.told(_record(), found) == (
        "ended 3 min ago: out of memory (the limit is 64 MiB, it was predicted to hold up to 96 MiB, "
        "it held 60 MiB when it was ready)"
    )
    assert ending.remedy(_record(), found).endswith("start ./m.gguf --name a --memory 128m")


def test_where_nothing_limits_it_less_is_advised():
    found = Found(running=False, out_of_memory=True)
    said = ending.remedy(replace(_record(), limits=None), found)
    assert "smaller --context" in said
    assert "--memory" not in said


def test_what_is_not_known_is_not_said():
    found = Found(running=False, detail="its container is gone", out_of_memory=False)
    assert ending.told(replace(_record(), container_id="none"), found) == "its container is gone"


def test_what_a_log_says_stays_one_harmless_line():
    shown = str(ServerList((status("a", detail="its log: \x1b]0;mine\x07\nb: ready"),)))
    assert shown.splitlines()[2:] == ["a: its log: \\x1b]0;mine\\x07 b: ready"]


# Ends, for real


@promise(
    part="Servers",
    fault="A server dies (SIGKILL from outside)",
    sees="`ps`, `inspect`, the panel and the error of `ask` say when and why, and give the line that starts it again",
    keeps="Its log, until it is stopped or its name is taken again",
    cleans="`stop` removes what is left; a start under the same name does, too",
    within_s=20,
)
def test_one_that_died_says_when_why_and_what_to_do(place, bound, isolated_runtime):
    server = llmlab.start("tiny", name="a", backend=place)
    kill(_pid(server))
    with pytest.raises(ServerStoppedError, match=r"is not running: ended .* ago: exit code 137") as caught:
        server.ask("What is a GPU?")
    assert "start tiny --name a" in caught.value.hint
    status = server.status
    assert status.state == "exited"
    assert status.detail.startswith("ended ")
    assert "killed by SIGKILL" in status.detail
    assert "start tiny --name a" in status.remedy
    up = status.uptime_s
    time.sleep(0.3)
    assert server.status.uptime_s == up, "what has ended grows no older"
    shown = run_cli("ps").stdout
    assert "a: ended" in shown
    assert "start it again" in shown
    assert "what to do" in str(server.inspect())
    logs = run_cli("logs", "a")
    assert logs.stdout
    assert "note: a: ended" in logs.stderr
    assert llmlab.start("tiny", name="a", backend=place).ask("What is a GPU?", max_tokens=3).text
    llmlab.stop("a")
    assert inventory(isolated_runtime) == []


def test_an_end_that_is_noticed_late_is_told_all_the_same(require_engine, monkeypatch):
    server = llmlab.start("tiny", name="a", backend="native")
    look = native.look
    earlier = [look(server.record)] * 2
    kill(_pid(server))
    monkeypatch.setattr(native, "look", lambda record: earlier.pop() if earlier else look(record))
    with pytest.raises(ServerStoppedError, match="is not running: ended"):
        server.ask("What is a GPU?")


@pytest.fixture
def memory_group(monkeypatch):
    """Puts a process into a control group that is about to have no memory left."""
    root = Path("/sys/fs/cgroup/memory")
    folder = root / f"llmlab-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group for memory can be made here: {error}")

    def put(pid: int) -> None:
        (folder / "cgroup.procs").write_text(str(pid))
        (folder / "memory.limit_in_bytes").write_text(str(1024 * 1024))

    yield put
    eventually(lambda: not (folder / "cgroup.procs").read_text().strip())
    folder.rmdir()


@promise(
    part="Servers",
    fault="The kernel kills a native server because there is no memory",
    sees="`ps` and the error of `ask` say that it was out of memory, where the kernel's log may be read",
    keeps="Its log",
    cleans="`stop` removes what is left",
    within_s=30,
)
def test_a_native_server_that_the_kernel_killed_for_memory(require_engine, memory_group, bound):
    if kernel_log.killed_for_memory() is None:
        pytest.skip("the kernel's log cannot be read here")
    server = llmlab.start("tiny", name="a", backend="native")
    memory_group(_pid(server))
    with pytest.raises((ServerStoppedError, ServerBusyError)):
        _fill(server, bound)
    eventually(lambda: server.status.state == "exited", bound)
    assert "out of memory" in server.status.detail
    assert "smaller --context" in server.status.remedy


def _fill(server: llmlab.Server, timeout_s: float) -> None:
    for _ in range(20):
        server.ask("container " * 200, max_tokens=50, timeout_s=timeout_s)


def test_an_old_note_of_the_kernels_is_not_taken_for_this_ones(monkeypatch):
    note = b"Memory cgroup out of memory: Killed process 42 (llama-server) total-vm:1kB"
    booted = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    monkeypatch.setattr(kernel_log, "_records", lambda: [(100.0, note)])
    assert kernel_log.killed_for_memory(pid=42, ended=booted + 101)
    assert kernel_log.killed_for_memory(pid=42, ended=booted + 4000) is False
    assert kernel_log.killed_for_memory(pid=43, ended=booted + 101) is False
    monkeypatch.setattr(kernel_log, "_records", list)
    assert kernel_log.killed_for_memory(pid=42) is None


@promise(
    part="Servers",
    fault="A server is halted: SIGSTOP, or `docker pause`",
    sees="State paused, with the line that lets it go on; `ask` ends after some seconds and says so",
    keeps="The server, and what it is in the middle of: it goes on where it was",
    cleans="Nothing is to be cleaned; `stop` works while it is halted",
    within_s=20,
)
def test_a_question_to_a_halted_server_ends_soon_and_says_why(place, bound):
    server = llmlab.start("tiny", name="a", backend=place)
    pid = _pid(server)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(ServerBusyError, match=f"halted by a signal; kill -CONT {pid} lets it go on"):
        server.ask("What is a GPU?", timeout_s=200)
    assert time.monotonic() - began < bound
    assert server.status.state == "paused"
    os.kill(pid, signal.SIGCONT)
    assert server.ask("What is a GPU?", max_tokens=3).text
    os.kill(pid, signal.SIGSTOP)
    llmlab.stop("a", grace_s=1)


def test_who_waits_is_told_why(place):
    said: list[str] = []

    class Listening(Reporter):
        def waiting(self, why: str) -> None:
            said.append(why)

    server = llmlab.start("synthetic:smollm2-135m:Q4_0", backend=place, slots=1, context=2048)
    first = threading.Thread(target=lambda: server.ask("word " * 200, max_tokens=300))
    first.start()
    eventually(lambda: (queue := _queue(server)) and queue.answering)
    with reporting_to(Listening()):
        server.ask("Hello", max_tokens=1)
    first.join()
    assert "waiting: its slot answers 1 other request" in said


def _queue(server: llmlab.Server) -> queueing.Queue | None:
    from llmlab.lab import registry  # noqa: PLC0415 - next to its use

    return registry.client(server.record).queue()


# Started anew


@pytest.mark.parametrize(
    ("policy", "count"), [(None, 0), ("no", 0), ("on-failure", 3), ("on-failure:1", 1), ("on-failure:99", 99)]
)
def test_restart_policies(policy, count):
    assert parse_restart(policy) == count


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure:0", "on-failure:", "3", ""])
def test_what_is_no_restart_policy(policy):
    with pytest.raises(UsageError, match="is no restart policy"):
        parse_restart(policy)


def test_nobody_starts_a_native_server_anew(require_engine):
    with pytest.raises(UsageError, match="nobody to start it anew"):
        llmlab.start("tiny", backend="native", restart="on-failure")


def test_the_endpoint_for_other_tools_does_not_go_with_it(require_docker):
    with pytest.raises(UsageError, match="not started anew"):
        llmlab.start("tiny", backend="container", restart="on-failure", expose=0)
    with pytest.raises(UsageError, match="only through the engine's API"):
        llmlab.start("tiny", backend="container", restart="on-failure", transport="socket")


@promise(
    part="Servers",
    fault="A server dies that was started with `--restart on-failure:N`",
    sees="The container engine starts it anew up to N times; `ps` says how often and when, then why it ended",
    keeps="Its name, its limits and its isolation; not what it was in the middle of",
    cleans="`stop` ends it for good, also while it is being started anew",
    within_s=40,
)
def test_the_engine_starts_it_anew_and_in_the_end_gives_up(require_docker, require_engine, bound):
    server = llmlab.start("tiny", name="a", backend="container", restart="on-failure:2")
    assert server.record.transport == "relay"
    sealed = {c.name: c.in_force for c in server.inspect().isolation}
    for anew in ("once", "2 times"):
        kill(_pid(server))
        eventually(lambda: anew in server.status.detail and server.status.state == "ready", bound)  # noqa: B023
        assert server.ask("What is a GPU?", max_tokens=3).text
    assert {c.name: c.in_force for c in server.inspect().isolation} == sealed
    assert llmlab.audit("a", checks="N1,F1").exit_status == 0
    kill(_pid(server))
    eventually(lambda: server.status.state == "exited", bound)
    assert "it had been started anew 2 times" in server.status.detail
    llmlab.stop("a")


def test_stop_is_final(require_docker, require_engine, isolated_runtime):
    server = llmlab.start("tiny", name="a", backend="container", restart="on-failure")
    kill(_pid(server))
    llmlab.stop("a")
    assert inventory(isolated_runtime) == []
    time.sleep(1)
    assert not docker_api.connect().containers(f"{labels.SERVER}=a")


def test_one_that_never_gets_ready_is_not_tried_again_and_again(require_docker, require_engine, tmp_path):
    path = tmp_path / "broken.gguf"
    data = llmlab.weights.resolve("tiny").path.read_bytes()
    at = data.index(b"general.architecture") + len(b"general.architecture") + 12
    path.write_bytes(data[:at] + b"xlama" + data[at + 5 :])
    path.chmod(0o644)
    tmp_path.chmod(0o755)
    with pytest.raises(StartError, match="did not start"):
        llmlab.start(str(path), name="a", backend="container", restart="on-failure:50", timeout_s=60)


def test_the_dry_run_says_it_as_docker_does(require_docker, require_engine):
    shown = str(llmlab.start("tiny", backend="container", restart="on-failure:4", dry_run=True))
    assert "--restart on-failure:4" in shown


def test_who_asks_while_it_is_started_anew_is_told_so(require_docker, require_engine):
    server = llmlab.start("tiny", name="a", backend="container", restart="on-failure:3")
    kill(_pid(server))
    said = r"'a' (is being started anew; it has ended: exit code 137|died, and was started anew once)"
    with pytest.raises(ServerStoppedError, match=said) as caught:
        server.ask("What is a GPU?")
    assert caught.value.hint == "ask again in a moment"
    eventually(lambda: server.status.state == "ready")
    assert server.ask("What is a GPU?", max_tokens=3).text


def test_what_a_restart_is_told_as():
    anew = Found(running=True, restarts=2, since=NOW)
    assert not ending.is_anew(anew, NOW + 1)
    assert ending.is_anew(anew, NOW - 1)
    waits = Found(running=True, detail="it has ended: x", held="restarting", restarts=2)
    assert ending.told(_record(), waits) == "it has ended: x; this is restart 2"


def test_an_arm_of_a_comparison_is_not_started_anew():
    with pytest.raises(UsageError, match="restart"):
        arms.options("backend=container,restart=on-failure")


@pytest.mark.parametrize("how", ["stop", "restart"])
@promise(
    part="Servers",
    fault="Another tool stops or restarts its container (`docker stop`, `docker restart`)",
    sees="State exited with the exit code; of a restart, that it does not get its socket back and has ended",
    keeps="Its log",
    cleans="`stop` removes the container",
    within_s=40,
)
def test_stopped_or_restarted_by_another_tool(require_docker, require_engine, how, bound):
    server = llmlab.start("tiny", name="a", backend="container")
    subprocess.run(
        ["docker", how, "-t", "2", str(server.record.container_id)], capture_output=True, check=True
    )
    eventually(lambda: server.status.state == "exited", bound)
    with pytest.raises(ServerStoppedError, match="is not running"):
        server.ask("What is a GPU?")
    assert backend("container").log(server.record)
    assert llmlab.start("tiny", name="a", backend="container").status.state == "ready"
