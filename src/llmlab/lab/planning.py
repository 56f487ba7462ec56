"""What is decided before a start: the setting, the limits, the isolation, and whether it fits."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from llmlab import engines, machine
from llmlab.errors import MemoryFitError, UnknownNameError, UsageError
from llmlab.lab import engine_gpus, offload
from llmlab.machine import Machine
from llmlab.profiles import Network, Profile, ProfileName, Transport, compose
from llmlab.specs import BackendName, EngineName, KvType, Limits, Model, Prediction, ServeSpec
from llmlab.weights import fit, rates
from llmlab.weights.anatomy import Anatomy

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNIT_MIB = {"": 1.0, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024}
_MIB = 1024 * 1024
_MAX_THREADS = 8
_MAX_CONTEXT = 4096
# Below this size one thread is quickest: more spend their time waiting for each other.
_SMALL_MODEL_BYTES = 64 * _MIB
_LAST_PORT = 65535
_RESTARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The arguments of `start`; see there."""

    model: str
    backend: BackendName | None
    name: str | None
    engine: EngineName | None
    context: int | None
    slots: int
    threads: int | None
    kv_type: KvType
    memory: str | int | None
    cpus: float | None
    pids: int | None
    gpus: str | None
    gpu_layers: str | None
    profile: ProfileName | None
    root: Literal["read-only", "writable"] | None
    network: Network | None
    user: str | None
    expose: int | None
    transport: Transport | None
    image: str | None
    restart: str | None
    keep: bool
    force: bool
    on: str | None = None
    overlay: str | None = None
    replica_of: str | None = None

    def container_only(self) -> tuple[str, ...]:
        """The options that were given and that only a container can have."""
        names = (
            *("memory", "cpus", "pids", "profile", "root"),
            *("network", "user", "expose", "transport", "image", "restart", "on"),
        )
        given = (name for name in names if getattr(self, name) not in {None, "no"})
        return tuple(f"--{self.root if name == 'root' else name}" for name in given)


def parse_size_mib(size: str | int) -> int:
    """A size such as "2g", "512m", "1.5 GiB" or 512 as MiB.

    Raises:
        UsageError: If it is not a size.
    """
    match = _SIZE.fullmatch(str(size).strip())
    if not match or not (mib := round(float(match[1]) * _UNIT_MIB[match[2].lower()])):
        raise UsageError(f"{size!r} is not a size", hint="write 512m, 2g, or a number of MiB")
    return mib


def parse_restart(policy: str | None) -> int:
    """How often a server may be started anew: 0 for "no", 3 for "on-failure", N for "on-failure:N".

    Raises:
        UsageError: If it is no such policy.
    """
    if policy in {None, "no"}:
        return 0
    match = re.fullmatch(r"on-failure(?::([1-9]\d?))?", policy or "")
    if not match:
        hint = "write no, on-failure, or on-failure:N with N from 1 to 99"
        if policy in {"always", "unless-stopped"}:
            hint += "; a server that always comes back would outlive whoever started it"
        raise UsageError(f"{policy!r} is no restart policy", hint=hint)
    return int(match[1] or _RESTARTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was decided before a start.

    Attributes:
        setting: What memory depends on.
        limits: The share of the machine that a container gets.
        prediction: What it is predicted to take.
        profile: The isolation asked for.
        gpus: The GPUs that the server may see, in words that `parse_gpus` takes, or None.
        gpu_ids: What these are known by.
        notes: What the user should know.
    """

    setting: fit.Setting
    limits: Limits
    prediction: Prediction
    profile: Profile
    gpus: str | None
    gpu_ids: tuple[str, ...]
    notes: tuple[str, ...]


def plan(
    wish: Wish,
    name: str,
    model: Anatomy,
    engine: EngineName,
    place: BackendName,
    node: Machine | None = None,
) -> Plan:
    """Decide on the setting, and whether it fits.

    Args:
        wish: The arguments of `start`.
        name: The model's name, for messages.
        model: What it is made of.
        engine: The program that serves it.
        place: The backend.
        node: Where it runs, if that is not this machine.

    Raises:
        UsageError: If an argument does not fit.
        MemoryFitError: If there is not enough memory.
    """
    for argument, value in (("context", wish.context), ("slots", wish.slots), ("threads", wish.threads)):
        if value is not None and value < 1:
            raise UsageError(f"{argument} is {value}", hint="it must be 1 or more")
    if wish.kv_type not in get_args(KvType):
        raise UnknownNameError("type of the KV cache", wish.kv_type, get_args(KvType))
    engines.require_form(engines.engine(engine), model.form, name)
    setting = fit.Setting(
        context=wish.context or default_context(model),
        slots=wish.slots if engines.is_parallel(engines.engine(engine)) else 1,
        kv_type=wish.kv_type,
        engine=engine,
    )
    profile = _profile(wish)
    offloaded = offload.decide(
        model,
        setting,
        place,
        layers=engine_gpus.layers(
            engines.engine(engine), asked=wish.gpu_layers, gpus=profile.gpus, image=wish.image
        ),
        gpus=profile.gpus if place == "container" else wish.gpus,
        name=name,
        force=wish.force,
        elsewhere=node is not None,
    )
    if place == "container" and offloaded.gpus:
        profile = replace(profile, gpus=offloaded.gpus)
    setting = replace(setting, gpu_layers=offloaded.layers)
    needed = fit.need(model, setting)
    here = node or machine.look()
    threads = wish.threads or default_threads(model.file_bytes, here.cpus)
    limits = _limits(wish, profile, needed, threads, here)
    notes = list(offloaded.notes)
    if model.context_train and setting.context > model.context_train:
        notes.append(
            f"{name} was trained with a context of {model.context_train} tokens, not {setting.context}"
        )
    room, what = _room(wish, limits, here) if place == "container" else _machine_room(here)
    notes += _check_fit(name, model, setting, room, what, force=wish.force)
    # What was measured is the pace of llama.cpp on this machine's CPU.
    elsewhere = bool(setting.gpu_layers or node or model.form != "gguf")
    measured = None if elsewhere else rates.load(threads)
    pace = rates.predict(model, measured) if measured else None
    prediction = Prediction(
        required_mib=needed.required_mib,
        resident_mib=needed.resident_mib,
        ready_mib=needed.ready_mib,
        vram_mib=needed.vram_mib if setting.gpu_layers and model.cache_known else None,
        decode_tokens_per_s=pace.decode_tokens_per_s if pace else None,
        prefill_tokens_per_s=pace.prefill_tokens_per_s if pace else None,
        context_token_s=pace.context_token_s if pace else None,
    )
    return Plan(
        setting=setting,
        limits=limits,
        prediction=prediction,
        profile=profile,
        gpus=offloaded.gpus,
        gpu_ids=offloaded.ids,
        notes=tuple(notes),
    )


def may_use_gpus(wish: Wish, place: BackendName, node: Machine | None) -> bool:
    """Whether a start could get a GPU of this machine.

    Args:
        wish: The arguments of `start`.
        place: The backend.
        node: Where it runs, if that is not this machine.
    """
    gpus = _profile(wish).gpus if place == "container" else wish.gpus
    return node is None and wish.gpu_layers != "0" and offload.may_use(place, gpus)


def default_context(model: Anatomy) -> int:
    """Tokens of context for each slot: what the model was trained with, at most 4096."""
    return min(model.context_train or _MAX_CONTEXT, _MAX_CONTEXT)


def default_threads(file_bytes: int, cpus: int | None = None) -> int:
    """Compute threads for a model of that size: one for a very small one, else one per CPU, at most 8.

    Args:
        file_bytes: The model's size.
        cpus: How many CPUs there are; None for this machine's.
    """
    return 1 if file_bytes < _SMALL_MODEL_BYTES else min(cpus or machine.cpus(), _MAX_THREADS)


def spec(wish: Wish, model: Model, setting: fit.Setting, cpus: int | None = None) -> ServeSpec:
    """What the engine is asked to serve, on a machine with so many CPUs; None for this one."""
    return ServeSpec(
        model=model,
        engine=setting.engine,
        context=setting.context,
        slots=setting.slots,
        threads=wish.threads or default_threads(model.file_bytes, cpus),
        kv_type=setting.kv_type,
        gpu_layers=setting.gpu_layers,
    )


def _limits(wish: Wish, profile: Profile, needed: fit.Need, threads: int, here: Machine) -> Limits:
    memory = (
        min(fit.default_limit_mib(needed), here.total_mib)
        if wish.memory is None
        else parse_size_mib(wish.memory)
    )
    cpus = wish.cpus if wish.cpus is not None else float(min(threads + 1, here.cpus))
    if not 0 < cpus <= here.cpus:
        raise UsageError(f"cpus is {cpus:g}", hint=f"{here.name} has {here.cpus}")
    return Limits(
        memory_mib=memory if profile.memory else None, cpus=cpus if profile.cpus else None, pids=profile.pids
    )


def _profile(wish: Wish) -> Profile:
    """The isolation that is asked for.

    Raises:
        UsageError: If options do not go together.
    """
    if wish.backend == "native" and (given := wish.container_only()):
        raise UsageError(
            f"a native server has no limits, no image, no isolation, and nobody to start it anew: "
            f"{', '.join(given)} asked for some",
            hint="these options go with --container",
        )
    if parse_restart(wish.restart) and wish.expose is not None:
        raise UsageError(
            "the endpoint for other tools ends with the server, and is not started anew",
            hint="leave --expose out, or --restart",
        )
    if wish.expose is not None and not 0 <= wish.expose <= _LAST_PORT:
        raise UsageError(f"expose is {wish.expose}", hint="give a port, or 0 for any that is free")
    return compose(
        wish.profile or "sealed",
        network=wish.network,
        read_only=None if wish.root is None else wish.root == "read-only",
        user=wish.user,
        pids=wish.pids,
        gpus=wish.gpus,
        expose=wish.expose is not None,
        memory=wish.memory is not None,
        cpus=wish.cpus is not None,
    )


def _machine_room(here: Machine) -> tuple[int, str]:
    """Memory there is for a server, in MiB, and how to say so."""
    return here.usable_mib, f"{here.name} can give {here.usable_mib} MiB of its {here.total_mib} MiB now"


def _room(wish: Wish, limits: Limits, here: Machine) -> tuple[int, str]:
    """The same for a container; a limit that was asked for bounds it.

    Raises:
        MemoryFitError: If that is more than the machine has.
    """
    if wish.memory is None or limits.memory_mib is None:
        return _machine_room(here)
    if limits.memory_mib > here.total_mib:
        raise MemoryFitError(
            f"a limit of {limits.memory_mib} MiB is more than {here.name} has ({here.total_mib} MiB)",
            hint="give less --memory",
        )
    if limits.memory_mib < here.usable_mib:
        return limits.memory_mib, f"the limit is {limits.memory_mib} MiB"
    return _machine_room(here)


def _check_fit(
    name: str, model: Anatomy, setting: fit.Setting, room: int, what: str, *, force: bool
) -> list[str]:
    """Refuse what would not fit; what to say if it does so just about.

    Raises:
        MemoryFitError: With the figures, and with what would fit.
    """
    needed = fit.need(model, setting)
    verdict = needed.verdict(room)
    if verdict == "fits":
        return []
    if verdict == "tight":
        spare = needed.resident_mib - needed.required_mib
        note = f"{name} holds up to {needed.resident_mib} MiB, and {what}: it goes, because {spare} MiB"
        return [f"{note} of that can be given up, but it loads slowly"]
    message = (
        f"{name} with {setting.options()} needs {needed.required_mib} MiB ("
        + ", ".join(f"{part} {size}" for part, size in needed.parts.items() if size)
        + f"), and {what}"
    )
    if force:
        return [f"{message}; started because of --force"]
    fitting = fit.advise(model, setting, room)
    hint = (
        f"{fitting.options()} would fit" if fitting else "use a smaller model: llmlab models --fit shows them"
    )
    raise MemoryFitError(message, hint=f"{hint}; --force starts it all the same")
