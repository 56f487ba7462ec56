"""What is in force on a container's server."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from llmlab import engines
from llmlab.backends import container_plan, docker_api, model_files, peer, relay, traffic, transports
from llmlab.backends.docker_api import DockerApi
from llmlab.backends.gateway import TARGETS_DIR
from llmlab.backends.transports import Choice
from llmlab.errors import BackendError, LabError
from llmlab.isolation import Sources, podman, process_facts, receipt
from llmlab.isolation.profile import MODEL_DIR, SOCKET_DIR, closed_volumes
from llmlab.profiles import SEALED, Mount
from llmlab.results_isolation import Receipt
from llmlab.specs import Record


def controls(record: Record) -> Receipt:
    """The receipt: asked for, recorded by the engine, seen on the process."""
    api = docker_api.connect(record.container_engine)
    entry = api.container(record.container_id or "")
    if entry is None:
        return Receipt()
    pid = server_pid(entry) if api.is_local() else None
    facts = process_facts(pid)
    endpoint, agrees = _endpoint(record)
    mounts, tmpfs = _of_transport(record, local=api.is_local())
    if record.replicas:
        mounts = (*mounts, Mount(source="", target=TARGETS_DIR, read_only=False, volume=True))
    sources = Sources(
        record=record,
        entry=entry,
        facts=facts,
        machine_bytes=psutil.virtual_memory().total if api.is_local() else None,
        endpoint=endpoint,
        endpoint_agrees=agrees,
        models=_models(record),
        mounts=mounts,
        tmpfs=tmpfs,
        volumes=tuple(closed_volumes(record.profile or SEALED, _volumes(api, entry))),
        podman=api.is_podman,
        log=podman.log_in_force((entry.get("State") or {}).get("Pid"), str(entry["Id"]))
        if api.is_podman and pid
        else None,
    )
    return Receipt(
        controls=receipt(sources),
        facts={
            "container": str(entry["Id"])[:12],
            "image": str(record.image),
            "pid": str(pid) if pid else "unknown",
            "transport": transports.describe(record.transport or "socket"),
        },
        traffic=traffic.of_container(facts, running=bool((entry.get("State") or {}).get("Running"))),
    )


def _models(record: Record) -> tuple[Mount, ...]:
    """Where the model's files are; nothing if that cannot be told any more."""
    with suppress(LabError, OSError):
        found = model_files.of(engines.engine(record.spec.engine), record.spec)
        return tuple(
            Mount(source=str(path.resolve()), target=f"{MODEL_DIR}/{target}") for target, path in found
        )
    return ()


def _volumes(api: DockerApi, entry: dict[str, Any]) -> tuple[str, ...]:
    """The volumes that its image declares; none if the image was removed meanwhile."""
    with suppress(BackendError):
        return api.image_volumes(str(entry.get("Image")))
    return ()


def _of_transport(record: Record, *, local: bool) -> tuple[tuple[Mount, ...], tuple[str, ...]]:
    """What a transport mounts into the server's container, and where it has memory as files."""
    transport = record.transport or "socket"
    engine = engines.engine(record.spec.engine)
    tcp = container_plan.listens_on_tcp(record.profile or SEALED, engine, Choice(transport, ""))
    # A gate for other tools, and a cluster's door, get at the socket by a volume.
    beside = record.endpoint.key_file or (record.overlay and not record.replicas)
    if transport == "relay":
        program = Path(relay.PROGRAM)
        found = [Mount(source="", target=str(program if local else program.parent), volume=not local)]
        if beside:
            found.append(Mount(source="", target=SOCKET_DIR, read_only=False, volume=True))
        return tuple(found), (() if tcp or beside else (SOCKET_DIR,))
    if tcp or record.endpoint.socket is None:
        return (), ()
    folder = str(record.endpoint.socket.parent)
    return (Mount(source=folder, target=SOCKET_DIR, read_only=False),), ()


def server_pid(entry: dict[str, Any]) -> int | None:
    """The server itself: the child of the container's init.

    None if the engine counts processes otherwise than we do, as one in another
    pid namespace does: its number would be somebody else's here.
    """
    init = (entry.get("State") or {}).get("Pid")
    if not init:
        return None
    # A rootless engine may have no control groups; its monitor names the container, too.
    if not peer.in_container(int(init), str(entry["Id"])) and not podman.log_in_force(init, str(entry["Id"])):
        return None
    if not (entry.get("HostConfig") or {}).get("Init"):
        return int(init)
    try:
        children = Path(f"/proc/{init}/task/{init}/children").read_text(encoding="ascii").split()
    except OSError:
        return int(init)
    return int(children[0]) if children else int(init)


def _endpoint(record: Record) -> tuple[str | None, bool | None]:
    """What is seen of the endpoint, and whether it is what was asked for."""
    path = record.endpoint.socket
    if path is None:
        return None, None
    try:
        found, folder = path.lstat(), path.parent.stat()
    except OSError:
        return "its socket cannot be seen", None
    if not stat.S_ISSOCK(found.st_mode):
        # A link would lead somewhere else: the container can write to that directory.
        return "not a socket", False
    closed = not folder.st_mode & 0o027
    return f"a socket, its directory {'closed to others' if closed else 'open to others'}", closed
