"""Containers beside a server: a relay for engines without unix sockets, a gate for other tools.

Each holds one static program and nothing else: read-only, without capabilities,
with little memory. They are found by their label and removed with their server.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmlab import runtime
from llmlab.backends import labels, tool_image
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import BackendError, UsageError
from llmlab.isolation import create_request
from llmlab.isolation.profile import PORT
from llmlab.profiles import Mount, Profile
from llmlab.specs import Limits

_PROGRAM = "/relay"
_KEY = "/key"
PROFILE = Profile(
    # Sockets of the internet family are what they are there for.
    network="none",
    seccomp="default",
    pids=64,
    open_files=1024,
    scratch_mib=None,
    log_mib=1,
    init=False,
)
_LIMITS = Limits(memory_mib=32, cpus=1.0, pids=64)
_LISTENING = re.compile(r"listening at \S+, port (\d+)")
_READY_S = 15.0
_TAKEN = ("already allocated", "already in use", "in use")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """A container beside a server that could be created.

    Attributes:
        kind: "forward" passes a unix socket's connections on to a port; "gate"
            lets other tools in at a port of 127.0.0.1; "door" passes what comes from
            a cluster's network on to a unix socket.
        name: The container's name.
        request: The body of the engine's "create container" request.
        port: A gate's port, 0 for any that is free.
        published: Whether the gate's port is published by the engine.
    """

    kind: Literal["forward", "gate", "door"]
    name: str
    request: dict[str, Any]
    port: int = 0
    published: bool = False


def forward(api: DockerApi, server: str, *, user: str, mount: Mount, socket: str) -> Sidecar:
    """A relay from a unix socket to the engine's port, in the engine's own network.

    Args:
        api: The container engine.
        server: The server's name.
        user: The engine's user.
        mount: The socket's directory.
        socket: The socket's path in the container.

    Raises:
        LabError: If its image cannot be made.
    """
    name = labels.container_name(server)
    command = [_PROGRAM, "forward", socket, f"127.0.0.1:{PORT}"]
    request = _request(api, PROFILE, server, command, user, [mount])
    # Not even a bridge between the two: the engine's loopback interface is all there is.
    request["HostConfig"]["NetworkMode"] = f"container:{name}"
    del request["NetworkDisabled"]
    return Sidecar(kind="forward", name=f"{name}-forward", request=request)


def gate(
    api: DockerApi, server: str, *, user: str, mount: Mount, socket: str, key: Path, port: int
) -> Sidecar:
    """An endpoint for other tools on 127.0.0.1, which asks for a key.

    On this machine's own engine it listens there itself: a port that is published to
    127.0.0.1 can be reached from neighbouring machines with engines before 28.
    Elsewhere the engine publishes it.

    Args:
        api: The container engine.
        server: The server's name.
        user: The engine's user.
        mount: The socket's directory.
        socket: The socket's path in the container.
        key: The file with the key.
        port: The port, 0 for any that is free.

    Raises:
        LabError: If its image cannot be made.
    """
    direct = api.is_local() and not api.is_rootless() and not api.maps_users()
    place = f"127.0.0.1:{port}" if direct else f"0.0.0.0:{PORT}"
    command = [_PROGRAM, "gate", place, socket, _KEY]
    profile = replace(PROFILE, network="host" if direct else "bridge")
    mounts = [replace(mount, read_only=True), Mount(source=str(key), target=_KEY)]
    request = _request(api, profile, server, command, user, mounts)
    if not direct:
        request["ExposedPorts"] = {f"{PORT}/tcp": {}}
        wanted = {"HostIp": "127.0.0.1", "HostPort": str(port or "")}
        request["HostConfig"]["PortBindings"] = {f"{PORT}/tcp": [wanted]}
    name = f"{labels.container_name(server)}-gate"
    return Sidecar(kind="gate", name=name, request=request, port=port, published=not direct)


def door(api: DockerApi, server: str, *, user: str, mount: Mount, socket: str, network: str) -> Sidecar:
    """What stands in a network in place of a server, which stays without any: it passes connections on.

    Args:
        api: The container engine.
        server: The server's name.
        user: The engine's user.
        mount: The socket's directory.
        socket: The socket's path in the container.
        network: The network's name.

    Raises:
        LabError: If its image cannot be made.
    """
    command = [_PROGRAM, "forward", f"0.0.0.0:{PORT}", socket]
    profile = replace(PROFILE, network="bridge")
    request = _request(api, profile, server, command, user, [replace(mount, read_only=True)])
    join(request, network)
    return Sidecar(kind="door", name=f"{labels.container_name(server)}-door", request=request)


def join(request: dict[str, Any], network: str) -> None:
    """Put what a request makes into a network, and into no other."""
    request["HostConfig"]["NetworkMode"] = network
    # Names that nobody in the network has are looked up nowhere else.
    request["HostConfig"]["Dns"] = ["127.0.0.1"]


def address_of(api: DockerApi, container_id: str, network: str) -> str | None:
    """The address that a container has in a network; None if it has none there."""
    entry = api.container(container_id) or {}
    found = ((entry.get("NetworkSettings") or {}).get("Networks") or {}).get(network) or {}
    return found.get("IPAddress") or None


def start(api: DockerApi, sidecar: Sidecar) -> int | None:
    """Start a sidecar; returns a gate's port.

    Raises:
        UsageError: If the port is taken.
        BackendError: If it does not come up.
    """
    container_id = runtime.uninterrupted(
        lambda: api.create(sidecar.name, sidecar.request), undo=lambda made: api.stop(made, 0)
    )
    try:
        try:
            api.start(container_id)
        except BackendError as error:
            if sidecar.kind == "gate" and any(phrase in error.message for phrase in _TAKEN):
                raise _taken(sidecar.port) from error
            raise
        port = _await_listening(api, container_id, sidecar)
    except BaseException:
        api.stop(container_id, 0)
        raise
    if sidecar.kind != "gate":
        return None
    return host_port(api, container_id) if sidecar.published else port


def host_port(api: DockerApi, container_id: str) -> int | None:
    """The port of this machine that leads to a container's port; None if there is none."""
    entry = api.container(container_id) or {}
    ports = (entry.get("NetworkSettings") or {}).get("Ports") or {}
    for binding in ports.get(f"{PORT}/tcp") or ():
        with suppress(KeyError, ValueError):
            return int(binding["HostPort"])
    return None


def find(api: DockerApi, server: str) -> dict[str, str]:
    """A server's sidecars: kind → container id."""
    listed = api.containers(f"{labels.SIDECAR}={server}", f"{labels.USER}={runtime.scope()}")
    return {(entry.get("Names") or [""])[0].rpartition("-")[2]: str(entry["Id"]) for entry in listed}


def remove(api: DockerApi, server: str) -> None:
    """Remove a server's sidecars."""
    for container_id in find(api, server).values():
        api.stop(container_id, 0)


def remove_orphans(api: DockerApi) -> None:
    """Remove sidecars without a server: the server is created first and removed last."""
    listed = [entry.get("Labels") or {} for entry in api.containers(f"{labels.USER}={runtime.scope()}")]
    servers = {marks[labels.SERVER] for marks in listed if labels.SERVER in marks}
    for marks in listed:
        if (name := marks.get(labels.SIDECAR)) and name not in servers:
            remove(api, name)


def _request(
    api: DockerApi, profile: Profile, server: str, command: list[str], user: str, mounts: list[Mount]
) -> dict[str, Any]:
    _, image = tool_image.make(api, "relay")
    return create_request(
        profile,
        image=image,
        argv=command,
        environment={},
        user=user,
        limits=_LIMITS,
        mounts=mounts,
        labels=labels.mine(SIDECAR=server),
    )


def _await_listening(api: DockerApi, container_id: str, sidecar: Sidecar) -> int:
    deadline = time.monotonic() + _READY_S
    while True:
        # The state before the log: what it says at its end is not missed then.
        running = ((api.container(container_id) or {}).get("State") or {}).get("Running")
        said = "\n".join(api.log(container_id, 5))
        if found := _LISTENING.search(said):
            return int(found[1])
        if not running and sidecar.kind == "gate" and any(phrase in said for phrase in _TAKEN):
            raise _taken(sidecar.port)
        if not running or time.monotonic() > deadline:
            raise BackendError(
                f"the container beside the server did not start: {said or 'it said nothing'}",
                hint="look at the container engine: docker info",
            )
        time.sleep(0.02)


def _taken(port: int) -> UsageError:
    return UsageError(
        f"port {port} of 127.0.0.1 is taken", hint="choose another, or --expose 0 for any that is free"
    )
