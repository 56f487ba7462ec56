"""The compiled engine that is here: which one, and what it can compute on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

_COMMAND_S = 4.0


def look() -> dict[str, Any]:
    """The `build` of the facts; what is there is asked, and nothing is tried."""
    from llmlab.builds import devices  # noqa: PLC0415 - not on Windows
    from llmlab.errors import BuildError  # noqa: PLC0415

    found = _server()
    if found and not found.get("error"):
        with suppress(BuildError):
            found["devices"] = list(devices.listed(Path(found["server"]), timeout_s=_COMMAND_S))
    wheel = devices.wheel()
    return found if wheel is None else {**found, "wheel": list(wheel)}


def _server() -> dict[str, Any]:
    from llmlab.builds import locate  # noqa: PLC0415 - not on Windows

    if named := os.environ.get(locate.VARIABLE):
        path = Path(named).expanduser()
        usable = path.is_file() and os.access(path, os.X_OK)
        error = "" if usable else f"{locate.VARIABLE} names no program that can be run"
        return {"server": str(path), "origin": locate.VARIABLE, "error": error, **_version_of(path, error)}
    if own := locate.own_build():
        return {
            "server": str(own.server),
            "origin": "own",
            "error": "",
            "version": own.version,
            "accelerators": list(own.accelerators),
        }
    if on_path := shutil.which("llama-server"):
        return {"server": on_path, "origin": "PATH", "error": "", **_version_of(Path(on_path), "")}
    return {}


def _version_of(server: Path, error: str) -> dict[str, str]:
    if error:
        return {}
    done = subprocess.run(
        [str(server), "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        timeout=_COMMAND_S,
        check=False,
    )
    text = done.stdout.decode("utf-8", errors="replace").strip()
    if done.returncode:
        return {"error": f"it does not start: {text[-200:] or done.returncode}"}
    line = re.search(r"^version: (.*)$", text, re.MULTILINE)
    return {"version": line[1] if line else text[:100]}
