"""What of a model goes onto a GPU, and onto which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from llmlab import machine, nvml
from llmlab.builds import find_build
from llmlab.errors import EngineError, LabError, MemoryFitError, UsageError
from llmlab.isolation.gpus import render_nodes
from llmlab.lab import gpu_choice, gpu_lost, reservations
from llmlab.lab.gpu_choice import Card
from llmlab.profiles import GpuMaker, GpuRequest, parse_gpus
from llmlab.specs import BackendName
from llmlab.weights import fit
from llmlab.weights.anatomy import Anatomy

# What llama.cpp may be compiled for that NVIDIA's library knows nothing of.
_OTHERS = frozenset({"hip", "metal", "vulkan"})
# What it must be compiled for to use a maker's GPUs.
_KINDS: dict[GpuMaker, frozenset[str]] = {
    "nvidia": frozenset({"cuda", "vulkan"}),
    "amd": frozenset({"hip", "vulkan"}),
    "intel": frozenset({"vulkan", "sycl"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """What was decided.

    Attributes:
        layers: Layers that go onto a GPU; the output matrix counts as one more.
        gpus: The GPUs that the server may see, in words that `parse_gpus` takes, or None.
        ids: What these are known by: UUIDs where the driver tells them, or numbers; none
            where nobody tells which they are.
        notes: What the user should know.
    """

    layers: int = 0
    gpus: str | None = None
    ids: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def may_use(place: BackendName, gpus: str | None) -> bool:
    """Whether a server could get a GPU of this machine at all.

    Args:
        place: Where it runs.
        gpus: The GPUs asked for, or None.
    """
    return _unasked(place, gpus, _compiled_for() if place == "native" else ()) is None


def decide(
    model: Anatomy,
    setting: fit.Setting,
    place: BackendName,
    *,
    layers: str | None,
    gpus: str | None,
    name: str,
    force: bool = False,
    elsewhere: bool = False,
) -> Offload:
    """Which layers go onto which GPU: by default all that fit onto the emptiest one.

    A container sees the GPUs that were asked for. A native server sees one, if llama.cpp
    here was compiled for GPUs and there is one, unless others were asked for. What other
    servers were promised and do not hold yet counts as theirs.

    Args:
        model: What the model is made of.
        setting: How it is to be served; its own number of layers does not count.
        place: Where it runs.
        layers: What was asked for: a number, "all", or None.
        gpus: The GPUs asked for, in words that `parse_gpus` takes, or None.
        name: The model's name, for messages.
        force: Do it even if it is predicted not to fit.
        elsewhere: Whether it runs on another machine, whose GPUs are not seen from here.

    Raises:
        UsageError: If that is no number of layers, or there is no such GPU, or none can be used.
        BackendError: If the driver does not answer, or a GPU that is asked for is lost.
        MemoryFitError: If so many layers do not fit, or none.
    """
    asked = _asked(layers, model)
    if asked == 0:
        return Offload()
    kinds = _compiled_for() if place == "native" else ()
    request = parse_gpus(gpus) if gpus else GpuRequest(count=1)
    problem: LabError | None = _unasked(place, gpus, kinds)
    # Most machines have no GPU, and NVIDIA's library is not asked in vain.
    cards, doubt, note = ((), None, "") if problem or elsewhere else _cards(request)
    if place == "native" and not problem:
        # Where nothing was asked for, a driver of NVIDIA's is in nobody's way that computes on other GPUs.
        doubt = None if gpus is None and _OTHERS & set(kinds) else doubt
        problem = doubt or _not_natively(gpus, request.maker, kinds, cards)
    problem = problem or doubt
    if problem:
        if asked is None and gpus is None:
            return Offload(notes=(f"no GPU is used. {doubt.message}; {doubt.hint}",) if doubt else ())
        raise problem
    if not cards:
        # Nobody tells which there are: the container engine is asked, or the drivers' libraries.
        words = str(request) if gpus else "all"
        return Offload(layers=model.n_layers + 1 if asked is None else asked, gpus=words)
    chosen = gpu_choice.choose(request, cards, reservations.users())
    found = _fitted(model, setting, chosen, asked=asked, name=name, force=force, must=gpus is not None)
    return replace(
        found,
        gpus=gpu_choice.words(request, chosen),
        ids=tuple(card.id for card in chosen),
        notes=(*found.notes, *([note] if note else [])),
    )


def _fitted(
    model: Anatomy,
    setting: fit.Setting,
    chosen: Sequence[Card],
    *,
    asked: int | None,
    name: str,
    force: bool,
    must: bool,
) -> Offload:
    """How many layers go onto the GPUs that were chosen.

    Raises:
        MemoryFitError: If so many do not fit, or none does onto a GPU that was asked for.
    """
    left = [card.left_mib for card in chosen]
    if None in left:
        return Offload(layers=model.n_layers + 1 if asked is None else asked)
    room = sum(mib for mib in left if mib is not None)
    most = _most(model, setting, room)
    told = "; ".join(card.told() for card in chosen)
    if asked is None and not most and must and not force:
        raise MemoryFitError(
            f"not one layer of {name} fits: {told}",
            hint="stop a server that is there (ps shows them), ask for another GPU, or leave it out: --gpu-layers 0",
        )
    if asked is None:
        return Offload(layers=most, notes=tuple(_partly(name, model, most, told, room)))
    if asked > most and not force:
        needed = fit.need(model, replace(setting, gpu_layers=asked)).vram_mib
        raise MemoryFitError(
            f"{asked} layers of {name} need {needed} MiB of GPU memory, and {room} MiB are left: {told}",
            hint=f"--gpu-layers {most} would fit; --force starts it all the same",
        )
    return Offload(layers=asked)


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
            "a container sees no GPU unless it is given one", hint="add --gpus 1, or take --profile gpu"
        )
    if place == "native" and not kinds:
        return UsageError(
            "llama.cpp here was compiled for the CPU only", hint="llmlab build --gpu cuda compiles it anew"
        )
    return None


def _not_natively(
    gpus: str | None, maker: GpuMaker, kinds: Sequence[str], cards: Sequence[Card]
) -> UsageError | None:
    """Why a native server cannot use the GPUs of a maker; None if it can."""
    if gpus is not None and not _KINDS[maker] & set(kinds) and "metal" not in kinds:
        return UsageError(
            f"llama.cpp here was compiled for {', '.join(kinds)}, which is not for GPUs of {maker}",
            hint=f"llmlab build --gpu {min(_KINDS[maker])} compiles it anew",
        )
    if not cards and not _OTHERS & set(kinds):
        return UsageError("there is no NVIDIA GPU here that could be asked", hint="llmlab doctor says why")
    return None


def _cards(request: GpuRequest) -> tuple[tuple[Card, ...], LabError | None, str]:
    """The GPUs of this machine, as far as they are told; why those asked for cannot be had; what to say otherwise."""
    if request.maker != "nvidia":
        nodes = [node for node in render_nodes() if node.maker == request.maker]
        return gpu_choice.render(nodes, reservations.outstanding()) if nodes else (), None, ""
    if found := machine.gpus():
        return gpu_choice.nvidia(dict(enumerate(found)), reservations.outstanding()), None, ""
    if found is not None:
        return (), gpu_lost.none_left(), ""
    try:
        seen = machine.some_gpus()
    except nvml.GpuGoneError:
        return (), gpu_lost.silent(), ""
    doubt = gpu_lost.before(request, seen)
    if doubt or not seen or not seen.lost:
        return (), doubt, ""
    return (
        gpu_choice.nvidia(seen.answering, reservations.outstanding(), some=True),
        None,
        gpu_lost.note(seen),
    )


def _compiled_for() -> tuple[str, ...]:
    """What the native llama.cpp can use besides the CPU; () as well if there is none."""
    with suppress(EngineError):
        return find_build().accelerators
    return ()


def _most(model: Anatomy, setting: fit.Setting, room_mib: int) -> int:
    """The most layers that fit."""
    counts = range(model.n_layers + 1, 0, -1)
    fitting = (n for n in counts if fit.need(model, replace(setting, gpu_layers=n)).vram_mib <= room_mib)
    return next(fitting, 0)


def _partly(name: str, model: Anatomy, layers: int, told: str, room_mib: int) -> Iterator[str]:
    if layers <= model.n_layers:
        yield (
            f"{layers} of the {model.n_layers + 1} layers of {name} fit into the {room_mib} MiB that are left on the "
            f"GPU, the CPU computes the others: {told}"
        )
