"""What an installed llama.cpp can compute on besides the CPU: what it lists, and what its libraries are for."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from llmlab.errors import BuildError

_TIMEOUT_S = 15.0
_LIBRARY = re.compile(r"(?:lib)?ggml-([a-z]+)")
_NO_GPU = frozenset({"base", "cpu", "blas", "rpc"})
_DEVICE = re.compile(r"^  (\w+: .+)$", re.MULTILINE)
_PACKAGE = "llama_cpp"


def kinds(names: Iterable[str]) -> tuple[str, ...]:
    """What libraries are for, by their names: "cuda", "hip", "metal", "vulkan" and others.

    Args:
        names: The libraries' file names.
    """
    found = {match[1] for name in names if (match := _LIBRARY.match(name))}
    return tuple(sorted(found - _NO_GPU))


def listed(server: Path, *, timeout_s: float = _TIMEOUT_S) -> tuple[str, ...]:
    """The devices that a llama-server can compute on, as `--list-devices` tells them; () for the CPU alone.

    Args:
        server: The program.
        timeout_s: Longest wait, since a driver may hang.

    Raises:
        BuildError: If it does not tell.
    """
    try:
        done = subprocess.run(
            [server, "--list-devices"],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{server} does not list its devices: {error}") from None
    _, heading, text = done.stdout.partition("Available devices:")
    if done.returncode or not heading:
        raise BuildError(f"{server} does not list its devices", log_tail=done.stderr.splitlines()[-3:])
    return tuple(_DEVICE.findall(text))


def wheel() -> tuple[str, ...] | None:
    """What llama-cpp-python's own libraries are for besides the CPU; None if it has none, or is not installed.

    Nothing is imported: that takes a second, and starts the GPU's driver.
    """
    found = importlib.util.find_spec(_PACKAGE)
    places = (found.submodule_search_locations or []) if found else []
    names = [path.name for place in places for path in Path(place, "lib").glob("*ggml*")]
    return kinds(names) if names else None


def vulkan_headers() -> tuple[Path, bool] | None:
    """Where the Vulkan headers are, and whether they are new enough for llama.cpp; None if they are not found.

    It uses the extension `VK_EXT_layer_settings`, which Debian 12's do not have.
    """
    named = os.environ.get("VULKAN_SDK")
    roots = [Path(named, "include")] if named else []
    for root in (*roots, Path("/usr/local/include"), Path("/usr/include")):
        header = root / "vulkan" / "vulkan_core.h"
        if header.is_file():
            return root, "VK_EXT_layer_settings" in header.read_text(encoding="utf-8", errors="replace")
    return None
