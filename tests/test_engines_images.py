"""Images that llmlab has not made: by which word they are named, and whether they are what their names say."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

import llmlab
from llmlab.backends import docker_api, engine_image, image
from llmlab.builds import find_build
from llmlab.engines import official
from llmlab.errors import ImageError, UnknownNameError, UsageError
from llmlab.runtime import cache_dir
from tests.conftest import inventory

DIGEST = "sha256:" + "0123456789abcdef" * 4
HERE = "ghcr.io/ggml-org/llama.cpp"


@pytest.mark.parametrize(
    ("word", "gpu", "wanted"),
    [
        ("official", {}, f"{HERE}:server-{official.BUILD}"),
        ("official", {"maker": "nvidia", "cuda": 12}, f"{HERE}:server-cuda12-{official.BUILD}"),
        ("official", {"maker": "nvidia", "cuda": 13}, f"{HERE}:server-cuda13-{official.BUILD}"),
        ("official", {"maker": "nvidia"}, f"{HERE}:server-cuda12-{official.BUILD}"),
        ("official", {"maker": "amd"}, f"{HERE}:server-rocm-{official.BUILD}"),
        ("official", {"maker": "intel"}, f"{HERE}:server-intel-{official.BUILD}"),
        ("official:vulkan", {"maker": "nvidia"}, f"{HERE}:server-vulkan-{official.BUILD}"),
        ("official:cpu", {"maker": "nvidia"}, f"{HERE}:server-{official.BUILD}"),
        ("official:cuda13-b12000", {}, f"{HERE}:server-cuda13-b12000"),
        (f"official:cuda-b12000@{DIGEST}", {}, f"{HERE}:server-cuda12-b12000@{DIGEST}"),
        ("official.example.org/llama:server", {}, "official.example.org/llama:server"),
        (f"{HERE}:server", {"maker": "nvidia"}, f"{HERE}:server"),
    ],
)
def test_a_word_stands_for_an_image_and_the_gpu_chooses(word, gpu, wanted):
    assert official.resolve(word, **gpu) == wanted


def test_words_that_say_nothing_are_refused():
    with pytest.raises(UnknownNameError, match="'cuda14'") as caught:
        official.resolve("official:cuda14")
    assert "cuda13" in caught.value.hint
    with pytest.raises(UsageError, match="no build"):
        official.resolve("official:cuda-latest")
    with pytest.raises(UsageError, match="no digest"):
        official.resolve("official@sha256:12")


Made = Callable[..., str]


@pytest.fixture
def made(require_docker: None) -> Iterator[Made]:
    """Makes images for one test."""
    api = docker_api.connect()
    names = []

    def make(name: str, files: Mapping[str, bytes | Path]) -> str:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for path, source in {"tmp/": b"", "models/": b"", "run/llmlab/": b"", **files}.items():
                content = source if isinstance(source, bytes) else source.read_bytes()
                entry = tarfile.TarInfo(path.strip("/"))
                entry.mode = 0o755
                entry.type = tarfile.DIRTYPE if path.endswith("/") else tarfile.REGTYPE
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        file.seek(0)
        names.append(f"llmlab-test/{name}:latest")
        api.import_image(cast("Any", file), names[-1], {})
        return names[-1]

    yield make
    llmlab.stop(all=True)
    for name in names:
        api.remove_image(name)


def llama(folder: str = "app") -> dict[str, bytes | Path]:
    """The files of the llama-server of this machine, laid out as in the project's images."""
    build = find_build()
    beside = Path(next(f.target for f in build.files if f.source.name == build.server.name)).parent
    return {
        f"{folder}/{Path(file.target).name}"
        if Path(file.target).parent == beside
        else file.target: file.source
        for file in build.files
    }


def test_an_image_of_the_official_layout_tells_its_version(made, require_engine):
    name = made("whole", llama())
    with llmlab.start("tiny", image=name, backend="container") as server:
        assert server.record.argv[0] == "/app/llama-server"
        assert any("llama-server says: version 0.5" in note for note in server.record.notes)
        assert server.inspect().differences == ()


def test_an_image_is_asked_once(made, require_engine, monkeypatch):
    name = made("once", llama())
    with llmlab.start("tiny", image=name, backend="container") as first:
        told = [note for note in first.record.notes if "says" in note]
    # It cannot be asked any more, and need not be.
    monkeypatch.setattr(engine_image, "_version", lambda *_: pytest.fail("asked again"))
    with llmlab.start("tiny", image=name, backend="container") as second:
        assert [note for note in second.record.notes if "says" in note] == told


def test_an_image_without_the_program(made, require_engine, isolated_runtime):
    name = made("without", {"etc/motd": b"hello"})
    with pytest.raises(ImageError, match="has no /app/llama-server") as caught:
        llmlab.start("tiny", image=name, backend="container")
    assert f"such as {HERE}:server-" in caught.value.hint
    assert inventory(isolated_runtime) == []


def test_a_program_that_is_another_one(made, require_engine, isolated_runtime):
    build = find_build()
    other = {**llama(), "app/llama-server": build.server.with_name("llama-quantize")}
    name = made("other", other)
    with pytest.raises(ImageError, match="is another program: asked for its version, it says"):
        llmlab.start("tiny", image=name, backend="container")
    assert inventory(isolated_runtime) == []


def test_a_program_that_cannot_be_run_here(made, require_engine, isolated_runtime):
    name = made("broken", {"app/llama-server": b"\x7fELF of another machine"})
    with pytest.raises(ImageError, match=r"cannot be started|is another program"):
        llmlab.start("tiny", image=name, backend="container")
    assert inventory(isolated_runtime) == []


def test_an_image_for_other_processors(made, require_engine, monkeypatch, isolated_runtime):
    name = made("arm", {"app/llama-server": b"#!/x"})
    # The engine here makes images for its own kind only: what it would say of one from a registry.
    monkeypatch.setattr(docker_api.DockerApi, "image_architecture", lambda *_: "arm64")
    with pytest.raises(ImageError, match="is for aarch64, and the container engine runs on x86_64") as caught:
        llmlab.start("tiny", image=name, backend="container")
    assert "docker pull --platform linux/amd64" in caught.value.hint
    assert inventory(isolated_runtime) == []


def test_an_image_says_for_which_processors_it_is(made, require_docker):
    assert docker_api.connect().image_architecture(made("mine", {"x": b""})) in {"amd64", "arm64"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"image": "127.0.0.1:1/none:1"}, "127.0.0.1:1/none:1"),
        ({"image": f"127.0.0.1:1/none:1@{DIGEST}"}, "127.0.0.1:1/none:1"),
    ],
)
def test_an_image_that_cannot_be_had_can_be_carried(options, name, require_docker, isolated_runtime):
    with pytest.raises(ImageError, match="cannot be had") as caught:
        llmlab.start("tiny", backend="container", **options)
    assert f"docker save {name} | gzip" in caught.value.hint
    assert "docker load" in caught.value.hint
    assert inventory(isolated_runtime) == []


def test_what_an_image_said_is_kept_where_caches_are(made, require_engine):
    folder = cache_dir() / "images"
    with llmlab.start("tiny", image=made("kept", llama()), backend="container"):
        assert any("0.5" in path.read_text() for path in folder.iterdir())


def test_the_images_of_llmlab_name_the_official_one_where_they_cannot_be_made(require_docker):
    build = find_build()
    bare = type(build)(**{**{n: getattr(build, n) for n in build.__dataclass_fields__}, "files": ()})
    with pytest.raises(ImageError, match="no image can be made") as caught:
        image.make(docker_api.connect(), bare)
    assert "--image official" in caught.value.hint
