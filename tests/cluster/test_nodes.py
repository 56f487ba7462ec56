"""Servers on other machines' engines: the same sealed profile, through TLS and through ssh."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tools.three_engines import NODES, ThreeEngines

import llmlab
from llmlab import runtime
from llmlab.backends import docker_api, labels
from llmlab.errors import BackendError, ChecksumError, DaemonError, UnknownNameError, UsageError
from llmlab.lab import left_behind
from tests.cluster.conftest import UNCLOSED, docker

pytestmark = [pytest.mark.cluster, UNCLOSED]


def question(server: llmlab.Server) -> llmlab.Answer:
    return server.ask("What is a GPU?", max_tokens=8, temperature=0)


@pytest.mark.parametrize("node", NODES)
def test_a_model_answers_from_each_node_sealed(three: ThreeEngines, require_engine: Any, node: str):
    with llmlab.start("tiny", on=node) as server:
        assert question(server).completion_tokens == 8
        assert server.record.node == node
        assert server.record.container_engine == three.hosts()[node]
        assert docker(three, node, "ps", "--quiet")
        (row,) = llmlab.ps()
        assert (row.node, row.isolation, row.state) == (node, "sealed", "ready")
        assert not [each.name for each in server.inspect().isolation if each.agrees is False]
        audit = llmlab.audit(server.name)
        assert isinstance(audit, llmlab.Audit)
        assert not [each.id for each in audit.findings if each.verdict in {"fail", "inconclusive"}]
        assert node in str(audit)
    assert not docker(three, node, "ps", "--all", "--quiet")


def test_the_answer_is_the_same_as_here(three: ThreeEngines, require_engine: Any):
    with llmlab.start("tiny", backend="native", name="here") as here:
        expected = question(here).text
    with llmlab.start("tiny", on="n3") as there:
        assert question(there).text == expected


def test_a_model_is_sent_once_and_compared_with_its_hash(
    three: ThreeEngines, require_engine: Any, monkeypatch: pytest.MonkeyPatch
):
    for volume in docker(three, "n2", "volume", "ls", "--quiet").split():
        docker(three, "n2", "volume", "rm", volume)
    sent: list[str] = []
    send = docker_api.DockerApi.send

    def counting(self: docker_api.DockerApi, container: str, folder: str, archive: Any) -> None:
        sent.append(folder)
        send(self, container, folder, archive)

    monkeypatch.setattr(docker_api.DockerApi, "send", counting)
    with llmlab.start("tiny", on="n2"):
        first = len(sent)
    assert first
    with llmlab.start("tiny", on="n2"):
        assert len(sent) == first
    (found,) = [node for node in llmlab.nodes() if node.name == "n2"]
    assert (found.models, found.image) == (("tiny",), True)


def test_what_arrives_as_something_else_is_refused(
    three: ThreeEngines, require_engine: Any, monkeypatch: pytest.MonkeyPatch
):
    for volume in docker(three, "n2", "volume", "ls", "--quiet").split():
        docker(three, "n2", "volume", "rm", volume)
    send = docker_api.DockerApi.send

    def spoiling(self: docker_api.DockerApi, container: str, folder: str, archive: Any) -> None:
        pieces = list(archive)
        if len(pieces) > 4:  # the model's
            middle = len(pieces) // 2
            pieces[middle] = bytes(reversed(pieces[middle]))
        send(self, container, folder, iter(pieces))

    monkeypatch.setattr(docker_api.DockerApi, "send", spoiling)
    with pytest.raises(ChecksumError, match="has arrived"):
        llmlab.start("tiny", on="n2")
    monkeypatch.undo()
    for key, value in three.env().items():
        os.environ[key] = value
    # What was refused is not taken for whole the next time.
    with llmlab.start("tiny", on="n2") as server:
        assert question(server).completion_tokens == 8


def test_any_takes_the_least_loaded(three: ThreeEngines, require_engine: Any):
    with llmlab.start("tiny", on="any") as first, llmlab.start("tiny", on="any") as second:
        assert first.record.node != second.record.node


def test_limits_are_those_of_the_node(three: ThreeEngines, require_engine: Any):
    with pytest.raises(UsageError, match="cpus is 999") as raised:
        llmlab.start("tiny", on="n2", cpus=999)
    assert "node n2 has" in raised.value.hint


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"on": "n9"}, "no node 'n9'"),
        ({"on": "n2", "backend": "native"}, "this machine only"),
        ({"on": "n2", "transport": "socket"}, "does not share"),
        ({"on": "n2", "expose": 0}, "on another machine"),
        ({"on": "ssh://"}, "names no host"),
    ],
)
def test_bad_input_is_told(three: ThreeEngines, require_engine: Any, words: dict[str, Any], message: str):
    with pytest.raises((UsageError, DaemonError), match=message) as raised:
        llmlab.start("tiny", **words)
    assert raised.value.hint
    assert not llmlab.ps()


def test_a_node_that_is_cut_off_is_told_and_does_not_stop_the_others(
    three: ThreeEngines, require_engine: Any, monkeypatch: pytest.MonkeyPatch
):
    three.cut("n3")
    found = {node.name: node for node in llmlab.nodes()}
    assert (found["n3"].state, found["n2"].state) == ("lost", "ready")
    assert found["n3"].cpus is None
    with pytest.raises(DaemonError, match="no container engine answers at ssh://"):
        llmlab.start("tiny", on="n3")
    with llmlab.start("tiny", on="any") as server:
        assert server.record.node != "n3"


def test_a_server_of_a_lost_node_can_be_given_up_and_is_removed_when_it_returns(
    three: ThreeEngines, require_engine: Any
):
    server = llmlab.start("tiny", on="n2")
    three.kill("n2")
    with pytest.raises(BackendError, match="answers") as raised:
        llmlab.stop(server.name)
    assert "--forget" in raised.value.hint
    (row,) = llmlab.ps()
    assert (row.name, row.state) == (server.name, "lost")
    llmlab.stop(server.name, forget=True)
    assert not llmlab.ps()
    assert [each.name for each in left_behind.waiting()] == [server.name]
    three.revive("n2")
    assert docker(three, "n2", "ps", "--all", "--quiet")
    llmlab.nodes()
    assert not docker(three, "n2", "ps", "--all", "--quiet")
    assert not left_behind.waiting()


def test_nothing_of_others_is_removed_from_a_node(three: ThreeEngines, require_engine: Any):
    theirs = docker(
        three, "n2", "create", "--label", f"{labels.USER}=1000-abcdef12", "--label", f"{labels.SERVER}=tiny",
        llmlab_image(three), "/x",
    )  # fmt: skip
    server = llmlab.start("tiny", on="n2")
    llmlab.nodes()
    llmlab.stop(server.name)
    assert docker(three, "n2", "ps", "--all", "--quiet", "--no-trunc") == theirs


def llmlab_image(three: ThreeEngines) -> str:
    llmlab.start("tiny", on="n2").stop()
    return docker(three, "n2", "images", "--quiet", "llmlab/llama-server").split()[0]


def test_a_start_that_was_killed_leaves_nothing_on_the_node(three: ThreeEngines, require_engine: Any):
    code = "import llmlab; llmlab.start('synthetic:smollm2-135m:Q4_0', on='n2', name='killed')"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while (
            not docker(three, "n2", "ps", "--quiet", "--filter", "name=killed")
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert docker(three, "n2", "ps", "--all", "--quiet")
    assert not llmlab.ps()
    assert not docker(three, "n2", "ps", "--all", "--quiet")
    assert not (runtime.runtime_dir() / "killed").exists()


def test_the_doctor_examines_a_node(three: ThreeEngines):
    found = llmlab.doctor(on="n3")
    rows = {row.name: row for row in found.rows}
    assert {row.group for row in found.rows} == {"Container engine"}
    assert "ssh://" in rows["engine"].seen
    with pytest.raises(UnknownNameError):
        llmlab.doctor(on="n9")


def test_ssh_says_what_it_is_told(three: ThreeEngines, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    config = tmp_path / "config"
    config.write_text("Host *\n  IdentityFile /dev/null\n  StrictHostKeyChecking no\n", encoding="ascii")
    monkeypatch.setenv("LLMLAB_SSH", f"ssh -F {config} -o UserKnownHostsFile=/dev/null")
    monkeypatch.setenv("LLMLAB_RUNTIME_DIR", str(tmp_path / "runtime"))
    with pytest.raises(DaemonError, match="Permission denied") as raised:
        docker_api.DockerApi(three.hosts()["n3"])
    assert "ssh-agent" in raised.value.hint
    monkeypatch.setenv("LLMLAB_SSH", str(tmp_path / "none"))
    with pytest.raises(DaemonError, match="there is no program"):
        docker_api.DockerApi(three.hosts()["n3"])
