"""The doctor: on this machine as it is, with things missing, and on the facts of other machines.

`tests/data/doctor/*.json` are facts of whole machines. Some were recorded; the others
are composed by hand after the documented formats, as each says of itself.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab.checkup import checks, engine, gathering, python, versions
from llmlab.checkup.checks.base import Check, Finding
from llmlab.checkup.facts import Facts, from_dict
from llmlab.checkup.rows import Diagnosis, Row
from llmlab.errors import UsageError

DATA = Path(__file__).parent / "data" / "doctor"
RECORDED = "debian12-docker-20.10"
ALL_RECORDED = {RECORDED, "debian-docker-28.5", "debian-podman-5.8", "debian-podman-rootless"}
MACHINES = sorted(path.stem for path in DATA.glob("*.json"))
SOURCE = Path(checks.__file__).parents[1]

# What is not healthy on each machine: the whole of it.
PROBLEMS = {
    "debian-docker-28.5": {"engine version": "warning", "control groups": "warning"},
    "debian-podman-5.8": {"control groups": "warning"},
    "debian-podman-rootless": {"limits": "fail", "control groups": "warning"},
    "debian12-docker-20.10": {
        "engine version": "warning",
        "container runtime": "warning",
        "control groups": "warning",
    },
    "macos-apple-silicon": {"GPU in containers": "warning"},
    "macos-intel": {
        "platform": "warning",
        "memory": "warning",
        "Docker Desktop": "fail",
        "engine's memory": "warning",
        "GPU in containers": "warning",
    },
    "podman": {},
    "rootless-docker": {"limits": "fail"},
    "ubuntu-nvidia-no-toolkit": {"NVIDIA toolkit": "warning", "GPU in containers": "warning"},
    "ubuntu-nvidia-toolkit-cdi": {},
    "windows": {"platform": "fail"},
    "wsl2-docker-desktop": {},
    "wsl2-docker-inside": {
        "memory": "warning",
        "engine version": "warning",
        "container runtime": "warning",
        "NVIDIA toolkit": "warning",
        "GPU in containers": "fail",
    },
}
# A word or two that must be seen of it.
SEEN = {
    "debian-docker-28.5": {"engine": "28.5.2", "container runtime": "runc 1.3.6"},
    "debian-podman-5.8": {"engine": "Podman 5.8.6", "container runtime": "crun) 1.28"},
    "debian-podman-rootless": {"rootless": "rootless", "limits": "can limit nothing"},
    "debian12-docker-20.10": {"platform": "Debian GNU/Linux 12", "control groups": "version 1"},
    "macos-apple-silicon": {
        "platform": "Apple silicon",
        "other GPUs": "Metal",
        "engine": "Docker Desktop 4.72.0",
    },
    "macos-intel": {"platform": "Intel Mac", "engine's memory": "1.9 GiB"},
    "podman": {"engine": "Podman 5.8.6", "container runtime": "crun) 1.25", "rootless": "rootless"},
    "rootless-docker": {
        "limits": "not: CPU time",
        "rootless": "rootless",
        "access": "not this machine's root",
    },
    "ubuntu-nvidia-no-toolkit": {"NVIDIA driver": "RTX A4000 (16.0 GiB), driver 580.95.05"},
    "ubuntu-nvidia-toolkit-cdi": {
        "GPU in containers": "CDI devices nvidia.com/gpu=0",
        "NVIDIA toolkit": "1.18.2",
    },
    "windows": {"platform": "Windows 11"},
    "wsl2-docker-desktop": {
        "platform": "Docker Desktop's, by its WSL integration",
        "GPU in containers": "nvidia",
    },
    "wsl2-docker-inside": {"platform": "Docker runs inside", "memory": "half of its memory"},
}


def facts_of(machine: str) -> Facts:
    return from_dict(json.loads((DATA / f"{machine}.json").read_text()))


def rows_of(facts: Facts) -> dict[str, Row]:
    return {row.name: row for row in checks.examine(facts)}


def changed(machine: str, field: str, **values: Any) -> Facts:
    """The facts of a machine with something in one of them changed."""
    facts = facts_of(machine)
    return from_dict({**facts.to_dict(), field: {**getattr(facts, field), **values}})


def problems(rows: dict[str, Row]) -> dict[str, str]:
    return {name: row.state for name, row in rows.items() if row.state not in {"ok", "not applicable"}}


# Machines that are not at hand


@pytest.mark.parametrize("machine", MACHINES)
def test_of_each_machine_exactly_the_problems_are_found(machine):
    rows = rows_of(facts_of(machine))
    assert problems(rows) == PROBLEMS[machine]
    for name, words in SEEN[machine].items():
        assert words in rows[name].seen


@pytest.mark.parametrize("machine", MACHINES)
def test_a_fixture_says_whether_it_was_recorded(machine):
    note = facts_of(machine).note
    assert note.startswith("recorded on" if machine in ALL_RECORDED else "composed by hand")
    shown = llmlab.doctor(facts=str(DATA / f"{machine}.json"))
    assert note in str(shown)
    assert note in shown.to_html()


@pytest.mark.parametrize("machine", MACHINES)
def test_each_problem_comes_with_a_reason_and_a_command(machine):
    for row in rows_of(facts_of(machine)).values():
        if row.state in {"fail", "warning"}:
            assert row.why, row
            assert row.fix, row
        assert row.seen, row


def test_a_gpu_without_a_toolkit_is_called_a_silent_fallback():
    row = rows_of(facts_of("ubuntu-nvidia-no-toolkit"))["GPU in containers"]
    assert "without an error" in row.why
    assert any("nvidia-ctk runtime configure" in command for command in row.fix)


def test_a_toolkit_that_the_engine_does_not_know_is_a_gap():
    known = facts_of("ubuntu-nvidia-toolkit-cdi")
    info = {**known.info, "Runtimes": {"runc": {}}, "DiscoveredDevices": None, "CDISpecDirs": []}
    row = rows_of(replace(known, engine={**known.engine, "info": info}))["GPU in containers"]
    assert row.state == "warning"
    assert "does not know of it" in row.seen
    # An engine with CDI finds the devices' file by itself.
    info["CDISpecDirs"] = ["/var/run/cdi"]
    assert rows_of(replace(known, engine={**known.engine, "info": info}))["GPU in containers"].state == "ok"


def test_podman_gets_gpus_by_cdi():
    facts = replace(facts_of("podman"), gpus=({"name": "NVIDIA T4", "total_mib": 15360},))
    assert rows_of(facts)["GPU in containers"].fix == (
        "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    )
    assert rows_of(replace(facts, cdi=("/etc/cdi/nvidia.yaml",)))["GPU in containers"].state == "ok"


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch", "sudo reboot"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "sudo dmesg"),
    ],
)
def test_a_broken_driver_fails(said, fix):
    facts = changed("rootless-docker", "refusals", **{"nvidia-smi --query-gpu=name": said})
    row = rows_of(facts)["NVIDIA driver"]
    assert row.state == "fail"
    assert said in row.seen
    assert row.fix[0].startswith(fix)


def test_a_card_without_a_driver_is_seen():
    facts = replace(facts_of("rootless-docker"), pci=("10de:2204 nouveau", "8086:4680 i915"))
    rows = rows_of(facts)
    assert rows["NVIDIA driver"].state == "warning"
    assert "Intel" in rows["other GPUs"].seen


def test_wsl_1_fails():
    facts = replace(
        facts_of("wsl2-docker-inside"),
        release="4.4.0-19041-Microsoft",
        nodes={},
        texts={
            "/proc/version": "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) (gcc version 5.4.0)"
        },
    )
    row = rows_of(facts)["platform"]
    assert row.state == "fail"
    assert row.fix == ("wsl.exe --set-version Ubuntu-24.04 2",)


def test_a_python_for_intel_on_apple_silicon_is_a_gap():
    facts = replace(
        changed("macos-apple-silicon", "outputs", **{"sysctl -n sysctl.proc_translated": "1"}),
        machine="x86_64",
    )
    assert rows_of(facts)["platform"].state == "warning"


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({"mode": "srw-rw-rw-", "for_all": True}, "fail", "every user of this machine"),
        ({"writable": False}, "fail", "may not write"),
        ({}, "ok", "as good as being root"),
    ],
)
def test_permissions_of_the_socket(change, state, words):
    facts = facts_of("ubuntu-nvidia-toolkit-cdi")
    seen = {**facts.engine["socket"], **change}
    row = rows_of(replace(facts, engine={**facts.engine, "socket": seen}))["access"]
    assert row.state == state
    assert words in row.seen


@pytest.mark.parametrize(("tls", "state"), [(True, "ok"), (False, "fail")])
def test_an_engine_on_the_network_needs_tls(tls, state):
    facts = changed("rootless-docker", "engine", address="tcp://192.0.2.1:2375", tls=tls)
    assert rows_of(facts)["access"].state == state


def test_who_was_admitted_and_has_not_logged_in_again_is_told_so():
    refused: dict[str, Any] = {"error": "permission", "info": {}, "version": None}
    facts = changed("ubuntu-nvidia-toolkit-cdi", "engine", **refused)
    facts = replace(facts, user={"uid": 1000, "groups": ["ada"], "listed": True})
    assert rows_of(facts)["access"].fix[0].startswith("newgrp docker")
    facts = replace(facts, user={"uid": 1000, "groups": ["ada"], "listed": False})
    assert rows_of(facts)["access"].fix[0].startswith("sudo usermod -aG docker")


def test_where_no_engine_can_be_that_is_no_failure():
    facts = changed("rootless-docker", "engine", error="missing", info={}, version=None)
    assert rows_of(facts)["engine"].state == "fail"
    facts = replace(facts, variables={"COLAB_RELEASE_TAG": "set"})
    assert rows_of(facts)["engine"].state == "not applicable"
    assert "Google Colab" in rows_of(facts)["where"].seen


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [
        ({"SwapLimit": False}, "limits", "warning"),
        ({"MemoryLimit": False}, "limits", "fail"),
        ({"SecurityOptions": []}, "system call filter", "fail"),
        ({"SecurityOptions": ["name=seccomp,profile=unconfined"]}, "system call filter", "warning"),
        ({"Driver": "vfs"}, "storage", "warning"),
        ({"CgroupVersion": "1"}, "control groups", "warning"),
    ],
)
def test_what_an_engine_cannot_enforce_is_named(change, name, state):
    facts = facts_of("ubuntu-nvidia-toolkit-cdi")
    assert rows_of(facts)[name].state == "ok"
    facts = replace(facts, engine={**facts.engine, "info": {**facts.info, **change}})
    assert rows_of(facts)[name].state == state


@pytest.mark.parametrize(
    ("ours", "theirs", "state"),
    [
        ({"ipywidgets": "8.1.8", "jupyterlab_widgets": "3.0.16"}, None, "ok"),
        ({"ipywidgets": "8.1.8", "jupyterlab_widgets": "1.1.11"}, None, "fail"),
        ({"ipywidgets": "8.1.8"}, None, "fail"),
        ({}, None, "not applicable"),
        # Two environments: the server's part counts.
        ({"ipywidgets": "8.1.8", "jupyterlab_widgets": "3.0.16"}, {"jupyterlab": "4.6.2"}, "fail"),
        ({"ipywidgets": "8.1.8"}, {"jupyterlab_widgets": "3.0.16"}, "ok"),
    ],
)
def test_the_two_parts_of_widgets_must_match(ours, theirs, state):
    facts = replace(facts_of("podman"), packages=ours, variables={"JPY_PARENT_PID": "set"})
    if theirs is not None:
        server = {"prefixes": ["/opt/jupyter"], "packages": theirs}
        facts = replace(facts, python={**facts.python, "server": server})
    rows = rows_of(facts)
    assert rows["widgets"].state == state
    assert rows["kernel and server"].state == ("unknown" if theirs is None else "warning")
    if theirs is not None and state == "fail":
        assert rows["widgets"].fix[0].startswith("/opt/jupyter/bin/python -m pip")


@pytest.mark.parametrize(
    ("field", "values", "name", "state"),
    [
        ("memory", {"usable": 600}, "memory", "fail"),
        ("disks", {"models": {"path": "~", "free_bytes": 10**8, "total_bytes": 10**11}}, "disk", "fail"),
        (
            "disks",
            {"models": {"path": "~", "free_bytes": 3 * 10**9, "total_bytes": 10**11}},
            "disk",
            "warning",
        ),
        ("runtime", {"socket_bytes": 120}, "servers' directory", "fail"),
        ("runtime", {"error": "it is not a directory of yours"}, "servers' directory", "fail"),
        ("python", {"version": "3.9.2"}, "Python", "fail"),
        ("build", {"server": ""}, "llama.cpp", "warning"),
        ("build", {"version": "9000 (abcdef)"}, "llama.cpp", "warning"),
        ("build", {"version": "b11393"}, "llama.cpp", "ok"),
        ("outputs", {"ollama --version": "ollama version is 0.12.3"}, "Ollama", "warning"),
        ("outputs", {"ollama --version": "ollama version is 0.35.1"}, "Ollama", "ok"),
        ("outputs", {"ollama --version": "Warning: could not connect"}, "Ollama", "unknown"),
        ("packages", {"llama-cpp-python": "0.2.71"}, "llama-cpp-python", "fail"),
        ("packages", {"jupyterlab": "4.2.5"}, "JupyterLab", "warning"),
        ("packages", {"jupyterlab": "4.5.9"}, "JupyterLab", "warning"),
        ("packages", {"jupyterlab": "4.5.10"}, "JupyterLab", "ok"),
        ("packages", {"notebook": "6.5.7"}, "Notebook", "warning"),
        ("packages", {"docker": "6.1.3"}, "clients", "warning"),
    ],
)
def test_what_falls_short_is_found(field, values, name, state):
    assert rows_of(changed("rootless-docker", field, **values))[name].state == state


# Versions


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("20.10.24+dfsg1", "28.0.0"),
        ("28.0.0-rc.1", "28.0.0"),
        ("1.1.5+ds1-1+deb12u1", "1.1.12"),
        ("1.6.20~ds1", "1.7.0"),
        ("b9999", "b11393"),
        ("v2.2.1", "v2.2.2"),
        ("4.6.0rc0", "4.6"),
        ("0.9", "0.10"),
    ],
)
def test_versions_are_ordered(older, newer):
    low, high = versions.key(older), versions.key(newer)
    assert low is not None
    assert high is not None
    assert low < high
    assert versions.key("28.0") == versions.key("28.0.0")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.1.15", True),  # a line that was given up
        ("1.2.7", True),
        ("1.2.8", False),
        ("1.3.2", True),
        ("1.3.3", False),
        ("1.4.1", False),
        ("2.0.0", False),
        ("unknown", False),
    ],
)
def test_each_release_line_has_its_own_fix(version, expected):
    assert versions.older(version, ["1.2.8", "1.3.3", "1.4.0"]) is expected


def test_a_fault_begins_somewhere():
    def names(version):
        return " ".join(versions.assess("docker-engine", version).faults)

    assert "CVE-2025-54388" not in names("28.1.1")
    assert "CVE-2025-54388" in names("28.2.0")
    assert "CVE-2025-54388" not in names("28.3.3")


def test_what_a_distribution_has_mended_is_not_held_against_it():
    row = rows_of(facts_of(RECORDED))["container runtime"]
    assert "CVE-2024-21626: mended in this package, by its changelog" in row.details
    assert not any(line.startswith("CVE-2024-21626: a container") for line in row.details)
    assert "the distribution may have mended more" in row.why
    upstream = versions.assess("runc", "1.1.5")
    assert upstream.grave
    assert not upstream.distribution


def test_a_changelog_counts_only_for_the_engine_that_it_belongs_to():
    # A second engine runs beside the distribution's own.
    facts = facts_of("debian-docker-28.5")
    assert "CVE-2024-41110" in facts.changelogs["docker.io"]["mended"]
    assert not any("by its changelog" in line for line in rows_of(facts)["engine version"].details)


def test_every_advisory_has_a_date_and_a_source():
    for name, product in versions.advisories().items():
        for entry in (product, *product["faults"]):
            time.strptime(entry["date"], "%Y-%m-%d")
            assert entry["source"].startswith("https://"), name
        for fault in product["faults"]:
            assert all(versions.key(version) for version in fault["fixed"]), fault


# This machine


def test_this_machine_is_looked_over_within_seconds():
    began = time.monotonic()
    found = llmlab.doctor()
    assert time.monotonic() - began < 6
    names = {row.name: row for row in found.rows}
    assert found.facts.failed == {}
    assert names["Python"].state == "ok"
    assert names["platform"].state in {"ok", "warning"}
    assert not {row.name for row in found.rows if row.state == "unknown"}
    again = llmlab.doctor()  # the verb is not hidden by a package of its name
    assert [row.name for row in again.rows] == list(names)


def test_the_engine_of_this_machine_answers(require_docker):
    facts = gathering.gather()
    said = json.loads(subprocess.check_output(["docker", "version", "--format", "{{json .Server}}"]))
    assert facts.engine_version == said["Version"]
    assert rows_of(facts)["engine"].state == "ok"
    assert "IndexServerAddress" not in facts.info  # only what is looked at is kept


def test_json_can_be_examined_again(tmp_path):
    found = llmlab.doctor()
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(found.to_dict()))
    again = llmlab.doctor(facts=str(path))
    assert again.rows == found.rows
    assert json.dumps(again.to_dict()) == path.read_text()


def test_the_home_directory_is_not_told(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "tcp://ada:secret@127.0.0.1:9")
    text = json.dumps(gathering.gather().to_dict())
    assert str(tmp_path) not in text
    assert "secret" not in text


def doctor_in(
    environment: dict[str, str], *words: str, python_path: str = sys.executable
) -> tuple[int, dict[str, Row]]:
    """The command in an environment of its own: exit status and rows."""
    done = subprocess.run(
        [python_path, "-m", "llmlab", "doctor", "--json", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    rows = [
        Row(**{**row, "details": (), "fix": tuple(row["fix"])}) for row in json.loads(done.stdout)["rows"]
    ]
    return done.returncode, {row.name: row for row in rows}


def test_no_engine_is_a_failure_and_no_crash():
    status, rows = doctor_in({"DOCKER_HOST": "unix:///nonexistent"})
    assert status == 1
    assert rows["engine"].state == "fail"
    assert rows["engine"].fix == ("unset DOCKER_HOST",)
    assert rows["limits"].state == "not applicable"
    assert problems(rows).keys() <= {"engine", "memory", "disk", "llama.cpp"}


def test_nothing_on_the_path(tmp_path):
    status, rows = doctor_in({"PATH": str(tmp_path)})
    assert status in {0, 1}
    assert rows["Python"].state == "ok"
    assert rows["C++ compiler"].state in {"warning", "not applicable"}
    assert rows["static C library"].seen.startswith("no C compiler")
    assert not [row for row in rows.values() if row.state == "unknown"]


def test_a_context_that_is_not_there():
    status, rows = doctor_in({"DOCKER_CONTEXT": "nowhere"})
    assert status == 1
    assert "nowhere" in rows["engine"].seen


def test_the_engine_of_a_context_is_asked(require_docker, tmp_path):
    folder = tmp_path / "contexts" / "meta" / "0123"
    folder.mkdir(parents=True)
    meta = {"Name": "mine", "Endpoints": {"docker": {"Host": "unix:///var/run/docker.sock"}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "config.json").write_text('{"currentContext": "mine"}')
    _, rows = doctor_in({"DOCKER_CONFIG": str(tmp_path)})
    assert rows["engine"].state == "ok"
    assert "context mine" in rows["engine"].seen


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_somebody_without_permission_is_told_what_to_do(require_docker):
    # The interpreter may lie where others cannot read: become the other within it.
    code = """
import encodings.ascii, gzip, os, sys
import llmlab.cli, llmlab.checkup, llmlab.builds, llmlab.machine, llmlab.weights.hub_cache, pynvml
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(llmlab.cli.main(["doctor", "--json"]))
"""
    folder = tempfile.mkdtemp(prefix="llm-")
    os.chown(folder, 65534, 65534)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": folder, "LLMLAB_RUNTIME_DIR": folder},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 1, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["engine"]["state"] == "fail"
    assert "refuses this user" in rows["engine"]["seen"]
    assert rows["access"]["fix"][0] == "sudo usermod -aG docker $USER"


def test_a_python_with_no_packages_at_all():
    # The API alone: the command line needs psutil, which the package brings along.
    code = "import json, llmlab; print(json.dumps(llmlab.doctor().to_dict()))"
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(SOURCE.parents[1] / '')!r}); {code}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "VIRTUAL_ENV": ""},
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["memory"]["state"] == rows["disk"]["state"] == "unknown"
    assert "could not be looked at" in rows["memory"]["seen"]
    assert rows["clients"]["fix"] == ["pip install 'docker>=7.2'"]
    assert rows["packages"]["state"] == "unknown"
    assert rows["platform"]["state"] in {"ok", "warning"}


def test_a_python_without_unix():
    # As on Windows: the command must come as far as to say so.
    code = """
import sys, os
sys.modules.update(fcntl=None, grp=None, pwd=None)
del os.getuid
import llmlab.cli
sys.exit(llmlab.cli.main(["doctor", "--json"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["servers' directory"]["state"] == "unknown"
    assert rows["platform"]["state"] in {"ok", "warning"}


@contextlib.contextmanager
def listening(path: Path, answer: bytes, drip: bytes = b"") -> Iterator[None]:
    """Something that stands where an engine should, and answers so."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen(8)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    guest, _ = door.accept()
                except OSError:
                    return
                threading.Thread(target=attend, args=(guest,), daemon=True).start()

        def attend(guest: socket.socket) -> None:
            with guest, contextlib.suppress(OSError):
                guest.recv(1000)
                guest.sendall(answer)
                while drip and not over.wait(0.2):
                    guest.sendall(drip)
                if not answer:
                    over.wait(20)

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield
        finally:
            over.set()
            door.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "drip", "words"),
    [
        (b"", b"", "does not answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n", b" ", "does not answer"),
        (b"\x1b]0;evil\x07\xff\r\n\r\n", b"", "evil"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", b"", "not what an engine answers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{broken", b"", "Expecting"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b"", "status 500"),
    ],
    ids=["hangs", "drips", "garbage", "list", "broken", "error"],
)
def test_an_engine_that_does_not_answer_as_it_should(isolated_runtime, monkeypatch, answer, drip, words):
    monkeypatch.setattr(engine, "WAIT_S", 1.0)
    path = isolated_runtime / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    began = time.monotonic()
    with listening(path, answer, drip):
        found = llmlab.doctor()
    path.unlink()
    assert time.monotonic() - began < 8
    row = next(row for row in found.rows if row.name == "engine")
    assert row.state == "fail"
    assert words in row.seen
    assert found.exit_status == 1
    assert "\x1b" not in str(found)


def test_a_probe_that_crashes_or_hangs_stops_no_other(monkeypatch):
    monkeypatch.setattr(gathering, "_DEADLINE_S", 1.0)
    over = threading.Event()

    def crash() -> dict[str, Any]:
        raise RuntimeError("a bad day")

    monkeypatch.setattr(gathering, "_memory", crash)
    monkeypatch.setattr(gathering, "_disks", lambda: over.wait(30) and {})
    facts = gathering.gather()
    over.set()
    assert set(facts.failed) == {"memory", "disks"}
    rows = rows_of(facts)
    assert rows["memory"].state == rows["disk"].state == "unknown"
    assert "a bad day" in rows["memory"].seen
    assert rows["platform"].state in {"ok", "warning"}


def test_a_command_that_hangs_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(gathering, "_COMMAND_S", 0.5)
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\nexec sleep 30\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    facts = gathering.gather()
    row = rows_of(facts)["NVIDIA driver"]
    assert row.state == "fail"
    assert "timed out" in row.seen


def test_a_check_that_crashes_is_a_row_that_says_so(monkeypatch):
    def crash(_: Facts) -> Finding:
        raise ZeroDivisionError("a bad day")

    monkeypatch.setattr(
        checks,
        "GROUPS",
        {"Machine": (Check("odd", "", crash), Check("even", "", lambda _: Finding("ok", "2")))},
    )
    rows = rows_of(Facts())
    assert rows["odd"].state == "unknown"
    assert "a bad day" in rows["odd"].seen
    assert rows["even"].state == "ok"


# Facts of others


@pytest.mark.parametrize(
    "text", ["", "[]", '{"rows": []}', '{"system": 3}', '{"system": "Linux", "engine": []}']
)
def test_what_are_no_facts_is_refused(tmp_path, text):
    path = tmp_path / "facts.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"doctor --json|save them anew"):
        llmlab.doctor(facts=str(path))


def test_facts_that_make_no_sense_crash_nothing():
    odd = {
        "version": {"Components": [1]},
        "info": {"Runtimes": 7, "DiscoveredDevices": 7, "SecurityOptions": 7, "MemTotal": "x"},
    }
    facts = Facts(
        system="Linux", engine=odd, gpus=({},), disks={"models": {}}, memory={"usable": "x", "total": None}
    )
    found = Diagnosis(rows=checks.examine(facts), facts=facts)
    assert found.rows
    assert str(found)
    assert found.to_html()


def test_no_facts_at_all_crash_nothing():
    rows = rows_of(Facts(system="Linux"))
    assert not [row for row in rows.values() if "the check failed" in row.seen]


def test_text_of_others_becomes_neither_markup_nor_escape_sequences():
    evil = "<script>alert(1)</script>\x1b[2J"
    facts = changed("rootless-docker", "refusals", **{"nvidia-smi --x": evil})
    facts = replace(facts, note=evil)
    found = Diagnosis(rows=checks.examine(facts), facts=facts, verbose=True)
    assert "<script" not in found.to_html()
    assert "\x1b" not in str(found)


# How it is shown


def test_healthy_rows_are_one_line_and_all_shows_them():
    path = str(DATA / "rootless-docker.json")
    short, long = str(llmlab.doctor(facts=path)), str(llmlab.doctor(facts=path, all=True))
    assert short.startswith("1 failed · ")
    assert "✗ limits" in short
    assert "26.0 GiB" not in short
    assert "24.4 GiB usable" in long
    assert all(len(line) <= 100 for line in short.splitlines() if "→" not in line)
    html = llmlab.doctor(facts=path).to_html()
    assert html.count("<details") == 5
    assert "24.4 GiB usable" in html


def test_exit_status():
    assert llmlab.doctor(facts=str(DATA / "podman.json")).exit_status == 0
    assert llmlab.doctor(facts=str(DATA / "macos-apple-silicon.json")).exit_status == 0
    assert llmlab.doctor(facts=str(DATA / "windows.json")).exit_status == 1


def test_rows_are_rows_by_themselves():
    row = rows_of(facts_of("rootless-docker"))["limits"]
    assert "fail: can be limited" in str(row)
    assert row.to_dict()["state"] == "fail"


# The notebook server's environment


def test_the_environment_of_the_notebook_server(monkeypatch, tmp_path):
    for name in ("bin", "lib/python3.12/site-packages/jupyterlab_widgets-3.0.16.dist-info"):
        (tmp_path / name).mkdir(parents=True)
    metadata = tmp_path / "lib/python3.12/site-packages/jupyterlab_widgets-3.0.16.dist-info/METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: jupyterlab_widgets\nVersion: 3.0.16\n")
    script = tmp_path / "bin" / "jupyter-lab"
    script.write_text("import time; time.sleep(30)")
    with subprocess.Popen([sys.executable, str(script)]) as server:
        monkeypatch.setenv("JPY_PARENT_PID", str(server.pid))
        try:
            seen = python.look()["server"]
        finally:
            server.kill()
    assert str(tmp_path) in seen["prefixes"]
    assert seen["packages"]["jupyterlab_widgets"]


def test_a_notebook_server_that_is_gone(monkeypatch):
    monkeypatch.setenv("JPY_PARENT_PID", str(2**22 - 1))
    assert python.look()["server"] is None


# The package


def test_checks_look_at_nothing_but_facts():
    asking = {"os", "subprocess", "pathlib", "shutil", "platform", "socket", "psutil", "sys"}
    for path in (SOURCE / "checks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            assert not {name.split(".")[0] for name in names} & asking, path.name


def test_every_row_is_in_the_documentation():
    text = " ".join((Path(__file__).parents[1] / "docs" / "doctor.md").read_text().split())
    for group, found in checks.GROUPS.items():
        assert group in text
        for check in found:
            assert check.name in text, check.name
    for machine in MACHINES:
        assert f"`{machine}`" in text, machine


def test_facts_have_a_plain_form_for_every_field():
    data = facts_of(RECORDED).to_dict()
    assert set(data) == {each.name for each in fields(Facts)}
    assert json.loads(json.dumps(data)) == json.loads(json.dumps(from_dict(data).to_dict()))


def test_a_build_for_the_cpu_beside_a_gpu_is_told():
    known = facts_of("ubuntu-nvidia-no-toolkit")
    row = rows_of(replace(known, build={**known.build, "accelerators": []}))["llama.cpp"]
    assert row.state == "warning"
    assert row.fix == ("llmlab build --gpu cuda",)
    row = rows_of(replace(known, build={**known.build, "accelerators": ["cuda"]}))["llama.cpp"]
    assert row.state == "ok"
    assert "compiled for cuda, too" in row.seen
    # Where that is not known, nothing is said.
    assert rows_of(known)["llama.cpp"].state == "ok"
