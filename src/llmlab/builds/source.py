"""The source of llama.cpp: the package of llama-cpp-python, fetched by pip and pinned by hash."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from llmlab.errors import BuildError

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
ARCHIVE = f"llama_cpp_python-{VERSION}.tar.gz"
_VENDOR = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
# Nothing is compiled from these, and they are most of the archive.
_UNUSED = ("docs/", "media/", "models/", "gguf-py/", ".github/", ".devops/", ".git/")


def tree(work: Path) -> Path:
    """llama.cpp's source tree in `work`, fetched and unpacked if it is not there yet.

    Raises:
        BuildError: If pip cannot get it, or it is not the pinned one.
    """
    target = work / "source"
    if not target.is_dir():
        archive = fetch(work)
        unpack(archive, target)
        archive.unlink()
    return target


def fetch(work: Path) -> Path:
    """The source archive.

    pip does the fetching, so that the user's index, proxy and certificates
    hold, and so that its own cache serves the Python package a second time.
    """
    archive = work / ARCHIVE
    if archive.is_file() and sha256_of(archive) == SHA256:
        return archive
    if importlib.util.find_spec("pip") is None:
        raise BuildError(
            "fetching the source of llama.cpp needs pip, which this Python does not have",
            hint=f"{sys.executable} -m ensurepip (or, with uv: uv pip install pip)",
        )
    requirement = work / "requirement.txt"
    requirement.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
    command += ["--require-hashes", "--progress-bar", "off", "--dest", str(work), "-r", str(requirement)]
    if importlib.util.find_spec("scikit_build_core"):
        # pip insists on the package's metadata; with its build tool at hand
        # nothing else has to be fetched for that.
        command.append("--no-build-isolation")
    try:
        done = subprocess.run(
            command,
            check=False,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A PYTHONPATH meant for a notebook must not reach pip's own build steps.
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
    finally:
        requirement.unlink(missing_ok=True)
    if done.returncode or not archive.is_file():
        raise BuildError(
            f"pip could not get the source of llama.cpp (llama-cpp-python {VERSION})",
            hint="check the network and pip's index (`pip config list`); "
            "or point LLMLAB_LLAMA_SERVER to a llama-server that you have",
            log_tail=_tail(done.stdout),
        )
    if sha256_of(archive) != SHA256:
        archive.unlink()
        raise BuildError(f"the source of llama-cpp-python {VERSION} is not the one that is pinned")
    return archive


def unpack(archive: Path, target: Path) -> None:
    """Put llama.cpp's own tree from the archive at `target`, complete or not at all."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(_VENDOR)
            if name == member.name or name.startswith(_UNUSED) or not member.isfile():
                continue
            # By hand, since tarfile's extraction filters are not in every
            # Python 3.10; the archive is pinned, and this path stays inside all the same.
            path = (partial / name).resolve()
            if not path.is_relative_to(partial.resolve()):
                raise BuildError(f"the source archive has a file outside its tree: {member.name}")
            stream = tar.extractfile(member)
            if stream is None:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                shutil.copyfileobj(stream, file)
            path.chmod(0o755 if member.mode & 0o100 else 0o644)
    partial.rename(target)


def sha256_of(path: Path) -> str:
    """The hash of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _tail(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()][-8:]
