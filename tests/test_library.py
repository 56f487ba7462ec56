"""From a hub, an Ollama store, a split file to a server that answers; and the verbs around it."""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab.errors import MemoryFitError, ModelInUseError, UsageError
from llmlab.library.views import ModelCard, ModelList
from llmlab.reporting import reporting_to
from llmlab.testing.hub import Fault, Hub
from llmlab.weights import fit, store
from tests.behaviour import Recorder
from tests.conftest import missing, run_cli

TINY = store.builtin_path()
PLACES = ["native", "container"]


@pytest.fixture
def own_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty stores of the test's own. The directory of containers' models must be enterable."""
    for name in ("HF_HOME", "OLLAMA_MODELS"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in (
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "LLMLAB_SHARED_MODELS",
    ):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """`tiny` in three files, as llama.cpp's gguf-split makes them."""
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError as error:
        missing("gguf", str(error))
    reader = gguf.GGUFReader(str(TINY))
    groups = [reader.tensors[start::3] for start in range(3)]
    paths = []
    for number, group in enumerate(groups):
        path = tmp_path / "parts" / f"tiny-{number + 1:05}-of-00003.gguf"
        path.parent.mkdir(exist_ok=True)
        writer = gguf.GGUFWriter(str(path), "llama")
        if number == 0:
            for name, field in reader.fields.items():
                if not name.startswith("GGUF.") and name != "general.architecture":
                    kind = field.types[0]
                    inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                    writer.add_key_value(name, field.contents(), kind, sub_type=inner)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", len(groups))
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in group:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(path)
    return paths


@pytest.fixture
def hub(own_stores: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with `tiny`, whole and in parts."""
    folder = own_stores / "served" / "teach" / "tiny-GGUF"
    folder.mkdir(parents=True)
    shutil.copy(TINY, folder / "tiny-Q8_0.gguf")
    for path in shards:
        shutil.copy(path, folder / path.name.replace("tiny-", "parts-Q4_K_M-"))
    with Hub(own_stores / "served").serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        yield served


def asked(server: llmlab.Server) -> str:
    """Its answer to a question that `tiny` knows."""
    return server.ask("What is a container?", temperature=0).text


@pytest.mark.parametrize("place", PLACES)
def test_a_start_fetches_what_is_not_here(hub, place, require_engine, request):
    if place == "container":
        request.getfixturevalue("require_docker")
    hub.faults.append(Fault("drop", after_bytes=1_000_000))
    with reporting_to(Recorder()) as seen, llmlab.start("hf:teach/tiny-GGUF:Q8_0", backend=place) as server:
        assert "kernel" in asked(server)
        assert server.name == "tiny-q8_0"
        assert server.record.spec.model.sha256 == hashlib.sha256(TINY.read_bytes()).hexdigest()
        with pytest.raises(ModelInUseError, match="tiny-q8_0"):
            llmlab.rm("hf:teach/tiny-GGUF:Q8_0")
    assert seen.stages[0] == "pull"
    assert seen.stages[-1] == "ready"
    assert llmlab.rm("hf:teach/tiny-GGUF:Q8_0").freed_bytes == TINY.stat().st_size


@pytest.mark.parametrize("place", PLACES)
def test_a_split_model_is_served(own_stores, shards, place, require_engine, request):
    if place == "container":
        request.getfixturevalue("require_docker")
    with llmlab.start(str(shards[1]), backend=place) as server:
        assert server.record.spec.model.files == tuple(shards)
        assert server.record.spec.model.name == "tiny"
        assert "kernel" in asked(server)


def test_a_split_model_of_the_hub_is_served(hub, require_docker, require_engine):
    with llmlab.start("hf:teach/tiny-GGUF", backend="container") as server:
        assert len(server.record.spec.model.files) == 3
        assert "kernel" in asked(server)
    assert _of_hub() == ["hf:teach/tiny-GGUF:Q4_K_M"]


@pytest.mark.parametrize("place", PLACES)
def test_a_model_of_ollama_is_served_where_it_lies(own_stores, place, require_engine, request):
    if place == "container":
        request.getfixturevalue("require_docker")
    digest = hashlib.sha256(TINY.read_bytes()).hexdigest()
    root = own_stores / "OLLAMA_MODELS"
    blob = root / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True)
    shutil.copy(TINY, blob)
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / "small" / "1b"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 1}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    with llmlab.start("ollama:small:1b", backend=place) as server:
        assert server.name == "small-1b"
        assert server.record.spec.model.path == blob
        assert "kernel" in asked(server)
    assert "ollama:small:1b" in [row.reference for row in _list()]
    assert llmlab.verify("ollama:small:1b").rows[0].ok
    with pytest.raises(UsageError):
        llmlab.rm("ollama:small:1b")


def test_what_does_not_fit_is_not_fetched(hub, monkeypatch):
    monkeypatch.setattr(fit.Need, "verdict", lambda *_: "too big")
    with pytest.raises(MemoryFitError):
        llmlab.start("hf:teach/tiny-GGUF:Q8_0", backend="native")
    assert _of_hub() == []


def test_the_card_of_a_model_that_is_not_here(hub):
    card = llmlab.models("hf:teach/tiny-GGUF:Q8_0")
    assert isinstance(card, ModelCard)
    assert card.row.state == "not here"
    assert card.row.parameters == 2_885_888
    assert card.row.fit
    assert card.row.fit.fits == "fits"
    assert card.path is None
    assert _of_hub() == []


def test_the_card_of_a_model_that_is_here(own_stores):
    card = llmlab.models("tiny", context=256, slots=1)
    assert isinstance(card, ModelCard)
    assert card.row.state == "built-in"
    assert card.row.fit
    assert (card.row.fit.context, card.row.fit.slots) == (256, 1)
    assert card.files[0].sha256 == hashlib.sha256(TINY.read_bytes()).hexdigest()
    json.dumps(card.to_dict())


def test_the_verbs_by_the_command_line(hub):
    """Dropped twice, fetched, listed, verified, damaged, found out, removed."""
    hub.faults.append(Fault("drop", after_bytes=500_000, times=2))
    name = "hf:teach/tiny-GGUF:Q8_0"
    pulled = json.loads(run_cli("pull", name, "--json").stdout)
    assert pulled["downloaded_bytes"] == TINY.stat().st_size
    assert pulled["sha256"] == hashlib.sha256(TINY.read_bytes()).hexdigest()
    listed = json.loads(run_cli("models", "--json").stdout)["models"]
    assert {row["reference"]: row["state"] for row in listed}[name] == "here"
    verified = {row["reference"]: row["ok"] for row in json.loads(run_cli("verify", "--json").stdout)["rows"]}
    assert verified["tiny"] is verified[name] is True
    with Path(pulled["path"]).open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"\xff\x00\xff")
    failed = run_cli("verify", "--json", check=False)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["error"]["type"] == "ChecksumError"
    assert run_cli("rm", name).stdout.startswith("removed")
    assert run_cli("rm", name, check=False).returncode == 2


def _of_hub() -> list[str]:
    """Models of the hub that are listed as being here."""
    return [row.reference for row in _list() if row.reference.startswith("hf:") and row.state == "here"]


def _list() -> ModelList:
    found = llmlab.models()
    assert isinstance(found, ModelList)
    return found
