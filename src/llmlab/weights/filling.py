"""Random bytes that are valid weights of a given type.

How fast a model runs does not depend on its weights' values, but they must
be finite and small, or logits become NaN. Most types hold blocks of weights
with one or two 16-bit scales: everything in a block is random but those. A
pattern of some MiB is made once per type and repeated; each tensor begins
elsewhere in it.
"""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Final

from llmlab.errors import ModelFileError
from llmlab.weights.tensors import Tensor, tensor_type

_PATTERN_BYTES: Final = 4 << 20
# For each type: where in a block its 16-bit floats lie, and values for them
# that make weights of a standard deviation around 0.02 (blocks: ggml-common.h).
# Where a block has a minimum, it centres the weights on zero.
_SCALES: Final[dict[str, tuple[tuple[int, float], ...]]] = {
    "Q4_0": ((0, 4e-3),),
    "Q4_1": ((0, 4e-3), (2, -3e-2)),
    "Q5_0": ((0, 2e-3),),
    "Q5_1": ((0, 2e-3), (2, -3.1e-2)),
    "Q8_0": ((0, 2.7e-4),),
    "Q2_K": ((80, 2e-3), (82, 3e-3)),
    "Q3_K": ((108, 4.7e-4),),
    "Q4_K": ((0, 9e-5), (2, 6.75e-4)),
    "Q5_K": ((0, 4.5e-5), (2, 7e-4)),
    "Q6_K": ((208, 1.5e-5),),
    "IQ4_NL": ((0, 3e-4),),
    "IQ4_XS": ((0, 1.6e-5),),
}
_NEGATIVE = 0x80


class Filler:
    """Makes the data of tensors; the same seed makes the same."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._patterns: dict[str, bytes] = {}

    def chunks(self, tensor: Tensor) -> Iterator[memoryview]:
        """The data of a tensor, in pieces of some MiB.

        Raises:
            ModelFileError: If nothing is known of its type.
        """
        name = "ones" if tensor.type_name == "F32" and _is_scale(tensor.name) else tensor.type_name
        pattern = self._patterns.get(name) or self._patterns.setdefault(name, _made(name, self._seed))
        width = 4 if name == "ones" else tensor_type(name).block_bytes
        left = tensor.nbytes or 0
        at = zlib.crc32(tensor.name.encode()) % (len(pattern) // width) * width
        view = memoryview(pattern)
        while left:
            piece = view[at : at + left]
            yield piece
            left -= len(piece)
            at = 0


def fillable(type_name: str) -> bool:
    """Whether weights of this type can be made."""
    return type_name in _SCALES or type_name in {"F32", "F16", "BF16"}


def _is_scale(name: str) -> bool:
    """Whether activations are multiplied by it, so that 1 changes nothing."""
    return name.endswith("_norm.weight") or name.startswith("rope_")


def _made(type_name: str, seed: int) -> bytes:
    if type_name == "ones":
        return struct.pack("<f", 1.0) * (_PATTERN_BYTES // 16)
    if not fillable(type_name):
        raise ModelFileError(
            f"tensors of type {type_name} cannot be filled with random weights",
            hint="name a quantisation, such as :Q4_0",
        )
    width = tensor_type(type_name).block_bytes
    source = random.Random(f"{type_name} {seed}")  # noqa: S311 - weights are no secret
    data = bytearray(source.randbytes(_prime(_PATTERN_BYTES // width) * width))
    if type_name in _SCALES:
        for offset, value in _SCALES[type_name]:
            low, high = struct.pack("<e", value)
            data[offset::width] = bytes([low]) * (len(data) // width)
            data[offset + 1 :: width] = bytes([high]) * (len(data) // width)
        return bytes(data)
    # Floats: random sign and mantissa, one exponent: magnitudes of 0.016 to 0.031.
    if type_name == "F16":
        data[1::2] = data[1::2].translate(bytes((b & _NEGATIVE) | 0x24 | (b & 3) for b in range(256)))
        return bytes(data)
    data[width - 1 :: width] = data[width - 1 :: width].translate(
        bytes((b & _NEGATIVE) | 0x3C for b in range(256))
    )
    second = data[width - 2 :: width].translate(bytes(b | 0x80 for b in range(256)))
    data[width - 2 :: width] = second
    return bytes(data)


def _prime(most: int) -> int:
    """The largest prime up to `most`: so many blocks shift against the rows of any tensor.

    Otherwise a repeated pattern makes rows that are equal, and tokens that are equally likely.
    """
    while any(most % factor == 0 for factor in range(2, math.isqrt(most) + 1)):
        most -= 1
    return most
