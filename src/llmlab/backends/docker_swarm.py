"""The calls to the container engine that are about Docker Swarm, and about networks that span its nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from llmlab.backends import docker_trouble
from llmlab.errors import BackendError, LabError, UsageError

ENCRYPTED = "llmlab.encrypted"
"""A swarm's label: what goes between its nodes over overlay networks is to be encrypted."""
# An engine gives itself 20 s for what needs the other managers, before it says that they are missing.
_PATIENCE_S = 25.0
_LOST = ("does not have a leader", "lost leader", "deadlineexceeded", "deadline exceeded", "timed out")


class QuorumError(BackendError):
    """Too few of a swarm's managers reach each other: nothing in it can be looked up or changed."""


class Swarm:
    """A part of `docker_api.DockerApi`."""

    _api: Any
    _errors: Any

    def _calls(self) -> AbstractContextManager[None]:
        """Errors of the engine's become ours inside the `with` block."""
        raise NotImplementedError

    def swarm_state(self) -> dict[str, Any]:
        """What the engine says of its part in a swarm: `Swarm` of `docker info`; {} where there is no Swarm.

        It is answered without a quorum as well, also by workers.

        Raises:
            QuorumError: If the engine is just finding out that the other managers are gone.
        """
        found: dict[str, Any] = self._asked("GET", "/info").get("Swarm") or {}
        return found

    def swarm_init(self, *, advertise: str | None, encrypted: bool) -> str:
        """Make a swarm with the engine as its only manager; returns the node's id.

        Args:
            advertise: The address at which other nodes reach it; None for the only one that it has.
            encrypted: Whether overlay networks that llmlab makes in it are to be encrypted.

        Raises:
            UsageError: If it is in a swarm already, or the address is not clear.
        """
        spec = {"Labels": {ENCRYPTED: "yes"} if encrypted else {}}
        request = {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": advertise or "", "Spec": spec}
        return str(self._asked("POST", "/swarm/init", request))

    def swarm_inspect(self) -> dict[str, Any]:
        """The swarm, with the tokens to join it; only a manager knows them.

        Raises:
            QuorumError: If there is no quorum.
            UsageError: If the engine is no manager.
        """
        found: dict[str, Any] = self._asked("GET", "/swarm")
        return found

    def swarm_encrypted(self) -> bool:
        """Whether overlay networks in the swarm are to be encrypted; asked of a manager.

        Raises:
            QuorumError: If there is no quorum.
            UsageError: If the engine is no manager.
        """
        return ENCRYPTED in ((self.swarm_inspect().get("Spec") or {}).get("Labels") or {})

    def swarm_join(self, managers: Sequence[str], token: str, *, advertise: str | None = None) -> None:
        """Let the engine join a swarm.

        Args:
            managers: Addresses of its managers.
            token: The token for workers, or that for managers.
            advertise: The address at which other nodes reach it; None for the only one that it has.

        Raises:
            UsageError: If it is in a swarm already, or the address is not clear.
            BackendError: If it does not reach the managers; then it goes on trying, until it leaves.
        """
        request = {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": advertise or ""}
        self._asked("POST", "/swarm/join", {**request, "RemoteAddrs": list(managers), "JoinToken": token})

    def swarm_leave(self, *, force: bool = False) -> None:
        """Let the engine leave its swarm; it also stops trying to join one.

        Raises:
            UsageError: If it is a manager and is not forced.
        """
        self._asked("POST", f"/swarm/leave?force={int(force)}")

    def swarm_nodes(self) -> list[dict[str, Any]]:
        """The swarm's nodes, as the API lists them; only a manager knows them.

        For some seconds after the others are gone, a manager answers with what it knew.

        Raises:
            QuorumError: If there is no quorum.
            UsageError: If the engine is no manager.
        """
        found: list[dict[str, Any]] = self._asked("GET", "/nodes")
        return found

    def swarm_change_node(self, node_id: str, **wanted: str) -> None:
        """Change what a node of the swarm is to be: its `Role` or `Availability`.

        Raises:
            QuorumError: If there is no quorum.
            UsageError: If the engine is no manager.
            BackendError: If the engine refuses.
        """
        found = self._asked("GET", f"/nodes/{node_id}")
        version = found["Version"]["Index"]
        self._asked("POST", f"/nodes/{node_id}/update?version={version}", {**found["Spec"], **wanted})

    def swarm_remove_node(self, node_id: str) -> None:
        """Strike a node off the swarm's list.

        Raises:
            QuorumError: If there is no quorum.
            BackendError: If the engine refuses: of a manager, for one.
        """
        self._asked("DELETE", f"/nodes/{node_id}?force=1")

    def make_overlay(self, name: str, labels: Mapping[str, str], *, encrypted: bool = False) -> str:
        """Make a network that spans the swarm's nodes and leads nowhere else; returns its id.

        Containers of any node can be attached to it. Asked of a manager.

        Raises:
            QuorumError: If there is no quorum.
            UsageError: If the engine is no manager.
            BackendError: If there is one of that name.
        """
        request = {
            "Name": name,
            "CheckDuplicate": True,
            "Driver": "overlay",
            "Internal": True,
            "Attachable": True,
            "Labels": dict(labels),
            "Options": {"encrypted": ""} if encrypted else {},
        }
        return str(self._asked("POST", "/networks/create", request)["Id"])

    def networks(self, *labels: str) -> list[dict[str, Any]]:
        """The networks with these labels, as the API lists them.

        A worker knows of overlay networks only while a container of its own is attached.
        """
        with self._swarm_calls():
            found: list[dict[str, Any]] = self._api.networks(filters={"label": list(labels)})
            return found

    def network(self, name: str) -> dict[str, Any] | None:
        """What `docker network inspect` says of a network, by name or id; None if there is none."""
        with self._swarm_calls():
            try:
                found: dict[str, Any] = self._api.inspect_network(name)
            except self._errors.NotFound:
                return None
            return found

    def remove_network(self, name: str) -> None:
        """Remove a network, by name or id; not an error if it is gone.

        Raises:
            BackendError: If a container is still attached.
        """
        with self._swarm_calls():
            try:
                self._api.remove_network(name)
            except self._errors.NotFound:
                return

    def connect(self, network: str, container: str, aliases: Sequence[str] = ()) -> None:
        """Attach a container to a network.

        Args:
            network: Its name or id.
            container: The container's name or id.
            aliases: Names by which others in the network find the container.

        Raises:
            BackendError: If the engine refuses.
        """
        with self._swarm_calls():
            self._api.connect_container_to_network(container, network, aliases=list(aliases) or None)

    def disconnect(self, network: str, container: str) -> None:
        """Take a container off a network; not an error if it is gone, or is not attached."""
        with self._swarm_calls():
            try:
                self._api.disconnect_container_from_network(container, network, force=True)
            except self._errors.APIError as error:
                if "is not connected" not in docker_trouble.reason(error) and error.status_code != 404:  # noqa: PLR2004 - HTTP's
                    raise

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        """An answer of the engine's; the library's own calls have no time limit of their own."""
        with self._swarm_calls():
            api = self._api
            url = api._url(path)  # noqa: SLF001 - as said
            response = api.request(method, url, json=body, timeout=_PATIENCE_S)
            api._raise_for_status(response)  # noqa: SLF001 - as said
            return response.json() if response.content else None

    @contextmanager
    def _swarm_calls(self) -> Iterator[None]:
        with self._calls():
            try:
                yield
            except self._errors.APIError as error:
                raise _of(docker_trouble.reason(error)) from error
            except OSError as error:
                # The engine as such may well answer: it must not be remembered as one that hangs.
                if "read timed out" in str(error).lower():
                    raise _of("timed out") from error
                raise


def _of(reason: str) -> LabError:
    """An error of ours for what an engine says."""
    low = reason.lower()
    if any(words in low for words in _LOST):
        return QuorumError(
            "no quorum: too few of the cluster's managers answer each other",
            hint="more than half of them have to run and reach each other: cluster status",
        )
    if "already part of a swarm" in low:
        return UsageError("that node is in a cluster already", hint="cluster leave NODE takes it out")
    if "could not choose an ip address" in low:
        return UsageError(
            f"the node has several addresses: {reason.rpartition(' - ')[0].rpartition('(')[2].rstrip(')') or reason}",
            hint="say at which one the other nodes reach it: --advertise ADDRESS",
        )
    if "not a swarm manager" in low or "from a worker node" in low:
        return UsageError("that node is no manager of a cluster", hint="cluster status shows who is")
    if "before node joined" in low:
        return BackendError(
            "the node does not reach the cluster's managers",
            hint="it must reach TCP port 2377 there, and nodes each other at 7946 (TCP, UDP) and 4789 (UDP)",
        )
    return BackendError(f"the container engine refused: {reason}")
