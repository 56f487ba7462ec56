"""Rates that are predicted from what was measured, and the measuring itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import llmlab
from llmlab import machine
from llmlab.lab import ledger
from llmlab.library import measuring
from llmlab.library.views import ModelList
from llmlab.reporting import reporting_to
from llmlab.results import Answer
from llmlab.runtime import state_dir
from llmlab.specs import Prediction
from llmlab.weights import outline, rates
from llmlab.weights.rates import Rates
from tests import examples
from tests.behaviour import Recorder
from tests.conftest import run_cli

MODEL = outline.of_shape("llama-3.1-8b", "Q4_K_M")
ROOFS = Rates(
    threads=2,
    engine="e",
    cpu="c",
    measured="2026-11-22",
    bandwidth_gb_per_s=20.0,
    read_bytes_per_s={"Q4_K": 10e9, "Q8_0": 20e9},
    prefill_parameters_per_s={"Q4_K": 40e9, "Q8_0": 30e9},
    layer_s=1e-4,
    attention_s=1e-9,
    prompt_attention_s=2e-10,
)


def test_the_roofline_by_hand():
    read = MODEL.read_by_type
    pace = rates.predict(MODEL, ROOFS)
    assert pace
    # Q6_K has 6.56 bits, nearer to Q8_0's 8.5 than to Q4_K's 4.5.
    seconds = read["Q4_K"] / 10e9 + read["Q6_K"] / 20e9 + read["F32"] / 20e9 + 32 * 1e-4
    assert 1 / pace.decode_tokens_per_s == pytest.approx(seconds)
    assert pace.assumed == ("Q6_K",)
    assert pace.context_token_s == pytest.approx(1e-9 * 32 * 4096)
    assert pace.bound == "compute"
    prompt = MODEL.prompt_parameters
    seconds = prompt["Q4_K"] / 40e9 + prompt["Q6_K"] / 30e9 + prompt["F32"] / 30e9 + 2e-10 * 32 * 4096 * 256
    assert 1 / pace.prefill_tokens_per_s == pytest.approx(seconds)


def _with(**changes):
    return replace(ROOFS, **changes)


def test_weights_read_as_fast_as_memory_are_bound_by_it():
    pace = rates.predict(MODEL, _with(bandwidth_gb_per_s=11.0))
    assert pace
    assert pace.bound == "memory"


def test_nothing_measured_nothing_predicted():
    assert rates.predict(MODEL, _with(read_bytes_per_s={})) is None


def test_a_long_context_slows_generation():
    predicted = Prediction(
        required_mib=1, resident_mib=1, ready_mib=1, decode_tokens_per_s=10.0, context_token_s=1e-4
    )
    assert predicted.decode_at(0) == 10
    assert predicted.decode_at(1000) == pytest.approx(5)
    assert Prediction(required_mib=1, resident_mib=1, ready_mib=1).decode_at(5) is None


def test_rates_are_kept_for_this_machine():
    assert rates.load(2) is None
    rates.save(ROOFS)
    rates.save(_with(threads=1))
    assert rates.load(2) == ROOFS
    assert rates.load(1) == _with(threads=1)
    assert rates.load(3) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "\0"])
def test_damaged_rates_are_measured_again(content):
    rates.save(ROOFS)
    rates._file().write_text(content)
    assert rates.load(2) is None
    rates.save(ROOFS)
    assert rates.load(2) == ROOFS


# The ledger


def _record(predicted_mib: int = 100, observed_mib: int | None = 90, rate: float | None = 10.0):
    prediction = Prediction(
        required_mib=1, resident_mib=1, ready_mib=predicted_mib, decode_tokens_per_s=rate, context_token_s=0.0
    )
    return examples.record(predicted=prediction, observed_mib=observed_mib)


def _answer(rate: float | None, tokens: int = 64) -> Answer:
    return Answer(
        text="",
        server="a",
        finish_reason="length",
        ttft_s=0.1,
        total_s=1.0,
        prompt_tokens=10,
        completion_tokens=tokens,
        tokens_per_s=rate,
    )


def test_errors_of_predictions():
    assert ledger.summary() is None
    ledger.started(_record(110, 100))
    ledger.started(_record(90, 100))
    ledger.started(_record(101, 100))
    ledger.started(_record(101, None))  # not seen
    ledger.answered(_record(), _answer(8.0))
    ledger.answered(_record(), _answer(8.0, tokens=5))  # too few tokens to mean anything
    ledger.answered(_record(), _answer(None))
    ledger.answered(_record(rate=None), _answer(8.0))
    found = ledger.summary()
    assert found
    assert (found["starts"], found["answers"]) == (3, 1)
    assert found["memory_median"] == pytest.approx(0.01)
    assert abs(found["memory_worst"]) == pytest.approx(0.1)
    assert found["rate_median"] == found["rate_worst"] == pytest.approx(0.25)


def test_the_ledger_survives_damage_and_stays_short():
    ledger.started(_record())
    path = state_dir() / ledger._FILE
    line = path.read_text()
    path.write_text('{"what": "memory_mib"}\nnonsense\n' + line * 6000 + '{"what": "mem')
    ledger.started(_record())
    found = ledger.summary()
    assert found
    assert found["starts"] < 600
    assert len(path.read_text().splitlines()) <= 501


def test_what_is_measured_is_not_experience():
    with ledger.paused():
        ledger.started(_record())
    assert ledger.summary() is None


# This machine


def test_this_machine():
    here = machine.look()
    assert 0 < here.usable_mib <= here.available_mib <= here.total_mib
    assert here.cpus >= 1
    assert here.cpu


def test_limits_of_a_container_are_this_machine(monkeypatch, tmp_path):
    whole = machine.look()
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(str(2048 << 20))
    (tmp_path / "memory.current").write_text(str(1500 << 20))
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {500 << 20}\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    here = machine.look()
    assert here.total_mib == min(2048, whole.total_mib)
    assert here.available_mib == min(1048, whole.available_mib) or here.available_mib <= 1048
    assert here.cpus == 1
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.look().total_mib == whole.total_mib
    assert machine.cpus() == whole.cpus


def test_bandwidth_is_measured():
    found = machine.read_bandwidth_gb_per_s(2)
    assert found is None or found > 0.1


# With the engine


def test_measuring_one_type(require_engine, monkeypatch):
    # Smaller than what leaves a cache: `test_models_with_their_fit` measures the real sizes.
    monkeypatch.setattr(measuring, "_LEAST_BYTES", 48 << 20)
    monkeypatch.setattr(measuring, "_PROMPT_WORDS", (60, 240))
    with reporting_to(Recorder()) as seen:
        found = measuring.measure(["Q4_0"], 1)
    assert seen.stages == ["measure"]
    assert set(found.read_bytes_per_s) == {"Q4_0"} == set(found.prefill_parameters_per_s)
    assert found.read_bytes_per_s["Q4_0"] > 1e8
    assert min(found.layer_s, found.attention_s, found.prompt_attention_s) >= 0
    assert measuring.current(1) == found
    assert measuring.missing(["Q4_0", "Q6_K", "F32"], found) == ["Q6_K"]
    assert ledger.summary() is None
    assert llmlab.ps().servers == ()


def test_a_layer_is_told_from_its_weights():
    """Two models, made up so that both rates and the overhead are known."""

    def trial(layers: int, read: int, width: int) -> measuring._Trial:
        model = replace(MODEL, n_layers=layers, n_heads=width, key_length=1)
        token_s = read / 10e9 + layers * 5e-4
        per_token = 1e-9 * layers * width
        return measuring._Trial(
            model=model,
            token_s=token_s,
            deep_token_s=token_s + 500 * per_token,
            depth=500,
            prompts=((100, 0.01 + per_token * 50), (500, 0.01 + per_token * 250)),
        )

    read = sum(MODEL.read_by_type.values())
    empty = Rates(threads=2, engine="e", cpu="c", measured="2026-11-22")
    found = measuring._with_trials(empty, "Q4_K", trial(2, read, 4096), trial(24, read, 1024))
    assert found.layer_s == pytest.approx(5e-4)
    assert found.attention_s == pytest.approx(1e-9)
    assert found.prompt_attention_s == pytest.approx(1e-9)
    assert found.read_bytes_per_s["Q4_K"] == pytest.approx(10e9)


def test_what_there_is_no_room_for_is_not_measured(monkeypatch):
    tight = replace(machine.look(), usable_mib=100)
    monkeypatch.setattr(machine, "look", lambda: tight)
    with reporting_to(Recorder()) as seen:
        found = measuring.measure(["F16"], 1)
    assert found.read_bytes_per_s == {}
    assert "was not measured" in seen.notes[0]


@pytest.mark.slow
def test_models_with_their_fit(require_engine):
    """The whole list by the command line: measured once, then at hand."""
    found = json.loads(run_cli("models", "--fit", "--json").stdout)
    rows = {row["name"]: row for row in found["models"]}
    assert rows["tiny"]["state"] == "built-in"
    for row in rows.values():
        fit = row["fit"]
        assert fit["fits"] in {"fits", "tight", "too big"}
        assert fit["required_mib"] <= fit["resident_mib"] == sum(fit["parts"].values())
        assert fit["decode_tokens_per_s"] > 0
        assert fit["prefill_tokens_per_s"] > 0
        assert fit["fits"] != "too big" or fit["advice"]
    assert (
        rows["llama-3.1-8b"]["fit"]["decode_tokens_per_s"]
        < rows["llama-3.2-1b"]["fit"]["decode_tokens_per_s"]
    )
    assert (
        found["machine"]["read_bandwidth_gb_per_s"] is None or found["machine"]["read_bandwidth_gb_per_s"] > 0
    )
    assert found["checked"]
    again = run_cli("models", "--fit", "--memory", "1g", "--context", "8192", "--json")
    assert "measure" not in again.stderr
    small = {row["name"]: row["fit"] for row in json.loads(again.stdout)["models"]}
    assert small["llama-3.1-8b"]["fits"] == "too big"
    assert small["llama-3.1-8b"]["available_mib"] == 1024
    # A prediction is made with every start from now on, and held against what is seen.
    with llmlab.start("synthetic:smollm2-135m:Q4_0", backend="native", slots=1) as server:
        answer = server.ask("What is a container?")
        assert answer.synthetic
        assert answer.completion_tokens == 64
        assert answer.text == ""
        assert "random" in str(answer)
        assert server.record.predicted
        assert server.record.predicted.decode_tokens_per_s
    listed = llmlab.models(fit=True)
    assert isinstance(listed, ModelList)
    error = listed.error
    assert error
    assert error["starts"] == 1
    assert error["rate_median"] is not None
