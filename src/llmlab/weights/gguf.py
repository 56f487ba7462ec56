"""Read the header of a GGUF file: metadata and the directory of tensors.

The format is described in the GGUF specification of the ggml project; where
that leaves room, this reader asks for what llama.cpp asks for (`gguf.cpp`), so
that a file which is accepted here is not refused by the engine for its form.

The file is memory-mapped and every length in it is checked against the file's
size before it is used: a damaged or hostile file gives an error that says
where, and never makes the reader allocate what a length field claims. Texts
and arrays are skipped, and decoded when they are asked for: a vocabulary is
most of a header, and few readers want it.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Final

from llmlab.errors import ModelFileError, ModelNotFoundError
from llmlab.weights.metadata import (
    ARRAY,
    BOOL,
    OUTSIDE,
    SCALARS,
    STRING,
    U32,
    Metadata,
    Span,
    length_at,
    text,
)
from llmlab.weights.tensors import TYPES, Tensor, TensorType, tensor_type

__all__ = ["CONTROL", "TYPES", "Header", "Tensor", "TensorType", "read_header", "shards", "tensor_type"]

CONTROL: Final = 3
"""Token type of a control token (`LLAMA_TOKEN_TYPE_CONTROL`)."""

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_ALIGNMENT: Final = 32
_MAX_DIMENSIONS: Final = 4
_MAX_KEY_BYTES: Final = 65535  # the specification
_MAX_NAME_BYTES: Final = 63  # GGML_MAX_NAME, less its final zero
_MAX_COUNT: Final = 1 << 30  # of an array's elements, as in llama.cpp
_MAX_SIZE: Final = (1 << 63) - 1  # of a tensor in elements and in bytes, as in llama.cpp
_SHARD: Final = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself.

    Attributes:
        version: Version of the format.
        metadata: All key/value pairs; arrays are lists. What was read from a
            file is decoded when it is asked for; the file stays mapped as long
            as this mapping lives.
        tensors: The tensor directory.
        file_bytes: Size of the file.
        data_offset: Where the tensors' data begins, in bytes.
        path: The file, for messages; None if the header was made in memory.
    """

    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    file_bytes: int
    data_offset: int = 0
    path: Path | None = None

    @property
    def architecture(self) -> str:
        """`general.architecture`, "unknown" if the file does not say."""
        found = self.metadata.get("general.architecture")
        return found if isinstance(found, str) else "unknown"

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the architecture's own, such as `block_count`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def length(self, key: str) -> int | None:
        """Number of elements of an array, without decoding it; None if the key names no array."""
        if isinstance(self.metadata, Metadata):
            return self.metadata.length(key)
        found = self.metadata.get(key)
        return len(found) if isinstance(found, list | tuple) else None


def read_header(path: Path, *, complete: bool = True) -> Header:
    """Read the header of a GGUF file.

    Args:
        path: The file.
        complete: Whether the tensors' data has to be there, too; False for a
            header alone.

    Raises:
        ModelNotFoundError: If it does not exist or cannot be read.
        ModelFileError: If it is not a GGUF file, or damaged; says where.
    """
    try:
        if path.is_dir():
            raise ModelNotFoundError(f"{path} is a directory", hint="name the .gguf file in it")
        # Before it is opened: a pipe has no size, and opening one waits for ever.
        if path.stat().st_size == 0:
            raise ModelFileError(f"{path} is empty", hint="download it again")
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise ModelNotFoundError(f"there is no file {path}", hint="check the path") from None
    except PermissionError:
        raise ModelNotFoundError(f"{path} cannot be read", hint="check its permissions") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelNotFoundError(f"{path} cannot be read: {reason}", hint="check the path") from error
    try:
        return _Reader(path, data).header(complete=complete)
    except BaseException:
        data.close()
        raise


def shards(path: Path) -> tuple[Path, ...]:
    """All files of the model that a file belongs to, in order.

    Args:
        path: Any file of a split model (`x-00001-of-00003.gguf`), or the one
            file of another; not resolved, as a link may have another name.

    Returns:
        The files; the path alone if there is nothing at it.

    Raises:
        ModelFileError: If another file of the model is missing; names it.
    """
    match = _SHARD.fullmatch(path.name)
    if not match or not _there(path):
        return (path,)
    stem, total = match["stem"], int(match["total"])
    if not 1 <= int(match["number"]) <= total:
        raise ModelFileError(
            f"{path} calls itself part {int(match['number'])} of {total}", hint="check the file's name"
        )
    parts = tuple(path.with_name(f"{stem}-{number:05}-of-{total:05}.gguf") for number in range(1, total + 1))
    for number, part in enumerate(parts, start=1):
        if not _there(part):
            raise ModelFileError(
                f"{part} is missing: part {number} of {total} of the model {stem}",
                hint="download it into the same directory",
            )
    return parts


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # not to be seen; reading it says why


class _Reader:
    """A cursor over the mapped file that never reads past its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._size = path, data, len(data)
        self._at = self._field = 0  # the cursor; where the field began that was read last

    def header(self, *, complete: bool) -> Header:
        if self._data[:4] != _MAGIC:
            shown = bytes(self._data[:4])
            raise ModelFileError(
                f"{self._path} is not a GGUF file: it begins with {shown!r}, not {_MAGIC!r}",
                hint="llama.cpp reads GGUF files; look for one with the ending .gguf",
            )
        self._at = 4
        version = self._version()
        tensor_count = self._count("tensor count", least_bytes=24)
        pair_count = self._count("metadata count", least_bytes=13)
        values: dict[str, Any] = {}
        alignment = _ALIGNMENT
        for _ in range(pair_count):
            key = self._name("key", _MAX_KEY_BYTES)
            if not key or key in values:
                raise self._damaged("metadata", f"key {key[:80]!r} twice" if key else "an empty key")
            kind = self._scalar("I", key)
            values[key] = self._value(kind, key)
            if key == "general.alignment":
                alignment = self._alignment(kind, values[key])
        tensors = self._tensors(tensor_count, alignment)
        start = _padded(self._at, alignment) if tensors else self._at
        if complete:
            self._check_data(tensors, start)
        return Header(
            version, Metadata(self._path, self._data, values), tensors, self._size, start, self._path
        )

    def _version(self) -> int:
        version: int = self._scalar("I", "version")
        if version in _VERSIONS:
            return version
        if version and version & 0xFFFF == 0:
            raise ModelFileError(
                f"{self._path} is a big-endian GGUF file, which is not supported "
                f"(byte 4, 'version': {version:#010x})",
                hint="look for a little-endian file of the model, or convert it with gguf-convert-endian",
            )
        raise ModelFileError(
            f"{self._path} is a GGUF file of version {version}, which is not supported (byte 4, 'version')",
            hint="convert or download the model anew: llama.cpp reads the versions 2 and 3",
        )

    def _alignment(self, kind: int, value: Any) -> int:
        if kind != U32 or value < 1 or value & (value - 1):
            shown = value if kind in SCALARS else "not a number"
            raise self._damaged("general.alignment", f"{shown}, not a power of two as u32")
        return int(value)

    def _tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        tensors: dict[str, Tensor] = {}
        expected, exact = 0, True
        for _ in range(count):
            name = self._name("tensor name", _MAX_NAME_BYTES)
            if name in tensors:
                raise self._damaged("tensor name", f"tensor {name!r} twice")
            tensor = tensors[name] = self._tensor(name)
            # llama.cpp wants them one after the other, each padded to the
            # alignment. After one of unknown size, only order can be checked.
            if tensor.offset != expected if exact else tensor.offset < expected or tensor.offset % alignment:
                raise self._damaged(name, f"offset {tensor.offset}, expected {expected}")
            exact = tensor.nbytes is not None
            least = tensor.nbytes if exact else min(tensor.elements, 1)
            expected = _padded(tensor.offset + (least or 0), alignment)
            if expected > _MAX_SIZE:
                raise self._damaged(name, f"its data would end at byte {expected}")
        return tuple(tensors.values())

    def _tensor(self, name: str) -> Tensor:
        dimensions = self._scalar("I", name)
        if dimensions > _MAX_DIMENSIONS:
            raise self._damaged(name, f"{dimensions} dimensions")
        shape: tuple[int, ...] = ()
        elements = 1
        for _ in range(dimensions):
            shape += (self._scalar("Q", name),)
            elements *= shape[-1]
            if max(elements, shape[-1]) > _MAX_SIZE:
                raise self._damaged(name, f"more elements than can be counted: {shape}")
        number = self._scalar("I", name)
        # Types that are newer than this table are left to the engine.
        known = TYPES.get(number)
        row = shape[0] if shape else 1
        if known and row % known.block:
            raise self._damaged(name, f"rows of {row} in blocks of {known.block} ({known.name})")
        return Tensor(name, shape, number, self._scalar("Q", name))

    def _check_data(self, tensors: tuple[Tensor, ...], start: int) -> None:
        for tensor in tensors:
            end = start + tensor.offset + (tensor.nbytes or 0)
            if end > self._size:
                raise ModelFileError(
                    f"{self._path} is truncated: tensor {tensor.name!r} ends at byte {end}, "
                    f"the file at byte {self._size}",
                    hint="download it again",
                )

    def _value(self, kind: int, what: str) -> Any:
        if kind == STRING:
            length = self._skip_text(what)
            return Span(kind, length, self._at - length, self._at, is_array=False)
        if kind == ARRAY:
            return self._array(what)
        if kind not in SCALARS:
            raise self._damaged(what, f"value type {kind}")
        value = self._scalar(SCALARS[kind], what)
        return bool(value) if kind == BOOL else value

    def _array(self, what: str) -> Span:
        kind = self._scalar("I", what)
        if kind != STRING and kind not in SCALARS:
            raise self._damaged(what, "an array of arrays" if kind == ARRAY else f"value type {kind}")
        width = 8 if kind == STRING else struct.calcsize(SCALARS[kind])
        count = self._count(what, least_bytes=width)
        begin = self._at
        if kind == STRING:
            self._skip_texts(count, what)
        else:
            self._at += count * width
        return Span(kind, count, begin, self._at, is_array=True)

    def _skip_texts(self, count: int, what: str) -> None:
        data, at = self._data, self._at
        try:
            # Nothing but this in the loop: it runs once for every token and merge.
            for _ in repeat(None, count):
                at += length_at(data, at)[0] + 8
        except OUTSIDE:
            at = self._size + 1
        if at <= self._size:
            self._at = at
            return
        for _ in repeat(None, count):  # once more and slowly, to say which
            self._skip_text(what)

    def _skip_text(self, what: str) -> int:
        """Go past a text; its length in bytes."""
        length: int = self._scalar("Q", what)
        self._need(length, what)
        self._at += length
        return length

    def _name(self, what: str, most_bytes: int) -> str:
        length = self._skip_text(what)
        if length > most_bytes:
            raise self._damaged(what, f"{length} bytes, at most {most_bytes} are allowed")
        return text(self._data[self._at - length : self._at])

    def _count(self, what: str, *, least_bytes: int) -> int:
        count: int = self._scalar("Q", what)
        self._need(count * least_bytes, what)
        if count > _MAX_COUNT:
            raise self._damaged(what, f"{count} elements, at most {_MAX_COUNT} are allowed")
        return count

    def _scalar(self, code: str, what: str) -> Any:
        self._field = self._at
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
            f"{self._path} is damaged or truncated at byte {self._field} ({what[:80]!r}: {why})",
            hint="download it again",
        )


def _padded(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment
