"""What the verbs of the model library return, as text, as HTML and as data; with hostile strings."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab import render
from llmlab.library.views import (
    ModelCard,
    ModelFile,
    ModelList,
    Pulled,
    Removed,
    Verified,
    VerifiedFile,
)
from llmlab.notebook import cards
from llmlab.results import Result
from llmlab.weights.anatomy import Anatomy, Tokenizer
from tests import examples
from tests.test_results import EVIL, Strict


class Page(Strict):
    """What a browser would see, with what only views have."""

    TAGS = Strict.TAGS | {"details", "summary"}
    ATTRIBUTES = Strict.ATTRIBUTES | {
        "colspan", "role", "aria-label", "aria-valuemin", "aria-valuemax", "aria-valuenow", "aria-valuetext",
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[str] = []
        self.widths: list[float] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        given = {name: value or "" for name, value in attrs}
        self.labels += [given[name] for name in ("aria-label", "aria-valuetext") if name in given]
        self.widths += [float(width) for width in re.findall(r";width:([\d.]+)%", given.get("style", ""))]


def page(html: str) -> Page:
    parser = Page()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def seen(html: str) -> str:
    return "".join(page(html).texts)


def all_views(text: str) -> list[Result]:
    fit = examples.fit(fits="too big", kv_type=text, bound=text, advice=text, parts={text: 7, "weights": 3})
    row = examples.model_row(
        name=text, reference=text, quantisation=text, licence=text, good_for=text, synthetic=True, fit=fit
    )
    card = ModelCard(
        row=row,
        title=text,
        architecture=text,
        shape={text: text},
        tokenizer={text: text, "more": None},
        chat_template=text,
        tensor_bytes={text: 5},
        files=(ModelFile(name=text, file_bytes=None, sha256=text),),
    )
    file = VerifiedFile(reference=text, file=text, sha256=text, ok=False, detail=text)
    return [
        fit,
        row,
        ModelList(models=(row, replace(row, fit=None)), machine={"gpus": [text, {"name": text}]}, checked=text),
        card,
        examples.pulled(reference=text, sha256=text),
        Removed(names=(text, "b"), freed_bytes=3),
        Verified(rows=(file, replace(file, ok=None, sha256=None))),
    ]  # fmt: skip


def no_views() -> list[Result]:
    return [ModelList(models=()), Removed(names=(), freed_bytes=0), Verified(rows=())]


# Hostile strings


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_nothing_hostile_becomes_markup_or_reaches_a_terminal(text):
    for view in all_views(text):
        seen(view.to_html())
        shown = view._repr_mimebundle_()["text/plain"]
        assert not [c for c in shown if not c.isprintable() and c not in "\n\t\u00a0\u200d"]
        assert isinstance(json.loads(json.dumps(view.to_dict())), dict)


@given(st.text() | st.text("<>&\"'/=!-abc[]? ").map("<".__add__))
def test_any_text_is_only_text(text):
    for view in all_views(text):
        seen(view.to_html())
    (card,) = [view for view in all_views(text) if isinstance(view, ModelCard)]
    assert text in seen(card.to_html())
    seen(render.html_transfer(1, 2, text))
    seen(render.html_fold(text, render.html_tag(text, text) + render.html_facts([(text, text)])))


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_tables_stay_within_a_hundred_columns(text):
    views = [view for view in all_views(text) if isinstance(view, ModelList | Verified)]
    for view in [*views, examples.model_list(), examples.verified(), *no_views()]:
        for line in view._repr_mimebundle_()["text/plain"].split("\n"):
            wide = sum(unicodedata.east_asian_width(c) in "WF" for c in line)
            assert len(line) + wide <= 100, line


@given(st.text(), st.integers(2, 40))
def test_what_is_cut_takes_no_more_than_its_columns(text, columns):
    for middle in (False, True):
        cut = render.clipped(text, columns, middle=middle)
        assert render.columns_of(cut) <= columns
        assert "\n" not in cut
    assert render.clipped("synthetic:llama-3.1-8b:Q4_0", 20, middle=True) == "synthetic:…1-8b:Q4_0"


# Unknown figures


def test_unknown_is_never_zero():
    row = examples.unknown_model_row("mine")
    blank = ModelCard(row=row)
    for shown in (
        str(row), str(ModelList(models=(row,))), seen(ModelList(models=(row,)).to_html()),
        str(blank), seen(blank.to_html()),
    ):  # fmt: skip
        assert "0" not in shown
        assert "None" not in shown
        assert "–" in shown or "unknown" in shown
    data = row.to_dict()
    assert [data[name] for name in ("parameters", "file_bytes", "context_train", "licence", "fit")] == [
        None
    ] * 5


def test_an_unknown_machine_says_so():
    line = examples.model_list(machine={}).machine_line()
    assert line == "this machine: – of – memory available, CPUs unknown, no GPU seen, bandwidth not measured"
    assert examples.model_list(machine=None).machine_line() == ""
    gpu = {"name": "H200", "total_mib": 1000, "free_mib": 900}
    assert "H200 (900 MiB of 1000 MiB free)" in examples.model_list(machine={"gpus": [gpu]}).machine_line()


@pytest.mark.parametrize("error", [None, {}, {"starts": 0}])
def test_without_starts_no_error_is_claimed(error):
    assert "no prediction was compared" in examples.model_list(error=error).error_line()


def test_the_running_error_has_its_signs():
    line = examples.model_list().error_line()
    assert "12 starts so far: memory predicted within +4 % (median), worst −9 %" in line
    assert "tokens/s −12 %, worst −21 %" in line
    only_memory = examples.model_list(error={"starts": 1, "memory_median": 0.0, "memory_worst": None})
    assert only_memory.error_line().endswith(
        "1 start so far: memory predicted within +0 % (median), worst unknown"
    )


# Bars


def test_the_parts_of_a_bar_make_up_what_is_required():
    fit = examples.fit()
    assert sum(fit.required_parts().values()) == fit.required_mib
    (label, *_), widths = page(fit.cell()).labels, page(fit.cell()).widths
    assert sum(widths) == pytest.approx(100 * fit.resident_mib / fit.available_mib, abs=0.1)
    assert label == str(fit)
    for figure in (
        "6.2 GiB",
        "12.0 GiB",
        "9.7 GiB",
        "KV cache 1.0 GiB",
        "2048 tokens × 4 slots",
        "7.4 tokens/s",
    ):
        assert figure in label


def test_what_does_not_fit_is_drawn_beyond_the_end_and_named():
    fits = {row.name: row.fit for row in examples.model_list() if row.fit}
    html = fits["llama-3.3-70b"].cell()
    assert sum(page(html).widths) == pytest.approx(100, abs=0.1)
    assert render.HATCHED in html
    assert "too big" in seen(html)
    tight = fits["synthetic:llama-3.1-8b:Q4_0"].cell()
    assert sum(page(tight).widths) == pytest.approx(100, abs=0.1)
    assert render.HATCHED not in tight, "it fits, if only just"
    assert "tight" in seen(tight)


@given(st.lists(st.integers(0, 10**6), max_size=5), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_bar_never_fills_more_than_itself(amounts, full, spare):
    parts = {str(i): amount for i, amount in enumerate(amounts)}
    html = render.html_bar(parts, full, label="", spare=spare)
    assert sum(page(html).widths) <= 100.1
    assert (render.HATCHED in html) == (sum(amounts) > max(full, 1e-9))


@pytest.mark.parametrize(
    ("share", "spare", "bar"),
    [
        (0.0, 0.0, "░░░░ "), (0.01, 0.0, "▓░░░ "), (0.5, 0.0, "▓▓░░ "), (1.0, 0.0, "▓▓▓▓ "),
        (1.2, 0.0, "▓▓▓▓»"), (0.5, 0.25, "▓▓▒░ "), (0.75, 9.0, "▓▓▓▒ "), (9.0, 9.0, "▓▓▓▓»"),
    ],
)  # fmt: skip
def test_a_bar_of_text(share, spare, bar):
    assert render.text_bar(share, spare, width=4) == bar


def test_synthetic_models_are_labelled_wherever_they_show():
    row = examples.model_row(name="./noise.gguf", synthetic=True)
    for shown in (str(row), seen(row.to_html()), str(ModelCard(row=row)), seen(ModelCard(row=row).to_html())):
        assert "synthetic" in shown
    assert "synthetic" not in str(examples.model_row())


# Units


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "–"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (9_949_999, "9.9 MB"),
        (34_000_000, "34 MB"), (999_400_000, "999 MB"), (999_600_000, "1.0 GB"), (4_920_734_272, "4.9 GB"),
        (142_000_000_000, "142 GB"),
    ],
)  # fmt: skip
def test_bytes(number, text):
    assert render.bytes_text(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "–"), (3_400_000, "3.4 M"), (494_032_768, "0.5 B"), (8_030_261_248, "8.0 B"), (70_553_706_496, "70.6 B"), (7, "7")],
)  # fmt: skip
def test_parameters(number, text):
    assert render.parameters_text(number) == text


def test_memory_and_times():
    assert [render.mib_text(n) for n in (None, 88, 1023, 1024, 12_600)] == ["–", "88 MiB", "1023 MiB", "1.0 GiB", "12.3 GiB"]  # fmt: skip
    assert [render.duration_text(s) for s in (0.4, 59.6, 100, 7500)] == ["0 s", "1 min 0 s", "1 min 40 s", "2 h 5 min"]  # fmt: skip


def test_a_transfer_in_words():
    said = render.transfer_text(1_200_000_000, 4_700_000_000, 34e6, 100.0)
    assert said == "25 %, 1.2 of 4.7 GB, 34 MB/s, 1 min 40 s left"
    assert (
        render.transfer_text(12_000_000, 4_700_000_000, None, None)
        == "0 %, 12 MB of 4.7 GB, time left unknown"
    )
    assert render.transfer_text(12_000_000, None, 1e6, None) == "12 MB, 1.0 MB/s", (
        "without an end, no share of it"
    )
    assert render.transfer_text(5, 5, 0.0, None) == "100 %, 5 of 5 B, 0 B/s"
    assert render.transfer_text(7, 5, None, None).startswith("100 %")


@given(st.text(), st.integers(20, 200))
def test_a_line_of_progress_fits_the_terminal(detail, columns):
    line = render.progress_line("  3.2 s  pull: ", detail, "25 %, 1.2 of 4.7 GB, 34 MB/s", columns)
    assert render.columns_of(line) <= columns
    if columns > 60:
        assert line.endswith("34 MB/s"), "the detail gives way, not the figures"


# Cards and lists


def test_a_list_is_a_sequence_of_rows():
    found = examples.model_list()
    assert found[0].name == "tiny"
    assert len(found) == len(list(found)) == len(found.to_dict()["models"])
    assert str(found).splitlines()[0].split() == "NAME PARAMS QUANT SIZE STATE NEEDS FITS TOKENS/S".split()  # noqa: SIM905
    plain = ModelList(models=tuple(replace(row, fit=None) for row in found), checked="2026-11-20")
    assert str(plain).splitlines()[0].split() == "NAME PARAMS QUANT SIZE STATE LICENCE".split()  # noqa: SIM905
    assert "2026-11-20" in seen(plain.to_html())
    assert "llm start tiny" in seen(ModelList(models=()).to_html())


def test_a_card_shows_everything_that_is_known():
    card = examples.model_card()
    html = seen(card.to_html())
    for text in (
        "Llama 3.1 8B Instruct",
        "8\u00a0030\u00a0261\u00a0248",
        "KV heads",
        "gpt2",
        "Q6_K 1.1 GB (23",
        "7b7b7b",
        "<|im_start|>",
    ):
        assert text in html
    assert "7b7b7b" in str(card)
    assert "<|im_start|>" not in str(card), "a template is long: in a terminal, its length"
    assert card.to_dict()["chat_template"] == examples.CHAT_TEMPLATE


def anatomy(**changes: Any) -> Anatomy:
    values: dict[str, Any] = {field.name: 0 for field in fields(Anatomy)}
    values |= {
        "title": "T", "license": None, "sliding_window": None, "chat_template": None, "tensors": (),
        "n_kv_heads": (8, 8), "tied_embeddings": True, "tokenizer": None, "architecture": "llama",
    }  # fmt: skip
    return Anatomy(**{**values, **changes})


def test_a_card_is_made_of_what_a_file_says():
    row = examples.model_row()
    assert ModelCard.of(row, None, ()).shape == {}
    card = ModelCard.of(row, anatomy(), ())
    assert card.shape["KV heads"] == 8
    assert card.tokenizer == {}
    assert "experts" not in card.shape
    tokenizer = Tokenizer(kind="gpt2", pre=None, n_tokens=9, n_merges=4, bos=None, eos=1, n_control=2)
    moe = ModelCard.of(
        row, anatomy(n_experts=8, n_experts_used=2, n_kv_heads=(0, 8), tokenizer=tokenizer), ()
    )
    assert moe.shape["experts"] == "8, 2 used for each token"
    assert moe.shape["KV heads"] == "0–8"
    assert moe.tokenizer["begin token"] is None
    seen(moe.to_html())


def test_what_was_pulled_removed_and_verified():
    assert "429 MB downloaded in 13 s, 34 MB/s" in str(examples.pulled())
    assert "here already" in str(examples.pulled(downloaded_bytes=0))
    assert isinstance(examples.pulled(), Pulled)
    assert str(Removed(names=("a",), freed_bytes=5_000_000)) == "removed a: 5.0 MB of disk freed"
    assert str(Removed(names=(), freed_bytes=0)) == "nothing to remove"
    found = examples.verified()
    assert not found.ok
    for shown in (str(found), seen(found.to_html())):
        for verdict in ("as published", "DIFFERS", "not compared"):
            assert verdict in shown
    assert Verified(rows=found.rows[::2]).ok, "where nothing is published, nothing differs"


def test_a_card_of_progress_shows_a_bar_while_bytes_come_and_a_record_after():
    card = cards.Progress("start hf:a/b", stages=("pull", "engine"))
    card.stage("pull", "<file>")
    card.transfer(0, 2000)
    card.transfer(1000, 2000)
    running = card.bundle()
    found = page(running["text/html"])
    assert "50 %, 1.0 of 2.0 kB, time left unknown" in found.labels
    assert found.widths == [50.0]
    assert "▓" * 10 + "░" * 10 in running["text/plain"]
    assert "○ engine" in seen(running["text/html"]), "it lies ahead"
    card.transfer(2000, 2000)
    card.stage("engine", "")
    assert page(card.bundle()["text/html"]).labels == [], "that is over"
    card.end(failed=False)
    assert re.search(r"pull .*, 2.0 kB", card.bundle()["text/plain"])


def test_stages_that_come_again_are_counted_together():
    """A model of two files: each is fetched, then verified."""
    card = cards.Progress("start hf:a/b", stages=("pull", "engine", "ready"))
    for number, name in enumerate(("pull", "verify", "pull", "verify")):
        card.stage(name, f"file {number // 2}")
        text = card.bundle()["text/plain"]
        assert text.count("pull") == 1
        assert f"{name} 0.0 s (file {number // 2})" in text, "what goes on now is the one with a detail"
        assert "○ engine" in seen(card.bundle()["text/html"])
        card.transfer(number // 2 * 1000, 2000)
        assert page(card.bundle()["text/html"]).labels, "its bar"
    card.stage("engine", "")
    assert "○ ready" in seen(card.bundle()["text/html"])
    assert "○ engine" not in seen(card.bundle()["text/html"])
    card.end(failed=True)
    assert re.search(r"✗ start .*pull .* · verify .* · engine", card.bundle()["text/plain"])
    assert "○" not in card.bundle()["text/html"]


def test_a_bar_without_an_end_claims_no_share():
    html = render.html_transfer(5, None, "5 B")
    assert "aria-valuenow" not in html
    assert 'role="progressbar"' in html
