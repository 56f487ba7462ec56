"""A writer of GGUF files, from the format's specification, that can write what is wrong as well."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10


def text(value: str | bytes) -> bytes:
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    return text(content) if kind == STRING else struct.pack("<" + FORMATS[kind], content)


def pair(key: str | bytes, kind: int, content: Any) -> bytes:
    return text(key) + struct.pack("<I", kind) + value(kind, content)


def array(key: str | bytes, kind: int, contents: Sequence[Any]) -> bytes:
    head = text(key) + struct.pack("<IIQ", ARRAY, kind, len(contents))
    return head + b"".join(value(kind, content) for content in contents)


def tensor(name: str | bytes, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    head = text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
    return head + struct.pack("<IQ", kind, offset)


def gguf(
    pairs: Sequence[bytes],
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


PAIRS = (
    pair("general.architecture", STRING, "llama"),
    pair("llama.block_count", U32, 3),
    pair("llama.attention.head_count", U32, 4),
    pair("llama.attention.head_count_kv", U32, 2),
    pair("llama.embedding_length", U32, 256),
    pair("llama.context_length", U64, 2048),
    pair("llama.rope.freq_base", F32, 10000.0),
    pair("tokenizer.ggml.add_bos_token", BOOL, 1),
    array("tokenizer.ggml.tokens", STRING, ["<s>", "<|im_end|>", "a", b"\xff\xfe"]),
    array("tokenizer.ggml.token_type", I32, [3, 3, 1, 6]),
    array("tokenizer.ggml.scores", F32, [0.5, 1.0, 2.0, 3.0]),
    array("flags", BOOL, [0, 1]),
)
SMALL = gguf(PAIRS, [tensor("a", (4, 2)), tensor("b", (32,), 8, 32)], b"\1" * 66)
