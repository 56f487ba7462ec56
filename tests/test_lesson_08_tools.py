"""What lesson 08 uses: questions that go on while something happens, cables, and what goes over them."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

import llmlab
from llmlab.errors import LabError, UnknownNameError, UsageError
from llmlab.workshop import cables, meanwhile, wire
from tests import classrooms
from tests.conftest import missing


@pytest.fixture
def server(require_engine):
    with llmlab.start("tiny", backend="native", name="solo") as started:
        yield started


# Questions that go on


def test_questions_go_on_until_the_block_ends_and_none_is_lost(server):
    with meanwhile.asking("solo", learners=2, every_s=0.05, tokens=4) as asking:
        time.sleep(0.6)
    found = asking.seen
    assert len(found.questions) >= 4
    assert found.failed == 0
    assert found.longest_s
    count = len(found.questions)
    time.sleep(0.2)
    assert len(asking.seen.questions) == count
    text, html = str(found), found.to_html()
    assert f"{count} questions of 2 learners, 0 failed" in text
    assert "0 to 5" in html
    assert found.to_dict()["asked"] == count


def test_what_fails_is_counted_with_its_reason_and_others_go_on(server):
    with meanwhile.asking(server, learners=1, every_s=0.05, tokens=4) as asking:
        time.sleep(0.4)
        server.stop(grace_s=0)
        time.sleep(0.4)
    found = asking.seen
    assert 0 < found.failed < len(found.questions)
    assert not found.questions[0].failed
    assert found.questions[-1].failed
    assert f"{found.failed} failed" in str(found)
    assert any(reason in str(found) for reason in {each.failed for each in found.questions if each.failed})


def test_an_error_in_the_block_ends_what_is_under_way_and_counts_it_as_nothing(server):
    asking = meanwhile.asking("solo", learners=2)

    def broken() -> None:
        with asking:
            time.sleep(0.3)
            raise RuntimeError("broken")

    with classrooms.halted(server), pytest.raises(RuntimeError, match="broken"):
        broken()
    assert not asking.seen.questions
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("llmlab asks")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"learners": 0},
        {"learners": 2.5},
        {"learners": "two"},
        {"every_s": 0},
        {"every_s": None},
        {"tokens": 0},
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_hint(wrong):
    with pytest.raises(UsageError) as told:
        meanwhile.asking("nobody", **wrong)
    assert next(iter(wrong)) in told.value.message
    assert told.value.hint


def test_nothing_asked_is_no_zero():
    nothing = meanwhile.Asked(server="trio", learners=2, questions=())
    assert nothing.longest_s is None
    assert "nothing was asked" in str(nothing)


# Cables


@pytest.fixture
def nodes(require_docker, monkeypatch, tmp_path):
    """A name for an engine that is not there; this machine's own is the current one."""
    if not shutil.which("docker"):
        missing("docker", "the command")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    command = ["docker", "context", "create", "gone", "--docker", "host=tcp://127.0.0.1:9"]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path


UNCLOSED = pytest.mark.filterwarnings("ignore:unclosed file .*meta.json:ResourceWarning")


@UNCLOSED
def test_the_command_of_the_environment_pulls_and_plugs(nodes, monkeypatch):
    note = nodes / "said"
    code = f"import sys; open({str(note)!r}, 'a').write(' '.join(sys.argv[1:]) + ';')"
    monkeypatch.setenv(cables.VARIABLE, shlex.join([sys.executable, "-c", code]))
    assert str(cables.pull("gone")) == "the cable of gone is pulled"
    assert str(cables.plug("gone")) == "the cable of gone is plugged in"
    assert note.read_text() == "cut gone;mend gone;"


@UNCLOSED
@pytest.mark.parametrize(
    ("code", "reason"),
    [("import sys; sys.exit('no such cable')", "no such cable"), ("import os; os._exit(1)", "why")],
)
def test_a_command_that_fails_says_why(nodes, monkeypatch, code, reason):
    monkeypatch.setenv(cables.VARIABLE, shlex.join([sys.executable, "-c", code]))
    with pytest.raises(LabError, match=reason) as told:
        cables.pull("gone")
    assert cables.VARIABLE in told.value.hint


@UNCLOSED
def test_a_command_that_is_not_there_is_an_error_of_ours(nodes, monkeypatch):
    monkeypatch.setenv(cables.VARIABLE, "/no/such/program")
    with pytest.raises(LabError, match="does not work"):
        cables.pull("gone")


@UNCLOSED
def test_without_a_command_it_is_a_persons_task_and_waited_for(nodes, monkeypatch):
    monkeypatch.delenv(cables.VARIABLE, raising=False)
    monkeypatch.setattr(cables, "_BY_HAND_S", 0.2)
    assert cables.pull("gone").state == "pulled", "it does not answer, as wanted"
    with pytest.raises(LabError, match="gone is still lost") as told:
        cables.plug("gone")
    assert "Plug" in told.value.hint


@UNCLOSED
def test_this_machines_own_cable_and_unknown_ones_are_refused(nodes, monkeypatch):
    monkeypatch.setenv(cables.VARIABLE, "false")
    with pytest.raises(UsageError, match="talks to first"):
        cables.pull("default")
    with pytest.raises(UnknownNameError):
        cables.pull("nobody")


# What is sent


@UNCLOSED
def test_what_is_sent_towards_a_machine_is_counted_where_it_leaves(nodes):
    with wire.counting("gone") as sent, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        assert sent.to_dict()["nbytes"] is None
        for _ in range(200):
            way.sendto(bytes(1000), ("127.0.0.1", 9))
    assert sent.interface == "lo"
    assert sent.nbytes is not None
    assert sent.nbytes >= 200_000
    assert "kB sent to gone" in str(sent)
    assert sent.to_dict()["nbytes"] == sent.nbytes


@UNCLOSED
@pytest.mark.parametrize(
    ("node", "error"),
    [("default", "is this machine"), ("nowhere", "no node 'nowhere'")],
    ids=["here", "unknown"],
)
def test_what_is_sent_to_no_other_machine_is_not_counted(nodes, node, error):
    with pytest.raises(LabError, match=error), wire.counting(node):
        pass
