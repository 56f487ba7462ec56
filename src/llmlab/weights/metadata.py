"""The values of a mapped GGUF file; texts and arrays are decoded when they are asked for."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NoReturn

from llmlab.errors import ModelFileError

U32, BOOL, STRING, ARRAY = 4, 7, 8, 9
"""Value types of the format that need their names here."""
SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""How `struct` calls each value type of fixed size."""
length_at = struct.Struct("<Q").unpack_from
"""The length that stands before a text."""
OUTSIDE: Final = (struct.error, IndexError, OverflowError)
"""What `length_at` raises where there is none."""


@dataclass(frozen=True, slots=True)
class Span:
    """A text or an array of `count` elements, from byte `begin` to byte `end`; not decoded yet."""

    kind: int
    count: int
    begin: int
    end: int
    is_array: bool


class Metadata(Mapping[str, Any]):
    """Key/value pairs of a mapped file; texts and arrays are decoded on first access."""

    def __init__(self, path: Path, data: mmap.mmap, values: dict[str, Any]) -> None:
        self._path, self._data, self._values = path, data, values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, Span):
            value = self._values[key] = self._decoded(value)
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<metadata of {self._path}: {len(self)} keys>"

    def length(self, key: str) -> int | None:
        """Number of elements of an array; None if the key names none."""
        value = self._values.get(key)
        if isinstance(value, Span):
            return value.count if value.is_array else None
        return len(value) if isinstance(value, list) else None

    def _decoded(self, span: Span) -> Any:
        # To touch a page that the file no longer has would kill the process.
        if self._data.size() < span.end:
            self._changed()
        if not span.is_array:
            return text(self._data[span.begin : span.end])
        if span.kind == STRING:
            return self._texts(span)
        values = struct.unpack_from(f"<{span.count}{SCALARS[span.kind]}", self._data, span.begin)
        return [bool(value) for value in values] if span.kind == BOOL else list(values)

    def _texts(self, span: Span) -> list[str]:
        data, found, end = self._data, [], span.begin
        try:
            for _ in repeat(None, span.count):
                begin = end + 8
                end = begin + length_at(data, end)[0]
                found.append(text(data[begin:end]))
        except OUTSIDE:
            self._changed()
        if end != span.end:
            self._changed()
        return found

    def _changed(self) -> NoReturn:
        raise ModelFileError(
            f"{self._path} was changed while it was being read", hint="wait until it is written; try again"
        )


def text(raw: bytes) -> str:
    """A text as it is; bytes that are not UTF-8 survive."""
    # Tokens of byte-level vocabularies need not be valid UTF-8 by themselves.
    return raw.decode("utf-8", errors="surrogateescape")
