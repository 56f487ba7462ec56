"""Shapes of real models: their hyper-parameters, tensors and metadata, without their weights.

The figures come from the models' published `config.json` files (each shape
says whose); names and order of tensors and metadata are llama.cpp's
(`src/models/*.cpp`, `convert_hf_to_gguf.py`). A test holds the number of
parameters that follows from them against the published one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from llmlab.errors import UnknownNameError
from llmlab.weights.mixtures import Facts

Dimensions = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of one model.

    Attributes:
        name: What it is called here, such as `llama-3.2-1b`.
        title: What people call it.
        architecture: As llama.cpp calls it.
        n_layers: Layers.
        n_embd: Width of the residual stream.
        n_ff: Width of the feed-forward part.
        n_heads: Attention heads.
        n_kv_heads: Heads of keys and values.
        head_size: Width of one head.
        n_vocab: Tokens of the vocabulary.
        n_merges: Merges of its byte-pair encoding, 0 for another kind of tokenizer.
        context: Tokens of context it was trained for.
        rope_base: Base of the rotary frequencies.
        norm_epsilon: Epsilon of the norms.
        tied: Whether token embedding and output are one tensor.
        parameters: Published number of parameters.
        source: Where the figures come from.
        rope_factors: Whether it has factors that stretch the rotary frequencies.
        n_experts: Experts per layer, 0 without.
        n_experts_used: Experts that see each token.
        n_ff_expert: Width of one expert.
        sliding_window: Tokens that layers with a window see, None without.
        attention_softcap: Bound on attention scores, None without.
        final_softcap: Bound on logits, None without.
    """

    name: str
    title: str
    architecture: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    n_vocab: int
    n_merges: int
    context: int
    rope_base: float
    norm_epsilon: float
    tied: bool
    parameters: int
    source: str
    rope_factors: bool = False
    n_experts: int = 0
    n_experts_used: int = 0
    n_ff_expert: int = 0
    sliding_window: int | None = None
    attention_softcap: float | None = None
    final_softcap: float | None = None

    @property
    def facts(self) -> Facts:
        """What a quantisation depends on."""
        return Facts(
            architecture=self.architecture,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            n_experts=self.n_experts,
        )

    def tensors(self) -> list[tuple[str, Dimensions]]:
        """Names and dimensions (fastest first) of all tensors."""
        found: list[tuple[str, Dimensions]] = [("token_embd.weight", (self.n_embd, self.n_vocab))]
        if self.rope_factors:
            found.append(("rope_freqs.weight", (self.head_size // 2,)))
        for layer in range(self.n_layers):
            found += [(f"blk.{layer}.{name}", shape) for name, shape in self._layer()]
        found.append(("output_norm.weight", (self.n_embd,)))
        if not self.tied:
            found.append(("output.weight", (self.n_embd, self.n_vocab)))
        return found

    def _layer(self) -> Iterator[tuple[str, Dimensions]]:
        width, queries, values = self.n_embd, self.n_heads * self.head_size, self.n_kv_heads * self.head_size
        yield "attn_norm.weight", (width,)
        for letter, wide in (("q", queries), ("k", values), ("v", values)):
            yield f"attn_{letter}.weight", (width, wide)
            if self.architecture == "qwen2":
                yield f"attn_{letter}.bias", (wide,)
        if self.architecture in {"qwen3", "qwen3moe", "gemma3"}:
            yield "attn_q_norm.weight", (self.head_size,)
            yield "attn_k_norm.weight", (self.head_size,)
        yield "attn_output.weight", (queries, width)
        if self.architecture.startswith("gemma"):
            yield "post_attention_norm.weight", (width,)
        yield "ffn_norm.weight", (width,)
        if self.n_experts:
            experts, inner = self.n_experts, self.n_ff_expert
            yield "ffn_gate_inp.weight", (width, experts)
            yield "ffn_gate_exps.weight", (width, inner, experts)
            yield "ffn_up_exps.weight", (width, inner, experts)
            yield "ffn_down_exps.weight", (inner, width, experts)
        else:
            yield "ffn_gate.weight", (width, self.n_ff)
            yield "ffn_up.weight", (width, self.n_ff)
            yield "ffn_down.weight", (self.n_ff, width)
        if self.architecture.startswith("gemma"):
            yield "post_ffw_norm.weight", (width,)

    def metadata(self) -> dict[str, Any]:
        """What llama.cpp wants to know of the architecture."""
        own: dict[str, Any] = {
            "context_length": self.context,
            "embedding_length": self.n_embd,
            "block_count": self.n_layers,
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_heads,
            "attention.head_count_kv": self.n_kv_heads,
            "attention.key_length": self.head_size,
            "attention.value_length": self.head_size,
            "attention.layer_norm_rms_epsilon": self.norm_epsilon,
            "rope.dimension_count": self.head_size,
            "rope.freq_base": self.rope_base,
            "vocab_size": self.n_vocab,
        }
        if self.n_experts:
            own["expert_count"] = self.n_experts
            own["expert_used_count"] = self.n_experts_used
            own["expert_feed_forward_length"] = self.n_ff_expert
        optional = {
            "attention.sliding_window": self.sliding_window,
            "attn_logit_softcapping": self.attention_softcap,
            "final_logit_softcapping": self.final_softcap,
        }
        own |= {key: value for key, value in optional.items() if value is not None}
        return {
            "general.architecture": self.architecture,
            "general.type": "model",
            **{f"{self.architecture}.{key}": value for key, value in own.items()},
        }


@functools.cache
def shapes() -> Mapping[str, Shape]:
    """All shapes by name, in the order of the file."""
    text = resources.files("llmlab.weights").joinpath("shapes.json").read_text(encoding="utf-8")
    return {name: Shape(name=name, **facts) for name, facts in json.loads(text).items()}


def shape(name: str) -> Shape:
    """The shape of that name, in any case.

    Raises:
        UnknownNameError: If there is none.
    """
    found = shapes().get(name.lower())
    if found is None:
        raise UnknownNameError("shape", name, shapes())
    return found
