"""The models that are measured, and how they are asked: random weights, real work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import llmlab
from bench.gpu.parts import REHEARSAL
from llmlab.client import Completion
from llmlab.lab import registry

_TRIED = bool(os.environ.get(REHEARSAL))
SMALL = "synthetic:smollm2-135m:Q4_0" if _TRIED else "synthetic:llama-3.2-1b:Q4_0"
LARGE = SMALL if _TRIED else "synthetic:llama-3.1-8b:Q4_0"
# Tokens of the prompts that are read, and how often a sentence of 20 stands in a long one.
PROMPTS = (64, 128) if _TRIED else (512, 2048)
REPEATS = 5 if _TRIED else 150
LAYERS = "0" if _TRIED else "all"
CONTEXT, SLOTS = 4096, 8
_TEXT = "The quick brown fox jumps over the lazy dog while a container runs beside it. "


@contextmanager
def served(model: str, name: str, **options: Any) -> Iterator[llmlab.Server]:
    """A native server with all its layers on the GPU; its notes say whether that is so."""
    asked = {"backend": "native", "gpu_layers": LAYERS, "context": CONTEXT, "slots": SLOTS, **options}
    server = llmlab.start(model, name=name, **asked)
    try:
        for note in server.record.notes:
            print(f"  note: {note}")
        yield server
    finally:
        server.stop()


def prompt(server: llmlab.Server, tokens: int, first: int = 0) -> list[int]:
    """Token ids of a prompt; another `first` makes it another prompt from its first token on."""
    ids = registry.client(server.record).tokens_of(_TEXT)
    return [ids[first % len(ids)], *(ids * (tokens // len(ids) + 1))[: tokens - 1]]


def prefill(server: llmlab.Server, tokens: int) -> Completion:
    """Read a prompt and generate one token."""
    return registry.client(server.record).complete(prompt(server, tokens), tokens=1)


def decode(server: llmlab.Server, tokens: int, context: int = 16) -> Completion:
    """Generate so many tokens behind a prompt of `context` tokens."""
    return registry.client(server.record).complete(prompt(server, context), tokens=tokens)
