"""Whether a GPU has fallen off the bus: one that is asked for before a start, or one that a server was given."""

from __future__ import annotations

from llmlab import nvml
from llmlab.errors import BackendError, UsageError
from llmlab.machine import SomeGpus
from llmlab.profiles import GpuRequest
from llmlab.specs import Record

_REMEDY = "sudo dmesg | grep -i xid says why; sudo reboot mostly brings it back"


def told(record: Record) -> str:
    """What to say if a GPU of a server's has fallen off the bus; "" if none is known to have.

    Args:
        record: The server.
    """
    if record.gpus is None or not record.gpus.ids or not nvml.hold():
        return ""
    try:
        gone = [gpu for gpu in record.gpus.ids if _is_gone(gpu)]
    finally:
        nvml.release()
    return f"its GPU is lost: {', '.join(gone)}; sudo dmesg | grep Xid says why" if gone else ""


def before(request: GpuRequest, seen: SomeGpus | None) -> BackendError | UsageError | None:
    """Why a start cannot have the NVIDIA GPUs that it asks for; None if nothing like that is known.

    Args:
        request: What is asked for.
        seen: The GPUs of this machine, not all of which answer; None if there is no driver to ask.
    """
    if seen is None:
        refused = nvml.refusal()
        return refused and BackendError(
            f"NVIDIA's driver is installed here, and cannot be asked: {refused[0]}", hint=refused[1]
        )
    if not seen.lost:
        return None
    others = [f"device={number}" for number in seen.answering]
    instead = f"; or take one that answers: --gpus {' or '.join(others)}" if others else ""
    if meant := _meant(request, seen):
        return BackendError(f"a GPU that is asked for is lost: {meant}", hint=f"{_REMEDY}{instead}")
    missing = [name for name in request.names if not _is_known(name, seen)]
    if missing:
        return UsageError(
            f"there is no GPU {', '.join(missing)} that answers, and {_described(seen)}",
            hint=f"{_REMEDY}{instead}",
        )
    if (request.count or 0) > len(seen.answering):
        return BackendError(
            f"{request.count} GPU{'s were' if request.count != 1 else ' was'} asked for, and "
            f"{len(seen.answering) or 'none'} of this machine's answer{'s' if len(seen.answering) < 2 else ''}: "  # noqa: PLR2004
            f"{_described(seen)}",
            hint=f"{_REMEDY}{instead}",
        )
    return None


def silent() -> BackendError:
    """The error for a driver that was there and no longer answers."""
    return BackendError(
        "NVIDIA's driver no longer answers",
        hint="sudo dmesg | grep -i -e nvrm -e xid says why; sudo reboot, or sudo modprobe nvidia if it was unloaded",
    )


def none_left() -> BackendError:
    """The error for a driver that knows of no GPU."""
    return BackendError(
        "NVIDIA's driver is there, and knows of no GPU",
        hint=f"one that was there before is lost: {_REMEDY}",
    )


def note(seen: SomeGpus) -> str:
    """What to say of those that are lost, where a start goes on without them."""
    return f"{_described(seen)}; {_REMEDY}"


def _meant(request: GpuRequest, seen: SomeGpus) -> str:
    """Those of a request that are lost, with the reason; "" if none is."""
    if request.all:
        return ", ".join(f"{number} ({why})" for number, why in seen.lost.items())
    found = []
    for name in request.names:
        number = name.partition(":")[0]
        if number.isdecimal() and int(number) in seen.lost:
            found.append(f"{name} ({seen.lost[int(number)]})")
        elif not number.isdecimal() and not _is_known(name, seen) and _is_lost(name):
            found.append(f"{name} (the driver knows it and does not reach it)")
    return ", ".join(found)


def _described(seen: SomeGpus) -> str:
    return ", ".join(f"GPU {number} is lost ({why})" for number, why in seen.lost.items())


def _is_known(name: str, seen: SomeGpus) -> bool:
    """Whether a name is that of a GPU, or a slice, that answers; of numbers that is looked at by whoever chooses."""
    ids = [gpu.uuid or "" for gpu in seen.answering.values()]
    ids += [part.uuid or "" for gpu in seen.answering.values() for part in gpu.slices]
    return name[0].isdecimal() or any(each.startswith(name) for each in ids)


def _is_lost(uuid: str) -> bool:
    if not nvml.hold():
        return False
    try:
        return nvml.is_lost(uuid)
    except nvml.GpuGoneError:
        return False
    finally:
        nvml.release()


def _is_gone(gpu: str) -> bool:
    try:
        nvml.query("nvmlDeviceGetMemoryInfo", nvml.handle_of(nvml.Device(0, uuid=gpu)))
    except nvml.GpuGoneError:
        return True
    return False
