"""What is measured of containers, processes and the machine: from made-up files, and for real."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmlab
from llmlab.backends import docker_api
from llmlab.backends.container_receipt import server_pid
from llmlab.isolation.cgroups import Groups
from llmlab.telemetry.cgroup import CgroupSource
from llmlab.telemetry.host import HostSource
from llmlab.telemetry.kernel_files import KernelFile
from llmlab.telemetry.metrics import HOST, Source
from llmlab.telemetry.process import ProcessSource
from llmlab.telemetry.rapl import RaplSource, rapl_sources

MIB = 1024 * 1024
PID = 42
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")

V1_FILES: Mapping[str, Mapping[str, str]] = {
    "cpu": {
        "cpu.stat": "nr_periods 100\nnr_throttled 10\nthrottled_time 5\n",
        "cpu.cfs_quota_us": "150000\n",
        "cpu.cfs_period_us": "100000\n",
    },
    "cpuacct": {"cpuacct.usage": "2000000000\n"},
    "memory": {
        "memory.usage_in_bytes": f"{100 * MIB}\n",
        "memory.limit_in_bytes": f"{512 * MIB}\n",
        "memory.stat": f"cache 1\ninactive_file 2\npgmajfault 3\ntotal_cache {40 * MIB}\n"
        f"total_pgmajfault 7\ntotal_inactive_file {30 * MIB}\n",
    },
    "blkio": {
        "blkio.throttle.io_service_bytes_recursive": f"8:0 Read {MIB}\n8:0 Write 0\n8:0 Total {MIB}\n"
        f"8:16 Read {MIB}\n8:16 Write {MIB}\nTotal {3 * MIB}\n"
    },
    "pids": {"pids.current": "5\n", "pids.max": "256\n"},
}
V2_FILES: Mapping[str, str] = {
    "cpu.stat": "usage_usec 2000000\nuser_usec 1\nnr_periods 100\nnr_throttled 10\nthrottled_usec 5\n",
    "cpu.max": "150000 100000\n",
    "memory.current": f"{100 * MIB}\n",
    "memory.max": f"{512 * MIB}\n",
    "memory.stat": f"anon 1\nfile {40 * MIB}\nfile_mapped 9\nworkingset_refault_file 8\n"
    f"inactive_file {30 * MIB}\npgmajfault 7\n",
    "io.stat": f"253:0 8:0 rbytes={MIB} wbytes=0 rios=3 dbytes=77\n8:16 rbytes={MIB} wbytes={MIB} rios=1\n",
    "pids.current": "5\n",
    "pids.max": "256\n",
}
# What the counters have gone to a second later.
LATER = {
    "usage_usec 2000000": "usage_usec 3500000",
    "2000000000\n": "3500000000\n",
    "nr_periods 100": "nr_periods 110",
    "nr_throttled 10": "nr_throttled 13",
    "pgmajfault 7": "pgmajfault 9",
    f"8:16 rbytes={MIB} wbytes={MIB}": f"8:16 rbytes={3 * MIB} wbytes={5 * MIB}",
    f"8:16 Read {MIB}\n8:16 Write {MIB}": f"8:16 Read {3 * MIB}\n8:16 Write {5 * MIB}",
}
RATES = {"cpu": 1.5, "throttled": 30.0, "faults": 2.0, "read": 2.0, "written": 4.0}
LEVELS = {"memory": 70.0, "cache": 40.0, "processes": 5.0}


class Tree:
    """A made-up `/proc` and `/sys/fs/cgroup`."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        self.files: list[Path] = []
        self.mounts = ""

    def mount(self, folder: Path, options: str, kind: str = "cgroup", top: str = "/") -> None:
        self.mounts += f"30 29 0:1 {top} {folder} rw - {kind} {kind} rw,{options}\n"

    def write(self, path: Path, text: str | bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    def belongs(self, text: str, ours: str = "") -> None:
        self.write(self.proc / str(PID) / "cgroup", text)
        self.write(self.proc / "self" / "cgroup", ours)
        self.write(self.proc / "self" / "mountinfo", self.mounts)

    def add(self, folder: Path, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            self.write(folder / name, text)
            self.files.append(folder / name)

    def change(self, changes: Mapping[str, str]) -> None:
        for path in self.files:
            text = path.read_text()
            for old, new in changes.items():
                text = text.replace(old, new)
            path.write_text(text)

    def source(self) -> CgroupSource:
        return CgroupSource("a", PID, self.proc)


def v1(folder: Path, path: str = "/docker/abc", below: str = "docker/abc", top: str = "/") -> Tree:
    tree = Tree(folder)
    for controller in V1_FILES:
        tree.mount(tree.root / controller, controller, top=top)
    tree.belongs("".join(f"{n}:{name}:{path}\n" for n, name in enumerate(V1_FILES, 1)) + f"0::{path}\n")
    for controller, files in V1_FILES.items():
        tree.add(tree.root / controller / below, files)
    return tree


def joined(folder: Path) -> Tree:
    """v1 as systemd mounts it: two controllers in one hierarchy."""
    tree = Tree(folder)
    for controllers in ("cpu,cpuacct", "memory", "blkio", "pids"):
        tree.mount(tree.root / controllers, controllers)
    tree.belongs("3:cpuacct,cpu:/docker/abc\n2:memory:/docker/abc\n4:blkio:/docker/abc\n5:pids:/docker/abc\n")
    tree.add(tree.root / "cpu,cpuacct" / "docker" / "abc", {**V1_FILES["cpu"], **V1_FILES["cpuacct"]})
    for controller in ("memory", "blkio", "pids"):
        tree.add(tree.root / controller / "docker" / "abc", V1_FILES[controller])
    return tree


def v2(folder: Path, path: str = "/system.slice/docker-abc.scope") -> Tree:
    tree = Tree(folder)
    tree.mount(tree.root, "nsdelegate", "cgroup2")
    tree.belongs(f"0::{path}\n")
    tree.add(tree.root / path.lstrip("/"), V2_FILES)
    return tree


def hybrid(folder: Path) -> Tree:
    """CPU and block devices in v1, memory and processes in v2."""
    tree = Tree(folder)
    for controller in ("cpu", "cpuacct", "blkio"):
        tree.mount(tree.root / controller, controller)
    tree.mount(tree.root / "unified", "nsdelegate", "cgroup2")
    tree.belongs("1:cpu:/docker/abc\n2:cpuacct:/docker/abc\n3:blkio:/docker/abc\n0::/docker/abc\n")
    for controller in ("cpu", "cpuacct", "blkio"):
        tree.add(tree.root / controller / "docker" / "abc", V1_FILES[controller])
    kept = {name: text for name, text in V2_FILES.items() if name.startswith(("memory", "pids"))}
    # Every v2 group has this file, also where the controller is v1's.
    tree.add(tree.root / "unified" / "docker" / "abc", {**kept, "cpu.stat": "usage_usec 1\n"})
    return tree


LAYOUTS: dict[str, Callable[[Path], Tree]] = {"v1": v1, "joined": joined, "v2": v2, "hybrid": hybrid}


@pytest.fixture(autouse=True)
def no_descriptor_left() -> Iterator[None]:
    """What a test opens through a source is closed at its end."""
    opened: list[KernelFile] = []
    original = KernelFile.__init__

    def recorded(self: KernelFile, path: Path | None) -> None:
        original(self, path)
        opened.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KernelFile, "__init__", recorded)
        yield
    assert not [file for file in opened if file.is_open]


def unknown(values: Mapping[str, float | None]) -> bool:
    return all(value is None for value in values.values())


def most(source: Source) -> dict[str, float | None]:
    return {metric.key: metric.most for metric in source.metrics}


# Control groups, made up


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_of_a_group(tmp_path, layout):
    tree = LAYOUTS[layout](tmp_path)
    source = tree.source()
    assert source.subject == "a"
    first = source.read(10.0)
    assert {key: first[key] for key in LEVELS} == LEVELS
    assert unknown({key: first[key] for key in RATES})
    tree.change(LATER)
    assert source.read(11.0) == pytest.approx(RATES | LEVELS)
    assert most(source) == {
        "cpu": 1.5,
        "throttled": 100.0,
        "memory": 512.0,
        "cache": None,
        "faults": None,
        "read": None,
        "written": None,
        "processes": 256.0,
    }
    assert set(first) == set(most(source))
    source.close()
    assert unknown(source.read(12.0))


def test_methods_name_the_version(tmp_path):
    source = hybrid(tmp_path).source()
    methods = {metric.key: metric.method for metric in source.metrics}
    source.close()
    assert "(v1)" in methods["cpu"]
    assert "cpuacct.usage" in methods["cpu"]
    assert "(v2)" in methods["memory"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_limits(tmp_path, layout):
    tree = LAYOUTS[layout](tmp_path)
    huge = str((1 << 63) - 4096)
    unlimited = {"cpu.cfs_quota_us": "-1\n", "cpu.max": "max 100000\n", "pids.max": "max\n"}
    unlimited |= {"memory.limit_in_bytes": f"{huge}\n", "memory.max": "max\n"}
    for path in tree.files:
        if path.name in unlimited:
            path.write_text(unlimited[path.name])
    tree.change({"nr_periods 100": "nr_periods 0", "nr_throttled 10": "nr_throttled 0"})
    source = tree.source()
    source.read(1.0)
    assert source.read(2.0)["throttled"] is None
    found = most(source)
    source.close()
    assert (found["cpu"], found["memory"], found["processes"]) == (None, None, None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_limits_of_whoever_shares_them(tmp_path, layout):
    """What is in force is told also of a group that is ours as well; what nobody tells is not "no limit"."""
    tree = LAYOUTS[layout](tmp_path)
    (tree.proc / "self" / "cgroup").write_bytes((tree.proc / str(PID) / "cgroup").read_bytes())
    groups = Groups(PID, tree.proc)
    assert not any(groups.apart(controller) for controller in ("cpu", "memory", "pids"))
    assert groups.least("memory", "memory.limit_in_bytes", "memory.max") == 512 * MIB
    assert groups.cpus() == 1.5
    assert groups.least("memory", "memory.nothing", "memory.nothing") is None
    assert groups.least("memory", "", "") is None
    for path in tree.files:
        if path.name in {"cpu.cfs_quota_us", "cpu.max"}:
            path.write_text("-1\n" if path.name == "cpu.cfs_quota_us" else "max 100000\n")
        if path.name == "pids.max":
            path.write_text("max\n")
    assert groups.cpus() == groups.least("pids", "pids.max", "pids.max") == math.inf
    assert Groups(PID + 1, tree.proc).folders("memory") == []


@pytest.mark.parametrize("layout", [v1, v2])
def test_the_tightest_limit_above_counts(tmp_path, layout):
    tree = layout(tmp_path)
    for path in list(tree.files):
        if path.name in {"memory.max", "memory.limit_in_bytes"}:
            tree.write(path.parent.parent / path.name, f"{64 * MIB}\n")
        if path.name == "cpu.max":
            tree.write(path.parent.parent / path.name, "50000 100000\n")
        if path.name == "cpu.cfs_quota_us":
            tree.write(path.parent.parent / path.name, "50000\n")
            tree.write(path.parent.parent / "cpu.cfs_period_us", "100000\n")
    source = tree.source()
    source.close()
    assert most(source)["memory"] == 64.0
    assert most(source)["cpu"] == 0.5


@pytest.mark.parametrize("layout", [v1, v2])
@pytest.mark.parametrize("path", ["/", "", "/..", "/../other", "relative", "/gone"])
def test_not_a_group_of_its_own(tmp_path, layout, path):
    """The root group counts the whole machine; one that cannot be seen counts nothing."""
    tree = layout(tmp_path)
    own = (tree.proc / str(PID) / "cgroup").read_text()
    tree.belongs("".join(line.rpartition(":")[0] + f":{path}\n" for line in own.splitlines()))
    # A v2 root group has some of these files, and v1's has all.
    for file in list(tree.files):
        tree.write(file.parent.parent.parent / file.name, file.read_bytes())
    source = tree.source()
    source.read(1.0)
    tree.change(LATER)
    assert unknown(source.read(2.0))
    assert len(source.metrics) == 8
    assert "no control group of its own" in source.metrics[0].method
    source.close()


def test_root_group_of_one_controller_only(tmp_path):
    tree = v1(tmp_path)
    text = (tree.proc / str(PID) / "cgroup").read_text()
    tree.belongs(text.replace("memory:/docker/abc", "memory:/"))
    source = tree.source()
    values = source.read(1.0)
    source.close()
    assert (values["memory"], values["cache"], values["processes"]) == (None, None, 5.0)
    assert most(source)["memory"] is None


@pytest.mark.parametrize("ours", ["/system.slice/docker-abc.scope", "/system.slice/docker-abc.scope/deeper"])
def test_a_group_that_we_are_in_as_well(tmp_path, ours):
    tree = v2(tmp_path)
    (tree.proc / "self" / "cgroup").write_text(f"0::{ours}\n")
    source = tree.source()
    assert unknown(source.read(1.0))
    source.close()
    (tree.proc / "self" / "cgroup").write_text(f"0::{ours.replace('abc', 'abcd')}\n")
    source = tree.source()
    assert source.read(1.0)["memory"] == 70.0
    source.close()


def test_what_is_mounted_begins_further_down(tmp_path):
    """In a container with v1, a directory is the group of that container."""
    tree = v1(tmp_path, path="/docker/outer/docker/inner", below="docker/inner", top="/docker/outer")
    source = tree.source()
    assert source.read(1.0)["memory"] == 70.0
    source.close()
    tree.belongs((tree.proc / str(PID) / "cgroup").read_text().replace("/docker/inner", ""))
    source = tree.source()
    assert unknown(source.read(1.0))
    source.close()


def test_missing_controllers(tmp_path):
    tree = v2(tmp_path)
    for path in tree.files:
        if not path.name.startswith("cpu.stat"):
            path.unlink()
    source = tree.source()
    source.read(1.0)
    stat = next(path for path in tree.files if path.name == "cpu.stat")
    # Without the controller, the group still counts CPU time, but no periods.
    stat.write_text("usage_usec 2500000\n")
    values = dict(source.read(2.0))
    source.close()
    assert values.pop("cpu") == 0.5
    assert unknown(values)


def test_counters_that_go_back(tmp_path):
    tree = v2(tmp_path)
    source = tree.source()
    source.read(1.0)
    tree.change(LATER)
    source.read(2.0)
    tree.change({new: old for old, new in LATER.items()})
    values = source.read(3.0)
    assert unknown({key: values[key] for key in RATES})
    assert {key: values[key] for key in LEVELS} == LEVELS
    tree.change(LATER)
    assert source.read(4.0) == pytest.approx(RATES | LEVELS)
    source.close()


def test_more_throttled_than_passed_is_nonsense(tmp_path):
    tree = v2(tmp_path)
    source = tree.source()
    source.read(1.0)
    tree.change({"nr_throttled 10": "nr_throttled 30"})
    assert source.read(2.0)["throttled"] is None
    assert source.read(3.0)["throttled"] == 0.0
    source.close()


def test_devices_that_have_done_nothing(tmp_path):
    tree = v2(tmp_path)
    stat = next(path for path in tree.files if path.name == "io.stat")
    stat.write_text("")
    source = tree.source()
    source.read(1.0)
    assert source.read(2.0)["read"] == 0.0
    source.close()


def test_older_kernels_count_bytes_of_the_group_alone(tmp_path):
    tree = v1(tmp_path)
    folder = tree.root / "blkio" / "docker" / "abc"
    recursive = folder / "blkio.throttle.io_service_bytes_recursive"
    recursive.rename(folder / "blkio.throttle.io_service_bytes")
    source = tree.source()
    source.read(1.0)
    assert source.read(2.0)["read"] == 0.0
    source.close()


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ESRCH, errno.EIO, errno.EACCES, errno.ENOMEM])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_cannot_be_read_any_more(tmp_path, monkeypatch, layout, number):
    source = LAYOUTS[layout](tmp_path).source()
    assert not unknown(source.read(1.0))

    def gone(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", gone)
        assert unknown(source.read(2.0))
    # A group that was removed stays away; a moment's trouble passes.
    assert unknown(source.read(3.0)) == (number in {errno.ENODEV, errno.ESRCH})
    source.close()


def test_no_such_process(tmp_path):
    tree = v2(tmp_path)
    source = CgroupSource("a", PID + 1, tree.proc)
    assert unknown(source.read(1.0))
    source.close()
    nowhere = CgroupSource("a", PID, tmp_path / "nowhere")
    assert unknown(nowhere.read(1.0))
    nowhere.close()


GARBAGE = [
    b"garbage",
    b"-1\n",
    b"\xff\xfe\0\0",
    b"1e5\n",
    b"nan\n",
    b"9" * 5000,
    b"1 2 3 4\n5",
    b"nr_periods x\nusage_usec -1\nfile \n",
    b"usage_usec 1\nusage_usec 2\n0::::\n",
    b"8:0 rbytes=x wbytes\n",
    b"8:0 Read\n",
    "usage_usec ٣\n".encode(),
    b"42 (x) S " + b"x " * 40,
    b"42 ((((",
    b"x" * 40_000,
]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_garbage_is_unknown(tmp_path, layout, garbage):
    tree = LAYOUTS[layout](tmp_path)
    for path in tree.files:
        path.write_bytes(garbage)
    source = tree.source()
    source.read(1.0)
    assert unknown(source.read(2.0))
    found = most(source)
    source.close()
    assert found.pop("throttled") == 100.0
    assert all(value is None for value in found.values())


def sane(values: Mapping[str, float | None]) -> bool:
    return all(value is None or (math.isfinite(value) and value >= 0) for value in values.values())


WORDS = [
    b"usage_usec ",
    b"\nfile ",
    b"inactive_file ",
    b"8:0 rbytes=",
    b" wbytes=",
    b"0::/",
    b"9:cpu:/",
    b"max",
]
WORDS += [
    b"VmRSS:\t",
    b" kB\n",
    b"read_bytes: ",
    b"42 (a) S ",
    b"nr_periods ",
    b"\0",
    b"/../",
    b"\\040",
    b" - cgroup ",
]
SCRAPS = st.lists(st.sampled_from(WORDS) | st.binary(max_size=6) | st.integers().map(lambda n: b"%d" % n))
BYTES = st.binary(max_size=200) | SCRAPS.map(b"".join)


@given(st.data(), st.sampled_from(sorted(LAYOUTS)))
def test_any_bytes_in_any_file(data, layout):
    with tempfile.TemporaryDirectory() as folder:
        tree = LAYOUTS[layout](Path(folder))
        known = [
            tree.proc / str(PID) / "cgroup",
            tree.proc / "self" / "cgroup",
            tree.proc / "self" / "mountinfo",
        ]
        paths = data.draw(st.lists(st.sampled_from([*known, *tree.files]), max_size=4))
        for path in paths:
            path.write_bytes(data.draw(BYTES))
        source = tree.source()
        try:
            assert sane(source.read(1.0))
            for path in paths:
                path.write_bytes(data.draw(BYTES))
            assert sane(source.read(2.0))
        finally:
            source.close()


# Processes, made up


def process_tree(folder: Path, start: int = 777, ticks: int = 100, state: str = "S") -> Path:
    here = folder / "proc" / str(PID)
    here.mkdir(parents=True, exist_ok=True)
    hertz = os.sysconf("SC_CLK_TCK")
    fields = f"1 1 1 0 -1 4194304 500 0 {ticks // 10} 0 {ticks * hertz // 100} 0 0 0 20 0 6 0 {start} 1 2 3"
    (here / "stat").write_text(f"{PID} (a ) S (b) {state} {fields}\n")
    (here / "status").write_text(
        "Name:\tVmRSS: 1 kB\nVmRSS:\t    3072 kB\n"
        "RssAnon:\t    1024 kB\nRssFile:\t    2048 kB\nRssShmem:\t       0 kB\n"
    )
    (here / "io").write_text(
        f"rchar: 9\nread_bytes: {ticks * MIB}\nwrite_bytes: 0\ncancelled_write_bytes: 1\n"
    )
    return folder / "proc"


def test_values_of_a_process(tmp_path):
    proc = process_tree(tmp_path)
    source = ProcessSource("a", PID, proc=proc)
    first = source.read(1.0)
    levels = {"memory": 3.0, "anonymous": 1.0, "files": 2.0, "shared": 0.0, "threads": 6.0}
    assert {key: first[key] for key in levels} == levels
    process_tree(tmp_path, ticks=150)
    rates = {"cpu": 0.25, "faults": 2.5, "read": 25.0, "written": 0.0}
    assert source.read(3.0) == pytest.approx(levels | rates)
    assert set(first) == set(most(source))
    source.close()
    assert unknown(source.read(4.0))


def test_a_pid_that_was_given_away(tmp_path):
    proc = process_tree(tmp_path)
    source = ProcessSource("a", PID, proc=proc)
    assert not unknown(source.read(1.0))
    process_tree(tmp_path, start=778, ticks=200)
    assert unknown(source.read(2.0))
    process_tree(tmp_path, ticks=200)
    assert source.read(3.0)["cpu"] is None
    source.close()


@pytest.mark.parametrize(
    ("start", "same"), [("777", True), ("boot:4026:777", True), ("boot:4026:776", False)]
)
def test_a_process_that_is_known_already(tmp_path, start, same):
    source = ProcessSource("a", PID, start, process_tree(tmp_path))
    assert unknown(source.read(1.0)) != same
    source.close()


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_process_that_has_ended(tmp_path, state):
    source = ProcessSource("a", PID, proc=process_tree(tmp_path))
    process_tree(tmp_path, state=state)
    assert unknown(source.read(1.0))
    source.close()


def test_files_of_a_process_without_permission(tmp_path, monkeypatch):
    proc = process_tree(tmp_path)
    forbid(monkeypatch, "io")
    source = ProcessSource("a", PID, proc=proc)
    source.read(1.0)
    values = source.read(2.0)
    source.close()
    assert (values["read"], values["written"], values["cpu"]) == (None, None, 0.0)


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As the kernel refuses those who are not root."""
    original = os.open

    def refused(path: Any, *words: Any, **more: Any) -> int:
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return original(path, *words, **more)

    monkeypatch.setattr(os, "open", refused)


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", ["stat", "status", "io"])
def test_garbage_of_a_process_is_unknown(tmp_path, name, garbage):
    proc = process_tree(tmp_path)
    source = ProcessSource("a", PID, proc=proc)
    (proc / str(PID) / name).write_bytes(garbage)
    source.read(1.0)
    values = source.read(2.0)
    source.close()
    mine = {"status": ("memory", "anonymous", "files", "shared"), "io": ("read", "written")}
    assert unknown({key: values[key] for key in mine.get(name, tuple(values))})


@given(st.lists(st.tuples(st.sampled_from(["stat", "status", "io"]), BYTES), max_size=4))
def test_any_bytes_of_a_process(changes):
    with tempfile.TemporaryDirectory() as folder:
        proc = process_tree(Path(folder))
        source = ProcessSource("a", PID, proc=proc)
        for name, text in changes:
            (proc / str(PID) / name).write_bytes(text)
            assert sane(source.read(1.0))
        source.close()


def test_a_file_of_any_size(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"x" * 100_000)
    file = KernelFile(path)
    assert file.read() == b"x" * 100_000
    path.write_bytes(b"")
    assert file.read() == b""
    file.close()
    file.close()
    assert file.read() is None
    for nothing in (KernelFile(None), KernelFile(tmp_path / "none"), KernelFile(Path("a\0b"))):
        assert nothing.read() is None
    folder = KernelFile(tmp_path)
    assert folder.read() is None
    folder.close()


# RAPL, made up


def domain(root: Path, folder: str, name: str, joules: float | str, range_j: float = 1000.0) -> None:
    here = root / folder
    here.mkdir(parents=True, exist_ok=True)
    (here / "name").write_text(f"{name}\n")
    text = joules if isinstance(joules, str) else f"{int(joules * 1e6)}\n"
    (here / "energy_uj").write_text(text)
    (here / "max_energy_range_uj").write_text(f"{int(range_j * 1e6)}\n")


def test_packages_and_no_parts_of_them(tmp_path):
    def packages(first: float, second: float) -> None:
        domain(tmp_path, "intel-rapl:0", "package-0", first)
        domain(tmp_path, "intel-rapl:1", "package-1-die-0", second)
        domain(tmp_path, "intel-rapl:0:0", "core", first)
        domain(tmp_path, "intel-rapl:0:1", "dram", first)
        domain(tmp_path, "intel-rapl:2", "psys", first)
        domain(tmp_path, "intel-rapl-mmio:0", "package-0", 3.0)

    (tmp_path / "intel-rapl").mkdir()
    packages(10, 20)
    (source,) = rapl_sources(tmp_path)
    assert source.subject == HOST
    assert [metric.key for metric in source.metrics] == ["package-0", "package-1-die-0", "energy_j"]
    assert source.read(1.0) == {"package-0": None, "package-1-die-0": None, "energy_j": 0.0}
    packages(30, 25)
    assert source.read(1.5) == pytest.approx({"package-0": 40.0, "package-1-die-0": 10.0, "energy_j": 25.0})
    source.close()
    assert unknown(source.read(2.0))


def test_a_counter_that_goes_round(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0", 995)
    source = RaplSource(tmp_path)
    source.read(1.0)
    domain(tmp_path, "intel-rapl:0", "package-0", 15)
    assert source.read(1.5) == pytest.approx({"package-0": 40.0, "energy_j": 20.0})
    source.close()


@pytest.mark.parametrize(
    ("before", "after", "seconds"),
    [(0, 400, 0.1), (500, 200, 0.25), (500, 510, 5.0)],
    ids=["faster than any", "set to zero", "may have gone round"],
)
def test_energy_that_cannot_be_known(tmp_path, before, after, seconds):
    domain(tmp_path, "intel-rapl:0", "package-0", before)
    source = RaplSource(tmp_path)
    source.read(1.0)
    domain(tmp_path, "intel-rapl:0", "package-0", after)
    assert unknown(source.read(1.0 + seconds))
    # Power is known again, the sum is not.
    assert source.read(1.5 + seconds) == {"package-0": 0.0, "energy_j": None}
    source.close()


def test_a_look_that_sees_nothing_loses_nothing(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0", 100)
    source = RaplSource(tmp_path)
    source.read(1.0)
    domain(tmp_path, "intel-rapl:0", "package-0", "")
    assert unknown(source.read(1.2))
    domain(tmp_path, "intel-rapl:0", "package-0", 110)
    assert source.read(1.5) == pytest.approx({"package-0": 20.0, "energy_j": 10.0})
    source.close()


def test_energy_without_permission(tmp_path, monkeypatch):
    domain(tmp_path, "intel-rapl:0", "package-0", 100)
    forbid(monkeypatch, "energy_uj")
    (source,) = rapl_sources(tmp_path)
    source.read(1.0)
    assert source.read(2.0) == {"package-0": None, "energy_j": None}
    source.close()


def test_no_packages(tmp_path):
    assert rapl_sources(tmp_path / "none") == []
    domain(tmp_path, "intel-rapl:0", "psys", 100)
    assert rapl_sources(tmp_path) == []
    assert RaplSource(tmp_path).read(1.0) == {"energy_j": None}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", ["energy_uj", "max_energy_range_uj", "name"])
def test_garbage_of_rapl_is_unknown(tmp_path, name, garbage):
    domain(tmp_path, "intel-rapl:0", "package-0", 100)
    (tmp_path / "intel-rapl:0" / name).write_bytes(garbage)
    source = RaplSource(tmp_path)
    source.read(1.0)
    values = source.read(2.0)
    source.close()
    if name == "max_energy_range_uj":
        assert values == {"package-0": 0.0, "energy_j": 0.0}
    else:
        assert unknown(values)


# The machine


def test_the_machine_itself():
    source = HostSource()
    source.read(time.monotonic())
    burn(lambda: psutil.cpu_times().user)
    values = source.read(time.monotonic())
    found = most(source)
    assert source.subject == HOST
    assert set(values) == set(found)
    assert found["cpu"] == os.cpu_count()
    assert values["cpu"] is not None
    assert 0 < values["cpu"] <= (found["cpu"] or 0)
    assert values["load1"] is not None
    assert values["memory"] is not None
    assert found["memory"] is not None
    assert 0 < values["memory"] < found["memory"]
    assert ("steal" in found) == sys.platform.startswith("linux")
    source.close()
    assert source.read(time.monotonic()) == {}


Times = namedtuple("Times", "user nice system idle iowait steal guest")  # noqa: PYI024 - as psutil makes them


def test_shares_of_the_machine(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    times = [Times(10, 1, 1, 100, 5, 2, 9), Times(11, 1, 2, 100, 4, 3, 99), Times(10, 1, 2, 102, 5, 3, 99)]
    given = iter([times[0], *times])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(given))
    source = HostSource()
    first, second, third = (source.read(now) for now in (1.0, 2.0, 3.0))
    source.close()
    assert (first["cpu"], first["steal"]) == (None, None)
    # 2 busy, 1 stolen; what was taken back of waiting is none.
    assert second["cpu"] == pytest.approx(4 * 2 / 3)
    assert second["steal"] == pytest.approx(100 / 3)
    assert (third["cpu"], third["steal"]) == (None, None)


def sensor(label: str, current: float) -> Any:
    return SimpleNamespace(label=label, current=current)


@pytest.mark.parametrize(
    ("sensors", "expected"),
    [
        (
            {"coretemp": [sensor("Package id 0", 61.0), sensor("Core 1", 58.0)], "nvme": [sensor("", 80.0)]},
            61.0,
        ),
        ({"k10temp": [sensor("Tctl", 85.0), sensor("Tdie", 65.0), sensor("Tccd1", 66.0)]}, 66.0),
        ({"k10temp": [sensor("Tctl", 85.0)]}, 85.0),
        ({"cpu_thermal": [sensor("", 0.0)]}, None),
        ({"coretemp": [sensor("Core 0", 255.0)]}, None),
        ({"nvme": [sensor("", 40.0)]}, None),
        ({}, None),
    ],
)
def test_temperature_of_the_cpu(monkeypatch, sensors, expected):
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: sensors, raising=False)
    assert HostSource().read(1.0)["temperature"] == expected


@pytest.mark.parametrize("found", [None, SimpleNamespace(current=0.0)])
def test_no_frequency(monkeypatch, found):
    monkeypatch.setattr(psutil, "cpu_freq", lambda: found)
    assert HostSource().read(1.0)["frequency"] is None


def test_slow_sensors_are_asked_seldom(monkeypatch):
    given = iter([1000.0, 2000.0])
    monkeypatch.setattr(psutil, "cpu_freq", lambda: SimpleNamespace(current=next(given)))
    source = HostSource()
    found = [source.read(now)["frequency"] for now in (0.0, 0.5, 1.9, 2.0, 3.0)]
    assert found == [1000.0, 1000.0, 1000.0, 2000.0, 2000.0]


@pytest.mark.parametrize(
    "error", [OSError, NotImplementedError, AttributeError, RuntimeWarning, psutil.Error]
)
def test_a_system_that_tells_nothing(monkeypatch, error):
    def refuses(*_: object) -> Any:
        raise error

    for name in ("cpu_times", "virtual_memory", "cpu_freq", "sensors_temperatures"):
        monkeypatch.setattr(psutil, name, refuses, raising=False)
    monkeypatch.setattr(os, "getloadavg", refuses)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    source = HostSource()
    source.read(1.0)
    assert unknown(source.read(2.0))
    assert set(most(source)) == {"cpu", "load1", "memory", "frequency", "temperature"}


# For real


def burn(clock: Callable[[], float], seconds: float = 0.3) -> None:
    """Work until a clock of used CPU time has gone on so far."""
    begin = clock()
    while clock() - begin < seconds:
        sum(range(10_000))


@LINUX
def test_this_process():
    known = llmlab.runtime.process(os.getpid())
    assert known is not None
    source = ProcessSource("me", os.getpid(), known.start)
    first, used = time.monotonic(), time.process_time()
    source.read(first)
    burn(time.process_time)
    last = time.monotonic()
    values = source.read(last)
    used = time.process_time() - used
    rss = psutil.Process().memory_info().rss / MIB
    source.close()
    assert values["cpu"] is not None
    assert values["cpu"] * (last - first) == pytest.approx(used, rel=0.05, abs=0.02)
    assert values["memory"] == pytest.approx(rss, rel=0.05)
    parts = [values[key] for key in ("anonymous", "files", "shared")]
    assert sum(part or 0.0 for part in parts) == pytest.approx(values["memory"])
    assert values["threads"] is not None
    assert values["threads"] >= 1
    assert values["faults"] is not None


def test_this_process_on_a_system_without_proc(tmp_path):
    begin = str(int(psutil.Process().create_time()))
    source = ProcessSource("me", os.getpid(), begin, proc=tmp_path / "none")
    first = time.monotonic()
    source.read(first)
    used = time.process_time()
    burn(time.process_time)
    last = time.monotonic()
    values = source.read(last)
    used = time.process_time() - used
    source.close()
    assert values["cpu"] is not None
    assert values["cpu"] * (last - first) == pytest.approx(used, rel=0.05, abs=0.02)
    assert values["memory"] == pytest.approx(psutil.Process().memory_info().rss / MIB, rel=0.05)
    assert values["read"] is None
    assert unknown(source.read(last + 1))
    other = ProcessSource("me", os.getpid(), "1", proc=tmp_path / "none")
    assert unknown(other.read(1.0))
    assert unknown(ProcessSource("me", -1, proc=tmp_path / "none").read(1.0))


@pytest.mark.parametrize("proc", ["/proc", "/nowhere"])
def test_a_child_that_ends(proc):
    child = subprocess.Popen(["sleep", "60"])
    source = ProcessSource("child", child.pid, proc=Path(proc))
    try:
        assert source.read(1.0)["memory"]
    finally:
        child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert unknown(source.read(2.0))
    child.wait()
    assert unknown(source.read(3.0))
    source.close()


@LINUX
def test_a_control_group_that_is_removed_and_made_anew():
    """The kernel's own: what was open of a group that is gone stays gone."""
    root = Path("/sys/fs/cgroup")
    pure = (root / "cgroup.controllers").exists()
    folder = (root if pure else root / "pids") / f"llmlab-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a control group: {error}")
    child = subprocess.Popen(["sleep", "60"])
    source: CgroupSource | None = None
    try:
        if not (folder / "pids.current").exists():
            pytest.skip("no pids controller")
        (folder / "cgroup.procs").write_text(str(child.pid))
        source = CgroupSource("a", child.pid)
        assert source.read(1.0)["processes"] == 1.0
        child.kill()
        child.wait()
        assert source.read(2.0)["processes"] == 0.0
        folder.rmdir()
        assert source.read(3.0)["processes"] is None
        folder.mkdir()
        assert source.read(4.0)["processes"] is None
    finally:
        child.kill()
        child.wait()
        if source is not None:
            source.close()
        folder.rmdir()


@LINUX
def test_a_native_process_is_not_given_the_machine():
    source = CgroupSource("a", os.getpid())
    source.read(1.0)
    assert unknown(source.read(2.0))
    source.close()


def of_group(pid: int, v1_controller: str, v1_name: str, v2_name: str) -> tuple[bool, Path]:
    """Whether it is v2, and one of the files of a process's group, found without the package."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    named = {name: path for _, names, path in lines for name in names.split(",")}
    root = Path("/sys/fs/cgroup")
    if v1_controller in named:
        return False, root / v1_controller / named[v1_controller].lstrip("/") / v1_name
    return True, root / named[""].lstrip("/") / v2_name


def field(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[0] == name)


def cpu_seconds(pid: int) -> float:
    second, path = of_group(pid, "cpuacct", "cpuacct.usage", "cpu.stat")
    return field(path, "usage_usec") / 1e6 if second else int(path.read_text()) / 1e9


def memory_mib(pid: int) -> float:
    second, path = of_group(pid, "memory", "memory.usage_in_bytes", "memory.current")
    inactive = field(path.with_name("memory.stat"), "inactive_file" if second else "total_inactive_file")
    return (int(path.read_text()) - inactive) / MIB


@pytest.mark.usefixtures("require_docker", "require_engine")
def test_a_server_in_a_container():
    server = llmlab.start("tiny", name="a", backend="container")
    api = docker_api.connect()
    entry = api.container(server.record.container_id or "")
    pid = server_pid(entry) if entry and api.is_local() else None
    if pid is None or not Path(f"/proc/{pid}/cgroup").exists():
        pytest.skip("its processes cannot be seen here")
    group, process = CgroupSource("a", pid), ProcessSource("a's server", pid)
    first, used = time.monotonic(), cpu_seconds(pid)
    assert group.read(first)["cpu"] is None
    process.read(first)
    while cpu_seconds(pid) - used < 0.5:
        server.ask("What is a GPU?", max_tokens=100)
    last = time.monotonic()
    values, its = group.read(last), process.read(last)
    used = cpu_seconds(pid) - used
    assert values["cpu"] is not None
    assert values["cpu"] * (last - first) == pytest.approx(used, rel=0.05)
    assert its["cpu"] is not None
    assert its["cpu"] * (last - first) == pytest.approx(used, rel=0.05, abs=0.05)
    assert values["memory"] == pytest.approx(memory_mib(pid), rel=0.05)
    limits = server.record.limits
    assert limits is not None
    assert most(group)["memory"] == limits.memory_mib
    assert most(group)["cpu"] == limits.cpus
    assert values["processes"] is not None
    assert its["threads"] is not None
    # The container's init is in the group as well.
    assert its["threads"] < values["processes"] <= (most(group)["processes"] or 0.0)
    assert values["cache"] is not None
    assert values["faults"] is not None
    assert values["read"] is not None
    assert its["memory"]
    server.stop()
    assert unknown(group.read(time.monotonic()))
    assert unknown(process.read(time.monotonic()))
    group.close()
    process.close()
