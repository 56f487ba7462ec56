"""The archive of the engine's image: what `docker save` writes, made of the engine's files.

No container engine is asked: the image *is* the engine's files, so the same files
make the same archive everywhere, and whether an archive is theirs can be told
without trusting it. It has these members and no others:

    manifest.json   which names the image, as `docker load` reads it
    config.json     architecture, labels, and the hash of the layer
    layer.tar       the files, as `backends.image` packs them
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any

from llmlab.backends import image
from llmlab.backends.docker_api import DockerApi
from llmlab.builds import EngineBuild
from llmlab.errors import ImageError
from llmlab.kits import platforms

_MANIFEST, _CONFIG, _LAYER = "manifest.json", "config.json", "layer.tar"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# An image made of the same files is the same image, whenever it was made.
_CREATED = "1970-01-01T00:00:00Z"
_MOST_JSON_BYTES = 1 << 20
_COPY_HINT = "copy the kit anew, or use the llmlab that is in it: sh install.sh"


def write(build: EngineBuild, platform: str, path: Path) -> None:
    """Write the archive of a build's image.

    Args:
        build: The build; its files are known.
        platform: What it was compiled for.
        path: Where the archive goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as layer, tarfile.open(path, "w") as archive:
        config = json.dumps(_config(build, platform, _packed(build, layer))).encode()
        entry = {"Config": _CONFIG, "RepoTags": [image.name_of(build)], "Layers": [_LAYER]}
        _add(archive, _MANIFEST, json.dumps([entry]).encode())
        _add(archive, _CONFIG, config)
        size = layer.seek(0, io.SEEK_END)
        layer.seek(0)
        archive.addfile(_entry(_LAYER, size), layer)


def check(path: Path, build: EngineBuild, platform: str) -> None:
    """Tell whether an archive is the image of a build, and nothing else.

    Args:
        path: The archive.
        build: The build.
        platform: What it was compiled for.

    Raises:
        ImageError: If it is not.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            names = archive.getnames()
            if names != [_MANIFEST, _CONFIG, _LAYER] or not all(each.isreg() for each in archive):
                raise _wrong(path, f"it has {', '.join(names[:5])}")
            entry = {"Config": _CONFIG, "RepoTags": [image.name_of(build)], "Layers": [_LAYER]}
            said = _json(archive, _MANIFEST)
            if said != [entry]:
                raise _wrong(path, f"it names {_tags(said)}, not {image.name_of(build)}")
            with tempfile.TemporaryFile() as layer:
                digest = _packed(build, layer)
            if _json(archive, _CONFIG) != _config(build, platform, digest):
                raise _wrong(path, "its settings are others")
            if _hash(archive.extractfile(_LAYER)) != digest:
                raise _wrong(path, "it has other files than the kit's engine")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise _wrong(path, str(error)) from error


def load(api: DockerApi, path: Path, build: EngineBuild) -> None:
    """Give a container engine the image of an archive that was checked.

    Raises:
        ImageError: If the engine refuses it, or has something else then.
    """
    with path.open("rb") as archive:
        api.load_image(archive, image.name_of(build))
    with tempfile.TemporaryFile() as layer:
        expected = f"sha256:{_packed(build, layer)}"
    if api.image_layers(image.name_of(build)) != (expected,):
        raise ImageError(
            f"the container engine loaded {image.name_of(build)} and has other files in it",
            hint=f"docker rmi {image.name_of(build)}, and install the kit again",
        )


def architecture(platform: str) -> str:
    """A platform's architecture as images name it."""
    machine = platforms.architecture(platform)
    return _ARCHITECTURES.get(machine, machine)


def _packed(build: EngineBuild, layer: IO[bytes]) -> str:
    """Write the layer; returns its sha256."""
    image.pack(build, layer)  # type: ignore[arg-type]  # a temporary file is a BinaryIO
    layer.seek(0)
    return _hash(layer)


def _config(build: EngineBuild, platform: str, layer: str) -> dict[str, Any]:
    return {
        "architecture": architecture(platform),
        "os": "linux",
        "created": _CREATED,
        # Those that `image.make` gives it.
        "config": {"Labels": {"llmlab.image": build.identity, "llmlab.version": build.version}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created": _CREATED, "comment": "the engine's files"}],
    }


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_entry(name, len(data)), io.BytesIO(data))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.mode = size, 0o644
    return found


def _json(archive: tarfile.TarFile, name: str) -> Any:
    found = archive.extractfile(name)
    return json.loads(found.read(_MOST_JSON_BYTES)) if found else None


def _tags(said: Any) -> str:
    try:
        return ", ".join(str(tag) for entry in said for tag in entry["RepoTags"])[:200] or "nothing"
    except (TypeError, KeyError):
        return "nothing that can be read"


def _hash(file: IO[bytes] | None) -> str:
    made = hashlib.sha256()
    while file and (block := file.read(1 << 20)):
        made.update(block)
    return made.hexdigest()


def _wrong(path: Path, detail: str) -> ImageError:
    return ImageError(f"{path.name} is not the image of the kit's engine: {detail}", hint=_COPY_HINT)
