"""The one door to the `docker` package: its calls, with errors of our own.

Docker Engine, or what speaks its API, found as the `docker` command finds it:
`DOCKER_HOST`, else the current context.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cached_property
from typing import Any

from llmlab.backends import docker_contexts, docker_ssh, docker_trouble
from llmlab.backends.docker_images import Images
from llmlab.backends.docker_streams import ExecStream, StatsStream, framed
from llmlab.backends.docker_swarm import Swarm
from llmlab.backends.docker_volumes import Volumes
from llmlab.errors import (
    BackendError,
    DaemonError,
    LabError,
    NameTakenError,
)
from llmlab.isolation import podman

TLS_WAITS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket of an engine that is reached through TLS raises where another would block."""

_clients: dict[tuple[int, str | None, str | None], DockerApi] = {}
_guard = threading.Lock()
# The engine that is meant where none is named: one of another node, while something is started there.
_meant: ContextVar[str | None] = ContextVar("llmlab engine", default=None)


@contextmanager
def using(address: str | None) -> Iterator[None]:
    """Let `connect()` without an address mean this engine, for this thread.

    Args:
        address: Where it listens, as in `DOCKER_HOST`; None leaves everything as it is.
    """
    before = _meant.set(address or _meant.get())
    try:
        yield
    finally:
        _meant.reset(before)


def connect(address: str | None = None) -> DockerApi:
    """The container engine that is meant here, or one by its address; one client each.

    Args:
        address: Where it listens, as in `DOCKER_HOST`; None for the one of `using`, else the one
            that the environment names.

    Raises:
        DaemonError: If none answers.
        DaemonPermissionError: If it refuses this user.
    """
    named = address or _meant.get() or os.environ.get("DOCKER_HOST")
    # A forked child must not share its parent's connections.
    process = os.getpid()
    key = (process, named, None if named else docker_trouble.context_mark())
    with _guard:
        if key not in _clients:
            made = DockerApi(None if named == docker_trouble.wanted() else named)
            # By its address it is the same one.
            _clients[key] = _clients.setdefault((process, made.address, None), made)
            if _clients[key] is not made:
                made.close()
        return _clients[key]


def contexts() -> tuple[docker_contexts.Context, ...]:
    """The engines that the user's `docker context` names, the default one first.

    Raises:
        DaemonError: If the `docker` package is not there.
        BackendError: If what is written down of one cannot be read.
    """
    return docker_contexts.read(_package())


def _package() -> Any:
    try:
        import docker  # noqa: PLC0415 - 0.15 s, needed only here
    except ImportError as error:
        raise DaemonError(
            f"the docker package cannot be imported: {error}", hint="pip install 'docker>=7.2'"
        ) from error
    docker_contexts.find_without_config(docker)
    return docker


class DockerApi(Images, Volumes, Swarm):
    """The calls to the container engine that llmlab makes.

    Args:
        address: Where it listens, as in `DOCKER_HOST`; None for the user's context.
    """

    def __init__(self, address: str | None = None) -> None:
        docker_trouble.knock(address)
        self._named = address
        docker = _package()
        self._errors: Any = docker.errors
        if address is None:
            docker_trouble.check_context(docker.context.ContextAPI)
        try:
            told = docker_contexts.parameters(docker, address)
            base = str(told.get("base_url") or docker_trouble.USUAL)
            if base.startswith("ssh://"):
                self._api: Any = docker_ssh.client(docker, base, docker_trouble.TIMEOUT_S)
            else:
                self._api = docker_contexts.client(docker, told, docker_trouble.TIMEOUT_S)
        except LabError:
            raise
        except Exception as error:
            raise self._translate(error) from error
        self._base = base

    def close(self) -> None:
        """Close the connections that are kept open to it."""
        self._api.close()

    def ping(self) -> None:
        """Ask whether it still answers.

        Raises:
            DaemonError: If it does not.
        """
        with self._calls():
            self._api.ping()

    @cached_property
    def info(self) -> dict[str, Any]:
        """What `docker info` says; asked once, since it takes the engine a while."""
        with self._calls():
            found: dict[str, Any] = self._api.info()
            return found

    @cached_property
    def version(self) -> dict[str, Any]:
        """What `docker version` says of the engine."""
        with self._calls():
            found: dict[str, Any] = self._api.version()
            return found

    @property
    def address(self) -> str:
        """Where the engine listens, as in `DOCKER_HOST`."""
        if self._base.startswith("ssh://"):
            return self._base
        base = str(self._api.base_url)
        # docker-py writes a unix socket's URL as http+docker://localhost.
        if base.startswith("http+docker"):
            return f"unix://{self._api.get_adapter(base).socket_path}"
        return f"tcp://{base.partition('://')[2]}"

    def is_local(self) -> bool:
        """Whether the engine shares this machine's file system and kernel."""
        return self.address.startswith("unix://") and not self.is_desktop()

    def is_rootless(self) -> bool:
        """Whether the engine runs in a user namespace of this user's."""
        return any("rootless" in str(option) for option in self.info.get("SecurityOptions") or ())

    def is_desktop(self) -> bool:
        """Whether it is Docker Desktop, whose engine runs in a virtual machine."""
        return "Docker Desktop" in str(self.info.get("OperatingSystem", ""))

    @cached_property
    def is_podman(self) -> bool:
        """Whether it is Podman, which speaks this API with differences."""
        # Podman's answer has this, Docker's has not.
        return "BuildahVersion" in self.info

    def maps_users(self) -> bool:
        """Whether users of its containers are others on the host, for all containers."""
        return any("name=userns" in str(option) for option in self.info.get("SecurityOptions") or ())

    def create(self, name: str, request: dict[str, Any]) -> str:
        """Create a container from the API's own JSON; returns its id.

        Raises:
            NameTakenError: If a container has that name.
            BackendError: If the engine refuses.
        """
        with self._calls():
            try:
                if self.is_podman:
                    request = podman.adapted(request)
                return str(self._api.create_container_from_config(request, name)["Id"])
            except self._errors.APIError as error:
                # HTTP's number for a conflict; Podman answers 500 to everything that it cannot do.
                if error.status_code == 409 or "is already in use" in docker_trouble.reason(error):  # noqa: PLR2004
                    raise NameTakenError(
                        f"a container named {name!r} exists already",
                        hint=f"remove it (docker rm -f {name}), or choose another --name",
                    ) from error
                raise

    def start(self, container_id: str) -> None:
        """Start a created container."""
        with self._calls():
            self._api.start(container_id)

    def signal(self, container_id: str, name: str) -> None:
        """Send a container's first process a signal, such as "SIGKILL"."""
        with self._calls():
            self._api.kill(container_id, name)

    def pause(self, container_id: str) -> None:
        """Halt all of a container's processes where they are."""
        with self._calls():
            self._api.pause(container_id)

    def containers(self, *labels: str) -> list[dict[str, Any]]:
        """All containers with these labels, as the API lists them."""
        with self._calls():
            found: list[dict[str, Any]] = self._api.containers(all=True, filters={"label": list(labels)})
            return found

    def container(self, container_id: str) -> dict[str, Any] | None:
        """What `docker inspect` says of a container; None if it is gone."""
        with self._calls():
            try:
                found: dict[str, Any] = self._api.inspect_container(container_id)
            except self._errors.NotFound:
                return None
            return found

    def exec_stream(self, container_id: str, command: Sequence[str]) -> ExecStream:
        """Run a program in a container; its standard input and output.

        Raises:
            BackendError: If the engine refuses, or its connection cannot be used for that.
        """
        with self._calls():
            made = self._api.exec_create(container_id, list(command), stdin=True)["Id"]
            raw = self._api.exec_start(made, socket=True)
        found = getattr(raw, "_sock", raw)
        if not isinstance(found, socket.socket):
            raise BackendError(
                f"the container engine at {self.address} cannot be used with a relay",
                hint="forward its socket, and point DOCKER_HOST to that: ssh -L /tmp/docker.sock:/var/run/docker.sock HOST",
            )
        return ExecStream(found, getattr(raw, "_response", raw))

    def log(self, container_id: str, lines: int | None) -> list[str]:
        """A container's output, or its last lines; empty if it is gone."""
        with self._calls():
            try:
                raw: bytes = self._api.logs(container_id, tail="all" if lines is None else lines)
            except self._errors.NotFound:
                return []
            return raw.decode("utf-8", errors="replace").splitlines()

    def stop(self, container_id: str, grace_s: float) -> None:
        """Stop and remove a container; not an error if it is gone.

        Another process may be doing the same at the same time: then wait for it.
        """
        with self._calls(), suppress(self._errors.NotFound):
            if grace_s > 0:
                with suppress(self._errors.APIError):
                    self._api.stop(container_id, timeout=max(1, round(grace_s)))
            try:
                self._api.remove_container(container_id, force=True, v=True)
            except self._errors.APIError as error:
                if error.status_code != 409:  # noqa: PLR2004 - "removal is already in progress"
                    raise

    @contextmanager
    def attached(self, container_id: str) -> Iterator[Iterator[bytes]]:
        """A container's standard output; begin before `start`, and read until it ends."""
        with self._calls():
            raw = self._api.attach_socket(container_id, {"stdout": 1, "stream": 1})
            opened = ExecStream(getattr(raw, "_sock", raw), getattr(raw, "_response", raw))
            # It may say nothing for long.
            opened.socket.settimeout(None)
            try:
                yield framed(opened.socket)
            finally:
                opened.close()

    def stats(self, container_id: str) -> StatsStream:
        """What the engine counts of a container, about once a second, until it is removed.

        Raises:
            BackendError: If the engine refuses, or the container is gone.
        """
        with self._calls():
            # The library's own call keeps the connection to itself, which must be closed while it is read.
            url = self._api._url("/containers/{0}/stats", container_id)  # noqa: SLF001 - as said
            response = self._api._get(url, params={"stream": True}, stream=True)  # noqa: SLF001 - as said
            raw = self._api._get_raw_response_socket(response)  # noqa: SLF001 - as said
            found = self._api._stream_helper(response, decode=True)  # noqa: SLF001 - as said
            return StatsStream(found, ExecStream(getattr(raw, "_sock", raw), response))

    @contextmanager
    def _calls(self) -> Iterator[None]:
        if docker_trouble.failed_lately(self._named or docker_trouble.wanted()):
            docker_trouble.knock(self._named)
        try:
            yield
        except LabError:
            raise
        except Exception as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception) -> LabError:
        # Before its words are read: an engine may be refused something itself.
        if isinstance(error, self._errors.APIError):
            return BackendError(f"the container engine refused: {docker_trouble.reason(error)}")
        return docker_trouble.of(error, self._named)
