"""Memory and disk, against what a workshop's models need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmlab import render
from llmlab.checkup.facts import Facts
from llmlab.checkup.rows import Row
from llmlab.errors import LabError, UsageError
from llmlab.workshop.preflighting.lines import BOTH, Line, one_command

_MIB = 1024 * 1024
_SLOTS = 4  # as `start` has it
# The engine's image, logs, and what notebooks write; and what compiling llama.cpp takes meanwhile.
_SPARE_BYTES, _BUILD_BYTES = 200_000_000, 1_000_000_000
_PLACES = {"models": "models", "engines": "llmlab's cache", "images": "container images"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeed:
    """What one of the workshop's models needs, as `start` would serve it.

    Attributes:
        reference: The model.
        required_mib: Memory it cannot do without, in MiB; None if not known.
        resident_mib: Memory it holds at most, in MiB; likewise.
        fetch_bytes: Bytes that are still to be fetched or written; 0 if it is here.
        place: The disk they go to: "models" or "engines"; "" if nowhere.
        shorter: The options with which it fits where it does not fit otherwise; "" if none do.
        error: Why nothing is known of it; "" otherwise.
    """

    reference: str
    required_mib: int | None = None
    resident_mib: int | None = None
    fetch_bytes: int | None = 0
    place: str = ""
    shorter: str = ""
    error: str = ""


def needs(models: str, room_mib: int | None) -> tuple[ModelNeed, ...]:
    """What each of the models needs.

    Args:
        models: References, parted by commas.
        room_mib: The memory there is, in MiB; None if not known.

    Raises:
        UsageError: If one of them names nothing.
    """
    wanted = [each.strip() for each in models.split(",") if each.strip()]
    if not wanted:
        raise UsageError("no model is named", hint="write them as --models tiny,synthetic:llama-3.2-1b:Q4_0")
    return tuple(_need(reference, room_mib) for reference in dict.fromkeys(wanted))


def _need(reference: str, room_mib: int | None) -> ModelNeed:
    try:
        # Here and not above: on Windows they cannot be imported, and there the preflight says so.
        from llmlab import weights  # noqa: PLC0415
        from llmlab.lab import planning  # noqa: PLC0415
        from llmlab.weights import fit  # noqa: PLC0415
    except ImportError as error:
        return ModelNeed(reference=reference, fetch_bytes=None, error=str(error))

    try:
        anatomy = weights.foresee(reference)
        place = _still_missing(reference)
    except UsageError:
        raise
    except LabError as error:
        return ModelNeed(reference=reference, fetch_bytes=None, error=error.message)
    setting = fit.Setting(context=planning.default_context(anatomy), slots=_SLOTS)
    needed = fit.need(anatomy, setting)
    shorter = ""
    if room_mib is not None and needed.verdict(room_mib) == "too big":
        fitting = fit.advise(anatomy, setting, room_mib)
        shorter = fitting.options() if fitting else ""
    return ModelNeed(
        reference=reference,
        required_mib=needed.required_mib,
        resident_mib=needed.resident_mib,
        fetch_bytes=anatomy.file_bytes if place else 0,
        place=place,
        shorter=shorter,
    )


def _still_missing(reference: str) -> str:
    """The disk that a model is still to be brought to; "" if it is here."""
    from llmlab.weights import catalog, hub, synthetic  # noqa: PLC0415 - as above

    listed = catalog.find(reference)
    actual = listed[0].at(listed[1]) if listed else reference
    if actual.startswith("synthetic:"):
        return "" if synthetic.locate(*synthetic.parse(actual)).exists() else "engines"
    if actual.startswith("hf:"):
        return "" if hub.find(hub.parse(actual)) else "models"
    return ""


def memory(facts: Facts, rows: Mapping[str, Row], wanted: tuple[ModelNeed, ...]) -> Line:
    """Whether each of the models goes into the memory that is free now."""
    room = facts.memory.get("usable")
    if room is None:
        return Line(name="Memory", state="unknown", seen=rows["memory"].seen)
    seen = f"{render.mib_text(room)} free"
    if unknown := [need for need in wanted if need.error]:
        first = unknown[0]
        return Line(
            name="Memory",
            state="unknown",
            seen=f"{seen}; what {first.reference} needs is not known: {first.error}",
            fix=f"llmlab pull {first.reference}" if first.reference.startswith("hf:") else "llmlab models",
            topic="a model that is missing",
        )
    largest = max(wanted, key=lambda need: need.required_mib or 0)
    what = f"{largest.reference} needs {'the most, ' if len(wanted) > 1 else ''}{render.mib_text(largest.required_mib)}"
    if (largest.required_mib or 0) > room:
        return _too_big(rows, largest, f"{seen}; {what}")
    if trouble := _engines_memory(facts, rows, largest):
        return trouble
    if (largest.resident_mib or 0) > room:
        return Line(
            name="Memory",
            state="advice",
            seen=f"{seen}; {what}: it just goes in, and loads slowly. Close other programs",
            fix="llmlab ps --usage",
            topic="memory",
        )
    return Line(name="Memory", state="ok", seen=f"{seen}; {what}")


def _too_big(rows: Mapping[str, Row], largest: ModelNeed, seen: str) -> Line:
    if largest.shorter:
        return Line(
            name="Memory",
            state="advice",
            seen=f"{seen}: it goes in with less context. Close other programs, or start it so",
            fix=f"llmlab start {largest.reference} {largest.shorter}",
            topic="memory",
        )
    own = rows["memory"].fix if "wsl" in " ".join(rows["memory"].fix) else ("llmlab stop --all",)
    return Line(
        name="Memory",
        state="to do",
        seen=f"{seen}: too little. Close other programs and servers, or use a smaller model",
        fix=one_command(own),
        topic="memory",
        blocks=BOTH,
    )


def _engines_memory(facts: Facts, rows: Mapping[str, Row], largest: ModelNeed) -> Line | None:
    """What is wrong with the memory of a container engine in a virtual machine."""
    total = int(facts.info.get("MemTotal") or 0) // _MIB
    if facts.is_local or not total or total >= (largest.required_mib or 0):
        return None
    return Line(
        name="Memory",
        state="to do",
        seen=f"containers have {render.mib_text(total)} together; {largest.reference} needs "
        f"{render.mib_text(largest.required_mib)}",
        fix=one_command(rows["engine's memory"].fix),
        topic="the container engine's memory",
        blocks=("container",),
    )


def disk(facts: Facts, wanted: tuple[ModelNeed, ...]) -> Line:
    """Whether what is still to be fetched has room on its disk."""
    if not facts.disks:
        return Line(name="Disk", state="unknown", seen="no disk could be looked at")
    needed = {"engines": _SPARE_BYTES, "models": 0, "images": _SPARE_BYTES}
    if not facts.build.get("server"):
        needed["engines"] += _BUILD_BYTES
    for need in wanted:
        if need.place:
            needed[need.place] += need.fetch_bytes or 0
    for disk, places in _disks(facts).items():
        wants = sum(needed[place] for place in places)
        if wants > disk[0]:
            names = " and ".join(_PLACES[place] for place in places)
            return Line(
                name="Disk",
                state="to do",
                seen=f"{render.bytes_text(disk[0])} free for {names}; {render.bytes_text(wants)} are needed",
                fix="llmlab reset --downloads --dry-run",
                topic="disk",
                blocks=BOTH,
            )
    free = min(free for free, _ in _disks(facts))
    missing = sum(need.fetch_bytes or 0 for need in wanted)
    still = f"{render.bytes_text(missing)} of models are still to come" if missing else "all models are here"
    return Line(name="Disk", state="ok", seen=f"{render.bytes_text(free)} free; {still}")


def _disks(facts: Facts) -> dict[tuple[int, int], list[str]]:
    """(free bytes, size in bytes) of each disk → what goes there: equal figures are one disk."""
    found: dict[tuple[int, int], list[str]] = {}
    for place, seen in facts.disks.items():
        if place in _PLACES and (place != "images" or (facts.info and facts.is_local)):
            figures = (int(seen["free_bytes"]), int(seen["total_bytes"]))
            found.setdefault(figures, []).append(place)
    return found
