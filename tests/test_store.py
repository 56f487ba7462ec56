"""The models on this machine: listed, hashed, verified and removed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from filelock import FileLock

import llmlab
from llmlab import runtime
from llmlab.errors import (
    ChecksumError,
    DiskSpaceError,
    ModelError,
    ModelInUseError,
    UnknownNameError,
    UsageError,
)
from llmlab.library import pull, rm, verify
from llmlab.reporting import reporting_to
from llmlab.weights import hub, hub_cache, store
from tests.conftest import run_cli
from tests.faults.contract import promise
from tests.test_hub import SIZE, SPLIT, TINY, Told, folder, served

__all__ = ["folder", "served"]  # fixtures

REPO = "hf:teach/tiny-GGUF"
WHOLE = f"{REPO}:Q8_0"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No stores but those of the test."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv(hub_cache.SHARED, raising=False)


def references(source: str) -> list[str]:
    return [model.reference for model in store.stored() if model.source == source]


def of(reference: str) -> store.Stored:
    return next(model for model in store.stored() if model.reference == reference)


def disk_bytes(path: Path) -> int:
    return sum(each.lstat().st_size for each in path.rglob("*") if each.is_file() and not each.is_symlink())


def ollama_model(root: Path, name: str, content: bytes) -> Path:
    """A model as Ollama keeps it."""
    digest = hashlib.sha256(content).hexdigest()
    blob = root / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
    manifest.parent.mkdir(parents=True)
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": f"sha256:{digest}",
        "size": len(content),
    }
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    return blob


def synthetic_model(content: bytes = TINY) -> Path:
    path = store.synthetic_dir() / "llama-3.2-1b-Q4_0.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


# Listing


def test_the_built_in_model_is_always_there():
    (model,) = store.stored()
    assert (model.reference, model.source, model.file_bytes) == ("tiny", "built-in", len(TINY))


def test_models_of_all_sources_are_listed(served, tmp_path):
    pull(REPO)
    pull(SPLIT)
    synthetic_model()
    ollama_model(tmp_path / "ollama", "words", TINY)
    assert references("hub") == ["hf:teach/split-GGUF:Q4_0", "hf:teach/tiny-GGUF:Q4_K_M"]
    assert references("synthetic") == ["synthetic:llama-3.2-1b:Q4_0"]
    assert references("ollama") == ["ollama:words:latest"]
    assert of("hf:teach/split-GGUF:Q4_0").file_bytes == 300_000


def test_what_is_broken_half_there_or_foreign_is_left_out(served, tmp_path):
    path = pull(REPO).path
    cache = hub_cache.own()
    (cache / "models--a--b" / "snapshots").mkdir(parents=True)
    (cache / "models--c--d").write_text("a file")
    (cache / "models--nobody").mkdir()
    (cache / "datasets--a--b" / "snapshots" / "x").mkdir(parents=True)
    (cache / "models--e--f").symlink_to(cache / "nowhere")
    for foreign in ("models--a b--c", "models--g--h"):
        (cache / foreign / "snapshots" / "x").mkdir(parents=True)
        (cache / foreign / "snapshots" / "x" / "odd\\name.gguf").write_bytes(TINY)
    (path.parent / "broken-Q8_0.gguf").symlink_to("../../blobs/0000")
    (path.parent / "folder.gguf").mkdir()
    (path.parent / "half-00001-of-00002.gguf").write_bytes(TINY)
    (path.parent / "notes.txt").write_text("mine")
    (cache / "models--teach--tiny-GGUF" / "blobs" / "1234.incomplete").write_bytes(TINY)
    folder = store.synthetic_dir()
    folder.mkdir(parents=True)
    (folder / "x-Q4_0.gguf.partial").write_bytes(TINY)
    (folder / ".hidden-Q4_0.gguf").write_bytes(TINY)
    (folder / "link-Q4_0.gguf").symlink_to(path)
    (tmp_path / "ollama").write_text("a file")
    assert [model.reference for model in store.stored()] == ["tiny", "hf:teach/tiny-GGUF:Q4_K_M"]
    assert rm(REPO).freed_bytes == SIZE


def test_a_file_that_was_renamed_has_a_reference_under_either_name(served, folder):
    pull(REPO)
    place = folder / "teach/tiny-GGUF"
    (place / "tiny-Q4_K_M.gguf").rename(place / "new-Q4_K_M.gguf")
    pull(REPO)
    assert references("hub") == [f"{REPO}:Q4_K_M", f"{REPO}/tiny-Q4_K_M.gguf"]
    assert of(f"{REPO}:Q4_K_M").path.name == "new-Q4_K_M.gguf"
    assert rm(f"{REPO}/tiny-Q4_K_M.gguf").freed_bytes == 0
    assert rm(f"{REPO}:Q4_K_M").freed_bytes == SIZE


def test_a_model_without_a_quantisation_in_its_name_is_listed_by_its_file(served, folder):
    shutil.copy(folder / "teach/tiny-GGUF/tiny-Q8_0.gguf", folder / "teach/words/words.gguf")
    assert pull("hf:teach/words/words.gguf").reference == "hf:teach/words/words.gguf"
    (reference,) = references("hub")
    assert hub.find(hub.parse(reference)) == of(reference).path


def test_listing_reads_no_file(served):
    if not Path("/proc/self/io").exists():
        pytest.skip("no /proc/self/io")
    pull(WHOLE)
    store.stored()

    def read_bytes() -> int:
        line = Path("/proc/self/io").read_text().splitlines()[0]
        return int(line.split()[1])

    before = read_bytes()
    assert len(store.stored()) == 2
    assert read_bytes() - before < 20_000


# Hashing


def test_a_hash_is_remembered_until_the_file_changes(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"one")
    assert store.sha256(path) == hashlib.sha256(b"one").hexdigest()
    known = json.loads((runtime.cache_dir() / "sha256.json").read_text())
    assert list(known.values()) == [hashlib.sha256(b"one").hexdigest()]
    path.write_bytes(b"three")
    assert store.sha256(path) == hashlib.sha256(b"three").hexdigest()


def test_what_was_pulled_is_not_hashed_again(served):
    path = pull(REPO).path
    known = json.loads((runtime.cache_dir() / "sha256.json").read_text())
    assert len(known) == 1
    path.resolve().chmod(0)  # root could read it all the same
    assert store.sha256(path) == hashlib.sha256(TINY[:SIZE]).hexdigest()
    assert json.loads((runtime.cache_dir() / "sha256.json").read_text()) == known


def test_a_hash_can_be_had_without_a_cache_to_write_to(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "file"))
    assert store.sha256(store.builtin_path()) == hashlib.sha256(TINY).hexdigest()


def test_git_hashes_are_those_of_git(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"some bytes")
    found = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True)
    assert store.digest(path, "git") == found.stdout.strip()


def test_room_is_looked_at_where_a_folder_will_be(tmp_path):
    store.require_space(tmp_path / "not" / "there" / "yet", 1000, "a model")
    with pytest.raises(DiskSpaceError, match="needs 1000000 GB more"):
        store.require_space(tmp_path / "not", 10**15, "a model")


# Removing


def test_rm_frees_what_pull_took(served):
    empty = disk_bytes(hub_cache.own())
    pull(REPO)
    removed = rm(f"{REPO}:q4_k_m")
    assert removed.names == (f"{REPO}:Q4_K_M",)
    assert removed.freed_bytes == SIZE
    assert references("hub") == []
    assert disk_bytes(hub_cache.own()) == empty
    assert not (hub_cache.own() / "models--teach--tiny-GGUF").exists()


def test_rm_of_one_leaves_the_others(served):
    pull(REPO)
    pull(WHOLE)
    with pytest.raises(UsageError, match="any of several") as caught:
        rm(REPO)
    assert WHOLE in caught.value.hint
    assert rm(f"{REPO}/tiny-Q8_0.gguf").freed_bytes == len(TINY)
    assert references("hub") == [f"{REPO}:Q4_K_M"]
    assert hub.find(hub.parse(REPO)) is not None


def test_rm_of_a_split_model_removes_all_of_its_parts(served):
    pull(SPLIT)
    assert rm(SPLIT).freed_bytes == 300_000
    assert disk_bytes(hub_cache.own() / "models--teach--split-GGUF") == 0


def test_rm_removes_a_model_from_all_revisions_and_keeps_what_others_use(served, folder):
    pull(REPO)
    pull(WHOLE)
    shutil.copy(folder / "teach/tiny-GGUF/tiny-Q8_0.gguf", folder / "teach/tiny-GGUF/again-Q5_0.gguf")
    pull(f"{REPO}:Q5_0")
    pull(REPO)
    assert len(hub_cache.snapshots(hub_cache.own() / "models--teach--tiny-GGUF")) == 2
    assert rm(WHOLE).freed_bytes == 0  # the other name still needs the bytes
    assert rm(f"{REPO}:Q4_K_M").freed_bytes == SIZE
    assert references("hub") == [f"{REPO}:Q5_0"]
    assert rm(f"{REPO}:Q5_0").freed_bytes == len(TINY)


def test_rm_removes_what_a_killed_pull_has_left(served):
    blobs = hub_cache.own() / "models--teach--tiny-GGUF" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{'a' * 64}.incomplete").write_bytes(bytes(1000))
    (blobs / f"{'b' * 64}.1234abcd.incomplete").write_bytes(bytes(500))  # as huggingface_hub names it
    assert rm(REPO).freed_bytes == 1500
    with pytest.raises(UnknownNameError):
        rm(REPO)


def test_what_is_being_fetched_is_not_removed(served):
    path = pull(REPO).path
    blob = path.resolve()
    lock = hub_cache.own() / ".locks" / "models--teach--tiny-GGUF" / f"{blob.name}.lock"
    part = blob.with_name(f"{'c' * 64}.incomplete")
    part.write_bytes(bytes(100))
    with FileLock(lock), pytest.raises(ModelInUseError, match="another process"):
        rm(REPO)
    assert path.exists()
    with FileLock(lock.with_name(f"{'c' * 64}.lock")):
        rm(REPO)
    assert part.exists()


def test_rm_never_follows_a_link_out_of_the_cache(served, tmp_path):
    path = pull(REPO).path
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / "precious.gguf"
    precious.write_bytes(TINY)
    old = path.parent.with_name("0" * 40)
    old.mkdir()
    (old / path.name).symlink_to(precious)
    (old / "sub").symlink_to(outside)
    rm(REPO)
    assert precious.read_bytes() == TINY

    pull(REPO)
    folder = hub_cache.own() / "models--teach--tiny-GGUF"
    shutil.move(folder, outside / "moved")
    folder.symlink_to(outside / "moved")
    with pytest.raises(ModelError, match="link out of the cache"):
        rm(REPO)
    assert disk_bytes(outside / "moved") > SIZE


def test_rm_works_with_a_cache_that_huggingface_hub_filled(served):
    huggingface_hub.snapshot_download("teach/tiny-GGUF", cache_dir=hub_cache.own(), endpoint=served.endpoint)
    assert rm(WHOLE).freed_bytes == len(TINY)
    info = huggingface_hub.scan_cache_dir(hub_cache.own())
    assert not info.warnings
    (repository,) = info.repos
    names = {file.file_name for revision in repository.revisions for file in revision.files}
    assert names == {"README.md", "mmproj-F16.gguf", "tiny-Q4_K_M.gguf"}


def test_rm_removes_synthetic_models():
    path = synthetic_model()
    assert rm("synthetic:llama-3.2-1b:Q4_0").freed_bytes == len(TINY)
    assert not path.exists()


def test_what_is_not_llmlabs_is_not_removed(served, tmp_path, monkeypatch):
    ollama_model(tmp_path / "ollama", "words", TINY)
    with pytest.raises(UsageError, match="part of llmlab"):
        rm("tiny")
    with pytest.raises(UsageError, match="belongs to Ollama") as caught:
        rm("ollama:words")
    assert caught.value.hint == "ollama rm words:latest"
    monkeypatch.setenv(hub_cache.SHARED, str(tmp_path / "class"))
    pull(REPO)
    with pytest.raises(UsageError, match="shared with others") as caught:
        rm(REPO)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "class"))
    assert rm(REPO).freed_bytes == SIZE  # as the hint says
    with pytest.raises(UnknownNameError, match="no model here"):
        rm(str(store.builtin_path().with_suffix(".json")))


def test_a_model_that_a_server_uses_is_not_removed(served, require_engine, monkeypatch):
    monkeypatch.setenv("LLMLAB_LLAMA_SERVER", str(require_engine.server))
    pull(WHOLE)
    server = llmlab.start(WHOLE, backend="native", name="reader")
    with pytest.raises(ModelInUseError, match="used by reader") as caught:
        rm(WHOLE)
    assert "llmlab stop reader" in caught.value.hint
    server.stop()
    assert rm(WHOLE).freed_bytes == len(TINY)


# Pulling and verifying, as verbs


def test_pull_tells_what_it_did(served):
    pulled = pull(f"{REPO}:q8_0")
    assert pulled.path.read_bytes() == TINY
    assert pulled.sha256 == hashlib.sha256(TINY).hexdigest()
    assert (pulled.downloaded_bytes, pulled.file_bytes) == (len(TINY), len(TINY))
    assert pull(WHOLE).downloaded_bytes == 0


@pytest.mark.parametrize("name", ["tiny", "ollama:words", "synthetic:llama-3.2-1b", "nonsense", "./x.gguf"])
def test_what_is_not_on_the_hub_cannot_be_pulled(name):
    with pytest.raises(UsageError) as caught:
        pull(name)
    assert caught.value.hint


def test_verify_hashes_everything_anew(served, tmp_path):
    pull(WHOLE)
    ollama_model(tmp_path / "ollama", "words", TINY)
    synthetic_model()
    told = Told()
    with reporting_to(told):
        result = verify()
    assert {row.reference: row.ok for row in result.rows} == {
        "tiny": True,
        WHOLE: True,
        "ollama:words:latest": True,
        "synthetic:llama-3.2-1b:Q4_0": None,
    }
    assert told.steps[-1] == ("verify", 4 * len(TINY), 4 * len(TINY))
    (row,) = [row for row in result.rows if row.ok is None]
    assert row.detail == "nothing to compare with"


@promise(
    part="Disk and files",
    fault="A bit of a model on the disk is flipped",
    sees="`verify` names the file and both hashes",
    keeps="The file, until it is removed",
    cleans="`rm`; `pull` fetches it again",
    within_s=60,
)
@pytest.mark.parametrize("position", [0, 5, len(TINY) // 2, len(TINY) - 1])
def test_verify_finds_one_wrong_byte(served, position):
    path = pull(WHOLE).path
    info = path.stat()
    with path.resolve().open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))  # it is not to be seen from outside
    with pytest.raises(ChecksumError, match=r"tiny-Q8_0\.gguf") as caught:
        verify(WHOLE)
    assert caught.value.hint == f"llmlab rm {WHOLE}; llmlab pull {WHOLE}"
    with pytest.raises(ChecksumError):
        verify()
    rm(WHOLE)
    pull(WHOLE)
    assert verify(WHOLE).ok


def test_verify_names_all_that_is_damaged(served, tmp_path):
    (tmp_path / "served/teach/tiny-GGUF/text-Q2_K.gguf").write_bytes(b"This is no model.")
    pull(f"{REPO}:Q2_K")
    synthetic_model(TINY[:1000])
    with pytest.raises(ChecksumError) as caught:
        verify()
    assert "text-Q2_K.gguf" in caught.value.message
    assert "llama-3.2-1b-Q4_0.gguf" in caught.value.message


def test_verify_reads_any_file(tmp_path):
    path = tmp_path / "mine.gguf"
    path.write_bytes(TINY)
    (row,) = verify(str(path)).rows
    assert (row.ok, row.sha256) == (None, hashlib.sha256(TINY).hexdigest())
    path.write_bytes(TINY[:-100])
    with pytest.raises(ChecksumError, match=r"mine\.gguf"):
        verify(str(path))
    with pytest.raises(UnknownNameError):
        verify("nothing")
    with pytest.raises(UnknownNameError):
        verify("~nobody-of-that-name/x.gguf")


def test_a_file_of_git_is_compared_by_gits_hash(served, folder):
    # Small files may be kept in git itself; the hub's cache names them by another hash.
    path = pull(WHOLE).path
    blob = path.resolve()
    sha1 = store.digest(blob, "git")
    blob.rename(blob.with_name(sha1))
    path.unlink()
    path.symlink_to(f"../../blobs/{sha1}")
    (row,) = verify(WHOLE).rows
    assert row.ok is True


def test_the_verbs_work_from_the_command_line(served):
    pulled = json.loads(run_cli("pull", WHOLE, "--json").stdout)
    assert pulled["downloaded_bytes"] == len(TINY)
    verified = json.loads(run_cli("verify", WHOLE, "--json").stdout)
    assert verified["rows"][0]["ok"] is True
    removed = json.loads(run_cli("rm", WHOLE, "--json").stdout)
    assert removed["freed_bytes"] == len(TINY)
    failed = run_cli("pull", f"{REPO}:Q9", "--json", check=False)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stdout + failed.stderr


def test_importing_the_store_imports_no_huggingface_hub():
    code = "import sys, llmlab.weights.hub, llmlab.library; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
