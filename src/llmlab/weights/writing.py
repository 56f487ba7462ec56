"""Write the header of a GGUF file (version 3; the GGUF specification of the ggml project)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llmlab.weights.tensors import Tensor

ALIGNMENT: Final = 32
_MAGIC: Final = b"GGUF"
_VERSION: Final = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64, _INT64 = 4, 5, 6, 7, 8, 9, 10, 11
_CODES: Final = {_UINT32: "I", _INT32: "i", _FLOAT32: "f", _BOOL: "?", _UINT64: "Q", _INT64: "q"}


def header_bytes(metadata: Mapping[str, Any], tensors: Sequence[Tensor]) -> bytes:
    """Metadata and directory of tensors, padded to where the data begins.

    Whole numbers become uint32 where they fit, which is what llama.cpp reads
    nearly all of its keys as; numbers in lists become int32.
    """
    parts = [_MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        kind = _kind(value)
        parts += [_text(key), struct.pack("<I", kind), _value(kind, value)]
    for tensor in tensors:
        count = len(tensor.shape)
        parts.append(_text(tensor.name))
        parts.append(struct.pack(f"<I{count}QIQ", count, *tensor.shape, tensor.type, tensor.offset))
    data = b"".join(parts)
    return data + bytes(-len(data) % ALIGNMENT)


def _kind(value: Any) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, str):
        return _STRING
    if isinstance(value, int):
        if value < 0:
            return _INT32 if value >= -(1 << 31) else _INT64
        return _UINT32 if value < 1 << 32 else _UINT64
    return _FLOAT32 if isinstance(value, float) else _ARRAY


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    if kind == _ARRAY:
        items = list(value)
        inner = _inner(items)
        head = struct.pack("<IQ", inner, len(items))
        if inner == _STRING:
            return head + b"".join(map(_text, items))
        return head + struct.pack(f"<{len(items)}{_CODES[inner]}", *items)
    return struct.pack(f"<{_CODES[kind]}", value)


def _inner(items: Sequence[Any]) -> int:
    if not items or isinstance(items[0], str):
        return _STRING
    if isinstance(items[0], bool):
        return _BOOL
    if isinstance(items[0], float):
        return _FLOAT32
    return _INT32 if all(-(1 << 31) <= item < 1 << 31 for item in items) else _INT64


def _text(value: str) -> bytes:
    raw = value.encode("utf-8", errors="surrogateescape")
    return len(raw).to_bytes(8, "little") + raw
