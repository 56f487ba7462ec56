"""The container image: the native engine's own files, and nothing else.

No registry, no base image, no shell, no package manager. What runs in the
container is, byte for byte, what runs natively.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from llmlab.backends.docker_api import DockerApi
from llmlab.builds import EngineBuild
from llmlab.errors import ImageError
from llmlab.reporting import reporter

REPOSITORY = "llmlab/llama-server"
# Mount points: a read-only root has to have them.
_FOLDERS = ("tmp", "models", "run", "run/llmlab", "etc", "proc", "sys", "dev")


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
            hint="name an image: --image ghcr.io/ggml-org/llama.cpp:server",
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
    """Write the image's root file system as a tar; the same bytes for the same build."""
    folders = set(_FOLDERS)
    for engine_file in build.files:
        folders |= {str(p).lstrip("/") for p in PurePosixPath(engine_file.target).parents if str(p) != "/"}
    with tarfile.open(fileobj=file, mode="w") as archive:
        for folder in sorted(folders):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o755
            archive.addfile(entry)
        for engine_file in sorted(build.files, key=lambda item: item.target):
            entry = tarfile.TarInfo(engine_file.target.lstrip("/"))
            entry.mode = 0o755
            entry.size = engine_file.source.stat().st_size
            with engine_file.source.open("rb") as source:
                archive.addfile(entry, source)
