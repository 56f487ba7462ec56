"""Which GPUs a native server sees, in the variables of the drivers' libraries."""

from __future__ import annotations

from llmlab.profiles import parse_gpus

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")


def environment(gpus: str | None) -> dict[str, str]:
    """What tells the drivers' libraries which GPUs there are.

    Without that even a server with all its layers on the CPU takes memory on the first GPU.

    Args:
        gpus: The GPUs, in words that `parse_gpus` takes; "" for none, None for all.
    """
    request = parse_gpus(gpus) if gpus else None
    if gpus is None or (request and request.all):
        return {}
    names: tuple[str, ...] = ()
    if request:
        names = request.names or tuple(map(str, range(request.count or 0)))
    # Vulkan knows indices only, and those of its own order.
    numbered = all(name.isdecimal() for name in names)
    variables = _VISIBLE if numbered else _VISIBLE[:1]
    # CUDA numbers the quickest first, NVML and nvidia-smi by their place on the bus.
    return {**dict.fromkeys(variables, ",".join(names)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
