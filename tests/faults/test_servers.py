"""Servers that are killed, run out of memory, are halted, or are taken away by another tool."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

import llmlab
from llmlab.errors import ServerBusyError, ServerError, ServerStoppedError
from tests.conftest import eventually, kill
from tests.faults.contract import promise
from tests.faults.midway import asked_when


@pytest.fixture(params=["native", "container"])
def place(request: pytest.FixtureRequest, require_engine: object) -> str:
    """Where the server runs."""
    if request.param == "container":
        request.getfixturevalue("require_docker")
    return str(request.param)


def pid(server: llmlab.Server) -> int:
    return int(server.inspect().facts["pid"])


def docker(*words: str) -> None:
    subprocess.run(["docker", *words], capture_output=True, check=True)


def works_again(place: str, within_s: float) -> None:
    """A start under the same name, whatever the one before has left."""
    began = time.monotonic()
    server = llmlab.start("tiny", name="a", backend=place)
    assert server.ask("What is a GPU?", max_tokens=3).text
    llmlab.stop("a")
    assert time.monotonic() - began < within_s
    assert not llmlab.ps()


def broken_off(server: llmlab.Server, event: Callable[[], object], within_s: float) -> ServerError:
    """The error of a question in whose middle that happens."""
    began = time.monotonic()
    with pytest.raises(ServerError) as caught:
        asked_when(server, event)
    assert time.monotonic() - began < within_s
    answer = caught.value.answer
    assert answer
    assert answer.text
    assert answer.finish_reason == "died"
    return caught.value


@promise(
    part="Servers",
    fault="A server is killed (SIGKILL) in the middle of an answer",
    sees="`ask` ends at once; its error says that the server was killed, and how to start it again",
    keeps="What had come of the answer: it stays on the screen, and is the error's `answer`",
    cleans="`stop` removes what is left; a start under the same name does, too",
    within_s=20,
)
def test_a_server_killed_in_mid_answer_is_told_and_its_words_are_kept(place, bound):
    server = llmlab.start("tiny", name="a", backend=place)
    process = pid(server)

    def killed() -> None:
        kill(process)
        eventually(lambda: server.status.state == "exited", bound)

    error = broken_off(server, killed, bound)
    assert isinstance(error, ServerStoppedError)
    assert "killed by SIGKILL" in error.message
    assert "start tiny --name a" in error.hint
    assert [row.state for row in llmlab.ps()] == ["exited"]
    works_again(place, bound)


@promise(
    part="Servers",
    fault="A container has no memory left within its limit",
    sees="`ps` and the error of `ask` say that it was out of memory, its limit, what was predicted and what it held,"
    " and give the line that starts it with more",
    keeps="Its log, and all other servers: only that container is at its limit",
    cleans="`stop` removes what is left; a start under the same name does, too",
    within_s=40,
)
def test_a_container_without_memory_is_told_with_its_figures(require_docker, require_engine, bound):
    other = llmlab.start("tiny", name="other", backend="container")
    server = llmlab.start("tiny", name="a", context=1024, backend="container")
    # The least that the kernel grants: what it holds cannot be taken from it, but it can grow no more.
    assert any(_limited(str(server.record.container_id), limit) for limit in range(12, 64, 2))
    with pytest.raises(ServerError) as caught:
        _fill(server, bound)
    eventually(lambda: server.status.state == "exited", bound)
    assert "out of memory (the limit is " in server.status.detail
    assert "it held " in server.status.detail
    assert " --memory " in server.status.remedy
    if isinstance(caught.value, ServerStoppedError):
        assert "out of memory" in caught.value.message
    assert server.logs().lines
    assert other.ask("What is a GPU?", max_tokens=3).text
    other.stop()
    works_again("container", bound)


def _fill(server: llmlab.Server, timeout_s: float) -> None:
    for _ in range(50):
        server.ask("container " * 300, max_tokens=50, timeout_s=timeout_s)


def _limited(container_id: str, limit_mib: int) -> bool:
    limit = f"{limit_mib}m"
    command = ["docker", "update", "--memory", limit, "--memory-swap", limit, container_id]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def halt(server: llmlab.Server) -> None:
    """As `docker pause` does, or a shell's Ctrl-Z."""
    if server.record.container_id:
        docker("pause", server.record.container_id)
    else:
        os.kill(pid(server), signal.SIGSTOP)


def resume(server: llmlab.Server) -> None:
    if server.record.container_id:
        docker("unpause", server.record.container_id)
    else:
        os.kill(pid(server), signal.SIGCONT)


@promise(
    part="Servers",
    fault="A server is halted in the middle of an answer: `docker pause`, or SIGSTOP",
    sees="`ask` ends when nothing has come for its `timeout_s`; its error says that it is paused, and the line that"
    " lets it go on",
    keeps="What had come of the answer, as the error's `answer`; the server answers again once it goes on",
    cleans="Nothing is to be cleaned; `stop` works while it is halted",
    within_s=30,
)
def test_a_server_that_is_halted_in_mid_answer_is_told_and_can_be_stopped(place, bound):
    server = llmlab.start("tiny", name="a", backend=place)
    began = time.monotonic()
    with pytest.raises(
        ServerBusyError, match=r"sent nothing for 1 s: it is (paused|halted).*lets it go on"
    ) as caught:
        asked_when(server, lambda: halt(server), timeout_s=1)
    assert time.monotonic() - began < bound
    assert caught.value.answer
    assert caught.value.answer.text
    assert caught.value.answer.finish_reason == "timeout"
    assert [row.state for row in llmlab.ps()] == ["paused"]
    resume(server)
    assert server.ask("What is a GPU?", max_tokens=3).text
    halt(server)
    began = time.monotonic()
    llmlab.stop("a", grace_s=1)
    assert time.monotonic() - began < bound
    assert not llmlab.ps()


@promise(
    part="Servers",
    fault="A server is halted in the middle of an answer, and goes on before `timeout_s` is over",
    sees="A pause in the answer, and no error",
    keeps="The whole answer: it goes on where it was",
    cleans="Nothing is to be cleaned",
    within_s=30,
)
def test_an_answer_goes_on_where_it_was_when_the_server_does(place, bound):
    with llmlab.start("tiny", name="a", backend=place) as server:
        later = threading.Timer(1, resume, [server])

        def halted() -> None:
            halt(server)
            later.start()

        answer = asked_when(server, halted, timeout_s=bound)
        later.join()
        assert answer.finish_reason == "length"
        assert answer.tokens
        assert answer.completion_tokens == len(answer.tokens)
        assert answer.total_s > 0.5, "it was halted in its middle"


_BY_DOCKER = [["stop", "-t", "1"], ["kill"], ["restart", "-t", "1"], ["rm", "-f"]]


@pytest.mark.parametrize("words", _BY_DOCKER, ids=["stop", "kill", "restart", "rm"])
@promise(
    part="Servers",
    fault="Another tool ends its container in the middle of an answer: `docker stop`, `kill`, `restart` or `rm -f`",
    sees="`ask` ends; its error says that the server is not running, or has been stopped, and how to start it again",
    keeps="What had come of the answer, as the error's `answer`; its log, unless the container was removed",
    cleans="`stop` removes what is left; of a container that was removed, the next `ps` or start does",
    within_s=40,
)
def test_a_container_that_another_tool_ends_in_mid_answer(require_docker, require_engine, words, bound):
    server = llmlab.start("tiny", name="a", backend="container")

    def ended() -> None:
        docker(*words, str(server.record.container_id))
        # Started anew, it finds that it may not make its socket again.
        eventually(lambda: server.status.state in {"exited", "stopped"}, bound)

    error = broken_off(server, ended, bound)
    assert isinstance(error, ServerStoppedError)
    assert "is not running" in error.message or "has been stopped" in error.message
    assert "start tiny --name a" in error.hint
    states = [row.state for row in llmlab.ps()]
    assert states == ([] if words[0] == "rm" else ["exited"])
    works_again("container", bound)


@promise(
    part="Servers",
    fault="Another tool tells a native server to end (SIGTERM) in the middle of an answer",
    sees="`ask` ends; its error says with which exit code the server ended, and how to start it again",
    keeps="What had come of the answer, as the error's `answer`; its log",
    cleans="`stop` removes what is left; a start under the same name does, too",
    within_s=40,
)
def test_a_native_server_that_is_told_to_end_in_mid_answer(require_engine, bound):
    server = llmlab.start("tiny", name="a", backend="native")
    process = pid(server)

    def ended() -> None:
        # The first time it waits for those whom it answers; the second time it ends.
        while server.status.state != "exited":
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
            time.sleep(0.2)

    error = broken_off(server, ended, bound)
    assert isinstance(error, ServerStoppedError)
    assert "exit code" in error.message
    assert "start tiny --name a" in error.hint
    assert server.logs().lines
    works_again("native", bound)
