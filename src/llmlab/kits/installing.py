"""Setting up a machine from a kit, without a network. Doing it again is harmless."""

from __future__ import annotations

import time
from pathlib import Path

from llmlab import render
from llmlab.backends import docker_api, image
from llmlab.builds import EngineBuild
from llmlab.errors import EngineError, LabError, UsageError
from llmlab.kits import archive, checking, engine, files, models, notebooks, platforms
from llmlab.kits.checking import Checked
from llmlab.kits.contents import Contents
from llmlab.kits.views import Installed, Step
from llmlab.reporting import reporter

_MOST_SHOWN = 3


def install(folder: Path, into: Path) -> Installed:
    """Set this machine up from a kit.

    Args:
        folder: The kit.
        into: The learner's folder, where notebooks go.

    Raises:
        UsageError: If the folder is no kit, or one for other machines.
        LabError: If the kit is not whole, or something cannot be written.
        ImageError: If its image is not that of its engine.
    """
    started = time.monotonic()
    checked = check(folder)
    said = _whole(checked)
    if platforms.here() not in said.platforms:
        raise UsageError(
            f"this kit is for {', '.join(said.platforms)}, and this machine is {platforms.here()}",
            hint="ask for one with --platforms " + platforms.here(),
        )
    if said.image and said.engine:
        # Before anything of the kit is put anywhere.
        held = engine.held_build(said.engine, checked.sums, folder / engine.FOLDER)
        archive.check(folder / said.image, held, said.engine.platform)
    steps = [*_engine(said, checked), *_models(said, checked, into)]
    if said.notebooks:
        reporter().stage("notebooks")
        written, beside = notebooks.install(said.notebooks, folder, into)
        steps.append(_notebooks(written, beside, into / notebooks.FOLDER))
    return Installed(
        folder=folder,
        into=into,
        steps=tuple(steps),
        references=tuple(model.reference for model in said.models),
        seconds=time.monotonic() - started,
    )


def check(folder: Path) -> Checked:
    """Hash a kit's files anew, saying how far it is.

    Raises:
        UsageError: If the folder is no kit.
    """
    reporter().stage("verify", str(folder))
    done = 0
    total = sum((folder / path).lstat().st_size for path in files.listed(folder)) if folder.is_dir() else 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        reporter().progress(done, total)

    return checking.check(folder, read)


def _whole(checked: Checked) -> Contents:
    """What a kit holds, if it is as it was made."""
    bad = checked.problems
    if bad or checked.contents is None:
        more = f"; and {len(bad) - _MOST_SHOWN} more" if len(bad) > _MOST_SHOWN else ""
        raise LabError(
            f"the kit in {checked.folder} is not whole: {'; '.join(map(str, bad[:_MOST_SHOWN]))}{more}",
            hint=f"copy it anew; see all of it: llmlab kit verify {checked.folder}",
        )
    return checked.contents


def _engine(said: Contents, checked: Checked) -> list[Step]:
    """The engine, its image and the tools."""
    held, kit = said.engine, checked.folder
    if held is None:
        return []
    reporter().stage("engine", held.version)
    try:
        found = engine.install(held, kit, checked.sums)
    except EngineError as error:
        # The rest is of use on a machine that has an engine of its own.
        return [Step(part="engine", state="left out", detail=f"{error.message}. {error.hint}")]
    steps = [Step(part="engine", state=found.state, detail=found.detail)]
    if said.tools:
        names = ", ".join(path.rpartition("/")[2] for path in said.tools)
        steps.append(Step(part="tools", state=engine.install_tools(said.tools, kit), detail=names))
    if said.image:
        reporter().stage("image")
        steps.append(_image(kit / said.image, found.build, held.platform, checked))
    return steps


def _image(path: Path, build: EngineBuild, platform: str, checked: Checked) -> Step:
    """Load the image, where a container engine answers that can run it."""
    name = image.name_of(build)
    said = checked.contents
    held = engine.held_build(said.engine, checked.sums, checked.folder) if said and said.engine else None
    if held and held.identity != build.identity:
        return Step(part="image", state="left out", detail="the engine that was here makes its own")
    try:
        api = docker_api.connect()
        api.ping()
    except LabError as error:
        detail = f"{error.message}: models run natively, not isolated. To get a container: {error.hint}"
        return Step(part="image", state="left out", detail=f"{detail}; then install the kit again")
    if api.image_id(name):
        return Step(part="image", state="here", detail=name)
    wanted = str(api.info.get("Architecture") or "").lower()
    if wanted not in {platforms.architecture(platform), archive.architecture(platform)}:
        return Step(part="image", state="left out", detail=f"the container engine runs on {wanted}")
    archive.load(api, path, build)
    return Step(part="image", state="installed", detail=f"{name}, in {api.address}")


def _models(said: Contents, checked: Checked, into: Path) -> list[Step]:
    steps = []
    for model in said.models:
        reporter().stage("models", model.reference)
        state, shown = models.install(model, checked.folder, checked.sums, into)
        detail = "built in" if model.source == "built-in" else f"llmlab start {shown}"
        steps.append(Step(part=f"model {model.reference}", state=state, detail=detail))
    return steps


def _notebooks(written: int, beside: list[str], folder: Path) -> Step:
    detail = f"{folder}"
    if beside:
        shown = ", ".join(beside[:_MOST_SHOWN]) + (", …" if len(beside) > _MOST_SHOWN else "")
        detail += f"; yours are changed and stay, the kit's stand beside them: {shown}"
    return Step(part="notebooks", state="installed" if written else "here", detail=render.plain(detail))
