"""The rungs of the ladder, one change each: from no server at all to a quota and a cold page cache.

A rung is what the one below it is, changed in one thing. Those that a machine cannot have
are left out, and the next ones change what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmlab import backends, lab, machine
from llmlab.backends import docker_api
from llmlab.builds import find_build
from llmlab.comparing.ladder import page_cache
from llmlab.comparing.ladder import process as rung_process
from llmlab.comparing.ladder import starts as rung_starts
from llmlab.comparing.running import Started, started
from llmlab.errors import StartError
from llmlab.specs import ServeSpec

# Of the file, what may be left in the page cache after it was dropped.
_LEFT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How something is started; a rung's change makes the next one of it.

    Attributes:
        spec: What is served; the same on all rungs.
        place: In a child process, as a native server on TCP or on a unix socket, in a container.
        network: A container's: the machine's, none, or one with a published port.
        cpus: A container's CPU limit; None for the default, threads + 1.
        cold: Whether the model's files are dropped from the page cache before.
        wrap: Changes what was started.
    """

    spec: ServeSpec
    place: Literal["child", "tcp", "socket", "container"] = "child"
    network: Literal["host", "none", "published"] = "none"
    cpus: float | None = None
    cold: bool = False
    wrap: Callable[[Started], Started] | None = None

    def start(self, name: str, timeout_s: float) -> Started:
        """Start it.

        Args:
            name: Its name.
            timeout_s: Longest wait for it.

        Raises:
            LabError: As `llmlab.start`; StartError if the page cache keeps the files.
        """
        left = _dropped(self.spec.model.files) if self.cold else None
        made = self._start(name, timeout_s)
        try:
            made = replace(made, seen={"cached_before": left, **page_cache.has_read(made.pid)})
            return self.wrap(made) if self.wrap else made
        except BaseException:
            made.stop(0)
            raise

    def _start(self, name: str, timeout_s: float) -> Started:
        if self.place == "child":
            return rung_starts.in_child(self.spec, timeout_s)
        spec = self.spec
        options: dict[str, Any] = {
            "model": spec.model.reference,
            "name": name,
            "engine": spec.engine,
            "context": spec.context,
            "slots": spec.slots,
            "threads": spec.threads,
            "timeout_s": timeout_s,
            # All rungs compute on the CPU; a native one would take a GPU that it finds.
            "gpu_layers": "0",
            "backend": "container" if self.place == "container" else "native",
        }
        if self.place == "tcp":
            return started(lambda: rung_starts.begun(rung_starts.on_tcp, **options))
        if self.place == "container":
            options["cpus"] = self.cpus
            if self.network == "published":
                return started(lambda: rung_starts.begun(rung_starts.published, **options))
            options["network"] = "host" if self.network == "host" else None
        return started(lambda: lab.start(**options))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A rung, if it can be had.

    Attributes:
        key: Its name in cards.
        title: What it is called.
        change: What is changed of the rung below, a sentence.
        changed: Makes it of the rung below.
        missing: Why it cannot be had here, "" if it may be tried.
    """

    key: str
    title: str
    change: str
    changed: Callable[[How], How]
    missing: str = ""


def candidates(spec: ServeSpec, cpus: float | None) -> tuple[Candidate, ...]:
    """All rungs in their order, with what is missing for them.

    Args:
        spec: What is served.
        cpus: CPU limit of one more rung, such as one below the threads; None for none.

    Raises:
        EngineMissingError: If there is no llama-server.
    """
    closed = _no_containers()
    extra = () if cpus is None or cpus == spec.threads else (_quota("below", cpus, spec, closed),)
    usual = min(spec.threads + 1, machine.cpus())
    quota = _quota("quota", float(spec.threads), spec, closed)
    if not quota.missing and usual <= spec.threads:
        quota = replace(
            quota, missing=f"without it, the quota is {usual} CPUs already, as many as there are threads"
        )
    return (*_native(), *_contained(closed), quota, *extra, _cold(closed))


def _native() -> tuple[Candidate, ...]:
    build = find_build()
    absent = ""
    if not rung_process.importable():
        absent = "llama-cpp-python is not installed"
    elif build.library_dir is None:
        absent = "this llama-server is not known to have libraries that llama-cpp-python fits"
    return (
        Candidate(
            key="process",
            title="in process",
            change="llama-cpp-python in a process of its own: the same libraries, no server, no HTTP; "
            "its cold start is loading the model until a first token, without starting Python",
            changed=lambda how: replace(how, place="child"),
            missing=absent,
        ),
        Candidate(
            key="tcp",
            title="native TCP",
            change="llama-server, asked by HTTP over TCP on loopback; "
            "its cold start has planning, the process and waiting for its health in it",
            changed=lambda how: replace(how, place="tcp"),
        ),
        Candidate(
            key="socket",
            title="native socket",
            change="a unix socket in place of TCP; the peer of each connection is checked",
            changed=lambda how: replace(how, place="socket"),
        ),
    )


def _contained(closed: str) -> tuple[Candidate, ...]:
    away = "" if closed or docker_api.connect().is_local() else "the container engine is on another machine"
    return (
        Candidate(
            key="host",
            title="container, host network",
            change="a container: read-only, without capabilities, Docker's own filter of system calls, limits "
            "(one CPU more than threads); the machine's network, and still the unix socket",
            changed=lambda how: replace(how, place="container", network="host"),
            missing=closed or away,
        ),
        Candidate(
            key="sealed",
            title="container, sealed",
            change="no network; the filter lets it open unix sockets only",
            changed=lambda how: replace(how, place="container", network="none"),
            missing=closed,
        ),
        Candidate(
            key="port",
            title="published port",
            change="asked by TCP through a port that the container engine publishes, so a network (bridge) "
            "and Docker's own filter of system calls",
            changed=lambda how: replace(how, place="container", network="published"),
            missing=closed or away,
        ),
    )


def _quota(key: str, cpus: float, spec: ServeSpec, closed: str) -> Candidate:
    threads = "thread" if spec.threads == 1 else "threads"
    return Candidate(
        key=key,
        title=f"quota of {cpus:g}",
        change=f"a quota of {cpus:g} CPUs for {spec.threads} {threads}",
        changed=lambda how: replace(how, cpus=cpus),
        missing=closed,
    )


def _cold(closed: str) -> Candidate:
    return Candidate(
        key="cold",
        title="cold page cache",
        change="the model's file is dropped from the page cache before each start, which shows in cold start and "
        "first request alone; under a virtual machine its host may still have it in memory",
        changed=lambda how: replace(how, cold=True),
        missing=""
        if page_cache.can_drop() and (closed or docker_api.connect().is_local())
        else "the page cache that counts is not this system's",
    )


def _no_containers() -> str:
    """Why no container can be had here; "" if one can."""
    problem = backends.backend("container").unavailable()
    return problem.message if problem else ""


def _dropped(paths: tuple[Path, ...]) -> float | None:
    """Drop files from the page cache; how much of them is there all the same.

    Raises:
        StartError: If that is most of it, or one cannot be opened.
    """
    try:
        page_cache.drop(paths)
    except OSError as error:
        raise StartError(
            f"the model's file cannot be dropped from the page cache: {error.strerror}"
        ) from error
    left = page_cache.share(paths)
    if left is not None and left > _LEFT:
        raise StartError(
            f"{100 * left:.0f} % of the model's file stays in the page cache when it is dropped",
            hint="another server has it mapped, or it lies on a file system in memory",
        )
    return left
