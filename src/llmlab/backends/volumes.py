"""Files in volumes of a container engine that does not share this machine's files.

A model is sent once and stays, under a label with its hash. To see and remove them:

    docker volume ls --filter label=llmlab.model
    docker volume rm $(docker volume ls --quiet --filter label=llmlab.model)
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmlab import runtime
from llmlab.backends import labels, tool_image
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import ChecksumError, ModelNotFoundError
from llmlab.reporting import reporter
from llmlab.specs import Model
from llmlab.weights import store

_CHUNK = 1 << 20
_BLOCK = 512
_FOLDER = "/files"
# Sent last: a volume without it was not filled to the end.
_COMPLETE = ".complete"


@dataclass(frozen=True, slots=True)
class _Item:
    """A file to send: its name in the volume, and its permissions there."""

    source: Path
    name: str
    mode: int


def model(api: DockerApi, sent: Model, files: Sequence[tuple[str, Path]], *, image: str, server: str) -> str:
    """The volume that holds a model's files; they are sent if they are not there.

    Args:
        api: The container engine.
        sent: The model.
        files: Path in the volume, and file, of each.
        image: An image that the engine has; nothing of it is run.
        server: The server that it is sent for; what a killed start leaves is removed with it.

    Raises:
        BackendError: If the engine does not take them.
    """
    identity = hashlib.sha256(sent.sha256.encode())
    items = []
    for target, path in files:
        identity.update(f"\0{target}\0{path.stat().st_size}".encode())
        if path not in sent.files:
            # What belongs to it besides is small, and may be changed: config.json, a template.
            identity.update(hashlib.sha256(path.read_bytes()).digest())
        items.append(_Item(path, target, 0o444))
    name = f"llmlab-model-{identity.hexdigest()[:16]}"
    reporter().stage("model", f"{sent.name}: sending it to the container engine, once")
    _ensure(api, name, {labels.MODEL: sent.sha256, labels.MODEL_NAME: sent.name}, items, image, server)
    return name


def tool(api: DockerApi, program: Path, *, image: str, server: str) -> str:
    """The volume that holds a program of llmlab's, under its file's name."""
    name = f"llmlab-tool-{hashlib.sha256(program.read_bytes()).hexdigest()[:16]}"
    _ensure(api, name, {labels.TOOL: program.name}, [_Item(program, program.name, 0o555)], image, server)
    return name


def _ensure(
    api: DockerApi, name: str, marks: dict[str, str], items: Sequence[_Item], image: str, server: str
) -> None:
    # Of two that send the same at once, the second finds it there.
    with _alone(name):
        api.make_volume(name, marks)
        request = {
            "Image": image,
            "Entrypoint": ["/never-started"],
            "NetworkDisabled": True,
            "Labels": labels.mine(SERVER=server),
            "HostConfig": {
                "NetworkMode": "none",
                "Mounts": [
                    {
                        "Type": "volume",
                        "Source": name,
                        "Target": _FOLDER,
                        "VolumeOptions": {"NoCopy": True},
                    }
                ],
            },
        }
        # Files reach a volume through a container only; this one is never started.
        helper = runtime.uninterrupted(
            lambda: api.create(f"{name}-{os.getpid()}", request), undo=lambda made: api.stop(made, 0)
        )
        try:
            if api.has_path(helper, f"{_FOLDER}/{_COMPLETE}"):
                return
            # A tool is sent in no time; only a model's way is worth showing.
            count = _counted(items) if labels.MODEL in marks else _silent
            api.send(helper, _FOLDER, _tar(items, count))
            if labels.MODEL in marks:
                _compare(api, name, items, server)
            api.send(helper, _FOLDER, _tar([_Item(Path(os.devnull), _COMPLETE, 0o444)], _silent))
        finally:
            api.stop(helper, 0)


def _compare(api: DockerApi, name: str, items: Sequence[_Item], server: str) -> None:
    """See that what lies in a volume is what was sent: by hashes computed there, without a network.

    Raises:
        ChecksumError: If it is not. The volume is without its mark then, and is sent anew the next time.
        BackendError: If the engine does not do it.
    """
    reporter().stage("model", "comparing what has arrived with its sha256")
    paths = [f"{_FOLDER}/{item.name}" for item in items]
    request = {
        "Image": tool_image.make(api, "digest")[1],
        "Entrypoint": ["/digest"],
        "Cmd": paths,
        "NetworkDisabled": True,
        "Labels": labels.mine(SERVER=server),
        "HostConfig": {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Mounts": [{"Type": "volume", "Source": name, "Target": _FOLDER, "ReadOnly": True}],
        },
    }
    made = runtime.uninterrupted(
        lambda: api.create(f"{name}-digest-{os.getpid()}", request), undo=lambda made: api.stop(made, 0)
    )
    try:
        with api.attached(made) as output:
            api.start(made)
            told = b"".join(output).decode(errors="replace").splitlines()
    finally:
        api.stop(made, 0)
    found = [line.partition(" ")[0] for line in told]
    for number, item in enumerate(items):
        if number >= len(found) or found[number] != store.sha256(item.source):
            raise ChecksumError(
                f"{item.name} has arrived at {api.address} as something else than was sent",
                hint="try again; if it stays so, look at that machine's disk and memory",
            )


def _silent(_: int) -> None:
    """Counts nothing."""


def _counted(items: Sequence[_Item]) -> Callable[[int], None]:
    total = sum(item.source.stat().st_size for item in items)
    done = 0
    reporter().progress(0, total)

    def count(more: int) -> None:
        nonlocal done
        done += more
        reporter().progress(done, total)

    return count


def _tar(items: Sequence[_Item], count: Callable[[int], None]) -> Iterator[bytes]:
    """A tar of files, piece by piece: a model does not fit into memory twice.

    Raises:
        ModelNotFoundError: If a file became shorter meanwhile.
    """
    for item in items:
        entry = tarfile.TarInfo(item.name)
        entry.size = item.source.stat().st_size
        entry.mode = item.mode
        yield entry.tobuf(tarfile.PAX_FORMAT)
        left = entry.size
        with item.source.open("rb") as file:
            while left:
                piece = file.read(min(_CHUNK, left))
                if not piece:
                    raise ModelNotFoundError(
                        f"{item.source} became shorter while it was sent",
                        hint="is something still writing it? try again when it is whole",
                    )
                left -= len(piece)
                count(len(piece))
                yield piece
        yield b"\0" * (-entry.size % _BLOCK)
    yield b"\0" * (2 * _BLOCK)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    folder = runtime.cache_dir() / "volumes"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
