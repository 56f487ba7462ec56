"""The isolation that is asked for, and the receipt that says what is in force."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import resource
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import llmlab
from llmlab.backends import docker_api
from llmlab.backends.container_receipt import server_pid
from llmlab.isolation import ProcessFacts, Sources, create_request, process_facts, receipt
from llmlab.isolation.facts import Capabilities, Interface, MountPoint
from llmlab.isolation.profile import SCRATCH, seccomp_profile
from llmlab.profiles import PROFILES, SEALED, Mount, Profile
from llmlab.specs import Endpoint, Limits
from tests import examples

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
                {"Name": "nofile", "Soft": 192, "Hard": 192},
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


def test_filter_lets_nobody_change_permissions():
    """What is taken from the container's user when its server is ready stays taken."""
    allowed = {name for rule in json.loads(seccomp_profile())["syscalls"] for name in rule["names"]}
    assert not {name for name in allowed if "chmod" in name or "setxattr" in name or "removexattr" in name}
    assert "open" in allowed


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

LO = Interface("lo", 0, 0, 0, 0)
ETH0 = Interface("eth0", 10, 1, 20, 2)
NO_CAPABILITIES = Capabilities(effective=0, permitted=0, bounding=0, ambient=0)
NAMESPACES = dict.fromkeys(("pid", "ipc", "uts", "mnt", "net", "cgroup"), True)


def point(target: str, kind: str = "ext4", *options: str, size: str = "") -> MountPoint:
    return MountPoint(target, kind, "/x", frozenset(options), frozenset({size} if size else ()))


MOUNTS = (
    point("/", "overlay", "ro"),
    point("/proc", "proc", "rw"),
    point("/dev", "tmpfs", "rw"),
    point("/proc/keys", "tmpfs", "rw"),
    point("/etc/hosts", "ext4", "rw"),
    point(SCRATCH, "tmpfs", "rw", "nosuid", "nodev", "noexec", size="size=65536k"),
    point("/models/m.gguf", "ext4", "ro"),
    point("/run/llmlab", "ext4", "rw"),
)
SEEN = ProcessFacts(
    uids=(1000,) * 4,
    gids=(1001,) * 4,
    groups=(1001,),
    uid_map=((0, 0, 4294967295),),
    gid_map=((0, 0, 4294967295),),
    capabilities=NO_CAPABILITIES,
    no_new_privileges=True,
    seccomp=2,
    seccomp_filters=1,
    interfaces=(LO,),
    mounts=MOUNTS,
    own_namespaces=NAMESPACES,
    open_files=192,
    memory_bytes=512 << 20,
    swap_bytes=0,
    cpus=1.5,
    pids=256,
    label="",
    gpu_nodes=(),
)
RECORD = examples.record(
    backend="container",
    spec=examples.spec(model=examples.model(path=Path("/a/m.gguf"), files=(Path("/a/m.gguf"),))),
    limits=LIMITS,
    profile=SEALED,
    user="1000:1001",
    image="x@sha256:1234",
    transport="socket",
    endpoint=Endpoint(socket=Path("/s/llm.sock")),
)


def recorded(**host: Any) -> dict[str, Any]:
    """What `docker inspect` says of a container made from our request."""
    made = request()
    mounts = [
        {"Destination": m["Target"], "Source": m["Source"], "RW": not m["ReadOnly"], "Type": "bind"}
        for m in made["HostConfig"]["Mounts"]
    ]
    return {
        "HostConfig": {**made["HostConfig"], **host},
        "Config": {"User": made["User"]},
        "NetworkSettings": {"Ports": {}},
        "Mounts": mounts,
        "Image": "sha256:1234",
    }  # fmt: skip


def sources(entry: dict[str, Any] | None = None, facts: ProcessFacts = SEEN, **more: Any) -> Sources:
    values: dict[str, Any] = {
        "record": RECORD,
        "entry": recorded() if entry is None else entry,
        "facts": facts,
        "machine_bytes": 8 << 30,
        "endpoint": "a socket",
        "endpoint_agrees": True,
        "mounts": (Mount(source="/s", target="/run/llmlab", read_only=False),),
    }
    return Sources(**{**values, **more})


def differing(*args: Any, **more: Any) -> list[str]:
    return [control.name for control in receipt(sources(*args, **more)) if control.agrees is False]


def test_receipt_of_what_was_asked_for():
    found = receipt(sources())
    assert {control.name: control.verdict for control in found if control.verdict != "as asked"} == {
        "log": "as recorded",
        "image": "as recorded",
    }
    assert len(found) == len({control.name for control in found})


@pytest.mark.parametrize(
    ("changes", "controls"),
    [
        ({"NetworkMode": "bridge"}, ["network"]),
        ({"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "80"}]}}, ["published ports"]),
        ({"ReadonlyRootfs": False}, ["root file system"]),
        ({"Tmpfs": None}, ["scratch"]),
        ({"Tmpfs": {SCRATCH: "rw,nosuid,nodev,size=64m"}}, ["scratch"]),
        ({"Tmpfs": {SCRATCH: "rw,nosuid,nodev,noexec"}}, ["scratch"]),
        ({"Tmpfs": {SCRATCH: "rw,nosuid,nodev,noexec,size=1g"}}, ["scratch"]),
        ({"CapDrop": []}, ["capabilities"]),
        ({"CapDrop": None}, ["capabilities"]),
        ({"CapDrop": ["NET_RAW"]}, ["capabilities"]),
        ({"CapAdd": ["SYS_ADMIN"]}, ["capabilities"]),
        ({"Privileged": True}, ["capabilities"]),
        ({"SecurityOpt": ["seccomp=" + seccomp_profile()]}, ["no new privileges"]),
        ({"SecurityOpt": ["no-new-privileges:false", "seccomp=" + seccomp_profile()]}, ["no new privileges"]),
        ({"SecurityOpt": ["no-new-privileges:true"]}, ["system calls"]),
        ({"SecurityOpt": ["no-new-privileges:true", "seccomp=unconfined"]}, ["system calls"]),
        ({"SecurityOpt": ["no-new-privileges", 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']}, ["system calls"]),
        ({"SecurityOpt": ["no-new-privileges", "seccomp=" + seccomp_profile(), "apparmor=mine"]}, ["security label"]),
        ({"PidMode": "host"}, ["namespaces"]),
        ({"IpcMode": "container:1234"}, ["namespaces"]),
        ({"CgroupnsMode": "host"}, ["namespaces"]),
        ({"Memory": 1 << 20, "MemorySwap": 1 << 20}, ["memory"]),
        ({"Memory": 0, "MemorySwap": 0}, ["memory", "swap"]),
        ({"MemorySwap": -1}, ["swap"]),
        ({"MemorySwap": 0}, ["swap"]),
        ({"NanoCpus": 0}, ["CPU"]),
        ({"PidsLimit": None}, ["processes"]),
        ({"PidsLimit": 0}, ["processes"]),
        ({"Ulimits": None}, ["open files"]),
        ({"Devices": [{"PathInContainer": "/dev/kvm"}]}, ["devices"]),
        ({"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}]}, ["devices"]),
        ({"LogConfig": {"Type": "json-file"}}, ["log"]),
    ],
)  # fmt: skip
def test_receipt_marks_what_the_engine_recorded_otherwise(changes, controls):
    assert differing(recorded(**changes)) == controls


@pytest.mark.parametrize(
    ("changes", "controls"),
    [
        ({"interfaces": (LO, ETH0)}, ["network"]),
        ({"own_namespaces": {**NAMESPACES, "net": False}}, ["network"]),
        ({"own_namespaces": {**NAMESPACES, "ipc": False}}, ["namespaces"]),
        ({"mounts": (point("/", "overlay", "rw"), *MOUNTS[1:])}, ["root file system"]),
        ({"mounts": (*MOUNTS, point("/models/m.gguf", "ext4", "rw"))}, ["models"]),
        ({"mounts": (*MOUNTS, point("/host/etc", "ext4", "ro"))}, ["other mounts"]),
        ({"mounts": (*MOUNTS, point("/var", "tmpfs", "rw"))}, ["other mounts"]),
        ({"mounts": (*MOUNTS, MountPoint("/dev", "devtmpfs", "/", frozenset()))}, ["other mounts"]),
        ({"mounts": MOUNTS[:5] + MOUNTS[6:]}, ["scratch"]),
        ({"mounts": (*MOUNTS, point(SCRATCH, "tmpfs", "nodev", "noexec", size="size=64m"))}, ["scratch"]),
        ({"mounts": (*MOUNTS, point(SCRATCH, "tmpfs", "nosuid", "nodev", "noexec"))}, ["scratch"]),
        ({"capabilities": Capabilities(effective=1, permitted=1, bounding=1, ambient=0)}, ["capabilities"]),
        ({"capabilities": Capabilities(effective=0, permitted=0, bounding=1 << 21, ambient=0)}, ["capabilities"]),
        ({"no_new_privileges": False}, ["no new privileges"]),
        ({"seccomp": 0}, ["system calls"]),
        ({"seccomp": 1}, ["system calls"]),
        ({"uids": (1000, 0, 0, 0)}, ["user"]),
        ({"uids": (1000, 1000, 0, 1000)}, ["user"]),
        ({"groups": (1001, 999)}, ["user"]),
        ({"memory_bytes": 1 << 30}, ["memory"]),
        ({"memory_bytes": math.inf}, ["memory"]),
        ({"memory_bytes": 16 << 30}, ["memory"]),
        ({"swap_bytes": 1 << 20}, ["swap"]),
        ({"cpus": 2.0}, ["CPU"]),
        ({"cpus": math.inf}, ["CPU"]),
        ({"pids": math.inf}, ["processes"]),
        ({"open_files": 1 << 20}, ["open files"]),
        ({"gpu_nodes": ("nvidia0",)}, ["devices"]),
        # A tighter limit above it is none of ours, and no harm.
        ({"memory_bytes": 1 << 20, "cpus": 0.5, "pids": 16}, []),
    ],
)  # fmt: skip
def test_receipt_marks_what_is_not_in_force(changes, controls):
    assert differing(facts=replace(SEEN, **changes)) == controls


def test_receipt_marks_mounts_and_an_image_that_were_not_asked_for():
    entry = recorded()
    entry["Mounts"].append({"Destination": "/host", "Source": "/", "RW": False})
    entry["Image"] = "sha256:9"
    assert differing(entry) == ["other mounts", "image"]
    entry = recorded()
    entry["Mounts"][0]["RW"] = True
    assert differing(entry) == ["models"]
    entry = recorded()
    entry["Mounts"][0]["Source"] = "/another.gguf"
    assert differing(entry) == ["models"]
    entry = recorded()
    del entry["Mounts"][1]
    assert differing(entry) == ["other mounts"]


def test_a_limit_above_what_the_machine_has_is_none():
    found = {control.name: control for control in receipt(sources(machine_bytes=256 << 20))}
    assert found["memory"].agrees is False
    assert "more than this machine has" in (found["memory"].in_force or "")


def test_an_apparmor_profile_that_is_not_in_force():
    confined = {**recorded(), "AppArmorProfile": "docker-default"}
    assert differing(confined, replace(SEEN, label="docker-default (enforce)")) == []
    assert differing(confined, replace(SEEN, label="unconfined")) == ["security label"]


def test_a_user_of_a_user_namespace():
    mapped = replace(SEEN, uids=(100_000,) * 4, gids=(100_000,) * 4, groups=(), uid_map=((0, 100_000, 65536),), gid_map=((0, 100_000, 65536),))  # fmt: skip
    record = replace(RECORD, user="0:0")
    entry = recorded()
    entry["Config"]["User"] = "0:0"
    user = next(c for c in receipt(sources(entry, mapped, record=record)) if c.name == "user")
    assert user.verdict == "as asked"
    assert user.in_force == "uid 100000, gid 100000 (in there 0)"


def test_receipt_without_a_process_says_what_was_not_seen():
    found = receipt(sources(facts=ProcessFacts(), endpoint=None, endpoint_agrees=None))
    assert all(control.in_force is None for control in found)
    assert {control.verdict for control in found} == {"as recorded", "unknown"}


def test_receipt_of_an_empty_record_agrees_with_nothing():
    """An engine that records nothing has confirmed nothing."""
    found = receipt(sources({}, ProcessFacts(), endpoint=None, endpoint_agrees=None))
    assert [control.name for control in found if control.agrees] == []
    assert all(control.recorded is None for control in found)


def test_what_was_not_asked_for_is_left_open():
    for name in ("none", "video"):
        record = replace(
            RECORD, profile=PROFILES[name], limits=Limits(memory_mib=None, cpus=None, pids=None), user=""
        )
        root = replace(SEEN, uids=(0,) * 4, gids=(0,) * 4)
        found = {c.name: c.left_open for c in receipt(sources(facts=root, record=record))}
        assert found["network"]
        assert found["user"]
        assert found["processes"]
        assert found["root file system"] is (name == "none")


# What the kernel says


def test_facts_of_this_process():
    facts = process_facts(os.getpid())
    if facts == ProcessFacts():
        pytest.skip("no /proc here")
    assert facts.uids is not None
    assert facts.uids[1] == os.geteuid()
    assert facts.gids is not None
    assert facts.inside(os.geteuid()) == os.geteuid()
    assert facts.interfaces is not None
    assert "lo" in {interface.name for interface in facts.interfaces}
    assert facts.root is not None
    assert isinstance(facts.no_new_privileges, bool)
    assert facts.own_namespaces
    assert not any(facts.own_namespaces.values())
    assert facts.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize("pid", [None, 0, 2**22 + 1])
def test_facts_of_no_process_are_unknown(pid):
    assert process_facts(pid) == ProcessFacts()
    assert ProcessFacts().mount("/") is None
    assert ProcessFacts().inside(0) is None


# Real containers that are not what their label says

DEVIATIONS = [
    ({"CapAdd": ["SYS_PTRACE"]}, ["capabilities"]),
    ({"ReadonlyRootfs": False}, ["root file system"]),
    ({"NetworkMode": "bridge"}, ["network"]),
    ({"Memory": "double", "MemorySwap": "double"}, ["memory"]),
    ({"MemorySwap": -1}, ["swap"]),
    ({"Mounts": "extra"}, ["other mounts"]),
    ({"Mounts": "writable"}, ["models"]),
    ({"SecurityOpt": "unconfined"}, ["system calls"]),
    ({"SecurityOpt": "privileges"}, ["no new privileges"]),
    ({"SecurityOpt": "apparmor"}, ["security label"]),
    ({"PidsLimit": 1000}, ["processes"]),
    ({"NanoCpus": 2_000_000_000}, ["CPU"]),
    ({"Tmpfs": {SCRATCH: "rw,nosuid,nodev,exec,size=64m"}}, ["scratch"]),
    ({"IpcMode": "host"}, ["namespaces"]),
    ({"PidMode": "host"}, ["namespaces"]),
    ({"Ulimits": [{"Name": "nofile", "Soft": 8192, "Hard": 8192}]}, ["open files"]),
    ({"LogConfig": {"Type": "json-file", "Config": {}}}, ["log"]),
    ({"User": "65534:65533"}, ["user"]),
    ({"Privileged": True}, ["capabilities", "system calls"]),
]


@pytest.mark.usefixtures("require_docker", "require_engine")
@pytest.mark.parametrize(("changes", "controls"), DEVIATIONS, ids=lambda value: str(value)[:40])
def test_inspect_shows_what_an_engine_did_otherwise(monkeypatch, changes, controls):
    """A container that says it is sealed, created with one thing weaker."""
    monkeypatch.setattr(docker_api.DockerApi, "create", deviating(changes))
    if "MemorySwap" in changes and not swap_is_accounted():
        pytest.skip("this kernel does not count swap")
    if changes.get("NanoCpus") and (os.cpu_count() or 1) < 2:
        pytest.skip("needs two CPUs")
    server = llmlab.start("tiny", name="a", backend="container", cpus=1)
    entry = docker_api.connect().container(server.record.container_id or "")
    if changes.get("Privileged") and entry and process_facts(server_pid(entry)).seccomp:
        # Newer engines let a privileged container have the filter that it was given.
        controls = ["capabilities"]
    seen = server.inspect()
    assert [control.name for control in seen.differences] == controls
    assert seen.exit_status == 1
    assert str(seen).count("DIFFERS") == len(controls) + 1  # and the sentence above the table
    assert "✖" in seen.to_html()


WEAKER = {
    "double": lambda found: found * 2,
    "extra": lambda found: [
        *found,
        {"Type": "bind", "Source": "/etc", "Target": "/host", "ReadOnly": True},
    ],
    "writable": lambda found: [{**mount, "ReadOnly": False} for mount in found],
    "unconfined": lambda _: ["no-new-privileges:true", "seccomp=unconfined"],
    "privileges": lambda found: [option for option in found if not option.startswith("no-new")],
    "apparmor": lambda found: [*found, "apparmor=docker-default"],
}


def deviating(changes: dict[str, Any]) -> Any:
    """`DockerApi.create` of an engine that does something else than it is asked for."""
    create = docker_api.DockerApi.create

    def wrong(self: Any, name: str, request: dict[str, Any]) -> str:
        for key, value in changes.items():
            place = request if key == "User" else request["HostConfig"]
            weaken = WEAKER.get(value) if isinstance(value, str) else None
            place[key] = weaken(place[key]) if weaken else value
        if "NetworkMode" in changes:
            request["NetworkDisabled"] = False
        return create(self, name, request)

    return wrong


def swap_is_accounted() -> bool:
    return process_facts(os.getpid()).swap_bytes is not None


@pytest.mark.usefixtures("require_docker", "require_engine")
def test_traffic_of_a_sealed_server_and_of_an_open_one():
    sealed = llmlab.start("tiny", name="a", backend="container")
    sealed.ask("What is a GPU?", max_tokens=5)
    traffic = sealed.inspect().traffic
    assert traffic is not None
    assert (traffic.sent_bytes, traffic.received_bytes, traffic.outward) == (0, 0, ())
    assert "sent 0 B, received 0 B: it has no interface but loopback" in str(sealed.inspect())
    sealed.stop()
    video = llmlab.start("tiny", name="b", backend="container", profile="video")
    before = video.inspect().traffic
    video.ask("What is a GPU?", max_tokens=5)
    after = video.inspect().traffic
    assert before is not None
    assert after is not None
    assert before.sent_bytes is not None
    assert after.sent_bytes is not None
    assert after.sent_bytes > before.sent_bytes > 0
    assert "eth0" in str(after)


@pytest.mark.usefixtures("require_engine")
def test_a_native_server_is_honestly_bare():
    seen = llmlab.start("tiny", name="a", backend="native").inspect()
    assert not seen.differences
    assert {control.asked for control in seen.isolation} == {"nothing"}
    found = {control.name: control.verdict for control in seen.isolation}
    assert found["network"] == found["user"] == found["root file system"] == "left open"
    assert seen.traffic is not None
    assert seen.traffic.sent_bytes is None
    assert "unknown" in str(seen.traffic)
