"""The list of models for teaching: complete, consistent with the shapes, honest about its sources."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from typing import Any

import pytest

from llmlab.weights import synthetic
from llmlab.weights.catalog import Entry, checked, entries, entry, how_checked
from llmlab.weights.mixtures import MIXTURES
from llmlab.weights.shapes import shapes
from tests.conftest import REPOSITORY

DOCUMENT: dict[str, Any] = json.loads(
    (REPOSITORY / "src/llmlab/weights/catalog.json").read_text(encoding="utf-8")
)
FIELDS = {
    "name": str,
    "title": str,
    "repository": str,
    "shape": str,
    "licence": str,
    "licence_name": str,
    "gated": bool,
    "default_quant": str,
    "quants": dict,
    "published": list,
    "good_for": str,
}
BY_NAME = pytest.mark.parametrize("model", entries(), ids=lambda model: model.name)


def test_the_file_has_these_fields_and_no_others() -> None:
    assert set(DOCUMENT) == {"checked", "how", "models"}
    for row in DOCUMENT["models"]:
        assert {name: type(value) for name, value in row.items()} == FIELDS


def test_it_says_when_and_how_it_was_checked() -> None:
    assert dt.date.fromisoformat(checked()).year >= 2026
    assert "nothing was downloaded" in how_checked()


def test_names_are_unique_and_can_be_looked_up() -> None:
    assert max(Counter(model.name for model in entries()).values()) == 1
    assert all(entry(model.name.upper()) is model for model in entries())
    assert entry("no such model") is None


def test_every_size_that_is_taught_with_is_there() -> None:
    def covered(low: float, high: float) -> int:
        return sum(low <= model.parameters / 1e9 < high for model in entries())

    for low, high in ((0.4, 0.7), (0.9, 1.5), (3, 4.1), (8, 8.5), (14, 15), (30, 33), (70, 71)):
        assert 1 <= covered(low, high) <= 2, (low, high)


def test_they_are_in_the_order_of_their_size() -> None:
    sizes = [model.parameters for model in entries()]
    assert sizes == sorted(sizes)


@BY_NAME
def test_an_entry_is_well_formed(model: Entry) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", model.name)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+-GGUF", model.repository)
    assert model.reference == f"hf:{model.repository}:{model.default_quant}"
    assert set(model.quants) <= set(MIXTURES)
    assert set(model.published) <= set(model.quants)
    assert model.default_quant in model.published
    assert model.file_bytes == model.quants[model.default_quant]
    assert model.good_for.endswith(".")
    assert ". " not in model.good_for
    assert model.licence
    assert model.licence_name


@BY_NAME
def test_an_entrys_shape_has_the_size_that_it_states(model: Entry) -> None:
    assert shapes()[model.shape].parameters == model.parameters
    assert shapes()[model.shape].context == model.context
    for quant, size in model.quants.items():
        computed = synthetic.plan(model.shape, quant).total_bytes
        assert computed == pytest.approx(size, rel=0.01 if quant in model.published else 0.001), quant
