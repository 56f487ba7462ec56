"""The container image: the native engine's own files, and nothing else.

No registry, no base image, no shell, no package manager. What runs in the
container is, byte for byte, what runs natively.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from llmlab.backends.docker_api import DockerApi
from llmlab.builds import EngineBuild
from llmlab.errors import ImageError
from llmlab.reporting import reporter

REPOSITORY = "llmlab/llama-server"
# Mount points: a read-only root has to have them.
_FOLDERS = ("tmp", "models", "run", "run/llmlab", "etc", "proc", "sys", "dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """A file of an image.

    Attributes:
        source: Where its bytes are.
        target: Its absolute path in the image.
        mode: Its permissions there; it belongs to root.
    """

    source: Path
    target: str
    mode: int = 0o755


def name_of(build: EngineBuild) -> str:
    """The name of the image made from a build; another build has another name."""
    return f"{REPOSITORY}:{build.identity}"


def make(api: DockerApi, build: EngineBuild) -> tuple[str, str]:
    """Make the image if it is not there; returns its name and id.

    Raises:
        ImageError: If the build's files are not known, or the engine refuses.
    """
    if not build.files:
        raise ImageError(
            f"no image can be made from {build.server}: the files it needs are not known here",
            hint="name an image: --image official, which is the llama.cpp project's own",
        )
    name = name_of(build)
    if found := api.image_id(name):
        reporter().stage("image", name)
        return name, found
    reporter().stage("image", f"making {name} from the native engine's {len(build.files)} files")
    with tempfile.TemporaryFile() as file:
        pack(build, file)
        file.seek(0)
        labels = {"llmlab.image": build.identity, "llmlab.version": build.version}
        return name, api.import_image(cast("io.BufferedIOBase", file), name, labels)


def pack(build: EngineBuild, file: BinaryIO) -> None:
    """Write the engine's image as a tar."""
    pack_files([ImageFile(source=item.source, target=item.target) for item in build.files], {}, file)


def pack_files(files: Iterable[ImageFile], folders: Mapping[str, int], file: BinaryIO) -> None:
    """Write an image's root file system as a tar; the same bytes for the same files.

    Args:
        files: The files; their directories and the mount points are made.
        folders: More directories, or other permissions for those, by relative path.
        file: Where the tar goes.
    """
    files = sorted(files, key=lambda item: item.target)
    parents = {
        str(p).lstrip("/") for item in files for p in PurePosixPath(item.target).parents if str(p) != "/"
    }
    modes = dict.fromkeys((*_FOLDERS, *parents), 0o755) | dict(folders)
    with tarfile.open(fileobj=file, mode="w") as archive:
        for folder, mode in sorted(modes.items()):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = mode
            archive.addfile(entry)
        for item in files:
            entry = tarfile.TarInfo(item.target.lstrip("/"))
            entry.mode = item.mode
            entry.size = item.source.stat().st_size
            with item.source.open("rb") as source:
                archive.addfile(entry, source)
