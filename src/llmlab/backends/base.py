"""What every backend is, and what they share."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol, cast

import psutil

from llmlab.client import Opener, Verify
from llmlab.engines import plugins
from llmlab.errors import BackendError, LabError, UnknownNameError
from llmlab.profiles import SEALED, Profile, Transport
from llmlab.results import RoomState
from llmlab.results_isolation import Receipt
from llmlab.runtime import Claim
from llmlab.specs import BackendName, Limits, Process, Record, ServeSpec

GROUP = "llmlab.backends"
"""Entry points of other packages' backends: name → a module with the functions of `Backend`."""

# Name → module. To add a backend: write its module, name it here and in
# `specs.BackendName`, and derive from the behaviour suite in tests/.
_BACKENDS = {"native": "native", "container": "container", "room": "room"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting:
    """What a backend is asked to start.

    Attributes:
        claim: The server's directory, its lock held.
        spec: What to serve.
        limits: The share of the machine it gets (containers).
        owner: See `Record.owner`.
        profile: The isolation asked for (containers).
        image: A container image to use in place of the one llmlab makes.
        transport: How to reach it; None for the backend's choice.
        expose: Port on loopback for other tools, 0 for any that is free; None
            for the profile's choice.
        gpus: GPUs that a native server may see, in words that `parse_gpus` takes, or None; a
            container's are in the profile.
        gpu_ids: What the GPUs are known by: UUIDs where the driver tells them, or numbers.
        restarts: How often the container engine may start it anew when it has died.
        node: The name of the node that it is started on, if one was asked for.
        overlay: The network that it is reached from by its gateway, if it is a replica.
        replica_of: The name of the server that it is a replica of.
    """

    claim: Claim
    spec: ServeSpec
    limits: Limits
    owner: Process | None
    profile: Profile = SEALED
    image: str | None = None
    transport: Transport | None = None
    expose: int | None = None
    gpus: str | None = None
    gpu_ids: tuple[str, ...] = ()
    restarts: int = 0
    node: str | None = None
    overlay: str | None = None
    replica_of: str | None = None


Held = Literal["paused", "restarting", "lost"] | RoomState
"""paused: halted until somebody lets it go on. restarting: it has ended, and is started anew.
lost: what it is asked through is gone."""


@dataclass(frozen=True, slots=True)
class Found:
    """How a server fares.

    Attributes:
        running: Whether its process runs, or is about to be started anew.
        detail: Why not, such as "exit code 139: segmentation fault"; what lets it go on, if it is paused.
        pid: Its process id on this machine, if it is known.
        held: Why it does nothing though it runs, if that is known.
        ended: When it ended, seconds since the epoch; None if it runs, or nobody has written that down.
        out_of_memory: Whether it ended because it had no more memory.
        restarts: How often it was started anew since it was started.
        since: When it was last started anew, seconds since the epoch.
    """

    running: bool
    detail: str = ""
    pid: int | None = None
    held: Held | None = None
    ended: float | None = None
    out_of_memory: bool = False
    restarts: int = 0
    since: float | None = None


class Backend(Protocol):
    """A place where servers run; a module with these functions."""

    NAME: BackendName

    def unavailable(self) -> LabError | None:
        """Why servers cannot be started here; None if they can."""

    def start(self, starting: Starting) -> Record:
        """Start a server and say how it is reached; it need not be ready yet.

        Whatever it made is removed again if it raises.
        """

    def find(self) -> list[Record]:
        """All servers of this user here, running or not."""

    def look(self, record: Record) -> Found:
        """How one server fares."""

    def verify(self, record: Record) -> Verify | None:
        """A check that a connected socket's peer is this server."""

    def opener(self, record: Record) -> Opener | None:
        """What connects to the server, where its endpoint is neither a socket nor a port."""

    def settle(self, record: Record) -> None:
        """Take away what the server needed for its start only; it is ready now."""

    def resident_mib(self, record: Record) -> int | None:
        """Memory its process holds now, mapped files included; None if that cannot be seen."""

    def log(self, record: Record, lines: int | None = None) -> list[str]:
        """The engine's log, or its last lines."""

    def stop(self, record: Record, *, grace_s: float) -> None:
        """Stop it, by force after `grace_s` seconds, and remove it; idempotent."""

    def remove_abandoned(self, claim: Claim) -> None:
        """Remove what a start that died, or a server that is gone, has left under this name."""

    def remove_orphans(self) -> None:
        """Remove what belongs to no server any more."""

    def controls(self, record: Record) -> Receipt:
        """The isolation receipt, what else was seen, and what went over the network."""


def backend_names() -> tuple[BackendName, ...]:
    """All backends where servers are started; those of other packages last, without the ones that cannot be used."""
    found = []
    for name in plugins.names(GROUP, _BACKENDS):
        # `backend` says what is wrong; the servers of the others are to be found all the same.
        with suppress(LabError):
            found.append(backend(name).NAME)
    return ("native", "container", *found)


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UnknownNameError: If there is none.
        BackendError: If another package brings it, and it cannot be used.
    """
    if name in _BACKENDS:
        return cast("Backend", import_module(f"llmlab.backends.{_BACKENDS[name]}"))
    others = plugins.names(GROUP, _BACKENDS)
    if name not in others:
        raise UnknownNameError("backend", name, ("native", "container", *others))
    return cast("Backend", plugins.load(GROUP, name, Backend, BackendError))


def resident_mib(pid: int | None) -> int | None:
    """Memory a process holds now, mapped files included; None if that cannot be seen.

    Some engines load the model in processes of their own: what their program starts counts.
    """
    if pid is None:
        return None
    try:
        server = psutil.Process(pid)
        held: int = server.memory_info().rss
        for child in server.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                held += child.memory_info().rss
    except psutil.Error:
        return None
    return held // (1024 * 1024)


def running(pid: int | None, server: int | None) -> Found:
    """A server that runs, halted or not.

    Args:
        pid: What is told as its process.
        server: The engine's own process, if it can be seen from here.
    """
    with suppress(psutil.Error):
        # It has been sent SIGSTOP, or is being debugged: it is there, and does nothing.
        if server and psutil.Process(server).status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}:
            detail = f"halted by a signal; kill -CONT {server} lets it go on"
            return Found(running=True, detail=detail, pid=pid, held="paused")
    return Found(running=True, pid=pid)


KILLED = 137
"""The exit code of a process that was killed: 128 and the number of SIGKILL."""


def killed_detail(memory: bool | None) -> str:  # noqa: FBT001 - three answers to one question
    """What is said of a process that was killed: by somebody, or by the kernel for lack of memory."""
    seen = "possibly for memory" if memory is None else "no lack of memory seen"
    return f"exit code {KILLED}: killed " + (
        "by the kernel: out of memory" if memory else f"by SIGKILL, {seen}"
    )


def exit_detail(code: int) -> str:
    """What an exit code says."""
    meanings = {
        0: "ended by itself, or told to by SIGTERM",
        135: "bus error: a file that it had open was cut short",
        137: "killed by SIGKILL",
        132: "illegal instruction: built for another CPU",
        134: "aborted by itself",
        139: "segmentation fault",
        143: "stopped by SIGTERM",
        255: "ended when its container engine did",
    }
    meaning = meanings.get(code)
    return f"exit code {code}: {meaning}" if meaning else f"exit code {code}"
