"""The behaviour suite on native servers, and what only they do."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

import llmlab
from llmlab import errors, runtime
from llmlab.specs import Process
from tests.behaviour import ServerBehaviour
from tests.conftest import eventually, inventory


class TestNative(ServerBehaviour):
    @pytest.fixture
    def place(self, require_engine):
        return {"backend": "native"}

    def test_a_server_that_ends_by_itself_leaves_its_exit_code(self, place):
        server = llmlab.start("tiny", name="a", **place)
        os.kill(self.pid(server), signal.SIGTERM)
        eventually(lambda: server.status.state == "exited")
        assert re.fullmatch(
            r"ended \d+ s ago: exit code 0: ended by itself, or told to by SIGTERM", server.status.detail
        )

    def test_one_that_is_halted_says_so_and_what_lets_it_go_on(self, place):
        server = llmlab.start("tiny", name="a", **place)
        os.kill(self.pid(server), signal.SIGSTOP)
        assert eventually(lambda: f"kill -CONT {self.pid(server)}" in server.status.detail)
        with pytest.raises(errors.ServerBusyError, match="it is halted by a signal"):
            server.ask("What is a GPU?", timeout_s=0.5)
        os.kill(self.pid(server), signal.SIGCONT)
        assert eventually(lambda: server.status.state == "ready")
        os.kill(self.pid(server), signal.SIGSTOP)
        began, grace_s = time.monotonic(), 60
        server.stop(grace_s=grace_s)
        assert time.monotonic() - began < grace_s, "it was let go on, so as to hear that it is to end"

    def test_ctrl_c_in_the_terminal_does_not_reach_it(self, place):
        server = llmlab.start("tiny", **place)
        assert os.getpgid(self.pid(server)) != os.getpgrp()
        assert os.getsid(self.pid(server)) != os.getsid(0)

    def test_it_leaves_no_zombie(self, place):
        server = llmlab.start("tiny", **place)
        pid = self.pid(server)
        server.stop()
        assert runtime.process(pid) is None
        assert pid not in _children(os.getpid())

    def test_only_the_user_may_enter_its_directory(self, place, isolated_runtime):
        llmlab.start("tiny", name="a", **place)
        for folder in (isolated_runtime / "a", isolated_runtime / "a" / "socket"):
            assert folder.stat().st_mode & 0o077 == 0

    def test_a_reused_pid_is_not_taken_for_the_server(self, place):
        server = llmlab.start("tiny", name="a", **place)
        known = server.record.process
        assert known
        assert runtime.is_alive(known)
        assert not runtime.is_alive(Process(pid=os.getpid(), start=known.start))

    def test_a_corrupt_state_file_is_swept_with_its_server(self, place, isolated_runtime):
        llmlab.start("tiny", name="a", **place)
        (isolated_runtime / "a" / runtime.RECORD).write_text("{not json")
        assert len(llmlab.ps()) == 0
        assert inventory(isolated_runtime) == []

    def test_limits_are_refused(self):
        with pytest.raises(errors.UsageError, match="no limits"):
            llmlab.start("tiny", backend="native", memory="1g")


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]
