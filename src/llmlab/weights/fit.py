"""How much memory a model needs: a floor to refuse by, a limit to give.

KV cache: 2 (keys and values) × layers × KV heads × head size × 2 bytes (f16)
for each token of context.
"""

from __future__ import annotations

from llmlab.specs import Model

_MIB = 1024 * 1024
_F16_BYTES = 2
# What a llama-server with the smallest model was measured to use (30–50 MiB
# resident), rounded up: code, HTTP threads, tokenizer, output buffers.
_SERVER_MIB = 64


def kv_bytes_per_token(model: Model) -> int:
    """Bytes of KV cache for one token of context."""
    return 2 * model.n_layers * model.n_kv_heads * model.head_dim * _F16_BYTES


def required_mib(model: Model, *, context: int, slots: int) -> int:
    """The least memory in MiB that can serve the model: weights, KV cache, server.

    Args:
        model: The model.
        context: Tokens of context for each slot.
        slots: Number of slots.
    """
    kv = kv_bytes_per_token(model) * context * slots
    return -(-(model.file_bytes + kv) // _MIB) + _SERVER_MIB


def default_limit_mib(model: Model, *, context: int, slots: int) -> int:
    """A memory limit in MiB for a container that is not meant to be reached.

    Above the floor: the weights once more, because llama.cpp repacks quantised
    weights into a copy (measured: an 8 B Q4_0 model of 4.66 GB took 8.45 GB),
    one byte in four of the KV cache for compute buffers, and 256 MiB.
    """
    floor = required_mib(model, context=context, slots=slots)
    kv = kv_bytes_per_token(model) * context * slots
    return floor + -(-(model.file_bytes + kv // 4) // _MIB) + 256
