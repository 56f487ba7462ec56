"""Reading model files: what they say about themselves, and files that lie."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import random
import struct
import subprocess
import sys
import tracemalloc
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.errors import ModelFileError, ModelNotFoundError, UnknownNameError
from llmlab.weights import anatomy
from llmlab.weights.gguf import TYPES, Header, Tensor, read_header, shards, tensor_type
from tests import fuzz_gguf
from tests.conftest import REPOSITORY, missing
from tests.gguf_writer import (
    ARRAY,
    BOOL,
    F32,
    FORMATS,
    I32,
    PAIRS,
    SMALL,
    STRING,
    U32,
    U64,
    array,
    gguf,
    pair,
    tensor,
    text,
)

TINY = Path(str(resources.files("llmlab.weights").joinpath("builtin", "tiny.gguf")))
KINDS = "aquila baichuan bert-bge command-r deepseek-coder deepseek-llm falcon gemma-4 gpt-2 gpt-neox llama-bpe llama-spm mpt nomic-bert-moe phi-3 qwen2 qwen35 refact starcoder"


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


@pytest.fixture
def gguf_package(monkeypatch) -> Any:
    """The gguf package, reading files into plain arrays: with its own choice, numpy.memmap, it takes minutes."""
    try:
        import gguf  # noqa: PLC0415 - may not be installed
        import numpy as np  # noqa: PLC0415 - the same
    except ImportError as error:
        missing("gguf", str(error))
    monkeypatch.setattr(np, "memmap", lambda path, **_: np.fromfile(path, np.uint8))
    return gguf


def assert_agrees(path: Path, package: Any) -> None:
    """All that the header says is read as the gguf package reads it."""
    theirs, ours = package.GGUFReader(str(path)), read_header(path)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for name, field in fields.items():
        assert ours.metadata[name] == field.contents(), name
    assert [(t.name, t.shape, t.type, t.nbytes, ours.data_offset + t.offset) for t in ours.tensors] == [
        (t.name, tuple(t.shape.tolist()), int(t.tensor_type), t.n_bytes, t.data_offset)
        for t in theirs.tensors
    ]


def test_the_built_in_model_as_the_gguf_package_reads_it(gguf_package):
    assert_agrees(TINY, gguf_package)


@pytest.mark.parametrize("kind", KINDS.split())
def test_vocabularies_of_llama_cpp_as_the_gguf_package_reads_them(vocabularies, gguf_package, kind):
    assert_agrees(vocabularies / f"ggml-vocab-{kind}.gguf", gguf_package)


def test_all_vocabularies_of_llama_cpp_are_compared(vocabularies):
    assert {path.stem for path in vocabularies.iterdir()} == {f"ggml-vocab-{kind}" for kind in KINDS.split()}


# Types of tensors


def test_types_of_tensors_as_the_gguf_package_has_them(gguf_package):
    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in gguf_package.GGML_QUANT_SIZES.items()}
    ours = {kind.number: (kind.name, kind.block, kind.block_bytes) for kind in TYPES.values()}
    # A type of intermediate results, in which no file is: llama.cpp's own block has two halves (36).
    assert theirs.pop(9) == ("Q8_1", 32, 40)
    assert ours.pop(9) == ("Q8_1", 32, 36)
    assert {number: ours[number] for number in theirs} == theirs


def test_type_by_name():
    assert tensor_type("q4_k") is TYPES[12]
    assert (TYPES[12].block, TYPES[12].block_bytes) == (256, 144)
    with pytest.raises(UnknownNameError, match="Q4_M") as caught:
        tensor_type("Q4_M")
    assert "Q4_" in caught.value.hint


def test_what_a_tensor_takes():
    known = Tensor("a", (4096, 128), 2, 0)
    assert (known.type_name, known.elements, known.nbytes) == ("Q4_0", 524288, 294912)
    assert Tensor("a", (), 0, 0).nbytes == 4
    assert Tensor("a", (0, 5), 0, 0).nbytes == 0
    unknown = Tensor("a", (3,), 99, 0)
    assert (unknown.type_name, unknown.elements, unknown.nbytes) == ("type 99", 3, None)


# Decoding when asked


def peak_bytes(what: Any) -> tuple[Any, int]:
    tracemalloc.start()
    try:
        return what(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_vocabulary_is_not_decoded_until_it_is_asked_for(write):
    tokens = [f"token {number}" for number in range(50_000)]
    path = write(
        gguf(
            [pair("b", U32, 1), array("t", STRING, tokens), array("n", I32, range(50_000)), pair("a", U32, 2)]
        )
    )
    header, peak = peak_bytes(lambda: read_header(path))
    assert peak < 64 * 1024
    metadata = header.metadata
    seen, peak = peak_bytes(
        lambda: (len(metadata), list(metadata), "t" in metadata, header.length("t"), repr(metadata))
    )
    assert seen[:4] == (4, ["b", "t", "n", "a"], True, 50_000)
    assert peak < 64 * 1024
    assert metadata["t"] == tokens
    assert metadata["t"] is metadata["t"]
    assert metadata["n"] == list(range(50_000))
    assert [header.length(key) for key in ("t", "n", "a", "nothing")] == [50_000, 50_000, None, None]
    assert metadata == {"b": 1, "t": tokens, "n": list(range(50_000)), "a": 2}


def test_a_header_made_in_memory_is_like_one_that_was_read():
    header = Header(3, {"general.architecture": "x", "x.y": 1, "t": ["a", "b"]}, (), 0)
    assert (header.architecture, header.get("y"), header.length("t"), header.length("x.y")) == (
        "x",
        1,
        2,
        None,
    )
    assert Header(3, {"general.architecture": 5}, (), 0).architecture == "unknown"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_file_is_kept_open_as_long_as_the_header_lives(write):
    path = write(SMALL)
    gc.collect()
    before = open_files()
    header = read_header(path)
    path.unlink()
    assert header.metadata["tokenizer.ggml.tokens"][0] == "<s>"
    assert open_files() == before + 1
    del header
    assert open_files() == before


def test_a_file_that_is_refused_is_closed(write):
    before = open_files()
    with pytest.raises(ModelFileError) as caught:
        read_header(write(SMALL[:200]))
    assert open_files() == before, caught


def test_a_file_that_shrinks_after_reading_is_an_error_and_no_crash(write):
    path = write(
        gguf([array("t", STRING, ["x" * 8000] * 10), pair("s", STRING, "y"), array("n", U64, [7] * 8000)])
    )
    for key in ("t", "s", "n"):
        header = read_header(path)
        whole = path.read_bytes()
        os.truncate(path, 100)
        with pytest.raises(ModelFileError, match="was changed"):
            header.metadata[key]
        path.write_bytes(whole)


@pytest.mark.parametrize("length", [0, 2, 1 << 40, (1 << 64) - 1])
def test_a_file_that_is_written_over_after_reading_is_an_error(write, length):
    data = gguf([array("t", STRING, ["a", "b", "c"])])
    path = write(data)
    header = read_header(path)
    at = data.index(b"a", data.index(text("t")) + 9) - 8
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<Q", length))
    with pytest.raises(ModelFileError, match="was changed"):
        header.metadata["t"]


# Files of several parts


def test_parts_of_a_model(tmp_path):
    whole = tmp_path / "m.gguf"
    assert shards(whole) == (whole,)
    parts = [tmp_path / f"m-Q4_0-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for part in parts:
        part.touch()
    for part in parts:
        assert shards(part) == tuple(parts)
    parts[1].unlink()
    assert shards(parts[1]) == (parts[1],)
    with pytest.raises(ModelFileError, match=r"m-Q4_0-00002-of-00003.gguf is missing: part 2 of 3") as caught:
        shards(parts[0])
    assert caught.value.hint


@pytest.mark.parametrize("name", ["m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "m-00000-of-00000.gguf"])
def test_parts_that_cannot_be(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ModelFileError, match="calls itself part"):
        shards(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["m-1-of-3.gguf", "m-00001-of-00003.bin", "00001-of-00003.gguf", "m-00001-of-00003.gguf.part"]
)
def test_names_of_whole_models(tmp_path, name):
    assert shards(tmp_path / name) == (tmp_path / name,)


# Files that are not


def test_truncated_anywhere(write):
    for cut in range(len(SMALL)):
        path = write(SMALL[:cut])
        with pytest.raises(ModelFileError) as caught:
            read_header(path)
        assert "m.gguf" in caught.value.message
        assert caught.value.hint


def test_a_header_alone(write):
    begin = len(SMALL) - 66
    header = read_header(write(SMALL))
    assert header.data_offset == begin
    names = [tensor.name for tensor in header.tensors]
    with pytest.raises(ModelFileError, match="truncated: tensor 'a' ends at byte"):
        read_header(write(SMALL[:begin]))
    end = SMALL.index(tensor("b", (32,), 8, 32)) + len(tensor("b", (32,), 8, 32))
    for cut in range(end, len(SMALL)):
        alone = read_header(write(SMALL[:cut]), complete=False)
        assert [each.name for each in alone.tensors] == names
        assert alone.data_offset == begin
    for cut in range(end):
        with pytest.raises(ModelFileError):
            read_header(write(SMALL[:cut]), complete=False)


def test_a_vocabulary_truncated_anywhere(vocabularies, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes((vocabularies / "ggml-vocab-llama-spm.gguf").read_bytes())
    whole = read_header(path)
    end = whole.data_offset
    for cut in [*range(end - 1, end - 40, -1), *range(end - 40, 0, -7919)]:
        os.truncate(path, cut)
        with pytest.raises(ModelFileError, match=r"at byte|is not a GGUF"):
            read_header(path)


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
        (gguf(PAIRS, version=4), "version 4, which is not supported"),
        (gguf(PAIRS, version=0), "version 0, which is not supported"),
        (gguf(PAIRS, version=0x03000000), "big-endian GGUF file, which is not supported"),
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
        (gguf([], [tensor("t", (1,), 0, HUGE)], b"\0" * 64), "offset 18446744073709551615, expected 0"),
        (gguf([], [tensor("t", (1,), 0, 32)], b"\0" * 64), "offset 32, expected 0"),
        (gguf([], [tensor("t", (HUGE, HUGE, HUGE, HUGE))], b"\0" * 64), "more elements"),
        (gguf([], [tensor("t", (1 << 32, 1 << 31))], b"\0" * 64), "more elements"),
        (gguf([], [tensor("t", (0, 1 << 63))], b"\0" * 64), "more elements"),
        (gguf([], [tensor("t", (1 << 31, 1 << 31))], b"\0" * 64), "data would end"),
        (gguf([], [tensor("t", (33,), 8)], b"\0" * 64), "rows of 33 in blocks of 32 (Q8_0)"),
        (gguf([], [tensor("t", (), 8)], b"\0" * 64), "rows of 1 in blocks of 32 (Q8_0)"),
        (gguf([], [tensor("t", (1,)), tensor("t", (1,), 0, 32)], b"\0" * 64), "tensor 't' twice"),
        (gguf([], [tensor("a", (9,)), tensor("b", (1,), 0, 32)], b"\0" * 99), "'b': offset 32, expected 64"),
        (gguf([], [tensor("a", (1,)), tensor("b", (1,), 0, 4)], b"\0" * 64), "'b': offset 4, expected 32"),
        (gguf([], [tensor("a", (1,), 99), tensor("b", (1,), 0, 0)], b"\0" * 64), "'b': offset 0, expected 32"),
        (gguf([], [tensor("a", (1,), 99), tensor("b", (1,), 0, 40)], b"\0" * 64), "'b': offset 40"),
        (gguf([], [tensor("t" * 64, (1,))], b"\0" * 64), "at most 63"),
        (gguf([pair("", U32, 1)]), "an empty key"),
        (gguf([pair("k" * 65536, U32, 1)]), "at most 65535"),
        (gguf([pair("k\x1b[31m", U32, 1), pair("k\x1b[31m", U32, 1)]), r"k\x1b[31m"),
    ],
)  # fmt: skip
def test_damaged_file(write, data, message):
    with pytest.raises(ModelFileError) as caught:
        read_header(write(data))
    assert message in caught.value.message
    assert "\x1b" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("alignment", [1, 2, 8, 64, 4096])
def test_alignment_counts(write, alignment):
    pairs = [pair("general.alignment", U32, alignment)]
    tensors = [tensor("a", (1,)), tensor("b", (1,), 0, max(4, alignment))]
    data = gguf(pairs, tensors, b"\0" * (max(4, alignment) + 4), alignment=alignment)
    assert read_header(write(data)).data_offset % alignment == 0
    with pytest.raises(ModelFileError, match="truncated: tensor 'b'"):
        read_header(write(data[:-1]))


@pytest.mark.parametrize("alignment", [3, 24, 33])
def test_alignment_is_a_power_of_two(write, alignment):
    with pytest.raises(ModelFileError, match=f"'general.alignment': {alignment}, not a power of two"):
        read_header(write(gguf([pair("general.alignment", U32, alignment)])))


def test_tensors_after_one_of_an_unknown_type(write):
    tensors = [tensor("a", (5,), 99), tensor("b", (1,), 0, 96), tensor("c", (1,), 0, 128)]
    assert len(read_header(write(gguf([], tensors, b"\0" * 132))).tensors) == 3


def test_errors_name_the_byte_where_the_field_begins(write):
    def byte(data: bytes) -> str:
        with pytest.raises(ModelFileError) as caught:
            read_header(write(data))
        return caught.value.message.partition("at byte ")[2].partition(" ")[0]

    first = pair("first", U32, 1)
    at = 24 + len(first)
    assert byte(gguf([first, first])) == str(at)
    assert byte(gguf([first, text("k") + struct.pack("<I", 13) + b"\0" * 64])) == str(at + 9)
    assert byte(gguf([first, text("k") + struct.pack("<IIQ", ARRAY, U64, 999)])) == str(at + 9 + 8)
    texts = array("k", STRING, ["a", "b"])
    assert byte(gguf([first, texts[:-9] + struct.pack("<Q", HUGE)])) == str(at + len(texts) - 9)
    assert byte(gguf([first], [tensor("t", (1,), 0, 5)], b"\0" * 64)) == str(at + 9 + 4 + 8 + 4)
    assert byte(SMALL[:10]) == "8"


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
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        read_header(tmp_path / "a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="is empty"):
        read_header(tmp_path / "pipe")


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


# Any files


SHORT = st.text(max_size=12) | st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
INTEGERS = {0: (0, 255), 1: (-128, 127), 2: (0, 65535), 3: (-(1 << 15), 32767), 4: (0, (1 << 32) - 1),
            5: (-(1 << 31), (1 << 31) - 1), 10: (0, (1 << 64) - 1), 11: (-(1 << 63), (1 << 63) - 1)}  # fmt: skip
VALUES = {
    **{kind: st.integers(*bounds) for kind, bounds in INTEGERS.items()},
    F32: st.floats(width=32, allow_nan=False),
    12: st.floats(allow_nan=False),
    BOOL: st.booleans(),
    STRING: SHORT.filter(lambda value: value.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == value),
}  # fmt: skip
ONE = st.sampled_from(sorted(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), VALUES[kind]))
MANY = st.sampled_from(sorted(VALUES)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(VALUES[kind], max_size=9))
)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
TENSORS = st.tuples(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(sorted(TYPES)))


@given(
    st.dictionaries(NAMES.filter(lambda key: key != "general.alignment"), ONE | MANY, max_size=6),
    st.dictionaries(NAMES, TENSORS, max_size=4),
    st.sampled_from([None, 8, 32, 256]),
)
def test_what_is_written_is_what_is_read(tmp_path_factory, pairs, tensors, alignment):
    path = tmp_path_factory.getbasetemp() / "written.gguf"
    expected: dict[str, Any] = {key: content for key, (_, content) in pairs.items()}
    written = [(array if isinstance(c, list) else pair)(key, kind, c) for key, (kind, c) in pairs.items()]
    if alignment:
        expected["general.alignment"] = alignment
        written.append(pair("general.alignment", U32, alignment))
    directory, end = [], 0
    for name, (lengths, kind) in tensors.items():
        shape = (lengths[0] * TYPES[kind].block, *lengths[1:]) if lengths else (TYPES[kind].block,)
        directory.append(Tensor(name, shape, kind, -(-end // (alignment or 32)) * (alignment or 32)))
        end = directory[-1].offset + (directory[-1].nbytes or 0)
    entries = [tensor(each.name, each.shape, each.type, each.offset) for each in directory]
    path.write_bytes(gguf(written, entries, b"\1" * end, alignment=alignment or 32))
    header = read_header(path)
    assert header.metadata == expected
    assert header.tensors == tuple(directory)
    if end:
        os.truncate(path, header.data_offset + end - 1)
        with pytest.raises(ModelFileError, match="truncated"):
            read_header(path)
        assert read_header(path, complete=False).tensors == tuple(directory)


def survives(path: Path, *, complete: bool) -> None:
    """A file is read to its last value, or refused; in little memory either way."""

    def read() -> None:
        header = read_header(path, complete=complete)
        dict(header.metadata)
        anatomy.of_headers([header])

    def attempt() -> None:
        try:
            read()
        except ModelFileError as refused:
            str(refused).encode()

    _, peak = peak_bytes(attempt)
    assert peak < 1 << 20


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
    survives(path, complete=data.draw(st.booleans()))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + data)
    survives(path, complete=False)


def test_what_is_refused_for_its_form_is_what_the_engine_refuses(require_engine, tmp_path):
    library = (require_engine.library_dir or Path()) / "libggml-base.so"
    if not library.exists():
        missing("engine", "its libraries are not at hand")
    chance, ours = random.Random(0), set()  # noqa: S311 - repeatable on purpose
    for number in range(4000):
        changed = bytearray(chance.choice([SMALL, fuzz_gguf.MODEL, fuzz_gguf.HYBRID]))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(changed))
            changed[at] = chance.choice(
                [chance.randrange(256), changed[at] ^ 1 << chance.randrange(8), 0, 255]
            )
        path = tmp_path / str(number)
        path.write_bytes(bytes(changed))
        with contextlib.suppress(ModelFileError):
            header = read_header(path, complete=False)
            # Types that this reader does not know are left to the engine, which may refuse them.
            if all(tensor.nbytes is not None for tensor in header.tensors) and header.data_offset <= len(
                changed
            ):
                ours.add(path.name)
    command = [sys.executable, "-m", "tests.ggml_reader", str(library), str(tmp_path)]
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    assert 500 < len(ours) < 3500
    assert set(done.stdout.split()) == ours


def test_fuzzing_finds_nothing(tmp_path):
    if not importlib.util.find_spec("atheris"):
        missing("atheris", "there are wheels of it for some Pythons only")
    command = [sys.executable, "-m", "tests.fuzz_gguf", "--runs", "20000", "--corpus", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "Done 20000 runs" in done.stderr
