"""Whether the driver is new enough for an image, by what the image says it needs."""

from __future__ import annotations

import re
from collections.abc import Mapping

_CLAUSE = re.compile(r"(cuda|driver)(>=|<=|>|<|=)(\d+(?:\.\d+)*)")
Version = tuple[int, ...]


def unmet(variables: Mapping[str, str], cuda: Version | None, driver: Version | None) -> str:
    """What an image needs of the driver and does not get; "" if nothing that is known here.

    Args:
        variables: The image's environment: NVIDIA_REQUIRE_CUDA, or CUDA_VERSION.
        cuda: The newest CUDA that the driver knows, such as (12, 4); None if that is not known.
        driver: The driver's version; likewise.
    """
    if variables.get("NVIDIA_DISABLE_REQUIRE", "").lower() in {"1", "true"}:
        return ""
    required = variables.get("NVIDIA_REQUIRE_CUDA", "")
    if required:
        # Alternatives stand beside each other, what has to hold together is joined by commas.
        held = [_holds(alternative, cuda, driver) for alternative in required.split()]
        return required.split()[0] if held and not any(held) else ""
    # Within a major version, older drivers run what was compiled for newer ones.
    needed = _version(variables.get("CUDA_VERSION", ""))
    return f"cuda>={needed[0]}.0" if needed and cuda and cuda[0] < needed[0] else ""


def _holds(alternative: str, cuda: Version | None, driver: Version | None) -> bool:
    """Whether an alternative may hold: what is not known here counts as if it did."""
    for clause in alternative.split(","):
        match = _CLAUSE.fullmatch(clause)
        has = {"cuda": cuda, "driver": driver}.get(match[1]) if match else None
        if match and has is not None and not _compare(has, match[2], _version(match[3])):
            return False
    return True


def _compare(has: Version, sign: str, needed: Version) -> bool:
    short = has[: len(needed)]
    return {
        ">=": has >= needed,
        "<=": short <= needed,
        ">": short > needed,
        "<": has < needed,
        "=": short == needed,
    }[sign]


def _version(text: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", text))
