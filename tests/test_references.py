"""References: from what the user types to a model, and its hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from llmlab import weights
from llmlab.errors import ModelError, ModelFileError, UnknownNameError
from tests.gguf_writer import F32, PAIRS, SMALL, STRING, U32, array, gguf, pair

TINY = Path(str(resources.files("llmlab.weights").joinpath("builtin", "tiny.gguf")))


@pytest.fixture
def own_cache(monkeypatch, tmp_path) -> Path:
    folder: Path = tmp_path / "cache"
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(folder))
    return folder


# References


def test_tiny():
    model = weights.resolve("tiny")
    assert (model.name, model.reference, model.architecture) == ("tiny", "tiny", "llama")
    assert model.path == TINY
    assert model.sha256 == hashlib.sha256(TINY.read_bytes()).hexdigest()
    assert model.sha256 == json.loads(TINY.with_suffix(".json").read_text())["sha256"]
    assert weights.known_models()[0] == "tiny"
    assert "qwen2.5-0.5b" in weights.known_models()


def test_path(write, own_cache, monkeypatch):
    path = write(SMALL, "My Model (v2).GGUF.gguf")
    model = weights.resolve(str(path))
    assert model.name == "my-model-v2-.gguf"
    assert model.path == path
    assert model.file_bytes == len(SMALL)
    assert model.files == (path,)
    assert not model.synthetic
    assert (model.n_vocab, model.context_train) == (4, 2048)
    # Those that look like <|…|> are found in prompts without being named.
    assert model.control_tokens == ("<s>",)
    monkeypatch.chdir(path.parent)
    assert weights.resolve(f"./{path.name}").path == path
    assert weights.resolve(path.name).path == path
    monkeypatch.setenv("HOME", str(path.parent))
    assert weights.resolve(f"~/{path.name}").path == path


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.gguf", "a"), ("Ä Ö.gguf", "model"), ("...gguf", "model"), ("x" * 100 + ".gguf", "x" * 40), ("a\n;b.gguf", "a-b")],
)  # fmt: skip
def test_name_of_a_file(write, own_cache, name, expected):
    assert weights.resolve(str(write(SMALL, name))).name == expected


def test_a_file_without_an_ending_is_found(write, own_cache, monkeypatch):
    path = write(SMALL, "weights")
    monkeypatch.chdir(path.parent)
    assert weights.resolve("weights").name == "weights"


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("tinny", "did you mean 'tiny'?"),
        ("llama", "./llama.gguf"),
        ("huggingface:owner/repo", "hf:, ollama: or synthetic:"),
    ],
)
def test_unknown_model(reference, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        weights.resolve(reference)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "reference", ["", ".", "/", "/dev/null", "x" * 5000, "a/" + "x" * 5000, "~nobody-of-that-name/m.gguf", "a\0b/c", "\0"]
)  # fmt: skip
def test_references_that_cannot_be_a_model(reference):
    with pytest.raises((ModelError, UnknownNameError)) as caught:
        weights.resolve(reference)
    assert len(str(caught.value)) < 6000


def test_what_a_file_does_not_say(write, own_cache):
    model = weights.resolve(str(write(gguf([]))))
    assert (model.architecture, model.parameters, model.context_train) == ("unknown", 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        pair("llama.block_count", 5, -1),
        pair("llama.block_count", STRING, "three"),
        pair("llama.block_count", F32, 3.0),
        array("llama.block_count", U32, []),
        array("llama.block_count", STRING, ["a"]),
    ],
)
def test_figures_that_are_none(write, own_cache, bad):
    with pytest.raises(ModelFileError, match="block_count"):
        weights.resolve(str(write(gguf([PAIRS[0], bad]))))


@pytest.mark.parametrize(
    "bad", [pair("tokenizer.ggml.tokens", U32, 5), pair("tokenizer.ggml.tokens", STRING, "abc")]
)
def test_tokens_that_are_no_list(write, own_cache, bad):
    assert weights.resolve(str(write(gguf([PAIRS[0], bad])))).n_vocab == 0


# sha256


def test_hash_is_remembered_until_the_file_changes(write, own_cache):
    path = write(SMALL)
    first = weights.resolve(str(path)).sha256
    assert first == hashlib.sha256(SMALL).hexdigest()
    cache = own_cache / "sha256.json"
    (key,) = json.loads(cache.read_text())
    # A remembered hash is used …
    cache.write_text(json.dumps({key: "remembered"}))
    assert weights.resolve(str(path)).sha256 == "remembered"
    # … and not when a byte has changed, at the same size.
    changed = SMALL[:-1] + b"\2"
    path.write_bytes(changed)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert weights.resolve(str(path)).sha256 == hashlib.sha256(changed).hexdigest()


def test_replaced_file_is_hashed_again(write, own_cache):
    path = write(SMALL)
    weights.resolve(str(path))
    times = path.stat()
    other = write(SMALL[:-1] + b"\3", "other")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    assert weights.resolve(str(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "null", "\xff"])
def test_damaged_cache_is_made_anew(write, own_cache, content):
    own_cache.mkdir()
    (own_cache / "sha256.json").write_bytes(content.encode("latin-1"))
    assert weights.resolve(str(write(SMALL))).sha256 == hashlib.sha256(SMALL).hexdigest()
    assert len(json.loads((own_cache / "sha256.json").read_text())) == 1


def test_cache_that_cannot_be_written(write, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path / "file"))
    assert weights.resolve(str(write(SMALL))).sha256 == hashlib.sha256(SMALL).hexdigest()


@pytest.fixture
def installed_copy(tmp_path) -> Path:
    """A copy of the package whose built-in model may be damaged."""
    package = Path(str(resources.files("llmlab")))
    shutil.copytree(package, tmp_path / "site" / "llmlab", ignore=shutil.ignore_patterns("__pycache__"))
    folder: Path = tmp_path / "site" / "llmlab" / "weights" / "builtin"
    return folder


def resolve_tiny(folder: Path) -> str:
    site = folder.parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from llmlab import weights\nfrom llmlab.errors import ModelFileError\n"
        f"assert weights.__file__.startswith({str(site)!r})\n"
        "try: print(weights.resolve('tiny').sha256)\n"
        "except ModelFileError as error: print(error.message, '|', error.hint)\n"
    )
    environment = {**os.environ, "LLMLAB_CACHE_DIR": str(site / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout


def test_damaged_tiny_is_found_out(installed_copy):
    path = installed_copy / "tiny.gguf"
    assert resolve_tiny(installed_copy).strip() == hashlib.sha256(TINY.read_bytes()).hexdigest()
    with path.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    assert "its sha256 differs | install llmlab again" in resolve_tiny(installed_copy)


@pytest.mark.parametrize("name", ["tiny.gguf", "tiny.json"])
def test_missing_tiny_is_found_out(installed_copy, name):
    (installed_copy / name).unlink()
    assert "cannot be read" in resolve_tiny(installed_copy)
