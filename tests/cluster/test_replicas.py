"""A server with replicas on three nodes, and what breaks: a daemon, a cable, a manager, the gateway."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tools.three_engines import NODES, ThreeEngines

import llmlab
from llmlab import runtime
from llmlab.backends import gateway
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import BackendError, LabError, ServerStoppedError, UsageError
from llmlab.lab import left_behind
from tests.cluster.conftest import UNCLOSED, docker, within

pytestmark = [pytest.mark.cluster, UNCLOSED, pytest.mark.timeout(600)]

LONG = {"max_tokens": 900, "temperature": 0}


@pytest.fixture
def cluster(three: ThreeEngines, require_engine: Any) -> Iterator[ThreeEngines]:
    """The three engines as one cluster that n1 manages."""
    llmlab.cluster("init")
    llmlab.cluster("join", "n2,n3")
    yield three
    for node in NODES:
        three.mend(node)
        three.revive(node)
    for server in llmlab.ps():
        if "." not in server.name:
            llmlab.stop(server.name, forget=True)
    llmlab.nodes()


def eventually(what: Callable[[], Any], within_s: float = 90.0) -> Any:
    """What it says, once that is true."""
    deadline = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.5)
    return found


def ask(server: llmlab.Server, **more: Any) -> llmlab.Answer:
    return server.ask("What is a GPU?", **{"max_tokens": 8, "temperature": 0, **more})


def refused(call: Callable[[], Any]) -> list[LabError]:
    """The error that it raises, if it does."""
    try:
        call()
    except LabError as error:
        return [error]
    return []


def verdicts(name: str) -> set[str]:
    """What an audit of one server has found."""
    audit = llmlab.audit(name)
    assert isinstance(audit, llmlab.Audit)
    return {each.verdict for each in audit.findings}


def record(name: str = "tiny") -> Any:
    return runtime.read_record(name)


def seen(name: str = "tiny") -> dict[str, gateway.Seen]:
    return {each.name: each for each in gateway.ask(record(name))}


def nodes_of(name: str = "tiny") -> dict[str, str]:
    """Replica → node."""
    found = (runtime.read_record(replica) for replica in record(name).replicas)
    return {each.name: each.node or "" for each in found if each}


def all_ready(name: str = "tiny", count: int = 3) -> bool:
    states = seen(name)
    return len(states) == count and {each.state for each in states.values()} == {"ready"}


def left_on(three: ThreeEngines, node: str) -> str:
    return docker(three, node, "ps", "--all", "--quiet")


def test_three_replicas_answer_behind_one_address_and_nothing_of_them_is_left(cluster: ThreeEngines):
    server = llmlab.start("tiny", replicas=3)
    assert sorted(nodes_of().values()) == list(NODES)
    answers = {ask(server).text for _ in range(9)}
    assert len(answers) == 1
    served = [each.served for each in seen().values()]
    # Each was asked for its first token by its own start, not through the gateway.
    assert sum(served) >= 9
    assert min(served) >= 2
    row = next(row for row in llmlab.ps() if row.name == "tiny")
    assert (row.backend, row.isolation, row.state, row.detail) == ("swarm", "sealed", "ready", "")
    inspected = server.inspect()
    assert not [each.name for each in inspected.isolation if each.agrees is False]
    assert all(f"{name} on {node}" in inspected.facts["replicas"] for name, node in nodes_of().items())
    llmlab.stop("tiny")
    assert not llmlab.ps()
    assert not [left_on(cluster, node) for node in NODES if left_on(cluster, node)]
    assert "llmlab" not in docker(cluster, "n1", "network", "ls", "--filter", "driver=overlay")
    assert not [path for path in runtime.runtime_dir().iterdir() if path.name[0] != "."]


def test_each_replica_is_sealed_and_only_its_door_is_in_the_network(cluster: ThreeEngines):
    with llmlab.start("tiny", replicas=3):
        for name, node in nodes_of().items():
            assert verdicts(name) <= {"pass", "not applicable"}, node
        inside = docker(cluster, "n1", "network", "inspect", record().overlay)
        assert '"Internal": true' in inside
        assert "tiny.1-door" in inside
        # What is in that network reaches its own and nothing else: not this machine, for one.
        door = next(
            line
            for line in docker(cluster, "n1", "ps", "--format", "{{.Names}}").splitlines()
            if "door" in line
        )
        routes = within(cluster, "n1", door, "ip", "route").stdout
        assert "default" not in routes
        outside = within(cluster, "n1", door, "bash", "-c", f"echo > /dev/tcp/{cluster.address('n2')}/2376")
        assert outside.returncode != 0
        assert "unreachable" in outside.stderr


def test_one_replica_can_be_asked_and_not_be_stopped(cluster: ThreeEngines):
    with llmlab.start("tiny", replicas=2):
        assert ask(llmlab.attach("tiny.2")).completion_tokens == 8
        with pytest.raises(UsageError, match="is a replica of tiny"):
            llmlab.stop("tiny.2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"replicas": 0}, "replicas is 0"),
        ({"replicas": 2, "backend": "native"}, "run in containers"),
        ({"replicas": 2, "profile": "none"}, "do not go together"),
        ({"replicas": 2, "transport": "relay"}, "do not go together"),
        ({"replicas": 2, "dry_run": True}, "no single command"),
        ({"replicas": 2, "on": "n9"}, "no node 'n9'"),
    ],
)
def test_bad_input_is_told(cluster: ThreeEngines, words: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        llmlab.start("tiny", **words)
    assert not llmlab.ps()


def test_without_a_cluster_it_is_told_how_to_make_one(three: ThreeEngines, require_engine: Any):
    with pytest.raises(UsageError, match="no cluster") as raised:
        llmlab.start("tiny", replicas=2)
    assert "cluster init" in raised.value.hint


def test_a_node_whose_engine_leaves_something_out_gets_no_replica(
    cluster: ThreeEngines, monkeypatch: pytest.MonkeyPatch
):
    create = DockerApi.create

    def forgetful(self: DockerApi, name: str, request: dict[str, Any]) -> str:
        if self.address.startswith("tcp://") and "tiny" in name and "door" not in name:
            # As engines with an API before 1.44 do to services.
            request["HostConfig"]["SecurityOpt"] = [
                each
                for each in request["HostConfig"]["SecurityOpt"]
                if not each.startswith("no-new-privileges")
            ]
        return create(self, name, request)

    monkeypatch.setattr(DockerApi, "create", forgetful)
    with pytest.raises(BackendError, match=r"node n2 does not keep.*no new privileges"):
        llmlab.start("tiny", replicas=3)
    assert not llmlab.ps()
    assert not [node for node in NODES if left_on(cluster, node)]


def test_a_killed_daemon_loses_no_answer_and_its_replica_is_replaced(cluster: ThreeEngines):
    server = llmlab.start("tiny", replicas=3)
    lost = next(name for name, node in nodes_of().items() if node == "n2")
    cluster.kill("n2")
    # Docker does not stop what runs when its daemon is killed: the replica goes on and answers.
    for _ in range(6):
        assert ask(server).completion_tokens == 8
    assert cluster.engine("n2").containers() > 0
    cluster.revive("n2")
    eventually(all_ready)
    for _ in range(6):
        assert ask(server).completion_tokens == 8
    assert len(nodes_of()) == 3
    # A daemon that comes back without live-restore has ended its containers.
    assert lost not in nodes_of() or seen()[lost].state == "ready"


def test_a_cut_cable_is_noticed_its_replica_replaced_and_swept_on_return(cluster: ThreeEngines):
    server = llmlab.start("tiny", replicas=3)
    lost = next(name for name, node in nodes_of().items() if node == "n3")
    cluster.cut("n3")
    for _ in range(12):
        assert ask(server).completion_tokens == 8
    eventually(lambda: lost not in nodes_of() and all_ready())
    assert "n3" not in nodes_of().values()
    assert cluster.engine("n3").containers() > 0
    eventually(lambda: [each.name for each in left_behind.waiting()] == [lost])
    cluster.mend("n3")
    eventually(lambda: not left_behind.waiting())
    names = docker(cluster, "n3", "ps", "--all", "--format", "{{.Names}}")
    assert lost not in names
    llmlab.stop("tiny")


def test_a_stream_on_a_lost_node_ends_with_what_had_come_and_is_not_asked_twice(cluster: ThreeEngines):
    server = llmlab.start("synthetic:smollm2-135m:Q4_0", name="slow", replicas=2, on=None, slots=1)
    assert server.record.replicas
    away = next((name for name, node in nodes_of("slow").items() if node != "n1"), None)
    assert away
    node = nodes_of("slow")[away]
    raised: list[LabError] = []

    def stream() -> None:
        try:
            server.ask("Count.", max_tokens=2000, temperature=0, timeout_s=60)
        except LabError as error:
            raised.append(error)

    streams = [threading.Thread(target=stream) for _ in range(2)]
    for each in streams:
        each.start()
    eventually(lambda: seen("slow")[away].open == 1)
    time.sleep(5)  # until the answers have begun; they take half a minute
    before = {name: each.served for name, each in seen("slow").items()}
    cluster.cut(node)
    eventually(lambda: raised, within_s=60)
    assert isinstance(raised[0], ServerStoppedError)
    assert raised[0].hint
    now = {name: each.served for name, each in seen("slow").items() if name in before}
    # The other one was not given what the lost one had been asked.
    assert all(now[name] == before[name] for name in now)
    llmlab.stop("slow", forget=True)
    for each in streams:
        each.join(60)


def test_a_killed_gateway_ends_streams_with_a_clear_error(cluster: ThreeEngines):
    server = llmlab.start("tiny", replicas=2)
    stop = threading.Event()
    raised: list[LabError] = []

    def keep_asking() -> None:
        while not stop.is_set() and not raised:
            raised.extend(refused(lambda: ask(server, **LONG)))

    thread = threading.Thread(target=keep_asking)
    thread.start()
    eventually(lambda: any(each.open for each in seen().values()))
    docker(cluster, "n1", "kill", str(record().container_id))
    eventually(lambda: raised, within_s=60)
    stop.set()
    thread.join(30)
    assert isinstance(raised[0], ServerStoppedError)
    row = next(row for row in llmlab.ps() if row.name == "tiny")
    assert row.state == "exited"
    llmlab.stop("tiny")
    assert not [node for node in NODES if left_on(cluster, node)]


def test_a_drained_node_loses_its_replica_and_no_answer(cluster: ThreeEngines):
    server = llmlab.start("tiny", replicas=3)
    failures: list[LabError] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            failures.extend(refused(lambda: ask(server, max_tokens=64)))

    thread = threading.Thread(target=keep_asking)
    thread.start()
    try:
        llmlab.cluster("drain", "n2")
        eventually(lambda: "n2" not in nodes_of().values() and all_ready())
        eventually(lambda: not left_on(cluster, "n2"))
    finally:
        stop.set()
        thread.join(30)
    assert not failures


def test_a_restarted_manager_takes_nothing_away(cluster: ThreeEngines):
    server = llmlab.start("tiny", replicas=3)
    others = {name: node for name, node in nodes_of().items() if node != "n1"}
    cluster.restart("n1")
    # The gateway was on it, and ends with its daemon; the replicas on other nodes do not.
    assert all(left_on(cluster, node) for node in others.values())
    states = {row.name: row.state for row in llmlab.ps()}
    assert all(states[name] == "ready" for name in others)
    assert states["tiny"] == "exited"
    assert ask(llmlab.attach(next(iter(others)))).completion_tokens == 8
    with pytest.raises(ServerStoppedError):
        ask(server)
    llmlab.stop("tiny")
    assert not [node for node in NODES if left_on(cluster, node)]


def test_without_a_quorum_what_runs_goes_on(three: ThreeEngines, require_engine: Any):
    llmlab.cluster("init")
    llmlab.cluster("join", "n2,n3", manager=True)
    server = llmlab.start("tiny", replicas=3)
    three.kill("n2")
    three.kill("n3")
    # Two of three managers are gone; their containers go on.
    for _ in range(6):
        assert ask(server).completion_tokens == 8
    # A manager that has lost the others answers with what it knew for some 20 s.
    eventually(lambda: llmlab.cluster("status").quorum is False)
    with pytest.raises(LabError, match="no quorum"):
        llmlab.start("tiny", name="more", replicas=2)
    three.revive("n2")
    three.revive("n3")
    eventually(lambda: llmlab.cluster("status").quorum)
    eventually(all_ready)
    llmlab.stop("tiny", forget=True)
    llmlab.nodes()


def test_an_image_that_is_missing_on_a_node_is_sent_anew(cluster: ThreeEngines):
    llmlab.start("tiny", on="n2").stop()
    named = ("images", "--quiet", "llmlab/llama-server")
    layers = ("image", "inspect", "--format", "{{.RootFS.Layers}}")
    image = docker(cluster, "n2", *named)
    held = docker(cluster, "n2", *layers, image)
    docker(cluster, "n2", "rmi", "--force", image)
    assert not docker(cluster, "n2", *named)
    with llmlab.start("tiny", replicas=3) as server:
        assert ask(server).completion_tokens == 8
        assert docker(cluster, "n2", *layers, docker(cluster, "n2", *named)) == held


def test_replicas_go_with_whoever_started_them(cluster: ThreeEngines):
    code = "import llmlab, time; llmlab.start('tiny', replicas=2); print('up', flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == "up"
        keeper = record().process
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Nobody looks: the keeper notices by itself.
        eventually(lambda: not [node for node in NODES if left_on(cluster, node)])
        eventually(lambda: not runtime.is_alive(keeper))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_replica_that_ends_is_started_anew(cluster: ThreeEngines):
    with llmlab.start("tiny", replicas=2) as server:
        name, node = next((name, node) for name, node in nodes_of().items() if node != "n1")
        before = runtime.read_record(name)
        assert before
        docker(cluster, node, "kill", str(before.container_id))
        eventually(lambda: name not in nodes_of() and all_ready(count=2))
        for _ in range(4):
            assert ask(server).completion_tokens == 8


def test_a_start_that_was_killed_leaves_nothing(cluster: ThreeEngines):
    code = "import llmlab; llmlab.start('tiny', replicas=3, keep=True)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: runtime.read_record("tiny.1"))
    finally:
        process.kill()
        process.wait()
    assert record() is None
    llmlab.ps()
    assert not llmlab.ps()
    # What an audit has left is removed by the next one.
    mine = ("ps", "--all", "--quiet", "--filter", "label=llmlab.user")
    assert not [node for node in NODES if docker(cluster, node, *mine)]

    def swept() -> bool:
        # Swarm counts an endpoint that is gone for a moment longer.
        llmlab.cluster("status")
        return "llmlab" not in docker(cluster, "n1", "network", "ls", "--filter", "driver=overlay")

    eventually(swept)


def test_two_nodes_lost_at_once_are_replaced_once_each(cluster: ThreeEngines):
    server = llmlab.start("tiny", replicas=3)
    cluster.cut("n2")
    cluster.cut("n3")
    eventually(lambda: set(nodes_of().values()) == {"n1"} and all_ready())
    assert ask(server).completion_tokens == 8
    # No more than one for each that was lost, once the lost ones are given up.
    eventually(lambda: len([each for each in runtime.records() if each.replica_of == "tiny"]) == 3)
