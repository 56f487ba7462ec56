"""What a model in a directory of safetensors is made of, by its config.json and its files' headers.

A figure that config.json does not have counts as not said; nothing is guessed from the names of models.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from llmlab.errors import ModelError, ModelFileError
from llmlab.weights import checkpoint
from llmlab.weights.anatomy import Anatomy
from llmlab.weights.checkpoint import CONFIG, Part
from llmlab.weights.tensors import Tensor, tensor_type

_MOST_LAYERS: Final = 512
# The key that most have, and those that older models have for the same.
_KEYS: Final = {
    "num_hidden_layers": ("n_layer", "num_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "num_heads"),
    "max_position_embeddings": ("n_positions", "max_sequence_length"),
    "num_local_experts": ("num_experts", "n_routed_experts"),
}
# Only the size of an element counts here; those without a type of that size are taken as bytes.
_DTYPES: Final = {
    "F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16", "I64": "I64", "U64": "I64", "I32": "I32", "U32": "I32",
    "I16": "I16", "U16": "I16", "I8": "I8", "U8": "I8", "BOOL": "I8", "F8_E4M3": "I8", "F8_E5M2": "I8",
}  # fmt: skip
_BLOCK: Final = re.compile(r"(?:model|transformer|language_model)\.(?:layers|h)\.(\d+)\.(.+)")
_EMBEDDINGS: Final = ("embed_tokens.weight", "wte.weight")
# Layers that keep a state in place of keys and values.
_STATEFUL: Final = ("linear", "mamba", "recurrent", "conv", "ssm")


def of_file(path: Path) -> Anatomy:
    """The anatomy of a model.

    Args:
        path: One of its files of weights.

    Raises:
        ModelError: If a file is missing or damaged, or a figure in config.json cannot be meant.
    """
    files = checkpoint.files(path.parent)
    # A start asks several times.
    stamps = tuple(
        (info.st_ino, info.st_size, info.st_mtime_ns)
        for info in (each.stat() for each in (*files, *checkpoint.beside(path.parent)))
    )
    return _of_files(path.parent, files, stamps)


@functools.lru_cache(maxsize=32)
def _of_files(folder: Path, files: tuple[Path, ...], stamps: object) -> Anatomy:  # noqa: ARG001 - a key of the cache
    config = _Config(folder / CONFIG)
    parts = [part for path in files for part in checkpoint.parts(path)]
    tensors = tuple(map(_tensor, parts))
    names = {tensor.name for tensor in tensors}
    n_layers, n_embd = config.count("num_hidden_layers"), config.count("hidden_size")
    n_heads = config.count("num_attention_heads")
    if n_layers > _MOST_LAYERS:
        raise config.damaged("num_hidden_layers", n_layers)
    key_length, value_length = _lengths(config, n_embd, n_heads)
    n_experts, n_used = config.count("num_local_experts"), config.count("num_experts_per_tok")
    packed = config.text("quantization_config", "quant_method")
    return Anatomy(
        architecture=config.text("model_type") or "unknown",
        title=None,
        license=None,
        # Of packed weights several are in one element.
        parameters=0 if packed else sum(tensor.elements for tensor in tensors),
        quantisation=packed.upper() if packed else _commonest(parts),
        synthetic=False,
        context_train=config.count("max_position_embeddings"),
        n_layers=n_layers,
        n_embd=n_embd,
        n_ff=config.count("moe_intermediate_size") or config.count("intermediate_size"),
        n_vocab=config.count("vocab_size"),
        n_heads=n_heads,
        n_kv_heads=_kv_heads(config, n_layers, n_heads),
        key_length=key_length,
        value_length=value_length,
        # Counted as if all layers saw the whole context: which of them do is each architecture's own.
        sliding_window=None,
        n_experts=n_experts if n_used else 0,
        n_experts_used=n_used if n_experts else 0,
        tied_embeddings="token_embd.weight" in names and "output.weight" not in names,
        tokenizer=None,
        chat_template=_chat_template(folder),
        tensors=tensors,
        file_bytes=sum(path.stat().st_size for path in files),
        control_tokens=_control_tokens(folder),
        form="safetensors",
    )


class _Config:
    """config.json, checked as it is read; the part on text of a model that reads pictures as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._whole = checkpoint.read_json(path)
        text = self._whole.get("text_config")
        self._text: Mapping[str, Any] = text if isinstance(text, dict) else {}

    def value(self, key: str) -> Any:
        """What stands under a key, or another one for the same; None if nothing does."""
        for name in (key, *_KEYS.get(key, ())):
            for place in (self._text, self._whole):
                if place.get(name) is not None:
                    return place[name]
        return None

    def count(self, key: str) -> int:
        """A count; 0 if the file does not say."""
        found = self.value(key)
        if found is None:
            return 0
        if type(found) is not int or found < 0:
            raise self.damaged(key, found)
        return found

    def text(self, *keys: str) -> str:
        """A text, which may stand in an object; "" if the file does not say."""
        found = self.value(keys[0])
        for key in keys[1:]:
            found = found.get(key) if isinstance(found, dict) else None
        return "".join(c for c in found if c.isprintable())[:40] if isinstance(found, str) else ""

    def damaged(self, key: str, shown: object) -> ModelFileError:
        """The error for a value that cannot be meant."""
        return ModelFileError(
            f"{self._path} is damaged: {key!r} is {repr(shown)[:80]}", hint="download it again"
        )


def _lengths(config: _Config, n_embd: int, n_heads: int) -> tuple[int, int]:
    """Elements of a key and of a value, as the cache has them; 0 if that is not said."""
    # Multi-head latent attention keeps one compressed vector for both.
    if latent := config.count("kv_lora_rank"):
        return latent + config.count("qk_rope_head_dim"), 0
    size = config.count("head_dim") or (n_embd // n_heads if n_heads else 0)
    return size, size


def _kv_heads(config: _Config, n_layers: int, n_heads: int) -> tuple[int, ...]:
    heads = 1 if config.count("kv_lora_rank") else config.count("num_key_value_heads") or n_heads
    kinds = config.value("layer_types")
    if isinstance(kinds, list) and len(kinds) == n_layers:
        return tuple(0 if str(kind).startswith(_STATEFUL) else heads for kind in kinds)
    return (heads,) * n_layers


def _tensor(part: Part) -> Tensor:
    """A tensor by the name that llama.cpp would give it, as far as memory depends on that."""
    name, kind = part.name, _DTYPES.get(part.dtype)
    if match := _BLOCK.search(name):
        name = f"blk.{match[1]}.{match[2]}"
    elif name.endswith(_EMBEDDINGS):
        name = "token_embd.weight"
    elif name.endswith("lm_head.weight"):
        name = "output.weight"
    shape = tuple(reversed(part.shape)) if kind else (part.nbytes,)
    return Tensor(name, shape, tensor_type(kind or "I8").number, 0)


def _commonest(parts: list[Part]) -> str:
    sizes: Counter[str] = Counter()
    for part in parts:
        sizes[part.dtype] += part.nbytes
    return sizes.most_common(1)[0][0] if sizes else "unknown"


def _chat_template(folder: Path) -> str | None:
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    found = checkpoint.read_json(folder / "tokenizer_config.json").get("chat_template")
    return found if isinstance(found, str) else None


def _control_tokens(folder: Path) -> tuple[str, ...]:
    """Texts of the tokens that are marked as special; a tokenizer that cannot be read has none that are known."""
    try:
        added = checkpoint.read_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
        listed = list(added.values()) if isinstance(added, dict) else None
        listed = listed or checkpoint.read_json(folder / "tokenizer.json").get("added_tokens")
    except ModelError:
        return ()
    entries = [entry for entry in listed or () if isinstance(entry, dict) and entry.get("special") is True]
    return tuple(text for entry in entries if isinstance(text := entry.get("content"), str))
