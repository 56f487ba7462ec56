"""Memory that is predicted, held against what llama.cpp says and what its process holds."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmlab
from llmlab import machine
from llmlab.errors import MemoryFitError, UsageError
from llmlab.lab import ledger
from llmlab.reporting import reporting_to
from llmlab.weights import anatomy, fit, outline, store
from llmlab.weights.fit import Setting
from tests.behaviour import Recorder

TINY = anatomy.of_file(store.builtin_path())
BIG = outline.of_shape("llama-3.1-8b", "Q4_K_M")


def test_memory_by_hand():
    needed = fit.need(TINY, Setting(context=1024, slots=4))
    # 2 (keys, values) × 4 layers × 2 heads × 64 elements × 2 bytes × 1024 tokens × 4 slots
    assert needed.parts["KV cache"] == 2 * 4 * 2 * 64 * 2 * 1024 * 4 // (1 << 20) == 8
    assert needed.parts["weights"] == 3
    assert needed.parts["repacked weights"] == 0
    assert needed.resident_mib == sum(needed.parts.values()) == needed.ready_mib + needed.parts["compute"]
    assert needed.required_mib == needed.resident_mib


def test_originals_of_repacked_weights_are_not_required(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    needed = fit.need(outline.of_shape("llama-3.1-8b", "Q4_0"), Setting(context=4096, slots=1))
    assert 3000 < needed.parts["repacked weights"] < needed.parts["weights"]
    assert needed.required_mib == needed.resident_mib - needed.parts["repacked weights"]
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert fit.need(BIG, Setting(context=4096, slots=1)).parts["repacked weights"] == 0


@pytest.mark.parametrize(
    ("kv_type", "share"), [("f32", 2.0), ("f16", 1.0), ("q8_0", 34 / 64), ("q4_0", 18 / 64)]
)
def test_types_of_the_cache(kv_type, share):
    f16 = fit.need(BIG, Setting(context=4096, slots=4)).parts["KV cache"]
    found = fit.need(BIG, Setting(context=4096, slots=4, kv_type=kv_type)).parts["KV cache"]
    assert found == pytest.approx(f16 * share, abs=1)


def test_layers_with_a_window_keep_a_window():
    gemma = outline.of_shape("gemma-3-1b", "Q4_K_M")
    assert gemma.sliding_window
    short, long = (fit.need(gemma, Setting(context=c, slots=1)).parts["KV cache"] for c in (1024, 32768))
    # 22 of its 26 layers look back 512 tokens only.
    assert long < 32 * short / 3


def test_layers_on_a_gpu_are_counted_there():
    here = fit.need(BIG, Setting(context=4096, slots=1))
    half = fit.need(BIG, Setting(context=4096, slots=1, gpu_layers=16))
    whole = fit.need(BIG, Setting(context=4096, slots=1, gpu_layers=1000))
    assert here.vram_mib == 0 < half.vram_mib < whole.vram_mib
    assert here.resident_mib > half.resident_mib > whole.resident_mib
    assert whole.parts["KV cache"] == 0


@given(st.integers(1, 1 << 20), st.integers(1, 64), st.integers(0, 1 << 20))
def test_advice_fits(context, slots, room):
    setting = Setting(context=context, slots=slots)
    found = fit.advise(BIG, setting, room)
    if found is None:
        assert fit.need(BIG, Setting(context=512, slots=1, kv_type="q8_0")).required_mib > room
    else:
        assert fit.need(BIG, found).verdict(room) != "too big"
        assert found.context <= max(context, 512)
        assert found.slots <= slots


def test_what_fits_is_not_advised_against():
    assert fit.advise(BIG, Setting(context=4096, slots=1), 1 << 20) == Setting(context=4096, slots=1)


def test_verdicts():
    needed = fit.Need(required_mib=10, resident_mib=20, ready_mib=15, vram_mib=0, parts={})
    assert [needed.verdict(room) for room in (9, 10, 19, 20)] == ["too big", "tight", "tight", "fits"]


# Against llama.cpp


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("tiny", {"context": 1024, "slots": 4}),
        ("tiny", {"context": 300, "slots": 1, "kv_type": "q8_0"}),
        ("synthetic:qwen2.5-0.5b:Q4_0", {"context": 2048, "slots": 2}),
        ("synthetic:smollm2-135m:Q4_K_M", {"context": 512, "slots": 3, "kv_type": "q4_0"}),
    ],
)
def test_predictions_against_llama_server(require_engine, tmp_path, model, options):
    """What its process holds when it is ready and after a long prompt, and what it says of its buffers."""
    with llmlab.start(model, backend="native", **options) as server:
        record = server.record
        assert record.predicted
        assert record.observed_mib
        assert record.observed_mib == pytest.approx(record.predicted.ready_mib, rel=0.1, abs=8)
        server.ask("word " * (options["context"] * 2 // 3), max_tokens=4)
        held = server.inspect().facts["memory now"]
        assert int(held.split()[0]) <= record.predicted.resident_mib * 1.1 + 8
    parts = fit.need(anatomy.of_file(record.spec.model.path), Setting(**options)).parts
    log = verbose_log(record.argv, tmp_path / "s.sock")
    for words, part in (
        ("KV", "KV cache"),
        ("compute", "compute"),
        ("CPU_REPACK +model", "repacked weights"),
    ):
        told = sum(float(mib) for mib in re.findall(rf"{words} buffer size\s*=\s*([\d.]+) MiB", log))
        assert parts[part] == pytest.approx(told, rel=0.1, abs=2), part


def verbose_log(argv: tuple[str, ...], socket: Path) -> str:
    """What the same server says when it is asked to say more."""
    words = [
        str(socket) if before == "--host" else word for before, word in zip(("", *argv), argv, strict=False)
    ]
    lines = []
    with subprocess.Popen(
        [*words, "--verbosity", "4"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if "listening on" in line:
                process.kill()
    return "".join(lines)


def test_the_ledger_learns_from_starts_and_answers(require_engine):
    with llmlab.start("tiny", backend="native") as server:
        server.ask("What is a container?", max_tokens=64)
    found = ledger.summary()
    assert found
    assert found["starts"] == 1
    assert abs(found["memory_median"]) < 0.25
    assert found["rate_median"] is None  # nothing was measured, so nothing was predicted


# Refusals


@pytest.fixture
def small_machine(monkeypatch):
    """A machine with little memory; everything else is real."""
    real = machine.look()

    def make(usable_mib: int) -> None:
        values: dict[str, Any] = {
            name: getattr(real, name) for name in ("cpu", "cpus", "total_mib", "available_mib")
        }
        monkeypatch.setattr(machine, "look", lambda: machine.Machine(**values, usable_mib=usable_mib))

    return make


def test_a_model_too_big_is_refused_before_it_is_written(
    small_machine, monkeypatch, tmp_path, require_engine
):
    small_machine(1000)
    monkeypatch.setenv("LLMLAB_LLAMA_SERVER", str(require_engine.server))
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path))
    with pytest.raises(MemoryFitError, match=r"needs \d+ MiB \(weights \d+.*can give 1000 MiB") as caught:
        llmlab.start("synthetic:llama-3.1-8b:Q4_0", backend="native")
    assert "llmlab models --fit" in caught.value.hint
    assert "--force" in caught.value.hint
    assert not list(tmp_path.rglob("*.gguf"))


def test_a_setting_that_fits_is_named(small_machine, require_engine):
    needed = fit.need(TINY, Setting(context=1024, slots=4, kv_type="q8_0"))
    assert needed.required_mib < fit.need(TINY, Setting(context=1024, slots=4)).required_mib
    small_machine(needed.required_mib)
    with pytest.raises(MemoryFitError) as caught:
        llmlab.start("tiny", backend="native", context=1 << 20, slots=4)
    assert "--context 1024 --slots 4 --kv-type q8_0 would fit" in caught.value.hint
    with llmlab.start("tiny", backend="native", context=1024, slots=4, kv_type="q8_0") as server:
        assert server.ask("What is a GPU?", max_tokens=4).text


def test_force_starts_it_all_the_same(small_machine, require_engine):
    small_machine(1)
    with reporting_to(Recorder()) as seen, llmlab.start("tiny", backend="native", force=True) as server:
        assert server.ask("What is a GPU?", max_tokens=4).text
    assert any("needs" in note and "--force" in note for note in seen.notes)


def test_a_tight_fit_is_told(small_machine, require_engine, monkeypatch):
    model = "synthetic:smollm2-135m:Q4_0"
    needed = fit.need(outline.of_synthetic(model), Setting(context=512, slots=1))
    assert needed.required_mib < needed.resident_mib
    small_machine((needed.required_mib + needed.resident_mib) // 2)
    with reporting_to(Recorder()) as seen, llmlab.start(model, backend="native", context=512, slots=1):
        pass
    assert any("can be given up" in note for note in seen.notes)


def test_a_cache_type_that_is_none():
    with pytest.raises(UsageError, match="f15"):
        llmlab.start("tiny", kv_type="f15")  # type: ignore[arg-type]
