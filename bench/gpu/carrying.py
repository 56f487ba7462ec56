"""Fetch, on a machine with a network, what a machine without one needs; and use it there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from bench.gpu.parts import BUNDLES, CARRIED, LIMIT_MIB
from llmlab.builds import locate, source
from llmlab.errors import LabError

_ARCHIVE = "llama.cpp.tar.xz"
_DEBIAN = ("docker.io", "containerd", "runc", "tini", "libdevmapper1.02.1", "libseccomp2")
# Models come from nowhere but this machine, so the hub's package is left out.
_LEFT_OUT = ("huggingface-hub",)
_PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_28_x86_64")
_TIMEOUT_S = 900


def fetch(folder: Path, names: Sequence[str]) -> int:
    """Bring bundles into a folder, each into one of its own, and tell their sizes; 1 if one is too large for a call.

    Args:
        folder: Where they go.
        names: The bundles.

    Raises:
        LabError: If one cannot be had.
    """
    too_large = False
    for name in names:
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        {"python": _python, "source": _source, "engine": _engine}[name](target)
        mib = sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / (1 << 20)
        too_large |= mib > LIMIT_MIB
        note = f"; more than {LIMIT_MIB} MiB, carry it in parts" if mib > LIMIT_MIB else ""
        print(f"{name:<8} {mib:5.1f} MiB  {target}: {BUNDLES[name].what}{note}")
    return int(too_large)


def put_source() -> None:
    """Put the carried source where `llmlab build --gpu cuda` looks for what it has fetched; nothing if there is none."""
    archive = Path(os.environ.get(CARRIED, ""), "source", _ARCHIVE)
    target = locate.own_dir("cuda")
    work = target.with_name(f".{target.name}.work")
    if not os.environ.get(CARRIED) or not archive.is_file() or (work / "source").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as partial, tarfile.open(archive) as tar:
        tar.extractall(partial, filter="data")
        (Path(partial) / "source").rename(work / "source")


def _python(target: Path) -> None:
    wanted = [
        line.partition(";")[0].strip() for line in metadata.requires("llmlab") or () if "extra ==" not in line
    ]
    _wheels(target, [line for line in wanted if not line.startswith(_LEFT_OUT)])


def _source(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = source.tree(Path(folder))
        with tarfile.open(target / _ARCHIVE, "w:xz") as tar:
            tar.add(tree, arcname="source")
    _wheels(target, ["cmake", "ninja"])


def _wheels(target: Path, wanted: Sequence[str]) -> None:
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--python-version", "3.12", *platforms]
    _run([*command, "--only-binary=:all:", "--dest", str(target), *wanted], target)


def _engine(target: Path) -> None:
    _run(["apt-get", "download", *_DEBIAN], target)


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{command[0]} could not be run: {error}") from None
    if done.returncode:
        raise LabError(f"{' '.join(command[:4])} … failed", log_tail=done.stderr.splitlines()[-5:])
