"""What is exported: a server that is there, or a model with the options of `start`."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import get_args

from llmlab import engines, weights
from llmlab.backends import image
from llmlab.builds import find_build
from llmlab.errors import MemoryFitError, UnknownNameError, UsageError
from llmlab.lab import planning, registry
from llmlab.profiles import PROFILES, SEALED, Profile, ProfileName, parse_gpus
from llmlab.specs import KvType, Limits, Record, ServeSpec
from llmlab.weights import anatomy, fit, store

# Nobody's on a node: servers of several people may stand beside each other there.
_USER = (10001, 10001)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_MOST_GPUS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Those of `start` that an export takes; None for what was not given."""

    context: int | None = None
    slots: int | None = None
    threads: int | None = None
    kv_type: KvType | None = None
    memory: str | int | None = None
    cpus: float | None = None
    profile: ProfileName | None = None
    gpus: int | None = None
    gpu_layers: str | None = None
    accelerator: str = "cuda"
    """What llama.cpp must be compiled for to use the cluster's GPUs."""

    def given(self) -> Iterator[str]:
        """Those that were given and that only a start can take."""
        for name in ("context", "slots", "threads", "kv_type", "memory", "cpus", "profile", "gpu_layers"):
            if getattr(self, name) is not None:
                yield "--" + name.replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A file of the model's.

    Attributes:
        path: Where it is on this machine.
        file_bytes: Its size.
        sha256: Its hash.
    """

    path: Path
    file_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is exported.

    Attributes:
        name: What it is called in Kubernetes.
        spec: What it serves.
        profile: The isolation asked for.
        limits: Its share of a machine.
        user: The uid and gid that it runs as.
        files: The model's files.
        program: The engine's program in its image.
        libraries: The directory of the engine's libraries there; None if the program finds its own.
        architecture: The processors that the image is for, as Kubernetes calls them; None if not known.
        gpus: How many GPUs it gets.
        local_image: The image's name on this machine, if it is llmlab's own.
        notes: What the user should know.
    """

    name: str
    spec: ServeSpec
    profile: Profile
    limits: Limits
    user: tuple[int, int]
    files: tuple[ModelFile, ...]
    program: PurePosixPath
    libraries: PurePosixPath | None
    architecture: str | None
    gpus: int
    local_image: str | None
    notes: tuple[str, ...] = ()


def find(source: str, name: str | None, program: str | None, options: Options) -> Subject:
    """The server of that name, or what a start of that model would be.

    Args:
        source: A server or a reference to a model.
        name: What to call it; None for the server's or the model's name.
        program: The engine's program in the image; None for where llmlab's own image has it.
        options: Those of a start.

    Raises:
        UsageError: If an option does not fit, or its isolation cannot be exported.
        LabError: If the model or the engine cannot be used.
    """
    _check(options)
    records = {record.name: record for record in registry.find_all()}
    record = records.get(source)
    if record is None:
        found = _planned(source, program, options, tuple(records))
    else:
        found = _running(record, program, options)
    if problem := next(_opened(found.profile), None):
        raise UsageError(
            f"profile {found.profile.name} of {found.name} has {problem}, and only what is isolated is exported",
            hint="export the model with the profile sealed or gpu",
        )
    return replace(found, name=label(name or found.name, "--name"))


def label(text: str, option: str) -> str:
    """A name as Kubernetes takes it for a Service.

    Raises:
        UsageError: If it is none; with one that would be.
    """
    if _LABEL.fullmatch(text):
        return text
    near = re.sub(r"[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")[:40].strip("-")
    raise UsageError(
        f"{text!r} is no name in Kubernetes: small letters, digits and dashes, at most 40, a letter first",
        hint=f"such as {option} {near or 'llm'}",
    )


def _running(record: Record, program: str | None, options: Options) -> Subject:
    if given := next(options.given(), None):
        raise UsageError(
            f"{record.name} is a server with options of its own: {given} cannot be changed",
            hint="leave it out, or export a model in place of the server",
        )
    registry.require_here(record, "an export")
    if record.backend != "container" or record.profile is None or record.limits is None:
        raise UsageError(
            f"{record.name} runs on backend {record.backend}: there is no isolation to export",
            hint=f"export its model: export kubernetes {record.spec.model.reference} --name {record.name}",
        )
    user = record.user or "0"
    return Subject(
        name=record.name,
        spec=record.spec,
        profile=replace(record.profile, user=user),
        limits=record.limits,
        user=_numbers(user),
        files=_files(record.spec.model.files, record.spec.model.sha256),
        program=PurePosixPath(program or record.argv[0]),
        # An image of others has its libraries where its loader looks.
        libraries=PurePosixPath(record.argv[0]).parent if record.build and not program else None,
        architecture=_architecture() if record.build and not program else None,
        gpus=_count(record.profile.gpus, options.gpus),
        local_image=(record.image or "").partition("@")[0] if record.build else None,
    )


def _planned(source: str, program: str | None, options: Options, servers: tuple[str, ...]) -> Subject:
    try:
        model = weights.resolve(source, fetch=False)
    except UnknownNameError:
        known = (*servers, *weights.known_models())
        raise UnknownNameError("server or model", source, known) from None
    made_of = anatomy.of_file(model.path)
    engines.require_form(engines.engine("llama-server"), made_of.form, model.name)
    gpus = options.gpus or int(options.profile == "gpu")
    setting = fit.Setting(
        context=options.context or planning.default_context(made_of),
        slots=options.slots or 4,
        kv_type=options.kv_type or "f16",
    )
    needed = fit.need(made_of, setting)
    memory = fit.default_limit_mib(needed)
    if options.memory is not None:
        memory = planning.parse_size_mib(options.memory)
    if needed.verdict(memory) == "too big":
        raise MemoryFitError(
            f"{model.name} with {setting.options()} needs {needed.required_mib} MiB, and the limit is {memory} MiB",
            hint="give more --memory, or less --context",
        )
    layers = _layers(options.gpu_layers, made_of.n_layers + 1) if gpus else 0
    notes: tuple[str, ...] = ()
    if gpus:
        vram = fit.need(made_of, replace(setting, gpu_layers=layers)).vram_mib
        notes = (
            f"{layers} layers go onto the GPU and need {vram} MiB there; what the cluster's have is not known here.",
        )
    threads = options.threads or planning.default_threads(model.file_bytes)
    build = None if program else find_build()
    if build and gpus and options.accelerator not in build.accelerators:
        raise UsageError(
            f"llama.cpp here was not compiled for {options.accelerator}, so its image would use no GPU",
            hint=f"llmlab build --gpu {options.accelerator}, or --program /app/llama-server with an image that was",
        )
    if build:
        program = next(file.target for file in build.files if file.source.name == build.server.name)
    profile = PROFILES[options.profile or ("gpu" if gpus else "sealed")]
    return Subject(
        name=model.name,
        spec=ServeSpec(
            model=model,
            engine="llama-server",
            context=setting.context,
            slots=setting.slots,
            threads=threads,
            kv_type=setting.kv_type,
            gpu_layers=layers,
        ),
        profile=profile,
        limits=Limits(
            memory_mib=memory, cpus=options.cpus or float(threads + 1), pids=profile.pids or SEALED.pids
        ),
        user=_USER,
        files=_files(model.files, model.sha256),
        program=PurePosixPath(str(program)),
        libraries=PurePosixPath(str(program)).parent if build else None,
        architecture=_architecture() if build else None,
        gpus=gpus,
        local_image=image.name_of(build) if build else None,
        notes=notes,
    )


def _check(options: Options) -> None:
    for option in ("context", "slots", "threads", "cpus", "gpus"):
        value = getattr(options, option)
        if value is not None and (value <= 0 or (option != "cpus" and value < 1)):
            raise UsageError(f"{option} is {value}", hint="it must be 1 or more")
    if options.kv_type is not None and options.kv_type not in get_args(KvType):
        raise UnknownNameError("type of the KV cache", options.kv_type, get_args(KvType))
    if options.profile is not None and options.profile not in PROFILES:
        raise UnknownNameError("profile", options.profile, PROFILES)
    if options.gpus is not None and options.gpus > _MOST_GPUS:
        raise UsageError(f"gpus is {options.gpus}", hint="it is a number of GPUs of one node, such as 1")
    if options.gpu_layers is not None and options.gpus is None and options.profile != "gpu":
        raise UsageError("--gpu-layers needs a GPU", hint="add --gpus 1")


def _opened(profile: Profile) -> Iterator[str]:
    """What a profile leaves open that is never exported."""
    rules = {
        f"the network {profile.network!r}": profile.network != "none",
        "a published port": profile.publish,
        "a root file system that can be written": not profile.read_only,
        "models that can be written": not profile.models_read_only,
        "no scratch directory with a size": profile.scratch_mib is None,
        "capabilities": "ALL" not in profile.drop_capabilities or bool(profile.add_capabilities),
        "new privileges": not profile.no_new_privileges or profile.privileged,
        "no system-call filter": profile.seccomp == "unconfined",
        "the user root": profile.user == "image" or profile.user.partition(":")[0] == "0",
        "no limit of memory or CPU time": not (profile.memory and profile.cpus),
        "namespaces of the host": bool(profile.share),
        "files of the host": bool(profile.mounts),
    }
    return (what for what, opened in rules.items() if opened)


def _layers(asked: str | None, most: int) -> int:
    if asked in {None, "all"}:
        return most
    if not str(asked).isdecimal():
        raise UsageError(f"{asked!r} is no number of layers", hint=f"write all, or a number up to {most}")
    return min(int(str(asked)), most)


def _count(gpus: str | None, asked: int | None) -> int:
    """How many GPUs a server has."""
    if gpus is None:
        if asked:
            raise UsageError("this server has no GPU", hint="export its model with --gpus 1")
        return 0
    request = parse_gpus(gpus)
    if request.all and asked is None:
        raise UsageError("this server may use all GPUs of this machine", hint="say how many: --gpus 1")
    return asked or len(request.names) or request.count or 1


def _numbers(user: str) -> tuple[int, int]:
    uid, _, gid = user.partition(":")
    # Without one, Docker takes group 0, which is root's.
    return int(uid), int(gid or uid)


def _files(paths: tuple[Path, ...], first: str) -> tuple[ModelFile, ...]:
    """The model's files with their hashes, which are known of the first one."""
    found = []
    for path in paths:
        try:
            size = path.stat().st_size
            sha256 = first if path == paths[0] else store.sha256(path)
        except OSError as error:
            raise UsageError(
                f"the model's file {path} cannot be read: {error.strerror}",
                hint="its size and its hash go into the manifest",
            ) from None
        found.append(ModelFile(path=path, file_bytes=size, sha256=sha256))
    return tuple(found)


def _architecture() -> str | None:
    return _MACHINES.get(platform.machine())
