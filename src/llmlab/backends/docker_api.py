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
from functools import cached_property
from typing import Any

from llmlab.backends import docker_trouble
from llmlab.backends.docker_images import Images
from llmlab.backends.docker_streams import ExecStream, StatsStream
from llmlab.errors import (
    BackendError,
    DaemonError,
    LabError,
    NameTakenError,
)
from llmlab.isolation import podman

TLS_WAITS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket of an engine that is reached through TLS raises where another would block."""

# After the last byte of a large model, the engine may still have to write it to disk.
_SEND_S = 600

_clients: dict[tuple[int, str | None, str | None], DockerApi] = {}
_guard = threading.Lock()


def connect(address: str | None = None) -> DockerApi:
    """The container engine that the user's environment names, or one by its address; one client each.

    Args:
        address: Where it listens, as in `DOCKER_HOST`; None for the environment's.

    Raises:
        DaemonError: If none answers.
        DaemonPermissionError: If it refuses this user.
    """
    # A context may have what is needed to be let in: it is the one that has this address, if it has.
    if address is not None and (address == docker_trouble.wanted() or address == _address_of_context()):
        address = None
    # A forked child must not share its parent's connections.
    named = address or os.environ.get("DOCKER_HOST")
    key = (os.getpid(), named, None if address else os.environ.get("DOCKER_CONTEXT"))
    with _guard:
        if key not in _clients:
            _clients[key] = DockerApi(named)
        return _clients[key]


def _address_of_context() -> str | None:
    """Where the engine of the user's context listens; None if the environment names an address, or none answers."""
    if docker_trouble.wanted() is not None:
        return None
    try:
        return connect().address
    except LabError:
        return None


class DockerApi(Images):
    """The calls to the container engine that llmlab makes.

    Args:
        address: Where it listens, as in `DOCKER_HOST`; None for the user's context.
    """

    def __init__(self, address: str | None = None) -> None:
        docker_trouble.knock(address)
        self._named = address
        try:
            import docker  # noqa: PLC0415 - 0.15 s, needed only here
        except ImportError as error:
            raise DaemonError(
                f"the docker package cannot be imported: {error}", hint="pip install 'docker>=7.2'"
            ) from error
        self._errors: Any = docker.errors
        docker_trouble.check_context(docker.context.ContextAPI)
        try:
            named = {**os.environ, "DOCKER_HOST": address} if address else None
            self._client: Any = docker.from_env(timeout=docker_trouble.TIMEOUT_S, environment=named)
            self._api: Any = self._client.api
        except Exception as error:
            raise self._translate(error) from error

    def ping(self) -> None:
        """Ask whether it still answers.

        Raises:
            DaemonError: If it does not.
        """
        with self._calls():
            self._client.ping()

    @cached_property
    def info(self) -> dict[str, Any]:
        """What `docker info` says; asked once, since it takes the engine a while."""
        with self._calls():
            found: dict[str, Any] = self._client.info()
            return found

    @property
    def address(self) -> str:
        """Where the engine listens, as in `DOCKER_HOST`."""
        base = str(self._api.base_url)
        # docker-py writes a unix socket's URL as http+docker://localhost.
        return f"unix://{self._socket_path()}" if base.startswith("http+docker") else base

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

    def send(self, container_id: str, folder: str, archive: Iterator[bytes]) -> None:
        """Unpack a tar in a container's directory."""
        with self._calls():
            url = self._api._url("/containers/{0}/archive", container_id)  # noqa: SLF001 - its own call has 20 s
            response = self._api.put(url, params={"path": folder}, data=archive, timeout=_SEND_S)
            self._api._raise_for_status(response)  # noqa: SLF001 - as above

    def has_path(self, container_id: str, path: str) -> bool:
        """Whether a container has a file of that path; it need not have been started."""
        with self._calls():
            url = self._api._url("/containers/{0}/archive", container_id)  # noqa: SLF001 - there is no call for it
            return bool(self._api.head(url, params={"path": path}, timeout=docker_trouble.TIMEOUT_S).ok)

    def make_volume(self, name: str, labels: dict[str, str], options: dict[str, str] | None = None) -> None:
        """Make a volume; one of that name that is there stays as it is."""
        with self._calls():
            self._api.create_volume(name, driver="local", driver_opts=options, labels=labels)

    def volumes(self, *labels: str) -> list[str]:
        """The names of all volumes with these labels."""
        with self._calls():
            found = self._api.volumes(filters={"label": list(labels)})
            return [str(entry["Name"]) for entry in found.get("Volumes") or ()]

    def has_volume(self, name: str) -> bool:
        """Whether there is a volume of that name."""
        with self._calls():
            try:
                self._api.inspect_volume(name)
            except self._errors.NotFound:
                return False
            return True

    def remove_volume(self, name: str) -> None:
        """Remove a volume; not an error if it is gone, or in use."""
        with self._calls(), suppress(self._errors.APIError):
            self._api.remove_volume(name)

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
            stream: Any = self._api.attach(container_id, stdout=True, stderr=False, stream=True)
            raw = self._api._get_raw_response_socket(stream._response)  # noqa: SLF001 - else it stays open
            opened = ExecStream(getattr(raw, "_sock", raw), stream._response)  # noqa: SLF001
            try:
                yield stream
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

    def _socket_path(self) -> str:
        adapter = self._api.get_adapter(self._api.base_url)
        return str(getattr(adapter, "socket_path", ""))

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
