"""The offline kit: a folder from which a room of machines is set up without a network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, get_args

from llmlab.arguments import Arg
from llmlab.errors import UnknownNameError, UsageError
from llmlab.kits import building, installing, wishes
from llmlab.kits.platforms import here
from llmlab.kits.views import Built, Installed, Part, Step, Verified
from llmlab.reporting import reporter

__all__ = ["Action", "Built", "Installed", "Part", "Step", "Verified", "kit"]

Action = Literal["build", "verify", "install"]
_STAGES = {
    "build": ("engine", "image", "models", "wheels", "notebooks", "checksums"),
    "verify": ("verify",),
    "install": ("verify", "engine", "image", "models", "notebooks"),
}


def kit(
    action: Annotated[Action, Arg(metavar="build|verify|install")],
    folder: Annotated[str | Path, Arg(completes="path")],
    *,
    manifest: Annotated[str | None, Arg(metavar="FILE", completes="path")] = None,
    models: Annotated[str | None, Arg(metavar="LIST", completes="model")] = None,
    platforms: Annotated[str | None, Arg(metavar="LIST")] = None,
    python: Annotated[str | None, Arg(metavar="LIST")] = None,
    notebooks: Annotated[str | None, Arg(metavar="DIR", completes="path")] = None,
    without: Annotated[str | None, Arg(metavar="LIST")] = None,
    into: Annotated[str, Arg(metavar="DIR", completes="path")] = "~/llmlab-class",
) -> Built | Verified | Installed:
    """Make a folder that sets up machines without a network, verify it, or install from it.

    build needs a network for the wheels; verify and install use none. On a
    machine without llmlab, `sh install.sh` in the kit installs it first. The exit
    status of verify is 1 if the kit is not as it was made.

    Args:
        action: What to do.
        folder: The kit: a folder on a stick, say. To build, it must be empty or not there yet.
        manifest: build: a JSON file that lists what goes in, with the keys models,
            platforms, python, notebooks, without. Options go before it.
        models: build: models that are on this machine, such as
            tiny,qwen2.5-0.5b,./my.gguf. Unset: tiny, which is built in.
        platforms: build: for which machines: linux-x86_64 (and Windows with WSL 2),
            linux-aarch64, macos-arm64, macos-x86_64. Unset: such as this one.
        python: build: for which versions of Python, such as 3.11,3.12. Unset: this one's.
        notebooks: build: the folder of the notebooks. Unset: llmlab's own.
        without: build: parts that are left out: engine, image, models, wheels, notebooks.
        into: install: the folder for notebooks and model files.

    Raises:
        UsageError: The folder is no kit, or not empty; or an option says what cannot be.
        LabError: The kit is not whole, cannot be written, or its wheels cannot be had.
    """
    if action not in get_args(Action):
        raise UnknownNameError("action", action, get_args(Action))
    options = {
        "models": models,
        "platforms": platforms,
        "python": python,
        "notebooks": notebooks,
        "without": without,
    }
    place = Path(folder).expanduser().absolute()
    given = [name for name, value in {"manifest": manifest, **options}.items() if value is not None]
    if action != "build" and given:
        raise UsageError(
            f"--{given[0]} is for kit build, not for kit {action}", hint=f"leave it out: kit {action} FOLDER"
        )
    with _reported(action):
        if action == "build":
            return building.build(place, wishes.wish(manifest, options))
        if action == "install":
            return installing.install(place, Path(into).expanduser().absolute())
        return _verify(place)


def _verify(folder: Path) -> Verified:
    started = time.monotonic()
    found = installing.check(folder)
    return Verified(
        folder=folder,
        problems=found.problems,
        files=len(found.sums),
        file_bytes=found.file_bytes,
        contents=found.contents,
        platform=here(),
        seconds=time.monotonic() - started,
    )


@contextmanager
def _reported(action: Action) -> Iterator[None]:
    report = reporter()
    report.begin(f"kit {action}", _STAGES[action])
    failed = True
    try:
        yield
        failed = False
    finally:
        report.end(failed=failed)
