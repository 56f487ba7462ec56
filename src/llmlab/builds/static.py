"""Small static programs for containers, compiled on this machine from the packaged sources.

A static program needs nothing else in its image, so no registry is needed either.
It is compiled once; the cache's name for it is made of all that it depends on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path

from llmlab.errors import BuildError, EngineMissingError
from llmlab.reporting import reporter
from llmlab.runtime import cache_dir

# A tool's files; those that end in .c are compiled together.
_TOOLS = {
    "digest": ("digest.c",),
    "probe": (
        "probe.c",
        "probe.h",
        "probe_files.c",
        "probe_limits.c",
        "probe_net.c",
        "probe_process.c",
        "probe_serve.c",
    ),
    "relay": (
        "relay.c",
        "relay.h",
        "relay_answer.c",
        "relay_balance.c",
        "relay_balance.h",
        "relay_flow.c",
        "relay_gate.c",
        "relay_health.c",
        "relay_net.c",
        "relay_serve.c",
        "relay_status.c",
        "relay_targets.c",
    ),
}
_FLAGS = ("-std=c11", "-static", "-s", "-Os")
_COMPILERS = ("cc", "gcc", "clang")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Zig compiles its C library first; that takes half a minute on a slow machine.
_COMPILING_S = 300


def program(name: str, *, machine: str = "x86_64") -> Path:
    """A static program for Linux, compiled if it is not in the cache.

    Args:
        name: The tool.
        machine: The architecture, as `uname -m` or a container engine names it.

    Raises:
        EngineMissingError: If nothing here can compile for that architecture.
        BuildError: If compiling fails.
    """
    machine = _MACHINES.get(machine.lower(), machine)
    folder = resources.files("llmlab") / "isolation" / "tools"
    sources = {file: folder.joinpath(file).read_bytes() for file in _TOOLS[name]}
    parts = [machine.encode(), " ".join(_FLAGS).encode()]
    parts += [part for file, data in sources.items() for part in (file.encode(), data)]
    identity = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]
    made = cache_dir() / "tools" / f"{name}-{identity}" / name
    if not made.is_file():
        reporter().stage("image", f"compiling the {name} (once)")
        made.parent.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=made.parent.parent) as draft:
            _compile(name, sources, machine, Path(draft))
            # Whoever else compiles it at the same time makes the same; the first one's stays.
            with suppress(OSError):
                (Path(draft) / "made").rename(made.parent)
        if not made.is_file():
            raise BuildError(
                f"{name} was compiled and cannot be moved to {made.parent}",
                hint="is the directory yours? LLMLAB_CACHE_DIR names another",
            )
    return made


def _compile(name: str, sources: dict[str, bytes], machine: str, draft: Path) -> None:
    """Compile into `draft/made`, with the first compiler that can."""
    (draft / "made").mkdir()
    for file, data in sources.items():
        (draft / file).write_bytes(data)
    units = [file for file in sources if file.endswith(".c")]
    said: list[str] = []
    for compiler in _compilers(machine):
        command = [*compiler, *_FLAGS, "-o", f"made/{name}", *units]
        try:
            done = subprocess.run(
                command,
                cwd=draft,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_COMPILING_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            said += [f"{compiler[0]}: {error}"]
            continue
        if done.returncode == 0:
            return
        said += done.stdout.splitlines()[-8:]
    if said:
        raise BuildError(
            f"the tool {name!r} could not be compiled for {machine}", hint=_hint(), log_tail=said
        )
    raise EngineMissingError(
        f"compiling the tool {name!r} for Linux on {machine} needs a C compiler", hint=_hint()
    )


def _compilers(machine: str) -> Iterator[list[str]]:
    """What may be able to compile for Linux on this architecture, the quickest first."""
    if sys.platform == "linux":
        names = _COMPILERS if platform.machine() == machine else (f"{machine}-linux-gnu-gcc",)
        yield from ([found] for name in names if (found := shutil.which(name)))
    if importlib.util.find_spec("ziglang"):
        yield [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl"]


def _hint() -> str:
    zig = f"{sys.executable} -m pip install ziglang"
    if sys.platform != "linux":
        return zig
    if shutil.which("dnf"):
        return f"sudo dnf install gcc glibc-static, or: {zig}"
    return f"sudo apt-get install gcc libc6-dev, or: {zig}"
