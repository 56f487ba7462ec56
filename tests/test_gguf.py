"""Reading model files: what they say about themselves, and files that lie."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab import weights
from llmlab.errors import LabError, ModelError, ModelFileError, ModelNotFoundError, UnknownNameError
from llmlab.weights import default_limit_mib, fit, references, required_mib
from llmlab.weights.gguf import read_header
from tests import examples

MIB = 1024 * 1024
TINY = Path(str(resources.files("llmlab.weights").joinpath("builtin", "tiny.gguf")))
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


# A writer of GGUF files, from the format's specification


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    return text(content) if kind == STRING else struct.pack("<" + FORMATS[kind], content)


def pair(key: str | bytes, kind: int, content: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + value(kind, content)


def array(key: str, kind: int, contents: Sequence[Any]) -> bytes:
    head = text(key) + struct.pack("<IIQ", ARRAY, kind, len(contents))
    return head + b"".join(value(kind, content) for content in contents)


def tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    head = text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
    return head + struct.pack("<IQ", kind, offset)


def gguf(
    pairs: Sequence[bytes],
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


PAIRS = (
    pair("general.architecture", STRING, "llama"),
    pair("llama.block_count", U32, 3),
    pair("llama.attention.head_count", U32, 4),
    pair("llama.attention.head_count_kv", U32, 2),
    pair("llama.embedding_length", U32, 256),
    pair("llama.context_length", U64, 2048),
    pair("llama.rope.freq_base", F32, 10000.0),
    pair("tokenizer.ggml.add_bos_token", BOOL, 1),
    array("tokenizer.ggml.tokens", STRING, ["<s>", "<|im_end|>", "a", b"\xff\xfe"]),
    array("tokenizer.ggml.token_type", 5, [3, 3, 1, 6]),
    array("tokenizer.ggml.scores", F32, [0.5, 1.0, 2.0, 3.0]),
    array("flags", BOOL, [0, 1]),
)
SMALL = gguf(PAIRS, [tensor("a", (4, 2)), tensor("b", (32,), 8, 32)], b"\1" * 66)


@pytest.fixture
def write(tmp_path):
    def written(data: bytes, name: str = "m.gguf") -> Path:
        path: Path = tmp_path / name
        path.write_bytes(data)
        return path

    return written


@pytest.fixture
def own_cache(monkeypatch, tmp_path) -> Path:
    folder: Path = tmp_path / "cache"
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(folder))
    return folder


# Files that are in order


def test_header_of_a_small_file(write):
    header = read_header(write(SMALL))
    assert header.version == 3
    assert header.architecture == "llama"
    assert header.get("block_count") == 3
    assert header.get("nothing", 7) == 7
    assert header.metadata["llama.context_length"] == 2048
    assert header.metadata["llama.rope.freq_base"] == 10000.0
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.metadata["tokenizer.ggml.token_type"] == [3, 3, 1, 6]
    assert header.metadata["flags"] == [False, True]
    assert header.metadata["tokenizer.ggml.tokens"][:3] == ["<s>", "<|im_end|>", "a"]
    assert [(t.name, t.shape, t.type, t.offset) for t in header.tensors] == [
        ("a", (4, 2), 0, 0),
        ("b", (32,), 8, 32),
    ]
    assert header.file_bytes == len(SMALL)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_scalar_type(write, kind):
    header = read_header(write(gguf([pair("x", kind, 1), array("y", kind, [1, 0, 1])])))
    assert header.metadata["x"] == 1
    assert header.metadata["y"] == [1, 0, 1]


def test_texts_that_are_not_utf8_survive(write):
    header = read_header(write(gguf([pair(b"\xff", STRING, b"a\x80b\0c")])))
    ((key, found),) = header.metadata.items()
    assert key.encode("utf-8", "surrogateescape") == b"\xff"
    assert found.encode("utf-8", "surrogateescape") == b"a\x80b\0c"


def test_file_without_anything(write):
    header = read_header(write(gguf([])))
    assert (header.metadata, header.tensors, header.architecture) == ({}, (), "unknown")


def test_version_2_is_read(write):
    assert read_header(write(gguf(PAIRS, version=2))).version == 2


def test_tensor_of_an_unknown_type_is_left_to_the_engine(write):
    assert read_header(write(gguf([], [tensor("a", (1 << 40,), 99)]))).tensors[0].type == 99


def test_the_built_in_model():
    header = read_header(TINY)
    assert header.architecture == "llama"
    assert header.tensors
    assert len(header.metadata["tokenizer.ggml.tokens"]) > 1000
    assert header.metadata["tokenizer.chat_template"]


def test_the_built_in_model_as_the_gguf_package_reads_it():
    gguf_package = pytest.importorskip("gguf")
    theirs = gguf_package.GGUFReader(str(TINY))
    ours = read_header(TINY)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert set(ours.metadata) == set(fields)
    for name, field in fields.items():
        assert ours.metadata[name] == field.contents(), name
    assert [(t.name, t.shape, t.type) for t in ours.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), int(t.tensor_type)) for t in theirs.tensors
    ]


# Files that are not


def test_truncated_anywhere(write):
    for cut in range(len(SMALL)):
        path = write(SMALL[:cut])
        with pytest.raises(ModelFileError) as caught:
            read_header(path)
        assert "m.gguf" in caught.value.message
        assert caught.value.hint


HUGE = (1 << 64) - 1
KEY = text("k")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"G", "not a GGUF file"),
        (b"PK\3\4" + SMALL[4:], "not a GGUF file"),
        (b"FUGG" + SMALL[4:], "not a GGUF file"),
        (gguf(PAIRS, version=1), "not supported"),
        (gguf(PAIRS, version=0x03000000), "not supported"),
        (gguf([], counts=(HUGE, 0)), "tensor count"),
        (gguf([], counts=(0, HUGE)), "metadata count"),
        (gguf([], counts=(1 << 40, 1 << 40)), "tensor count"),
        (gguf([struct.pack("<Q", HUGE) + b"x" * 100]), "'key'"),
        (gguf([KEY + struct.pack("<IQ", STRING, HUGE)]), "'k'"),
        (gguf([KEY + struct.pack("<IIQ", ARRAY, U32, HUGE)]), "'k'"),
        (gguf([KEY + struct.pack("<IIQ", ARRAY, U32, 1 << 62)]), "'k'"),
        (gguf([KEY + struct.pack("<IIQ", ARRAY, STRING, HUGE)]), "'k'"),
        (gguf([KEY + struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", U32, 0)]), "array of arrays"),
        (gguf([KEY + struct.pack("<I", 13) + b"\0" * 64]), "value type 13"),
        (gguf([KEY + struct.pack("<IIQ", ARRAY, 77, 2) + b"\0" * 64]), "value type 77"),
        (gguf([pair("k", U32, 1), pair("k", U32, 2)]), "'k' twice"),
        (gguf([pair("general.alignment", U32, 0)]), "general.alignment"),
        (gguf([pair("general.alignment", 5, -32)]), "general.alignment"),
        (gguf([pair("general.alignment", STRING, "32")]), "general.alignment"),
        (gguf([pair("general.alignment", F32, 32.0)]), "general.alignment"),
        (gguf([], [tensor("t", (1, 1, 1, 1, 1))]), "5 dimensions"),
        (gguf([], [text("t") + struct.pack("<I", 0xFFFFFFFF)], b"\0" * 64), "dimensions"),
        (gguf([], [tensor("t", (17,))], b"\0" * 64), "truncated: tensor 't' ends at byte"),
        (gguf([], [tensor("t", (1,), 0, HUGE)], b"\0" * 64), "truncated"),
        (gguf([], [tensor("t", (HUGE, HUGE, HUGE, HUGE))], b"\0" * 64), "truncated"),
        (gguf([pair("k\x1b[31m", U32, 1), pair("k\x1b[31m", U32, 1)]), r"k\x1b[31m"),
    ],
)  # fmt: skip
def test_damaged_file(write, data, message):
    with pytest.raises(ModelFileError) as caught:
        read_header(write(data))
    assert message in caught.value.message
    assert "\x1b" not in caught.value.message
    assert caught.value.hint


def test_alignment_counts(write):
    pairs = [pair("general.alignment", U32, 4096)]
    with pytest.raises(ModelFileError, match="truncated"):
        read_header(write(gguf(pairs, [tensor("t", (1,))], b"\0" * 64)))


def test_claims_are_not_allocated(write, tmp_path):
    """A process that may not have 1 GiB reads every lie and survives it."""
    lies = [
        gguf([], counts=(1 << 60, 0)),
        gguf([], counts=(0, 1 << 60)),
        gguf([KEY + struct.pack("<IQ", STRING, 1 << 40)]),
        gguf([KEY + struct.pack("<IIQ", ARRAY, U64, 1 << 40)]),
        gguf([KEY + struct.pack("<IIQ", ARRAY, STRING, 1 << 40)]),
        gguf([], [tensor("t", (1 << 50,))]),
    ]
    paths = [str(write(data, f"{number}.gguf")) for number, data in enumerate(lies)]
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from llmlab.errors import ModelFileError\nfrom llmlab.weights.gguf import read_header\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_header(Path(path))\n"
        "    except ModelFileError: print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused"] * len(lies)


def test_what_is_no_file(tmp_path):
    with pytest.raises(ModelNotFoundError, match="is a directory"):
        read_header(tmp_path)
    with pytest.raises(ModelNotFoundError, match="there is no file"):
        read_header(tmp_path / "none.gguf")
    (tmp_path / "file").touch()
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        read_header(tmp_path / "file" / "m.gguf")
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(ModelNotFoundError):
        read_header(tmp_path / "link")


def test_file_that_may_not_be_read(isolated_runtime):
    path = isolated_runtime / "m.gguf"
    path.write_bytes(SMALL)
    path.chmod(0)
    isolated_runtime.chmod(0o755)
    # Another user may not be able to read this Python, let alone this package:
    # the identity is changed after everything has been imported.
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom llmlab.weights.gguf import read_header\n"
        "from llmlab.errors import ModelNotFoundError\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: read_header(Path(sys.argv[1]))\n"
        "except ModelNotFoundError as error: print(error.message, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    path.unlink()
    assert "cannot be read check its permissions" in done.stdout


@given(st.data())
def test_any_mutation_is_read_or_refused(tmp_path_factory, data):
    changed = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(changed) - 1))
        width = data.draw(st.sampled_from([1, 1, 4, 8]))
        changed[at : at + width] = data.draw(
            st.binary(min_size=width, max_size=width) | st.sampled_from([b"\xff" * width, b"\0" * width])
        )
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(bytes(changed))
    try:
        references._model("./m.gguf", "m", path, read_header(path), "00")
    except ModelFileError as refused:
        str(refused).encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + data)
    try:
        references._model("./m.gguf", "m", path, read_header(path), "00")
    except ModelFileError as refused:
        str(refused).encode()


# References


def test_tiny():
    model = weights.resolve("tiny")
    assert (model.name, model.reference, model.architecture) == ("tiny", "tiny", "llama")
    assert model.path == TINY
    assert model.sha256 == hashlib.sha256(TINY.read_bytes()).hexdigest()
    assert model.sha256 == json.loads(TINY.with_suffix(".json").read_text())["sha256"]
    assert weights.known_models() == ("tiny",)


def test_path(write, own_cache, monkeypatch):
    path = write(SMALL, "My Model (v2).GGUF.gguf")
    model = weights.resolve(str(path))
    assert model.name == "my-model-v2-.gguf"
    assert model.path == path
    assert model.file_bytes == len(SMALL)
    assert (model.n_layers, model.n_kv_heads, model.head_dim) == (3, 2, 64)
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
        ("hf:owner-repo", "not supported yet"),
    ],
)
def test_unknown_model(reference, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        weights.resolve(reference)
    assert hint in caught.value.hint


@pytest.mark.parametrize("reference", ["hf:owner/repo", "hf:owner/repo:Q4_0", "synthetic:llama-3.2-1b:Q4_0"])
def test_references_that_are_not_supported_yet(reference):
    with pytest.raises(LabError) as caught:
        weights.resolve(reference)
    assert "not supported yet" in caught.value.hint


@pytest.mark.parametrize(
    "reference", ["", ".", "/", "/dev/null", "x" * 5000, "a/" + "x" * 5000, "~nobody-of-that-name/m.gguf", "a\0b/c", "\0"]
)  # fmt: skip
def test_references_that_cannot_be_a_model(reference):
    with pytest.raises((ModelError, UnknownNameError)) as caught:
        weights.resolve(reference)
    assert len(str(caught.value)) < 6000


def test_kv_heads_may_differ_by_layer(write, own_cache):
    pairs = [p for p in PAIRS if b"head_count_kv" not in p]
    pairs.append(array("llama.attention.head_count_kv", U32, [2, 8, 4]))
    assert weights.resolve(str(write(gguf(pairs)))).n_kv_heads == 8


def test_what_a_file_does_not_say(write, own_cache):
    model = weights.resolve(str(write(gguf([]))))
    assert (model.architecture, model.n_layers, model.head_dim, model.context_train) == ("unknown", 0, 0, 0)
    assert required_mib(model, context=4096, slots=4) > 0


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


# Fit


def test_memory_by_hand():
    # 4 layers × 2 KV heads × 64 elements × 2 bytes, for keys and for values.
    model = examples.model()
    assert fit.kv_bytes_per_token(model) == 2 * (4 * 2 * 64 * 2) == 2048
    # 3 MiB of weights, 4 × 1024 tokens × 2 kB = 8 MiB, and 64 MiB for the server.
    assert required_mib(model, context=1024, slots=4) == 3 + 8 + 64
    # Once more the weights, a quarter of the cache, and 256 MiB.
    assert default_limit_mib(model, context=1024, slots=4) == (3 + 8 + 64) + (3 + 2) + 256


def test_memory_is_rounded_up():
    model = examples.model(file_bytes=3 * MIB + 1)
    assert required_mib(model, context=0, slots=0) == 4 + 64
    assert default_limit_mib(model, context=0, slots=0) == 4 + 64 + 4 + 256


@given(
    st.integers(0, 1 << 45),
    st.integers(0, 200),
    st.integers(0, 200),
    st.integers(0, 1024),
    st.integers(0, 1 << 20),
    st.integers(1, 64),
)
def test_limit_is_above_the_floor(file_bytes, layers, heads, width, context, slots):
    model = examples.model(file_bytes=file_bytes, n_layers=layers, n_kv_heads=heads, head_dim=width)
    floor = required_mib(model, context=context, slots=slots)
    kv = 4 * layers * heads * width * context * slots
    assert (floor - 64) * MIB >= file_bytes + kv > (floor - 65) * MIB
    assert default_limit_mib(model, context=context, slots=slots) >= floor + 256
