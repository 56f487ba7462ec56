"""Which Python this is, what is installed in it, and which notebook server started it."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "llmlab", "docker", "psutil", "huggingface-hub", "nvidia-ml-py",
    "jupyterlab", "jupyter-server", "notebook", "ipykernel", "ipython",
    "ipywidgets", "jupyterlab_widgets", "widgetsnbextension", "anywidget",
    "llama-cpp-python",
)  # fmt: skip
_OF_A_SERVER = ("jupyterlab", "jupyter-server", "notebook", "jupyterlab_widgets", "anywidget")


def packages(path: list[str] | None = None) -> dict[str, str]:
    """Versions of the packages that matter, of those that are installed."""
    found = {}
    for name in _PACKAGES if path is None else _OF_A_SERVER:
        # What comes first on the path is what is imported. Metadata may be broken.
        with suppress(StopIteration, KeyError, TypeError, AttributeError, OSError):
            distribution = next(iter(metadata.distributions(name=name, path=path or sys.path)))
            if version := distribution.version:
                found[name] = version
    return found


def look() -> dict[str, Any]:
    """This Python, and the notebook server that started it."""
    return {
        "version": platform.python_version(),
        "executable": sys.executable,
        "prefix": sys.prefix,
        "kernel": "ipykernel" in sys.modules,
        "server": _server(),
    }


def _server() -> dict[str, Any] | None:
    """The environment of the notebook server; None if there is none, or it cannot be told."""
    parent = os.environ.get("JPY_PARENT_PID", "")
    if not parent.isdigit():
        return None
    import psutil  # noqa: PLC0415 - it may be missing

    try:
        process = psutil.Process(int(parent))
        words, began_in = process.cmdline(), process.cwd()
    except (psutil.Error, OSError):
        return None
    # The interpreter may be a link to one that many environments share; where it
    # was called from, and where its script lies, tell which it is.
    prefixes = []
    for word in words[:2]:
        folder = Path(began_in, word).parent
        if folder.name in {"bin", "Scripts"} and folder.parent.is_dir():
            prefixes.append(str(folder.parent))
    if not prefixes:
        return None
    sites = [str(path) for prefix in prefixes for path in Path(prefix).glob("lib/python3*/site-packages")]
    return {"prefixes": prefixes, "packages": packages(sites) if sites else {}}
