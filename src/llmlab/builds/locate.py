"""Which llama.cpp is used: the one named by the user, ours, or one on PATH."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import get_args

from llmlab.builds import closure, manifest, places, source, toolchain
from llmlab.builds.values import EngineBuild, Origin
from llmlab.builds.verify import verify
from llmlab.errors import BuildError, EngineMissingError
from llmlab.reporting import reporter

VARIABLE = "LLMLAB_LLAMA_SERVER"
_MODEL = Path(__file__).parent.parent / "weights" / "builtin" / "tiny.gguf"


def find_build() -> EngineBuild:
    """The llama.cpp to use: `LLMLAB_LLAMA_SERVER`, else our own build, else `llama-server` on PATH.

    A llama-server of the user's is verified by generating when it is first
    seen; after that, and for our own build, this only looks at the files.

    Raises:
        EngineMissingError: If there is none; the hint says how to get one.
        BuildError: If the user's llama-server does not work.
    """
    if named := os.environ.get(VARIABLE):
        return _adopt(_named(named), "environment")
    if build := own_build():
        return build
    if on_path := shutil.which("llama-server"):
        return _adopt(Path(on_path).absolute(), "path")
    raise EngineMissingError(
        "there is no llama.cpp on this machine yet",
        hint="`llmlab build` compiles it (about 5 minutes on 2 cores; once per machine), "
        f"or set {VARIABLE} to a llama-server that you have",
    )


def own_dir(gpu: toolchain.GpuKind | None = None) -> Path:
    """Where our own build for this machine lies, or will.

    Args:
        gpu: What it is compiled for besides the CPU.
    """
    return places.engines_dir() / f"llama.cpp-{source.VERSION}-{toolchain.flags_hash(gpu)}"


def own_build() -> EngineBuild | None:
    """Our own build, if it is there and undamaged; one for GPUs first, since it can do without, too."""
    for gpu in (*get_args(toolchain.GpuKind), None):
        if build := _own(own_dir(gpu)):
            return build
    return None


def _own(directory: Path) -> EngineBuild | None:
    known = manifest.load(directory / manifest.NAME)
    if known is None:
        return None
    if known.fresh and known.build.server.parent == directory:
        return known.build
    # A system library was updated, or the cache was moved. Our own files have to
    # be the ones that were verified, byte for byte; the rest is listed anew.
    build = manifest.moved(known.build, known.build.server.parent, directory)
    ours = [file for file in build.files if file.source.parent == directory]
    try:
        if any(source.sha256_of(file.source) != file.sha256 for file in ours) or not build.server.is_file():
            return None
    except OSError:
        return None
    build = _listed(build)
    with contextlib.suppress(OSError):  # a cache shared read-only works, just not as fast
        manifest.save(build, directory / manifest.NAME)
    return build


def model_to_verify_with() -> Path:
    """The packaged Q8_0 model."""
    return _MODEL


def _named(value: str) -> Path:
    path = Path(value).expanduser().absolute()
    if not path.is_file():
        raise EngineMissingError(
            f"{VARIABLE} names {path}, which is no file", hint=f"correct or unset {VARIABLE}"
        )
    if not os.access(path, os.X_OK):
        raise EngineMissingError(f"{VARIABLE} names {path}, which is not executable", hint=f"chmod +x {path}")
    return path


def _adopt(server: Path, origin: Origin) -> EngineBuild:
    """A llama-server of the user's, verified when it is first seen or has changed."""
    note = places.engines_dir() / "found" / f"{hashlib.sha256(str(server).encode()).hexdigest()[:16]}.json"
    known = manifest.load(note)
    if known and known.fresh and known.build.server == server and known.build.origin == origin:
        return known.build
    reporter().stage("engine", f"trying {server}")
    try:
        proof = verify(server, model_to_verify_with())
    except BuildError as error:
        if origin == "environment":
            error.hint = f"correct or unset {VARIABLE}"
        raise
    build = _listed(
        EngineBuild(server=server, library_dir=None, files=(), version=proof.version, origin=origin)
    )
    with contextlib.suppress(OSError):
        manifest.save(build, note)
    return build


def _listed(build: EngineBuild) -> EngineBuild:
    return EngineBuild(
        server=build.server,
        library_dir=build.library_dir,
        files=closure.engine_files(build.server),
        version=build.version,
        origin=build.origin,
    )
