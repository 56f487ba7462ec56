"""The compiled engine in a kit, its image, and the small static programs."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmlab.builds import EngineBuild, EngineFile, locate, manifest, places, static, verify
from llmlab.errors import BuildError, EngineError, EngineMissingError
from llmlab.kits import files, platforms
from llmlab.kits.contents import EngineHeld
from llmlab.runtime import cache_dir
from llmlab.weights import store

FOLDER, TOOLS = "engine", "tools"
_SYSTEM = "system"
_TOOLS = ("probe", "relay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """An engine that a kit has brought, or that was here.

    Attributes:
        build: The build to use.
        state: "installed" or "here".
        detail: What to say of it.
        native: Whether it runs as a process of this machine.
    """

    build: EngineBuild
    state: files.State
    detail: str
    native: bool = True


def own() -> EngineBuild:
    """This machine's portable build, for the CPU.

    Raises:
        EngineMissingError: If there is none.
    """
    wanted = locate.own_dir()
    build = locate.own_build()  # brings what is written down up to date, too
    if build is None or build.server.parent != wanted:
        known = manifest.load(wanted / manifest.NAME)
        build = known.build if known and known.fresh else None
    if build is None:
        raise EngineMissingError(
            "a kit holds the llama.cpp that llmlab has compiled for the CPU, and there is none here",
            hint="`llmlab build` compiles it (about 5 minutes on 2 cores), or leave it out: --without engine",
        )
    return build


def hold(build: EngineBuild, folder: Path) -> EngineHeld:
    """Copy a build into a kit."""
    source = build.server.parent
    links, names = {}, []
    for path in sorted(source.iterdir()):
        if path.is_symlink():
            links[path.name] = path.resolve().name
        elif path.is_file() and path.name != manifest.NAME:
            files.copy(path, folder / FOLDER / path.name)
            names.append(path.name)
    image = {}
    for file in build.files:
        if file.source.parent == source:
            image[file.target] = file.source.name
            continue
        name = f"{_SYSTEM}/{PurePosixPath(file.target).name}"
        files.copy(file.source, folder / FOLDER / name)
        names.append(name)
        image[file.target] = name
    return EngineHeld(
        name=source.name,
        version=build.version,
        platform=platforms.here(),
        files=tuple(dict.fromkeys(names)),
        links=links,
        image=image,
    )


def held_build(held: EngineHeld, sums: dict[str, str], folder: Path) -> EngineBuild:
    """A kit's engine as a build whose files lie in `folder`."""
    return EngineBuild(
        server=folder / "llama-server",
        library_dir=folder,
        files=tuple(
            EngineFile(source=folder / name, target=target, sha256=sums[f"{FOLDER}/{name}"])
            for target, name in held.image.items()
        ),
        version=held.version,
        origin="built",
    )


def install(held: EngineHeld, kit: Path, sums: dict[str, str]) -> Installed:
    """Put a kit's engine where `llmlab build` would have put its own.

    Raises:
        EngineError: If it was compiled for other machines.
        LabError: If it cannot be written.
    """
    target = locate.own_dir()
    if held.name != target.name:
        raise EngineError(
            f"the kit's engine ({held.name}, for {held.platform}) is not for this machine's CPU",
            hint="`llmlab build` compiles one; it needs a network",
        )
    wanted = held_build(held, sums, target)
    known = manifest.load(target / manifest.NAME)
    if known and known.fresh and known.build.server.parent == target:
        same = known.build.identity == wanted.identity
        detail = held.version if same else f"{known.build.version}, compiled here; it has its own image"
        return Installed(build=known.build, state="here", detail=detail)
    lock = target.with_name(f".{target.name}.lock")
    with files.written_to(target.parent, "the engine"), places.locked(lock, waiting=lambda: None):
        staged = target.with_name(f".{target.name}.kit")
        shutil.rmtree(staged, ignore_errors=True)
        try:
            _copy(held, kit, staged)
            tokens, problem = _tried(staged / "llama-server")
            shutil.rmtree(target, ignore_errors=True)
            staged.rename(target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        manifest.save(wanted, target / manifest.NAME)
    detail = f"{held.version}; generated {tokens} tokens" if tokens else f"not natively: {problem}"
    return Installed(build=wanted, state="installed", detail=detail, native=bool(tokens))


def _copy(held: EngineHeld, kit: Path, staged: Path) -> None:
    for name in held.files:
        files.copy(kit / FOLDER / name, staged / name)
        # A stick's file system may not know who may run what.
        (staged / name).chmod(0o755)
    for link, name in held.links.items():
        (staged / link).symlink_to(name)


def _tried(server: Path) -> tuple[int, str]:
    """How many tokens an engine generated, or why it cannot."""
    try:
        return verify.verify(server, locate.model_to_verify_with()).tokens, ""
    except BuildError as error:
        # A system whose C library is older than the one it was compiled with: the
        # image has its own.
        last = error.log_tail[-1].rpartition(": ")[2] if error.log_tail else ""
        return 0, "; ".join(part for part in (error.message.rpartition("/")[2], last) if part)


def hold_tools(folder: Path) -> tuple[tuple[str, ...], str]:
    """Copy the static programs into a kit; returns their paths, and why there are none."""
    found = []
    try:
        for name in _TOOLS:
            program = static.program(name, machine=platforms.architecture(platforms.here()))
            path = f"{program.parent.name}/{program.name}"
            files.copy(program, folder / TOOLS / path)
            found.append(path)
    except (EngineMissingError, BuildError) as error:
        shutil.rmtree(folder / TOOLS, ignore_errors=True)
        return (), f"probe and relay (`llmlab audit`, other tools): {error.message}"
    return tuple(found), ""


def install_tools(held: tuple[str, ...], kit: Path) -> files.State:
    """Put the static programs where they would have been compiled; returns the state."""
    state: files.State = "here"
    with files.written_to(cache_dir(), "the tools"):
        for path in held:
            source, target = kit / TOOLS / path, cache_dir() / "tools" / path
            with suppress(OSError):
                if store.digest(target) == store.digest(source):
                    continue
            draft = target.with_name(f".{target.name}.kit")
            files.copy(source, draft)
            draft.chmod(0o755)
            draft.replace(target)
            state = "installed"
    return state
