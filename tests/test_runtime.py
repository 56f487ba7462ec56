"""Where servers are written down: claims, locks, owners."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import llmlab
from llmlab import runtime
from llmlab.errors import LabError, NameTakenError, ServerBusyError
from llmlab.specs import Process


def ended_process() -> Process:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        known = runtime.process(child.pid)
        child.communicate(b"\n")
    assert known
    return known


def test_a_name_is_taken_once():
    with runtime.claim("a") as claim:
        assert claim.socket_dir.stat().st_mode & 0o777 == 0o700
        with pytest.raises(NameTakenError), runtime.claim("a"):
            pass
    assert claim.path.is_dir()


def test_a_claim_is_given_back_when_something_fails():
    with pytest.raises(KeyboardInterrupt), runtime.claim("a") as claim:
        raise KeyboardInterrupt
    assert not claim.path.exists()


def test_only_one_may_start_or_stop_a_server_at_a_time():
    with runtime.claim("a"), pytest.raises(ServerBusyError), runtime.hold("a", wait_s=0):
        pass
    with runtime.hold("a", wait_s=0) as claim:
        assert claim


def test_who_waited_for_a_server_that_is_gone_is_told():
    found: list[runtime.Claim | None] = []
    with runtime.claim("a") as claim:

        def wait() -> None:
            with runtime.hold("a", wait_s=20) as held:
                found.append(held)

        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.1)
        claim.remove()
    waiting.join()
    assert found == [None]


def test_a_dead_start_is_found_and_a_living_one_is_not():
    with runtime.claim("living"):
        with runtime.claim("dead"):
            pass
        assert runtime.abandoned() == ["dead"]


def test_a_directory_of_somebody_elses_making_is_no_dead_start(isolated_runtime):
    (isolated_runtime / "thesis").mkdir()
    (isolated_runtime / "thesis" / "chapter-1.txt").write_text("dear")
    assert runtime.abandoned() == []
    llmlab.ps()
    assert (isolated_runtime / "thesis" / "chapter-1.txt").read_text() == "dear"
    (isolated_runtime / "thesis" / "chapter-1.txt").unlink()
    (isolated_runtime / "thesis").rmdir()


def test_a_directory_that_all_share_is_refused_and_left_as_it_is(monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with monkeypatch.context() as patched:
        patched.setenv("LLMLAB_RUNTIME_DIR", str(shared))
        with pytest.raises(LabError, match="all share"):
            runtime.runtime_dir()
    assert shared.stat().st_mode & 0o7777 == 0o1777


def test_a_path_too_long_for_a_socket(monkeypatch, isolated_runtime):
    monkeypatch.setenv("LLMLAB_RUNTIME_DIR", str(isolated_runtime / ("x" * 90)))
    with pytest.raises(LabError, match="too long") as caught, runtime.claim("a"):
        pass
    assert "LLMLAB_RUNTIME_DIR" in caught.value.hint
    monkeypatch.undo()
    os.environ["LLMLAB_RUNTIME_DIR"] = str(isolated_runtime)
    (isolated_runtime / ("x" * 90) / ".lock").unlink(missing_ok=True)
    (isolated_runtime / ("x" * 90)).rmdir()


def test_a_directory_open_to_others_is_closed(isolated_runtime):
    isolated_runtime.chmod(0o755)
    assert runtime.runtime_dir().stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to make a directory of somebody else's")
def test_somebody_elses_directory_is_refused(monkeypatch, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    os.chown(other, 65534, 65534)
    monkeypatch.setenv("LLMLAB_RUNTIME_DIR", str(other))
    with pytest.raises(LabError, match="not a directory of yours"):
        runtime.runtime_dir()
    os.chown(other, 0, 0)


def test_an_ended_process_is_known_to_have_ended():
    ended = ended_process()
    assert runtime.has_ended(ended)
    myself = runtime.process(os.getpid())
    assert myself
    assert not runtime.has_ended(myself)


def test_the_next_process_with_the_same_pid_is_another_one():
    myself = runtime.process(os.getpid())
    assert myself
    earlier = Process(pid=myself.pid, start=myself.start[:-1] + ("0" if myself.start[-1] != "0" else "1"))
    assert runtime.has_ended(earlier)


@pytest.mark.parametrize("field", [0, 1])
def test_a_process_that_cannot_be_seen_is_not_taken_for_dead(field):
    """Of another boot or machine, or in another pid namespace."""
    parts = ended_process().start.split(":")
    parts[field] = "another"
    assert not runtime.has_ended(Process(pid=1, start=":".join(parts)))


def test_a_kernels_servers_belong_to_the_notebook_server(monkeypatch):
    monkeypatch.setenv("JPY_PARENT_PID", str(os.getppid()))
    assert runtime.default_owner() == runtime.process(os.getppid())


@pytest.mark.parametrize("value", ["", "nonsense", "1", "999999999"])
def test_without_a_notebook_server_they_belong_to_the_process(monkeypatch, value):
    monkeypatch.setenv("JPY_PARENT_PID", value)
    assert runtime.default_owner() == runtime.process(os.getpid())


def test_ctrl_c_waits_for_what_must_not_be_left_half_done():
    steps: list[str] = []

    def make() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        steps.append("made")
        return "it"

    with pytest.raises(KeyboardInterrupt):
        runtime.uninterrupted(make, undo=lambda made: steps.append(f"took {made} back"))
    assert steps == ["made", "took it back"]


def test_what_fails_is_not_taken_back():
    def fail() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        runtime.uninterrupted(fail, undo=lambda _: pytest.fail("nothing was made"))
