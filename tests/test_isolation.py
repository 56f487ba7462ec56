"""The isolation that is asked for, and the receipt that says what is in force."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from llmlab.isolation import create_request, process_facts, receipt
from llmlab.isolation.profile import SCRATCH, seccomp_profile
from llmlab.isolation.receipt import ProcessFacts
from llmlab.profiles import SEALED, Mount, Profile
from llmlab.specs import Limits

ROOT = Path(__file__).parent.parent
LIMITS = Limits(memory_mib=512, cpus=1.5)
AF_UNIX, AF_INET = 1, 2


def request(profile: Profile = SEALED) -> dict[str, Any]:
    return create_request(
        profile,
        image="sha256:1234",
        argv=["/opt/llama-server", "--model", "/models/m.gguf"],
        environment={"HOME": "/scratch", "LANG": "C.UTF-8"},
        user="1000:1001",
        limits=LIMITS,
        mounts=[Mount(source="/a/m.gguf", target="/models/m.gguf"), Mount(source="/s", target="/run/llmlab", read_only=False)],
        labels={"llmlab.server": "a"},
    )  # fmt: skip


# What is asked for


def test_request_to_the_field():
    made = request()
    no_new, seccomp = made["HostConfig"].pop("SecurityOpt")
    assert no_new == "no-new-privileges:true"
    assert seccomp == "seccomp=" + seccomp_profile()
    assert made == {
        "Image": "sha256:1234",
        "Entrypoint": ["/opt/llama-server"],
        "Cmd": ["--model", "/models/m.gguf"],
        "Env": ["HOME=/scratch", "LANG=C.UTF-8"],
        "User": "1000:1001",
        "Labels": {"llmlab.server": "a"},
        "WorkingDir": "/",
        "Healthcheck": {"Test": ["NONE"]},
        "NetworkDisabled": True,
        "HostConfig": {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "Init": True,
            "Memory": 512 * 1024 * 1024,
            "MemorySwap": 512 * 1024 * 1024,
            "NanoCpus": 1_500_000_000,
            "PidsLimit": 256,
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "Tmpfs": {SCRATCH: "rw,nosuid,nodev,noexec,size=64m,mode=1777"},
            "Ulimits": [
                {"Name": "nofile", "Soft": 4096, "Hard": 4096},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": "/a/m.gguf",
                    "Target": "/models/m.gguf",
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rprivate"},
                },
                {
                    "Type": "bind",
                    "Source": "/s",
                    "Target": "/run/llmlab",
                    "ReadOnly": False,
                    "BindOptions": {"Propagation": "rprivate"},
                },
            ],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "local", "Config": {"max-size": "5m", "max-file": "2"}},
        },
    }


def test_nothing_is_published_added_or_shared():
    """Fields that would open the container are not there at all."""
    host = request()["HostConfig"]
    opening = {
        "PortBindings",
        "PublishAllPorts",
        "Binds",
        "Privileged",
        "CapAdd",
        "Devices",
        "DeviceRequests",
    }
    opening |= {
        "PidMode",
        "UTSMode",
        "UsernsMode",
        "VolumesFrom",
        "ExtraHosts",
        "Links",
        "GroupAdd",
        "Sysctls",
    }
    assert not opening & set(host)
    assert "ExposedPorts" not in request()


def test_a_request_is_json():
    assert json.loads(json.dumps(request())) == request()


# The system-call filter


def test_filter_denies_by_default():
    profile = json.loads(seccomp_profile())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "\n" not in seccomp_profile()


def test_filter_allows_sockets_of_the_unix_family_only():
    rules = json.loads(seccomp_profile())["syscalls"]
    about = [rule for rule in rules if "socket" in rule["names"]]
    assert about == [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": AF_UNIX, "op": "SCMP_CMP_EQ"}],
        }
    ]
    assert not [rule for rule in rules if "socketcall" in rule["names"]]


def test_filter_says_where_it_comes_from():
    text = resources.files("llmlab.isolation").joinpath("seccomp.json").read_text(encoding="utf-8")
    assert "tools/make_seccomp.py" in json.loads(text)["source"]
    assert "Apache License" in resources.files("llmlab.isolation").joinpath("seccomp.LICENSE").read_text()


@pytest.fixture(scope="module")
def make_seccomp() -> Any:
    found = importlib.util.spec_from_file_location("make_seccomp", ROOT / "tools/make_seccomp.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def default(*rules: dict[str, Any]) -> dict[str, Any]:
    """A small profile of the form of Docker's default one."""
    return {"defaultAction": "SCMP_ACT_ERRNO", "archMap": [], "syscalls": list(rules)}


PLAIN = {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}
SOCKETS = {
    "names": ["connect", "socket", "bind"],
    "action": "SCMP_ACT_ALLOW",
    "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}],
}
OLD = {"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"}


def test_narrowing_a_profile(make_seccomp):
    before = default(PLAIN, SOCKETS, OLD)
    kept = copy.deepcopy(before)
    after = make_seccomp.narrow(before)
    assert before == kept
    assert after["defaultAction"] == "SCMP_ACT_ERRNO"
    assert after["syscalls"] == [
        PLAIN,
        {**SOCKETS, "names": ["connect", "bind"]},
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": AF_UNIX, "op": "SCMP_CMP_EQ"}],
        },
    ]


@pytest.mark.parametrize(
    "profile",
    [
        default(PLAIN),
        default(SOCKETS, SOCKETS),
        default(),
        {**default(SOCKETS), "defaultAction": "SCMP_ACT_ALLOW"},
    ],
    ids=["no socket rule", "two", "empty", "allowed by default"],
)
def test_another_profile_than_expected_is_refused(make_seccomp, profile):
    with pytest.raises(ValueError, match="by hand"):
        make_seccomp.narrow(profile)


def test_narrowing_what_is_narrow_changes_nothing(make_seccomp):
    shipped = json.loads(seccomp_profile())
    again = make_seccomp.narrow(shipped)
    assert again["syscalls"] == shipped["syscalls"]


# The receipt

SEEN = ProcessFacts(
    uids=(1000, 1000, 1000, 1000),
    capabilities=0,
    no_new_privileges=True,
    seccomp=2,
    interfaces=("lo",),
    root_read_only=True,
)


def recorded(**host: Any) -> dict[str, Any]:
    """What `docker inspect` says of a container made from our request."""
    made = request()
    return {
        "HostConfig": {**made["HostConfig"], **host},
        "Config": {"User": made["User"]},
        "NetworkSettings": {"Ports": {}},
    }


def verdicts(entry: dict[str, Any], facts: ProcessFacts = SEEN) -> dict[str, bool | None]:
    return {control.name: control.agrees for control in receipt(SEALED, LIMITS, "1000:1001", entry, facts)}


CONTROLS = [
    "network", "published ports", "root file system", "capabilities", "no new privileges", "system calls",
    "user", "memory", "CPU", "processes",
]  # fmt: skip


def test_receipt_of_what_was_asked_for():
    assert verdicts(recorded()) == dict.fromkeys(CONTROLS, True)


@pytest.mark.parametrize(
    ("changes", "control"),
    [
        ({"NetworkMode": "bridge"}, "network"),
        ({"ReadonlyRootfs": False}, "root file system"),
        ({"CapDrop": []}, "capabilities"),
        ({"CapDrop": None}, "capabilities"),
        ({"CapDrop": ["NET_RAW"]}, "capabilities"),
        ({"CapAdd": ["SYS_ADMIN"]}, "capabilities"),
        ({"Privileged": True}, "capabilities"),
        ({"SecurityOpt": ["seccomp=" + seccomp_profile()]}, "no new privileges"),
        ({"SecurityOpt": ["no-new-privileges:false", "seccomp=" + seccomp_profile()]}, "no new privileges"),
        ({"SecurityOpt": ["no-new-privileges:true"]}, "system calls"),
        ({"SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"]}, "system calls"),
        ({"SecurityOpt": ["no-new-privileges:true", 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']}, "system calls"),
        ({"Memory": 0}, "memory"),
        ({"Memory": None}, "memory"),
        ({"MemorySwap": -1}, "memory"),
        ({"NanoCpus": 0}, "CPU"),
        ({"PidsLimit": None}, "processes"),
        ({"PidsLimit": 0}, "processes"),
    ],
)  # fmt: skip
def test_receipt_marks_what_the_engine_recorded_otherwise(changes, control):
    found = verdicts(recorded(**changes))
    assert found.pop(control) is False
    assert all(found.values())


@pytest.mark.parametrize(
    ("facts", "control"),
    [
        ({"interfaces": ("lo", "eth0")}, "network"),
        ({"root_read_only": False}, "root file system"),
        ({"capabilities": 0x0400}, "capabilities"),
        ({"no_new_privileges": False}, "no new privileges"),
        ({"seccomp": 0}, "system calls"),
        ({"seccomp": 1}, "system calls"),
        ({"uids": (1000, 0, 0, 0)}, "user"),
    ],
)
def test_receipt_marks_what_is_not_in_force(facts, control):
    values = {name: getattr(SEEN, name) for name in ProcessFacts.__slots__}
    found = verdicts(recorded(), ProcessFacts(**{**values, **facts}))
    assert found.pop(control) is False
    assert all(found.values())


def test_receipt_marks_another_user_and_published_ports():
    entry = recorded()
    entry["Config"]["User"] = "root"
    entry["NetworkSettings"]["Ports"] = {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}],
        "81/tcp": None,
    }
    found = receipt(SEALED, LIMITS, "1000:1001", entry, SEEN)
    wrong = {control.name: control.recorded for control in found if control.agrees is False}
    assert set(wrong) == {"user", "published ports"}
    assert "80/tcp" in str(wrong["published ports"])
    assert "81/tcp" not in str(wrong["published ports"])


def test_receipt_without_a_process_says_what_was_not_seen():
    found = receipt(SEALED, LIMITS, "1000:1001", recorded(), ProcessFacts())
    assert all(control.in_force is None for control in found)
    assert all(control.agrees for control in found)


def test_receipt_of_an_empty_record_agrees_with_nothing():
    """An engine that records nothing has confirmed nothing."""
    found = receipt(SEALED, LIMITS, "1000:1001", {}, ProcessFacts())
    assert [control.name for control in found if control.agrees] == ["published ports"]


# What the kernel says


def test_facts_of_this_process():
    facts = process_facts(os.getpid())
    if facts == ProcessFacts():
        pytest.skip("no /proc here")
    assert facts.uids is not None
    assert facts.uids[1] == os.geteuid()
    assert facts.interfaces is not None
    assert "lo" in facts.interfaces
    assert isinstance(facts.root_read_only, bool)
    assert isinstance(facts.no_new_privileges, bool)


@pytest.mark.parametrize("pid", [None, 0, 2**22 + 1])
def test_facts_of_no_process_are_unknown(pid):
    assert process_facts(pid) == ProcessFacts()
