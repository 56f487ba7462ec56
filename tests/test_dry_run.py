"""The dry run: what it prints does what a start does."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab.backends import docker_api
from llmlab.errors import LabError, ModelNotFoundError, NameTakenError, UsageError
from llmlab.isolation import create_request
from llmlab.isolation.docker_run import docker_run
from llmlab.isolation.gpus import DriverFiles, access
from llmlab.isolation.reasons import REASONS
from llmlab.profiles import PROFILES, Mount, compose
from llmlab.results_dry_run import DryRun, Flag
from llmlab.specs import Limits
from tests.conftest import eventually, inventory, run_cli
from tests.test_audit import NONE, VIDEO

KEPT: list[str] = []


def words(request: dict[str, Any]) -> list[str]:
    KEPT.clear()

    def keep(text: str) -> str:
        KEPT.append(text)
        return "/f.json"

    parts = docker_run("a", request, program="docker", keep_filter=keep)
    assert {part.control for part in parts} <= set(REASONS)
    return [word for part in parts for word in part.words]


def request(
    name: str = "sealed",
    info: Mapping[str, Any] | None = None,
    files: DriverFiles | None = None,
    **changes: Any,
) -> dict[str, Any]:
    profile = compose(name, **changes)
    return create_request(
        profile,
        image="sha256:12",
        argv=["/opt/llama-server", "--model", "/models/a b.gguf"],
        environment={"HOME": "/tmp"},  # noqa: S108 - the container's
        user="1:2",
        limits=Limits(memory_mib=512, cpus=1.5),
        mounts=[Mount(source="/my, models/a b.gguf", target="/models/a b.gguf")],
        labels={"llmlab.server": "it's"},
        gpus=access(profile.gpus, info or {}, files, libraries_to="/opt") if profile.gpus else None,
    )


# From a request to words


def test_every_part_of_a_sealed_request_has_its_words():
    found = words(request())
    assert found[:3] == ["docker", "run", "--detach"]
    assert found[-3:] == ["sha256:12", "--model", "/models/a b.gguf"]
    for flag, value in (
        ("--network", "none"),
        ("--cap-drop", "ALL"),
        ("--memory", "512m"),
        ("--memory-swap", "512m"),
        ("--cpus", "1.5"),
        ("--pids-limit", "256"),
        ("--user", "1:2"),
        ("--security-opt", "no-new-privileges:true"),
        ("--security-opt", "seccomp=/f.json"),
        ("--label", "llmlab.server=it's"),
        ("--entrypoint", "/opt/llama-server"),
    ):
        assert (flag, value) in list(itertools.pairwise(found)), flag
    assert {"--read-only", "--init", "--no-healthcheck"} <= set(found)
    assert json.loads(KEPT[0])["defaultAction"] == "SCMP_ACT_ERRNO"


def test_a_path_with_a_comma_is_one_field_of_a_mount():
    found = words(request())
    mount = found[found.index("--mount") + 1]
    assert mount.startswith('type=bind,"source=/my, models/a b.gguf",target=/models/a b.gguf,readonly,')


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_can_be_written(profile):
    assert words(request(profile))
    assert words(request(profile, gpus="0,1", pids=300))


def test_gpus_are_one_quoted_field():
    found = words(request("gpu", gpus="0,1"))
    assert found[found.index("--gpus") + 1] == '"device=0,1"'
    assert words(request("gpu"))[words(request("gpu")).index("--gpus") + 1] == "1"


CDI = [{"ID": f"nvidia.com/gpu={index}"} for index in range(2)]


def test_gpus_by_cdi_or_by_their_files_are_devices():
    found = words(request("gpu", {"DiscoveredDevices": CDI}, gpus="0,1"))
    assert [found[i + 1] for i, word in enumerate(found) if word == "--device"] == [
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=1",
    ]
    files = DriverFiles(
        nodes=("/dev/nvidia0", "/dev/nvidiactl"), libraries={"libcuda.so.1": "/lib/libcuda.so.9"}
    )
    found = words(request("gpu", {}, files, gpus="device=0"))
    assert found[found.index("--device") + 1] == "/dev/nvidia0:/dev/nvidia0:rw"
    assert any("source=/lib/libcuda.so.9,target=/opt/libcuda.so.1" in word for word in found)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("HostConfig", "OomScoreAdj", 5),
        ("HostConfig", "UsernsMode", "host"),
        ("", "MacAddress", "02:00:00:00:00:01"),
        ("", "Healthcheck", {"Test": ["CMD", "x"]}),
        ("", "Entrypoint", ["a", "b"]),
        ("HostConfig", "NetworkMode", "bridge"),
        ("HostConfig", "Mounts", [{"Type": "bind", "Source": "/", "Target": "/x", "Consistency": "cached"}]),
        ("HostConfig", "DeviceRequests", [{"Driver": "other", "Count": 1, "Capabilities": [["tpu"]]}]),
    ],
)
def test_what_has_no_words_is_an_error_not_left_out(where, key, value):
    made = request()
    (made[where] if where else made)[key] = value
    with pytest.raises(ValueError, match=r"no words|cannot be written"):
        words(made)


def test_an_open_flag_is_not_praised():
    parts = docker_run("a", request("none"), program="docker", keep_filter=str)
    reasons = {part.words[0]: REASONS[part.control].why for part in parts}
    assert reasons["--network"].startswith("Open")
    assert reasons["--publish"].startswith("Open")


# The result


def test_the_script_is_quoted_and_its_steps_depend_on_each_other():
    shown = DryRun(
        name="a",
        backend="container",
        before=(("mkdir", "/my dir"),),
        flags=(Flag(words=("docker", "run"), why="x"), Flag(words=("--label", "a=$(id) 'b'"), why="y", cis="5.4")),
    )  # fmt: skip
    assert shown.script.splitlines()[0] == "mkdir '/my dir' &&"
    assert shlex.split(shown.script.replace("&&", ";").replace("\\\n", " "))[-1] == "a=$(id) 'b'"
    # What is no part of the script is a comment: all of it can be piped.
    assert str(shown).endswith(shown.script)
    assert all(line.startswith("#") for line in str(shown).split("\n\n" + shown.script[:5])[0].splitlines())
    assert shown.to_dict()["command"] == ["docker", "run", "--label", "a=$(id) 'b'"]
    assert "CIS 5.4" in shown.to_html()
    assert "<script" not in shown.to_html()


# With a container engine


@pytest.fixture
def place(require_docker, require_engine):
    return {"backend": "container"}


def dry(**options: Any) -> DryRun:
    found: Any = llmlab.start("tiny", dry_run=True, **options)
    assert isinstance(found, DryRun)
    return found


def inspected(name: str) -> dict[str, Any]:
    entry = docker_api.connect().container(llmlab.attach(name).record.container_id or "")
    assert entry
    return entry


# What an engine makes up itself, or that says the same in another way.
OWN = {"Hostname", "Labels", "NetworkDisabled", "ConsoleSize", "AttachStdout", "AttachStderr", "Image"}


def compared(entry: dict[str, Any]) -> dict[str, Any]:
    """What the engine recorded, less what belongs to one container."""
    found = {**entry["Config"], **entry["HostConfig"]}
    plain = {key: value for key, value in found.items() if key not in OWN and value not in (None, [], {}, "")}
    plain["Env"] = sorted(plain["Env"])  # the order says nothing
    plain["Ulimits"] = sorted(plain.get("Ulimits", ()), key=lambda limit: str(limit["Name"]))
    plain["CapAdd"] = [name.removeprefix("CAP_") for name in plain.get("CapAdd", ())]
    # A socket's directory is each server's own; an image has one id.
    text = json.dumps({**plain, "Image": entry["Image"]}, sort_keys=True)
    folder = next((m["Source"] for m in entry["Mounts"] if m["Destination"] == "/run/llmlab"), "-")
    return dict(json.loads(text.replace(json.dumps(folder), '"SOCKETS"')))


@pytest.mark.parametrize(
    ("options", "open_to"),
    [
        ({}, set()),
        ({"memory": "700m", "cpus": 0.5, "pids": 100}, set()),
        ({"root": "writable"}, {"F1"}),
        ({"profile": "video"}, VIDEO),
        ({"profile": "none"}, NONE),
    ],
    ids=("sealed", "limits", "writable", "video", "none"),
)
def test_what_is_pasted_is_what_start_makes(place, options, open_to, isolated_runtime):
    shown = dry(name="a", **place, **options)
    assert inventory(isolated_runtime) == []
    started = llmlab.start("tiny", name="a", **place, **options)
    wanted = compared(inspected("a"))
    started.stop()
    subprocess.run(["bash", "-c", str(shown)], check=True, capture_output=True, text=True, timeout=60)
    assert compared(inspected("a")) == wanted
    eventually(lambda: llmlab.ps()[0].state == "ready")
    server = llmlab.attach("a")
    assert server.ask("What is a GPU?", max_tokens=5).text
    assert server.inspect().differences == ()
    audit = llmlab.audit("a")
    assert isinstance(audit, llmlab.Audit)
    assert set(audit.failed()) == open_to
    assert server.stop().names == ("a",)
    assert inventory(isolated_runtime) == []


def test_pasted_twice_the_first_one_goes_on(place, isolated_runtime):
    script = dry(name="a", **place).script
    subprocess.run(["bash", "-c", script], check=True, capture_output=True, timeout=60)
    again = subprocess.run(["bash", "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert again.returncode
    eventually(lambda: llmlab.ps()[0].state == "ready")
    with pytest.raises(NameTakenError, match="runs already"):
        dry(name="a", **place)
    assert dry(**place).name == "tiny"


def test_what_was_removed_by_another_tool_leaves_nothing(place, isolated_runtime):
    subprocess.run(["bash", "-c", dry(name="a", **place).script], check=True, capture_output=True, timeout=60)
    eventually(lambda: llmlab.ps()[0].state == "ready")
    subprocess.run(["docker", "rm", "-f", inspected("a")["Id"]], check=True, capture_output=True)
    assert list(llmlab.ps()) == []
    assert inventory(isolated_runtime) == []


def test_a_directory_that_waits_for_its_server_is_not_swept(place, isolated_runtime):
    folder = isolated_runtime / ".hand" / "a" / "socket"
    folder.mkdir(parents=True)
    llmlab.ps()
    assert folder.exists()
    folder.rmdir()
    folder.parent.rmdir()
    folder.parent.parent.rmdir()


@pytest.mark.parametrize(
    "options", [{"expose": 0}, {"profile": "exposed"}, {"transport": "relay"}, {"transport": "sidecar"}]
)
def test_what_takes_several_containers_is_refused(place, options, isolated_runtime):
    with pytest.raises(UsageError, match="more than one container"):
        dry(**place, **options)
    assert inventory(isolated_runtime) == []


def test_a_model_that_is_not_here_is_not_fetched(place, require_engine, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMLAB_LLAMA_SERVER", str(require_engine.server))
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="not here") as caught:
        llmlab.start("synthetic:smollm2-135m:Q4_0", dry_run=True, force=True)
    assert "llmlab pull" in caught.value.hint


def test_a_name_that_cannot_be_one(place):
    with pytest.raises(UsageError, match="cannot be a name"):
        dry(name="../x", **place)
    with pytest.raises(LabError):
        dry(name="x" * 41, **place)


def test_at_the_command_line(place):
    shown = run_cli("start", "tiny", "--name", "a", "--dry-run").stdout
    assert "docker run --detach \\\n" in shown or "podman run --detach \\\n" in shown
    data = json.loads(run_cli("start", "tiny", "--name", "a", "--dry-run", "--json").stdout)
    # The record in the label has the time of day.
    assert data["script"].split("--label")[0] in shown
    assert data["command"][:2] == data["flags"][0]["words"][:2]
    assert all(flag["why"] for flag in data["flags"])


def test_natively(require_engine, isolated_runtime):
    shown = dry(name="a", backend="native")
    assert inventory(isolated_runtime) == []
    assert shown.command[:2] == ("env", "-i")
    folder = isolated_runtime / ".hand" / "a"
    with subprocess.Popen(
        ["bash", "-c", "exec 2>/dev/null; " + shown.script.replace("env -i", "exec env -i")], stdout=subprocess.DEVNULL
    ) as process:  # fmt: skip
        eventually((folder / "socket" / "llm.sock").exists)
        environment = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        assert not [entry for entry in environment if entry.startswith("LLMLAB")]
        llmlab.ps()
        assert folder.exists()
        process.kill()
    llmlab.ps()
    assert inventory(isolated_runtime) == []
