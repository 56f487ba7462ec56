"""The offline kit: made, copied, verified, refused, and installed where there is no network."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import llmlab
from llmlab import weights
from llmlab.backends import docker_api, image
from llmlab.builds import EngineBuild, EngineFile, find_build, locate
from llmlab.errors import (
    DiskSpaceError,
    EngineMissingError,
    ImageError,
    LabError,
    ModelNotFoundError,
    UnknownNameError,
    UsageError,
)
from llmlab.kits import archive, closure, contents, platforms, wheels
from llmlab.kits.views import Built, Installed, Verified
from llmlab.testing.hub import Hub
from llmlab.weights import hub, store
from tests.conftest import eventually, missing, other_engines, run_cli

NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
TINY = store.builtin_path().read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, require_engine: Any) -> Path:
    """A kit without wheels: engine, image, tools, a notebook. Copy it before you change it."""
    place = tmp_path_factory.mktemp("small")
    (place / "lessons" / "data").mkdir(parents=True)
    (place / "lessons" / "01.ipynb").write_text(json.dumps(NOTEBOOK), encoding="utf-8")
    (place / "lessons" / "data" / "numbers.csv").write_text("1,2\n", encoding="utf-8")
    (place / "lessons" / ".ipynb_checkpoints").mkdir()
    (place / "lessons" / ".ipynb_checkpoints" / "01.ipynb").write_text("{}", encoding="utf-8")
    made = llmlab.kit("build", place / "kit", without="wheels", notebooks=str(place / "lessons"))
    assert isinstance(made, Built)
    return place / "kit"


@pytest.fixture
def kit(small: Path, tmp_path: Path) -> Path:
    """A copy of it, as on a stick."""
    return Path(shutil.copytree(small, tmp_path / "stick"))


@pytest.fixture
def learner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A learner's machine: nothing in any cache, and no container engine. The folder of the class."""
    for name in [name for name in os.environ if name.startswith(("HF_", "LLMLAB_SHARED", "LLMLAB_LLAMA"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    return tmp_path / "class"


def verified(folder: Path) -> Verified:
    found = llmlab.kit("verify", folder)
    assert isinstance(found, Verified)
    return found


def installed(folder: Path, into: Path) -> dict[str, tuple[str, str]]:
    """What became of each part."""
    found = llmlab.kit("install", folder, into=str(into))
    assert isinstance(found, Installed)
    return {step.part: (step.state, step.detail) for step in found.steps}


def problems(folder: Path) -> dict[str, str]:
    return {problem.path: problem.kind for problem in verified(folder).problems}


def sums_again(folder: Path, **changes: Any) -> None:
    """Change what `kit.json` says, and make the checksums fit: what whoever tampers with a kit does."""
    path = folder / contents.NAME
    said = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    there = [each for each in sorted(folder.rglob("*")) if each.is_file() and each.name != contents.SUMS]
    names = {each.relative_to(folder).as_posix(): each for each in there}
    said["sizes"] = {name: each.stat().st_size for name, each in names.items() if name != contents.NAME}
    path.write_text(json.dumps(said), encoding="utf-8")
    lines = [f"{store.digest(each)}  {name}\n" for name, each in names.items()]
    (folder / contents.SUMS).write_text("".join(lines), encoding="utf-8")


def said_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / contents.NAME).read_text(encoding="utf-8"))
    return found


# Made and verified


def test_a_kit_is_whole_and_sha256sum_finds_so_too(kit):
    found = verified(kit)
    assert found.ok
    assert found.exit_status == 0
    assert found.fits_here
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", contents.SUMS], cwd=kit, check=True)
    listed = (kit / contents.SUMS).read_text(encoding="utf-8").splitlines()
    there = [path for path in kit.rglob("*") if path.is_file()]
    assert len(listed) == len(there) - 1 == found.files


def test_a_kit_has_no_links_and_no_hidden_files_so_that_every_stick_can_hold_it(kit):
    assert [path for path in kit.rglob("*") if path.is_symlink() or path.name.startswith(".")] == []
    assert (kit / "notebooks" / "data" / "numbers.csv").is_file()


def test_its_readme_says_what_is_in_it_and_what_is_not(kit):
    text = (kit / "README.txt").read_text(encoding="utf-8")
    assert "sh install.sh" in text
    assert platforms.here() in text
    assert "wheels: as was asked" in text
    assert "$" not in text


def damage_missing(kit: Path) -> dict[str, str]:
    (kit / "notebooks" / "01.ipynb").unlink()
    return {"notebooks/01.ipynb": "missing"}


def damage_changed(kit: Path) -> dict[str, str]:
    path = kit / "engine" / "llama-server"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return {"engine/llama-server": "changed"}


def damage_truncated(kit: Path) -> dict[str, str]:
    path = next((kit / "images").iterdir())
    os.truncate(path, path.stat().st_size // 2)
    return {f"images/{path.name}": "truncated"}


def damage_extra(kit: Path) -> dict[str, str]:
    (kit / "notebooks" / "answers.ipynb").write_text("{}", encoding="utf-8")
    return {"notebooks/answers.ipynb": "extra"}


def damage_link(kit: Path) -> dict[str, str]:
    path = kit / "README.txt"
    path.rename(kit.parent / "elsewhere.txt")
    path.symlink_to(kit.parent / "elsewhere.txt")
    return {"README.txt": "link"}


def damage_linked_folder(kit: Path) -> dict[str, str]:
    (kit / "notebooks").rename(kit.parent / "elsewhere")
    (kit / "notebooks").symlink_to(kit.parent / "elsewhere")
    return {
        "notebooks": "link",
        "notebooks/01.ipynb": "link",
        "notebooks/data/numbers.csv": "link",
    }


def damage_manifest(kit: Path) -> dict[str, str]:
    path = kit / contents.NAME
    path.write_text(path.read_text(encoding="utf-8").replace("0.1", "9.9"), encoding="utf-8")
    return {contents.NAME: "changed"}


def damage_unfinished(kit: Path) -> dict[str, str]:
    (kit / contents.SUMS).unlink()
    return {contents.SUMS: "missing"}


def damage_list_cut(kit: Path) -> dict[str, str]:
    path = kit / contents.SUMS
    os.truncate(path, path.stat().st_size - 30)
    last = max(each.relative_to(kit).as_posix() for each in kit.rglob("*") if each.is_file())
    return {last: "extra", contents.SUMS: "truncated"}


def damage_line_lost(kit: Path) -> dict[str, str]:
    """A copy that lost a file and its line: the other list still has it."""
    path = kit / contents.SUMS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "numbers.csv" not in line), encoding="utf-8")
    (kit / "notebooks" / "data" / "numbers.csv").unlink()
    return {"notebooks/data/numbers.csv": "missing"}


DAMAGES = [
    damage_missing,
    damage_changed,
    damage_truncated,
    damage_extra,
    damage_link,
    damage_linked_folder,
    damage_manifest,
    damage_unfinished,
    damage_list_cut,
    damage_line_lost,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_happened_to_a_copy_is_told_and_it_is_not_installed(
    kit: Path, learner: Path, damage: Callable[[Path], dict[str, str]]
) -> None:
    expected = damage(kit)
    found = verified(kit)
    told = {problem.path: problem.kind for problem in found.problems}
    assert told == expected
    assert found.exit_status == 1
    assert all(path in str(found) and path in found.to_html() for path in expected)
    with pytest.raises(LabError, match="is not whole"):
        llmlab.kit("install", kit, into=str(learner))
    assert not learner.exists()
    assert not Path(os.environ["LLMLAB_CACHE_DIR"], "engines").exists()


def test_the_command_line_ends_with_1_and_names_the_file(kit):
    damage_changed(kit)
    done = run_cli("kit", "verify", str(kit), check=False)
    assert done.returncode == 1
    assert "engine/llama-server has changed" in done.stdout
    data = json.loads(run_cli("kit", "verify", str(kit), "--json", check=False).stdout)
    assert data["ok"] is False
    assert data["problems"] == [
        {"path": "engine/llama-server", "kind": "changed", "detail": "its checksum differs"}
    ]


def test_what_other_systems_leave_on_a_stick_is_no_damage(kit):
    (kit / ".DS_Store").write_bytes(b"x")
    (kit / "notebooks" / "._01.ipynb").write_bytes(b"x")
    (kit / "System Volume Information").mkdir()
    (kit / "System Volume Information" / "IndexerVolumeGuid").write_bytes(b"x")
    assert problems(kit) == {}


def test_a_hostile_name_is_shown_as_text(kit):
    (kit / "<img src=x onerror=alert(1)>").write_bytes(b"")
    (kit / "\x1b[2J").write_bytes(b"")
    found = verified(kit)
    assert "<img" not in found.to_html()
    done = run_cli("kit", "verify", str(kit), check=False)
    assert "\x1b" not in done.stdout
    assert "\\x1b[2J does not belong" in done.stdout


@pytest.mark.parametrize(("name", "words"), [("nothing", "no folder"), ("empty", "is no kit")])
def test_what_is_no_kit_is_said(tmp_path, name, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=words):
        llmlab.kit("verify", tmp_path / name)


# Kits that somebody has tampered with


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../outside", "a\\..\\outside", "C:/x"])
def test_a_checksum_of_a_file_outside_is_refused_without_reading_it(kit, path):
    with (kit / contents.SUMS).open("a", encoding="utf-8") as sums:
        sums.write(f"{'0' * 64}  {path}\n")
    found = verified(kit)
    assert [problem.path for problem in found.problems] == [contents.SUMS]
    assert "may lead out of the kit" in found.problems[0].detail


def outside_engine(said: dict[str, Any]) -> dict[str, Any]:
    return {"engine": {**said["engine"], "name": "../../evil"}}


def outside_engine_file(said: dict[str, Any]) -> dict[str, Any]:
    return {"engine": {**said["engine"], "files": [*said["engine"]["files"], "../../evil"]}}


def outside_link(said: dict[str, Any]) -> dict[str, Any]:
    return {"engine": {**said["engine"], "links": {"../evil": "llama-server"}}}


def outside_link_target(said: dict[str, Any]) -> dict[str, Any]:
    return {"engine": {**said["engine"], "links": {"libggml.so": "/etc/passwd"}}}


def outside_tool(said: dict[str, Any]) -> dict[str, Any]:
    return {"tools": ["../../evil/relay"]}


def outside_notebook(said: dict[str, Any]) -> dict[str, Any]:
    return {"notebooks": ["../../.bashrc"]}


def outside_model(said: dict[str, Any]) -> dict[str, Any]:
    return {"models": [{**said["models"][0], "source": "file", "files": {"README.txt": "../../.bashrc"}}]}


def outside_blob(said: dict[str, Any]) -> dict[str, Any]:
    held = {"source": "hub", "hub": "hf:a/b", "commit": "main", "blobs": {"README.txt": "../../../evil"}}
    return {"models": [{**said["models"][0], **held, "files": {"README.txt": "x.gguf"}}]}


def outside_commit(said: dict[str, Any]) -> dict[str, Any]:
    held = {"source": "hub", "hub": "hf:a/b", "commit": "../../..", "blobs": {"README.txt": "0" * 64}}
    return {"models": [{**said["models"][0], **held, "files": {"README.txt": "x.gguf"}}]}


TAMPERED = [
    outside_engine,
    outside_engine_file,
    outside_link,
    outside_link_target,
    outside_tool,
    outside_notebook,
    outside_model,
    outside_blob,
    outside_commit,
]


@pytest.mark.parametrize("tamper", TAMPERED)
def test_a_kit_that_names_places_outside_is_refused(
    kit: Path, learner: Path, tmp_path: Path, tamper: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    sums_again(kit, **tamper(said_of(kit)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LabError, match=r"kit\.json cannot be read"):
        llmlab.kit("install", kit, into=str(learner))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_kit_of_a_later_format_says_which_llmlab_reads_it(kit):
    sums_again(kit, format=2)
    assert "format 2" in verified(kit).problems[0].detail


def repacked(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """An image's archive with other members."""
    with tarfile.open(path) as tar:
        members = {name: file.read() for name in tar.getnames() if (file := tar.extractfile(name))}
    change(members)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def other_tag(members: dict[str, bytes]) -> None:
    members["manifest.json"] = members["manifest.json"].replace(b"llmlab/llama-server:", b"python:3.11-")


def other_files(members: dict[str, bytes]) -> None:
    members["layer.tar"] = members["layer.tar"].replace(b"libggml", b"libEVIL", 1)


def other_user(members: dict[str, bytes]) -> None:
    config = json.loads(members["config.json"])
    config["config"]["Entrypoint"] = ["/bin/sh"]
    members["config.json"] = json.dumps(config).encode()


def more_members(members: dict[str, bytes]) -> None:
    members["index.json"] = b"{}"


def no_archive(members: dict[str, bytes]) -> None:
    members.clear()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_tag, "it names python:3.11-"),
        (other_files, "other files than the kit's engine"),
        (other_user, "its settings are others"),
        (more_members, "it has manifest.json, config.json, layer.tar, index.json"),
        (no_archive, "is not the image"),
    ],
)
def test_an_archive_of_another_image_is_refused_before_anything_is_installed(
    kit: Path, learner: Path, change: Callable[[dict[str, bytes]], None], words: str
) -> None:
    repacked(next((kit / "images").iterdir()), change)
    sums_again(kit)
    with pytest.raises(ImageError, match=words):
        llmlab.kit("install", kit, into=str(learner))
    assert not Path(os.environ["LLMLAB_CACHE_DIR"], "engines").exists()


# For other machines


def test_a_kit_for_other_machines_is_whole_and_not_installed_here(kit, learner):
    sums_again(kit, platforms=["macos-arm64"])
    found = verified(kit)
    assert found.ok
    assert found.fits_here is False
    assert f"{platforms.here()}: no" in str(found)
    with pytest.raises(
        UsageError, match=f"for macos-arm64, and this machine is {platforms.here()}"
    ) as caught:
        llmlab.kit("install", kit, into=str(learner))
    assert f"--platforms {platforms.here()}" in caught.value.hint


def test_an_engine_for_another_cpu_is_left_out_and_the_notebooks_come(kit, learner):
    said = said_of(kit)
    sums_again(kit, engine={**said["engine"], "name": "llama.cpp-0.3.36-0123456789"})
    steps = installed(kit, learner)
    assert steps["engine"][0] == "left out"
    assert "llmlab build" in steps["engine"][1]
    assert "image" not in steps
    assert (learner / "notebooks" / "01.ipynb").is_file()


def test_an_engine_that_the_system_cannot_run_is_kept_for_its_image_and_says_so(kit, learner):
    """An older C library refuses it; the image brings its own."""
    loader = "#!/bin/sh\necho 'libc.so.6: version `GLIBC_2.99 not found'\nexit 1\n"
    (kit / "engine" / "llama-server").write_text(loader, encoding="ascii")
    (kit / "images").joinpath(next((kit / "images").iterdir()).name).unlink()
    (kit / "images").rmdir()
    sums_again(kit, image="")
    state, detail = installed(kit, learner)["engine"]
    assert state == "installed"
    assert "not natively" in detail
    assert "GLIBC_2.99 not found" in detail


# Installed


def test_an_installed_engine_is_found_as_if_it_had_been_compiled_and_serves(kit, learner, require_engine):
    here = require_engine.identity
    steps = installed(kit, learner)
    assert steps["engine"][0] == "installed"
    assert "generated 16 tokens" in steps["engine"][1]
    build = find_build()
    cache = Path(os.environ["LLMLAB_CACHE_DIR"])
    # The system's libraries are the kit's, too: so the image keeps its name on every system.
    assert all(file.source.is_relative_to(cache) for file in build.files)
    assert build.identity == said_of(kit)["image"].partition("llama-server-")[2].removesuffix(".tar") == here
    server = llmlab.start("tiny", backend="native")
    assert "container" in server.ask("What is a container?").text.lower()
    server.stop()


def test_installing_again_changes_nothing(kit, learner):
    installed(kit, learner)
    before = {path: path.lstat().st_mtime_ns for path in learner.parent.rglob("*") if path.is_file()}
    steps = installed(kit, learner)
    assert {part: state for part, (state, _) in steps.items()} == {
        "engine": "here",
        "tools": "here",
        "image": "left out",
        "model tiny": "here",
        "notebooks": "here",
    }
    after = {path: path.lstat().st_mtime_ns for path in learner.parent.rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after.get(path)} <= {cached_hashes()}


def cached_hashes() -> Path:
    return Path(os.environ["LLMLAB_CACHE_DIR"], "sha256.json")


def test_without_a_container_engine_it_says_what_that_means(kit, learner):
    state, detail = installed(kit, learner)["image"]
    assert state == "left out"
    assert "not isolated" in detail
    assert "install the kit again" in detail


def test_an_engine_that_was_compiled_here_stays(kit, learner, monkeypatch):
    monkeypatch.delenv("LLMLAB_CACHE_DIR")
    before = (locate.own_dir() / "build.json").read_bytes()
    assert installed(kit, learner)["engine"][0] == "here"
    assert (locate.own_dir() / "build.json").read_bytes() == before


def test_a_learners_changed_notebook_stays_and_the_kits_stands_beside_it(kit, learner):
    installed(kit, learner)
    notes = learner / "notebooks" / "01.ipynb"
    notes.write_text("my work", encoding="utf-8")
    state, detail = installed(kit, learner)["notebooks"]
    assert (state, notes.read_text(encoding="utf-8")) == ("installed", "my work")
    assert "01-kit.ipynb" in detail
    beside = learner / "notebooks" / "01-kit.ipynb"
    assert beside.read_bytes() == (kit / "notebooks" / "01.ipynb").read_bytes()
    # Nor is the second one written over.
    beside.write_text("more work", encoding="utf-8")
    installed(kit, learner)
    assert beside.read_text(encoding="utf-8") == "more work"
    assert (learner / "notebooks" / "01-kit-2.ipynb").is_file()
    assert installed(kit, learner)["notebooks"][0] == "here"


@pytest.fixture
def unique_build(tmp_path: Path) -> EngineBuild:
    """A build of one file that no image was made of yet."""
    program = tmp_path / "program"
    program.write_bytes(os.urandom(64))
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    file = EngineFile(source=program, target="/opt/llama.cpp/llama-server", sha256=digest)
    return EngineBuild(server=program, library_dir=None, files=(file,), version="1", origin="built")


@pytest.mark.parametrize("kind", ["own", "docker", "podman"])
def test_a_loaded_archive_is_the_image_that_the_engines_files_would_have_made(
    unique_build, tmp_path, require_docker, monkeypatch, kind
):
    if kind != "own":
        others = other_engines(kind) or missing(f"newer {kind}", "none of tools/other_engines.py runs")
        monkeypatch.setenv("DOCKER_HOST", others[-1])
    api = docker_api.connect()
    name = image.name_of(unique_build)
    path = tmp_path / "image.tar"
    archive.write(unique_build, platforms.here(), path)
    archive.check(path, unique_build, platforms.here())
    try:
        archive.load(api, path, unique_build)
        loaded, labels = api.image_layers(name), labels_of(api, name)
        # It is taken for the one that is made, and nothing is made.
        assert image.make(api, unique_build) == (name, api.image_id(name))
        api._api.remove_image(name)
        image.make(api, unique_build)
        assert api.image_layers(name) == loaded != ()
        assert labels_of(api, name) == labels
    finally:
        api._api.remove_image(name)
    assert api.image_layers(name) == ()


def labels_of(api: docker_api.DockerApi, name: str) -> dict[str, str]:
    found: dict[str, str] = api._image_config(name)["Labels"]
    return found


def test_a_container_engine_that_refuses_an_archive_is_a_clear_error(unique_build, tmp_path, require_docker):
    path = tmp_path / "image.tar"
    archive.write(unique_build, platforms.here(), path)
    repacked(path, other_files_of_any)
    with pytest.raises(ImageError, match="does not take the image"):
        archive.load(docker_api.connect(), path, unique_build)


def other_files_of_any(members: dict[str, bytes]) -> None:
    members["layer.tar"] = members["layer.tar"].replace(b"llama-server", b"llama-SERVER", 1)


# Models


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: Path) -> Iterator[Hub]:
    """A hub with a model, which was pulled into the teacher's cache."""
    folder = tmp_path / "served" / "teach" / "tiny-GGUF"
    folder.mkdir(parents=True)
    (folder / "tiny-Q8_0.gguf").write_bytes(TINY)
    with Hub(tmp_path / "served").serving() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running
    huggingface_hub.close_session()


def build_models(folder: Path, *models: str) -> None:
    llmlab.kit("build", folder, models=",".join(models), without="engine,wheels,notebooks")


def test_a_model_of_the_hub_is_found_by_its_reference_and_no_hub_is_asked(
    served, tmp_path, learner, monkeypatch
):
    reference = "hf:teach/tiny-GGUF:Q8_0"
    hub.pull(hub.parse(reference))
    build_models(tmp_path / "kit", reference)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "learners-hf"))
    asked = len(served.requests)
    with pytest.raises(ModelNotFoundError):
        weights.resolve(reference, fetch=False)
    assert installed(tmp_path / "kit", learner)[f"model {reference}"][0] == "installed"
    found = weights.resolve(reference, fetch=False)
    assert found.sha256 == hashlib.sha256(TINY).hexdigest()
    assert "learners-hf" in str(found.path)
    assert installed(tmp_path / "kit", learner)[f"model {reference}"][0] == "here"
    assert len(served.requests) == asked


def test_a_model_whose_bytes_are_not_the_hubs_is_refused(served, tmp_path, learner, monkeypatch):
    reference = "hf:teach/tiny-GGUF:Q8_0"
    hub.pull(hub.parse(reference))
    build_models(tmp_path / "kit", reference)
    with next((tmp_path / "kit" / "models").rglob("*.gguf")).open("ab") as file:
        file.write(b"\0")
    sums_again(tmp_path / "kit")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "learners-hf"))
    with pytest.raises(LabError, match="is not the content that the kit says"):
        llmlab.kit("install", tmp_path / "kit", into=str(learner))
    assert hub.find(hub.parse(reference)) is None


def test_a_models_file_goes_to_the_learners_folder_and_starts_from_there(tmp_path, learner):
    (tmp_path / "mine.gguf").write_bytes(TINY)
    build_models(tmp_path / "kit", str(tmp_path / "mine.gguf"))
    state, detail = installed(tmp_path / "kit", learner)["model mine.gguf"]
    target = learner / "models" / "mine.gguf"
    assert (state, detail) == ("installed", f"llmlab start {target}")
    assert weights.resolve(str(target)).sha256 == hashlib.sha256(TINY).hexdigest()
    assert installed(tmp_path / "kit", learner)["model mine.gguf"][0] == "here"
    target.write_bytes(b"another")
    with pytest.raises(LabError, match="another file than the kit's"):
        llmlab.kit("install", tmp_path / "kit", into=str(learner))
    assert target.read_bytes() == b"another"


def test_a_model_that_is_not_here_is_said_before_anything_is_copied(tmp_path, learner):
    with pytest.raises(ModelNotFoundError, match="not here yet") as caught:
        build_models(tmp_path / "kit", "tiny", "hf:teach/none-GGUF")
    assert "llmlab pull" in caught.value.hint
    assert not (tmp_path / "kit").exists()


# What was asked for


def test_a_manifest_lists_what_goes_in_and_options_go_before_it(tmp_path, learner):
    (tmp_path / "mine.gguf").write_bytes(TINY)
    manifest = tmp_path / "class.json"
    wanted = {"models": ["tiny", "mine.gguf"], "without": ["engine", "wheels", "notebooks"]}
    manifest.write_text(json.dumps(wanted), encoding="utf-8")
    llmlab.kit("build", tmp_path / "one", manifest=str(manifest))
    assert [model["reference"] for model in said_of(tmp_path / "one")["models"]] == ["tiny", "mine.gguf"]
    llmlab.kit("build", tmp_path / "two", manifest=str(manifest), models="tiny")
    assert [model["reference"] for model in said_of(tmp_path / "two")["models"]] == ["tiny"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ('{"pizza": []}', "no key of a manifest"),
        ('{"models": [1]}', "must be a list of texts"),
        ('{"platforms": ["windows"]}', "no platform 'windows'"),
        ('{"python": ["2.7"]}', "no version of Python"),
        ('{"without": ["pizza"]}', "no part of a kit"),
    ],
)
def test_a_wrong_manifest_is_a_clear_error(tmp_path, text, words):
    (tmp_path / "class.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        llmlab.kit("build", tmp_path / "kit", manifest=str(tmp_path / "class.json"))
    assert not (tmp_path / "kit").exists()


def test_wrong_words_are_clear_errors(tmp_path, kit):
    with pytest.raises(UnknownNameError, match="no action 'bild'"):
        llmlab.kit("bild", tmp_path / "kit")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--models is for kit build"):
        llmlab.kit("verify", kit, models="tiny")
    with pytest.raises(UsageError, match="is not an empty folder"):
        llmlab.kit("build", kit)
    assert verified(kit).ok
    with pytest.raises(UsageError, match="no notebook in"):
        llmlab.kit("build", tmp_path / "kit", notebooks=str(tmp_path))


def test_a_machine_without_an_engine_of_its_own_is_told_so(tmp_path, learner):
    with pytest.raises(EngineMissingError, match="there is none here") as caught:
        llmlab.kit("build", tmp_path / "kit", without="wheels,notebooks")
    assert "--without engine" in caught.value.hint


def test_a_full_disk_leaves_nothing_that_could_be_taken_for_a_kit(tmp_path, require_engine):
    stick = tmp_path / "stick"
    stick.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "none", str(stick)]
    if os.getuid() or subprocess.run(mount, check=False).returncode:
        missing("small disk", "mounting one needs root")
    try:
        with pytest.raises(DiskSpaceError, match="the disk is full") as caught:
            llmlab.kit("build", stick, without="wheels,notebooks")
        assert "larger disk" in caught.value.hint
        assert list(stick.iterdir()) == []
        with pytest.raises(DiskSpaceError):
            llmlab.kit("build", stick / "deeper", without="wheels,notebooks")
        assert list(stick.iterdir()) == []
    finally:
        subprocess.run(["umount", stick], check=True)


# Wheels


def test_llmlabs_own_wheel_holds_the_files_that_run_now(tmp_path):
    path = wheels.own(tmp_path)
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        record = next(name for name in names if name.endswith("/RECORD"))
        rows = list(csv.reader(wheel.read(record).decode().splitlines()))
        assert [row[0] for row in rows] == names
        for name, digest, size in rows[:-1]:
            data = wheel.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, size) == (f"sha256={expected}", str(len(data)))
        source = Path(llmlab.__file__).parent
        assert wheel.read("llmlab/weights/builtin/tiny.gguf") == TINY
        assert (
            wheel.read("llmlab/kits/carried/install.sh") == (source / "kits/carried/install.sh").read_bytes()
        )
    assert not [name for name in names if "__pycache__" in name or "direct_url" in name]


def make_wheel(
    folder: Path, name: str, *requires: str, version: str = "1.0", tag: str = "py3-none-any"
) -> None:
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nProvides-Extra: lab"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, which is all that pip knows."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_what_only_another_python_or_platform_needs_is_fetched_as_well(shelf, tmp_path):
    """pip asks the Python that it runs in what a marker says."""
    lab = ["old; python_version < '3.11'", "apple; sys_platform == 'darwin'", "extra_of; extra == 'lab'"]
    make_wheel(shelf, "base", *lab)
    make_wheel(shelf, "old", "deeper; python_version == '3.10'")
    make_wheel(shelf, "deeper", tag="cp310-cp310-macosx_11_0_arm64")
    make_wheel(shelf, "deeper", tag="cp310-cp310-manylinux_2_17_x86_64")
    make_wheel(shelf, "apple", tag="py3-none-macosx_10_9_universal2")
    make_wheel(shelf, "extra_of")
    got = tmp_path / "got"
    wheels.collect(["base[lab]"], got, [("macos-arm64", "3.10"), ("linux-x86_64", "3.13")])
    assert sorted(path.name for path in got.iterdir()) == [
        "apple-1.0-py3-none-macosx_10_9_universal2.whl",
        "base-1.0-py3-none-any.whl",
        "deeper-1.0-cp310-cp310-macosx_11_0_arm64.whl",
        "extra_of-1.0-py3-none-any.whl",
        "old-1.0-py3-none-any.whl",
    ]
    assert closure.unmet(got, ["base[lab]"], "macos-arm64", "3.10") == []
    assert closure.unmet(got, ["base[lab]"], "linux-x86_64", "3.10") == ["deeper"]


def test_a_wheel_that_cannot_be_had_is_a_clear_error(shelf, tmp_path):
    make_wheel(shelf, "base", "nowhere>=2; python_version < '3.11'")
    with pytest.raises(
        LabError, match=r"could not get the wheels for Python 3\.10 on linux-aarch64"
    ) as caught:
        wheels.collect(["base"], tmp_path / "got", [("linux-aarch64", "3.10")])
    assert any("nowhere" in line for line in caught.value.log_tail)


@pytest.fixture
def with_wheel(kit: Path) -> Path:
    """A kit with a wheel that is not all that llmlab needs."""
    wheels.own(kit / "wheels")
    sums_again(kit, python=[platforms.python_here()])
    return kit


def install_sh(kit: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(kit / "install.sh"), *words], check=False, capture_output=True, text=True, cwd="/"
    )


def test_a_changed_wheel_is_not_run(with_wheel, tmp_path):
    path = next((with_wheel / "wheels").iterdir())
    path.write_bytes(path.read_bytes() + b"\0")
    done = install_sh(with_wheel, "--into", str(tmp_path / "class"))
    assert done.returncode == 1
    assert f"the kit is not whole (missing, changed or foreign: {path.name})" in done.stderr
    assert not (tmp_path / "class").exists()


def test_a_wheel_that_was_slipped_in_is_not_run(with_wheel, tmp_path):
    make_wheel(with_wheel / "wheels", "numpy", version="99")
    done = install_sh(with_wheel, "--into", str(tmp_path / "class"))
    assert done.returncode == 1
    assert "numpy-99-py3-none-any.whl" in done.stderr
    assert not (tmp_path / "class").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"python": ["3.99"]}, "this kit has wheels for Python 3.99, and this machine has"),
        ({"platforms": ["macos-arm64"]}, "this kit is for macos-arm64, and this machine is"),
    ],
)
def test_the_installer_says_what_the_machine_is_not(with_wheel, tmp_path, changes, words):
    sums_again(with_wheel, **changes)
    done = install_sh(with_wheel, "--into", str(tmp_path / "class"))
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_installer_needs_nothing_but_pythons_own_library():
    code = (
        "import sys; before = set(sys.modules); import runpy; "
        f"runpy.run_path({str(Path(llmlab.__file__).parent / 'kits/carried/install.py')!r}, run_name='kit'); "
        "print([name for name in sys.modules if 'llmlab' in name or 'site-packages' in "
        "str(getattr(sys.modules[name], '__file__', ''))])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# The whole of it, without a network


@pytest.fixture(scope="module")
def whole_kit(tmp_path_factory: pytest.TempPathFactory, require_engine: Any) -> Path:
    """A kit with everything, for this platform and Python, copied as to a stick."""
    place = tmp_path_factory.mktemp("whole")
    done = run_cli("kit", "build", str(place / "made"), check=False)
    if "pip could not get the wheels" in done.stderr:
        missing("package index", done.stderr)
    assert done.returncode == 0, done.stderr
    shutil.copytree(place / "made", place / "stick")
    shutil.rmtree(place / "made")
    return place / "stick"


@pytest.fixture
def nowhere() -> Iterator[Nowhere]:
    """No network, no cache, no compiler, and a container engine of its own without images."""
    for program in ("unshare", "nsenter", "dockerd", "ip"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            missing("docker", f"no {program} on PATH")
    if os.getuid() or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        missing("network namespace", "making one needs root")
    # A short name, since a socket's path must be short.
    place = Path(tempfile.mkdtemp(prefix="kit-", dir="/tmp"))
    (place / "bin").mkdir()
    (place / "home").mkdir()
    (place / "daemon.json").write_text("{}", encoding="utf-8")
    for program in ("sh", "dirname", "mv"):
        (place / "bin" / program).symlink_to(shutil.which(program) or program)
    # Through a script, since a Python looks for its library where it was called.
    python = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
    (place / "bin" / "python3").write_text(f'#!/bin/sh\nexec {python} "$@"\n', encoding="utf-8")
    (place / "bin" / "python3").chmod(0o755)
    options = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
    options += [f"--host=unix://{place}/d.sock", f"--data-root={place}/data", f"--exec-root={place}/exec"]
    options += [f"--pidfile={place}/pid", f"--config-file={place}/daemon.json"]
    # The second is for file systems that refuse overlay mounts.
    for more in ([], ["--storage-driver=vfs"]):
        engine = start_engine([*options, *more], place / "log")
        eventually(lambda: answers(place / "d.sock") or engine.poll() is not None, within_s=60)  # noqa: B023
        if engine.poll() is None:
            break
    else:
        missing("docker", (place / "log").read_text(encoding="utf-8", errors="replace")[-500:])
    try:
        yield Nowhere(place, engine.pid)
    finally:
        engine.terminate()
        engine.wait(120)
        shutil.rmtree(place)


def start_engine(options: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A Docker Engine in a network namespace of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
    environment["PATH"] += ":/usr/sbin:/sbin"
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec dockerd "$@"', "sh", *options]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )


class Nowhere:
    """A place without a network.

    Attributes:
        place: Its directory; the user's home is in it.
    """

    def __init__(self, place: Path, pid: int) -> None:
        self.place = place
        self.home = place / "home"
        self._pid = pid

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command there, with next to nothing on PATH."""
        done = subprocess.run(
            [shutil.which("nsenter") or "nsenter", f"--net=/proc/{self._pid}/ns/net", *command],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.place,
            env={
                "PATH": f"{self.place}/bin",
                "HOME": str(self.home),
                "DOCKER_HOST": f"unix://{self.place}/d.sock",
                "LLMLAB_RUNTIME_DIR": f"{self.place}/run",
            },
        )
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}\n{done.stderr}"
        return done


def answers(door: Path) -> bool:
    """Whether a container engine answers there."""
    with socket.socket(socket.AF_UNIX) as opened, suppress(OSError):
        opened.settimeout(5)
        opened.connect(str(door))
        opened.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
        return b" 200 " in opened.recv(64)
    return False


def members(wheel: Path) -> dict[str, int]:
    """What is in a wheel: name → checksum; its list of them may have another order."""
    with zipfile.ZipFile(wheel) as opened:
        return {
            each.filename: each.CRC for each in opened.infolist() if not each.filename.endswith("/RECORD")
        }


UNREACHABLE = """
import errno, socket
print(open("/proc/net/route").read().count("\\n"))
for address in ("192.0.2.1", "192.168.0.1", "172.17.0.1"):
    try:
        socket.create_connection((address, 443), 2)
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


@pytest.mark.timeout(900)
def test_from_the_kit_alone_to_a_sealed_container_and_a_notebook_without_a_network(whole_kit, nowhere):
    # There is no route to anywhere: the table is its header.
    seen = nowhere.run("python3", "-c", UNREACHABLE).stdout.split()
    assert seen == ["1", "ENETUNREACH", "ENETUNREACH", "ENETUNREACH"]
    assert nowhere.run("sh", "-c", "command -v cc gcc cmake docker ldd", check=False).returncode != 0

    set_up = nowhere.run("sh", str(whole_kit / "install.sh"))
    llmlab_there = str(nowhere.home / "llmlab-class" / "venv" / "bin" / "llmlab")
    identity = said_of(whole_kit)["image"].rpartition("-")[2].removesuffix(".tar")
    name = f"{image.REPOSITORY}:{identity}"
    assert f"installed  {name}" in set_up.stdout
    again = json.loads(nowhere.run(llmlab_there, "kit", "install", str(whole_kit), "--json").stdout)
    assert {step["state"] for step in again["steps"]} == {"here"}

    started = nowhere.run(llmlab_there, "start", "tiny", "--container", "--name", "boxed")
    # The image that was loaded: none is made, and nothing is compiled.
    assert "making" not in started.stderr
    assert "compil" not in started.stderr
    inspection = json.loads(nowhere.run(llmlab_there, "inspect", "boxed", "--json").stdout)
    assert name in json.dumps(inspection)
    # Its exit status would be 1 if anything in force differed from what was asked for.
    assert inspection["status"]["isolation"] == "sealed"
    answer = json.loads(nowhere.run(llmlab_there, "ask", "What is a container?", "--json").stdout)
    assert "container" in answer["text"].lower()
    nowhere.run(llmlab_there, "stop", "--all")

    lesson = nowhere.home / "llmlab-class" / "notebooks" / "01-first-model.ipynb"
    # A cell that fails ends this with another status than 0.
    nowhere.run(str(Path(llmlab_there).with_name("jupyter")), "execute", "--inplace", str(lesson))
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    assert all(cell["execution_count"] for cell in code)
    shown = json.dumps([cell["outputs"] for cell in code])
    assert "sealed" in shown
    assert "started natively" not in shown
    assert json.loads(nowhere.run(llmlab_there, "ps", "--json").stdout) == {"servers": []}

    # A kit can be made from there, too; the notebooks are not a part of the package.
    other = nowhere.run(llmlab_there, "kit", "build", "other", "--without", "wheels", check=False)
    assert other.returncode == 2
    assert "--notebooks DIR" in other.stderr
    script = "import pathlib; from llmlab.kits import wheels; print(wheels.own(pathlib.Path('own')))"
    own = nowhere.run(str(Path(llmlab_there).with_name("python")), "-c", script).stdout.strip()
    assert members(nowhere.place / own) == members(next((whole_kit / "wheels").glob("llmlab-*.whl")))
