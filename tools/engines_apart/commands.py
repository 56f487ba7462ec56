"""Programs that are run, and what is said when one fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_NEEDED = ("ip", "nsenter", "unshare", "setsid", "hostname", "openssl", "containerd", "dockerd", "docker")
_LONG_S = 60.0


class EnginesError(Exception):
    """What was asked for could not be done; its text is for people."""


def run(*words: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program; returns what it printed.

    Raises:
        EnginesError: If it fails, with what it said.
    """
    command = [str(word) for word in words]
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LONG_S, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnginesError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise EnginesError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def start(log: Path, *words: str | Path) -> None:
    """Start a program that goes on after this one, as a child of nobody here."""
    with log.open("ab") as stream:
        subprocess.run(
            ["setsid", "--fork", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            check=True,
            env={"PATH": search_path()},
        )


def search_path() -> str:
    """Where programs are looked for, with the directories of those for root."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def found(program: str) -> str | None:
    """The path of a program; None if it is not installed."""
    return shutil.which(program, path=search_path())


def check() -> None:
    """Refuse a machine on which it cannot work.

    Raises:
        EnginesError: With the reason.
    """
    if sys.platform != "linux":
        raise EnginesError("this needs Linux")
    if os.getuid():
        raise EnginesError("this needs root, for namespaces and for engines of its own")
    if missing := [name for name in _NEEDED if not found(name)]:
        raise EnginesError(
            f"not installed: {', '.join(missing)} (Debian: apt install iproute2 openssl docker.io docker-cli)"
        )
    run("ip", "route")
