"""Starts that `llmlab.start` has no option for: in a child process, on TCP, sealed but for a published port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from llmlab import engines, runtime
from llmlab.backends import Starting, native
from llmlab.builds import find_build
from llmlab.comparing.ladder.process import Child
from llmlab.comparing.running import Started
from llmlab.errors import EngineMissingError, LabError, StartError
from llmlab.lab import Server, launch, registry

# Looked for health as `llmlab.start` looks: cold starts are compared.
from llmlab.lab.launch import await_ready
from llmlab.lab.planning import Wish
from llmlab.profiles import SEALED
from llmlab.specs import Endpoint, Record, ServeSpec

# The shell ends at once, so that what it has started is init's child and not ours to wait for.
_SHELL = 'dir=$1; shift; "$@" >"$dir/engine.log" 2>&1 </dev/null & echo $! | tee "$dir/pid"'
_UNASKED = (
    *("memory", "cpus", "pids", "gpus", "gpu_layers", "profile", "root", "restart"),
    *("network", "user", "expose", "transport", "image"),
)
Begin = Callable[[Starting], Record]


def in_child(spec: ServeSpec, timeout_s: float) -> Started:
    """The model in a child process, with a record of what it is.

    Args:
        spec: What to load.
        timeout_s: Longest wait for it.

    Raises:
        EngineMissingError: If there are no libraries for it.
        StartError: If it cannot load the model.
    """
    folder = find_build().library_dir
    if folder is None:
        raise EngineMissingError(
            "this llama-server is not known to have libraries for llama-cpp-python",
            hint="compile both: llmlab build --force",
        )
    child = Child(spec, folder, timeout_s)
    record = Record(
        name="in process",
        backend="native",
        spec=spec,
        endpoint=Endpoint(),
        created=time.time(),
        process=runtime.process(child.pid),
        build={f"library {number}": sha256 for number, sha256 in enumerate(child.libraries)},
    )
    return Started(record=record, client=child, pid=child.pid, stop=child.stop, start_s=child.start_s)


def wish(**options: Any) -> Wish:
    """The arguments of `llmlab.start`, what is not given as it is there."""
    given = {"kv_type": "f16", "keep": False, "force": False, **dict.fromkeys(_UNASKED), **options}
    return Wish(**given)


def begun(begin: Begin, timeout_s: float, **options: Any) -> Server:
    """As `llmlab.start`, but for how it is begun.

    Args:
        begin: Makes what will run, of all that has been decided.
        timeout_s: Longest wait for it.
        **options: Of `llmlab.start`.

    Raises:
        LabError: As `llmlab.start`.
    """
    registry.sweep()
    wanted = wish(**options)
    decided = launch.decide(wanted)
    with runtime.claim(str(wanted.name)) as claim:
        record: Record | None = None
        try:
            record = begin(decided.starting(wanted, claim, owner=runtime.default_owner()))
            record = replace(record, predicted=decided.plan.prediction)
            claim.write(record)
            await_ready(record, decided.place, decided.engine, timeout_s)
            decided.place.settle(record)
        except BaseException:
            with suppress(LabError):
                if record:
                    decided.place.stop(record, grace_s=0)
                else:
                    decided.place.remove_abandoned(claim)
            raise
    return Server(record)


def on_tcp(starting: Starting) -> Record:
    """A native server with the same command line and environment, but on a port of loopback.

    Raises:
        EngineMissingError: If the engine is not on this machine.
        StartError: If the process cannot be made.
    """
    prepared = native.prepare(starting)
    prepared.scratch.mkdir(mode=0o700)
    spec, library_dir = starting.spec, prepared.build and prepared.build.library_dir
    paths = engines.Paths(
        program=PurePosixPath(prepared.argv[0]),
        model=PurePosixPath(spec.model.path),
        scratch=PurePosixPath(prepared.scratch),
        port=_free_port(),
        library_dir=PurePosixPath(library_dir) if library_dir else None,
    )
    argv = engines.engine(spec.engine).argv(spec, paths)
    launched = time.time()
    pid = runtime.uninterrupted(
        lambda: _spawned(starting.claim.path, argv, prepared.environment),
        undo=lambda made: os.kill(made, signal.SIGKILL),
    )
    if (process := runtime.process(pid)) is None:
        raise StartError(f"{starting.claim.name} ended at once", log_tail=_log(starting.claim.path))
    return Record(
        name=starting.claim.name,
        backend="native",
        spec=spec,
        endpoint=Endpoint(port=paths.port),
        created=launched,
        owner=starting.owner,
        process=process,
        build={Path(file.target).name: file.sha256 for file in prepared.build.files}
        if prepared.build
        else {},
        argv=tuple(argv),
        notes=("not isolated: it may do what you may",),
    )


def published(starting: Starting) -> Record:
    """A container as sealed as it can be with a published port, which takes a network.

    Raises:
        LabError: As `llmlab.start`.
    """
    from llmlab.backends import container  # noqa: PLC0415 - the engine's library is imported where it is needed

    open_to_all = replace(SEALED, network="bridge", publish=True, seccomp="default")
    return container.start(replace(starting, profile=open_to_all, transport="port"))


def _spawned(folder: Path, argv: list[str], environment: dict[str, str]) -> int:
    done = subprocess.run(
        ["/bin/sh", "-c", _SHELL, "llmlab", str(folder), *argv],
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        text=True,
        check=False,
    )
    return int(done.stdout)


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def _log(folder: Path) -> list[str]:
    with suppress(OSError):
        return (folder / "engine.log").read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    return []
