"""Directories of safetensors, as small as can be and valid, written by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "vocab_size": 256,
}
BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "I32": 4}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Shapes = dict[str, tuple[str, tuple[int, ...]]]


def shapes(*, layers: int = 2, dtype: str = "BF16") -> Shapes:
    """Tensors of a model: an embedding, an output matrix, and what a layer has."""
    found: Shapes = {
        EMBEDDING: (dtype, (256, 64)),
        HEAD: (dtype, (256, 64)),
        "model.norm.weight": (dtype, (64,)),
    }
    for layer in range(layers):
        for letter, rows in (("q", 64), ("k", 32), ("v", 32), ("o", 64)):
            found[f"model.layers.{layer}.self_attn.{letter}_proj.weight"] = (dtype, (rows, 64))
    return found


def write(path: Path, tensors: Shapes, *, fill: int = 0) -> Path:
    """A file of safetensors: 8 bytes of the header's length, the header as JSON, the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = BYTES[dtype]
        for dimension in shape:
            size *= dimension
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes([fill]) * end)
    return path


def checkpoint(folder: Path, *, parts: int = 1, dtype: str = "BF16", **config: Any) -> Path:
    """A directory with a model, in one file or in several; a figure that is None is left out of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(told), encoding="ascii")
    added = {"0": {"content": "<s>", "special": True}, "1": {"content": "plain", "special": False}}
    tokenizer = {"added_tokens_decoder": added, "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="ascii")
    (folder / "tokenizer.json").write_text("{}", encoding="ascii")
    tensors = list(shapes(dtype=dtype).items())
    if parts == 1:
        write(folder / "model.safetensors", dict(tensors))
        return folder
    weight_map: dict[str, str] = {}
    for number in range(1, parts + 1):
        name = f"model-{number:05}-of-{parts:05}.safetensors"
        own = dict(tensors[number - 1 :: parts])
        write(folder / name, own)
        weight_map |= dict.fromkeys(own, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="ascii")
    return folder


def in_hub_cache(cache: Path, folder: Path, *, repository: str = "models--ada--small-llama") -> Path:
    """The same as the hub's cache has it: a snapshot of links into the blobs."""
    snapshot = cache / repository / "snapshots" / ("c0ffee00" * 5)
    blobs = cache / repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = blobs / f"{number:064x}"
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot
