"""What of a model goes onto a GPU, onto which, and whether it has got there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from llmlab import machine
from llmlab.builds import find_build
from llmlab.errors import EngineError, MemoryFitError, UsageError
from llmlab.lab import sources
from llmlab.machine import Gpu
from llmlab.specs import BackendName, Record
from llmlab.telemetry.nvml import gpu_sources
from llmlab.weights import fit
from llmlab.weights.anatomy import Anatomy


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """What was decided.

    Attributes:
        layers: Layers that go onto a GPU; the output matrix counts as one more.
        gpus: The GPUs that the server may see: "all", indices such as "0,1", or None.
        notes: What the user should know.
    """

    layers: int = 0
    gpus: str | None = None
    notes: tuple[str, ...] = ()


def decide(
    model: Anatomy,
    setting: fit.Setting,
    place: BackendName,
    *,
    layers: str | None,
    gpus: str | None,
    name: str,
    force: bool = False,
) -> Offload:
    """Which layers go onto which GPU: by default all that fit onto the emptiest one.

    A container sees the GPUs that were asked for. A native server sees one, if llama.cpp
    here was compiled for GPUs and there is one, unless others were asked for.

    Args:
        model: What the model is made of.
        setting: How it is to be served; its own number of layers does not count.
        place: Where it runs.
        layers: What was asked for: a number, "all", or None.
        gpus: The GPUs asked for: "all", indices, or None.
        name: The model's name, for messages.
        force: Do it even if it is predicted not to fit.

    Raises:
        UsageError: If that is no number of layers, or there is no such GPU, or none can be used.
        MemoryFitError: If so many layers do not fit.
    """
    asked = _asked(layers, model)
    if asked == 0:
        return Offload()
    kinds = _compiled_for() if place == "native" else ()
    problem = _unasked(place, gpus, kinds)
    # Most machines have no GPU, and NVIDIA's library is not asked in vain.
    found = None if problem else machine.gpus()
    if problem := problem or _problem(place, gpus, kinds, found):
        if asked is None and gpus is None:
            return Offload()
        raise problem
    visible = gpus or (_emptiest(found) if found else "all")
    room = _free_mib(found, visible)
    if room is None:
        return Offload(layers=model.n_layers + 1 if asked is None else asked, gpus=visible)
    most = _most(model, setting, room)
    if asked is None:
        return Offload(layers=most, gpus=visible, notes=tuple(_partly(name, model, most, room)))
    if asked > most and not force:
        needed = fit.need(model, replace(setting, gpu_layers=asked)).vram_mib
        raise MemoryFitError(
            f"{asked} layers of {name} need {needed} MiB of GPU memory, and {room} MiB are free",
            hint=f"--gpu-layers {most} would fit; --force starts it all the same",
        )
    return Offload(layers=asked, gpus=visible)


def emptiest() -> str | None:
    """The index of the NVIDIA GPU with the most free memory; None if none is seen here."""
    found = machine.gpus()
    return _emptiest(found) if found else None


def seen(record: Record, reported: tuple[int, int] | None) -> tuple[str, ...]:
    """Whether a server runs on the GPU: only where its engine says so, and NVML shows its process there.

    Args:
        record: The server, which is ready.
        reported: Layers that the engine says it has put there, and how many there are; None if it does not say.
    """
    if not record.spec.gpu_layers:
        return ()
    held = _held_mib(record)
    if reported and reported[0] and held:
        return (
            f"on the GPU: {reported[0]} of {reported[1]} layers, and NVML shows its process with {held:.0f} MiB there",
        )
    missing = []
    if not reported:
        missing.append("the engine does not say that it has put any layer there")
    elif not reported[0]:
        missing.append("the engine has put no layer there")
    if held is None:
        missing.append("NVML does not tell which processes are there")
    elif not held:
        missing.append("NVML does not show its process there")
    cause = "" if reported or held else "; the usual cause is an engine that was compiled without GPU support"
    return (f"not known to run on the GPU, though that was asked for: {' and '.join(missing)}{cause}",)


def _asked(layers: str | None, model: Anatomy) -> int | None:
    """The number of layers.

    Raises:
        UsageError: If it is none.
    """
    if layers is None:
        return None
    if layers == "all":
        return model.n_layers + 1
    if not layers.isdecimal():
        raise UsageError(f"{layers!r} is no number of layers", hint="write all, or a number; 0 uses no GPU")
    return min(int(layers), model.n_layers + 1)


def _unasked(place: BackendName, gpus: str | None, kinds: Sequence[str]) -> UsageError | None:
    """Why no GPU can be used, as far as that is known without asking for them."""
    if place == "container" and gpus is None:
        return UsageError(
            "a container sees no GPU unless it is given one", hint="add --gpus 0, or take --profile gpu"
        )
    if place == "native" and not kinds:
        return UsageError(
            "llama.cpp here was compiled for the CPU only", hint="llmlab build --gpu cuda compiles it anew"
        )
    return None


def _problem(
    place: BackendName, gpus: str | None, kinds: Sequence[str], found: Sequence[Gpu] | None
) -> UsageError | None:
    """Why none of the GPUs that there are can be used; None if one can."""
    if place == "native" and not found and not {"hip", "metal", "vulkan"} & set(kinds):
        return UsageError("there is no NVIDIA GPU here that could be asked", hint="llmlab doctor says why")
    if found and gpus and gpus != "all":
        missing = [index for index in gpus.split(",") if int(index) >= len(found)]
        if missing:
            known = ", ".join(f"{number} ({gpu.name})" for number, gpu in enumerate(found))
            return UsageError(f"there is no GPU {', '.join(missing)}", hint=f"this machine has {known}")
    return None


def _compiled_for() -> tuple[str, ...]:
    """What the native llama.cpp can use besides the CPU; () as well if there is none."""
    with suppress(EngineError):
        return find_build().accelerators
    return ()


def _emptiest(found: Sequence[Gpu]) -> str:
    return str(max(range(len(found)), key=lambda index: found[index].free_mib))


def _free_mib(found: Sequence[Gpu] | None, visible: str) -> int | None:
    """Memory that is free on the GPUs that a server may see; None if nobody tells."""
    if not found:
        return None
    chosen = found if visible == "all" else [found[int(index)] for index in visible.split(",")]
    return sum(gpu.free_mib for gpu in chosen)


def _most(model: Anatomy, setting: fit.Setting, room_mib: int) -> int:
    """The most layers that fit."""
    counts = range(model.n_layers + 1, 0, -1)
    fitting = (n for n in counts if fit.need(model, replace(setting, gpu_layers=n)).vram_mib <= room_mib)
    return next(fitting, 0)


def _partly(name: str, model: Anatomy, layers: int, room_mib: int) -> Iterator[str]:
    if layers <= model.n_layers:
        yield (
            f"{layers} of the {model.n_layers + 1} layers of {name} fit into the {room_mib} MiB that are free on the "
            "GPU; the CPU computes the others"
        )


def _held_mib(record: Record) -> float | None:
    """What its process holds on all GPUs, in MiB; None if that cannot be seen."""
    pid = sources.server_pid(record)
    gpus = gpu_sources()
    try:
        whole = sources.gpus_in(gpus)
        if pid is None or not whole:
            return None
        held = [gpu.process_memory_mib({pid}).get(pid, 0.0) for gpu in whole]
        known = [each for each in held if each is not None]
        return sum(known) if len(known) == len(held) else None
    finally:
        for gpu in gpus:
            gpu.close()
