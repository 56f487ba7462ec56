"""The disk is full, and files are damaged, exchanged or taken away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import llmlab
from llmlab import runtime
from llmlab.backends import docker_api
from llmlab.errors import ImageError, LabError, ServerStoppedError
from llmlab.reporting import reporting_to
from tests.behaviour import Recorder
from tests.conftest import eventually, inventory, missing
from tests.faults.contract import promise
from tests.faults.private_engine import private_engine


@pytest.fixture(params=["native", "container"])
def place(request, require_engine) -> str:
    """Where it runs."""
    if request.param == "container":
        request.getfixturevalue("require_docker")
    return str(request.param)


@pytest.fixture
def small_runtime(isolated_runtime) -> Iterator[Path]:
    """The runtime directory is a file system of its own, of 1 MiB."""
    options = "size=1m,mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(isolated_runtime)]
    if os.getuid() or subprocess.run(command, check=False).returncode:
        missing("small disk", "mounting one needs root")
    yield isolated_runtime
    subprocess.run(["umount", "--lazy", str(isolated_runtime)], check=True)


def _fill(folder: Path) -> None:
    handle = os.open(folder / ".full", os.O_CREAT | os.O_WRONLY)
    with suppress(OSError):
        while True:
            os.write(handle, bytes(4096))
    os.close(handle)


@promise(
    part="Disk and files",
    fault="The disk of the container engine is full when the image is made",
    sees="The start fails and says that the image cannot be made, with what the engine said",
    keeps="Everything that runs",
    cleans="What was begun of the image and of the server",
    within_s=60,
)
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_the_engines_disk_is_full(require_engine, monkeypatch, isolated_runtime):
    with private_engine(size_mib=12) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        with pytest.raises(ImageError, match=r"(?i)no space left"):
            llmlab.start("tiny", backend="container")
        assert docker_api.connect().images("llmlab.image") == []
        assert inventory(isolated_runtime) == []
    docker_api._clients.clear()  # and with it the connections that were kept open to this engine


@promise(
    part="Disk and files",
    fault="The disk with the servers' state is full when one is started",
    sees="The start fails in one line: no space left, and where",
    keeps="Everything that runs",
    cleans="What was begun",
    within_s=30,
)
def test_no_room_for_the_state(place, small_runtime):
    (small_runtime / ".lock").touch()
    _fill(small_runtime)
    with pytest.raises(LabError, match=r"(?i)no space left"):
        llmlab.start("tiny", name="a", backend=place)
    (small_runtime / ".full").unlink()
    assert inventory(small_runtime) == []


@promise(
    part="Disk and files",
    fault="The disk fills up under a native server's log",
    sees="Nothing: it goes on answering; its log ends where the disk was full",
    keeps="The server",
    cleans="`stop`, as always",
    within_s=30,
)
def test_no_room_for_the_log(require_engine, small_runtime):
    server = llmlab.start("tiny", name="a", backend="native")
    _fill(small_runtime)
    for _ in range(3):
        assert server.ask("What is a GPU?", max_tokens=3).text
    assert server.status.state == "ready"
    (small_runtime / ".full").unlink()
    llmlab.stop("a")
    assert inventory(small_runtime) == []


@promise(
    part="Disk and files",
    fault="A container writes much into its log",
    sees="The newest lines, by `logs`",
    keeps="A few MiB of it at most: the log has a bound",
    cleans="The log, with the container",
    within_s=30,
)
def test_a_log_has_a_bound(require_docker, require_engine):
    server = llmlab.start("tiny", name="a", backend="container")
    entry = docker_api.connect().container(str(server.record.container_id)) or {}
    log = entry["HostConfig"]["LogConfig"]
    assert log["Type"] == "local"
    assert int(log["Config"]["max-size"].removesuffix("m")) <= 10
    llmlab.stop("a")


@promise(
    part="Disk and files",
    fault="A server's directory is removed, as cleaners of /tmp do",
    sees="`ask` says that its socket is gone; a container's state is lost, a native server is no longer shown",
    keeps="All others",
    cleans="A container by `stop`; a native server by the next verb: it is found by its command line",
    within_s=20,
)
def test_a_servers_directory_is_removed(place, isolated_runtime, bound):
    server = llmlab.start("tiny", name="a", backend=place)
    pid = int(server.inspect().facts["pid"])
    runtime.Claim(isolated_runtime / "a").remove()
    with pytest.raises(ServerStoppedError):
        server.ask("What is a GPU?")
    if place == "container":
        assert [(row.name, row.state) for row in llmlab.ps()] == [("a", "lost")]
        assert llmlab.stop("a").names == ("a",)
    else:
        assert len(llmlab.ps()) == 0
    eventually(lambda: not Path(f"/proc/{pid}").exists() or runtime.process(pid) is None, bound)
    assert inventory(isolated_runtime) == []


@promise(
    part="Disk and files",
    fault="The directory of all servers is removed while they run",
    sees="As for one; the next start makes it anew",
    keeps="Containers, until they are stopped",
    cleans="Containers by `stop`, native servers by the next verb",
    within_s=20,
)
def test_the_runtime_directory_is_removed(place, isolated_runtime):
    llmlab.start("tiny", name="a", backend=place)
    runtime.Claim(isolated_runtime / "a").remove()
    shutil.rmtree(isolated_runtime)
    again = llmlab.start("tiny", name="b", backend=place)
    assert again.ask("What is a GPU?", max_tokens=3).text
    assert {row.name for row in llmlab.ps()} == ({"a", "b"} if place == "container" else {"b"})
    llmlab.stop(all=True)
    assert inventory(isolated_runtime) == []


@promise(
    part="Disk and files",
    fault="A state file is empty, damaged, or somebody has written something else into it",
    sees="The server is not shown, and what was removed is said",
    keeps="All others",
    cleans="A native server with its directory, by the next verb; a container's state is in its labels, and it goes on",
    within_s=20,
)
@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"name": "a"}', "\0" * 100], ids=["empty", "cut", "list", "other", "zeros"]
)
def test_a_damaged_state_file(place, text, isolated_runtime):
    server = llmlab.start("tiny", name="a", backend=place)
    (isolated_runtime / "a" / runtime.RECORD).write_text(text)
    names = [row.name for row in llmlab.ps()]
    if place == "container":
        assert names == ["a"]
        assert server.ask("What is a GPU?", max_tokens=3).text
        llmlab.stop("a")
    else:
        assert names == []
    assert inventory(isolated_runtime) == []


@promise(
    part="Disk and files",
    fault="A state file was written by a newer llmlab in a form that this one does not know",
    sees="`ps` says that a newer llmlab has started it",
    keeps="The server: it is left alone",
    cleans="Nothing here; the newer llmlab does",
    within_s=20,
)
def test_a_state_file_of_a_newer_llmlab(require_engine, isolated_runtime):
    server = llmlab.start("tiny", name="a", backend="native")
    path = isolated_runtime / "a" / runtime.RECORD
    ours = path.read_text()
    path.write_text(json.dumps({**json.loads(ours), "version": 1000, "spec": "of another form"}))
    with reporting_to(Recorder()) as seen:
        assert len(llmlab.ps()) == 0
    assert any("a was started by a newer llmlab" in note for note in seen.notes)
    assert llmlab.stop(all=True).names == ()
    assert server.record.process
    assert runtime.is_alive(server.record.process)
    path.write_text(ours)
    assert llmlab.stop("a").names == ("a",)
