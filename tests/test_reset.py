"""The reset: with real servers and containers, and with what others have that must survive.

Images and caches are shared by all that runs on this machine: here the reset looks at a
cache of its own, so that only images of the test's own are llmlab's to remove.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab import runtime
from llmlab.backends import docker_api, image, labels
from llmlab.builds import manifest
from llmlab.builds.values import EngineBuild, EngineFile
from llmlab.errors import DaemonError
from llmlab.weights import store
from llmlab.workshop.resetting import images
from llmlab.workshop.resetting.items import Item
from llmlab.workshop.resetting.views import Reset
from tests.conftest import run_cli

NOBODY = 65534
# Audits of other tests remove what has the real label and is over.
AUDIT = "llmlab.audit-of-a-reset-test"


@pytest.fixture(autouse=True)
def nothing_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No tool's image and no model of the hub's cache is taken for one that may go."""
    monkeypatch.setattr(images, "TOOLS", ("llmlab/of-a-test",))
    monkeypatch.setattr(images, "AUDIT", AUDIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("LLMLAB_SHARED_MODELS", raising=False)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own; servers are started before it is asked for by `clean`."""
    path = tmp_path / "cache"
    path.mkdir()
    return path


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., Reset]:
    """Resets with that cache."""

    def cleaned(**options: bool) -> Reset:
        with monkeypatch.context() as patch:
            patch.setenv("LLMLAB_CACHE_DIR", str(cache))
            found: Reset = llmlab.reset(**options)
            return found

    return cleaned


@pytest.fixture
def container(require_docker: None, require_engine: Any) -> Iterator[Callable[..., str]]:
    """Makes containers that are never started, and are removed in the end."""
    api = docker_api.connect()
    made: list[str] = []
    _, used = image.make(api, require_engine)

    def create(marks: dict[str, str], *, of: str = used, source: Path | None = None) -> str:
        mounts = [{"Type": "bind", "Source": str(source), "Target": "/x"}] if source else []
        request = {
            "Image": of,
            "Entrypoint": ["/never-started"],
            "Labels": marks,
            "HostConfig": {"NetworkMode": "none", "Mounts": mounts},
        }
        made.append(api.create(f"of-a-reset-test-{os.getpid()}-{len(made)}", request))
        return made[-1]

    yield create
    for container_id in made:
        api.stop(container_id, 0)


def is_there(container_id: str) -> bool:
    return docker_api.connect().container(container_id) is not None


def of(result: Reset, **wanted: str) -> list[Item]:
    return [
        item for item in result.items if all(getattr(item, key) == value for key, value in wanted.items())
    ]


def one(result: Reset, name: str) -> Item:
    (found,) = [item for item in result.items if name in item.name]
    return found


def dead_process() -> str:
    """What an audit writes down of a process, of one that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = runtime.process(child.pid)
    child.communicate(b"\n")
    assert found
    return f"{found.pid}:{found.start}"


# Servers


def test_all_servers_go_wherever_they_run_and_whoever_started_them(require_engine, require_docker, clean):
    llmlab.start("tiny", backend="native", name="mine")
    run_cli("start", "tiny", "--native", "--name", "another-processes")
    llmlab.start("tiny", backend="container", name="boxed", expose=0)
    result = clean()
    assert {item.name for item in of(result, kind="server", outcome="removed")} == {
        "mine",
        "another-processes",
        "boxed",
    }
    (boxed,) = of(result, kind="server", name="boxed")
    assert "in a container, holds" in boxed.detail
    assert [item.detail for item in of(result, kind="container")] == ["beside server boxed"]
    assert result.exit_status == 0
    assert result.summary().startswith("removed 3 servers, 1 container")
    assert llmlab.ps().servers == ()
    assert [path.name for path in runtime.runtime_dir().iterdir()] == [".lock"]
    assert of(clean(), outcome="removed") == []
    assert "nothing to remove" in str(clean())


def test_a_dry_run_lists_the_same_and_removes_nothing(require_engine, require_docker, clean, cache):
    llmlab.start("tiny", backend="native", name="mine")
    llmlab.start("tiny", backend="container", name="boxed")
    (cache / "seccomp").mkdir()
    (cache / "seccomp" / "x.json").write_text("{}")
    before = {str(path) for folder in (cache, runtime.runtime_dir()) for path in folder.rglob("*")}
    dry = clean(dry_run=True)
    assert {str(path) for folder in (cache, runtime.runtime_dir()) for path in folder.rglob("*")} == before
    assert {status.name: status.state for status in llmlab.ps()} == {"mine": "ready", "boxed": "ready"}
    assert dry.summary().startswith("would remove 2 servers")
    assert "this was a dry run" in str(dry)
    real = clean()
    names = [item.name for item in of(dry, outcome="would be removed")]
    assert names == [item.name for item in of(real, outcome="removed")]


def test_what_is_not_llmlabs_or_another_users_stays(container, clean):
    stranger = container({})
    others = container({labels.USER: "12345", labels.SERVER: "theirs"})
    mine = container({**labels.mine(SERVER="died")})
    result = clean()
    assert is_there(stranger)
    assert is_there(others)
    assert not is_there(mine)
    assert one(result, f"of-a-reset-test-{os.getpid()}-2").detail == "left by a start that died"


def test_a_server_that_another_process_is_starting_is_left_to_it_and_said(clean):
    with runtime.claim("coming"):
        result = clean()
        assert result.exit_status == 1
        item = one(result, "coming")
        assert item.outcome == "failed"
        assert "being started or stopped by another process" in item.detail
        assert "Could not be removed" in str(result)
        assert "Could not be removed" in result.to_html()
        assert (runtime.runtime_dir() / "coming").is_dir()


def test_what_died_in_the_middle_goes_and_what_only_lies_beside_it_stays(clean, isolated_runtime):
    died, by_hand, foreign = (isolated_runtime / name for name in ("died", ".hand/pasted", "photos"))
    for folder in (died, by_hand, foreign):
        (folder / "socket").mkdir(parents=True)
    (died / "lock").touch()
    result = clean()
    assert not died.exists()
    assert not by_hand.parent.exists()
    assert foreign.is_dir()
    assert len(of(result, outcome="removed")) == 2
    foreign.joinpath("socket").rmdir()
    foreign.rmdir()


def test_an_engine_that_does_not_answer_is_said_and_its_servers_are_kept(
    require_engine, require_docker, clean, monkeypatch, isolated_runtime
):
    boxed = llmlab.start("tiny", backend="container", name="boxed")
    llmlab.start("tiny", backend="native", name="mine")
    written = isolated_runtime / "boxed" / runtime.RECORD
    record = written.read_text()
    written.write_text(record.replace(str(boxed.record.container_engine), "unix:///nowhere/docker.sock"))
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
        result = clean()
    written.write_text(record)
    assert result.exit_status == 1
    assert "no container engine answers" in result.unseen[0]
    assert "Could not be looked at" in str(result)
    assert "Could not be looked at" in result.to_html()
    assert one(result, "mine").outcome == "removed"
    assert one(result, "boxed").outcome == "kept"
    assert [status.name for status in llmlab.ps()] == ["boxed"]
    assert [item.name for item in of(clean(), kind="server")] == ["boxed"]


def test_without_any_container_engine_nothing_is_missing(clean, monkeypatch, tmp_path):
    def none() -> None:
        raise DaemonError("no container engine answers", hint="install one")

    monkeypatch.setattr(images, "DockerApi", none)
    monkeypatch.setattr(images, "_USUAL", tmp_path / "none.sock")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    result = clean()
    assert (result.unseen, result.exit_status) == ((), 0)
    (tmp_path / "docker").touch(mode=0o755)
    assert "install one" in clean().unseen[0]


# Images, volumes, audits


@pytest.fixture
def own_image(cache: Path, require_docker: None) -> Iterator[str]:
    """An image of the test's own, made of a build in its own cache."""
    program = cache / "engines" / "llama.cpp-test" / "llama-server"
    program.parent.mkdir(parents=True)
    program.write_text(f"of {cache}")
    file = EngineFile(source=program, target="/opt/llama-server", sha256=store.digest(program))
    build = EngineBuild(server=program, library_dir=None, files=(file,), version="test", origin="built")
    manifest.save(build, program.parent / manifest.NAME)
    name, _ = image.make(docker_api.connect(), build)
    yield name
    docker_api.DockerApi().remove_image(name)


def test_an_image_of_ones_own_engine_goes_and_others_stay(own_image, clean, require_engine):
    api = docker_api.connect()
    others, _ = image.make(api, require_engine)
    result = clean()
    item = one(result, own_image)
    assert (item.outcome, item.kind) == ("removed", "image")
    assert item.size_bytes
    assert api.image_id(own_image) is None
    # Of an engine that is in another cache: it may be another user's.
    assert one(result, others).outcome == "kept"
    assert api.image_id(others)


def test_an_image_that_somebodys_container_uses_stays(own_image, container, clean):
    used_by = container({}, of=own_image)
    result = clean()
    assert one(result, own_image).outcome == "kept"
    assert "a container that is not yours to remove uses it" in str(result)
    assert docker_api.connect().image_id(own_image)
    docker_api.connect().stop(used_by, 0)
    assert one(clean(), own_image).outcome == "removed"


def test_volumes_of_ones_own_servers_go_and_others_stay(require_docker, clean, cache):
    api, mark = docker_api.connect(), f"llmlab-reset-test-{os.getpid()}"
    api.make_volume(f"{mark}-mine", labels.mine(SERVER="died"))
    api.make_volume(f"{mark}-theirs", {labels.USER: "12345"})
    api.make_volume(f"{mark}-sent", {labels.MODEL: "x"})
    api.make_volume(f"{mark}-sent-by-others", {labels.MODEL: "y"})
    (cache / "volumes").mkdir()
    (cache / "volumes" / f"{mark}-sent.lock").touch()
    engine = docker_api.DockerApi()
    try:
        assert one(clean(), f"{mark}-sent-by").how == f"docker volume rm {mark}-sent-by-others"
        assert [name for name in ("mine", "theirs", "sent") if engine.has_volume(f"{mark}-{name}")] == [
            "theirs",
            "sent",
        ]
        clean(downloads=True)
        assert not engine.has_volume(f"{mark}-sent")
        assert engine.has_volume(f"{mark}-sent-by-others")
    finally:
        for name in ("mine", "theirs", "sent", "sent-by-others"):
            api.remove_volume(f"{mark}-{name}")


def test_what_an_audit_has_left_goes_one_under_way_does_not_nor_one_that_may_be_anothers(
    container, clean, cache
):
    left, now = cache / "audit" / "left", cache / "audit" / "now"
    here = runtime.process(os.getpid())
    assert here
    dead, alive = dead_process(), f"{here.pid}:{here.start}"
    for folder, owner in ((left, dead), (now, alive)):
        (folder / "made").mkdir(parents=True)
        (folder / "owner").write_text(owner)
    mine = container({AUDIT: f"{dead}#1"}, source=left / "made")
    theirs = container({AUDIT: f"{dead}#2"})
    running = container({AUDIT: f"{alive}#3"}, source=now / "made")
    result = clean()
    assert not is_there(mine)
    assert not left.exists()
    assert is_there(theirs)
    assert is_there(running)
    assert now.exists()
    assert one(result, str(now)).detail == "an audit is under way, and removes it"


# Files


def write(path: Path, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def hub_model(cache: Path, name: str) -> tuple[Path, Path]:
    """A model as huggingface_hub keeps it: its snapshot's entry, and the blob."""
    root = cache / f"models--owner--{name}"
    blob = write(root / "blobs" / ("a" * 64), 1000)
    entry = root / "snapshots" / "c0ffee" / f"{name}-Q4_0.gguf"
    entry.parent.mkdir(parents=True)
    entry.symlink_to(os.path.relpath(blob, entry.parent))
    return entry, blob


def test_what_took_minutes_stays_until_it_is_asked_for(clean, cache, monkeypatch):
    state = runtime.state_dir()
    engine = write(cache / "engines" / "llama.cpp-1" / "llama-server", 500).parent
    synthetic = write(cache / "synthetic" / "smollm2-135m-Q4_0.gguf", 2000)
    rates, predictions = write(state / "rates.json"), write(state / "predictions.jsonl")
    lesson, tools = write(state / "workshop" / "01.json"), write(cache / "tools" / "relay-1" / "relay")
    filters = write(cache / "seccomp" / "f.json")
    other = write(cache / "bench" / "x")
    result = clean()
    assert not predictions.exists()
    assert not filters.exists()
    assert all(path.exists() for path in (engine, synthetic, rates, lesson, tools, other))
    assert one(result, str(engine)).how == "llmlab reset --builds"
    assert one(result, str(engine)).size_bytes == 500
    assert one(result, "synthetic:smollm2-135m:Q4_0").how == "llmlab reset --downloads"
    assert one(result, str(lesson.parent)).how == "llmlab reset --progress"
    assert "remove it by hand" in one(result, "bench").detail
    assert "Kept. To remove it: llmlab reset --builds" in str(result)
    clean(downloads=True)
    assert not synthetic.exists()
    assert engine.exists()
    result = clean(builds=True, progress=True)
    assert not any(path.exists() for path in (engine, rates, lesson, tools))
    assert one(result, str(engine)).outcome == "removed"
    assert other.exists()


def test_a_model_of_the_hub_goes_if_llmlab_had_to_do_with_it(clean, cache, tmp_path, monkeypatch):
    known, blob = hub_model(tmp_path / "hub", "known")
    foreign, _ = hub_model(tmp_path / "hub", "foreign")
    with monkeypatch.context() as patch:
        patch.setenv("LLMLAB_CACHE_DIR", str(cache))
        store.remember(blob, "a" * 64)
    result = clean()
    assert one(result, "hf:owner/known").how == "llmlab reset --downloads"
    assert one(result, "hf:owner/foreign").how.startswith("llmlab rm hf:owner/foreign")
    assert known.exists()
    result = clean(downloads=True)
    assert one(result, "hf:owner/known").size_bytes == 1000
    assert not known.exists()
    assert not blob.exists()
    assert foreign.exists()


def test_an_engine_that_is_being_compiled_is_not_removed(clean, cache):
    engine = write(cache / "engines" / "llama.cpp-1" / "llama-server").parent
    with (cache / "engines" / ".llama.cpp-1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = clean(builds=True)
    assert "another process compiles it" in one(result, str(engine)).detail
    assert result.exit_status == 1
    assert engine.exists()
    assert clean(builds=True).exit_status == 0


def test_links_and_files_of_other_users_are_not_touched(clean, cache, tmp_path):
    elsewhere = write(tmp_path / "elsewhere" / "llama-server").parent
    (cache / "engines").mkdir()
    (cache / "engines" / "llama.cpp-shared").symlink_to(elsewhere)
    inside = write(cache / "tools" / "relay-1" / "link").parent
    (inside / "out").symlink_to(elsewhere)
    result = clean(builds=True)
    assert one(result, "llama.cpp-shared").outcome == "kept"
    assert (elsewhere / "llama-server").exists()
    assert not inside.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_holds_files_of_another_user_stays(clean, cache):
    theirs = write(cache / "sources" / "deep" / "theirs")
    os.chown(theirs, NOBODY, NOBODY)
    model = write(cache / "synthetic" / "smollm2-135m-Q4_0.gguf")
    os.chown(model, NOBODY, NOBODY)
    result = clean(builds=True, downloads=True)
    assert theirs.exists()
    assert model.exists()
    assert "another user's" in one(result, "sources").detail
    assert one(result, "synthetic:").detail == "another user's file"


def test_the_command_line_lists_it_and_says_it_as_json(cache, monkeypatch):
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(cache))
    write(cache / "seccomp" / "f.json", 2000)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    done = run_cli("reset", "--dry-run", check=False)
    assert done.returncode == 1
    assert "2.0 kB" in done.stdout
    data = json.loads(run_cli("reset", "--json", check=False).stdout)
    assert [item["outcome"] for item in data["items"]] == ["removed"]
    assert data["unseen"]
