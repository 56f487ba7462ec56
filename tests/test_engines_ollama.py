"""The behaviour suite on Ollama, and what only Ollama does: its stand-in, or the real image (tests/stand_ins.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab import engines
from llmlab.backends import docker_api
from llmlab.engines import ollama
from llmlab.errors import RequestError, StartError, UnknownNameError, UsageError
from llmlab.lab import registry
from llmlab.reporting import reporting_to
from llmlab.specs import ServeSpec
from llmlab.testing.stand_ins import MARK
from llmlab.weights import resolve
from llmlab.weights.store import builtin_path
from tests import stand_ins
from tests.behaviour import Recorder, ServerBehaviour
from tests.conftest import inventory
from tests.tcp_door import tcp_door
from tests.test_ollama import LIBRARY, Store

pytestmark = pytest.mark.usefixtures("require_docker", "require_engine")
not_real = pytest.mark.skipif(stand_ins.REAL, reason="this is about the stand-in")


@pytest.fixture
def place(require_docker: None, require_engine: Any) -> dict[str, Any]:
    return stand_ins.place("ollama")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    return Store(tmp_path / "models")


def spec(**changes: Any) -> ServeSpec:
    made = ServeSpec(model=resolve("tiny"), engine="ollama", context=512, slots=3, threads=2)
    return replace(made, **changes)


class TestOllama(ServerBehaviour):
    tells_slots = False
    word = "serve"

    @pytest.fixture
    def place(self, require_docker, require_engine):
        return stand_ins.place("ollama")

    def test_a_prompt_longer_than_the_context_is_refused_with_numbers(self, place, shared):
        """Ollama cuts it, and llmlab says so at the start."""
        assert shared.ask("container " * 10_000, max_tokens=5).text
        assert any("cuts a conversation" in note for note in shared.record.notes)


def test_it_is_sealed_but_for_its_own_loopback(place):
    with llmlab.start("tiny", name="a", **place) as server:
        seen = server.inspect()
        assert [control.name for control in seen.isolation if not control.agrees] == []
        controls = {control.name: control for control in seen.isolation}
        assert controls["network"].in_force == "only loopback"
        assert controls["system calls"].asked == "filtered, unix and internet sockets only"
        assert server.record.transport == "sidecar"
        assert server.record.profile
        assert server.record.profile.changes == ("seccomp loopback",)
        audit = llmlab.audit("a")
        assert isinstance(audit, llmlab.Audit)
        # A busy machine may leave a check of speed open.
        assert audit.failed() == ()
        assert audit["N8"].verdict == "pass"
        assert "own loopback interface needs" in audit["N8"].observed


def test_nothing_leaves_it_and_nothing_of_the_users_is_in_it(place):
    with llmlab.start("tiny", name="a", context=512, slots=2, **place) as server:
        entry = docker_api.connect().container(server.record.container_id or "") or {}
        told = dict(each.split("=", 1) for each in entry["Config"]["Env"])
        assert told["OLLAMA_NO_CLOUD"] == "1"
        assert (told["OLLAMA_CONTEXT_LENGTH"], told["OLLAMA_NUM_PARALLEL"]) == ("512", "2")
        assert told["HOME"] == "/tmp"  # noqa: S108 - the container's own
        assert not entry["Config"]["User"].startswith("0:") or server.record.user == "0:0"
        mounts = {mount["Destination"]: mount for mount in entry["Mounts"]}
        assert all(place.startswith("/models/") for place in mounts)
        assert not any(mount["RW"] for mount in mounts.values())
        weights = mounts[f"/models/blobs/sha256-{resolve('tiny').sha256}"]
        assert weights["Source"] == str(builtin_path().resolve())


@pytest.mark.parametrize("transport", ["relay", "sidecar"])
def test_it_is_reached_through_other_transports(place, transport):
    with llmlab.start("tiny", transport=transport, **place) as server:
        assert server.record.transport == transport
        assert server.ask("What is a GPU?", max_tokens=5).text


def test_another_machines_engine_gets_the_store_in_a_volume(place, monkeypatch):
    with tcp_door() as address:
        monkeypatch.setenv("DOCKER_HOST", address)
        with llmlab.start("tiny", name="a", **place) as server:
            assert server.ask("What is a GPU?", max_tokens=5).text
            assert server.inspect().differences == ()
            entry = docker_api.connect().container(server.record.container_id or "") or {}
        (volume,) = (mount["Name"] for mount in entry["Mounts"] if mount["Destination"] == "/models")
        docker_api.connect().remove_volume(volume)


def test_a_model_of_ollamas_brings_its_template_and_parameters_along(place, store):
    template, parameters = b"{{ .Prompt }}", b'{"stop":["STOP"],"num_ctx":99}'
    store.add(
        f"{LIBRARY}/mine/0.5b",
        builtin_path().read_bytes(),
        {"mediaType": "application/vnd.ollama.image.template", **store.blob(template)},
        {"mediaType": "application/vnd.ollama.image.params", **store.blob(parameters)},
    )
    with llmlab.start("ollama:mine:0.5b", **place) as server:
        assert server.name == "mine-0.5b"
        assert server.ask("What is a GPU?", max_tokens=5).text
        found = {file.target: file.source for file in ollama.model_files(server.record.spec)}
        assert template in found.values()
        kept = next(
            json.loads(each) for each in found.values() if isinstance(each, bytes) and b"STOP" in each
        )
        # What is asked for here goes before what its author has chosen.
        assert kept == {"stop": ["STOP"], "num_ctx": 1024, "num_gpu": 0, "num_thread": 1}


def test_a_name_that_ollama_does_not_have_is_told_with_what_there_is(place, store, isolated_runtime):
    store.add(f"{LIBRARY}/mine/latest", builtin_path().read_bytes())
    with pytest.raises(UnknownNameError, match="no model 'ollama:mime:latest'") as caught:
        llmlab.start("ollama:mime", **place)
    assert "ollama:mine:latest" in caught.value.hint
    assert "ollama pull mime:latest" in caught.value.hint
    assert inventory(isolated_runtime) == []


def test_the_manifest_names_every_part_by_its_hash():
    files = {file.target: file.source for file in ollama.model_files(spec())}
    manifest = json.loads(files.pop("manifests/registry.ollama.ai/library/tiny/latest"))  # type: ignore[arg-type]
    layers = [*manifest["layers"], manifest["config"]]
    assert {f"blobs/{layer['digest'].replace(':', '-')}" for layer in layers} == set(files)
    sizes = [
        len(source) if isinstance(source, bytes) else source.stat().st_size
        for source in (files[f"blobs/{layer['digest'].replace(':', '-')}"] for layer in layers)
    ]
    assert [layer["size"] for layer in layers] == sizes
    texts = [source for source in files.values() if isinstance(source, bytes)]
    assert any(b"<|im_start|>{{ .Role }}" in text for text in texts)
    assert any(json.loads(text).get("num_ctx") == 512 for text in texts if text.startswith(b'{"stop"'))


def test_a_model_whose_template_ollama_has_no_words_for_is_told(tmp_path):
    model = resolve("tiny")
    path = tmp_path / "other.gguf"
    path.write_bytes(model.path.read_bytes().replace(b"<|im_start|>' +", b"<|in_start|>' +"))
    content = path.read_bytes().replace(b"<|im_start|>assistant", b"<|in_start|>assistant")
    path.write_bytes(content)
    notes = list(ollama.notes(spec(model=replace(model, path=path, files=(path,)))))
    assert any("no Jinja templates" in note for note in notes)
    assert not any("no Jinja templates" in note for note in ollama.notes(spec()))


def test_what_ollama_cannot_do_is_refused(place, isolated_runtime):
    with pytest.raises(UsageError, match="no KV cache of type q4_1"):
        llmlab.start("tiny", kv_type="q4_1", **place)
    with pytest.raises(UsageError, match="container only"):
        llmlab.start("tiny", engine="ollama", backend="native")
    with pytest.raises(UsageError, match=r"official is an image of llama\.cpp's"):
        llmlab.start("tiny", **{**place, "image": "official"})
    two = (builtin_path(), builtin_path())
    with pytest.raises(UsageError, match="one file, and tiny has 2"):
        list(ollama.model_files(spec(model=replace(resolve("tiny"), files=two))))
    assert inventory(isolated_runtime) == []


def test_a_quantised_cache_needs_flash_attention():
    paths = engines.Paths(program=Path("/bin/ollama"), model=Path("/models/x"), scratch=Path("/tmp"))  # type: ignore[arg-type]  # noqa: S108
    told = ollama.environment(spec(kv_type="q8_0"), paths)
    assert (told["OLLAMA_KV_CACHE_TYPE"], told["OLLAMA_FLASH_ATTENTION"]) == ("q8_0", "1")
    assert "OLLAMA_KV_CACHE_TYPE" not in ollama.environment(spec(), paths)


def test_requests_of_an_exact_length_are_refused(place):
    with llmlab.start("tiny", name="a", **place) as server:
        client = registry.client(server.record)
        with pytest.raises(RequestError, match="exactly so many tokens"):
            client.complete("Once", tokens=3, engine="ollama")


@not_real
def test_a_stand_in_is_marked_wherever_it_is_shown(place):
    with reporting_to(Recorder()) as seen, llmlab.start("tiny", name="a", **place) as server:
        assert any(MARK in note for note in seen.notes)
        assert MARK in server.inspect().facts["note"]
        (row,) = llmlab.ps()
        assert row.engine == "ollama (stand-in)"


@not_real
def test_the_stand_in_speaks_ollamas_own_api(place):
    with llmlab.start("tiny", name="a", **place) as server:
        client = registry.client(server.record)
        assert [row["name"] for row in client.get_json("/api/tags")["models"]] == ["tiny:latest"]
        # It was loaded with the first token of the start.
        assert [row["name"] for row in client.get_json("/api/ps")["models"]] == ["tiny:latest"]
        assert client.get_json("/v1/models")["data"][0]["id"] == "tiny:latest"
        question = {"role": "user", "content": "What is a container?"}
        asked = {"model": "tiny", "messages": [question], "options": {"num_predict": 4, "temperature": 0}}
        lines = [json.loads(line) for line in _posted(server, "/api/chat", asked).splitlines()]
        assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
        assert (lines[-1]["done_reason"], lines[-1]["eval_count"]) == ("length", 4)
        whole = json.loads(_posted(server, "/api/chat", {**asked, "stream": False}))
        assert whole["message"]["content"] == "".join(line["message"]["content"] for line in lines)
        assert json.loads(_posted(server, "/api/show", {"model": "tiny"}))["details"] == {"format": "gguf"}
        assert "not found" in json.loads(_posted(server, "/api/chat", {**asked, "model": "other"}))["error"]
        assert "error" in json.loads(_posted(server, "/api/pull", {"model": "other"}))


@not_real
def test_a_blob_that_is_not_what_the_manifest_names_ends_the_start(place, store, monkeypatch):
    path = store.add(f"{LIBRARY}/mine/latest", builtin_path().read_bytes())
    files = list(ollama.model_files(replace(spec(), model=resolve("ollama:mine"))))
    cut = path.read_bytes() + b"more"
    monkeypatch.setattr(ollama, "model_files", lambda _: iter(files))
    with _replaced(path, cut), pytest.raises(StartError, match="not of the size"):
        llmlab.start("ollama:mine", **place)


@contextmanager
def _replaced(path: Path, content: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(content)
    yield
    path.write_bytes(before)


def _posted(server: llmlab.Server, path: str, body: dict[str, Any]) -> str:
    """What a POST of its own is answered with."""
    with registry.client(server.record)._connection(20.0) as connection:
        connection.request("POST", path, json.dumps(body), {"Host": "localhost", "Connection": "close"})
        with connection.getresponse() as response:
            return response.read().decode()
