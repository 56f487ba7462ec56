"""What one audit starts for each server, and the one control that it starts for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from llmlab import engines
from llmlab.auditing import containers, serving
from llmlab.auditing.checks import CHECKS, ON_THE_SERVER, SCALED
from llmlab.auditing.containers import Amounts
from llmlab.auditing.serving import Around
from llmlab.auditing.stand import Run, Stand
from llmlab.backends import relay
from llmlab.backends.docker_api import DockerApi
from llmlab.isolation.profile import MODEL_DIR, SCRATCH, SOCKET_DIR
from llmlab.specs import Record

LOOPBACK = "127.0.0.1"
UDP_PORT = 4712
# What the control may write to.
_MODEL = b"GGUF"
_METADATA = "169.254.169.254"
_GPU_DEVICES = ("nvidia*", "nvidia-caps/*", "dri/*", "kfd", "dxg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is audited.

    Attributes:
        name: Its name.
        entry: `docker inspect` of its container.
        record: Its record; None for a container that is no server of llmlab's,
            of which only the isolation can be tried.
    """

    name: str
    entry: Mapping[str, Any]
    record: Record | None = None


@dataclass(slots=True)
class Trial:
    """A subject under way."""

    subject: Subject
    name: str
    amounts: Amounts
    runs: list[Run] = field(default_factory=list)
    again: Callable[[frozenset[str]], list[Run]] = lambda _: []
    guests: tuple[Run, Run] | None = None
    hashing: serving.Hashing | None = None
    answers: serving.Answers = field(default_factory=serving.Answers)

    @property
    def models(self) -> tuple[str, ...]:
        """Where it has its models."""
        record = self.subject.record
        names = (
            [file.target for file in engines.model_files(engines.engine(record.spec.engine), record.spec)]
            if record
            else ()
        )
        return containers.models(self.subject.entry, names)

    @property
    def socket_dir(self) -> Mapping[str, Any] | None:
        """The mount of its socket's directory, if it has one."""
        mounts = self.subject.entry.get("Mounts") or ()
        return next((mount for mount in mounts if mount["Destination"] == SOCKET_DIR), None)


@dataclass(frozen=True, slots=True)
class Aims:
    """What the attempts are aimed at."""

    around: Around
    gateway: str
    marker: str
    wanted: frozenset[str]


def _words(aims: Aims, name: str, model: str | None, amounts: Amounts, mounts: Sequence[str]) -> list[str]:
    """The probe's arguments, but for the checks."""
    around = aims.around
    places = {address: f"{address}:{port}" for address, port in around.doors.items()}
    address, port = around.sibling
    lan = [places[own] for own in around.own if own in places and own != aims.gateway]
    found = {
        "nonce": around.nonce,
        "lan": ",".join(lan),
        "gateway": places.get(aims.gateway, ""),
        "loopback": places.get(LOOPBACK, ""),
        "metadata": _METADATA,
        "dns": address,
        "name": name,
        "udp": f"{address}:{UDP_PORT}",
        "sibling": f"{address}:{port}",
        "marker": aims.marker,
        "model": model or "",
        "scratch": SCRATCH,
        "docker_socks": "/var/run/docker.sock",
        "host_paths": f"{containers.HOST_DIR}/model",
        "mounts": ",".join(mounts),
        "socket_dir": SOCKET_DIR if SOCKET_DIR in mounts else "",
    }
    return [*(f"{key}={value}" for key, value in found.items() if value), *amounts.words()]


def _checks(wanted: frozenset[str], *without: frozenset[str]) -> str:
    kept = wanted.difference(*without)
    return "checks=" + ",".join(check.id for check in CHECKS if check.id in kept)


def start_control(
    place: Stand, image: str, aims: Aims, trials: Sequence[Trial], name: str, api: DockerApi
) -> Trial:
    """Start the control: it tries as much as any of the twins."""
    most = Amounts()
    for trial in trials:
        most = most.most(trial.amounts)
    files = list(dict.fromkeys(model for trial in trials for model in trial.models))
    # Never the user's own model: the control may write to it.
    folder = place.folder / "host" if api.is_local() else None
    sent: dict[str, bytes] = {}
    if folder:
        folder.mkdir()
        (folder / "model").write_bytes(_MODEL)
    else:
        sent = dict.fromkeys((f"{containers.HOST_DIR}/model", *files), _MODEL)
    words = _words(aims, name, files[0] if files else None, most, [*files, SOCKET_DIR, SCRATCH])

    def start(wanted: frozenset[str]) -> list[Run]:
        request = containers.control(
            image,
            ["attempt", _checks(wanted, ON_THE_SERVER), *words],
            engine_socket=api.address.removeprefix("unix://") if api.address.startswith("unix://") else None,
            folder=str(folder) if folder else None,
            files=files,
            dns=aims.around.sibling[0],
            open_files=most.files,
            devices=_gpu_devices() if api.is_local() else (),
            # A rootless engine cannot mount the message queues; it takes the machine's, if that has them.
            share_ipc=not api.is_rootless() or Path("/dev/mqueue").is_dir(),
        )
        return [place.run("control", request, sent)]

    entry = {"Mounts": [{"Destination": file} for file in files]}
    runs = start(aims.wanted) if aims.wanted - ON_THE_SERVER else []
    return Trial(Subject(name="control", entry=entry), name, most, runs=runs, again=start)


def _gpu_devices() -> tuple[str, ...]:
    found = (path for pattern in _GPU_DEVICES for path in Path("/dev").glob(pattern))
    return tuple(sorted(str(path) for path in found if path.is_char_device()))


def _own_mounts(entry: Mapping[str, Any]) -> Iterator[str]:
    """Where a container has what llmlab gives it besides models: a socket's place, the relay, volumes of both."""
    kinds = {str(mount["Destination"]): str(mount.get("Name") or "") for mount in entry.get("Mounts") or ()}
    in_memory = (entry.get("HostConfig") or {}).get("Tmpfs") or {}
    if SOCKET_DIR in kinds or SOCKET_DIR in in_memory:
        yield SOCKET_DIR
    if relay.PROGRAM in kinds:
        yield relay.PROGRAM
    # Of the machine's files only single ones are given; directories are volumes, which hold nothing else.
    for place in (MODEL_DIR, str(PurePosixPath(relay.PROGRAM).parent)):
        if kinds.get(place, "").startswith("llmlab-"):
            yield place


def start_twin(place: Stand, image: str, aims: Aims, trial: Trial, *, local: bool) -> None:
    """Start a subject's twin, the one with smaller limits, and the visitors."""
    entry = trial.subject.entry
    models = trial.models
    target = trial.socket_dir
    socket_dir = (
        place.folder_like(Path(target["Source"])) if target and local and target["Type"] == "bind" else None
    )
    expected = [*models, *_own_mounts(entry), SCRATCH]
    words = _words(aims, trial.name, models[0] if models else None, trial.amounts, expected)

    def twin(checks: str) -> dict[str, Any]:
        made = containers.twin(
            entry, image, ["attempt", checks, *words], socket_dir=str(socket_dir) if socket_dir else None
        )
        if not str(made["HostConfig"].get("NetworkMode", "")).startswith("container:"):
            # Nothing that is looked up may leave this machine.
            made["HostConfig"]["Dns"] = [aims.around.sibling[0]]
        return made

    def start(wanted: frozenset[str]) -> list[Run]:
        runs = []
        if wanted - SCALED - ON_THE_SERVER:
            runs.append(place.run("twin", twin(_checks(wanted, SCALED, ON_THE_SERVER))))
        if wanted & SCALED:
            runs.append(place.run("scaled", containers.scaled(twin(_checks(wanted & SCALED)))))
        return runs

    trial.again, trial.runs = start, start(aims.wanted)
    if trial.subject.record and "A1" in aims.wanted and local:
        trial.guests = serving.visitors(place, trial.subject.record, image)
