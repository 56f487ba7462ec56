"""Everything a program loads, as the files an image needs.

Libraries beside the program keep their place beside it. All others go to the
directory of the C library: the loader looks there even without the cache that
`ldconfig` writes, and an image has none.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from llmlab.builds.source import sha256_of
from llmlab.builds.values import EngineFile
from llmlab.errors import BuildError

IMAGE_DIR = "/opt/llama.cpp"
_LINE = re.compile(r"^\s*(?P<name>\S+)(?: => (?P<path>not found|\S+))?(?: \(0x[0-9a-f]+\))?\s*$")
# Parts of a GPU's driver: they have to be those of the kernel they run on, and a container
# gets them from its machine. A machine without the driver has none.
_DRIVER = frozenset({"libcuda.so.1", "libnvidia-ml.so.1"})
_ELF = b"\x7fELF"
_CPU = "libggml-cpu"
_STATIC = ("statically linked", "not a dynamic executable", "Not a valid dynamic program")


def engine_files(server: Path) -> tuple[EngineFile, ...]:
    """The server and all it loads; empty where that cannot be told.

    Raises:
        BuildError: If a library is missing.
    """
    server = server.resolve()
    if sys.platform != "linux" or not _is_elf(server):
        return ()
    targets = {f"{IMAGE_DIR}/{server.name}": server}
    libraries = _loaded(server)
    system_dir = _system_dir(libraries)
    for plugin in _plugins(server, libraries):
        try:
            loaded = _loaded(plugin)
        except BuildError:
            if plugin.name.startswith(_CPU):
                raise
            continue  # llama.cpp does without it, too
        targets[f"{IMAGE_DIR}/{plugin.name}"] = plugin.resolve()
        libraries |= loaded
    for name, path in libraries.items():
        targets[_target(name, path, server.parent, system_dir)] = path.resolve()
    return tuple(
        EngineFile(source=source, target=target, sha256=sha256_of(source))
        for target, source in sorted(targets.items())
    )


def parse_ldd(text: str) -> dict[str, Path]:
    """The libraries in ldd's output: name as it is asked for → file.

    The loader's name is an absolute path. The kernel's own (linux-vdso,
    linux-gate) has no file and is left out.

    Raises:
        BuildError: If a library is not found.
    """
    found: dict[str, Path] = {}
    missing = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        name, path = match["name"], match["path"]
        if name in _DRIVER:
            continue
        if path == "not found":
            missing.append(name)
        elif path:
            found[name] = Path(path)
        elif name.startswith("/"):
            found[name] = Path(name)
    if missing:
        raise BuildError(f"llama-server needs libraries that are not here: {', '.join(missing)}")
    return found


def _loaded(binary: Path) -> dict[str, Path]:
    ldd = shutil.which("ldd")
    if ldd is None:
        raise BuildError("ldd is missing, so the libraries of llama-server cannot be listed")
    done = subprocess.run(
        [ldd, str(binary)], check=False, capture_output=True, text=True, errors="replace", timeout=60
    )
    if done.returncode:
        message = done.stdout + done.stderr
        if any(word in message for word in _STATIC):
            return {}
        raise BuildError(f"ldd cannot read {binary}", log_tail=message.splitlines()[-3:])
    return parse_ldd(done.stdout)


def _plugins(server: Path, libraries: dict[str, Path]) -> list[Path]:
    """Back-ends for CPU types and GPUs, which some builds load by themselves at run time."""
    directories = {server.parent}
    directories |= {path.parent for name, path in libraries.items() if name.startswith("libggml")}
    # Debian's packages have them there.
    directories |= {place for path in directories for place in path.glob("ggml/backends*")}
    known = {path.resolve() for path in libraries.values()}
    return sorted(
        plugin
        for directory in directories
        for plugin in directory.glob("libggml-*.so")
        if plugin.resolve() not in known
    )


def _target(name: str, path: Path, beside: Path, system_dir: str) -> str:
    if name.startswith("/"):
        return name
    if path.parent.resolve() == beside:
        return f"{IMAGE_DIR}/{name}"
    return f"{system_dir}/{name}"


def _system_dir(libraries: dict[str, Path]) -> str:
    """Where the C library lies: a directory that its own loader knows by heart."""
    for name, path in libraries.items():
        if name.startswith(("libc.so", "libc.musl")):
            return str(path.parent)
    return "/lib"


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ELF)) == _ELF
