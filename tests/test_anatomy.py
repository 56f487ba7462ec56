"""What a model is made of: counts, types, tokenizer; and files that say what cannot be."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.errors import ModelFileError
from llmlab.weights import anatomy
from llmlab.weights.anatomy import Anatomy, Tokenizer
from llmlab.weights.gguf import Header, Tensor, read_header
from tests import gguf_writer as w
from tests.conftest import missing

TINY = Path(str(resources.files("llmlab.weights").joinpath("builtin", "tiny.gguf")))
LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 8192,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a", "b"],
    "tokenizer.ggml.token_type": [3, 3, 1, 1],
}
F32, F16, Q4_0, Q8_0, Q4_K, Q6_K = 0, 1, 2, 8, 12, 14


def of(metadata: dict[str, Any], *tensors: tuple[str, tuple[int, ...], int], file_bytes: int = 0) -> Anatomy:
    directory = tuple(Tensor(name, shape, kind, 0) for name, shape, kind in tensors)
    return anatomy.of_headers([Header(3, metadata, directory, file_bytes)])


def test_the_built_in_model():
    tiny = anatomy.of_file(TINY)
    assert (tiny.architecture, tiny.title, tiny.license, tiny.quantisation) == (
        "llama",
        "tiny",
        "mit",
        "Q8_0",
    )
    assert (tiny.n_layers, tiny.n_embd, tiny.n_ff, tiny.n_heads, tiny.n_vocab) == (4, 256, 512, 4, 2048)
    assert (tiny.n_kv_heads, tiny.key_length, tiny.value_length) == ((2, 2, 2, 2), 64, 64)
    assert (tiny.context_train, tiny.sliding_window, tiny.n_experts, tiny.n_experts_used) == (
        1024,
        None,
        0,
        0,
    )
    # 2048 × 256, tied; 4 × (256 × (256 + 128 + 128 + 256) + 3 × 256 × 512 + 2 × 256); 256.
    assert tiny.parameters == tiny.active_parameters == 2885888
    assert tiny.tied_embeddings
    assert not tiny.synthetic
    assert tiny.tokenizer == Tokenizer(
        kind="gpt2", pre="gpt-2", n_tokens=2048, n_merges=1789, bos=0, eos=2, n_control=3
    )
    assert tiny.control_tokens == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert tiny.chat_template
    assert tiny.file_bytes == TINY.stat().st_size
    assert sum(tiny.bytes_by_type.values()) == pytest.approx(tiny.file_bytes, rel=0.05)
    assert list(tiny.bytes_by_type) == ["Q8_0", "F32"]


def test_counts_by_hand():
    found = of(
        LLAMA,
        ("token_embd.weight", (256, 4), Q6_K),
        ("output.weight", (256, 4), Q8_0),
        ("blk.0.attn_q.weight", (256, 256), Q4_K),
        ("blk.0.attn_norm.weight", (256,), F32),
        file_bytes=99,
    )
    assert (found.key_length, found.value_length, found.n_kv_heads, found.n_ff) == (32, 32, (2, 2), 512)
    assert found.parameters == 1024 + 1024 + 65536 + 256
    assert found.active_parameters == 1024 + 65536 + 256
    assert found.bytes_by_type == {"Q4_K": 36864, "Q8_0": 1088, "F32": 1024, "Q6_K": 840}
    assert list(found.bytes_by_type) == ["Q4_K", "Q8_0", "F32", "Q6_K"]
    assert found.read_by_type == {"Q4_K": 36864, "Q8_0": 1088, "F32": 1024}
    assert (found.file_bytes, found.tied_embeddings) == (99, False)


def test_a_tied_embedding_is_read_as_the_output():
    found = of(LLAMA, ("token_embd.weight", (256, 4), Q8_0), ("blk.0.attn_q.weight", (32, 1), Q8_0))
    assert found.tied_embeddings
    assert found.read_by_type == {"Q8_0": 1088 + 34}


def test_only_the_experts_that_are_used_are_read():
    metadata = LLAMA | {
        "llama.expert_count": 8,
        "llama.expert_used_count": 2,
        "llama.expert_feed_forward_length": 64,
    }
    found = of(
        metadata,
        ("blk.0.ffn_up_exps.weight", (64, 10, 8), F16),
        ("blk.0.ffn_down_exps.bias", (10, 8), F32),
        ("blk.1.ffn_gate.3.weight", (64, 10), F16),
        ("blk.0.ffn_up_shexp.weight", (64, 10), F16),
        ("blk.0.ffn_gate_inp.weight", (64, 8), F32),
    )
    assert (found.n_experts, found.n_experts_used, found.n_ff) == (8, 2, 64)
    assert found.read_by_type == {"F16": 2560 + 320 + 1280, "F32": 2048 + 80}
    assert found.active_parameters == 1280 + 20 + 160 + 640 + 512


@pytest.mark.parametrize(
    ("dense", "of_expert", "name", "expected"),
    [
        (512, None, "ffn_up", 512),
        (512, None, "ffn_up_exps", 512),
        (512, 64, "ffn_up", 512),
        (512, 64, "ffn_up_exps", 64),
        (None, 64, "ffn_up_exps", 64),
        (None, None, "ffn_up", 0),
    ],
)
def test_width_of_the_feed_forward_layers(dense, of_expert, name, expected):
    widths = {"feed_forward_length": dense, "expert_feed_forward_length": of_expert}
    metadata = {f"x.{key}": width for key, width in widths.items() if width}
    assert (
        of({"general.architecture": "x", **metadata}, (f"blk.3.{name}.weight", (32,), F16)).n_ff == expected
    )


def test_other_embeddings_are_looked_up_too():
    found = of(LLAMA, ("per_layer_token_embd.weight", (256, 4), F16), ("position_embd.weight", (256, 9), F32))
    assert found.read_by_type == {}
    assert found.parameters == 256 * 13


def test_tensors_of_unknown_types_count_as_parameters_only():
    found = of(LLAMA, ("a", (256,), 99))
    assert (found.parameters, found.bytes_by_type, found.read_by_type) == (256, {}, {})


# Layers that differ


def test_heads_may_differ_by_layer():
    found = of(
        LLAMA
        | {
            "llama.attention.head_count": [8, 4],
            "llama.attention.head_count_kv": [2, 0],
            "llama.feed_forward_length": [512, 1024],
            "llama.attention.key_length": 40,
            "llama.attention.value_length": 24,
            "llama.attention.sliding_window": 512,
        }
    )
    assert (found.n_heads, found.n_kv_heads, found.n_ff) == (8, (2, 0), 1024)
    assert (found.key_length, found.value_length, found.sliding_window) == (40, 24, 512)


def test_without_kv_heads_there_are_as_many_as_heads():
    metadata = {key: value for key, value in LLAMA.items() if "head_count_kv" not in key}
    assert of(metadata).n_kv_heads == (8, 8)
    assert of(metadata | {"llama.attention.head_count": [8, 0]}).n_kv_heads == (8, 0)


def test_recurrent_layers_keep_no_keys_and_values():
    four = LLAMA | {"llama.block_count": 4}
    assert of(four | {"llama.full_attention_interval": 2}).n_kv_heads == (0, 2, 0, 2)
    recurrent = [True, False, True, True]
    assert of(four | {"llama.attention.recurrent_layers": recurrent}).n_kv_heads == (0, 2, 0, 0)


# What a file does not say


def test_a_header_that_says_nothing():
    found = of({})
    assert (found.architecture, found.quantisation, found.title, found.license) == (
        "unknown",
        "unknown",
        None,
        None,
    )
    assert (found.n_layers, found.n_embd, found.n_ff, found.n_heads, found.n_kv_heads) == (0, 0, 0, 0, ())
    assert (found.context_train, found.n_vocab, found.key_length, found.parameters) == (0, 0, 0, 0)
    assert (found.tokenizer, found.chat_template, found.control_tokens) == (None, None, ())
    assert not found.tied_embeddings


def test_layers_without_heads():
    assert of({"general.architecture": "mamba", "mamba.block_count": 3}).n_kv_heads == (0, 0, 0)


@pytest.mark.parametrize(
    ("metadata", "tensors", "expected"),
    [
        (LLAMA, (), 4),
        (LLAMA | {"llama.vocab_size": 5}, (), 4),
        ({"general.architecture": "llama", "llama.vocab_size": 5}, (), 5),
        ({}, (("token_embd.weight", (256, 6), F16),), 6),
        ({}, (("token_embd.weight", (256,), F16),), 0),
        ({"tokenizer.ggml.tokens": "abc"}, (), 0),
        ({"tokenizer.ggml.tokens": 5}, (), 0),
    ],
)
def test_size_of_the_vocabulary(metadata, tensors, expected):
    assert of(metadata, *tensors).n_vocab == expected


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "F32"), (1, "F16"), (2, "Q4_0"), (15, "Q4_K_M"), (1024 + 15, "Q4_K_M"), (32, "BF16"), (38, "MXFP4")],
)
def test_quantisation_that_the_file_names(number, name):
    assert of({"general.file_type": number}, ("a", (32,), Q8_0)).quantisation == name


@pytest.mark.parametrize("metadata", [{}, {"general.file_type": 4}, {"general.file_type": 999}])
def test_quantisation_from_the_tensors(metadata):
    assert of(metadata, ("a", (32,), F32), ("b", (32, 99), Q8_0)).quantisation == "Q8_0"


def test_file_types_as_the_gguf_package_has_them():
    try:
        from gguf import LlamaFileType  # noqa: PLC0415 - may not be installed
    except ImportError as error:
        missing("gguf", str(error))
    names = {"ALL_F32": "F32", "MOSTLY_MXFP4_MOE": "MXFP4"}
    for kind in LlamaFileType:
        if kind.name == "GUESSED" or 33 <= kind <= 35:  # a flag; and three that are in no file any more
            continue
        expected = names.get(kind.name, kind.name.removeprefix("MOSTLY_"))
        assert of({"general.file_type": int(kind)}).quantisation == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"general.license": "apache-2.0"}, "apache-2.0"),
        ({"general.license": "other", "general.license.name": "llama3.2"}, "llama3.2"),
        ({"general.license": "other"}, "other"),
        ({"general.license.name": "gemma"}, "gemma"),
        ({"general.license": ""}, None),
    ],
)
def test_licence(metadata, expected):
    assert of(metadata).license == expected


def test_texts_that_a_terminal_would_obey_are_harmless():
    found = of(
        {
            "general.architecture": "a\x1bb",
            "general.name": "x\n\x1b[31m\udcff ",
            "tokenizer.chat_template": "a\nb\udcff",
        }
    )
    assert (found.architecture, found.title, found.chat_template) == ("a b", "x  [31m�", "a\nb�")


def test_synthetic_weights_say_so():
    assert of({"llmlab.synthetic": True}).synthetic
    assert not of({"llmlab.synthetic": "yes"}).synthetic


# Tokenizers


@pytest.mark.parametrize("kind", [None, "none", "no_vocab", ""])
def test_models_without_a_vocabulary(kind):
    metadata = {**LLAMA, "tokenizer.ggml.model": kind}
    if kind is None:
        del metadata["tokenizer.ggml.model"]
    assert of(metadata).tokenizer is None


def test_special_tokens_beyond_the_vocabulary_are_none():
    found = of(LLAMA | {"tokenizer.ggml.bos_token_id": 3, "tokenizer.ggml.eos_token_id": 4}).tokenizer
    assert found
    assert (found.bos, found.eos, found.n_control, found.n_merges, found.pre) == (3, None, 2, 0, None)


def test_control_tokens():
    assert of(LLAMA).control_tokens == ("<s>", "</s>")
    assert of(LLAMA | {"tokenizer.ggml.token_type": [1, 1, 1, 3, 3, 3]}).control_tokens == ("b",)
    assert of(LLAMA | {"tokenizer.ggml.token_type": 3}).control_tokens == ()
    assert of(LLAMA | {"tokenizer.ggml.tokens": 3}).control_tokens == ()


KINDS = {
    "llama-bpe": ("gpt2", "llama-bpe", 128256, 280147, 128000, 128001, 256),
    "llama-spm": ("llama", "default", 32000, 0, 1, 2, 2),
    "bert-bge": ("bert", "bert-bge", 30522, 0, None, None, 5),
    "nomic-bert-moe": ("t5", "default", 250048, 0, 0, 2, 4),
    "gemma-4": ("gemma4", None, 262144, 514906, 2, 1, 17),
}


@pytest.mark.parametrize("name", KINDS)
def test_vocabularies_of_llama_cpp(vocabularies, name):
    fields = ("kind", "pre", "n_tokens", "n_merges", "bos", "eos", "n_control")
    found = anatomy.of_file(vocabularies / f"ggml-vocab-{name}.gguf")
    assert found.tokenizer == Tokenizer(**dict(zip(fields, KINDS[name], strict=True)))  # type: ignore[arg-type]
    assert len(found.control_tokens) == found.tokenizer.n_control


def test_anatomy_of_a_mixture_of_experts(vocabularies):
    found = anatomy.of_file(vocabularies / "ggml-vocab-gemma-4.gguf")
    assert (found.n_experts, found.n_experts_used, found.sliding_window) == (128, 8, 1024)
    # Five layers with a window and more heads, then one that sees all.
    assert found.n_kv_heads == (8, 8, 8, 8, 8, 2) * 5


# Values that cannot be meant


@pytest.mark.parametrize("bad", [-1, "three", 3.0, True, [], ["a"], [-1, 2], [1.5, 2]])
@pytest.mark.parametrize(
    "key",
    ["block_count", "embedding_length", "attention.head_count", "attention.head_count_kv", "expert_count"],
)
def test_counts_that_are_none(key, bad):
    with pytest.raises(ModelFileError, match=key) as caught:
        of(LLAMA | {f"llama.{key}": bad})
    assert caught.value.hint


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "context_length", "vocab_size"])
def test_counts_of_the_whole_model_are_no_lists(key):
    metadata = {name: value for name, value in LLAMA.items() if name != "tokenizer.ggml.tokens"}
    with pytest.raises(ModelFileError, match=key):
        of(metadata | {f"llama.{key}": [1, 2]})


@pytest.mark.parametrize(
    "key", ["general.architecture", "general.name", "general.license", "tokenizer.chat_template"]
)
def test_texts_that_are_none(key):
    with pytest.raises(ModelFileError, match=key):
        of(LLAMA | {key: 7})


@pytest.mark.parametrize(
    "bad",
    [
        {"llama.block_count": 513},
        {"llama.block_count": (1 << 64) - 1},
        {"llama.attention.head_count_kv": [1, 2, 3]},
        {"llama.expert_count": 2, "llama.expert_used_count": 3},
        {"llama.expert_count": 2},
        {"general.file_type": "Q4_0"},
        {"tokenizer.ggml.bos_token_id": -1},
    ],
)
def test_what_the_engine_would_refuse(bad):
    with pytest.raises(ModelFileError) as caught:
        of(LLAMA | bad)
    assert "the header is damaged" in caught.value.message


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(
        w.gguf([w.pair("general.architecture", w.STRING, "x"), w.pair("x.block_count", w.I32, -1)])
    )
    with pytest.raises(ModelFileError, match=r"m\.gguf is damaged: 'x\.block_count' is -1"):
        anatomy.of_file(path)


# Several files


def part(number: int, total: int) -> bytes:
    pairs = [w.pair("split.count", 2, total), w.pair("split.no", 2, number)]
    if number == 0:
        pairs += w.PAIRS
    return w.gguf(pairs, [w.tensor(f"blk.{number}.a", (8,))], b"\0" * 32)


def test_a_model_in_several_files(tmp_path):
    paths = [tmp_path / f"m-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for number, path in enumerate(paths):
        path.write_bytes(part(number, 3))
    for path in paths:
        found = anatomy.of_file(path)
        assert [tensor.name for tensor in found.tensors] == ["blk.0.a", "blk.1.a", "blk.2.a"]
        assert (found.parameters, found.n_layers) == (24, 3)
        assert found.file_bytes == sum(each.stat().st_size for each in paths)
    paths[2].unlink()
    with pytest.raises(ModelFileError, match=r"m-00003-of-00003\.gguf is missing"):
        anatomy.of_file(paths[0])


def test_a_part_under_another_name(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(part(0, 3))
    with pytest.raises(ModelFileError, match="one of 3 files") as caught:
        anatomy.of_file(path)
    assert "00001-of-00003.gguf" in caught.value.hint
    # Its header alone may still be looked at.
    assert anatomy.of_headers([read_header(path)]).n_layers == 3


ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from([key for key in LLAMA if key != "general.architecture"]) | st.sampled_from(
    [
        "general.architecture", "general.name", "general.license", "general.file_type", "llmlab.synthetic",
        "llama.expert_count", "llama.expert_used_count", "llama.full_attention_interval", "llama.vocab_size",
        "llama.attention.recurrent_layers", "llama.attention.sliding_window", "tokenizer.ggml.bos_token_id",
    ]
)  # fmt: skip


@given(st.dictionaries(KEYS, ANY | st.lists(ANY, max_size=4), max_size=5))
def test_any_metadata_is_understood_or_refused(changes):
    try:
        found = of(
            LLAMA | changes,
            ("token_embd.weight", (32, 4), Q4_0),
            ("blk.0.ffn_up_exps.weight", (4, 4, 4), F16),
        )
    except ModelFileError as refused:
        str(refused).encode()
        return
    assert len(found.n_kv_heads) == found.n_layers or not found.n_layers
    for kind, size in found.read_by_type.items():
        assert 0 < size <= found.bytes_by_type[kind]
    assert 0 <= found.active_parameters <= found.parameters
