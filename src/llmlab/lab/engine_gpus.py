"""What an engine that comes in a published image does with a GPU, before the layers are counted."""

from __future__ import annotations

from collections.abc import Sequence

from llmlab import engines, machine
from llmlab.errors import UsageError
from llmlab.lab import gpu_choice
from llmlab.lab.gpu_choice import Card
from llmlab.profiles import parse_gpus

# Of a GPU's memory, for PyTorch, its kernels and what it computes with; not measured. And the most that is taken.
_PYTORCH_MIB, _MOST_SHARE = 3072, 0.95


def layers(engine: engines.Engine, *, asked: str | None, gpus: str | None, image: str | None) -> str | None:
    """The layers that go onto a GPU, as far as the engine decides: a number, "all", or None.

    Args:
        engine: The program that serves.
        asked: What was asked for.
        gpus: The GPUs that its container gets, or None.
        image: The image that was named for it, or None.

    Raises:
        UsageError: If the engine cannot do what is asked for.
    """
    published = engines.image_of(engine)
    if published and published.needs_gpu:
        if asked not in {None, "all"}:
            raise UsageError(
                f"{engine.NAME} puts a model onto a GPU as a whole", hint="leave --gpu-layers out"
            )
        # Another image may be one for the CPU.
        if gpus is None and _repository(image or published.name) == _repository(published.name):
            raise UsageError(
                f"{engine.NAME} computes on a GPU, and is given none", hint=published.without_gpu
            )
        return "all" if gpus else "0"
    # What an engine of another package does with a GPU is not known.
    return asked or (None if published or engines.runs_llama_cpp(engine.NAME) else "0")


def share(engine: engines.Engine, *, gpus: str | None, vram_mib: int | None) -> float | None:
    """The share of a GPU's memory for an engine that takes a share of it: what is predicted, and its own.

    Args:
        engine: The program that serves.
        gpus: The GPUs that its container gets, or None.
        vram_mib: The GPU memory that it is predicted to take, or None.

    Returns:
        The share of each GPU, or of each slice; None for the engine's choice, where this
        machine's NVIDIA GPUs cannot be asked.
    """
    published = engines.image_of(engine)
    if not (published and published.needs_gpu and gpus and vram_mib):
        return None
    wanted = parse_gpus(gpus)
    cards = _cards() if wanted.maker == "nvidia" else ()
    # Which ones it gets need not be known: what is enough on the smallest is enough on each.
    named = [card for card in cards if _is_named(card, wanted.names)]
    totals = [card.total_mib for card in named or cards if card.total_mib and (named or not card.part)]
    return min((vram_mib + _PYTORCH_MIB) / min(totals), _MOST_SHARE) if totals else None


def _cards() -> tuple[Card, ...]:
    """This machine's NVIDIA GPUs and their slices, as far as they answer."""
    found = machine.gpus()
    return gpu_choice.nvidia(machine.answering_gpus() if found is None else dict(enumerate(found)), {})


def _is_named(card: Card, names: Sequence[str]) -> bool:
    return any(gpu_choice.is_called(card, name) for name in names)


def _repository(name: str) -> str:
    return name.partition("@")[0].rpartition(":")[0] or name
