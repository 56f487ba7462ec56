"""A few models of each size that are good for teaching: a list to begin with, not a limit.

The file beside this module is data that people keep: where a model lies on
the hub, its licence, and what it is good for. It was read, not measured; see
`how` and `checked` in it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from llmlab.weights.shapes import Shape, shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the list.

    Attributes:
        name: What it can be called in llmlab, such as `qwen2.5-0.5b`.
        title: What people call it.
        repository: Where its GGUF files lie on the hub, `owner/name`.
        shape: The name of its shape.
        licence: Its licence, as the hub abbreviates it.
        licence_name: The licence's name.
        gated: Whether the hub wants its terms accepted, and a token, for this repository.
        default_quant: The quantisation to take unless another is asked for.
        quants: Size in bytes of the file of each quantisation.
        published: Which of these sizes were read (some to three digits only);
            the others follow from the shape.
        good_for: What it is good for, in one sentence.
    """

    name: str
    title: str
    repository: str
    shape: str
    licence: str
    licence_name: str
    gated: bool
    default_quant: str
    quants: Mapping[str, int]
    published: tuple[str, ...]
    good_for: str

    @property
    def reference(self) -> str:
        """What to start or pull, such as `hf:owner/name:Q4_K_M`."""
        return self.at(self.default_quant)

    def at(self, quant: str) -> str:
        """The same with another quantisation."""
        return f"hf:{self.repository}:{quant}"

    @property
    def file_bytes(self) -> int:
        """Size of the file of the default quantisation."""
        return self.quants[self.default_quant]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return self._shape.parameters

    @property
    def context(self) -> int:
        """Tokens of context it was trained for."""
        return self._shape.context

    @property
    def _shape(self) -> Shape:
        return shapes()[self.shape]


@functools.cache
def _document() -> dict[str, Any]:
    text = resources.files("llmlab.weights").joinpath("catalog.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All of them, the smallest first."""
    return tuple(
        Entry(**{**facts, "published": tuple(facts["published"])}) for facts in _document()["models"]
    )


def entry(name: str) -> Entry | None:
    """The entry of that name, in any case; None if there is none."""
    return next((found for found in entries() if found.name == name.lower()), None)


def find(reference: str) -> tuple[Entry, str] | None:
    """The entry and the quantisation that `NAME[:QUANT]` names; None if there is no such entry."""
    name, _, quant = reference.partition(":")
    found = entry(name)
    return (found, quant.upper() or found.default_quant) if found else None


def checked() -> str:
    """The date (ISO) on which the list was last held against published pages."""
    return str(_document()["checked"])


def how_checked() -> str:
    """What was done then, and what not."""
    return str(_document()["how"])
