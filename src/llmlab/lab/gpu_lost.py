"""Whether a GPU of a server's has fallen off the bus."""

from __future__ import annotations

from llmlab import nvml
from llmlab.specs import Record


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


def _is_gone(gpu: str) -> bool:
    try:
        nvml.query("nvmlDeviceGetMemoryInfo", nvml.handle_of(nvml.Device(0, uuid=gpu)))
    except nvml.GpuGoneError:
        return True
    return False
