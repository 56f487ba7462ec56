"""One audit: a control, a sibling, and for each server its twin; all at the same time.

The control and the sibling are shared by all servers of one audit.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from llmlab import backends
from llmlab.auditing import canaries, containers, gpu_nodes, serving, stand, trials
from llmlab.auditing.checks import ON_THE_SERVER
from llmlab.auditing.judging import Context, Seen, is_doubtful, judge
from llmlab.auditing.results import Finding
from llmlab.auditing.serving import Around
from llmlab.auditing.stand import Run, Stand
from llmlab.auditing.trials import LOOPBACK, UDP_PORT, Aims, Subject, Trial
from llmlab.backends import tool_image
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import BackendError, LabError
from llmlab.isolation.gpus import driver_files
from llmlab.isolation.profile import SOCKET_DIR
from llmlab.reporting import reporter
from llmlab.specs import Record

STAGES = ("image", "sibling", "twins", "server", "verdict")
_LISTENING_S, _ARRIVAL_S = 20.0, 1.0
_SIBLING_S = 240
_REACHED_S = 1.0
_FIRST_PORT, _PORTS = 20_000, 10_000
# Twins that run at the same time: more would only wait for each other.
_AT_ONCE = 4
_NAMESPACES = ("ipc", "uts", "pid", "net", "cgroup")
_RECEIPT = {"R1": "memory", "R2": "processes", "R3": "CPU"}


def observe(
    api: DockerApi, subjects: Sequence[Subject], wanted: frozenset[str], *, asked: bool = False
) -> tuple[list[tuple[Finding, ...]], dict[str, float]]:
    """Try everything on every subject; returns the findings of each, and the seconds of each stage.

    Args:
        api: The container engine.
        subjects: What to audit.
        wanted: Ids of checks.
        asked: Whether the checks were named: then those that take long are made as well.

    Raises:
        LabError: If the container engine does not do it. Nothing is left then.
    """
    clock = _Clock()
    under_way = [_trial(subject, hashed="M1" in wanted, at_any_size=asked) for subject in subjects]
    clock.stage("image", "the probe's")
    image = tool_image.make(api, "probe")[1]
    nonce = secrets.token_hex(8)
    with ExitStack() as stack:
        place = stack.enter_context(stand.opened(api))
        clock.stage("sibling", "a container to talk to")
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        words = [f"tcp={port}", f"udp={UDP_PORT}", "dns=53", f"nonce={nonce}", f"seconds={_SIBLING_S}"]
        neighbour = place.run("sibling", containers.sibling(image, words))
        address, gateway = _awaited(api, neighbour)
        # Only now: Podman makes its bridge, and so this machine's address on it, for the first container.
        own = canaries.own_addresses()
        doors = stack.enter_context(canaries.listening((*own, LOOPBACK), nonce))
        if gateway and not _reaches(address, port, nonce):
            # The engine's machine is another one, or has a network of its own: its gateway is not ours,
            # whatever its address.
            doors[gateway] = _service(place, image, nonce)
        around = Around(own=own, doors=doors, sibling=(address, port), nonce=nonce)
        # The sibling is the process outside that no twin may see.
        aims = Aims(around, gateway, f"tcp={port}", wanted)
        clock.stage("twins", "a control, and a twin of each server")
        control = trials.start_control(place, image, aims, under_way, _name(), api)
        for begin in range(0, len(under_way), _AT_ONCE):
            _try(place, image, aims, under_way[begin : begin + _AT_ONCE], clock, local=api.is_local())
        for run in control.runs:
            run.await_end()
        _look_again([control, *under_way])
        if control.runs and "N5" in wanted:
            # A datagram arrives without anybody being told.
            neighbour.await_line(
                lambda line: line.get("received") == "udp" and control.name in str(line.get("text")),
                _ARRIVAL_S,
            )
        clock.stage("verdict", "what came of it")
        weak = _seen(control, neighbour)
        found = [judge(_seen(trial, neighbour), weak, _context(trial, aims), wanted) for trial in under_way]
        clock.stage("clean up", "")
    clock.stop()
    return found, clock.stages


def _reaches(address: str, port: int, nonce: str) -> bool:
    """Whether this machine is on the network of the engine's containers: the sibling says its word.

    That a connection is made proves nothing: some networks answer in everybody's place.
    """
    try:
        with socket.create_connection((address, port), timeout=_REACHED_S) as opened:
            return nonce.encode() in opened.recv(256)
    except OSError:
        return False


def _service(place: Stand, image: str, nonce: str) -> int:
    """The port of a service on the engine's own machine.

    Raises:
        LabError: If it cannot be run.
    """
    port = _FIRST_PORT + secrets.randbelow(_PORTS)
    words = [f"tcp={port}", f"nonce={nonce}", f"seconds={_SIBLING_S}"]
    service = place.run("service", containers.sibling(image, words, network="host"))
    service.await_line(lambda line: bool(line.get("listening")), _LISTENING_S)
    return port


def _trial(subject: Subject, *, hashed: bool, at_any_size: bool) -> Trial:
    made = Trial(subject, _name(), containers.amounts(subject.entry))
    if hashed and subject.record:
        made.hashing = serving.Hashing(subject.record.spec.model.path, at_any_size=at_any_size)
    return made


def _name() -> str:
    """A name that only one container asks for, and that nobody on earth has."""
    return f"{secrets.token_hex(4)}.llmlab.invalid"


def _try(place: Stand, image: str, aims: Aims, group: Sequence[Trial], clock: _Clock, *, local: bool) -> None:
    """Start the twins of some subjects, try the servers themselves meanwhile, and wait for the twins."""
    for trial in group:
        trials.start_twin(place, image, aims, trial, local=local)
    clock.stage("server", "its access, its image, its model")
    for trial in group:
        if record := trial.subject.record:
            trial.answers = serving.check(
                record,
                dict(trial.subject.entry),
                aims.around,
                aims.wanted,
                guests=trial.guests,
                hashing=trial.hashing,
            )
    clock.stage("twins", "what they attempt")
    for trial in group:
        for run in trial.runs:
            run.await_end()


class _Clock:
    """How long each stage took; tells the reporter, too."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._name, self._since = "", time.monotonic()

    def stage(self, name: str, detail: str) -> None:
        """The next stage begins, or one goes on."""
        self.stop()
        self._name = name
        reporter().stage(name, detail)

    def stop(self) -> None:
        """The last one has ended."""
        now = time.monotonic()
        if self._name:
            self.stages[self._name] = self.stages.get(self._name, 0.0) + now - self._since
        self._name, self._since = "", now


def _awaited(api: DockerApi, neighbour: Run) -> tuple[str, str]:
    """Address and gateway of the sibling, once it listens.

    Raises:
        BackendError: If it does not.
    """
    if not neighbour.await_line(lambda line: bool(line.get("listening")), _LISTENING_S):
        raise BackendError(
            "the audit's own container on the bridge network does not come up",
            hint="does the container engine have a bridge network? docker network ls",
        )
    settings = (api.container(neighbour.id or "") or {}).get("NetworkSettings") or {}
    networks = [settings, *(settings.get("Networks") or {}).values()]
    address = next((str(n["IPAddress"]) for n in networks if n.get("IPAddress")), "")
    if not address:
        raise BackendError(
            "the container engine gave no address to a container on its bridge network",
            hint="does it have one? docker network ls",
        )
    return address, next((str(n["Gateway"]) for n in networks if n.get("Gateway")), "")


def _look_again(ran: Sequence[Trial]) -> None:
    """Try once more, one after the other, what a busy machine may have kept from working."""
    for trial in ran:
        doubtful = {str(line["check"]) for run in trial.runs for line in run.lines if is_doubtful(line)}
        if doubtful:
            trial.runs += [run.await_end() for run in trial.again(frozenset(doubtful))]


def _seen(trial: Trial, neighbour: Run) -> Seen:
    """What a container's probe has said, and what the sibling has received of it."""
    return Seen(
        lines=[line for run in trial.runs for line in run.lines],
        complete=all(run.complete for run in trial.runs),
        arrived=frozenset(
            str(line["received"])
            for line in neighbour.lines
            if "received" in line and trial.name in str(line.get("text")).lower()
        ),
        models=trial.models,
        # Without a mount of that name, it is a directory of the container's own.
        left_out="" if trial.socket_dir else SOCKET_DIR,
    )


def _context(trial: Trial, aims: Aims) -> Context:
    record, host = trial.subject.record, trial.subject.entry["HostConfig"]
    without = dict(trial.answers.without)
    if record is None:
        without |= dict.fromkeys(ON_THE_SERVER, "not a server of llmlab's")
    if not trial.models:
        without["F2"] = "it has no model mounted"
    if not set(aims.around.doors) - {aims.gateway, LOOPBACK}:
        without["N1"] = "this machine has no address on a network"
    scaled = {}
    if host.get("Memory"):
        scaled["R1"] = f"{containers.SCALED_MEMORY_MIB} MiB"
    if host.get("NanoCpus") or host.get("CpuQuota"):
        scaled["R3"] = f"{containers.SCALED_CPUS:g} CPUs"
    if (host.get("PidsLimit") or 0) > containers.SCALED_PIDS:
        scaled["R2"] = f"{containers.SCALED_PIDS} processes"
    own = {}
    for name in _NAMESPACES:
        with suppress(OSError):
            text = "network" if name == "net" else name
            own[f"{text} namespace"] = os.stat(f"/proc/self/ns/{name}").st_ino  # noqa: PTH116 - a magic link, not a file
    return Context(
        own_namespaces=own,
        gpus=gpu_nodes.asked_for(record.gpus, driver_files()) if record and record.gpus else frozenset(),
        loopback=bool(record and record.profile and record.profile.seccomp == "loopback"),
        in_force=_in_force(record),
        scaled=scaled,
        without=without,
        on_server=trial.answers.attempts,
    )


def _in_force(record: Record | None) -> dict[str, str]:
    """The limits on the server itself, as its receipt sees them."""
    if record is None:
        return {}
    with suppress(LabError):
        rows = {row.name: row for row in backends.backend(record.backend).controls(record).controls}
        return {
            check: row.in_force or f"{row.recorded}, as recorded"
            for check, name in _RECEIPT.items()
            if (row := rows.get(name)) and (row.in_force or row.recorded)
        }
    return {}


@contextmanager
def reported(title: str) -> Iterator[None]:
    """Tell the reporter that an audit begins and ends."""
    report = reporter()
    report.begin(title, STAGES)
    failed = True
    try:
        yield
        failed = False
    finally:
        report.end(failed=failed)
