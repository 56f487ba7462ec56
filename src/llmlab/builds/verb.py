"""The verb `build`: compile llama.cpp if there is none, verify, say what is used."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmlab import render
from llmlab.builds import closure, compiling, locate, manifest, places, source
from llmlab.builds.toolchain import GpuKind
from llmlab.builds.values import EngineBuild
from llmlab.builds.verify import Proof, verify
from llmlab.errors import BuildError, EngineMissingError
from llmlab.reporting import reporter
from llmlab.results import Result
from llmlab.specs import to_dict

_ORIGINS = {
    "built": "compiled on this machine",
    "path": "found on PATH",
    "environment": f"named by {locate.VARIABLE}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult(Result):
    """Which llama.cpp is used from now on.

    Attributes:
        build: The build.
        tokens: Number of tokens it generated in the trial.
        trial_s: Seconds the trial took, the server's start included.
        compiled_s: Seconds that compiling took; None if nothing was compiled.
    """

    build: EngineBuild
    tokens: int
    trial_s: float
    compiled_s: float | None

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON data."""
        data: dict[str, Any] = to_dict(self)
        data["build"]["identity"] = self.build.identity
        return data

    def _pairs(self) -> list[tuple[str, str]]:
        build = self.build
        megabytes = sum(file.source.stat().st_size for file in build.files) / 1e6
        took = f" in {self.compiled_s / 60:.1f} min" if self.compiled_s is not None else ""
        return [
            ("version", build.version),
            ("origin", _ORIGINS[build.origin] + took),
            ("server", str(build.server)),
            ("runs on", " and ".join(("the CPU", *build.accelerators))),
            ("verified", f"generated {self.tokens} tokens; the trial took {self.trial_s:.1f} s"),
            (
                "for an image",
                f"{len(build.files)} files, {megabytes:.0f} MB, identity {build.identity}"
                if build.files
                else "not possible from this build",
            ),
        ]

    def __str__(self) -> str:
        """What is used, line by line."""
        return "\n".join(f"{key:<13} {value}" for key, value in self._pairs())

    def to_html(self) -> str:
        """The same as a card."""
        return render.html_card("llama.cpp", render.html_pairs(self._pairs()))


def build(*, gpu: GpuKind | None = None, force: bool = False) -> BuildResult:
    """Compile llama.cpp if this machine has none, verify it, and say which one is used.

    Args:
        gpu: Compile it for GPUs as well, with the compiler of their maker, unless the one that is used
            can do that already. cuda is NVIDIA's, hip AMD's, vulkan for many.
        force: Compile even if there is a build already.
    """
    reporter().begin("build llama.cpp")
    failed = True
    try:
        result = _build(gpu, force=force, model=locate.model_to_verify_with())
        failed = False
    finally:
        reporter().end(failed=failed)
    return result


def _build(gpu: GpuKind | None, *, force: bool, model: Path) -> BuildResult:
    compiled_s = None
    if force:
        compiled_s = compile_own(model, gpu, force=True)
        if os.environ.get(locate.VARIABLE):
            reporter().note(f"{locate.VARIABLE} is set: what it names is used, not the new build")
    found = _found()
    if found is None or (gpu and gpu not in found.accelerators):
        _not_instead_of_another(gpu)
        compiled_s = compile_own(model, gpu, force=False)
        found = locate.own_build()
    if found is None:
        raise BuildError("the build was changed while it was made", hint="`llmlab build --force`")
    reporter().stage("engine", "verifying")
    proof = verify(found.server, model)
    return BuildResult(build=found, tokens=proof.tokens, trial_s=proof.seconds, compiled_s=compiled_s)


def _not_instead_of_another(gpu: GpuKind | None) -> None:
    """Refuse to compile what would then not be used.

    Raises:
        BuildError: If a variable names another llama-server.
    """
    if os.environ.get(locate.VARIABLE):
        raise BuildError(
            f"{locate.VARIABLE} names a llama-server that was not compiled for {gpu}",
            hint=f"unset {locate.VARIABLE}, or let it name one that was",
        )


def _found() -> EngineBuild | None:
    """What there is already, if it works."""
    try:
        return locate.find_build()
    except (EngineMissingError, BuildError) as error:
        if os.environ.get(locate.VARIABLE):
            raise
        if isinstance(error, BuildError):
            reporter().note(f"{error.message}; compiling llama.cpp instead")
        return None


def compile_own(model: Path, gpu: GpuKind | None = None, *, force: bool) -> float | None:
    """Compile and verify our own build, and put it in place as a whole.

    Args:
        model: What it is verified with.
        gpu: What to compile for besides the CPU.
        force: Do it even if it is there.

    Returns:
        Seconds it took; None if another builder had just done it.
    """
    target = locate.own_dir(gpu)
    lock = target.with_name(f".{target.name}.lock")

    def waiting() -> None:
        reporter().stage("engine", "waiting for another process that compiles llama.cpp")
        reporter().note("Another process is compiling llama.cpp; this one waits and uses its result.")

    try:
        with places.locked(lock, waiting=waiting) as descriptor:
            if not force and (own := locate.own_build()) and own.server.parent == target:
                return None
            started = time.monotonic()
            _compile(target, model, descriptor, gpu, anew=force)
            return time.monotonic() - started
    except KeyboardInterrupt:
        reporter().note("Interrupted. What is compiled is kept; the next build goes on from there.")
        raise
    except OSError as error:
        raise BuildError(
            f"llama.cpp cannot be built in {target.parent}: {error.strerror or error}",
            hint="it needs 300 MB there while it compiles; LLMLAB_CACHE_DIR names another place",
        ) from error


def _compile(target: Path, model: Path, lock: int, gpu: GpuKind | None, *, anew: bool) -> None:
    """Fetch, compile, verify and install, under the lock."""
    # The same directory every time: what an interrupted build has compiled is
    # not compiled again. Nothing in it is ever taken for a build.
    work = target.with_name(f".{target.name}.work")
    work.mkdir(exist_ok=True)
    if anew:
        shutil.rmtree(work / "build", ignore_errors=True)
    reporter().stage("engine", "fetching the source of llama.cpp (77 MB)")
    tree = source.tree(work)
    binaries = compiling.compile_tree(tree, work / "build", work / "build.log", lock=lock, gpu=gpu)
    staged = work / "staged"
    shutil.rmtree(staged, ignore_errors=True)
    compiling.install(binaries, tree, staged)
    reporter().stage("engine", "verifying: generating with the new build")
    _put_in_place(staged, target, verify(staged / "llama-server", model))
    shutil.rmtree(work, ignore_errors=True)


def _put_in_place(staged: Path, target: Path, proof: Proof) -> None:
    """Rename the verified directory to its final name, with its manifest inside."""
    # Build number and commit come from git; the package's version says more.
    number = proof.version.partition(" (")[0]
    made = EngineBuild(
        server=staged / "llama-server",
        library_dir=staged,
        files=closure.engine_files(staged / "llama-server"),
        version=f"{number} (llama-cpp-python {source.VERSION})",
        origin="built",
    )
    manifest.save(made, staged / manifest.NAME)
    if target.exists():
        # A running server keeps the old files open; they vanish with it.
        retired = target.with_name(f".{target.name}.old")
        shutil.rmtree(retired, ignore_errors=True)
        target.rename(retired)
        staged.rename(target)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        staged.rename(target)
    manifest.save(manifest.moved(made, staged, target), target / manifest.NAME)
