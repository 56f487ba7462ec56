"""Read the header of a GGUF file: metadata and the directory of tensors.

The format is described in the GGUF specification of the ggml project. The
file is memory-mapped and every length in it is checked against the file's
size before it is used: a damaged or hostile file gives an error that says
where, and never makes the reader allocate what a length field claims.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmlab.errors import ModelFileError, ModelNotFoundError

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_DIMENSIONS: Final = 4
_ALIGNMENT: Final = 32
CONTROL: Final = 3
"""Token type of a control token (`LLAMA_TOKEN_TYPE_CONTROL`)."""

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
# Block size and bytes per block of each tensor type (ggml.h, ggml-common.h).
_TENSOR_TYPES: Final = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
    22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
    29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of the tensor directory.

    Attributes:
        name: Its name, such as `blk.0.attn_q.weight`.
        shape: Its dimensions, fastest first.
        type: ggml's number of its type.
        offset: Where its data begins, bytes after the start of the data.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself.

    Attributes:
        version: Version of the format.
        metadata: All key/value pairs; arrays are lists.
        tensors: The tensor directory.
        file_bytes: Size of the file.
    """

    version: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    file_bytes: int

    @property
    def architecture(self) -> str:
        """`general.architecture`, "unknown" if the file does not say."""
        return str(self.metadata.get("general.architecture", "unknown"))

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the architecture's own, such as `block_count`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file.

    Args:
        path: The file.

    Raises:
        ModelNotFoundError: If it does not exist or cannot be read.
        ModelFileError: If it is not a GGUF file, or damaged; says where.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ModelNotFoundError(f"{path} is a directory", hint="name the .gguf file in it")
        if size == 0:
            raise ModelFileError(f"{path} is empty", hint="download it again")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data, size).header()
    except FileNotFoundError:
        raise ModelNotFoundError(f"there is no file {path}", hint="check the path") from None
    except PermissionError:
        raise ModelNotFoundError(f"{path} cannot be read", hint="check its permissions") from None
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error


class _Reader:
    """A cursor over the mapped file that never reads past its end."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self._path, self._data, self._size = path, data, size
        self._at = 0

    def header(self) -> Header:
        if self._data[:4] != MAGIC:
            shown = bytes(self._data[:4])
            raise ModelFileError(
                f"{self._path} is not a GGUF file: it begins with {shown!r}, not {MAGIC!r}",
                hint="llama.cpp reads GGUF files; look for one with the ending .gguf",
            )
        self._at = 4
        version = self._scalar("I", "version")
        if version not in _VERSIONS:
            raise self._damaged("version", f"{version} is not supported")
        tensor_count = self._count("tensor count", least_bytes=24)
        pair_count = self._count("metadata count", least_bytes=13)
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = self._text("key")
            if key in metadata:
                raise self._damaged("metadata", f"key {key!r} twice")
            metadata[key] = self._value(self._scalar("I", key), key)
        tensors = tuple(self._tensor() for _ in range(tensor_count))
        self._check_data(tensors, metadata)
        return Header(version, metadata, tensors, self._size)

    def _tensor(self) -> Tensor:
        name = self._text("tensor name")
        dimensions = self._scalar("I", name)
        if dimensions > _MAX_DIMENSIONS:
            raise self._damaged(name, f"{dimensions} dimensions")
        shape = tuple(self._scalar("Q", name) for _ in range(dimensions))
        return Tensor(name, shape, self._scalar("I", name), self._scalar("Q", name))

    def _check_data(self, tensors: tuple[Tensor, ...], metadata: dict[str, Any]) -> None:
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._damaged("general.alignment", f"{alignment!r}")
        start = -(-self._at // alignment) * alignment
        for tensor in tensors:
            # Types that are newer than this table are left to the engine.
            block, block_bytes = _TENSOR_TYPES.get(tensor.type, (1, 0))
            elements = 1
            for length in tensor.shape:
                elements *= length
            end = start + tensor.offset + elements // block * block_bytes
            if end > self._size:
                raise ModelFileError(
                    f"{self._path} is truncated: tensor {tensor.name!r} ends at byte {end}, "
                    f"the file at byte {self._size}",
                    hint="download it again",
                )

    def _value(self, kind: int, what: str, *, nested: bool = False) -> Any:
        if kind == _STRING:
            return self._text(what)
        if kind == _ARRAY:
            if nested:
                raise self._damaged(what, "an array of arrays")
            return self._array(what)
        if kind not in _SCALARS:
            raise self._damaged(what, f"value type {kind}")
        value = self._scalar(_SCALARS[kind], what)
        return bool(value) if kind == _BOOL else value

    def _array(self, what: str) -> list[Any]:
        kind = self._scalar("I", what)
        if kind in _SCALARS:
            width = struct.calcsize(_SCALARS[kind])
            count = self._count(what, least_bytes=width)
            self._need(count * width, what)
            values = struct.unpack_from(f"<{count}{_SCALARS[kind]}", self._data, self._at)
            self._at += count * width
            return [bool(v) for v in values] if kind == _BOOL else list(values)
        count = self._count(what, least_bytes=8)
        return [self._value(kind, what, nested=True) for _ in range(count)]

    def _text(self, what: str) -> str:
        length = self._scalar("Q", what)
        self._need(length, what)
        raw = self._data[self._at : self._at + length]
        self._at += length
        # Tokens of byte-level vocabularies need not be valid UTF-8 by themselves.
        return raw.decode("utf-8", errors="surrogateescape")

    def _count(self, what: str, *, least_bytes: int) -> int:
        count: int = self._scalar("Q", what)
        self._need(count * least_bytes, what)
        return count

    def _scalar(self, code: str, what: str) -> Any:
        width = struct.calcsize(code)
        self._need(width, what)
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += width
        return value

    def _need(self, length: int, what: str) -> None:
        if length > self._size - self._at:
            raise self._damaged(what, f"needs {length} bytes, {self._size - self._at} are left")

    def _damaged(self, what: str, why: str) -> ModelFileError:
        return ModelFileError(
            f"{self._path} is damaged or truncated at byte {self._at} ({what!r}: {why})",
            hint="download it again",
        )
