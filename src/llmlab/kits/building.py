"""Making a kit. Its checksums are written last: what is not finished is not a kit."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from string import Template

import llmlab
from llmlab import render
from llmlab.builds import EngineBuild
from llmlab.errors import UsageError
from llmlab.kits import archive, engine, files, models, notebooks, wheels
from llmlab.kits.contents import NAME, Contents, EngineHeld, ModelHeld
from llmlab.kits.views import Built, Part
from llmlab.kits.wishes import Wish
from llmlab.reporting import reporter
from llmlab.weights import store

IMAGES = "images"
_CARRIED = ("install.py", "install.sh")
_DETAILS = {
    "engine": "the compiled llama.cpp and its tools",
    "image": "the same as an image for containers",
    "wheels": "{count} Python packages",
    "notebooks": "{count} files",
}
_NAMES = {
    engine.FOLDER: "engine",
    engine.TOOLS: "engine",
    IMAGES: "image",
    models.FOLDER: "models",
    wheels.FOLDER: "wheels",
    notebooks.FOLDER: "notebooks",
}


def build(folder: Path, wish: Wish) -> Built:
    """Make a kit in a folder that is empty, or not there yet.

    Raises:
        UsageError: If the folder has something in it, or the wish cannot be met.
        EngineMissingError: If no engine is compiled here.
        ModelError: If a model is not here.
        DiskSpaceError: If the disk is full; nothing is left in the folder then.
        LabError: If pip cannot get the wheels, or the folder cannot be written to.
    """
    started = time.monotonic()
    # What can be wrong is looked for before anything is copied.
    own = None if "engine" in wish.without else engine.own()
    source = None if "notebooks" in wish.without else notebooks.find(wish.notebooks)
    references = () if "models" in wish.without else wish.models
    for reference in references:
        models.find(reference)
    with _making(folder):
        left_out: list[str] = []
        held, image, tools = _engine(own, folder, wish, left_out)
        reporter().stage("models", ", ".join(references))
        found = tuple(models.hold(reference, folder) for reference in references)
        if "wheels" in wish.without:
            left_out.append("wheels: as was asked; it adds to machines that have llmlab")
        else:
            _wheels(folder, wish)
            left_out.append(wheels.WITHOUT)
        reporter().stage("notebooks")
        said = Contents(
            made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            llmlab=llmlab.__version__,
            platforms=wish.platforms,
            python=() if "wheels" in wish.without else wish.python,
            engine=held,
            image=image,
            tools=tools,
            models=found,
            notebooks=notebooks.hold(source, folder) if source else (),
            left_out=tuple(left_out),
        )
        parts = _finish(folder, said)
    return Built(
        folder=folder,
        parts=parts,
        left_out=tuple(left_out),
        platforms=said.platforms,
        python=said.python,
        file_bytes=sum(part.file_bytes for part in parts),
        seconds=time.monotonic() - started,
    )


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    """The folder; empty again if it does not come to a kit."""
    if folder.exists() and (not folder.is_dir() or files.listed(folder)):
        raise UsageError(
            f"{folder} is not an empty folder", hint="name one that is not there yet, or remove what is in it"
        )
    is_new = not folder.exists()
    try:
        with files.written_to(folder, "the kit"):
            folder.mkdir(parents=True, exist_ok=True)
            yield
    except BaseException:
        # The stick's own folders, which `listed` passes over, stay.
        for name in {path.split("/")[0] for path in files.listed(folder)}:
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise


def _engine(
    own: EngineBuild | None, folder: Path, wish: Wish, left_out: list[str]
) -> tuple[EngineHeld | None, str, tuple[str, ...]]:
    """The engine, the path of its image's archive, and the tools."""
    if own is None:
        left_out.append("engine and image: as was asked")
        return None, "", ()
    reporter().stage("engine", own.version)
    held = engine.hold(own, folder)
    others = [name for name in wish.platforms if name != held.platform]
    if others:
        left_out.append(f"an engine for {', '.join(others)}: this one was compiled for {held.platform}")
    tools, problem = engine.hold_tools(folder)
    if problem:
        left_out.append(problem)
    if not own.files or "image" in wish.without:
        why = "as was asked" if own.files else "it is made of an engine for Linux"
        left_out.append(f"image: {why}")
        return held, "", tools
    reporter().stage("image", f"{len(own.files)} files")
    path = f"{IMAGES}/llama-server-{own.identity}.tar"
    archive.write(own, held.platform, folder / path)
    return held, path, tools


def _wheels(folder: Path, wish: Wish) -> None:
    reporter().stage("wheels", "llmlab's own")
    own = wheels.own(folder / wheels.FOLDER)
    targets = [(platform, python) for platform in wish.platforms for python in wish.python]
    # By its path, since an index may have another of that version.
    wheels.collect([f"llmlab[{wheels.EXTRA}] @ {own.absolute().as_uri()}", "pip"], own.parent, targets)


def _finish(folder: Path, said: Contents) -> tuple[Part, ...]:
    """The kit's own files, `kit.json`, and then the checksums."""
    carried = resources.files("llmlab.kits.carried")
    for name in _CARRIED:
        (folder / name).write_bytes(carried.joinpath(name).read_bytes())
        (folder / name).chmod(0o755)
    text = carried.joinpath("README.txt").read_text(encoding="utf-8")
    parts = _parts({path: (folder / path).stat().st_size for path in files.listed(folder)}, said.models)
    (folder / "README.txt").write_text(_readme(text, said, parts), encoding="utf-8")
    reporter().stage("checksums")
    sizes = {path: (folder / path).stat().st_size for path in files.listed(folder)}
    (folder / NAME).write_text(replace(said, sizes=sizes).text(), encoding="utf-8")
    files.write_sums(folder, {path: store.digest(folder / path) for path in (*sizes, NAME)})
    return parts


def _parts(sizes: dict[str, int], held: Sequence[ModelHeld]) -> tuple[Part, ...]:
    """What the kit is made of, with sizes."""
    count, total = Counter[str](), Counter[str]()
    for path, size in sizes.items():
        name = _NAMES.get(path.partition("/")[0], "")
        if name:
            count[name] += 1
            total[name] += size
    found = [
        Part(name=name, detail=_DETAILS[name].format(count=count[name]), file_bytes=size)
        for name, size in total.items()
        if name != "models"
    ]
    if held:
        names = ", ".join(model.reference for model in held)
        found.append(Part(name="models", detail=names, file_bytes=total["models"]))
    order = list(dict.fromkeys(_NAMES.values()))
    return tuple(sorted(found, key=lambda part: order.index(part.name)))


def _readme(text: str, said: Contents, parts: Sequence[Part]) -> str:
    rows = [f"  {part.name:<10} {render.bytes_text(part.file_bytes):>8}   {part.detail}" for part in parts]
    return Template(text).substitute(
        platforms=", ".join(said.platforms),
        pythons=f"Python {', '.join(said.python)}" if said.python else "a Python that has llmlab",
        made=said.made[:10],
        llmlab=said.llmlab,
        contents="\n" + "\n".join(rows) + "\n",
        left_out="\n" + "\n".join(f"  {line}" for line in said.left_out),
    )
