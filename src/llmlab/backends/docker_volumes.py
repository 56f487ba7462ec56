"""The calls to the container engine that are about volumes, and files that are sent to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any

from llmlab.backends import docker_trouble

# After the last byte of a large model, the engine may still have to write it to disk.
_SEND_S = 600


class Volumes:
    """A part of `docker_api.DockerApi`."""

    _api: Any
    _errors: Any

    def _calls(self) -> AbstractContextManager[None]:
        """Errors of the engine's become ours inside the `with` block."""
        raise NotImplementedError

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
        return list(self.labels_of_volumes(*labels))

    def labels_of_volumes(self, *labels: str) -> dict[str, dict[str, str]]:
        """All volumes with these labels: name → all its labels."""
        with self._calls():
            found = self._api.volumes(filters={"label": list(labels)})
            return {str(each["Name"]): each.get("Labels") or {} for each in found.get("Volumes") or ()}

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
