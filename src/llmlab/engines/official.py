"""The images that the llama.cpp project publishes, by a short word: `official`, `official:cuda13`.

Their tags end in the number of a build; one is pinned here, so that a word means the same
tomorrow. (Tags and platforms: llama.cpp, `docs/docker.md`, `.github/workflows/docker.yml`.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from llmlab.engines.base import Image
from llmlab.errors import UnknownNameError, UsageError
from llmlab.profiles import GpuMaker

WORD: Final = "official"
REPOSITORY: Final = "ghcr.io/ggml-org/llama.cpp"
BUILD: Final = "b11382"
"""The build that the words stand for."""

PROGRAM: Final = Image(
    name=f"{REPOSITORY}:server-{BUILD}",
    program="/app/llama-server",
    banner=r"version: (?P<version>.+)\n[^\n]*built with",
)
"""What all of them have in common."""

# The word → the beginning of the tag.
_TAGS: Final[Mapping[str, str]] = {
    "cpu": "server",
    "cuda": "server-cuda12",
    "cuda12": "server-cuda12",
    "cuda13": "server-cuda13",
    "rocm": "server-rocm",
    "vulkan": "server-vulkan",
    "intel": "server-intel",
}
# Whose GPU → the word.
_MAKERS: Final[Mapping[GpuMaker, str]] = {"nvidia": "cuda", "amd": "rocm", "intel": "intel"}
_BUILD: Final = re.compile(r"b\d{3,6}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_CUDA_13: Final = 13


def variants() -> tuple[str, ...]:
    """The words that can stand behind `official:`."""
    return tuple(_TAGS)


def is_word(name: str) -> bool:
    """Whether an image's name is one of these words, not a name of a registry's."""
    return re.match(rf"{WORD}(?:[:@]|$)", name) is not None


def resolve(name: str, *, maker: GpuMaker | None = None, cuda: int | None = None) -> str:
    """The image that a word stands for: `official[:VARIANT[-BUILD]][@sha256:…]`.

    Args:
        name: The word; another image's name is given back as it is.
        maker: Whose GPU the server gets; None for none. It decides where no variant is named.
        cuda: The newest major version of CUDA that the driver knows, if there is one.

    Raises:
        UsageError: If there is no such variant, build or digest.
    """
    if not is_word(name):
        return name
    word, _, digest = name.partition("@")
    if digest and not _DIGEST.fullmatch(digest):
        raise UsageError(f"{digest[:80]!r} is no digest of an image", hint="write sha256: and 64 hex digits")
    variant, _, build = word.removeprefix(WORD).removeprefix(":").partition("-")
    if build and not _BUILD.fullmatch(build):
        raise UsageError(f"{build[:40]!r} is no build of llama.cpp", hint=f"such as {WORD}:cuda-{BUILD}")
    variant = variant or _for_gpu(maker, cuda)
    if variant not in _TAGS:
        raise UnknownNameError("variant of llama.cpp's images", variant, variants())
    return f"{REPOSITORY}:{_TAGS[variant]}-{build or BUILD}" + (f"@{digest}" if digest else "")


def _for_gpu(maker: GpuMaker | None, cuda: int | None) -> str:
    if maker is None:
        return "cpu"
    variant = _MAKERS[maker]
    return "cuda13" if variant == "cuda" and cuda is not None and cuda >= _CUDA_13 else variant
