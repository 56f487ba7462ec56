"""The container engine for a reset: what of llmlab's lies in it, and whose it is.

An engine's images have no owner, since all its users share them. Removed is what this
user's own files have made and will make again, and the images of llmlab's tools, which
anybody's llmlab makes anew in a second; never what a container uses.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from llmlab import runtime
from llmlab.auditing.stand import LABEL as AUDIT
from llmlab.backends import labels
from llmlab.backends.docker_api import DockerApi
from llmlab.builds import manifest, places
from llmlab.errors import BackendError, LabError
from llmlab.specs import Process, Record
from llmlab.workshop.resetting.items import Found, kept, removable

IMAGE = "llmlab.image"
TOOLS = ("llmlab/probe", "llmlab/relay")
_USUAL = Path("/var/run/docker.sock")
_SHORT_ID = 19  # "sha256:" and twelve digits


def connect() -> tuple[DockerApi | None, str]:
    """The container engine, or None and why it could not be looked at; "" where there is none."""
    try:
        engine = DockerApi()
        engine.ping()
    except LabError as error:
        return None, f"{error.message}: {error.hint}" if _expected() else ""
    return engine, ""


def _expected() -> bool:
    """Whether there is a container engine at all, running or not."""
    named = any(os.environ.get(name) for name in ("DOCKER_HOST", "DOCKER_CONTEXT"))
    installed = any(shutil.which(program) for program in ("docker", "dockerd"))
    used = any(record.backend == "container" for record in runtime.records())
    return named or installed or used or _USUAL.exists()


def containers(engine: DockerApi, servers: Collection[str]) -> Iterator[tuple[str, Found]]:
    """This user's containers besides the servers: sidecars, what starts and audits have left.

    Args:
        engine: The container engine.
        servers: Ids of the servers' containers.

    Yields:
        Each container's id, and what is to become of it.
    """
    for entry in engine.containers(f"{labels.USER}={runtime.scope()}"):
        marks, container_id = entry.get("Labels") or {}, str(entry["Id"])
        if container_id not in servers:
            beside = marks.get(labels.SIDECAR)
            detail = f"beside server {beside}" if beside else "left by a start that died"
            yield (
                container_id,
                removable("container", _name(entry), partial(engine.stop, container_id, 0), detail=detail),
            )
    for entry in engine.containers(AUDIT):
        yield str(entry["Id"]), _of_audit(engine, entry)


def _of_audit(engine: DockerApi, entry: dict[str, Any]) -> Found:
    if not has_ended(str((entry.get("Labels") or {}).get(AUDIT, ""))):
        return kept("container", _name(entry), "an audit is under way, and removes it")
    # Its label says which process made it, not whose; what is mounted into it is somebody's.
    own = (f"{runtime.cache_dir()}{os.sep}", f"{runtime.runtime_dir()}")
    sources = [str(mount.get("Source", "")) for mount in entry.get("Mounts") or ()]
    if not any(source.startswith(own) for source in sources):
        return kept(
            "container", _name(entry), "left by an audit, perhaps another user's: the next audit removes it"
        )
    return removable(
        "container", _name(entry), partial(engine.stop, str(entry["Id"]), 0), detail="left by an audit"
    )


def has_ended(owner: str) -> bool:
    """Whether the process that an audit has written down has ended."""
    pid, _, start = owner.partition("#")[0].partition(":")
    return pid.isdigit() and runtime.has_ended(Process(pid=int(pid), start=start))


def images(engine: DockerApi, going: Collection[str]) -> Iterator[Found]:
    """The images that llmlab has made.

    Args:
        engine: The container engine.
        going: Ids of containers that are removed before them.
    """
    own, used = _identities(), engine.used_images(going)
    for entry in engine.images(IMAGE):
        name = next((tag for tag in entry.get("RepoTags") or () if "<none>" not in tag), "")
        name = name or str(entry["Id"])[:_SHORT_ID]
        size = int(entry.get("Size") or 0) or None
        identity = (entry.get("Labels") or {}).get(IMAGE, "")
        tool = any(re.search(rf"(?:^|/){re.escape(each)}:", name) for each in TOOLS)
        if str(entry["Id"]) in used:
            yield kept("image", name, "a container that is not yours to remove uses it", size=size)
        elif tool or identity in own:
            yield removable(
                "image",
                name,
                partial(engine.remove_image, name),
                size=size,
                detail="made anew when it is needed",
            )
        else:
            detail = "made of an engine that is not in your cache, perhaps another user's"
            yield kept("image", name, detail, size=size, how=f"docker rmi {name}")


def _identities() -> set[str]:
    """What the images of this user's own builds are known by."""
    root = places.engines_dir()
    notes = [*root.glob(f"*/{manifest.NAME}"), *root.glob("found/*.json")]
    return {known.build.identity for path in notes if (known := manifest.load(path))}


def volumes(engine: DockerApi, *, downloads: bool) -> Iterator[Found]:
    """Volumes: servers' own, and the models and tools that were sent to an engine on another machine."""
    for name in engine.volumes(f"{labels.USER}={runtime.scope()}"):
        yield removable("volume", name, partial(_remove_volume, engine, name), detail="of a server")
    for label, what in (
        (labels.MODEL, "a model that was sent there"),
        (labels.TOOL, "a tool that was sent there"),
    ):
        for name in engine.volumes(label):
            # Who sends something holds a lock of its name meanwhile; the file stays.
            if not (runtime.cache_dir() / "volumes" / f"{name}.lock").exists():
                yield kept("volume", name, f"{what}, not by you", how=f"docker volume rm {name}")
            elif label == labels.MODEL and not downloads:
                yield kept("volume", name, what, how="llmlab reset --downloads")
            else:
                yield removable("volume", name, partial(_remove_volume, engine, name), detail=what)


def _remove_volume(engine: DockerApi, name: str) -> None:
    engine.remove_volume(name)
    if engine.has_volume(name):
        raise BackendError(f"volume {name} is in use", hint=f"docker ps --all --filter volume={name}")


def unseen_servers(records: Collection[Record]) -> Iterator[Found]:
    """Servers in containers of an engine that does not answer: they may run all the same."""
    for record in records:
        yield kept("server", record.name, "in a container, and the container engine does not answer")


def _name(entry: dict[str, Any]) -> str:
    return str((entry.get("Names") or [entry["Id"]])[0]).lstrip("/")
