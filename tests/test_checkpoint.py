"""Models as directories of safetensors: which files belong to one, what it is made of, what it needs."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab import engines
from llmlab.errors import ModelError, ModelFileError, ModelNotFoundError, UsageError
from llmlab.kits import models as kit_models
from llmlab.library import measuring
from llmlab.weights import anatomy, checkpoint, fit, foresee, rates, resolve
from tests.checkpoints import CONFIG, HEAD, in_hub_cache, shapes, write
from tests.checkpoints import checkpoint as made
from tests.test_engines_vllm import PATHS, spec
from tests.test_rates import ROOFS

BYTES = sum(2 * rows * columns for _, (rows, *more) in shapes().values() for columns in more or [1])


@pytest.fixture
def folder(tmp_path):
    return made(tmp_path / "Small-Llama")


def names(found) -> list[str]:
    return [path.name for path in found]


# Which files


def test_a_directory_is_a_model_by_its_first_file_of_weights(folder):
    model = resolve(str(folder))
    assert (model.name, model.path) == ("small-llama", folder / "model.safetensors")
    assert (model.architecture, model.quantisation, model.n_vocab) == ("llama", "BF16", 256)
    assert model.file_bytes == model.path.stat().st_size
    assert resolve(str(folder / "model.safetensors")).files == model.files
    # A prompt must not speak as the model's tokenizer.
    assert model.control_tokens == ("<s>",)
    assert foresee(str(folder)).chat_template == "{{ messages }}"


def test_parts_are_those_that_the_index_names_and_no_other(tmp_path):
    folder = made(tmp_path / "m", parts=3)
    write(folder / "consolidated.safetensors", shapes())
    write(folder / "stray.safetensors", shapes())
    (folder / "modeling_own.py").write_text("raise SystemExit\n")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / ".hidden.json").write_text("{}")
    assert names(checkpoint.files(folder)) == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert names(checkpoint.beside(folder)) == [
        "config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert anatomy.of_file(folder).parameters == BYTES // 2


def test_in_the_hubs_cache_it_is_called_as_its_repository_and_links_are_followed(tmp_path):
    snapshot = in_hub_cache(tmp_path / "hub", made(tmp_path / "m", parts=2))
    model = resolve(str(snapshot))
    assert model.name == "small-llama"
    assert model.parameters == BYTES // 2
    assert {path.resolve().parent.name for path in model.files} == {"blobs"}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "has weights and no config.json"),
        (lambda d: (d / "config.json").rename(d / "adapter_config.json"), "an adapter"),
        (lambda d: (d / "model-00002-of-00003.safetensors").unlink(), "lacks model-00002-of-00003"),
        (lambda d: [p.unlink() for p in d.glob("*.safetensors")], "3 files, and 3 are missing"),
        (
            lambda d: [(d / "model.safetensors.index.json").unlink(), (d / "model-00003-of-00003.safetensors").unlink()],
            "lacks model-00003-of-00003.safetensors: its files are parts of 3",
        ),
        (lambda d: (d / "model.safetensors.index.json").write_text("{"), "cannot be read"),
        (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {}}'), "names no files"),
        (
            lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}'),
            "'../b.safetensors' is no file of weights",
        ),
        (lambda d: (d / "config.json").write_text("[]"), "holds no object"),
        (lambda d: (d / "config.json").write_text('{"num_hidden_layers": -2}'), "'num_hidden_layers' is -2"),
        (lambda d: (d / "config.json").write_text('{"num_hidden_layers": 99999}'), "is 99999"),
        (lambda d: (d / "config.json").write_text('{"hidden_size": "64"}'), "'hidden_size' is '64'"),
        (lambda d: os.truncate(d / "model-00001-of-00003.safetensors", 5), "is cut off"),
        (lambda d: os.truncate(d / "model-00001-of-00003.safetensors", 900), "is cut off|its header speaks of"),
        (lambda d: (d / "model-00001-of-00003.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]"), "damaged"),
        (lambda d: (d / "model-00001-of-00003.safetensors").write_bytes(struct.pack("<Q", 3) + b"{a}"), "damaged"),
        (
            lambda d: (d / "model-00001-of-00003.safetensors").write_bytes(
                struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'.ljust(60) + bytes(4)
            ),
            "'a' has no place",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_or_damaged_is_told_by_name(tmp_path, spoil, message):
    folder = made(tmp_path / "m", parts=3)
    spoil(folder)
    with pytest.raises(ModelFileError, match=message) as told:
        resolve(str(folder))
    assert told.value.hint


def test_a_link_that_leads_nowhere_is_told_with_where_it_leads(tmp_path):
    snapshot = in_hub_cache(tmp_path / "hub", made(tmp_path / "m", parts=2))
    blob = (snapshot / "model-00002-of-00002.safetensors").resolve()
    blob.unlink()
    with pytest.raises(ModelFileError, match=f"is a link to .*{blob.name}, where there is none"):
        resolve(str(snapshot))


def test_a_directory_without_a_model_is_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is a directory"):
        resolve(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"no model in the form of \.safetensors"):
        resolve(str(tmp_path / "empty"))


def test_a_file_that_is_none_of_the_models_is_not_served_as_if_it_were(tmp_path):
    folder = made(tmp_path / "m", parts=2)
    write(folder / "adapter_model.safetensors", shapes())
    with pytest.raises(ModelFileError, match="is none of the files of the model"):
        resolve(str(folder / "adapter_model.safetensors"))
    with pytest.raises(ModelNotFoundError, match=r"missing\.safetensors does not exist"):
        resolve(str(folder / "missing.safetensors"))
    assert len(resolve(str(folder / "model-00002-of-00002.safetensors")).files) == 2


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_directory_that_may_not_be_read_is_told():
    # Root may read everything: the process gives that up before it looks.
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom llmlab.errors import ModelError\n"
        "from llmlab.weights import checkpoint\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "for look in (checkpoint.files, checkpoint.first):\n"
        "    try: look(Path(sys.argv[1]))\n"
        "    except ModelError as error: print(error.message)\n"
        "print(checkpoint.is_checkpoint(Path(sys.argv[1])))\n"
    )
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        folder = made(Path(place) / "m")
        folder.chmod(0o000)
        command = [sys.executable, "-c", code, str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            folder.chmod(0o755)
    files, first, is_one = done.stdout.splitlines()
    assert files == first
    assert "m cannot be read: Permission denied" in files
    assert is_one == "False"


# What it is made of


def test_the_cache_is_predicted_from_layers_heads_and_their_size(folder):
    found = anatomy.of_file(folder)
    assert (found.n_layers, found.n_kv_heads, found.key_length) == (2, (2, 2), 16)
    needed = fit.need(found, fit.Setting(context=65536, slots=4, engine="vllm"))
    # Two layers × two heads × (a key + a value of 16) × 2 bytes × 65536 tokens × 4 slots.
    assert needed.parts["KV cache"] == 2 * 2 * 32 * 2 * 65536 * 4 // 2**20


def test_on_a_gpu_all_of_its_weights_lie_there_the_embedding_too(tmp_path):
    found = anatomy.of_file(made(tmp_path / "m"))
    wide = replace(found, tensors=tuple(replace(t, shape=(*t.shape, 1024)) for t in found.tensors))
    on_gpu = {
        engine: fit.need(wide, fit.Setting(context=256, slots=1, engine=engine, gpu_layers=3))
        for engine in ("vllm", "llama-server")
    }
    assert on_gpu["vllm"].parts["weights"] == 0
    embedding = 2 * 256 * 64 * 1024 // 2**20
    assert on_gpu["vllm"].vram_mib - on_gpu["llama-server"].vram_mib == pytest.approx(embedding, abs=1)


@pytest.mark.parametrize("lacking", ["num_hidden_layers", "num_attention_heads", "hidden_size"])
def test_a_figure_that_is_not_there_is_unknown_and_not_nothing(tmp_path, lacking):
    lacks: dict[str, Any] = {lacking: None}
    if lacking == "num_attention_heads":
        lacks["num_key_value_heads"] = None
    found = anatomy.of_file(made(tmp_path / "m", **lacks))
    assert not found.cache_known
    assert anatomy.of_file(made(tmp_path / "whole")).cache_known


@pytest.mark.parametrize(
    ("config", "heads", "lengths"),
    [
        ({"head_dim": 32}, (2, 2), (32, 32)),
        ({"num_key_value_heads": None}, (4, 4), (16, 16)),
        ({"layer_types": ["linear_attention", "full_attention"]}, (0, 2), (16, 16)),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, (1, 1), (576, 0)),
        ({"num_hidden_layers": None, "n_layer": 2}, (2, 2), (16, 16)),
        (
            {**dict.fromkeys(CONFIG), "model_type": "gemma3", "text_config": CONFIG},
            (2, 2),
            (16, 16),
        ),
    ],
    ids=["head_dim", "no groups", "recurrent", "latent", "older names", "nested"],
)  # fmt: skip
def test_what_a_token_takes_is_read_as_architectures_write_it(tmp_path, config, heads, lengths):
    found = anatomy.of_file(made(tmp_path / "m", **config))
    assert found.n_kv_heads == heads
    assert (found.key_length, found.value_length) == lengths
    assert found.cache_known


def test_of_packed_weights_the_bytes_are_known_and_their_number_is_not(tmp_path):
    found = anatomy.of_file(made(tmp_path / "m", dtype="I32", quantization_config={"quant_method": "awq"}))
    assert (found.quantisation, found.parameters) == ("AWQ", 0)
    assert sum(found.bytes_by_type.values()) == 2 * BYTES
    eight = anatomy.of_file(made(tmp_path / "e", dtype="F8_E4M3"))
    assert eight.quantisation == "F8_E4M3"
    assert sum(eight.bytes_by_type.values()) == BYTES // 2


def test_an_embedding_that_is_the_output_as_well_is_seen(tmp_path):
    folder = made(tmp_path / "m")
    assert not anatomy.of_file(folder).tied_embeddings
    write(folder / "model.safetensors", {name: kind for name, kind in shapes().items() if name != HEAD})
    assert anatomy.of_file(folder).tied_embeddings


# Who serves it


@pytest.mark.parametrize(
    "more", [{}, {"backend": "native"}, {"engine": "ollama"}, {"engine": "llama-cpp-python"}]
)
def test_an_engine_that_serves_gguf_alone_says_what_to_do(folder, more, require_docker, require_engine):
    with pytest.raises(UsageError, match=r"serves GGUF files, and .* is a directory of safetensors") as told:
        llmlab.start(str(folder), **more)
    assert "--engine vllm" in told.value.hint
    assert "convert_hf_to_gguf.py" in told.value.hint


def test_manifests_for_kubernetes_are_not_made_of_it(folder, require_engine):
    with pytest.raises(UsageError, match="serves GGUF files"):
        llmlab.export("kubernetes", str(folder))


def test_a_kit_does_not_take_the_weights_alone(folder):
    with pytest.raises(UsageError, match="serves GGUF files"):
        kit_models.find(str(folder))


def test_vllm_is_told_the_directory_and_gets_all_its_files(tmp_path):
    folder = in_hub_cache(tmp_path / "hub", made(tmp_path / "m", parts=2))
    vllm = engines.engine("vllm")
    model = resolve(str(folder))
    served = spec(model=model)
    words = vllm.argv(served, replace(PATHS, model=PATHS.model.with_name(model.path.name)))
    assert words[:5] == ["vllm", "serve", "/models", "--served-model-name", "small-llama"]
    files = engines.model_files(vllm, served)
    assert [file.target for file in files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert engines.notes(vllm, served) == ()


def test_a_cache_of_unknown_size_is_left_to_vllm_with_a_note(tmp_path):
    vllm = engines.engine("vllm")
    served = spec(model=resolve(str(made(tmp_path / "m", hidden_size=None))))
    assert "--kv-cache-memory-bytes" not in vllm.argv(served, PATHS)
    assert "VLLM_CPU_KVCACHE_SPACE" not in vllm.environment(served, PATHS)
    [note] = engines.notes(vllm, served)
    assert "what the context takes is not known" in note


def test_the_card_of_such_a_model_is_for_vllm_and_promises_no_pace(folder, tmp_path, monkeypatch):
    # What was measured of this machine is llama.cpp's pace, which is none of vLLM's.
    roofs = replace(ROOFS, read_bytes_per_s={"BF16": 1e9}, prefill_parameters_per_s={"BF16": 1e9})
    for module, name in ((rates, "load"), (measuring, "current")):
        monkeypatch.setattr(module, name, lambda threads: replace(roofs, threads=threads))
    assert rates.predict(anatomy.of_file(folder), roofs)
    card: Any = llmlab.models(str(folder))
    row = card.row
    assert row.state == "here"
    assert row.fit.required_mib > 6000
    assert row.fit.decode_tokens_per_s is None
    card = llmlab.models(str(made(tmp_path / "m", hidden_size=None)))
    assert card.row.fit is None


def test_a_changed_file_is_read_anew(folder):
    assert anatomy.of_file(folder).context_train == 2048
    (folder / "config.json").write_text(json.dumps({**CONFIG, "max_position_embeddings": 4096}))
    assert anatomy.of_file(folder).context_train == 4096
