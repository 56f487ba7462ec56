"""The network: a small Llama in PyTorch, with interleaved rotary positions.

The layout is the one that llama.cpp's `llama` architecture reads without permuting any
weight: rotary pairs are neighbours (2i, 2i + 1), and the output layer is the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MATRIX = 2


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    vocab: int = 2048
    context: int = 1024
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    ffn: int = 512
    rope_base: float = 10000.0
    eps: float = 1e-5


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring pairs of the last dimension by the angle of their position."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Layer(nn.Module):
    """Attention and a gated feed-forward part, each behind a norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv = shape.kv_heads * shape.head_size
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.eps)
        self.attn_q = nn.Linear(shape.width, shape.heads * shape.head_size, bias=False)
        self.attn_k = nn.Linear(shape.width, kv, bias=False)
        self.attn_v = nn.Linear(shape.width, kv, bias=False)
        self.attn_output = nn.Linear(shape.heads * shape.head_size, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.eps)
        self.ffn_gate = nn.Linear(shape.width, shape.ffn, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.ffn, bias=False)
        self.ffn_down = nn.Linear(shape.ffn, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Add what attention and the feed-forward part find to the stream `x`."""
        batch, length, _ = x.shape
        size = self.shape.head_size

        def heads(values: Tensor) -> Tensor:
            return values.view(batch, length, -1, size).transpose(1, 2)

        normed = self.attn_norm(x)
        q = rotate(heads(self.attn_q(normed)), cos, sin)
        k = rotate(heads(self.attn_k(normed)), cos, sin)
        v = heads(self.attn_v(normed))
        group = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mixed = functional.scaled_dot_product_attention(q, k, v.to(q.dtype), is_causal=True)
        x = x + self.attn_output(mixed.transpose(1, 2).reshape(batch, length, -1))
        normed = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed))


class Tiny(nn.Module):
    """The whole network: token ids to hidden states, and hidden states to logits."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab, shape.width)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.eps)
        steps = torch.arange(0, shape.head_size, 2, dtype=torch.float64) / shape.head_size
        angles = torch.outer(torch.arange(shape.context, dtype=torch.float64), shape.rope_base**-steps)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == MATRIX:
                # The two projections back into the stream add up over the layers.
                last = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 / ((2 * shape.layers) ** 0.5 if last else 1))

    def hidden(self, ids: Tensor) -> Tensor:
        """States before the output layer."""
        x = self.token_embd(ids)
        length = ids.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        for layer in self.blk:
            x = layer(x, cos, sin)
        return self.output_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens; the output layer is the embedding."""
        return functional.linear(hidden, self.token_embd.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores of all tokens at all positions."""
        return self.logits(self.hidden(ids))
