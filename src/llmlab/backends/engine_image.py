"""The image that a server runs from, and whether it is what its name says."""

from __future__ import annotations

import hashlib
import platform
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from llmlab import engines, nvml, runtime
from llmlab.backends import image, labels
from llmlab.backends.base import Starting
from llmlab.backends.docker_api import DockerApi
from llmlab.builds import find_build
from llmlab.engines import official
from llmlab.errors import BackendError, ImageError, UsageError
from llmlab.isolation import create_request
from llmlab.isolation.profile import SCRATCH
from llmlab.profiles import SEALED, parse_gpus
from llmlab.reporting import reporter
from llmlab.specs import Limits

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_NAMED = f"name an image: --image {official.WORD}, which is the llama.cpp project's own"
_LIMITS = Limits(memory_mib=512, cpus=1.0, pids=128)
_VERSION_S, _POLL_S = 30.0, 0.02
_LONG = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineImage:
    """An image that an engine can be started from.

    Attributes:
        name: Its name.
        id: Its id.
        program: The engine's program in it.
        files: Name and sha256 of the engine's files, where llmlab has made it.
        notes: What the user should know.
    """

    name: str
    id: str
    program: str
    files: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def name_of(starting: Starting, engine: engines.Engine) -> str | None:
    """The name of the image that a server runs from; None if llmlab makes it.

    Raises:
        UsageError: If it is a word of ours that says nothing.
    """
    published = engines.image_of(engine)
    if starting.image is None:
        return published.name if published else None
    if not official.is_word(starting.image):
        return starting.image
    if published:
        raise UsageError(
            f"{starting.image} is an image of llama.cpp's, and engine {engine.NAME} is not in it",
            hint=f"leave --image out: that is {published.name}",
        )
    gpus = starting.profile.gpus
    maker = parse_gpus(gpus).maker if gpus else None
    return official.resolve(starting.image, maker=maker, cuda=_cuda() if maker == "nvidia" else None)


def get(api: DockerApi, starting: Starting, engine: engines.Engine) -> EngineImage:
    """The image, made or pulled if it is not there.

    Args:
        api: The container engine.
        starting: What is to be started; its image's name is one of a registry's, or None.
        engine: The program that serves.

    Raises:
        ImageError: If it cannot be made or had, or is not what its name says.
    """
    return _named(api, starting, engine) if starting.image else _ours(api, starting)


def _named(api: DockerApi, starting: Starting, engine: engines.Engine) -> EngineImage:
    name = starting.image or ""
    reporter().stage("image", name)
    found = api.image_id(name)
    if found is None:
        for line in api.pull(name):
            reporter().stage("image", f"{name}: {line}")
        found = api.image_id(name)
    if found is None:
        raise BackendError(f"image {name!r} was pulled and is not there")
    wanted = engines.image_of(engine) or official.PROGRAM
    _check_architecture(api, name, found)
    version = _checked(api, starting, name, found, wanted)
    # A server that tells its own version is asked when it is ready.
    notes = (f"the image's {engine.NAME} says: version {version}",) if version and not wanted.version else ()
    return EngineImage(name=name, id=found, program=wanted.program, notes=notes)


def _ours(api: DockerApi, starting: Starting) -> EngineImage:
    reporter().stage("engine", starting.spec.engine)
    build = find_build()
    there = _machine(str(api.info.get("Architecture") or ""))
    here = _machine(platform.machine())
    if there and there != here:
        raise ImageError(
            f"the container engine runs on {there}, and the llama-server of this machine is for {here}",
            hint=_NAMED,
        )
    name, found = image.make(api, build)
    program = next(file.target for file in build.files if file.source.name == build.server.name)
    return EngineImage(
        name=name,
        id=found,
        program=program,
        files={Path(file.target).name: file.sha256 for file in build.files},
    )


def _check_architecture(api: DockerApi, name: str, image_id: str) -> None:
    """Refuse an image for other processors; its programs would not run, or many times slower.

    Raises:
        ImageError: With both.
    """
    its = _machine(api.image_architecture(image_id))
    there = _machine(str(api.info.get("Architecture") or ""))
    if its and there and its != there:
        raise ImageError(
            f"image {name!r} is for {its}, and the container engine runs on {there}",
            hint=f"take its variant for {there}: docker pull --platform linux/{_platform(there)} {name}",
        )


def _checked(
    api: DockerApi, starting: Starting, name: str, image_id: str, wanted: engines.Image
) -> str | None:
    """What the image's program says of its version, asked once for each image; None if it is not asked.

    Raises:
        ImageError: If the program is not there, does not run, or is another one.
    """
    folder = runtime.cache_dir() / "images"
    known = (
        folder / hashlib.sha256(f"{image_id}\0{wanted.program}\0{wanted.banner}".encode()).hexdigest()[:32]
    )
    with suppress(OSError):
        return known.read_text(encoding="utf-8") or None
    version = _version(api, starting, name, image_id, wanted)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        draft = known.with_name(f"{known.name}.{time.monotonic_ns()}")
        draft.write_text(version or "", encoding="utf-8")
        draft.replace(known)
    return version


def _version(
    api: DockerApi, starting: Starting, name: str, image_id: str, wanted: engines.Image
) -> str | None:
    """Ask the program in a sealed container of its own."""
    request = create_request(
        SEALED,
        image=image_id,
        argv=[wanted.program, "--version"],
        environment={"HOME": SCRATCH, "LANG": "C.UTF-8"},
        user="65534:65534",
        limits=_LIMITS,
        mounts=[],
        labels=labels.mine(SERVER=starting.claim.name),
    )
    made = runtime.uninterrupted(
        lambda: api.create(f"{labels.container_name(starting.claim.name)}-version", request),
        undo=lambda container: api.stop(container, 0),
    )
    try:
        if wanted.program.startswith("/") and not api.has_path(made, wanted.program):
            raise ImageError(
                f"image {name!r} has no {wanted.program}",
                hint="is that the image you mean?" + _such_as(wanted),
            )
        if wanted.banner is None:
            return None
        try:
            api.start(made)
        except BackendError as error:
            raise ImageError(
                f"{wanted.program} of image {name!r} cannot be started: {error.message}",
                hint=_such_as(wanted),
            ) from error
        said = _said(api, made)
    finally:
        api.stop(made, 0)
    match = re.search(wanted.banner, said)
    if match is None:
        shown = " ".join(said.split())[:_LONG] or "nothing"
        raise ImageError(
            f"{wanted.program} of image {name!r} is another program: asked for its version, it says {shown!r}",
            hint="is that the image you mean?" + _such_as(wanted),
        )
    return match["version"].strip()


def _said(api: DockerApi, container_id: str) -> str:
    """What a program has said when it has ended, or when it has taken too long."""
    deadline = time.monotonic() + _VERSION_S
    while time.monotonic() < deadline:
        state = (api.container(container_id) or {}).get("State") or {}
        if not state.get("Running"):
            break
        time.sleep(_POLL_S)
    return "\n".join(api.log(container_id, 20))


def _such_as(wanted: engines.Image) -> str:
    return f" such as {wanted.name}"


def _machine(name: str) -> str:
    return _MACHINES.get(name, name)


def _platform(machine: str) -> str:
    return next((key for key, value in _MACHINES.items() if value == machine), machine)


def _cuda() -> int | None:
    """The newest major version of CUDA that the driver knows."""
    if not nvml.hold():
        return None
    try:
        found = nvml.query("nvmlSystemGetCudaDriverVersion")
    except nvml.GpuGoneError:
        return None
    finally:
        nvml.release()
    return int(found) // 1000 if isinstance(found, int) else None
