"""The types of tensors: how many bytes a model's weights take in each of them.

Numbers, block sizes and names are those of llama.cpp 0.3.36 (`ggml.h`,
`ggml-common.h`). A type that is newer than this table has no known size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from llmlab.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class TensorType:
    """One of ggml's types.

    Attributes:
        number: ggml's number of it.
        name: ggml's name, such as `Q4_K`.
        block: Elements that are stored together.
        block_bytes: Bytes of one such block.
    """

    number: int
    name: str
    block: int
    block_bytes: int


_TABLE = (
    (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24), (8, "Q8_0", 32, 34), (9, "Q8_1", 32, 36), (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176), (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292), (16, "IQ2_XXS", 256, 66), (17, "IQ2_XS", 256, 74), (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50), (20, "IQ4_NL", 32, 18), (21, "IQ3_S", 256, 110), (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136), (24, "I8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4), (27, "I64", 1, 8),
    (28, "F64", 1, 8), (29, "IQ1_M", 256, 56), (30, "BF16", 1, 2), (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66), (39, "MXFP4", 32, 17), (40, "NVFP4", 64, 36), (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
)  # fmt: skip

TYPES: Mapping[int, TensorType] = MappingProxyType({row[0]: TensorType(*row) for row in _TABLE})
"""ggml's types by number."""

_BY_NAME = {kind.name: kind for kind in TYPES.values()}


def tensor_type(name: str) -> TensorType:
    """The type of that name, in upper or lower case.

    Raises:
        UnknownNameError: If ggml has none of that name.
    """
    if found := _BY_NAME.get(name.upper()):
        return found
    raise UnknownNameError("tensor type", name, _BY_NAME)


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

    @property
    def type_name(self) -> str:
        """The name that ggml gives its type; "type 99" for one that is not known."""
        known = TYPES.get(self.type)
        return known.name if known else f"type {self.type}"

    @property
    def elements(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int | None:
        """Bytes of its data; None if its type is not known."""
        known = TYPES.get(self.type)
        return self.elements // known.block * known.block_bytes if known else None
