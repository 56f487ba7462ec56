"""The calls to the container engine that are about images."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from llmlab.backends import docker_trouble
from llmlab.errors import ImageError

_PULL_HINT = (
    "check its name, and that this machine reaches its registry; or carry it here: "
    "docker save {name} | gzip > image.tgz where it can be had, and here docker load -i image.tgz"
)
_FULL_HINT = "is its disk full? look at: docker system df"


class Images:
    """A part of `docker_api.DockerApi`."""

    _api: Any
    _errors: Any

    def _calls(self) -> AbstractContextManager[None]:
        """Errors of the engine's become ours inside the `with` block."""
        raise NotImplementedError

    def image_user(self, image: str) -> str:
        """The user that an image runs as; "" for root."""
        return str(self._image_config(image).get("User") or "")

    def image_volumes(self, image: str) -> tuple[str, ...]:
        """Where an image declares volumes: an engine makes each of them, if nothing else is mounted there."""
        return tuple(self._image_config(image).get("Volumes") or ())

    def image_environment(self, image: str) -> dict[str, str]:
        """An image's environment variables."""
        pairs = (str(each).partition("=") for each in self._image_config(image).get("Env") or ())
        return {name: value for name, _, value in pairs}

    def image_architecture(self, image: str) -> str:
        """The processors that an image is for, in the engine's words; "" if it does not say."""
        with self._calls():
            return str(self._api.inspect_image(image).get("Architecture") or "")

    def _image_config(self, image: str) -> dict[str, Any]:
        with self._calls():
            found: dict[str, Any] = self._api.inspect_image(image).get("Config") or {}
            return found

    def image_id(self, name: str) -> str | None:
        """The id of a local image, None if there is none of that name."""
        with self._calls():
            try:
                return str(self._api.inspect_image(name)["Id"])
            except self._errors.ImageNotFound:
                return None

    def pull(self, name: str) -> Iterator[str]:
        """Pull an image; yields what is going on.

        Raises:
            ImageError: If it cannot be had.
        """
        try:
            for event in self._api.pull(name, stream=True, decode=True):
                if "error" in event:
                    raise ImageError(f"image {name!r} cannot be had: {event['error']}", hint=_pull_hint(name))
                yield f"{event.get('status', '')} {event.get('progress', '')}".strip()
        except (self._errors.DockerException, OSError) as error:
            raise ImageError(
                f"image {name!r} cannot be had: {docker_trouble.reason(error)}", hint=_pull_hint(name)
            ) from error

    def import_image(self, archive: io.BufferedIOBase, name: str, labels: dict[str, str]) -> str:
        """Make an image from a tar of its root file system; returns its id.

        Raises:
            ImageError: If the engine does not take it.
        """
        repository, _, tag = name.rpartition(":")
        changes = [f'LABEL {key}="{value}"' for key, value in labels.items()]
        try:
            answer = self._api.import_image_from_data(
                archive, repository=repository, tag=tag, changes=changes
            )
            # Podman 4 forgets the tag that it was given.
            if made := re.findall(r'"status"\s*:\s*"(sha256:[0-9a-f]{64})"', answer or ""):
                self._api.tag(made[-1], repository, tag, force=True)
        except (self._errors.DockerException, OSError) as error:
            raise ImageError(
                f"the container engine cannot make the image {name}: {docker_trouble.reason(error)}",
                hint=_FULL_HINT,
            ) from error
        found = self.image_id(name)
        if found is None:
            raise ImageError(f"the container engine took the image {name} and does not have it")
        return found

    def load_image(self, archive: BinaryIO, name: str) -> None:
        """Take an image from an archive as `docker save` writes it.

        Raises:
            ImageError: If the engine does not take it.
        """
        try:
            # Its own words for what is wrong come in the middle of what it tells.
            said = [event["error"] for event in self._api.load_image(archive) if "error" in event]
        except (self._errors.DockerException, OSError) as error:
            said = [docker_trouble.reason(error)]
        if said:
            raise ImageError(
                f"the container engine does not take the image {name}: {said[0]}",
                hint=_FULL_HINT,
            )

    def image_layers(self, name: str) -> tuple[str, ...]:
        """The hashes of a local image's layers; none if there is no such image."""
        with self._calls():
            try:
                found = self._api.inspect_image(name)["RootFS"]["Layers"]
            except self._errors.ImageNotFound:
                return ()
            return tuple(map(str, found))

    def images(self, label: str) -> list[dict[str, Any]]:
        """All images with this label, as the API lists them."""
        with self._calls():
            found: list[dict[str, Any]] = self._api.images(filters={"label": label})
            return found

    def used_images(self, without: Collection[str]) -> set[str]:
        """Ids of images that containers use, whoever's; without these containers."""
        with self._calls():
            listed = self._api.containers(all=True)
            return {str(each["ImageID"]) for each in listed if each["Id"] not in without}

    def remove_image(self, name: str) -> None:
        """Remove an image that no container uses; not an error if it is gone."""
        with self._calls():
            try:
                self._api.remove_image(name)
            except self._errors.ImageNotFound:
                return


def _pull_hint(name: str) -> str:
    return _PULL_HINT.format(name=name.partition("@")[0])
