"""What the control panel knows, without a notebook: what is here, what runs, and a start filled in."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmlab
from llmlab.errors import LabError, MemoryFitError, UsageError
from llmlab.paneling import Form, conditions, running, saved, snapshot, told
from llmlab.results import ServerList
from llmlab.verbs import VERBS, Call, parse
from tests.conftest import run_cli
from tests.test_verbs import NASTY


def form(**values: str) -> Form:
    return Form({"model": "tiny", **values})


# The lines that do the same


def test_a_form_gives_the_line_and_the_python_that_do_the_same():
    call = form(backend="container", memory="1g", context="512").call()
    assert call.magic() == "%llm start tiny --container --context 512 --memory 1g"
    assert call.python() == "llmlab.start('tiny', backend='container', context=512, memory='1g')"


def test_what_is_left_empty_or_at_its_default_is_not_in_the_line():
    values = {"backend": "", "context": " ", "slots": "4", "kv_type": "f16", "engine": "", "name": ""}
    assert form(**values).call().magic() == "%llm start tiny"


def test_a_path_with_a_space_is_quoted():
    assert Form({"model": "./my models/a.gguf"}).call().magic() == "%llm start './my models/a.gguf'"


@pytest.mark.parametrize("text", [text for text in NASTY if "\n" not in text])
def test_a_line_reads_back_as_the_same_call(text):
    # No option of argparse's can have the value "--".
    system = "none" if text == "--" else text
    calls = [
        Call(VERBS["ask"], {"prompt": text}),
        Call(VERBS["ask"], {"prompt": text, "server": "tiny", "system": system, "temperature": 0.5}),
    ]
    for call in calls:
        assert parse(call.words()) == call
        # As the magic splits it; the backslash before {{name}} is taken away there.
        words = shlex.split(call.magic().removeprefix("%llm "))
        assert [word.replace("\\{{name}}", "{{name}}") for word in words] == call.words()


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "backend": st.sampled_from(["native", "container"]),
            "context": st.integers(1, 10**6),
            "memory": st.sampled_from(["2g", "512m", "-1"]),
            "keep": st.booleans(),
            "root": st.sampled_from(["read-only", "writable"]),
            "timeout_s": st.floats(1, 100),
        },
    )
)
def test_every_kind_of_option_reads_back(arguments):
    call = Call(VERBS["start"], {"model": "tiny", **arguments})
    expected = {name: value for name, value in call.arguments.items() if value is not False}
    assert dict(parse(call.words()).arguments) == expected


@pytest.mark.parametrize(
    ("values", "said"),
    [({"context": "many"}, "invalid int"), ({"backend": "moon"}, "moon"), ({"colour": "red"}, "colour")],
)
def test_what_cannot_be_read_is_refused_in_the_words_of_the_command_line(values, said):
    with pytest.raises(UsageError, match=said):
        form(**values).call()
    assert form(**values).check().verdict == "refused"


# Whether it would go


def test_a_form_that_fits_says_what_it_needs_and_starts_nothing(require_engine):
    checked = form(backend="native").check()
    assert checked.verdict == "fits"
    assert "MiB" in checked.message
    assert running() == ()


@pytest.mark.parametrize(
    "values",
    [
        {"memory": "30m"},
        {"memory": "30m", "context": "4096"},
        {"backend": "native", "memory": "2g"},
        {"context": "0"},
        {"memory": "much"},
        {"cpus": "1000"},
        {"model": "tyni"},
        {"model": "./not-there.gguf"},
        {"model": "llama-3.1-8b", "context": "100000000"},
    ],
)
def test_a_form_that_would_not_go_says_what_start_says(values, require_engine, require_docker):
    checked = form(**values).check()
    with pytest.raises(LabError) as caught:
        form(**values).call().run()
    error = caught.value
    assert checked.verdict == ("too big" if isinstance(error, MemoryFitError) else "refused")
    # The memory that the machine can give changes from moment to moment.
    assert checked.message.split(", and ")[0] == error.message.split(", and ")[0]
    assert checked.hint == error.hint


def test_the_setting_that_would_fit_can_be_filled_in(require_engine, require_docker):
    tight = form(memory="30m")
    remedy = tight.check().remedy
    assert remedy
    assert Form({**tight.values, **remedy}).check().verdict == "fits"


def test_a_model_that_is_not_here_fits_and_is_not_fetched(require_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    checked = Form({"model": "qwen2.5-0.5b", "backend": "native", "context": "256", "slots": "1"}).check()
    assert checked.verdict == "fits"
    assert "fetched first" in checked.message
    assert not list(tmp_path.rglob("*.gguf"))


def test_of_a_model_that_only_the_hub_knows_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert form(model="hf:nobody/nothing:Q4_0").check().verdict == "unknown"


def test_an_error_without_a_setting_that_would_fit_offers_none():
    assert (
        told(MemoryFitError("x", hint="use a smaller model; --force starts it all the same")).remedy is None
    )


# What there is


def test_a_snapshot_shows_servers_models_and_conditions(require_engine):
    llmlab.start("tiny", name="here", backend="native")
    found = snapshot()
    data = json.loads(json.dumps(found.to_dict()))
    assert [server["name"] for server in data["servers"]] == ["here"]
    assert data["servers"][0]["usage"]["memory_mib"] > 5
    tiny = next(model for model in data["models"]["models"] if model["name"] == "tiny")
    assert tiny["fit"]["fits"] == "fits"
    assert [each["name"] for each in data["conditions"]] == ["container engine", "llama.cpp", "GPU"]
    text = str(found)
    assert "The panel is for notebooks" in text
    for verb in ("start", "ps", "logs", "audit", "compare", "stop", "doctor"):
        assert f"llmlab {verb}" in text


def test_what_runs_is_told_with_where_and_how_isolated(require_engine):
    server = llmlab.start("tiny", name="here", backend="native", context=256)
    (found,) = running()
    assert (found.name, found.backend, found.state, found.context) == ("here", "native", "ready", 256)
    assert found.isolation == "not isolated"
    assert found.created == server.record.created
    assert found.memory_mib is None


def test_without_a_container_engine_it_says_so_with_the_fix_of_the_doctor(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    engine = conditions()[0]
    assert (engine.word, engine.state) == ("no engine", "fail")
    row = next(row for row in llmlab.doctor().rows if row.name == "engine")
    assert engine.fix == row.fix == ("unset DOCKER_HOST",)
    assert "natively" in engine.why


def test_without_llama_cpp_it_says_so_with_the_fix_of_the_doctor(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    program = conditions()[1]
    assert program.word == "missing"
    assert any("llmlab build" in command for command in program.fix)


def test_every_condition_that_is_not_well_says_what_follows():
    for each in conditions():
        assert each.word
        assert each.state == "ok" or each.why


def test_what_stays_in_a_file_is_what_ran_and_how_to_come_back(require_engine):
    llmlab.start("tiny", name="here-b", backend="native")
    text, html = saved(llmlab.ps(), conditions(), 0)
    for shown in (text, html):
        assert "here-b" in shown
        assert "%llm panel" in shown
        assert "1970-01-01" in shown or "1969-12-31" in shown
    assert "No server was running" in saved(ServerList(()), (), 0)[1]


def test_the_terminal_prints_it_and_programs_get_json(require_engine):
    assert "Running: nothing yet" in run_cli("panel").stdout
    assert json.loads(run_cli("panel", "--json").stdout)["servers"] == []
