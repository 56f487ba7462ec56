"""One container engine: containerd and dockerd with data, sockets and control group of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from tools.engines_apart import removing
from tools.engines_apart.commands import EnginesError, found, run, start

_START_S = 60.0
_PERIOD_US = 100_000
_CONTAINERD = """\
version = 2
root = "{folder}/data/containerd"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/data/opt"
"""


class Engine:
    """A dockerd with all that belongs to it.

    Args:
        folder: Where everything of it lies; its name is the engine's.
        group: The control group that its containers are below.
        inside: The words before a command that is to run as if on its machine.
    """

    def __init__(self, folder: Path, group: str, inside: list[str]) -> None:
        self.folder = folder
        self.group = group
        self._inside = inside

    @property
    def name(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def socket(self) -> Path:
        """Where it listens, whatever else it listens at."""
        return self.folder / "docker.sock"

    def make(self, hosts: list[str], options: Mapping[str, Any], cpus: float | None) -> None:
        """Write its configuration, and make its control group.

        Args:
            hosts: Where it listens besides its socket, as in `DOCKER_HOST`.
            options: Further entries of its daemon.json.
            cpus: How many CPUs all of its containers may use together; None for no limit.
        """
        self.folder.mkdir()
        settings: dict[str, Any] = {
            "hosts": [f"unix://{self.socket}", *hosts],
            "data-root": f"{self.folder}/data",
            "exec-root": f"{self.folder}/exec",
            "pidfile": f"{self.folder}/pid",
            "containerd": f"{self.folder}/containerd.sock",
            "cgroup-parent": f"/{self.group}",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            **options,
        }
        # Until then the engine's id comes from a key of the machine's, the same for all of its engines.
        if _version() < 23:  # noqa: PLR2004 - as said
            settings["deprecated-key-path"] = f"{self.folder}/key.json"
        (self.folder / "daemon.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
        (self.folder / "containerd.toml").write_text(_CONTAINERD.format(folder=self.folder), encoding="utf-8")
        if cpus is not None:
            self._cap(cpus)

    def _cap(self, cpus: float) -> None:
        quota = round(cpus * _PERIOD_US)
        unified = Path("/sys/fs/cgroup")
        if (unified / "cgroup.controllers").exists():
            (unified / "cgroup.subtree_control").write_text("+cpu", encoding="ascii")
            (unified / self.group).mkdir(exist_ok=True)
            (unified / self.group / "cpu.max").write_text(f"{quota} {_PERIOD_US}", encoding="ascii")
            return
        place = next((path for path in (unified / "cpu", unified / "cpu,cpuacct") if path.is_dir()), None)
        if place is None:
            raise EnginesError("this kernel has no control groups for CPUs, so --cpus cannot be kept")
        (place / self.group).mkdir(exist_ok=True)
        (place / self.group / "cpu.cfs_period_us").write_text(str(_PERIOD_US), encoding="ascii")
        (place / self.group / "cpu.cfs_quota_us").write_text(str(quota), encoding="ascii")

    def start(self) -> None:
        """Start what does not run of it; returns at once."""
        log = self.folder / "log"
        # A service of its own, as distributions have it: it and the containers outlive the daemon.
        if not self._running("containerd"):
            config = self.folder / "containerd.toml"
            start(log, *self._inside, str(found("containerd")), "--config", config)
        if self._daemon() is None:
            # Left by one that was killed; its number may be another process's by now.
            (self.folder / "pid").unlink(missing_ok=True)
            start(log, *self._inside, str(found("dockerd")), "--config-file", self.folder / "daemon.json")

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            EnginesError: If it does not, with the last lines of its log.
        """
        deadline = time.monotonic() + _START_S
        while not self.answers():
            if time.monotonic() > deadline:
                said = (self.folder / "log").read_text(encoding="utf-8", errors="replace")[-1500:]
                raise EnginesError(f"{self.name} does not answer within {_START_S:g} s:\n{said}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether its daemon answers, at its socket."""
        command = ["docker", "--host", f"unix://{self.socket}", "version", "--format", "{{.Server.Version}}"]
        try:
            return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def end(self, number: signal.Signals) -> None:
        """Send the daemon, and only that, a signal that ends it; waits until it has."""
        daemon = self._daemon()
        if daemon is None:
            raise EnginesError(f"the daemon of {self.name} does not run")
        daemon.send_signal(number)
        deadline = time.monotonic() + _START_S
        while self._daemon():
            if time.monotonic() > deadline:
                raise EnginesError(f"the daemon of {self.name} does not end")
            time.sleep(0.02)

    def _daemon(self) -> psutil.Process | None:
        return self._running("dockerd")

    def _running(self, program: str) -> psutil.Process | None:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.name() == program and f"{self.folder}/" in " ".join(process.cmdline()):
                    return process
        return None

    def state(self) -> str:
        """Whether it runs, in a word or two."""
        if self._daemon() is None:
            return "daemon does not run"
        return "answers" if self.answers() else "does not answer"

    def containers(self) -> int:
        """How many processes run in its containers, whether its daemon runs or not."""
        found_here = set()
        for group in removing.groups(self.group):
            for place, _, files in os.walk(group):
                if "cgroup.procs" in files:
                    found_here |= set((Path(place) / "cgroup.procs").read_text(encoding="ascii").split())
        return len(found_here)


def _version() -> int:
    said = run(str(found("dockerd")), "--version")
    number = re.search(r"\d+", said)
    if number is None:
        raise EnginesError(f"dockerd --version says {said.strip()!r}")
    return int(number[0])
