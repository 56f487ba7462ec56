"""A tokenizer for models that have none of their own: the built-in model's, padded."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

from llmlab.weights.gguf import read_header
from llmlab.weights.store import builtin_path

_NORMAL: Final = 1  # token type of an ordinary token
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = tuple(first + second for first in _DIGITS for second in _DIGITS)


@functools.cache
def _builtin() -> Mapping[str, Any]:
    metadata = read_header(builtin_path()).metadata
    return {key: metadata[key] for key in metadata if key.startswith("tokenizer.")}


def padded_tokenizer(n_vocab: int, n_merges: int) -> dict[str, Any]:
    """The built-in model's tokenizer, padded to `n_vocab` tokens and `n_merges` merges."""
    own = dict(_builtin())
    tokens = list(own["tokenizer.ggml.tokens"])[:n_vocab]
    kinds = list(own["tokenizer.ggml.token_type"])[:n_vocab]
    # Ġ is the space of byte-level vocabularies, so that long answers wrap.
    tokens += [f"Ġ~{_base36(number)}" for number in range(len(tokens), n_vocab)]
    kinds += [_NORMAL] * (n_vocab - len(kinds))
    # These join what no text is ever split into; they take the file's and the engine's space.
    merges = list(own["tokenizer.ggml.merges"])
    own["tokenizer.ggml.merges"] = merges + [f"~{_base36(n)} ~" for n in range(len(merges), n_merges)]
    own["tokenizer.ggml.tokens"], own["tokenizer.ggml.token_type"] = tokens, kinds
    return own


def _base36(number: int) -> str:
    """Four digits: room for 1.6 million."""
    return _PAIRS[number // len(_PAIRS)] + _PAIRS[number % len(_PAIRS)]
