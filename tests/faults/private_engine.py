"""A Docker Engine of a test's own, to be killed, halted and restarted; the machine's is not touched.

Its data, its sockets, its containerd, its control groups and its network namespace are
its own: a daemon without a bridge removes the one that it finds. llmlab's containers
have no network anyway.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.conftest import eventually, missing

_START_S, _STOP_S = 60.0, 30.0


class PrivateEngine:
    """A dockerd with all that belongs to it.

    Args:
        folder: Where everything of it lies.
        live_restore: Whether its containers go on while it is restarted.
    """

    def __init__(self, folder: Path, *, live_restore: bool = False) -> None:
        self.folder = folder
        self._live_restore = live_restore
        self._containerd: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        """Its address, as in `DOCKER_HOST`."""
        return f"unix://{self.folder}/docker.sock"

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        # A service of its own, as distributions have it: it outlives the daemon.
        if self._containerd is None:
            command = ["containerd", "--address", f"{self.folder}/containerd.sock"]
            command += ["--root", f"{self.folder}/data/containerd", "--state", f"{self.folder}/state"]
            self._containerd = self._spawn(command)
        # Left by one that was killed; its number may be another process's by now.
        (self.folder / "pid").unlink(missing_ok=True)
        command = ["unshare", "--net", "dockerd", "--host", self.host, "--bridge=none", "--iptables=false"]
        command += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        command += ["--pidfile", f"{self.folder}/pid", "--cgroup-parent", f"/{self.folder.name}"]
        command += ["--containerd", f"{self.folder}/containerd.sock"]
        if self._live_restore:
            command.append("--live-restore")
        self._daemon = self._spawn(command)
        eventually(self._answers, _START_S)

    def kill(self) -> None:
        """SIGKILL to the daemon alone; containerd and the containers go on for now."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, as a service manager does; waits until it has ended."""
        self._end(signal.SIGTERM)

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It takes connections and answers nothing."""
        assert self._daemon
        os.kill(self._daemon.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._daemon.pid, signal.SIGCONT)

    def remove(self) -> None:
        """End everything that belongs to it, and leave no trace."""
        with suppress(subprocess.TimeoutExpired):
            self.stop()
        deadline = time.monotonic() + _STOP_S
        while (left := self._processes()) and time.monotonic() < deadline:
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            for child in (self._daemon, self._containerd):
                if child:
                    child.poll()  # one that has ended is there until somebody has asked
            time.sleep(0.1)
        self._unmount()
        for child in (self._daemon, self._containerd):
            if child:
                child.wait(_STOP_S)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not self.folder.exists()
        assert not self._processes()

    def _unmount(self) -> None:
        """Let its file systems and control groups go."""
        for line in reversed(Path("/proc/mounts").read_text(encoding="utf-8").splitlines()):
            if (place := line.split()[1]).startswith(str(self.folder)):
                subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
        for group in sorted(Path("/sys/fs/cgroup").glob(f"**/{self.folder.name}"), reverse=True):
            for folder in (*sorted(group.glob("*/"), reverse=True), group):
                with suppress(OSError):
                    folder.rmdir()

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Its own, not that of a test which looks for what has its environment.
                env={"PATH": os.environ["PATH"]},
            )

    def _answers(self) -> bool:
        assert self._daemon
        assert self._daemon.poll() is None, (self.folder / "log").read_text(errors="replace")[-2000:]
        command = ["docker", "--host", self.host, "version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _end(self, number: int) -> None:
        if self._daemon:
            self._daemon.send_signal(number)
            self._daemon.wait(_STOP_S)

    def _processes(self) -> list[psutil.Process]:
        """Its daemons, shims, and what runs in its containers."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                groups = Path(f"/proc/{process.pid}/cgroup").read_text(encoding="ascii")
                if str(self.folder) in " ".join(process.cmdline()) or f"/{self.folder.name}/" in groups:
                    found.append(process)
        return found


@contextmanager
def private_engine(*, live_restore: bool = False, size_mib: int | None = None) -> Iterator[PrivateEngine]:
    """A running engine of the test's own.

    Args:
        live_restore: Whether its containers go on while it is restarted.
        size_mib: Size of the disk that its data lies on; None for the machine's.
    """
    if os.getuid() or not shutil.which("dockerd"):
        missing("docker", "an engine of the test's own needs root and dockerd")
    folder = Path(tempfile.mkdtemp(prefix="llmlab-engine-"))
    engine = PrivateEngine(folder, live_restore=live_restore)
    try:
        if size_mib:
            (folder / "data").mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder / "data")], check=True
            )
        engine.start()
        yield engine
    finally:
        engine.remove()
