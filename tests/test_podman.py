"""Podman, which speaks Docker's API with differences: as sealed, and as honestly told.

The address of one stands in `LLMLAB_PODMAN`, as in `DOCKER_HOST`; without it, the
ones of `tools/other_engines.py` are looked for.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

import llmlab
from llmlab.auditing import Audit
from llmlab.backends import docker_api
from llmlab.errors import LabError
from llmlab.isolation import ProcessFacts, podman, receipt
from llmlab.isolation.facts import MountPoint
from tests.conftest import missing, other_engines
from tests.test_isolation import SEEN, recorded, request, sources

LOG = ("k8s-file", 5_000_000)
LIMITS = {"memory", "swap", "CPU", "processes"}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> docker_api.DockerApi:
    """The first Podman that this user may use."""
    why = "LLMLAB_PODMAN names none, and none of tools/other_engines.py runs"
    given = os.environ.get("LLMLAB_PODMAN")
    for address in [given] if given else other_engines("podman"):
        monkeypatch.setenv("DOCKER_HOST", address)
        try:
            found = docker_api.connect()
            found.ping()
        except LabError as error:
            why = f"{address}: {error}"
            continue
        if not found.is_podman:
            why = f"{address} is no Podman"
        elif found.is_rootless() and os.getuid() == 0:
            why = f"{address} is another user's"
        else:
            return found
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    return missing("podman", why)


@pytest.fixture
def server(engine: docker_api.DockerApi, require_engine: Any) -> llmlab.Server:
    return llmlab.start("tiny", name="pod")


def own_cgroup(engine: docker_api.DockerApi) -> bool:
    """Podman 4 on control groups v1 shares that namespace, whatever it is told."""
    old = int(str(engine.info["ServerVersion"]).split(".")[0]) < 5
    return not (old and str(engine.info.get("CgroupVersion")) == "1")


def limits_nothing(engine: docker_api.DockerApi) -> bool:
    return engine.is_rootless() and str(engine.info.get("CgroupVersion")) == "1"


# A real one


def test_the_receipt_differs_only_where_podman_does_not_do_it(engine, server):
    expected = LIMITS if limits_nothing(engine) else set()
    expected |= set() if own_cgroup(engine) else {"namespaces"}
    controls = server.inspect().isolation
    assert {control.name for control in controls if control.agrees is False} == expected
    assert {control.name for control in controls if control.agrees is None} == set()


def test_the_receipt_names_what_podman_was_told(engine, server):
    by_name = {control.name: control for control in server.inspect().isolation}
    assert by_name["log"].asked == "k8s-file, 5m"
    assert by_name["log"].in_force == "k8s-file, at most 5 MB"
    assert by_name["system calls"].recorded == "llmlab's filter, as a file"
    assert "/run closed" in str(by_name["other mounts"].in_force)
    assert by_name["capabilities"].in_force == "none"


def test_the_audit_passes_what_podman_does(engine, server):
    audit = llmlab.audit("pod")
    assert isinstance(audit, Audit)
    found = {finding.id: finding.verdict for finding in audit.findings}
    why = [(f.id, f.observed) for f in audit.findings if f.verdict == "inconclusive"]
    failed = {check for check, verdict in found.items() if verdict == "fail"}
    expected = {"R1", "R2", "R3"} if limits_nothing(engine) else set()
    assert failed == expected | (set() if own_cgroup(engine) else {"P6"})
    if not engine.is_rootless():
        assert why == []


def test_a_start_says_what_is_not_limited(engine, server):
    notes = [note for note in server.record.notes if "does not limit" in note]
    assert bool(notes) == limits_nothing(engine)


# Its records, without one

ID = "f" * 64


def podmans(**more: Any) -> dict[str, Any]:
    """What Podman says of a sealed server: in Docker's words, as far as it has them."""
    host = podman.adapted(request())["HostConfig"]
    host |= {"CapDrop": list(podman.DEFAULT_CAPABILITIES), "LogConfig": {"Type": "json-file"}}
    entry = recorded()
    return {**entry, "Id": ID, "HostConfig": {**entry["HostConfig"], **host, **more}}


def seen_in(*further: MountPoint) -> ProcessFacts:
    closed = frozenset({"ro", "noexec"})
    own = [MountPoint(target, "tmpfs", "/", closed) for target in sources(podman=True).closed]
    return replace(SEEN, mounts=(*(SEEN.mounts or ()), *own, *further))


def differs(*further: MountPoint, log: tuple[str, int | None] | None = LOG, **host: Any) -> list[str]:
    found = receipt(sources(podmans(**host), seen_in(*further), podman=True, log=log))
    return [control.name for control in found if control.agrees is False]


def accounts(container: str) -> MountPoint:
    root = f"/var/lib/containers/storage/overlay-containers/{container}/userdata/passwd"
    return MountPoint("/etc/passwd", "ext4", root, frozenset({"ro"}))


def test_podmans_words_for_the_same_are_no_difference():
    mask = MountPoint("/sys/firmware", "ext4", "/run/crun/.empty-directory", frozenset({"ro"}))
    assert differs(accounts(ID), mask) == []


def test_what_only_looks_like_podmans_is_a_difference():
    assert differs(accounts("e" * 64)) == ["other mounts"]
    assert differs(MountPoint("/etc/passwd", "ext4", "/etc/passwd", frozenset({"ro"}))) == ["other mounts"]
    assert differs(MountPoint("/sys/firmware", "ext4", "/home", frozenset({"ro"}))) == ["other mounts"]
    assert differs(MountPoint("/run", "tmpfs", "/", frozenset({"rw"}))) == ["other mounts"]


def test_a_log_without_a_bound_a_capability_kept_and_another_filter_are_differences(tmp_path):
    assert differs(log=("k8s-file", None)) == ["log"]
    assert differs(log=None) == []
    assert differs(CapDrop=podman.DEFAULT_CAPABILITIES[1:]) == ["capabilities"]
    assert differs(CapAdd=["SYS_ADMIN"]) == ["capabilities"]
    other = tmp_path / "filter.json"
    other.write_text("{}")
    assert differs(SecurityOpt=["no-new-privileges", f"seccomp={other}"]) == ["system calls"]
    assert differs(SecurityOpt=["no-new-privileges", "seccomp=/nowhere"]) == ["system calls"]


def test_a_request_in_podmans_words():
    host = podman.adapted({"HostConfig": {"Ulimits": [{"Name": "RLIMIT_NOFILE", "Soft": 1, "Hard": 1}]}})
    assert host["HostConfig"]["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 1}]
    open_ = podman.adapted({"HostConfig": {"MaskedPaths": [], "ReadonlyPaths": []}})
    assert open_["HostConfig"]["SecurityOpt"] == ["unmask=ALL"]
    assert podman.adapted({"HostConfig": {"MaskedPaths": None}})["HostConfig"]["SecurityOpt"] == []


def test_nobody_passes_for_a_monitor():
    assert podman.log_in_force(os.getpid(), ID) is None
    assert podman.log_in_force(None, ID) is None
