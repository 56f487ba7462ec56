"""The verb `cluster` on three real engines: membership, drain, quorum, networks between nodes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tools.three_engines import NODES, ThreeEngines

import llmlab
from llmlab.backends.docker_swarm import QuorumError
from llmlab.errors import BackendError, LabError, UnknownNameError, UsageError
from tests.cluster.conftest import UNCLOSED, by_name, docker, made
from tests.conftest import eventually, run_cli

pytestmark = [pytest.mark.cluster, UNCLOSED]

# Swarm's own: a node is down after three heartbeats of 5 s, a manager's call fails after 20 s.
_NOTICED_S = 60.0


def own_view(three: ThreeEngines, node: str) -> str:
    return docker(three, node, "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}")


# Membership


def test_without_a_cluster_it_says_how_to_make_one(three: ThreeEngines):
    found = llmlab.cluster()
    assert found.id is None
    assert "cluster init" in str(found)
    with pytest.raises(UsageError, match="cluster init"):
        llmlab.cluster("join", "n2")


def test_three_nodes_through_three_kinds_of_connection(three: ThreeEngines):
    found = made()
    nodes = by_name(found)
    assert set(nodes) == set(NODES)
    assert {name: node.role for name, node in nodes.items()} == dict.fromkeys(NODES, "worker") | {
        "n1": "manager"
    }
    assert {name: node.address for name, node in nodes.items()} == {
        name: three.address(name) for name in NODES
    }
    assert all((node.state, node.availability) == ("ready", "active") for node in nodes.values())
    assert all(node.engine and node.cpus and node.memory_mib for node in nodes.values())
    assert (found.quorum, found.managers, found.answering, found.exit_status) == (True, 1, 1, 0)
    # As the engines themselves say.
    assert [own_view(three, name) for name in NODES] == ["active true", "active false", "active false"]
    assert len(docker(three, "n1", "node", "ls", "--quiet").split()) == 3


def test_what_a_node_declares_is_shown(three: ThreeEngines):
    nodes = by_name(made())
    assert nodes["n2"].resources == {"NVIDIA-GPU": 1}
    assert nodes["n1"].resources == {}


def test_nobody_sees_a_token(three: ThreeEngines):
    llmlab.cluster("init")
    done = run_cli("cluster", "join", "n2,n3", "--json")
    assert "SWMTKN" not in done.stdout + done.stderr
    assert [node["state"] for node in json.loads(done.stdout)["nodes"]] == ["ready"] * 3


def test_joining_again_changes_nothing(three: ThreeEngines):
    before = by_name(made())
    found = llmlab.cluster("join", "n2")
    assert "n2 is in the cluster already" in found.done
    assert by_name(found)["n2"].id == before["n2"].id


def test_a_node_that_leaves_is_off_the_list_and_may_come_back(three: ThreeEngines):
    made()
    assert set(by_name(llmlab.cluster("leave", "n3"))) == {"n1", "n2"}
    assert own_view(three, "n3") == "inactive false"
    assert set(by_name(llmlab.cluster("join", "n3"))) == set(NODES)


def test_a_manager_hands_over_before_it_leaves(three: ThreeEngines):
    made(managers=2)
    found = llmlab.cluster("leave", "n1")
    assert set(by_name(found)) == {"n2", "n3"}
    assert by_name(found)["n2"].leader
    assert (found.quorum, found.managers) == (True, 1)


def test_the_last_manager_leaves_workers_only_if_forced(three: ThreeEngines):
    made()
    with pytest.raises(UsageError, match=r"only manager.*--force"):
        llmlab.cluster("leave", "n1")
    found = llmlab.cluster("leave", "n1", force=True)
    assert "no more" in found.done[0]
    # Where another engine that Docker knows is silent, that one may be a manager.
    assert found.quorum is not True
    assert found.answering == 0
    assert "no more" in str(found)
    with pytest.raises(LabError, match="n2 can leave all the same: --force"):
        llmlab.cluster("leave", "n2")
    llmlab.cluster("leave", "n2,n3", force=True)
    assert llmlab.cluster().nodes == ()


def test_nodes_of_another_cluster_are_not_taken(three: ThreeEngines):
    llmlab.cluster("init")
    llmlab.cluster("init", on="n2")
    with pytest.raises(UsageError, match="n2 is in another cluster"):
        llmlab.cluster("join", "n3,n2")
    # Nothing was done by halves.
    assert own_view(three, "n3") == "inactive false"
    assert set(by_name(llmlab.cluster(on="n2"))) == {"n2"}
    with pytest.raises(UsageError, match="n1 is in a cluster already"):
        llmlab.cluster("init")


def test_which_of_two_clusters_is_meant(three: ThreeEngines):
    llmlab.cluster("init", on="n2")
    llmlab.cluster("init", on="n3")
    with pytest.raises(UsageError, match=r"several clusters.*--on"):
        llmlab.cluster()
    assert set(by_name(llmlab.cluster(on="n3"))) == {"n3"}


@contextmanager
def second_address(three: ThreeEngines, node: str, address: str) -> Iterator[None]:
    words = three.inside(node)
    subprocess.run([*words, "ip", "link", "add", "second", "type", "bridge"], check=True)
    subprocess.run([*words, "ip", "address", "add", f"{address}/24", "dev", "second"], check=True)
    subprocess.run([*words, "ip", "link", "set", "second", "up"], check=True)
    try:
        yield
    finally:
        subprocess.run([*words, "ip", "link", "delete", "second"], check=True)


def test_of_several_addresses_one_has_to_be_named(three: ThreeEngines):
    with second_address(three, "n3", "10.99.0.3"):
        with pytest.raises(UsageError, match=rf"{three.address('n3')}.*--advertise"):
            llmlab.cluster("init", on="n3")
        with pytest.raises(UsageError, match="one by one"):
            llmlab.cluster("join", "n2,n3", advertise=three.address("n3"))
        found = llmlab.cluster("init", on="n3", advertise=three.address("n3"))
        assert found.nodes[0].address == three.address("n3")


def test_a_manager_that_cannot_be_reached_leaves_no_half_member(three: ThreeEngines):
    with second_address(three, "n1", "10.99.0.1"):
        llmlab.cluster("init", advertise="10.99.0.1")
        with pytest.raises(BackendError, match=r"n2 cannot join.*does not reach") as caught:
            llmlab.cluster("join", "n2")
        assert "2377" in caught.value.hint
        assert own_view(three, "n2") == "inactive false"


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        (["init", "n2"], {}, "--on n2"),
        (["join"], {}, "which nodes"),
        (["status"], {"force": True}, "cluster leave"),
        (["leave", "n2"], {"encrypted": True}, "cluster init"),
        (["joining", "n2"], {}, "join"),
    ],
    ids=["init n2", "join", "status force", "leave encrypted", "joining"],
)
def test_what_does_not_fit_is_refused(
    three: ThreeEngines, words: list[Any], options: dict[str, Any], said: str
):
    with pytest.raises(UsageError, match=said):
        llmlab.cluster(*words, **options)


def test_an_unknown_node_is_refused_before_anything_is_done(three: ThreeEngines):
    llmlab.cluster("init")
    with pytest.raises(UnknownNameError, match="n4"):
        llmlab.cluster("join", "n2,n4")
    assert set(by_name(llmlab.cluster())) == {"n1"}
    with pytest.raises(UnknownNameError, match="n4"):
        llmlab.cluster("drain", "n1,n4")
    assert llmlab.cluster().nodes[0].availability == "active"


# Drain


def test_drain_and_activate(three: ThreeEngines):
    made()
    assert by_name(llmlab.cluster("drain", "n2,n3"))["n3"].availability == "drain"
    seen = docker(three, "n1", "node", "inspect", "n2", "n3", "--format", "{{.Spec.Availability}}")
    assert seen.split() == ["drain", "drain"]
    assert by_name(llmlab.cluster("activate", "n2"))["n2"].availability == "active"


# Faults


def test_a_killed_worker_is_down_and_comes_back(three: ThreeEngines):
    made()
    three.kill("n3")
    eventually(lambda: by_name(llmlab.cluster())["n3"].state == "down", _NOTICED_S)
    found = llmlab.cluster()
    assert found.exit_status == 1
    assert (by_name(found)["n3"].servers, by_name(found)["n2"].servers) == (None, ())
    # What is done to it is done by the managers.
    assert by_name(llmlab.cluster("drain", "n3"))["n3"].availability == "drain"
    three.revive("n3")
    eventually(lambda: by_name(llmlab.cluster())["n3"].state == "ready", _NOTICED_S)


def test_a_restarted_manager_has_its_cluster(three: ThreeEngines):
    before = made()
    three.restart("n1")
    # For a while it does not yet know what its workers do.
    eventually(lambda: {node.state for node in llmlab.cluster().nodes} == {"ready"}, _NOTICED_S)
    after = llmlab.cluster()
    assert after.id == before.id
    assert {node.id for node in after.nodes} == {node.id for node in before.nodes}


def unreachable(three: ThreeEngines) -> int:
    """How many managers n1 takes for lost; both, once it says nothing any more."""
    try:
        return docker(three, "n1", "node", "ls").count("Unreachable")
    except subprocess.CalledProcessError:
        return 2


def test_without_a_quorum_it_is_said_how_many_answer(three: ThreeEngines):
    made(managers=3)
    three.kill("n2")
    three.kill("n3")
    # For a while the manager that is left still answers with what it knew.
    eventually(lambda: unreachable(three) == 2, _NOTICED_S)
    found = llmlab.cluster()
    assert found.quorum is False
    assert (found.managers, found.answering, found.exit_status) == (3, 1, 1)
    assert {node.name: node.state for node in found.nodes} == {"n1": "answers", "n2": "lost", "n3": "lost"}
    assert "no quorum: 1 of 3 managers answer" in str(found)
    with pytest.raises(QuorumError, match=r"no quorum: 1 of 3 managers answer\n→ 2 of them"):
        llmlab.cluster("drain", "n1")
    three.revive("n2")
    eventually(lambda: llmlab.cluster().quorum, _NOTICED_S)
    assert by_name(llmlab.cluster("drain", "n1"))["n1"].availability == "drain"


def test_a_node_that_was_struck_off_is_told_when_it_is_back(three: ThreeEngines):
    made()
    three.cut("n2")
    with pytest.raises(BackendError, match="n2 does not answer"):
        llmlab.cluster("leave", "n2")
    assert set(by_name(llmlab.cluster("leave", "n2", force=True))) == {"n1", "n3"}
    three.mend("n2")
    found = eventually(lambda: (status := llmlab.cluster()).strays and status)
    assert found.strays == ("n2",)
    assert "n2 was struck off" in str(found)
    assert set(by_name(llmlab.cluster("join", "n2"))) == set(NODES)
    assert llmlab.cluster().strays == ()
