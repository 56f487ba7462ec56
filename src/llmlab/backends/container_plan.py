"""What is created for a server in a container: requests of the engine's API, nothing done yet."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from llmlab import engines
from llmlab.backends import (
    container_needs,
    container_users,
    docker_api,
    engine_image,
    gpu_access,
    labels,
    model_files,
    relay,
    sidecar,
    transports,
    volumes,
)
from llmlab.backends.base import Starting
from llmlab.backends.container_users import User
from llmlab.backends.docker_api import DockerApi
from llmlab.backends.transports import Choice
from llmlab.builds import static
from llmlab.errors import UsageError
from llmlab.isolation import create_request, gpus
from llmlab.isolation.gpus import GpuAccess
from llmlab.isolation.profile import MODEL_DIR, PORT, SCRATCH, SOCKET_DIR, closed_volumes
from llmlab.profiles import Mount, Profile
from llmlab.reporting import reporter
from llmlab.specs import Endpoint, Record, to_dict

_KEY = "key"
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A container that could be created.

    Attributes:
        name: Its name.
        request: The body of the engine's "create container" request.
        record: The server's record, but for the container's id and its ports.
        user: The user that it runs as.
        sidecars: The containers beside it, in the order of their start.
        volume: Name and options of a volume that is made for its socket, or None.
    """

    name: str
    request: dict[str, Any]
    record: Record
    user: User
    sidecars: tuple[sidecar.Sidecar, ...] = ()
    volume: tuple[str, dict[str, str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """What the parts of a request depend on."""

    api: DockerApi
    starting: Starting
    engine: engines.Engine
    image: str
    user: User
    choice: Choice
    profile: Profile
    tcp: bool
    exposed: bool

    @property
    def shared(self) -> bool:
        """Whether the socket's directory is one of this machine."""
        return self.choice.transport in {"socket", "sidecar"}

    @property
    def socket(self) -> PurePosixPath:
        """The socket's path in a container."""
        return PurePosixPath(SOCKET_DIR) / self.starting.claim.socket.name

    @property
    def volume(self) -> str | None:
        """The volume for the socket, which a gate for other tools or a cluster's door needs, too."""
        return (
            f"{labels.container_name(self.starting.claim.name)}-socket"
            if (self.exposed or self.starting.overlay) and not self.shared
            else None
        )

    @property
    def directory(self) -> Mount:
        """The socket's directory."""
        source = self.volume or str(self.starting.claim.socket_dir)
        return Mount(source=source, target=SOCKET_DIR, read_only=False, volume=bool(self.volume))


def prepare(starting: Starting) -> Prepared:
    """Everything but creating the container; the image is made.

    Raises:
        DaemonError: If no engine answers.
        ImageError: If the image cannot be made or had.
        UsageError: If the engine cannot run in a container, or not be reached as asked for.
        BackendError: If the container engine refuses.
    """
    api = docker_api.connect()
    claim, spec = starting.claim, starting.spec
    engine = engines.engine(spec.engine)
    if "container" not in engine.BACKENDS:
        raise UsageError(
            f"engine {spec.engine} cannot run in a container", hint="use --native, or --engine llama-server"
        )
    # What llmlab does not make itself is taken from a registry, whoever has named it.
    starting = replace(starting, image=engine_image.name_of(starting, engine))
    image = engine_image.get(api, starting, engine)
    image_id = image.id
    reporter().stage("model", spec.model.name)
    user = container_users.of(api, starting, image_id)
    choice = transports.choose(starting.transport, _situation(api, starting, engine, user))
    tcp = listens_on_tcp(starting.profile, engine, choice)
    setting = _Setting(
        api=api,
        starting=starting,
        engine=engine,
        image=image_id,
        user=user,
        choice=choice,
        profile=container_needs.profile(starting.profile, engine, tcp=tcp),
        tcp=tcp,
        exposed=starting.expose is not None or starting.profile.expose,
    )
    limits = container_needs.limits(starting.limits, starting.profile, setting.profile)
    if setting.exposed:
        _check_exposing(setting)
    if starting.overlay and setting.tcp:
        raise UsageError(
            f"engine {spec.engine} has no unix socket, which a replica needs: its container has no network",
            hint="use --engine llama-server",
        )
    paths = engines.Paths(
        program=PurePosixPath(image.program),
        # A model may be a link into a store, so that its name and its place differ.
        model=PurePosixPath(MODEL_DIR) / spec.model.path.name,
        socket=None if tcp else setting.socket,
        # Published ports come in over the container's own address.
        host="0.0.0.0" if setting.profile.publish else "127.0.0.1",  # noqa: S104 - publishing asks for it
        port=PORT,
        scratch=PurePosixPath(SCRATCH),
        # Where a build's libraries lie on the host means nothing in here.
        library_dir=None if starting.image else PurePosixPath(image.program).parent,
    )
    access = _gpus(setting, str(paths.program.parent))
    given = gpu_access.given(setting.profile, access, starting.gpu_ids)
    argv = engine.argv(spec, paths)
    record = Record(
        name=claim.name,
        backend="container",
        spec=spec,
        endpoint=Endpoint(
            socket=claim.socket if setting.shared else None,
            key_file=claim.path / _KEY if setting.exposed else None,
        ),
        created=time.time(),
        owner=starting.owner,
        container_engine=api.address,
        node=starting.node,
        overlay=starting.overlay,
        replica_of=starting.replica_of,
        build=image.files,
        image=f"{image.name}@{image_id}",
        user=user.request,
        argv=tuple(argv),
        limits=limits,
        profile=setting.profile,
        transport=choice.transport,
        gpus=given,
        notes=(
            *user.notes,
            *image.notes,
            *engines.notes(engine, spec),
            *_notes(setting),
            *gpu_access.notes(access, given),
            *container_needs.unlimited(api, limits),
        ),
    )
    request = create_request(
        setting.profile,
        image=image_id,
        argv=argv,
        environment=gpus.environment(engine.environment(spec, paths), access),
        user=user.request,
        limits=limits,
        mounts=_mounts(setting),
        labels={**labels.mine(SERVER=claim.name), labels.RECORD: json.dumps(to_dict(record))},
        gpus=access,
    )
    if (published := engines.image_of(engine)) and published.shm_mib:
        request["HostConfig"]["ShmSize"] = published.shm_mib * _MIB
    if starting.restarts:
        policy = {"Name": "on-failure", "MaximumRetryCount": starting.restarts}
        request["HostConfig"]["RestartPolicy"] = policy
    if starting.image and (closed := closed_volumes(setting.profile, api.image_volumes(image_id))):
        request["HostConfig"].setdefault("Tmpfs", {}).update(closed)
    if not tcp and not setting.shared and not setting.volume:
        # Nothing of the host's: a file system in memory, for one socket.
        options = container_users.tmpfs(user)["o"]
        request["HostConfig"].setdefault("Tmpfs", {})[SOCKET_DIR] = f"rw,nosuid,nodev,noexec,{options}"
    return Prepared(
        name=labels.container_name(claim.name),
        request=request,
        record=record,
        user=user,
        sidecars=_sidecars(setting),
        volume=(setting.volume, container_users.tmpfs(user)) if setting.volume else None,
    )


def _gpus(setting: _Setting, program_dir: str) -> GpuAccess | None:
    """How the container gets its GPUs."""
    if setting.profile.gpus is None:
        return None
    # Our images have their libraries beside the program; others look where the loader looks.
    place = "/usr/lib/x86_64-linux-gnu" if setting.starting.image else program_dir
    return gpu_access.find(setting.api, setting.profile, image=setting.image, libraries_to=place)


def listens_on_tcp(profile: Profile, engine: engines.Engine, choice: Choice) -> bool:
    """Whether the engine listens on TCP in its container, not on a unix socket."""
    return profile.publish or choice.transport in {"sidecar", "port"} or not engine.UNIX_SOCKETS


def relay_target(record: Record) -> str:
    """Where a server listens in its container, as the relay there is told."""
    engine = engines.engine(record.spec.engine)
    tcp = listens_on_tcp(record.profile or Profile(), engine, Choice("relay", ""))
    return f"127.0.0.1:{PORT}" if tcp else f"{SOCKET_DIR}/llm.sock"


def _situation(
    api: DockerApi, starting: Starting, engine: engines.Engine, user: User
) -> transports.Situation:
    return transports.Situation(
        address=api.address,
        local=api.is_local(),
        desktop=api.is_desktop(),
        unix_sockets=engine.UNIX_SOCKETS,
        shared_user=user.ours,
        user=str(user),
        publish=starting.profile.publish,
        profile=starting.profile.name,
        restarts=starting.restarts > 0,
    )


def _notes(setting: _Setting) -> tuple[str, ...]:
    """What the user should know about the way a server is reached."""
    transport = setting.choice.transport
    if transport == "socket":
        return ()
    note = f"transport {transport}: {setting.choice.reason}"
    # What the others give up is told by the receipt; this one opens the model to others.
    return (f"{note}; {transports.GIVES_UP[transport]}" if transport == "port" else note,)


def _check_exposing(setting: _Setting) -> None:
    """Refuse an endpoint for other tools where none can be made.

    Raises:
        UsageError: With what to do.
    """
    api = setting.api
    if not api.is_local() and not api.is_desktop():
        raise UsageError(
            f"the container engine at {api.address} is on another machine, so it cannot listen on this one's loopback",
            hint="leave --expose out: ask goes through the engine's API",
        )
    if setting.profile.publish:
        raise UsageError(
            f"profile {setting.profile.name} publishes the model's port already, without a key",
            hint="leave --expose out, or use the profile exposed",
        )
    if setting.tcp and not setting.shared:
        raise UsageError(
            "the endpoint for other tools needs a unix socket, and this engine has none",
            hint="leave --expose out, or use --engine llama-server",
        )
    if not setting.user.ours:
        raise UsageError(
            f"the key for other tools cannot be given to user {setting.user} in the container",
            hint="leave --user out, or --expose",
        )


def _mounts(setting: _Setting) -> list[Mount]:
    """The files of the host, or of volumes, that the server's container gets."""
    api, starting = setting.api, setting.starting
    model, server = starting.spec.model, starting.claim.name
    files = model_files.of(setting.engine, starting.spec)
    writable = not setting.profile.models_read_only
    if api.is_local():
        found = [
            Mount(source=str(path.resolve()), target=f"{MODEL_DIR}/{target}", read_only=not writable)
            for target, path in files
        ]
    else:
        volume = volumes.model(api, model, files, image=setting.image, server=server)
        # The volume serves others as well: nobody writes to it.
        found = [Mount(source=volume, target=MODEL_DIR, volume=True)]
    if (setting.shared and not setting.tcp) or setting.volume:
        found.append(setting.directory)
    if setting.choice.transport == "relay":
        program = static.program("relay", machine=str(api.info.get("Architecture") or "x86_64"))
        if api.is_local():
            found.append(Mount(source=str(program), target=relay.PROGRAM))
        else:
            volume = volumes.tool(api, program, image=setting.image, server=server)
            found.append(Mount(source=volume, target=str(Path(relay.PROGRAM).parent), volume=True))
    return found


def _sidecars(setting: _Setting) -> tuple[sidecar.Sidecar, ...]:
    """The containers beside the server's."""
    api, starting = setting.api, setting.starting
    beside = []
    if setting.choice.transport == "sidecar":
        beside.append(
            sidecar.forward(
                api,
                starting.claim.name,
                user=setting.user.request,
                mount=setting.directory,
                socket=str(setting.socket),
            )
        )
    if starting.overlay:
        beside.append(
            sidecar.door(
                api,
                starting.claim.name,
                user=setting.user.request,
                mount=setting.directory,
                socket=str(setting.socket),
                network=starting.overlay,
            )
        )
    if setting.exposed:
        beside.append(
            sidecar.gate(
                api,
                starting.claim.name,
                user=setting.user.request,
                mount=setting.directory,
                socket=str(setting.socket),
                key=starting.claim.path / _KEY,
                port=starting.expose or 0,
            )
        )
    return tuple(beside)
