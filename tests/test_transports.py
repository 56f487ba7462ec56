"""The ways to reach a server in a container: the choice, the behaviour, and the endpoint for others."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest

import llmlab
from llmlab import runtime
from llmlab.backends import docker_api, labels, relay, sidecar, transports
from llmlab.backends.transports import Situation, choose
from llmlab.errors import AskInterrupted, EndpointError, UnknownNameError, UsageError
from llmlab.lab import registry
from llmlab.reporting import Reporter, reporting_to
from tests.behaviour import LONG, Recorder, ServerBehaviour
from tests.conftest import eventually, inventory, run_cli
from tests.tcp_door import tcp_door
from tests.test_container import inspected

HERE = Situation(address="unix:///var/run/docker.sock", local=True)
AWAY = Situation(address="tcp://192.0.2.1:2376", local=False)
DESKTOP = Situation(address="unix:///var/run/docker.sock", local=False, desktop=True)
PUBLISHED = Situation(address="unix:///var/run/docker.sock", local=True, publish=True, profile="video")


# The choice


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (HERE, "socket"),
        (AWAY, "relay"),
        (DESKTOP, "relay"),
        (PUBLISHED, "port"),
        (Situation(address="", local=True, unix_sockets=False), "sidecar"),
        (Situation(address="", local=True, shared_user=False), "relay"),
        (Situation(address="", local=True, shared_user=False, unix_sockets=False), "relay"),
        (Situation(address="", local=False, unix_sockets=False), "relay"),
        (Situation(address="", local=False, desktop=True, publish=True), "port"),
        (Situation(address="", local=False, publish=True), "relay"),
    ],
)
def test_the_tightest_that_works_is_chosen(here, expected):
    choice = choose(None, here)
    assert choice.transport == expected
    assert choice.reason
    assert transports.GIVES_UP[choice.transport] in transports.describe(choice.transport)


@pytest.mark.parametrize(
    ("asked", "here", "why"),
    [
        ("socket", AWAY, "does not share this machine's files"),
        ("socket", DESKTOP, "does not share this machine's files"),
        ("sidecar", AWAY, "does not share this machine's files"),
        ("port", HERE, "profile sealed publishes no port"),
        ("port", Situation(address="x", local=False, publish=True), "on its own machine"),
        ("socket", PUBLISHED, "profile video has the engine listen on a published port"),
        ("socket", Situation(address="", local=True, unix_sockets=False), "cannot listen on a unix socket"),
        ("socket", Situation(address="", local=True, shared_user=False, user="1:1"), "user 1:1"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(asked, here, why):
    with pytest.raises(UsageError, match=why) as caught:
        choose(asked, here)
    assert "relay" in caught.value.hint


def test_an_unknown_transport():
    with pytest.raises(UnknownNameError, match="transport"):
        choose("pigeon", HERE)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", ["socket", "relay", "sidecar"])
def test_what_was_asked_for_is_taken(asked):
    assert choose(asked, HERE).transport == asked


# The behaviour through each


def without(*names: str) -> Callable[[type], type]:
    """Leave tests of the suite out, in a class that derives from it."""

    def mark(derived: type) -> type:
        for name in names:
            assert hasattr(derived, name), name
            setattr(derived, name, None)
        return derived

    return mark


@without(
    "test_a_context_larger_than_memory_is_refused_with_numbers",
    "test_bad_settings_of_ask",
    "test_files_that_are_no_models",
    "test_prompts_are_taken_as_they_are",
    "test_the_handle_shows_itself",
    "test_the_same_seed_gives_the_same_answer",
    "test_a_typed_control_token_does_not_change_roles",
    "test_a_model_is_served_from_a_path_with_odd_characters",
    "test_max_tokens_is_a_limit",
    "test_a_server_started_elsewhere_is_adopted",
    "test_two_processes_take_one_name_at_once",
)
class Reached(ServerBehaviour):
    """The suite, without what does not depend on the transport."""

    options: ClassVar[dict[str, Any]]

    @pytest.fixture
    def place(self, require_docker, require_engine):
        return {"backend": "container", **self.options}

    def test_its_transport_is_written_down(self, place):
        with llmlab.start("tiny", **place) as server:
            assert server.record.transport == self.options.get("transport", "port")
            found = server.inspect()
            assert str(found.facts["transport"]).startswith(f"{server.record.transport}; gives up: ")
            assert f"transport {server.record.transport}: " in " ".join(server.record.notes)


def pools_of(container: str) -> list[Any]:
    """The relays of this process that wait in a container."""
    return [pool for key, pool in relay._pools.items() if key[:2] == (os.getpid(), container)]


@without(
    "test_a_symlink_in_place_of_the_socket_is_not_followed",
    "test_another_listener_at_the_socket_gets_no_prompt",
)
class TestRelay(Reached):
    options: ClassVar = {"transport": "relay"}

    def test_nothing_of_the_host_is_writable(self, place):
        server = llmlab.start("tiny", **place)
        entry = inspected(server)
        assert not [mount for mount in entry["Mounts"] if mount["RW"]]
        assert "/run/llmlab" in entry["HostConfig"]["Tmpfs"]
        assert entry["HostConfig"]["NetworkMode"] == "none"

    def test_one_that_waits_holds_no_slot_and_goes_with_the_server(self, place):
        server = llmlab.start("tiny", slots=1, **place)
        assert server.ask("What is a GPU?", max_tokens=3).text
        container = server.record.container_id or ""
        (pool,) = pools_of(container)
        eventually(lambda: pool.idle)
        # A slot that was taken would keep the only one from answering.
        assert server.ask("What is a GPU?", max_tokens=3).text
        eventually(lambda: pool.idle and not pool.opening)
        assert len(pool.idle) <= 2
        assert registry.client(server.record).busy_slots() == 0
        server.stop()
        assert pool.closed
        assert not pool.idle
        assert not pools_of(container)

    def test_a_relay_that_died_while_waiting_is_not_used(self, place):
        server = llmlab.start("tiny", **place)
        (pool,) = pools_of(server.record.container_id or "")
        eventually(lambda: pool.idle and not pool.opening)

        def all_ended() -> bool:
            # The engine may still be starting one, and needs a moment to tell that another has ended.
            for process in psutil.process_iter(["cmdline"]):
                if process.info["cmdline"] and process.info["cmdline"][:2] == [relay.PROGRAM, "stdio"]:
                    process.kill()
            return all(relay._has_ended(stream) for _, stream in pool.idle)

        eventually(all_ended)
        assert server.ask("What is a GPU?", max_tokens=3).text

    def test_a_forked_child_asks_through_relays_of_its_own(self, place):
        server = llmlab.start("tiny", **place)
        assert server.ask("What is a GPU?", max_tokens=3).text
        script = """
            import os, sys, llmlab
            server = llmlab.attach()
            server.ask("What is a GPU?", max_tokens=3)
            pid = os.fork()
            if not pid:
                os._exit(0 if server.ask("What is a GPU?", max_tokens=3).text else 1)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            sys.exit(code or not server.ask("What is a GPU?", max_tokens=3).text)
        """
        lines = "\n".join(line.strip() if "_exit" not in line else line[12:] for line in script.splitlines())
        # Python 3.12 and later warn of forking with threads: what is tested is that.
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", lines], timeout=60, check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr

    def test_the_receipt_says_what_it_gives_up(self, place):
        with llmlab.start("tiny", **place) as server:
            assert "daemon" in str(server.inspect().facts["transport"])


class TestSidecar(Reached):
    options: ClassVar = {"transport": "sidecar"}

    def test_the_engine_has_no_network_but_its_own_loopback(self, place):
        server = llmlab.start("tiny", name="a", **place)
        api = docker_api.connect()
        beside = api.container(sidecar.find(api, "a")["forward"]) or {}
        assert inspected(server)["HostConfig"]["NetworkMode"] == "none"
        assert beside["HostConfig"]["NetworkMode"] in {
            f"container:{inspected(server)['Id']}",
            f"container:{inspected(server)['Name'].lstrip('/')}",
        }
        pid = beside["State"]["Pid"]
        names = Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]
        assert [line.split(":")[0].strip() for line in names] == ["lo"]
        assert beside["HostConfig"]["CapDrop"] == ["ALL"]
        assert beside["HostConfig"]["ReadonlyRootfs"]

    def test_the_engines_own_container_is_no_peer(self, place):
        """Only the relay listens at the socket; the engine does not get to its directory."""
        server = llmlab.start("tiny", name="a", **place)
        assert [mount["Destination"] for mount in inspected(server)["Mounts"]] == ["/models/tiny.gguf"]
        api = docker_api.connect()
        sidecar.remove(api, "a")
        path = server.record.endpoint.socket
        assert path
        path.unlink()
        with socket.socket(socket.AF_UNIX) as impostor:
            impostor.bind(str(path))
            impostor.listen()
            with pytest.raises(EndpointError, match="no relay"):
                server.ask("my secret")


@without(
    "test_a_symlink_in_place_of_the_socket_is_not_followed",
    "test_another_listener_at_the_socket_gets_no_prompt",
)
class TestPort(Reached):
    options: ClassVar = {"profile": "none"}

    def test_who_answers_cannot_be_checked_and_it_says_so(self, place):
        with llmlab.start("tiny", **place) as server:
            assert "without a key" in " ".join(server.record.notes)
            assert server.record.endpoint.port
            assert server.record.endpoint.socket is None


# The socket's directory


pytestmark_docker = pytest.mark.usefixtures("require_docker", "require_engine")


@pytestmark_docker
@pytest.mark.parametrize("options", [{}, {"transport": "sidecar"}, {"expose": 0}])
def test_a_server_that_is_ready_cannot_write_to_its_sockets_directory(options, isolated_runtime):
    server = llmlab.start("tiny", name="a", backend="container", **options)
    folder = isolated_runtime / "a" / "socket"
    info = folder.stat()
    assert not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_IROTH | stat.S_IXOTH)
    if os.getuid() == 0:
        assert info.st_uid == 0
    else:
        assert not info.st_mode & stat.S_IWUSR
    assert server.ask("What is a GPU?", max_tokens=3).text
    server.stop()
    assert inventory(isolated_runtime) == []


# Users


@pytestmark_docker
@pytest.mark.parametrize("user", ["1234:1234", "4321", "image"])
def test_another_user(user):
    with llmlab.start("tiny", backend="container", user=user) as server:
        assert server.record.transport == ("socket" if os.getuid() == 0 else "relay")
        assert server.ask("What is a GPU?", max_tokens=3).text
        expected = 0 if user == "image" else int(user.partition(":")[0])
        pid = int(str(server.inspect().facts["pid"]))
        assert psutil.Process(pid).uids().effective == expected


# An engine on another machine


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, require_docker: None, require_engine: Any) -> Iterator[str]:
    with tcp_door() as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        yield address
        llmlab.stop(all=True, grace_s=1)
        api = docker_api.connect()
        for volume in (*api.volumes(labels.MODEL), *api.volumes(labels.TOOL)):
            api.remove_volume(volume)


class Counting(Reporter):
    def __init__(self) -> None:
        self.done = 0
        self.total: int | None = 0

    def progress(self, done: int, total: int | None) -> None:
        self.done, self.total = done, total


def test_an_engine_on_another_machine(away, isolated_runtime):
    api = docker_api.connect()
    assert not api.is_local()
    before = set(api.volumes(labels.MODEL))
    with reporting_to(Counting()) as seen:
        server = llmlab.start("tiny", name="a")
    if not before:
        assert seen.done == seen.total == server.record.spec.model.file_bytes
    assert server.record.transport == "relay"
    assert "does not share this machine's files" in " ".join(server.record.notes)
    mounts = inspected(server)["Mounts"]
    assert {mount["Type"] for mount in mounts} == {"volume"}
    assert not any(mount["RW"] for mount in mounts)
    assert api.volumes(f"{labels.MODEL}={server.record.spec.model.sha256}")

    assert server.ask("What is a container?").text
    assert [row.state for row in llmlab.ps()] == ["ready"]
    assert server.logs(tail=3).lines
    assert json.loads(run_cli("ask", "a", "What is a GPU?", "--json").stdout)["text"]

    class Interrupting(Reporter):
        def text(self, piece: str) -> None:
            raise KeyboardInterrupt

    with reporting_to(Interrupting()), pytest.raises(AskInterrupted) as caught:
        server.ask(LONG)
    assert "stopped generating" in caught.value.note

    server.stop()
    assert inventory(isolated_runtime) == []
    # The model stays there, and is not sent again.
    with reporting_to(Counting()) as again, llmlab.start("tiny", name="b") as second:
        assert again.done == 0
        assert second.ask("What is a GPU?", max_tokens=3).text


def test_a_model_that_was_not_sent_to_its_end_is_sent_again(away, monkeypatch, isolated_runtime):
    api = docker_api.connect()
    for volume in api.volumes(labels.MODEL):
        api.remove_volume(volume)

    class Breaking(Reporter):
        def progress(self, done: int, total: int | None) -> None:
            if done:
                raise KeyboardInterrupt

    with reporting_to(Breaking()), pytest.raises(KeyboardInterrupt):
        llmlab.start("tiny", name="a")
    assert inventory(isolated_runtime) == []
    with reporting_to(Counting()) as seen, llmlab.start("tiny", name="a") as server:
        assert seen.done == server.record.spec.model.file_bytes
        assert server.ask("What is a GPU?", max_tokens=3).text


def test_what_another_machines_engine_cannot_do(away, isolated_runtime):
    with pytest.raises(UsageError, match="on another machine"):
        llmlab.start("tiny", expose=0)
    for transport in ("socket", "sidecar", "port"):
        with pytest.raises(UsageError, match=f"transport {transport} cannot work here"):
            llmlab.start("tiny", transport=transport)
    with llmlab.start("tiny", profile="none") as server:
        assert server.record.transport == "relay"
        assert server.ask("What is a GPU?", max_tokens=3).text
    assert inventory(isolated_runtime) == []


# The endpoint for other tools


def ask_over_http(port: int, key: str | None, host: str = "127.0.0.1", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        if key:
            headers["Authorization"] = f"Bearer {key}"
        body = json.dumps({"messages": [{"role": "user", "content": "What is a GPU?"}], "max_tokens": 5})
        connection.request("POST", "/v1/chat/completions", body=body, headers=headers)
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytestmark_docker
@pytest.mark.parametrize("options", [{}, {"transport": "relay"}, {"transport": "sidecar"}])
def test_other_tools_need_the_key(options, isolated_runtime):
    with reporting_to(Recorder()) as seen:
        server = llmlab.start("tiny", name="a", backend="container", expose=0, **options)
    endpoint = server.record.endpoint
    assert endpoint.exposed_port
    assert endpoint.key_file
    assert endpoint.key_file.stat().st_mode & 0o777 == 0o600
    key = endpoint.key_file.read_text(encoding="ascii").strip()
    status, answer = ask_over_http(endpoint.exposed_port, key)
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
    assert ask_over_http(endpoint.exposed_port, None)[0] == 401
    assert ask_over_http(endpoint.exposed_port, key, Origin="https://evil.example")[0] == 403
    assert ask_over_http(endpoint.exposed_port, key, Host="evil.example")[0] == 403
    # It says where the key is, and nowhere what it is.
    assert f"http://127.0.0.1:{endpoint.exposed_port}/v1" in " ".join(seen.notes)
    assert str(endpoint.key_file) in " ".join(seen.notes)
    api = docker_api.connect()
    beside = sidecar.find(api, "a").values()
    shown = [json.dumps(api.container(one)) + "".join(api.log(one, None)) for one in beside]
    shown += [
        json.dumps(inspected(server)),
        str(llmlab.ps()),
        str(server.inspect()),
        *server.logs(tail=None).lines,
    ]
    shown += [json.dumps(server.to_dict()), *seen.notes]
    shown += [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    assert not [text for text in shown if key in text]
    # Asking through the ordinary way is not affected.
    assert server.ask("What is a GPU?", max_tokens=3).text
    server.stop()
    assert inventory(isolated_runtime) == []
    assert not api.volumes(f"{labels.USER}={runtime.scope()}")
    with pytest.raises(OSError, match="refused"):
        ask_over_http(endpoint.exposed_port, key)


@pytestmark_docker
def test_no_other_address_of_this_machine_lets_anybody_in():
    server = llmlab.start("tiny", backend="container", profile="exposed")
    port = server.record.endpoint.exposed_port
    assert port
    others = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    assert others, "this machine has no other address to try"
    for address in others:
        with pytest.raises(OSError, match="refused"), socket.create_connection((address, port), timeout=5):
            pass


@pytestmark_docker
def test_a_port_that_is_taken(isolated_runtime):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 is taken") as caught:
            llmlab.start("tiny", name="a", backend="container", expose=port)
    assert "--expose 0" in caught.value.hint
    assert inventory(isolated_runtime) == []
    with llmlab.start("tiny", name="a", backend="container", expose=port) as server:
        assert server.record.endpoint.exposed_port == port


@pytestmark_docker
def test_what_exposing_does_not_go_with(isolated_runtime):
    with pytest.raises(UsageError, match="publishes the model's port already"):
        llmlab.start("tiny", backend="container", profile="none", expose=0)
    assert inventory(isolated_runtime) == []


@pytestmark_docker
def test_a_sidecar_goes_with_its_server_whoever_removed_that(isolated_runtime):
    server = llmlab.start("tiny", name="a", backend="container", expose=0)
    api = docker_api.connect()
    assert set(sidecar.find(api, "a")) == {"gate"}
    subprocess.run(["docker", "rm", "-f", inspected(server)["Id"]], capture_output=True, check=True)
    assert len(llmlab.ps()) == 0
    assert sidecar.find(api, "a") == {}
    assert inventory(isolated_runtime) == []


@pytestmark_docker
def test_many_tools_at_once():
    server = llmlab.start("tiny", backend="container", expose=0)
    endpoint = server.record.endpoint
    assert endpoint.exposed_port
    assert endpoint.key_file
    key = endpoint.key_file.read_text(encoding="ascii").strip()
    codes: list[int] = []

    def ask() -> None:
        codes.append(ask_over_http(endpoint.exposed_port or 0, key)[0])

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 100
