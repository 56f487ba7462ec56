"""The wheels of a kit: llmlab's own, and all that it needs, for the platforms asked for."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import llmlab
from llmlab.errors import LabError, UsageError
from llmlab.kits import closure, files, platforms
from llmlab.reporting import reporter

FOLDER = "wheels"
EXTRA = "lab,classroom"
WITHOUT = "llama-cpp-python: it is published as source only; the kit's own llama.cpp serves in its place"
_ROUNDS = 8
_TAIL = 8
# What pip has noted about this installation, and what only this installation has.
_NOT_OURS = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
_FULL = "No space left on device"


def own(folder: Path) -> Path:
    """Write llmlab's own wheel, of the very files that run now; returns its path.

    Raises:
        LabError: If llmlab is not installed, so that it has no metadata.
    """
    try:
        installed = metadata.distribution("llmlab")
    except metadata.PackageNotFoundError as error:
        raise LabError(
            "llmlab is not installed, so its requirements are not known", hint="pip install -e ."
        ) from error
    info = f"llmlab-{installed.version}.dist-info"
    path = folder / f"llmlab-{installed.version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in (*_package(), *_metadata(installed, info)):
            wheel.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(data)}")
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return path


def _package() -> Iterator[tuple[str, bytes]]:
    """The package's files, as a wheel names them."""
    root = Path(str(llmlab.__file__)).parent
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            yield f"llmlab/{'/'.join(parts)}", path.read_bytes()


def _metadata(installed: metadata.Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    for file in installed.files or ():
        head, _, name = file.as_posix().partition(".dist-info/")
        if name and "/" not in head and name not in _NOT_OURS:
            yield f"{info}/{name}", Path(str(file.locate())).read_bytes()


def collect(roots: Sequence[str], folder: Path, targets: Sequence[tuple[str, str]]) -> None:
    """Fetch the wheels of some requirements and all they need.

    Args:
        roots: The requirements; the first is of a wheel that lies in the folder.
        folder: Where the wheels go.
        targets: Platforms and versions of Python.

    Raises:
        UsageError: If this Python has no pip.
        LabError: If pip cannot get them.
        DiskSpaceError: If the disk is full.
    """
    if importlib.util.find_spec("pip") is None:
        raise UsageError(
            "fetching wheels needs pip, which this Python does not have",
            hint=f"{sys.executable} -m ensurepip; or leave them out: --without wheels",
        )
    for platform, python in targets:
        reporter().stage("wheels", f"for Python {python} on {platform}")
        wanted = list(roots)
        for _ in range(_ROUNDS):
            _download(wanted, folder, platform, python)
            wanted = closure.unmet(folder, list(roots), platform, python)
            if not wanted:
                break
        else:
            raise LabError(
                f"no wheels for Python {python} on {platform}: {', '.join(wanted)}",
                hint="leave that platform or version out",
            )


def _download(wanted: Sequence[str], folder: Path, platform: str, python: str) -> None:
    """Fetch for one platform: the versions of this environment if they can be had, else the newest."""
    if python == platforms.python_here():
        with tempfile.TemporaryDirectory(prefix="llmlab-kit-") as place:
            pins = Path(place, "constraints.txt")
            pins.write_text("\n".join(_pins()) + "\n", encoding="utf-8")
            if _pip(wanted, folder, platform, python, ["--constraint", str(pins)]).returncode == 0:
                return
        reporter().note("Not all versions of this environment can be had; the newest are taken instead.")
    done = _pip(wanted, folder, platform, python, [])
    if done.returncode == 0:
        return
    if _FULL in done.stdout:
        raise files.no_space(folder, "the wheels")
    raise LabError(
        f"pip could not get the wheels for Python {python} on {platform}",
        hint="check the network and pip's index (`pip config list`), or leave that platform or version out",
        log_tail=[line for line in done.stdout.splitlines() if line.strip()][-_TAIL:],
    )


def _pins() -> Iterator[str]:
    """The versions that are installed here: those that the teacher has tried."""
    for each in metadata.distributions():
        name = each.metadata["Name"]
        if name and name.lower() != "llmlab" and "+" not in each.version:
            yield f"{name}=={each.version}"


def _pip(
    wanted: Sequence[str], folder: Path, platform: str, python: str, more: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
    ]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--find-links", str(folder)]
    command += ["--implementation", "cp", "--python-version", python]
    command += [word for tag in platforms.wheel_platforms(platform) for word in ("--platform", tag)]
    return subprocess.run(
        [*command, *more, *wanted],
        check=False,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A PYTHONPATH meant for a notebook must not reach pip.
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
