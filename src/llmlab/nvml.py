"""The one gate to NVML, NVIDIA's library for what its driver knows.

Most machines have no such driver: the package is imported only when somebody asks,
and a missing package or driver is an answer, not an error.

    if nvml.hold():
        try:
            count = nvml.query("nvmlDeviceGetCount")
        finally:
            nvml.release()
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

# NVML's error codes, as nvml.h numbers them.
_UNINITIALIZED, _NOT_LOADED, _NO_LIBRARY, _OTHER_VERSION = 1, 9, 12, 18
_LOST, _RESET_REQUIRED, _NO_SUCH_GPU = 15, 16, 28
# What the driver says of a GPU that it does not open, although it counts it.
_UNREACHABLE = {
    8: "its power cables are not attached",
    10: "the kernel sees a problem with its interrupts",
    15: "it has fallen off the bus",
    16: "it has to be reset",
    28: "it has gone",
    999: "the driver does not say why",
}
# Why a driver that is installed cannot be asked, and what to do about that.
_REFUSALS = {
    9: ("it is not loaded", "sudo modprobe nvidia; after an update of the kernel, install the driver again"),
    15: ("a GPU has fallen off the bus", "sudo dmesg | grep -i xid says why; sudo reboot"),
    18: ("its libraries are not those of the driver in the kernel, as after an update", "sudo reboot"),
    999: ("it does not say why", "sudo dmesg | grep -i nvrm says more; sudo reboot"),
}
_DRIVER_GONE = frozenset({_UNINITIALIZED, _NOT_LOADED, _NO_LIBRARY, _OTHER_VERSION})
_GPU_GONE = frozenset({_LOST, _RESET_REQUIRED, _NO_SUCH_GPU})
# How a field's value is stored: nvml.h's numbers, and the union's members.
_STORED_AS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


class GpuGoneError(Exception):
    """A GPU, or the whole driver, no longer answers. It may come back: try again later."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a part of one that MIG (Multi-Instance GPU) has made.

    Attributes:
        index: The GPU's number when it was listed.
        mig: The part's number on that GPU; None for the GPU itself.
        uuid: What it is known by for ever. Numbers change when a GPU falls off the bus.
    """

    index: int
    mig: int | None = None
    uuid: str | None = None


@dataclass(slots=True)
class _State:
    """What all users of this process share.

    Attributes:
        users: How many hold it.
        calls: How many calls are in progress.
        initialized: Whether NVML owes us a shutdown.
        fresh: Whether it can be asked as it is; otherwise it is started anew first.
        starts: How often it has been started.
        refused: The error with which the last attempt to start it has ended; None without one.
        handles: What NVML knows devices by, until it is started anew.
    """

    users: int = 0
    calls: int = 0
    initialized: bool = False
    fresh: bool = False
    starts: int = 0
    refused: int | None = None
    handles: dict[Device, Any] = field(default_factory=dict)


_lock = threading.Lock()
_state = _State()


def hold() -> bool:
    """Begin to use NVML; the first user starts it.

    Returns:
        Whether there is an NVML to ask. If so, `release` has to follow; if not
        (no package, no driver, no permission), it must not.
    """
    with _lock:
        if not _start():
            return False
        _state.users += 1
        return True


def release() -> None:
    """End what `hold` began; the last user shuts NVML down. It waits for nobody's call."""
    with _lock:
        _state.users -= 1
        # Under somebody's feet it must not be shut down: that one does it at the end of the call.
        if not _state.users and not _state.calls:
            _stop()


def renew() -> None:
    """Have NVML started anew before the next question: only so does it find a GPU that came back.

    It does nothing while a call is in progress in another thread.
    """
    with _lock:
        if not _state.calls:
            _forget()


def query(function: str, *arguments: Any) -> Any:
    """What one of pynvml's functions says, such as "nvmlDeviceGetName".

    It may hang as long as the driver does.

    Args:
        function: Its name.
        arguments: Its arguments.

    Returns:
        Its answer; None for what is not supported, not permitted, not there in this
        driver's or package's version, or otherwise not told, and if nobody holds NVML.

    Raises:
        GpuGoneError: If the GPU is lost, or the driver gone.
    """
    answer, error = _asked(function, arguments)
    _raise_if_gone(error)
    return answer


def refusal() -> tuple[str, str] | None:
    """Why a driver that is installed could not be asked when that was last tried, and what to do about it.

    Returns:
        Both in words; None if it could be asked, or none is installed, or this user may not ask.
    """
    return _REFUSALS.get(_state.refused or 0)


def unreachable(index: int) -> str:
    """Why the driver does not open a GPU that it counts; "" if it does, or does not for other reasons.

    Args:
        index: The GPU's number.

    Raises:
        GpuGoneError: If the driver is gone.
    """
    handle, error = _asked("nvmlDeviceGetHandleByIndex", (index,))
    if handle and error is None:
        error = _asked("nvmlDeviceGetMemoryInfo", (handle,))[1]
        # A GPU that is there may not tell its memory, for no reason that is known.
        error = error if error in _GPU_GONE | _DRIVER_GONE else None
    if error in _DRIVER_GONE:
        _raise_if_gone(error)
    return _UNREACHABLE.get(error or 0, "")


def is_lost(uuid: str) -> bool:
    """Whether the driver knows a GPU of that UUID and cannot reach it.

    Args:
        uuid: The GPU's, or a slice's.

    Raises:
        GpuGoneError: If the driver is gone.
    """
    error = _asked("nvmlDeviceGetHandleByUUID", (uuid,))[1]
    if error in _DRIVER_GONE:
        _raise_if_gone(error)
    return error in _UNREACHABLE


def _asked(function: str, arguments: Sequence[Any]) -> tuple[Any, int | None]:
    """An answer of NVML's, and the number of its error; both are None if nobody holds it, or it has no such function.

    Raises:
        GpuGoneError: If it cannot be started again.
    """
    with _lock:
        if not _state.users:
            return None, None
        if not _start():
            raise GpuGoneError("the driver does not answer")
        _state.calls += 1
    try:
        return getattr(_package(), function)(*arguments), None
    except Exception as error:  # noqa: BLE001 - NVML's errors, an older pynvml or driver: not told
        return None, getattr(error, "value", None)
    finally:
        with _lock:
            _state.calls -= 1
            if not _state.users and not _state.calls:
                _stop()


def field_value(handle: Any, number: int) -> float | None:
    """One of the numbered fields (NVML_FI_DEV_…); None where it is not told.

    Args:
        handle: The device's, from `handle_of`.
        number: The field.

    Raises:
        GpuGoneError: If the GPU is lost, or the driver gone.
    """
    told = query("nvmlDeviceGetFieldValues", handle, [number])
    if told is None:
        return None
    # The call succeeds although the field has an error of its own.
    if told[0].nvmlReturn:
        _raise_if_gone(told[0].nvmlReturn)
        return None
    member = _STORED_AS.get(told[0].valueType)
    return None if member is None else float(getattr(told[0].value, member))


def devices() -> tuple[Device, ...] | None:
    """The GPUs, each followed by its MIG devices; None where NVML does not say how many there are.

    What cannot be opened now is left out.

    Raises:
        GpuGoneError: If the driver is gone.
    """
    count = query("nvmlDeviceGetCount")
    if count is None:
        return None
    found: list[Device] = []
    for index in range(count):
        with suppress(GpuGoneError):
            if handle := query("nvmlDeviceGetHandleByIndex", index):
                found.append(Device(index, uuid=_uuid(handle)))
                found.extend(_parts(index, handle))
    return tuple(found)


def handle_of(device: Device) -> Any:
    """What NVML's functions take for a device; looked up once.

    Raises:
        GpuGoneError: If there is no such device now.
    """
    with _lock:
        handle, starts = _state.handles.get(device), _state.starts
    if not handle:
        if device.uuid is not None:
            handle = query("nvmlDeviceGetHandleByUUID", device.uuid)
        else:
            handle = query("nvmlDeviceGetHandleByIndex", device.index)
            if handle and device.mig is not None:
                handle = query("nvmlDeviceGetMigDeviceHandleByIndex", handle, device.mig)
        if not handle:
            raise GpuGoneError("there is no such GPU now")
        with _lock:
            # What was true before another thread had it started anew need not be true now.
            if _state.fresh and _state.starts == starts:
                _state.handles[device] = handle
    return handle


def _package() -> Any:
    """The package pynvml."""
    import pynvml  # noqa: PLC0415 - only where somebody asks for GPUs

    return pynvml


def _start() -> bool:
    """Start NVML if it has to be; whether it can be asked then. With the lock held."""
    if _state.fresh:
        return True
    if _state.calls:
        return False  # it cannot be shut down first: someone is in it
    _stop()
    try:
        _package().nvmlInit()
    except Exception as error:  # noqa: BLE001 - no package, no driver, a driver of another kind: not known
        _state.refused = getattr(error, "value", None)
        return False
    _state.refused = None
    _state.initialized = _state.fresh = True
    _state.starts += 1
    return True


def _stop() -> None:
    """Shut NVML down if it runs. With the lock held, and nobody in a call."""
    _forget()
    if _state.initialized:
        _state.initialized = False
        with suppress(Exception):
            _package().nvmlShutdown()


def _forget() -> None:
    """Trust nothing that NVML has told so far. With the lock held."""
    _state.fresh = False
    _state.handles.clear()


def _raise_if_gone(code: Any) -> None:
    """Tell a GPU or a driver that is gone from what is merely not told.

    Raises:
        GpuGoneError: If the code means that.
    """
    if code in _DRIVER_GONE:
        with _lock:
            _forget()
        raise GpuGoneError("the driver does not answer")
    if code in _GPU_GONE:
        raise GpuGoneError("the GPU is lost")


def _parts(index: int, handle: Any) -> Iterator[Device]:
    """The MIG devices of a GPU.

    Raises:
        GpuGoneError: If the GPU is lost.
    """
    mode = query("nvmlDeviceGetMigMode", handle)
    most = query("nvmlDeviceGetMaxMigDeviceCount", handle) if mode and mode[0] else None
    for mig in range(most or 0):
        if part := query("nvmlDeviceGetMigDeviceHandleByIndex", handle, mig):
            yield Device(index, mig, _uuid(part))


def _uuid(handle: Any) -> str | None:
    """A device's UUID."""
    told = query("nvmlDeviceGetUUID", handle)
    return None if told is None else str(told)
