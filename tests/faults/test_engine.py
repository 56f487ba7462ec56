"""The container engine dies, hangs and comes back; each on an engine of the test's own."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

import llmlab
from llmlab.backends import docker_api, docker_trouble
from llmlab.errors import DaemonError, LabError, ServerStoppedError
from llmlab.reporting import Reporter, reporting_to
from tests.conftest import eventually, run_cli
from tests.faults.contract import promise
from tests.faults.private_engine import PrivateEngine, private_engine

# The docker package does not close a socket that an engine has refused.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[PrivateEngine]:
    """One for all tests that leave it running."""
    with private_engine() as engine:
        yield engine


@pytest.fixture
def engine(shared_engine, require_engine, monkeypatch) -> Iterator[PrivateEngine]:
    """That is the engine which llmlab uses; it runs and answers again at the end."""
    monkeypatch.setenv("DOCKER_HOST", shared_engine.host)
    yield shared_engine
    docker_trouble._failed.clear()
    llmlab.stop(all=True, grace_s=1)


@pytest.fixture
def lasting(require_engine, monkeypatch) -> Iterator[PrivateEngine]:
    """One whose containers go on without it (`--live-restore`)."""
    with private_engine(live_restore=True) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        yield engine
        llmlab.stop(all=True, grace_s=1)
    docker_api._clients.clear()  # and with it the connections that were kept open to this engine


def _ask(server: llmlab.Server) -> str:
    return server.ask("What is a GPU?", max_tokens=4).text


@promise(
    part="The container engine",
    fault="The engine is killed while a server runs, and comes back",
    sees="`ps` says that no engine answers, and how to start it; then that the server has ended",
    keeps="As long as its container runs, the server answers without the engine; its record and name",
    cleans="Nothing without the engine; `stop` once it is back, also of what a start had begun",
    within_s=60,
)
def test_the_engine_is_killed_while_a_server_runs(engine, bound):
    server = llmlab.start("tiny", name="a", backend="container")
    engine.kill()
    try:
        (row,) = llmlab.ps()
        assert (row.state, row.detail.startswith("no container engine answers at")) == ("lost", True)
        assert _ask(llmlab.attach("a")), "the socket needs no engine"
        for verb in (
            lambda: llmlab.stop("a"),
            lambda: llmlab.logs("a"),
            lambda: llmlab.start("tiny", name="b", backend="container"),
        ):
            with pytest.raises(DaemonError, match="no container engine answers"):
                verb()
    finally:
        engine.start()
    eventually(lambda: server.status.state == "exited", bound)
    with pytest.raises(ServerStoppedError, match="is not running: ended"):
        server.ask("What is a GPU?")
    assert llmlab.stop("a").names == ("a",)
    assert len(llmlab.ps()) == 0


@promise(
    part="The container engine",
    fault="The engine is stopped and started again, as an update does",
    sees="The server has ended, with the time and the exit code",
    keeps="Its log, its record and its name",
    cleans="`stop`, or a start under the same name",
    within_s=60,
)
def test_the_engine_is_restarted(engine, bound):
    server = llmlab.start("tiny", name="a", backend="container")
    engine.stop()
    engine.start()
    eventually(lambda: server.status.state == "exited", bound)
    assert server.status.detail.startswith("ended ")
    assert llmlab.logs("a").lines
    assert _ask(llmlab.start("tiny", name="a", backend="container"))


@promise(
    part="The container engine",
    fault="The engine is killed or restarted, and has `--live-restore`",
    sees="Nothing but a moment in which `ps` says that no engine answers",
    keeps="The server, its connections and its isolation",
    cleans="`stop`, as always",
    within_s=60,
)
def test_with_live_restore_the_server_goes_on(lasting, bound):
    server = llmlab.start("tiny", name="a", backend="container")
    before = [control.verdict for control in server.inspect().isolation]
    for end in (lasting.kill, lasting.stop):
        end()
        assert llmlab.ps()[0].state == "lost"
        assert _ask(server)
        lasting.start()
        assert eventually(lambda: server.status.state == "ready", bound)
        assert _ask(server)
    assert [control.verdict for control in server.inspect().isolation] == before
    assert llmlab.stop("a").names == ("a",)


@promise(
    part="The container engine",
    fault="The engine is killed in the middle of an answer",
    sees="The whole answer, if the container goes on; else an error with what had come",
    keeps="What had come",
    cleans="`stop`, once the engine is back",
    within_s=60,
)
def test_the_engine_is_killed_in_mid_answer(engine, bound):
    server = llmlab.start("tiny", name="a", backend="container")
    killed = threading.Event()

    class Killing(Reporter):
        def text(self, piece: str) -> None:
            if not killed.is_set():
                killed.set()
                engine.kill()

    try:
        with reporting_to(Killing()):
            assert server.ask("Tell me everything about containers").text
        assert killed.is_set()
    finally:
        engine.start()
    eventually(lambda: server.status.state == "exited", bound)


@promise(
    part="The container engine",
    fault="The engine is killed in the middle of a start",
    sees="The start fails and says that no engine answers",
    keeps="Everything that ran before",
    cleans="What the start had begun, by the next verb once the engine is back",
    within_s=60,
)
@pytest.mark.parametrize("stage", ["image", "model", "load"])
def test_the_engine_is_killed_in_the_middle_of_a_start(engine, stage, bound):
    class Killing(Reporter):
        def stage(self, stage_now: str, detail: str = "") -> None:
            if stage_now == stage and not killed:
                killed.append(stage_now)
                engine.kill()

    killed: list[str] = []
    try:
        with reporting_to(Killing()), pytest.raises(LabError, match="engine"):
            llmlab.start("tiny", name="a", backend="container")
        assert killed
    finally:
        engine.start()
    eventually(lambda: not llmlab.ps() or llmlab.stop(all=True).names, bound)
    assert _ask(llmlab.start("tiny", name="a", backend="container"))


@promise(
    part="The container engine",
    fault="The engine hangs: it takes connections and answers nothing",
    sees="Every verb ends and says that the engine does not answer, and how to restart it",
    keeps="Servers that are reached by a socket answer all the same; native ones are not touched",
    cleans="Nothing is left half-made; once it answers again all is as before",
    within_s=60,
)
def test_the_engine_hangs(engine, bound, monkeypatch):
    # The patience of this process, so that the test takes less of it; that of the command line is the real one.
    monkeypatch.setattr(docker_trouble, "TIMEOUT_S", 4)
    docker_api._clients.clear()
    server = llmlab.start("tiny", name="a", backend="container")
    with engine.hung():
        began = time.monotonic()
        (row,) = llmlab.ps()
        assert (row.state, "does not answer" in row.detail or "did not answer" in row.detail) == (
            "lost",
            True,
        )
        assert _ask(server)
        with pytest.raises(DaemonError, match="still does not answer"):
            llmlab.stop("a")
        with pytest.raises(DaemonError, match="still does not answer"):
            llmlab.start("tiny", name="b", backend="container")
        shown = run_cli("ps")
        assert "still does not answer" in shown.stdout
        assert time.monotonic() - began < bound
    assert eventually(lambda: server.status.state == "ready", bound)
    assert llmlab.stop("a").names == ("a",)


@promise(
    part="The container engine",
    fault="The user turns to another engine (`DOCKER_HOST`, `docker context use`) while servers run on the first",
    sees="`ps` still shows them; each is asked, looked at and stopped through its own engine",
    keeps="The servers of both engines",
    cleans="`stop`, from either",
    within_s=20,
)
def test_servers_of_another_engine_are_left_alone(engine, require_docker, monkeypatch):
    server = llmlab.start("tiny", name="a", backend="container")
    monkeypatch.delenv("DOCKER_HOST")
    other = llmlab.start("tiny", name="b", backend="container")
    assert [(row.name, row.state) for row in llmlab.ps()] == [("b", "ready"), ("a", "ready")]
    assert _ask(server)
    assert all(control.in_force for control in server.inspect().isolation if control.name == "network")
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    assert {row.name for row in llmlab.ps()} == {"a", "b"}
    assert _ask(other)
    assert llmlab.stop("b").names == ("b",)
    monkeypatch.delenv("DOCKER_HOST")
    assert llmlab.stop("a").names == ("a",)
    monkeypatch.setenv("DOCKER_HOST", engine.host)


@promise(
    part="The container engine",
    fault="The image is removed (`docker rmi -f`) while a server runs, or between two starts",
    sees="Nothing: the running server goes on, and the next start makes the image again",
    keeps="The running server",
    cleans="Nothing is to be cleaned",
    within_s=60,
)
def test_the_image_is_removed_underneath(engine):
    server = llmlab.start("tiny", name="a", backend="container")
    image = (server.record.image or "").partition("@")[0]
    _docker(engine, "rmi", "--force", image)
    assert _ask(server)
    again = llmlab.start("tiny", name="b", backend="container")
    assert _ask(again)
    assert (again.record.image or "").partition("@")[0] == image
    llmlab.stop(all=True)


@promise(
    part="The container engine",
    fault="A container of llmlab's is removed by another tool (`docker rm -f`, `docker system prune`)",
    sees="`ask` says that the server has been stopped; `ps` no longer shows it",
    keeps="All other servers; a prune does not touch what runs",
    cleans="Its directory, by the next verb",
    within_s=20,
)
def test_a_container_is_removed_by_another_tool(engine, isolated_runtime):
    server = llmlab.start("tiny", name="a", backend="container")
    _docker(engine, "system", "prune", "--all", "--force", "--volumes")
    assert _ask(server)
    _docker(engine, "rm", "--force", str(server.record.container_id))
    with pytest.raises(ServerStoppedError, match="has been stopped"):
        server.ask("What is a GPU?")
    assert len(llmlab.ps()) == 0
    assert not (isolated_runtime / "a").exists()


def _docker(engine: PrivateEngine, *words: str) -> None:
    subprocess.run(["docker", "--host", engine.host, *words], capture_output=True, check=True)
