"""Which GPUs a server gets: those that were named, or those with the most memory that nobody has or waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmlab.errors import UsageError
from llmlab.isolation.gpus import RenderNode
from llmlab.machine import Gpu
from llmlab.profiles import GpuRequest

Reserved = Mapping[str, Mapping[str, int]]
"""A GPU's id → server → GPU memory in MiB that it was promised and does not hold yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU, or a MIG slice of one.

    Attributes:
        id: What it is known by for ever, or its number where that is not told.
        word: What it is called in a request.
        title: What it is called in messages.
        total_mib: Its memory; None if that is not told.
        free_mib: What of it is free; likewise.
        reserved: Server → what of that it was promised.
        slices: What can be asked for in place of it, where it is cut.
        part: Whether it is such a slice.
        exact: Whether it is asked for by its id: CUDA knows slices by their UUIDs only, and
            numbers GPUs anew where one is lost.
    """

    id: str
    word: str
    title: str
    free_mib: int | None
    total_mib: int | None = None
    reserved: Mapping[str, int] = field(default_factory=dict)
    slices: tuple[str, ...] | None = None
    part: bool = False
    exact: bool = False

    @property
    def left_mib(self) -> int | None:
        """What of its memory nobody has, and nobody was promised."""
        return None if self.free_mib is None else max(0, self.free_mib - sum(self.reserved.values()))

    def told(self) -> str:
        """What is left of it, and who was promised the rest."""
        promised = ", ".join(f"{mib} by {server}" for server, mib in self.reserved.items() if mib)
        free = f"{self.title} has {self.free_mib} MiB free"
        return free + (f", of which are reserved: {promised}" if promised else "")


def nvidia(found: Mapping[int, Gpu], reserved: Reserved, *, some: bool = False) -> tuple[Card, ...]:
    """NVIDIA's GPUs, each followed by its slices.

    Args:
        found: The machine's, by number.
        reserved: What servers were promised.
        some: Whether there are others, which are lost.
    """
    cards = []
    for index, gpu in found.items():
        parts = [
            Card(
                id=part.uuid or f"{index}:{part.index}",
                word=f"{index}:{part.index}",
                title=f"slice {index}:{part.index} of {gpu.name}",
                free_mib=part.free_mib,
                total_mib=part.total_mib,
                reserved=reserved.get(part.uuid or f"{index}:{part.index}", {}),
                part=True,
                exact=True,
            )
            for part in gpu.slices
        ]
        cards.append(
            Card(
                id=gpu.uuid or str(index),
                word=str(index),
                title=f"GPU {index} ({gpu.name})",
                free_mib=gpu.free_mib,
                total_mib=gpu.total_mib,
                reserved=reserved.get(gpu.uuid or str(index), {}),
                slices=tuple(f"device={part.word} ({part.free_mib} MiB free)" for part in parts)
                if gpu.mig
                else None,
                exact=some and gpu.uuid is not None,
            )
        )
        cards += parts
    return tuple(cards)


def render(nodes: Sequence[RenderNode], reserved: Reserved) -> tuple[Card, ...]:
    """Those of AMD or of Intel.

    Args:
        nodes: Their device files.
        reserved: What servers were promised.
    """
    return tuple(
        Card(
            id=node.address,
            word=str(index),
            title=f"{node.maker.upper() if node.maker == 'amd' else node.maker.title()} GPU {index} ({node.inside})",
            free_mib=node.free_mib,
            reserved=reserved.get(node.address, {}),
        )
        for index, node in enumerate(nodes)
    )


def choose(
    request: GpuRequest, cards: Sequence[Card], users: Mapping[str, Sequence[str]]
) -> tuple[Card, ...]:
    """The GPUs that are meant.

    Args:
        request: What was asked for.
        cards: Those that there are.
        users: A GPU's id → servers that have it.

    Raises:
        UsageError: If there are no such, one is cut and no slice is named, or a slice is taken.
    """
    whole = [card for card in cards if not card.part]
    if request.all:
        return tuple(whole)
    if request.count is not None:
        return _emptiest(request.count, whole)
    named = {name: _named(name, cards) for name in request.names}
    if missing := [name for name, card in named.items() if card is None]:
        known = ", ".join(card.title for card in cards)
        # A UUID is seldom made up: a GPU that was there when the driver was started may have been lost since.
        earlier = "; one that was there before is lost: sudo dmesg | grep -i xid says why"
        lost = "" if all(name[0].isdecimal() for name in missing) else earlier
        raise UsageError(f"there is no GPU {', '.join(missing)}", hint=f"this machine has {known}{lost}")
    found = tuple(card for card in named.values() if card)
    for card in found:
        _check(card, users)
    return found


def is_called(card: Card, name: str) -> bool:
    """Whether a name is a GPU's number or UUID; as CUDA takes them, the beginning of a UUID is enough.

    Args:
        card: The GPU, or a slice.
        name: What it is called in a request.
    """
    return name == card.word or (not name[0].isdecimal() and card.id.startswith(name))


def words(request: GpuRequest, chosen: Sequence[Card]) -> str:
    """What is asked of the container engine, or of a native server's drivers.

    Args:
        request: What was asked for.
        chosen: What was chosen.
    """
    if request.all:
        return str(request)
    names = request.names or tuple(card.word for card in chosen)
    names = tuple(card.id if card.exact else name for name, card in zip(names, chosen, strict=True))
    return str(GpuRequest(maker=request.maker, names=names))


def _emptiest(count: int, whole: Sequence[Card]) -> tuple[Card, ...]:
    usable = [card for card in whole if card.slices is None]
    if len(usable) >= count:
        return tuple(sorted(usable, key=lambda card: card.left_mib or 0, reverse=True)[:count])
    cut = [card for card in whole if card.slices is not None]
    if cut and not usable:
        raise _is_cut(cut[0])
    has = ", ".join(card.title for card in usable) or "none"
    raise UsageError(f"{count} GPUs were asked for", hint=f"this machine has {has}")


def _named(name: str, cards: Sequence[Card]) -> Card | None:
    exact = next((card for card in cards if name in {card.word, card.id}), None)
    near = [card for card in cards if is_called(card, name)]
    return exact or (near[0] if len(near) == 1 else None)


def _check(card: Card, users: Mapping[str, Sequence[str]]) -> None:
    if card.slices is not None:
        raise _is_cut(card)
    if card.part and (taken := users.get(card.id)):
        raise UsageError(
            f"{card.title} is taken by {', '.join(taken)}",
            hint=f"a slice is one server's: stop {taken[0]}, or name another",
        )


def _is_cut(card: Card) -> UsageError:
    hint = ", ".join(card.slices or ()) or "it has none: sudo nvidia-smi mig -cgi 9 -C makes one"
    return UsageError(
        f"{card.title} is cut into MIG slices, and none is named", hint=f"such as --gpus {hint}"
    )
