"""How a server's container gets its GPUs from the engine at hand."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmlab import nvml
from llmlab.backends.docker_api import DockerApi
from llmlab.errors import ImageError
from llmlab.isolation.gpus import GpuAccess, access, asked, driver_files, exceptions, unmet
from llmlab.isolation.profile import SCRATCH
from llmlab.profiles import Profile, parse_gpus
from llmlab.specs import GivenGpus


def find(api: DockerApi, profile: Profile, *, image: str, libraries_to: str) -> GpuAccess:
    """The way that an engine has.

    Args:
        api: The engine.
        profile: The isolation asked for, with GPUs.
        image: The image that is started.
        libraries_to: Where its programs look for libraries.

    Raises:
        UsageError: If there are no such GPUs, or the engine cannot hand out these.
        BackendError: If it has no way to hand out any.
        ImageError: If the driver is too old for the image.
    """
    words = profile.gpus or ""
    if parse_gpus(words).maker == "nvidia" and api.is_local():
        _check_driver(api, image)
    return access(
        words,
        api.info,
        driver_files() if api.is_local() else None,
        libraries_to=libraries_to,
        scratch=SCRATCH if profile.scratch_mib is not None else None,
        podman=api.is_podman,
    )


def given(profile: Profile, gpus: GpuAccess | None, ids: tuple[str, ...]) -> GivenGpus | None:
    """What is written down about a server's GPUs.

    Args:
        profile: The isolation asked for.
        gpus: How it gets them, or None.
        ids: What they are known by.
    """
    if gpus is None:
        return None
    return GivenGpus(
        ids=ids,
        asked=asked(gpus.host_config),
        nodes=tuple(str(each["PathInContainer"]) for each in gpus.host_config.get("Devices") or ()),
        groups=gpus.groups,
        exceptions=exceptions(profile, gpus),
    )


def notes(gpus: GpuAccess | None, found: GivenGpus | None) -> Iterator[str]:
    """What the user should know about a server's GPUs."""
    if gpus and gpus.note:
        yield gpus.note
    if found and found.exceptions:
        yield f"for the GPU, beyond sealed: {'; '.join(found.exceptions)}"


def _check_driver(api: DockerApi, image: str) -> None:
    """Refuse an image that was made for a newer driver.

    Raises:
        ImageError: With both versions.
    """
    if not nvml.hold():
        return
    try:
        number, driver = (
            nvml.query("nvmlSystemGetCudaDriverVersion"),
            nvml.query("nvmlSystemGetDriverVersion"),
        )
    except nvml.GpuGoneError:
        return
    finally:
        nvml.release()
    # 12040 is CUDA 12.4.
    cuda = (number // 1000, number % 1000 // 10) if isinstance(number, int) else None
    version = tuple(int(part) for part in re.findall(r"\d+", str(driver))) if driver else None
    if needed := unmet(api.image_environment(image), cuda, version):
        knows = f"CUDA {cuda[0]}.{cuda[1]} at most" if cuda else "an older CUDA"
        raise ImageError(
            f"NVIDIA's driver here ({driver or 'of unknown version'}) knows {knows}, and the image needs {needed}",
            hint="update the driver, or take an image for an older CUDA",
        )
