"""Models in Ollama's store, in the layout that its source describes; nothing of a manifest is trusted."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmlab.errors import LabError, ModelFileError, ModelNotFoundError, UnknownNameError, UsageError
from llmlab.reporting import Reporter, reporting_to
from llmlab.weights import ollama
from llmlab.weights.gguf import read_header
from llmlab.weights.store import builtin_path

MODEL = "application/vnd.ollama.image.model"
PROJECTOR = "application/vnd.ollama.image.projector"


class Store:
    """Writes what `ollama pull` would."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def blob(self, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        path = self.root / "blobs" / f"sha256-{digest}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def path_of(self, layer: dict[str, Any]) -> Path:
        return self.root / "blobs" / str(layer["digest"]).replace(":", "-")

    def manifest(self, *layers: dict[str, Any]) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **self.blob(b"{}")},
            "layers": [
                *layers,
                {"mediaType": "application/vnd.ollama.image.license", **self.blob(b"a licence")},
                {"mediaType": "application/vnd.ollama.image.template", **self.blob(b"a template")},
            ],
        }

    def tag(self, name: str, document: object, *, folder: str = "manifests") -> Path:
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return path

    def add(self, name: str, data: bytes, *others: dict[str, Any]) -> Path:
        layer = {"mediaType": MODEL, **self.blob(data)}
        self.tag(name, self.manifest(*others, layer))
        return self.path_of(layer)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    return Store(tmp_path / "models")


LIBRARY = "registry.ollama.ai/library"


def test_a_model_is_found_by_its_name_and_tag(store: Store) -> None:
    tiny = store.add(f"{LIBRARY}/tiny/0.5b", builtin_path().read_bytes())
    other = store.add(f"{LIBRARY}/tiny/latest", b"another")
    assert ollama.find("ollama:tiny:0.5b") == tiny
    assert read_header(tiny).metadata["general.name"] == "tiny"
    assert ollama.find("ollama:tiny") == other
    assert ollama.find("ollama:Tiny:LATEST") == other  # Ollama ignores case
    assert ollama.find("ollama:library/tiny") == other


def test_models_of_users_and_of_other_registries_are_found(store: Store) -> None:
    of_user = store.add("registry.ollama.ai/someone/model/v1", b"one")
    of_hub = store.add("hf.co/owner/Repo-GGUF/Q4_K_M", b"two")
    assert ollama.find("ollama:someone/model:v1") == of_user
    assert ollama.find("ollama:hf.co/owner/Repo-GGUF:Q4_K_M") == of_hub
    assert [reference for reference, _, _ in ollama.stored()] == [
        "ollama:hf.co/owner/Repo-GGUF:Q4_K_M",
        "ollama:someone/model:v1",
    ]


def test_what_is_stored_is_listed_with_file_and_size(store: Store) -> None:
    first = store.add(f"{LIBRARY}/b/latest", b"12345")
    second = store.add(f"{LIBRARY}/a/7b", b"123")
    assert ollama.stored() == [("ollama:a:7b", second, 3), ("ollama:b:latest", first, 5)]
    for reference, path, _ in ollama.stored():
        assert ollama.find(reference) == path


def test_the_newer_layout_with_links_and_lists_is_read(store: Store) -> None:
    layer = {"mediaType": MODEL, **store.blob(b"gguf")}
    inner = store.blob(json.dumps(store.manifest(layer)).encode())
    manifests = [
        {"mediaType": "x", "runner": "mlx", "format": "safetensors", "digest": "sha256:" + "0" * 64},
        {"mediaType": "x", "runner": "llamacpp", "format": "gguf", "digest": inner["digest"]},
    ]
    document = {"schemaVersion": 2, "mediaType": "application/vnd.ollama.manifest.list.v2+json"}
    outer = store.blob(json.dumps({**document, "manifests": manifests}).encode())
    link = store.root / "manifests-v2/ollama.com/library/new/latest"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(store.path_of(outer), link.parent))
    assert ollama.find("ollama:new") == store.path_of(layer)
    # A model of both layouts is one model, and the newer manifest holds.
    store.add(f"{LIBRARY}/new/latest", b"old")
    assert ollama.find("ollama:new") == store.path_of(layer)
    assert ollama.stored() == [("ollama:new:latest", store.path_of(layer), 4)]


class Notes(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def test_a_projector_is_left_out_and_said_so(store: Store) -> None:
    projector = {"mediaType": PROJECTOR, **store.blob(b"sees")}
    path = store.add(f"{LIBRARY}/seeing/latest", b"reads", projector)
    with reporting_to(Notes()) as notes:
        assert ollama.find("ollama:seeing") == path
    assert notes.said == ["seeing:latest also reads images in Ollama; here it reads text only."]
    with reporting_to(Notes()) as notes:
        ollama.stored()
    assert notes.said == []


# -- what is not there --------------------------------------------------------------------


def test_an_unknown_model_comes_with_the_nearest_and_how_to_get_it(store: Store) -> None:
    store.add(f"{LIBRARY}/qwen2.5/0.5b", b"x")
    with pytest.raises(UnknownNameError) as caught:
        ollama.find("ollama:qwen2.5:0.6b")
    assert "'ollama:qwen2.5:0.5b'" in caught.value.hint
    assert "ollama pull qwen2.5:0.6b" in caught.value.hint


def test_without_a_store_it_says_so(store: Store) -> None:
    assert ollama.stored() == []
    with pytest.raises(ModelNotFoundError) as caught:
        ollama.find("ollama:someone/model")
    assert "ollama pull someone/model:latest" in caught.value.hint
    assert "OLLAMA_MODELS" in caught.value.hint


def test_a_missing_blob_is_to_be_pulled_again(store: Store) -> None:
    store.add(f"{LIBRARY}/gone/latest", b"x").unlink()
    with pytest.raises(ModelNotFoundError, match="incomplete") as caught:
        ollama.find("ollama:gone")
    assert caught.value.hint == "ollama pull gone:latest"
    assert ollama.stored() == []


def test_without_the_variable_the_home_directory_is_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = Store(tmp_path / ".ollama/models").add(f"{LIBRARY}/mine/latest", b"x")
    assert ollama.find("ollama:mine") == path


# -- what is wrong ------------------------------------------------------------------------

BAD_NAMES = [
    "ollama:",
    "ollama::latest",
    "ollama:../../etc/passwd",
    "ollama:a/b/c/d",
    "ollama:a:b:c",
    "ollama:..",
    "ollama:a..b",
    "ollama:-rf",
    "ollama:a/../b:c",
    "ollama:a:../../x",
    "ollama:a b",
    "ollama:a\x00b",
    "ollama:" + "a" * 200,
]


@pytest.mark.parametrize("reference", BAD_NAMES)
def test_names_that_are_none_are_refused(reference: str, store: Store) -> None:
    store.add(f"{LIBRARY}/a/latest", b"x")
    with pytest.raises(UsageError) as caught:
        ollama.find(reference)
    assert caught.value.hint


BAD_DIGESTS = [
    "sha256:../../../etc/passwd",
    "sha256:" + "0" * 63,
    "sha256:" + "0" * 65,
    "sha256:" + "g" * 64,
    "sha256-" + "0" * 64 + "/../../x",
    "md5:" + "0" * 32,
    "",
    None,
    7,
    ["sha256:" + "0" * 64],
]


@pytest.mark.parametrize("digest", BAD_DIGESTS)
def test_digests_that_are_none_are_refused(digest: object, store: Store) -> None:
    store.tag(f"{LIBRARY}/bad/latest", store.manifest({"mediaType": MODEL, "digest": digest}))
    with pytest.raises(ModelFileError, match="no sha256"):
        ollama.find("ollama:bad")
    assert ollama.stored() == []


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"layers": 3}',
        '{"layers": [3, null]}',
        '{"layers": []}',
        '{"mediaType": "application/vnd.ollama.manifest.list.v2+json", "manifests": 3}',
        '{"mediaType": "application/vnd.ollama.manifest.list.v2+json", "manifests": [null, {"runner": "mlx"}]}',
        '{"layers": [{"mediaType": "application/vnd.ollama.image.tensor; name=x"}]}',
        "\x00\x01",
        "[" * 500_000,
        '"' + "x" * 2_000_000 + '"',
    ],
)
def test_damaged_manifests_give_an_error_with_a_hint(document: str, store: Store) -> None:
    store.tag(f"{LIBRARY}/bad/latest", document)
    with pytest.raises(ModelFileError) as caught:
        ollama.find("ollama:bad")
    assert caught.value.hint
    assert ollama.stored() == []


def test_links_out_of_the_store_are_refused(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    blob = store.add(f"{LIBRARY}/linked/latest", b"x")
    blob.unlink()
    blob.symlink_to(secret)
    manifest = store.tag(f"{LIBRARY}/away/latest", "")
    manifest.unlink()
    manifest.symlink_to(secret)
    for reference in ("ollama:linked", "ollama:away"):
        with pytest.raises(ModelFileError, match="leads out of"):
            ollama.find(reference)
    assert ollama.stored() == []


def test_a_store_that_is_itself_a_link_works(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.add(f"{LIBRARY}/a/latest", b"x")
    (tmp_path / "link").symlink_to(store.root)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "link"))
    assert ollama.find("ollama:a").resolve() == path.resolve()


def test_a_loop_of_links_is_an_error_of_ours(store: Store) -> None:
    blob = store.add(f"{LIBRARY}/loop/latest", b"x")
    blob.unlink()
    blob.symlink_to(blob)
    with pytest.raises(LabError) as caught:
        ollama.find("ollama:loop")
    assert caught.value.hint
