"""A model under this machine's roofs: the arithmetic by hand, the measuring for real, the card in a browser."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmlab
from llmlab.builds import find_build
from llmlab.comparing.roofline import Roofline, compute, roofline
from llmlab.comparing.roofline import picture as roofline_picture
from llmlab.comparing.roofline.compute import Phase, Roofs, Work, decode_work, kv_bytes, prefill_work
from llmlab.errors import UnknownNameError, UsageError
from llmlab.reporting import reporting_to
from llmlab.weights import outline, rates
from llmlab.weights.anatomy import Anatomy, of_headers
from llmlab.weights.gguf import Header
from llmlab.weights.rates import Rates
from llmlab.weights.tensors import Tensor, tensor_type
from tests.behaviour import Recorder
from tests.test_monitoring_views import Chart
from tests.test_results import EVIL

ROOFS = Roofs(bytes_per_s=20e9, operations_per_s=200e9)
MEASURED = Rates(
    threads=2,
    engine="e",
    cpu="c",
    measured="2026-11-22",
    bandwidth_gb_per_s=20.0,
    read_bytes_per_s={"F16": 10e9, "Q8_0": 16e9},
    prefill_parameters_per_s={"F16": 50e9, "Q8_0": 80e9},
    layer_s=1e-4,
    attention_s=1e-9,
    prompt_attention_s=2e-10,
)
SYNTHETIC = "synthetic:smollm2-135m:Q4_0"


def model(*tensors: tuple[str, tuple[int, ...]], **keys: Any) -> Anatomy:
    """A model of 2 layers, 64 wide, with 8 heads of length 8; its tensors are of f16."""
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 8,
        "llama.context_length": 1024,
        **{f"llama.{name}": value for name, value in keys.items()},
    }
    made = tuple(Tensor(name, shape, tensor_type("F16").number, 0) for name, shape in tensors)
    return of_headers([Header(3, metadata, made, 0)])


DENSE = model(
    ("token_embd.weight", (64, 1000)),
    ("output.weight", (64, 1000)),
    ("blk.0.attn_q.weight", (64, 64)),
    ("blk.0.ffn_up.weight", (64, 256)),
    ("blk.1.ffn_up.weight", (64, 256)),
)
# 2 of 8 experts work on a token; 64 · 10 · 8 elements in all.
MIXTURE = model(
    ("output.weight", (64, 1000)),
    ("blk.0.ffn_up_exps.weight", (64, 10, 8)),
    expert_count=8,
    expert_used_count=2,
    expert_feed_forward_length=10,
)


# The arithmetic


def test_a_generated_token_reads_the_active_weights_and_the_cache_by_hand():
    work = decode_work(DENSE, context=100)
    active = 64 * 1000 + 64 * 64 + 2 * 64 * 256  # of the embedding one row is looked up
    assert work.weight_bytes == 2 * active
    # 2 · layers · heads · length · tokens · bytes
    assert work.kv_bytes == 2 * 2 * 8 * 8 * 100 * 2
    # A multiplication and an addition each; of attention, query with key and weight with value.
    assert work.operations == 2 * active + 2 * 2 * 8 * (8 + 8) * 100
    assert work.nbytes == work.weight_bytes + work.kv_bytes
    assert work.intensity == work.operations / work.nbytes
    assert decode_work(DENSE, context=0).intensity == pytest.approx(2 / 2)


def test_fewer_kv_heads_make_the_cache_smaller_and_not_the_computing():
    grouped = model(("blk.0.attn_q.weight", (64, 64)), **{"attention.head_count_kv": 2})
    alike = model(("blk.0.attn_q.weight", (64, 64)))
    assert kv_bytes(alike) == 4 * kv_bytes(grouped) == 2 * 2 * 8 * 8 * 2
    assert decode_work(grouped, 50).operations == decode_work(alike, 50).operations


def test_a_layer_without_keys_and_values_adds_nothing_to_the_cache():
    mixed = model(("blk.0.attn_q.weight", (64, 64)), **{"attention.head_count_kv": [0, 2]})
    assert kv_bytes(mixed) == 2 * 2 * 8 * 2
    assert decode_work(mixed, 10).operations == 2 * 64 * 64 + 2 * 1 * 8 * 16 * 10


def test_a_known_model_has_the_published_cache():
    # 32 layers, 8 KV heads of 128: 128 KiB a token.
    assert kv_bytes(outline.of_shape("llama-3.1-8b", "Q4_K_M")) == 131072


def test_requests_together_read_the_weights_once_and_each_its_own_cache():
    one, eight = decode_work(DENSE, 100), decode_work(DENSE, 100, requests=8)
    assert eight.weight_bytes == one.weight_bytes
    assert (eight.kv_bytes, eight.operations, eight.tokens) == (8 * one.kv_bytes, 8 * one.operations, 8)
    assert eight.intensity > 3 * one.intensity


def test_of_a_mixture_of_experts_a_token_reads_and_computes_with_the_experts_that_are_used():
    work = decode_work(MIXTURE, context=0)
    active = 64 * 1000 + 64 * 10 * 2
    assert (work.weight_bytes, work.operations) == (2 * active, 2 * active)


def test_of_a_mixture_of_experts_a_prompt_reads_nearly_all_experts():
    shared, experts = 2 * 64 * 1000, 2 * 64 * 10 * 8
    # Two tokens choose two of eight each: an expert is left out with (3/4)².
    assert decode_work(MIXTURE, 0, requests=2).weight_bytes == shared + experts * (1 - (3 / 4) ** 2)
    assert prefill_work(MIXTURE, 1).weight_bytes == decode_work(MIXTURE, 0).weight_bytes
    assert prefill_work(MIXTURE, 512).weight_bytes == shared + experts


def test_a_prompt_reads_the_weights_once_for_each_batch_by_hand():
    work = prefill_work(DENSE, 512)
    every = 64 * 1000 + 64 * 64 + 2 * 64 * 256
    assert (work.weight_bytes, work.kv_bytes) == (2 * every, 0)
    # The output matrix and the last layer's feed-forward part work on the last token only;
    # token i looks back at i tokens.
    each, last = 64 * 64 + 64 * 256, 64 * 1000 + 64 * 256
    assert work.operations == 2 * (512 * each + last) + 2 * 2 * 8 * 16 * (512 * 513 // 2)
    assert prefill_work(DENSE, 513).weight_bytes == 2 * work.weight_bytes


def test_the_ridge_is_where_the_roofs_meet():
    assert ROOFS.ridge == 10.0
    assert [ROOFS.bound(each) for each in (9.9, 10.0, 10.1)] == ["memory", "compute", "compute"]
    assert ROOFS.seconds(20e9, 0) == ROOFS.seconds(0, 200e9) == 1.0
    assert ROOFS.seconds(20e9, 400e9) == 2.0


def test_of_a_roof_that_is_not_known_nothing_follows():
    for half in (replace(ROOFS, bytes_per_s=None), replace(ROOFS, operations_per_s=None)):
        assert (half.ridge, half.bound(1.0), half.seconds(1, 1)) == (None, None, None)
        assert half.higher(ROOFS) == ROOFS.higher(half) == ROOFS
    phase = Phase.of("decode", decode_work(DENSE, 1), replace(ROOFS, bytes_per_s=None), measured=(5.0,))
    assert (phase.bound, phase.predicted_tokens_per_s, phase.share) == (None, None, None)
    assert phase.measured_tokens_per_s == 5.0


def test_the_better_of_two_measurements_counts_for_each_roof():
    busy = Roofs(bytes_per_s=30e9, operations_per_s=100e9)
    assert ROOFS.higher(busy) == Roofs(bytes_per_s=30e9, operations_per_s=200e9)


def test_a_phase_by_hand():
    work = Work(tokens=1, context=0, weight_bytes=2_000_000_000, kv_bytes=0, operations=4_000_000_000)
    # 0.1 s to read, 0.02 s to compute.
    phase = Phase.of("decode", work, ROOFS, overhead_s=0.025, measured=(4.0, 7.0, 5.0))
    assert phase.bound == "memory"
    assert phase.roof_tokens_per_s == pytest.approx(10.0)
    assert phase.predicted_tokens_per_s == pytest.approx(8.0)
    assert phase.measured_tokens_per_s == 5.0
    assert phase.share == pytest.approx(0.5)
    assert (phase.bytes_per_s(5.0), phase.operations_per_s(5.0)) == (10e9, 20e9)
    prompt = Phase.of("prefill", replace(work, tokens=100, operations=400_000_000_000), ROOFS)
    # 2 s to compute for 100 tokens.
    assert prompt.bound == "compute"
    assert prompt.predicted_tokens_per_s == pytest.approx(50.0)
    assert (prompt.measured_tokens_per_s, prompt.share) == (None, None)


def test_the_engines_roofs_are_those_of_its_weights_without_what_layers_take():
    assert compute.of_engine(DENSE, None) is None
    found = compute.of_engine(DENSE, MEASURED)
    assert found
    assert found.bytes_per_s == pytest.approx(10e9)
    assert found.operations_per_s == pytest.approx(100e9)


@given(
    context=st.integers(0, 100_000),
    requests=st.integers(1, 64),
    name=st.sampled_from(["llama-3.2-1b", "qwen3-30b-a3b", "gemma-3-1b"]),
)
def test_no_request_makes_another_ones_token_cheaper_than_free(context: int, requests: int, name: str):
    made = outline.of_shape(name, "Q4_0")
    one, more = decode_work(made, context), decode_work(made, context, requests)
    seconds, together = ROOFS.seconds(one.nbytes, one.operations), ROOFS.seconds(more.nbytes, more.operations)
    assert seconds
    assert together
    # Together it takes no less than one alone, and no more than one after the other.
    assert seconds * 0.999 <= together <= requests * seconds * 1.001


# Words and pictures


def line(*, measured: bool = True, **changes: Any) -> Roofline:
    """A model of 8 B on a machine with two cores."""
    made = outline.of_shape("llama-3.1-8b", "Q4_0")
    roofs = Roofs(bytes_per_s=25.8e9, operations_per_s=186e9)
    decode = Phase.of(
        "decode", decode_work(made, 80), roofs, overhead_s=0.004,
        engine_tokens_per_s=4.6, measured=(3.9, 4.1, 4.3) if measured else (),
    )  # fmt: skip
    prefill = Phase.of(
        "prefill", prefill_work(made, 512), roofs, engine_tokens_per_s=9.1,
        measured=(4.6, 4.9, 5.0) if measured else (),
    )  # fmt: skip
    values: dict[str, Any] = {
        "model": "llama-3.1-8b:Q4_0",
        "synthetic": False,
        "cpu": "AMD EPYC",
        "threads": 2,
        "machine": roofs,
        "engine": Roofs(bytes_per_s=21e9, operations_per_s=128e9),
        "overhead_s": 0.004,
        "decode": decode,
        "prefill": prefill,
    }
    return Roofline(**{**values, **changes})


class Card(Chart):
    """A card with circles in its drawings, and numbers of theirs in place of the courses of a monitor."""

    TAGS = Chart.TAGS | {"circle"}
    ATTRIBUTES = Chart.ATTRIBUTES | {"cx", "cy", "r", "transform"}

    def __init__(self) -> None:
        super().__init__()
        self.dots: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "circle" and self._drawing:
            self.dots.append({name: value or "" for name, value in attrs})


def page(html: str) -> Card:
    found = Card()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


def with_share(share: float | None, bound: str = "memory") -> Phase:
    phase = line().decode if bound == "memory" else line().prefill
    rate = phase.roof_tokens_per_s
    assert rate
    return replace(phase, measured=() if share is None else (rate * share,))


@pytest.mark.parametrize(
    ("decode", "prefill", "said"),
    [
        (
            0.71,
            0.82,
            "decode reaches 71 % of the memory roof: it is bound by memory; prefill reaches 82 % of the compute roof: it is bound by computing.",
        ),
        (
            0.41,
            0.38,
            "decode reaches 41 % of the memory roof: more than memory holds it back; prefill reaches 38 % of the compute roof: more than computing holds it back.",
        ),
        (
            1.2,
            1.3,
            "decode reaches 120 % of the memory roof: weights came from a cache, or the machine was busy when the roof was measured; prefill reaches 130 % of the compute roof: small integers multiply quicker than the float32 of the roof, or the machine was busy then.",
        ),
    ],
)
def test_a_sentence_says_which_roof_it_is_and_how_near(decode: float, prefill: float, said: str):
    seen = line(decode=with_share(decode), prefill=with_share(prefill, "compute"))
    assert seen.to_dict()["sentence"] == said
    assert said.replace(" ", "") in str(seen).replace("\n", "").replace(" ", "")
    assert said in page(seen.to_html()).said


def test_without_measuring_the_sentence_is_a_prediction():
    seen = line(measured=False)
    assert seen.to_dict()["sentence"] == (
        f"decode is predicted at {seen.predicted:.3g} tokens/s, bound by memory; "
        f"prefill is predicted at {seen.prefill.predicted_tokens_per_s:.3g} tokens/s, bound by computing."
    )
    assert "MEASURED" not in str(seen).upper().replace("BE MEASURED", "")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (186_400_000_000, "186 G operations/s"),
        (999_600_000, "1 G operations/s"),
        (2_560_000, "2.56 M operations/s"),
        (12, "12 operations/s"),
        (1.5e12, "1.5 T operations/s"),
    ],
)
def test_large_values_have_three_digits_and_a_prefix(value: float | None, shown: str):
    assert roofline_picture.scaled(value, "operations/s") == shown
    assert roofline_picture.scaled(21e9, "B/s") == "21 GB/s"


def test_a_card_has_hollow_and_full_dots_with_the_figures_around_them():
    seen = line()
    card = page(seen.to_html())
    assert len(card.charts) == 1
    assert str(seen.to_dict()["sentence"]) in card.charts[0]["label"]
    hollow = [dot for dot in card.dots if dot["fill"] == "none"]
    full = [dot for dot in card.dots if dot["fill"] != "none"]
    assert (len(hollow), len(full)) == (2, 2)
    # Slower is lower, and a phase's dots stand above each other.
    for predicted, measured in zip(hollow, full, strict=True):
        assert predicted["cx"] == measured["cx"]
        assert float(predicted["cy"]) < float(measured["cy"])
    assert float(hollow[0]["cx"]) < float(hollow[1]["cx"])
    for word in ("25.8 GB/s", "186 G operations/s", "4.1 tokens/s (3.9 … 4.3)", "by the engine's roofs"):
        assert word in card.said
        assert word.lower() in str(seen).lower()
    blind = page(line(measured=False).to_html())
    assert {dot["fill"] for dot in blind.dots} == {"none"}
    assert "measured, median and range" not in blind.said


def test_a_prediction_at_the_roof_lies_on_its_line():
    roofs = Roofs(bytes_per_s=25.8e9, operations_per_s=186e9)
    made = outline.of_shape("llama-3.1-8b", "Q4_0")
    seen = line(
        decode=Phase.of("decode", decode_work(made, 80), roofs),
        prefill=Phase.of("prefill", prefill_work(made, 512), roofs),
        engine=None,
    )
    card = page(seen.to_html())
    roof = next(path["d"] for path in card.charts[0]["paths"] if path.get("stroke-width") == "2.2")
    (x0, y0), (x1, y1), (_, y2) = (
        tuple(map(float, point.split())) for point in roof.removeprefix("M").split("L")
    )
    decode, prefill = ((float(dot["cx"]), float(dot["cy"])) for dot in card.dots)
    assert decode[1] == pytest.approx(y0 + (decode[0] - x0) / (x1 - x0) * (y1 - y0), abs=0.6)
    assert prefill[1] == y1 == y2


@pytest.mark.parametrize("share", [1.0, 0.8, 0.6, 0.4, 0.3, 0.2])
@pytest.mark.parametrize("measured", [False, True])
def test_no_word_lies_on_the_engines_roof(share: float, measured: bool):  # noqa: FBT001
    roofs = line().machine
    assert roofs.bytes_per_s
    assert roofs.operations_per_s
    engine = Roofs(bytes_per_s=roofs.bytes_per_s * share, operations_per_s=roofs.operations_per_s * share)
    html = line(measured=measured, engine=engine).to_html()
    dashed = re.search(r'd="M([^"]+)"[^>]*stroke-dasharray="7 5"', html)
    assert dashed
    (x0, y0), (x1, y1), (x2, _) = (tuple(map(float, point.split())) for point in dashed[1].split("L"))
    spans = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(start|end)">(decode|prefill) ', html)
    assert [name for *_, name in spans] == ["decode", "prefill"]
    for x, y, anchor, _ in spans:
        left = float(x) if anchor == "start" else float(x) - 130
        for place in range(round(left), round(left) + 130, 5):
            on = y1 if x1 <= place <= x2 else y0 + (place - x0) / (x1 - x0) * (y1 - y0)
            # Two lines of words, from the first one's top to below the second.
            assert not float(y) - 10 < on < float(y) + 18


@pytest.mark.parametrize("roofs", [replace(ROOFS, bytes_per_s=None), replace(ROOFS, operations_per_s=None)])
def test_a_roof_that_is_not_known_is_not_drawn(roofs: Roofs):
    phases = {
        name: replace(getattr(line(), name), bound=None, roof_tokens_per_s=None, predicted_tokens_per_s=None)
        for name in ("decode", "prefill")
    }
    seen = line(machine=roofs, engine=None, **phases)
    card = page(seen.to_html())
    assert "a roof is not known" in card.said
    assert "–" in str(seen)
    assert len(card.dots) == 2
    nothing = line(
        machine=Roofs(bytes_per_s=None, operations_per_s=None),
        engine=None,
        **{name: replace(phase, measured=()) for name, phase in phases.items()},
    )
    assert page(nothing.to_html()).charts == []
    assert "a roof is not known" in str(nothing)


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_hostile_gets_into_a_card(evil: str):
    seen = line(model=evil, cpu=evil, notes=(evil,), synthetic=True)
    page(seen.to_html())
    assert "\x1b" not in str(seen)
    assert json.loads(json.dumps(seen.to_dict()))["model"] == evil


def test_what_follows_is_plain_data_too():
    data = json.loads(json.dumps(line().to_dict()))
    assert data["machine"]["ridge"] == pytest.approx(186 / 25.8)
    assert data["decode"]["bound"] == "memory"
    assert data["decode"]["share"] == pytest.approx(line().decode.share)
    assert data["prefill"]["work"]["tokens"] == 512


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [420, 900])
def test_a_card_fits_its_cell_in_both_themes(dark: bool, width: int, require_browser, artifacts):  # noqa: FBT001
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a browser

    ground, ink = ("#111111", "#ffffff") if dark else ("#ffffff", "#111111")
    style = f"background:{ground};color:{ink};--jp-ui-font-color2:{ink};margin:0;font:13px sans-serif"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=require_browser, args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_page(viewport={"width": width, "height": 600})
        tab.set_content(f'<!doctype html><body style="{style}">{line().to_html()}</body>')
        tab.screenshot(path=str(artifacts / f"roofline-{width}-{ground[1:]}.png"), full_page=True)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        drawing = tab.locator("svg[role=img]").bounding_box()
        assert drawing
        words = [each.bounding_box() for each in tab.locator("svg[role=img] text").all()]
        browser.close()
    # No word sticks out of the drawing.
    for box in words:
        assert box
        assert drawing["x"] - 1 <= box["x"]
        assert box["x"] + box["width"] <= drawing["x"] + drawing["width"] + 1
        assert drawing["y"] - 1 <= box["y"]
        assert box["y"] + box["height"] <= drawing["y"] + drawing["height"] + 1


# On this machine


def test_a_peak_is_that_of_as_many_threads_as_are_asked_for():
    def cpus() -> float:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        assert (compute.peak_operations_per_s(1) or 0) > 0
        after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
        return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / took

    # Two threads on two idle CPUs would take nearly twice as much time of theirs as passes.
    assert cpus() < 1.15
    assert (compute.peak_operations_per_s(2) or 0) > 0


def test_other_programs_are_noticed_where_they_take_what_is_needed():
    code = f"import os, time\nprint(flush=True)\nwhile os.getppid() == {os.getpid()}: pass"
    every = psutil.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(every)]
    try:
        for each in busy:
            assert each.stdout
            each.stdout.readline()
        found = compute.others(1)
        assert found
        assert found > 0.5
        seen = roofline("tiny", measure=False)
        assert any("Other programs used" in note for note in seen.notes)
    finally:
        for each in busy:
            each.kill()
            each.communicate()


def test_a_peak_that_cannot_be_measured_is_unknown(monkeypatch, tmp_path):
    (tmp_path / "numpy.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert compute.peak_operations_per_s(1) is None
    monkeypatch.setattr("sys.executable", "")
    assert compute.peak_operations_per_s(1) is None


def test_a_prediction_alone_starts_nothing():
    recorder = Recorder()
    with reporting_to(recorder):
        seen = roofline("llama-3.1-8b", measure=False)
    assert seen.predicted
    assert (seen.measured, seen.decode.measured, seen.prefill.measured) == (None, (), ())
    assert seen.decode.bound == "memory"
    assert seen.prefill.work.tokens == 512
    assert llmlab.ps().servers == ()
    assert any("were not measured" in note for note in seen.notes)


def test_what_was_measured_of_the_engine_is_a_second_roof(require_engine):
    made = outline.of_shape("llama-3.1-8b", "Q4_0")
    known = replace(MEASURED, threads=1, engine=find_build().identity)
    rates.save(known)
    seen = roofline("llama-3.1-8b:Q4_0", threads=1, measure=False)
    assert seen.engine == compute.of_engine(made, known)
    assert seen.overhead_s == pytest.approx(32 * 1e-4)
    pace = rates.predict(made, known)
    assert pace
    assert seen.prefill.engine_tokens_per_s == pace.prefill_tokens_per_s
    assert seen.decode.engine_tokens_per_s == pytest.approx(
        1 / (1 / pace.decode_tokens_per_s + seen.decode.work.context * pace.context_token_s)
    )
    assert seen.predicted
    assert seen.decode.roof_tokens_per_s
    assert 1 / seen.predicted == pytest.approx(1 / seen.decode.roof_tokens_per_s + 32 * 1e-4)
    assert any("stand in" in note for note in seen.notes)
    # Of another engine, it says nothing.
    rates.save(replace(known, engine="another"))
    assert roofline("llama-3.1-8b:Q4_0", threads=1, measure=False).engine is None


@pytest.mark.parametrize("name", ["tiny", SYNTHETIC])
def test_a_model_is_measured_under_the_roofs_and_stopped(name: str, require_engine):
    with llmlab.start("tiny", backend="native") as mine:
        seen = roofline(name)
        # What is there already stays as it is, and nothing else stays.
        assert [row.name for row in llmlab.ps().servers] == [mine.name]
        assert mine.status.state == "ready"
    assert (seen.threads == 1) == (name == "tiny")
    assert seen.synthetic == (name == SYNTHETIC)
    for phase, at_least in ((seen.decode, 5), (seen.prefill, 3)):
        assert len(phase.measured) == at_least
        assert phase.share is not None
        assert 0 < phase.share <= 1.3
        assert phase.measured_tokens_per_s
        assert phase.predicted_tokens_per_s
    assert seen.decode.bound == "memory"
    assert seen.prefill.bound == "compute"
    assert seen.prefill.work.tokens == 512
    assert "% of the memory roof" in str(seen)
    assert "measured" in page(seen.to_html()).said
    assert "synthetic" in str(seen) or name == "tiny"


def test_a_mistake_is_refused_before_anything_is_measured():
    began = time.monotonic()
    with pytest.raises(UsageError, match="threads is 0"):
        roofline("tiny", threads=0)
    with pytest.raises(UnknownNameError):
        roofline("no-such-model")
    assert time.monotonic() - began < 60
