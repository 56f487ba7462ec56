"""Networks that span the nodes of a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from tools.three_engines import ThreeEngines

import llmlab
from llmlab.backends import labels
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import BackendError, UsageError
from tests.cluster.conftest import UNCLOSED, by_name, docker, engine, made, within
from tests.conftest import eventually

pytestmark = [pytest.mark.cluster, UNCLOSED]

_ASK = """
import socket, struct, sys
name = b"".join(bytes([len(part)]) + part.encode() for part in sys.argv[1].split(".")) + bytes(1)
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(5)
asked.sendto(struct.pack(">6H", 7, 256, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1), ("127.0.0.11", 53))
answer = asked.recv(512)
address = socket.inet_ntoa(answer[-4:])
print(address)
socket.create_connection((address, 8000), timeout=5).close()
"""
_LISTEN = "import socket; socket.create_server(('', 8000)).accept()"


def test_containers_of_two_nodes_meet_and_get_nowhere_else(three: ThreeEngines, run_on: Callable[..., str]):
    made()
    manager = engine(three, "n1")
    network = manager.make_overlay("between", labels.mine())
    assert manager.network("between") is not None
    assert llmlab.cluster().networks == ("between",)
    # As a server is started: first without a network that leads anywhere.
    near, far = (run_on(three, node, "--network", "between") for node in ("n1", "n2"))
    engine(three, "n2").disconnect("between", far)
    engine(three, "n2").connect(network, far, ["far.away"])
    pid = docker(three, "n2", "inspect", "--format", "{{.State.Pid}}", far)
    listening = subprocess.Popen(["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", _LISTEN])
    try:

        def reached() -> bool:
            return within(three, "n1", near, sys.executable, "-c", _ASK, "far.away").returncode == 0

        eventually(reached)
    finally:
        listening.kill()
        listening.wait()
    outside = f"import socket; socket.create_connection(('{three.address('n3')}', 22), timeout=3)"
    assert within(three, "n1", near, sys.executable, "-c", outside).returncode != 0
    with pytest.raises(BackendError):
        manager.remove_network("between")
    docker(three, "n1", "rm", "--force", near)
    docker(three, "n2", "rm", "--force", far)
    eventually(lambda: removed(manager, "between"))
    manager.remove_network("between")


def removed(manager: DockerApi, name: str) -> bool:
    """A manager hears of containers that are gone a little later."""
    try:
        manager.remove_network(name)
    except BackendError:
        return False
    return manager.network(name) is None


def test_a_node_does_not_leave_with_servers_in_a_network(three: ThreeEngines, run_on: Callable[..., str]):
    made()
    llmlab.start("tiny")
    record = next(iter(engine(three, "n1").containers(labels.RECORD)))["Labels"][labels.RECORD]
    llmlab.stop("tiny")
    engine(three, "n1").make_overlay("between", labels.mine())
    server = run_on(three, "n2", "--network", "between", "--label", f"{labels.RECORD}={record}")
    assert by_name(llmlab.cluster())["n2"].servers == ("tiny",)
    with pytest.raises(UsageError, match=r"networks: tiny.*--force"):
        llmlab.cluster("leave", "n2")
    docker(three, "n2", "rm", "--force", server)
    assert set(by_name(llmlab.cluster("leave", "n2"))) == {"n1", "n3"}


def test_whether_networks_are_to_be_encrypted_is_the_clusters(three: ThreeEngines):
    llmlab.cluster("init", encrypted=True)
    manager = engine(three, "n1")
    assert llmlab.cluster().encrypted
    assert manager.swarm_encrypted()
    manager.make_overlay("secret", labels.mine(), encrypted=True)
    assert "encrypted" in json.loads(docker(three, "n1", "network", "inspect", "secret"))[0]["Options"]


def test_only_a_manager_makes_networks(three: ThreeEngines):
    made()
    with pytest.raises(UsageError, match="no manager"):
        engine(three, "n2").make_overlay("between", labels.mine())
