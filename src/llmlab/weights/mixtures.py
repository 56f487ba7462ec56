"""Which type each tensor gets when a model is quantised, as `llama-quantize` decides it.

A quantisation such as Q4_K_M is a mixture: most tensors get one type, those
that suffer most from few bits get a better one, and what llama.cpp reads as
floats stays F32. The rules are llama.cpp's (`src/llama-quant.cpp`), for models
without an importance matrix; a test compares them with the real program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llmlab.errors import UnknownNameError
from llmlab.weights.tensors import tensor_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """One quantisation of whole models.

    Attributes:
        name: As llama-quantize calls it.
        number: llama.cpp's number of it, `general.file_type` (`llama_ftype`).
        base: The type that most of the weights get.
    """

    name: str
    number: int
    base: str


MIXTURES: Final[Mapping[str, Mixture]] = {
    name: Mixture(name=name, number=number, base=base)
    for name, number, base in (
        ("F16", 1, "F16"),
        ("BF16", 32, "BF16"),
        ("Q8_0", 7, "Q8_0"),
        ("Q6_K", 18, "Q6_K"),
        ("Q5_K_M", 17, "Q5_K"),
        ("Q5_K_S", 16, "Q5_K"),
        ("Q5_0", 8, "Q5_0"),
        ("Q5_1", 9, "Q5_1"),
        ("Q4_K_M", 15, "Q4_K"),
        ("Q4_K_S", 14, "Q4_K"),
        ("Q4_0", 2, "Q4_0"),
        ("Q4_1", 3, "Q4_1"),
        ("Q3_K_L", 13, "Q3_K"),
        ("Q3_K_M", 12, "Q3_K"),
        ("Q3_K_S", 11, "Q3_K"),
        ("Q2_K", 10, "Q2_K"),
    )
}
_FLOATS: Final = ("F32", "F16", "BF16")
# What takes the place of a type whose block (256) does not divide the width of a tensor.
_FALLBACKS: Final = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# Names of weights that are kept as they are: small, or read as floats.
_KEPT: Final = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid|altup|laurel|per_layer_model_proj|ssm_conv1d"
    r"|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|time_mix_(first|w[012]|v[012]|a[012]|g[12]"
    r"|decay_w[12]|lerp_fused)\.weight|attn_rel_b\.weight|^position_embd\.weight|^token_types\.weight"
)
_GROUPED = 4  # from so many heads per KV head, values are worth more bits in Q2_K
_EIGHT_EXPERTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the choice depends on besides names and shapes.

    Attributes:
        architecture: As llama.cpp calls it.
        n_layers: Layers.
        n_heads: Attention heads of the first layer.
        n_kv_heads: KV heads of the first layer.
        n_experts: Experts, 0 without.
    """

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    n_experts: int = 0

    @property
    def grouping(self) -> int:
        """Heads that share one KV head."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 0

    @property
    def seventy_billion(self) -> bool:
        """Whether llama.cpp takes it for a 70B model, by its number of layers."""
        many = self.n_layers == 80  # noqa: PLR2004 - the number is llama.cpp's criterion
        return many and (self.architecture == "qwen2" or (self.architecture == "llama" and self.grouping > 1))


def mixture(name: str) -> Mixture:
    """The quantisation of that name, in any case.

    Raises:
        UnknownNameError: If there is none.
    """
    found = MIXTURES.get(name.upper())
    if found is None:
        raise UnknownNameError("quantisation", name.upper(), MIXTURES)
    return found


def tensor_types(tensors: Sequence[tuple[str, tuple[int, ...]]], mix: Mixture, facts: Facts) -> list[str]:
    """The type of each tensor.

    Args:
        tensors: Names and shapes (fastest dimension first) of all tensors of the model.
        mix: The quantisation.
        facts: The model's.

    Returns:
        Names of types, in the order of `tensors`.
    """
    names = [name for name, _ in tensors]
    choice = _Choice(mix, facts, tied="output.weight" not in names, names=names)
    return [choice.of(name, shape) for name, shape in tensors]


class _Choice:
    """The rules for one model and one quantisation."""

    def __init__(self, mix: Mixture, facts: Facts, *, tied: bool, names: Sequence[str]) -> None:
        self._mix, self._facts, self._tied = mix, facts, tied
        # llama.cpp counts these tensors as it meets them, in the order of layers.
        values = sorted((n for n in names if _category(n) in {"attn_v", "attn_qkv"}), key=_place)
        self._values = {name: place for place, name in enumerate(values)}
        downs = sorted((n for n in names if _category(n) == "ffn_down"), key=_place)
        self._downs = {name: _layer(name) if facts.n_experts > 1 else at for at, name in enumerate(downs)}

    def of(self, name: str, shape: tuple[int, ...]) -> str:
        if len(shape) < 2 or not name.endswith("weight") or _KEPT.search(name):  # noqa: PLR2004
            return "F32"
        base = self._mix.base
        if base in _FLOATS:
            return base
        return _fitting(self._wanted(name, shape, base), shape[0])

    def _wanted(self, name: str, shape: tuple[int, ...], base: str) -> str:
        category = _category(name)
        if category == "output" or (self._tied and category == "token_embd"):
            if base == "Q8_0" or shape[0] % tensor_type(base).block:
                return "Q8_0"
            return "Q6_K"
        rule: Callable[[str, str], str] | None = {
            "attn_v": self._value,
            "attn_qkv": self._value,
            "attn_k": self._key,
            "attn_output": self._attention_output,
            "ffn_down": self._down,
        }.get(category)
        return rule(name, base) if rule else base

    def _value(self, name: str, base: str) -> str:
        mix, place, many = self._mix.name, self._values[name], len(self._values)
        better = base
        if mix == "Q2_K":
            better = "Q4_K" if self._facts.grouping >= _GROUPED else "Q3_K"
        elif mix == "Q3_K_M":
            better = "Q5_K" if place < 2 else "Q4_K"  # noqa: PLR2004
        elif mix == "Q3_K_L" or (mix == "Q4_K_S" and place < 4):  # noqa: PLR2004
            better = "Q5_K"
        elif mix in {"Q4_K_M", "Q5_K_M"} and _more_bits(place, many):
            better = "Q6_K"
        if self._facts.seventy_billion and better in {"Q3_K", "Q4_K"}:
            better = "Q5_K"
        return "Q8_0" if self._facts.n_experts == _EIGHT_EXPERTS else better

    def _key(self, _name: str, base: str) -> str:
        return "Q8_0" if self._facts.n_experts == _EIGHT_EXPERTS else base

    def _attention_output(self, _name: str, base: str) -> str:
        if self._facts.n_experts == _EIGHT_EXPERTS:
            return "Q5_K" if base in {"Q2_K", "Q3_K", "Q4_K"} and self._mix.name != "Q3_K_L" else base
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(self._mix.name, base)

    def _down(self, name: str, base: str) -> str:
        mix, place, many = self._mix.name, self._downs[name], self._facts.n_layers
        if mix in {"Q4_K_M", "Q5_K_M"}:
            return "Q6_K" if _more_bits(place, many) else base
        if mix == "Q3_K_M":
            return "Q5_K" if place < many // 16 else "Q4_K"
        if mix == "Q4_K_S":
            return "Q5_K" if place < many // 8 else base
        return {"Q2_K": "Q3_K", "Q3_K_L": "Q5_K"}.get(mix, base)


def _category(name: str) -> str:
    if name == "output.weight":
        return "output"
    if name in {"token_embd.weight", "per_layer_token_embd.weight"}:
        return "token_embd"
    for part in ("attn_qkv", "attn_v", "attn_k", "attn_output"):
        if f"{part}.weight" in name:
            return part
    return "ffn_down" if "ffn_down" in name else ""


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _place(name: str) -> tuple[int, str]:
    return _layer(name), name


def _more_bits(place: int, many: int) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    eighth = many // 8
    return place < eighth or place >= 7 * many // 8 or (place - eighth) % 3 == 2  # noqa: PLR2004


def _fitting(wanted: str, width: int) -> str:
    """The type, or what takes its place where its blocks do not divide the width."""
    if width % tensor_type(wanted).block == 0:
        return wanted
    second = _FALLBACKS.get(wanted, wanted)
    return second if width % tensor_type(second).block == 0 else "F16"
