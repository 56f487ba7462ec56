"""What answers for a server that has replicas: a container that passes each request on to one of them.

It stands in the network of the cluster from which the replicas' doors are reached, and is
itself reached as every server is: through a unix socket, or through its engine's API. It
holds one static program and no model. Who the replicas are is told by a file in a volume.
"""

from __future__ import annotations

import io
import json
import socket
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from llmlab.backends import container_users, docker_api, labels, relay, sidecar, tool_image
from llmlab.backends.base import Starting
from llmlab.backends.container_plan import Prepared
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import MALFORMED, BackendError, LabError, UsageError
from llmlab.isolation import create_request
from llmlab.isolation.profile import SOCKET_DIR
from llmlab.profiles import Mount
from llmlab.specs import Endpoint, Limits, Record, to_dict

_PROGRAM = "/relay"
TARGETS_DIR = "/targets"
_TARGETS = "targets"
_STATUS = "status.sock"
_KEY = "key"
_PROFILE = replace(sidecar.PROFILE, network="bridge", pids=16, open_files=4096)
LIMITS = Limits(memory_mib=256, cpus=1.0, pids=16)
_ASK_S = 3.0
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A replica as its gateway is told of it.

    Attributes:
        name: The replica's name.
        address: Its address in the network.
        port: Its port there.
        slots: How many requests it answers at the same time.
        draining: Whether it gets no new ones.
    """

    name: str
    address: str
    port: int
    slots: int
    draining: bool = False

    def line(self) -> str:
        """The line in the gateway's file."""
        return f"{self.name} {self.address}:{self.port} {self.slots}{' drain' if self.draining else ''}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A replica as its gateway sees it.

    Attributes:
        name: The replica's name.
        state: "ready", "loading", "lost", or "draining".
        open: Requests that it answers now.
        served: Requests that it was given so far.
        failed: Those of them that it did not answer to the end.
        error: What went wrong last; "" for nothing.
    """

    name: str
    state: str
    open: int
    served: int
    failed: int
    error: str = ""


def prepare(api: DockerApi, starting: Starting, *, network: str, replicas: Sequence[str]) -> Prepared:
    """Everything but creating the gateway's container.

    Args:
        api: The engine that is to have it.
        starting: The server that it answers for.
        network: The network's name.
        replicas: The names of the replicas.

    Raises:
        LabError: If its image cannot be made.
    """
    image_name, image = tool_image.make(api, "relay")
    user = container_users.of(api, replace(starting, profile=_PROFILE), image)
    shared = api.is_local() and user.ours
    name = labels.container_name(starting.claim.name)
    inside = PurePosixPath(SOCKET_DIR)
    if starting.expose is not None and not shared:
        raise UsageError(
            f"the container engine at {api.address} is on another machine, so it cannot listen on this one's loopback",
            hint="leave --expose out: ask goes through the engine's API",
        )
    listening = inside / starting.claim.socket.name
    argv = [_PROGRAM, "balance", str(listening), f"{TARGETS_DIR}/{_TARGETS}", str(inside / _STATUS)]
    record = Record(
        name=starting.claim.name,
        backend="container",
        spec=starting.spec,
        endpoint=Endpoint(
            socket=starting.claim.socket if shared else None,
            key_file=None if starting.expose is None else starting.claim.path / _KEY,
        ),
        created=time.time(),
        owner=starting.owner,
        container_engine=api.address,
        node=starting.node,
        overlay=network,
        replicas=tuple(replicas),
        image=f"{image_name}@{image}",
        user=user.request,
        argv=tuple(argv),
        limits=LIMITS,
        profile=_PROFILE,
        transport="socket" if shared else "relay",
    )
    mounts = [Mount(source=f"{name}-targets", target=TARGETS_DIR, volume=True, read_only=False)]
    beside: list[sidecar.Sidecar] = []
    if shared:
        directory = Mount(source=str(starting.claim.socket_dir), target=SOCKET_DIR, read_only=False)
        mounts.append(directory)
        if starting.expose is not None:
            key, port = starting.claim.path / _KEY, starting.expose
            beside.append(
                sidecar.gate(
                    api,
                    starting.claim.name,
                    user=user.request,
                    mount=directory,
                    socket=str(listening),
                    key=key,
                    port=port,
                )
            )
    request = create_request(
        _PROFILE,
        image=image,
        argv=argv,
        environment={},
        user=user.request,
        limits=LIMITS,
        mounts=mounts,
        labels={**labels.mine(SERVER=starting.claim.name), labels.RECORD: json.dumps(to_dict(record))},
    )
    sidecar.join(request, network)
    if not shared:
        request["HostConfig"].setdefault("Tmpfs", {})[SOCKET_DIR] = (
            f"rw,nosuid,nodev,noexec,{container_users.tmpfs(user)['o']}"
        )
    return Prepared(
        name=name,
        request=request,
        record=record,
        user=user,
        sidecars=tuple(beside),
        volume=(f"{name}-targets", {}),
    )


def tell(record: Record, targets: Sequence[Target]) -> None:
    """Tell a gateway who the replicas are.

    Args:
        record: The gateway's.
        targets: All of them.

    Raises:
        BackendError: If its engine does not take it.
    """
    content = "".join(target.line() for target in targets).encode()
    with io.BytesIO() as made:
        with tarfile.open(fileobj=made, mode="w") as archive:
            entry = tarfile.TarInfo(_TARGETS)
            entry.size, entry.mode, entry.mtime = len(content), 0o444, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
        _engine(record).send(record.container_id or "", TARGETS_DIR, iter([made.getvalue()]))


def ask(record: Record) -> tuple[Seen, ...]:
    """How a gateway sees the replicas.

    Args:
        record: The gateway's.

    Raises:
        BackendError: If it does not say.
    """
    try:
        with _connected(record) as opened:
            opened.settimeout(_ASK_S)
            # The relay connects at the first byte; the gateway reads none.
            opened.sendall(b"\n")
            said = b""
            while (piece := opened.recv(65536)) and len(said) < _MOST_BYTES:
                said += piece
        return tuple(_seen(each) for each in json.loads(said)["targets"])
    except (OSError, LabError, *MALFORMED) as error:
        raise BackendError(
            f"the gateway of {record.name} does not say how its replicas are: {error}",
            hint=f"logs {record.name} shows its log",
        ) from error


def _seen(entry: dict[str, Any]) -> Seen:
    return Seen(
        name=str(entry["id"]),
        state=str(entry["state"]),
        open=int(entry["open"]),
        served=int(entry["served"]),
        failed=int(entry["failed"]),
        error=str(entry.get("error") or ""),
    )


def _connected(record: Record) -> socket.socket:
    if record.endpoint.socket:
        opened = socket.socket(socket.AF_UNIX)
        opened.settimeout(_ASK_S)
        try:
            opened.connect(str(record.endpoint.socket.with_name(_STATUS)))
        except BaseException:
            opened.close()
            raise
        return opened
    return relay.connect(record.container_id or "", f"{SOCKET_DIR}/{_STATUS}", record.container_engine)


def _engine(record: Record) -> DockerApi:
    return docker_api.connect(record.container_engine)
