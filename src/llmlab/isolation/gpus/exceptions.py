"""What a server with a GPU has beyond the sealed profile, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator

from llmlab.isolation.gpus.access import GpuAccess
from llmlab.profiles import SEALED, Profile


def exceptions(profile: Profile, gpus: GpuAccess) -> tuple[str, ...]:
    """Each exception, and why it is there.

    Args:
        profile: The isolation asked for.
        gpus: How the container gets its GPUs.
    """
    return tuple(_exceptions(profile, gpus)) if profile.name == "gpu" else ()


def _exceptions(profile: Profile, gpus: GpuAccess) -> Iterator[str]:
    if _is_more(profile.pids, SEALED.pids):
        yield f"{profile.pids} processes and threads, since the driver's libraries start threads of their own"
    if _is_more(profile.open_files, SEALED.open_files):
        yield f"{profile.open_files} open files, since each thread's queue to the GPU takes some"
    if _is_more(profile.scratch_mib, SEALED.scratch_mib):
        yield f"a scratch directory of {profile.scratch_mib} MiB, since kernels are compiled for the card"
    if path := gpus.environment.get("CUDA_CACHE_PATH"):
        yield f"CUDA keeps these in {path}, in memory, since nothing else can be written"
    if groups := gpus.groups:
        yield f"group {', '.join(map(str, groups))}, since the GPU's device files belong to it"


def _is_more(value: int | None, usual: int | None) -> bool:
    return value is not None and usual is not None and value > usual
