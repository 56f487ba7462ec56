"""Ctrl-C, at any moment of a question or of a start."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from functools import partial

import pytest

import llmlab
from llmlab.errors import AskInterrupted
from llmlab.lab import registry
from llmlab.reporting import reporting_to
from tests.conftest import eventually, inventory
from tests.faults.contract import promise
from tests.faults.midway import Interrupting, asked_when, ctrl_c, ctrl_c_after


@pytest.fixture(params=["native", "container"])
def place(request: pytest.FixtureRequest, require_engine: object) -> str:
    """Where the server runs."""
    if request.param == "container":
        request.getfixturevalue("require_docker")
    return str(request.param)


def idle(server: llmlab.Server) -> bool:
    return registry.client(server.record).busy_slots() == 0


# Ctrl-C in a question


def counted(server: llmlab.Server) -> float:
    """Tokens of prompts that the server has read, ever."""
    page = registry.client(server.record).get_text("/metrics")
    name = "llamacpp:prompt_tokens_total "
    return float(next(line.split()[1] for line in page.splitlines() if line.startswith(name)))


interrupted = partial(
    promise,
    part="Requests and answers",
    sees="The cell or the command ends as interrupted, with a note that says within what time the server has"
    " stopped generating",
    cleans="The connection is closed, and llmlab looks whether the server has stopped; the server is free again",
    within_s=30,
)


@promise(
    part="Requests and answers",
    fault="Ctrl-C in a question before it is sent",
    sees="The cell or the command ends as interrupted",
    keeps="The server, which has not heard of it",
    cleans="Nothing is to be cleaned",
    within_s=30,
)
def test_ctrl_c_before_a_question_is_sent(place, bound):
    with llmlab.start("tiny", name="a", backend=place) as server:
        before = counted(server)
        with reporting_to(Interrupting(called="asked")), pytest.raises(KeyboardInterrupt):
            server.ask("What is a container?")
        assert idle(server)
        assert counted(server) == before
        assert server.ask("What is a GPU?", max_tokens=3, timeout_s=bound).text


@promise(
    part="Requests and answers",
    fault="Ctrl-C while the first token is waited for",
    sees="The cell or the command ends as interrupted, with a note that says whether the server has stopped;"
    " an engine stops only after the part of the prompt that it is reading, some thousand tokens at most",
    keeps="The server; of the answer there is nothing yet, and the error's `answer` says so",
    cleans="The connection is closed at once; the server is free when it has read that part of the prompt",
    within_s=60,
)
def test_ctrl_c_while_the_first_token_is_waited_for(place, bound):
    with llmlab.start(
        "synthetic:smollm2-135m:Q4_0", name="a", backend=place, context=2048, slots=1
    ) as server:

        def when_it_reads() -> None:
            eventually(lambda: registry.client(server.record).busy_slots(), bound)
            ctrl_c()

        watcher = threading.Thread(target=when_it_reads)
        watcher.start()
        with pytest.raises(AskInterrupted) as caught:
            server.ask("word " * 400, max_tokens=1000, timeout_s=bound)
        watcher.join()
        assert (caught.value.answer.text, caught.value.answer.ttft_s) == ("", None)
        assert caught.value.note.startswith(
            ("the server stopped generating within", "the connection is closed")
        )
        eventually(lambda: idle(server), bound)
        assert server.ask("Hello", max_tokens=1, timeout_s=bound).completion_tokens == 1


@interrupted(
    fault="Ctrl-C in the middle of an answer",
    keeps="What had come of the answer, as the error's `answer`; the server",
)
def test_ctrl_c_in_mid_answer(place, bound):
    with llmlab.start("tiny", name="a", backend=place) as server:
        with pytest.raises(AskInterrupted) as caught:
            asked_when(server, ctrl_c, timeout_s=bound)
        answer = caught.value.answer
        assert answer.text
        assert answer.finish_reason == "interrupted"
        assert (answer.completion_tokens or 0) < 1000, "all of it had come"
        assert "stopped generating within" in caught.value.note
        assert idle(server)
        assert server.ask("What is a GPU?", max_tokens=3, timeout_s=bound).text


@interrupted(
    fault="Ctrl-C at the last word of an answer",
    keeps="All that was said, as the error's `answer`; the server",
)
def test_ctrl_c_at_the_last_word(place, bound):
    with llmlab.start("tiny", name="a", backend=place) as server:
        whole = server.ask("What is a GPU?", max_tokens=4, temperature=0).text
        said = ""

        def shown(piece: str) -> None:
            nonlocal said
            said += piece
            if said == whole:
                ctrl_c()

        with pytest.raises(AskInterrupted) as caught:
            server.send(server.request("What is a GPU?", max_tokens=4, temperature=0), shown)
        assert caught.value.answer.text == whole
        assert "stopped generating within" in caught.value.note
        assert idle(server)
        assert server.ask("What is a GPU?", max_tokens=3, timeout_s=bound).text


# Ctrl-C in a start


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        *(("native", stage) for stage in ("engine", "model", "load", "ready")),
        *(("container", stage) for stage in ("engine", "image", "model", "load", "ready")),
    ],
)
@promise(
    part="Servers",
    fault="Ctrl-C at any stage of `start` that is shown, up to the word that the server is ready",
    sees="The cell or the command ends as interrupted",
    keeps="The other servers; an image that has been made",
    cleans="Everything that was begun, before `start` returns: process or container, socket, directory",
    within_s=30,
)
def test_ctrl_c_at_a_stage_of_a_start_leaves_nothing(
    where, stage, bound, require_engine, isolated_runtime, request
):
    if where == "container":
        request.getfixturevalue("require_docker")
    began = time.monotonic()
    interrupting = Interrupting(stage)
    with reporting_to(interrupting), pytest.raises(KeyboardInterrupt):
        llmlab.start("tiny", name="a", backend=where)
    assert interrupting.told[-1] == stage
    assert inventory(isolated_runtime) == []
    assert time.monotonic() - began < bound
    with llmlab.start("tiny", name="a", backend=where) as server:
        assert server.ask("What is a GPU?", max_tokens=3).text


# What the standard library has open at that moment is closed by Python a little later, with a warning.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@promise(
    part="Servers",
    fault="Ctrl-C at any moment of `start`",
    sees="The cell or the command ends as interrupted",
    keeps="The other servers",
    cleans="Everything that was begun, before `start` returns; the name is free",
    within_s=60,
)
def test_ctrl_c_at_any_moment_of_a_start_leaves_nothing(place, bound, isolated_runtime):
    began = time.monotonic()
    llmlab.start("tiny", name="a", backend=place).stop()
    whole_s = time.monotonic() - began
    count = 0
    for moment in range(16):
        with reporting_to(Interrupting()) as seen:
            try:
                with ctrl_c_after(whole_s * moment / 16):
                    llmlab.start("tiny", name="a", backend=place)
            except KeyboardInterrupt:
                count += 1
        if "ready" in seen.told:
            llmlab.stop(all=True, grace_s=1)  # the start was over before
        assert inventory(isolated_runtime) == [], f"interrupted at {moment}/16 of a start"
    assert count
    assert time.monotonic() - began < bound


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@promise(
    part="Servers",
    fault="Ctrl-C twice in `start`: the second one while the first is being obeyed",
    sees="The cell or the command ends as interrupted, once everything is removed",
    keeps="The other servers",
    cleans="Everything that was begun, before `start` returns; the name is free",
    within_s=60,
)
def test_a_second_ctrl_c_does_not_leave_a_start_half_removed(place, bound, isolated_runtime):
    began = time.monotonic()
    for delay_ms in (1, 2, 4, 8, 16, 32):
        timer = threading.Timer(delay_ms / 1000, ctrl_c)

        def twice(timer: threading.Timer = timer) -> None:
            timer.start()
            signal.raise_signal(signal.SIGINT)

        with reporting_to(Interrupting("load", on_stage=twice)), suppress(KeyboardInterrupt):
            try:
                llmlab.start("tiny", name="a", backend=place)
            finally:
                timer.join()  # where everything is removed by then, the second one comes here
        assert inventory(isolated_runtime) == [], f"the second came {delay_ms} ms after the first"
    assert time.monotonic() - began < bound
