"""The native backend: a server as a process group of the user's own.

No isolation: it may read and write what the user may, and reach the network.
A small shell stands between so that the exit code is written down, and so
that the server survives a restart of the kernel that started it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmlab import engines, runtime
from llmlab.backends import base, native_receipt, peer, visible_gpus
from llmlab.backends.base import Found, Starting, exit_detail
from llmlab.backends.kernel_log import killed_for_memory
from llmlab.builds import EngineBuild, find_build
from llmlab.client import Opener, Verify
from llmlab.errors import EngineMissingError, LabError, StartError
from llmlab.reporting import reporter
from llmlab.results_isolation import Receipt
from llmlab.runtime import Claim
from llmlab.specs import BackendName, Endpoint, GivenGpus, Process, Record

NAME: BackendName = "native"

_LOG, _PID, _EXIT, _SCRATCH = "engine.log", "pid", "exit", "scratch"
_PID_S = 10.0
_EXIT_S = 0.2
_KILL_S = 5.0
_POLL_S = 0.005
# $1 is the server's directory, the rest the command. The group's leader ends
# at once and is reaped by us; what stays belongs to init.
_SHELL = """
dir=$1; shift
(
  "$@" >"$dir/engine.log" 2>&1 </dev/null &
  echo $! >"$dir/pid.new" && mv "$dir/pid.new" "$dir/pid" || kill -9 $!
  wait $!
  echo $? >"$dir/exit"
) 2>/dev/null &
"""


def unavailable() -> LabError | None:
    """Native servers can be started wherever there is a POSIX shell."""
    return None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A process that could be started.

    Attributes:
        argv: Its command line.
        environment: Its environment, whole.
        scratch: A directory that it needs.
        build: What serves, if that is known.
    """

    argv: list[str]
    environment: dict[str, str]
    scratch: Path
    build: EngineBuild | None


def prepare(starting: Starting) -> Prepared:
    """Everything but starting it.

    Raises:
        EngineMissingError: If the engine is not on this machine.
    """
    claim, spec = starting.claim, starting.spec
    engine = engines.engine(spec.engine)
    build = _build(spec.engine)
    scratch = claim.path / _SCRATCH
    paths = engines.Paths(
        program=PurePosixPath(build.server if build and spec.engine == "llama-server" else sys.executable),
        model=PurePosixPath(spec.model.path),
        socket=PurePosixPath(claim.socket),
        scratch=PurePosixPath(scratch),
        library_dir=PurePosixPath(build.library_dir) if build and build.library_dir else None,
    )
    environment = {"PATH": os.environ.get("PATH", os.defpath), **engine.environment(spec, paths)}
    if build and build.accelerators:
        environment |= visible_gpus.environment(starting.gpus if spec.gpu_layers else "")
    return Prepared(engine.argv(spec, paths), environment, scratch, build)


def start(starting: Starting) -> Record:
    """Start a process group.

    Raises:
        EngineMissingError: If the engine is not on this machine.
        StartError: If the process cannot be made.
    """
    claim, spec = starting.claim, starting.spec
    report = reporter()
    report.stage("engine", spec.engine)
    prepared = prepare(starting)
    argv, build = prepared.argv, prepared.build
    prepared.scratch.mkdir(mode=0o700)
    report.stage("model", spec.model.name)
    launched = time.time()
    process = runtime.uninterrupted(
        lambda: _spawn(claim.path, argv, prepared.environment), undo=lambda made: _end(made, claim.path, 0)
    )
    return Record(
        name=claim.name,
        backend=NAME,
        spec=spec,
        endpoint=Endpoint(socket=claim.socket),
        created=launched,
        owner=starting.owner,
        process=process,
        build={Path(file.target).name: file.sha256 for file in build.files} if build else {},
        argv=tuple(argv),
        gpus=GivenGpus(ids=starting.gpu_ids) if starting.gpu_ids else None,
        notes=("not isolated: it may do what you may",),
    )


def find() -> list[Record]:
    """All native servers that were written down."""
    return [record for record in runtime.records() if record.backend == NAME]


def look(record: Record) -> Found:
    """Whether the very process of the record still runs."""
    process = record.process
    if process and runtime.is_alive(process):
        return base.running(process.pid, process.pid)
    exit_file = runtime.runtime_dir() / record.name / _EXIT
    # The shell that writes it needs a moment after the server's end.
    _wait(lambda: _read(exit_file).isdigit() or not exit_file.parent.exists(), _EXIT_S)
    code = _read(exit_file)
    if not code.isdigit():
        if process and _is_of_another_boot(process):
            return Found(running=False, detail="it was started before this machine was, or on another")
        return Found(running=False, detail="it is gone, and so is what would have seen it end")
    ended = None
    with suppress(OSError):
        ended = exit_file.stat().st_mtime
    if int(code) != base.KILLED:
        return Found(running=False, detail=exit_detail(int(code)), ended=ended)
    memory = killed_for_memory(pid=process.pid, ended=ended) if process else None
    return Found(running=False, detail=base.killed_detail(memory), ended=ended, out_of_memory=memory is True)


def _is_of_another_boot(process: Process) -> bool:
    here = runtime.process(os.getpid())
    boots = [each.start.split(":")[0] for each in (process, here) if each and ":" in each.start]
    return len(set(boots)) > 1


def verify(record: Record) -> Verify | None:
    """Check that the peer is the record's process."""
    expected = record.process.pid if record.process else None

    def check(opened: socket.socket) -> None:
        found = peer.pid(opened)
        if found is not None and found != expected:
            raise peer.stranger(record.name, f"process {found}, not {expected}")

    return check


def opener(record: Record) -> Opener | None:  # noqa: ARG001 - the protocol's signature
    """None: it has a socket."""
    return None


def settle(record: Record) -> None:
    """Nothing: it may do what its user may, whatever is taken away."""


def resident_mib(record: Record) -> int | None:
    """The process's resident memory."""
    return base.resident_mib(record.process.pid if record.process else None)


def log(record: Record, lines: int | None = None) -> list[str]:
    """The engine's log file."""
    return _tail(runtime.runtime_dir() / record.name, lines)


def stop(record: Record, *, grace_s: float) -> None:
    """SIGTERM, then SIGKILL to the whole group."""
    if record.process:
        _end(record.process, runtime.runtime_dir() / record.name, grace_s)


def remove_abandoned(claim: Claim) -> None:
    """Stop the process of a start that died before its record was written."""
    text = _read(claim.path / _PID)
    # The pid alone could by now belong to a process that is none of ours.
    if text.isdigit() and (process := runtime.process(int(text))) and _runs_in(process.pid, claim.path):
        _end(process, claim.path, 0)


def remove_orphans() -> None:
    """End servers whose directory somebody has removed: nothing else leads to them any more.

    Cleaners of /tmp do so. Where the system does not tell command lines by files, as on
    macOS, they are not found.
    """
    mark = f"{runtime.runtime_dir()}/"
    for entry in Path("/proc").glob("[0-9]*"):
        command = _read(entry / "cmdline")
        if mark not in command:
            continue
        claim = Claim(Path(mark, command.split(mark, 1)[1].split("/", 1)[0]))
        process = runtime.process(int(entry.name))
        named = str(claim.socket) in command.split("\0") and not claim.path.exists()
        if named and process and _is_ours(process.pid):
            _end(process, claim.path, 0)


def _is_ours(pid: int) -> bool:
    """Whether a process was started as servers are: its group's leader, a shell, has ended long ago."""
    try:
        return not Path(f"/proc/{os.getpgid(pid)}").exists()
    except OSError:
        return False


def controls(record: Record) -> Receipt:
    """What a native server is kept from: honestly, nothing."""
    return native_receipt.controls(record)


def _build(engine: str) -> EngineBuild | None:
    """The libraries to run; llama-cpp-python may bring its own, and an engine of another package has others."""
    if not engines.runs_llama_cpp(engine):
        return None
    try:
        return find_build()
    except EngineMissingError:
        if engine == "llama-server":
            raise
        return None


def _spawn(folder: Path, argv: list[str], environment: dict[str, str]) -> Process:
    # The server must not get the user's terminal, nor Ctrl-C meant for the notebook.
    with subprocess.Popen(
        ["/bin/sh", "-c", _SHELL, "llmlab", str(folder), *argv],
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    ) as shell:
        shell.wait()
    return _await_pid(folder)


def _await_pid(folder: Path) -> Process:
    deadline = time.monotonic() + _PID_S
    while time.monotonic() < deadline:
        if text := _read(folder / _PID):
            # A process that ended at once has no identity any more; readiness
            # finds that out and has the log and the exit code to show.
            return runtime.process(int(text)) or Process(pid=int(text), start="ended")
        time.sleep(_POLL_S)
    raise StartError("the server's process did not start", log_tail=_tail(folder, 20))


def _end(process: Process, folder: Path, grace_s: float) -> None:
    try:
        group = os.getpgid(process.pid) if runtime.is_alive(process) else None
    except ProcessLookupError:
        group = None
    if group is None or group == os.getpgrp():
        return
    with suppress(ProcessLookupError):
        # The server alone: its shell then writes the exit code and ends too.
        os.kill(process.pid, signal.SIGTERM if grace_s > 0 else signal.SIGKILL)
        # One that was halted hears of it only when it goes on.
        os.kill(process.pid, signal.SIGCONT)
    if not _wait(lambda: not runtime.is_alive(process), grace_s or _KILL_S):
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        _wait(lambda: not runtime.is_alive(process), _KILL_S)
    # The group itself cannot be waited for: its ended members count until init
    # has reaped them, and some inits take a second.
    _wait((folder / _EXIT).exists, _EXIT_S)


def _wait(condition: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _runs_in(pid: int, folder: Path) -> bool:
    command = _read(Path(f"/proc/{pid}/cmdline"))
    return str(folder) in command if command else shutil.which("ps") is not None and str(folder) in _ps(pid)


def _ps(pid: int) -> str:
    return subprocess.run(
        ["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout


def _tail(folder: Path, lines: int | None) -> list[str]:
    text = _read(folder / _LOG)
    found = text.splitlines()
    return found if lines is None else found[-lines:] if lines else []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
