"""The container backend: a sealed container, reached through a unix socket.

No network at all; the socket's directory, which only the user may enter, is
mounted into the container. What is written down stands in the container's labels.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from llmlab import engines, runtime
from llmlab.backends import base, container_receipt, docker_api, image, peer
from llmlab.backends.base import Found, Starting, exit_detail
from llmlab.builds import find_build
from llmlab.client import Verify
from llmlab.errors import BackendError, LabError, UsageError
from llmlab.isolation import create_request
from llmlab.isolation.profile import MODEL_DIR, SCRATCH, SOCKET_DIR
from llmlab.profiles import Mount
from llmlab.reporting import reporter
from llmlab.results import Control
from llmlab.runtime import Claim
from llmlab.specs import BackendName, Endpoint, Record, record_from_dict, to_dict

NAME: BackendName = "container"

LABEL_SERVER = "llmlab.server"
LABEL_USER = "llmlab.user"
_LABEL_RECORD = "llmlab.record"
# The program's place in the images of the llama.cpp project.
_OFFICIAL_PROGRAM = "/app/llama-server"
_NOBODY = 65534


def unavailable() -> LabError | None:
    """Why no container can be started; None if it can."""
    try:
        api = docker_api.connect()
        api.ping()
        if not api.is_local():
            return BackendError(
                f"the container engine at {api.address} does not share this machine's files, "
                "so its unix sockets cannot be reached from here",
                hint="use a local Docker Engine",
            )
    except LabError as error:
        return error
    return None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A container that could be created.

    Attributes:
        name: Its name.
        request: The body of the engine's "create container" request.
        record: The server's record, but for the container's id.
    """

    name: str
    request: dict[str, Any]
    record: Record


def start(starting: Starting) -> Record:
    """Create and start a container.

    Raises: As `prepare`.
    """
    prepared = prepare(starting)
    api = docker_api.connect()
    container_id = runtime.uninterrupted(
        lambda: api.create(prepared.name, prepared.request), undo=lambda made: api.stop(made, 0)
    )
    try:
        api.start(container_id)
    except BaseException:
        api.stop(container_id, 0)
        raise
    return replace(prepared.record, container_id=container_id)


def prepare(starting: Starting) -> Prepared:
    """Everything but creating the container; the image is made.

    Raises:
        DaemonError: If no engine answers.
        ImageError: If the image cannot be made or had.
        UsageError: If the engine cannot run in a container.
        BackendError: If the container engine refuses.
    """
    if problem := unavailable():
        problem.hint = "; ".join(part for part in (problem.hint, "or run natively: --native") if part)
        raise problem
    api = docker_api.connect()
    claim, spec = starting.claim, starting.spec
    engine = engines.engine(spec.engine)
    if NAME not in engine.BACKENDS:
        raise UsageError(
            f"engine {spec.engine} cannot run in a container", hint="use --native, or --engine llama-server"
        )
    image_name, image_id, program, files = _image(api, starting)
    report = reporter()
    report.stage("model", spec.model.name)
    user, notes = _user(api, starting)
    # A model may be a link into a store, so that its name and its place differ.
    targets = {path: f"{MODEL_DIR}/{path.name}" for path in spec.model.files}
    paths = engines.Paths(
        program=PurePosixPath(program),
        model=PurePosixPath(targets[spec.model.path]),
        socket=PurePosixPath(SOCKET_DIR) / claim.socket.name,
        scratch=PurePosixPath(SCRATCH),
        # Where a build's libraries lie on the host means nothing in here.
        library_dir=None if starting.image else PurePosixPath(program).parent,
    )
    argv = engine.argv(spec, paths)
    record = Record(
        name=claim.name,
        backend=NAME,
        spec=spec,
        endpoint=Endpoint(socket=claim.socket),
        created=time.time(),
        owner=starting.owner,
        build=files,
        image=f"{image_name}@{image_id}",
        user=user,
        argv=tuple(argv),
        limits=starting.limits,
        profile=starting.profile,
        transport="socket",
        notes=notes,
    )
    request = create_request(
        starting.profile,
        image=image_id,
        argv=argv,
        environment=engine.environment(spec, paths),
        user=user,
        limits=starting.limits,
        mounts=[
            *(Mount(source=str(path.resolve()), target=target) for path, target in targets.items()),
            Mount(source=str(claim.socket_dir), target=SOCKET_DIR, read_only=False),
        ],
        labels={
            LABEL_SERVER: claim.name,
            LABEL_USER: runtime.scope(),
            _LABEL_RECORD: json.dumps(to_dict(record)),
        },
    )
    return Prepared(_container_name(claim.name), request, record)


def find() -> list[Record]:
    """All containers of this user's that carry our labels; none if no engine answers."""
    try:
        listed = docker_api.connect().containers(f"{LABEL_USER}={runtime.scope()}")
    except LabError:
        return []
    return [record for entry in listed if (record := _record(entry))]


def look(record: Record) -> Found:
    """Whether the container runs, and if not, why."""
    entry = docker_api.connect().container(record.container_id or "")
    if entry is None:
        return Found(running=False, detail="its container is gone")
    state = entry["State"]
    if state.get("Paused"):
        return Found(running=True, detail="paused", pid=state.get("Pid") or None)
    if state.get("Running"):
        return Found(running=True, pid=state.get("Pid") or None)
    if state.get("OOMKilled"):
        limit = f" of {record.limits.memory_mib} MiB" if record.limits else ""
        return Found(running=False, detail=f"killed: out of its memory{limit}")
    return Found(running=False, detail=state.get("Error") or exit_detail(int(state.get("ExitCode", 0))))


def verify(record: Record) -> Verify | None:
    """Check that the peer's process is in the record's container."""
    container_id = record.container_id or ""

    def check(opened: socket.socket) -> None:
        found = peer.pid(opened)
        if found is not None and peer.in_container(found, container_id) is False:
            raise peer.stranger(record.name, f"process {found} is not in container {container_id[:12]}")

    return check


def resident_mib(record: Record) -> int | None:
    """The resident memory of the engine's process in the container."""
    entry = docker_api.connect().container(record.container_id or "")
    return base.resident_mib(container_receipt.server_pid(entry) if entry else None)


def log(record: Record, lines: int | None = None) -> list[str]:
    """The container's output."""
    return docker_api.connect().log(record.container_id or "", lines)


def stop(record: Record, *, grace_s: float) -> None:
    """Stop and remove the container."""
    docker_api.connect().stop(record.container_id or "", grace_s)


def remove_abandoned(claim: Claim) -> None:
    """Remove a container of this name whose start died before it was ready."""
    try:
        api = docker_api.connect()
        listed = api.containers(f"{LABEL_SERVER}={claim.name}")
    except LabError:
        return
    for entry in listed:
        if (entry.get("Labels") or {}).get(LABEL_USER) == runtime.scope():
            api.stop(entry["Id"], 0)


def controls(record: Record) -> tuple[Sequence[Control], dict[str, str]]:
    """The receipt: asked for, recorded by the engine, seen on the process."""
    return container_receipt.controls(record)


def _image(api: docker_api.DockerApi, starting: Starting) -> tuple[str, str, str, dict[str, str]]:
    """Name, id, program and file hashes of the image to run."""
    if starting.image:
        reporter().stage("image", starting.image)
        found = api.image_id(starting.image)
        if found is None:
            for line in api.pull(starting.image):
                reporter().stage("image", f"{starting.image}: {line}")
            found = api.image_id(starting.image)
        if found is None:
            raise BackendError(f"image {starting.image!r} was pulled and is not there")
        return starting.image, found, _OFFICIAL_PROGRAM, {}
    reporter().stage("engine", starting.spec.engine)
    build = find_build()
    name, found = image.make(api, build)
    program = next(file.target for file in build.files if file.source.name == build.server.name)
    return name, found, program, {Path(file.target).name: file.sha256 for file in build.files}


def _user(api: docker_api.DockerApi, starting: Starting) -> tuple[str, tuple[str, ...]]:
    """The user the server runs as, and what to say about it.

    It must be able to write the socket's directory and to be connected to by
    us: that is our own uid. In a rootless engine's user namespace that is 0.
    Root runs it as nobody, whose socket it can use all the same.
    """
    uid, gid = os.getuid(), os.getgid()
    if uid != 0:
        return ("0:0" if api.is_rootless() else f"{uid}:{gid}"), ()
    if not all(path.stat().st_mode & stat.S_IROTH for path in starting.spec.model.files):
        note = f"runs as root in the container, because only root may read {starting.spec.model.path}"
        return "0:0", (note,)
    os.chown(starting.claim.socket_dir, _NOBODY, _NOBODY)
    return f"{_NOBODY}:{_NOBODY}", ()


def _record(entry: dict[str, Any]) -> Record | None:
    try:
        data = json.loads((entry.get("Labels") or {})[_LABEL_RECORD])
        record = replace(record_from_dict(data), container_id=str(entry["Id"]))
    except (KeyError, ValueError):
        return None
    # What was learnt after the container was created stands in the file only.
    written = runtime.read_record(record.name)
    return written if written and written.container_id == record.container_id else record


def _container_name(name: str) -> str:
    """Container names are the machine's, server names the user's."""
    return f"llmlab-{runtime.scope()}-{name}"
