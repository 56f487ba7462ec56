"""Binder on this machine: an environment made from binder/ alone, and sessions as Binder gives them.

repo2docker's order is kept: packages of apt.txt, the Python of runtime.txt,
requirements.txt before the rest of the repository is there, the repository,
postBuild, and `start` before each session. It all lies at Binder's paths, in
namespaces of its own, and belongs to user 1000. A session has no network, no
socket of a container engine, and a control group with a memory limit.

What is this machine's own is the system (/usr), and llama.cpp where it has been
compiled already: postBuild then finds it instead of compiling.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.binder_lock import BINDER, REPOSITORY, python_version
from tools.limits import Limit, LimitError, prove

from llmlab.builds import locate

# What repo2docker looks for in binder/ (its documentation, "Configuration files").
KNOWN = frozenset({
    "Project.toml", "Manifest.toml", "Pipfile", "Pipfile.lock", "DESCRIPTION", "REQUIRE", "apt.txt",
    "default.nix", "environment.yml", "install.R", "postBuild", "requirements.txt", "runtime.txt", "start",
})  # fmt: skip
USER = 1000
# A session's guaranteed memory at mybinder.org; it may have up to twice as much.
LIMIT_MIB = 1024

_HOME, _ENV = "/home/jovyan", "/srv/conda/envs/notebook"
_LAYERS = REPOSITORY / "build" / "binder"
_TOOLS = ("unshare", "setpriv", "mount", "ip")
_PASSED = ("PIP_", "SSL_", "REQUESTS_", "http_proxy", "https_proxy", "no_proxy", "HTTP_", "HTTPS_", "NO_")

# As root in new namespaces. /mnt holds the image while the places that it covers change.
_ENTER = r"""
set -euo pipefail
mount --bind "$IMAGE" /mnt
for place in /home /srv; do mount -t tmpfs -o mode=755 tmpfs "$place"; done
mkdir -p /home/jovyan "$ENV_AT"
mount --bind /mnt/home /home/jovyan
mount --bind /mnt/env "$ENV_AT"
if [ -n "${GROUP:-}" ]; then
  mount --bind "$GROUP" "$GROUP_AT"
  mount -t tmpfs -o mode=755 tmpfs /run
  [ /var/run -ef /run ] || mount -t tmpfs -o mode=755 tmpfs /var/run
  ip link set lo up
fi
mount -t tmpfs -o mode=755 tmpfs "$CHECKOUT"
mount --bind /mnt/tmp /tmp
umount /mnt
cd /home/jovyan
exec setpriv --reuid="$ID" --regid="$ID" --clear-groups --no-new-privs --inh-caps=-all \
  env --ignore-environment "$@"
"""
# Jupyter's server takes part of a session's memory.
_WITH_SERVER = r"""
jupyter lab --no-browser --ip=127.0.0.1 --port=8888 --ServerApp.port_retries=0 >.jupyter.log 2>&1 &
until (exec 3<>/dev/tcp/127.0.0.1/8888) 2>/dev/null; do
  kill -0 $! || { cat .jupyter.log; exit 3; }
  sleep 0.2
done
"$@"
"""


class BinderError(RuntimeError):
    """The environment could not be made, or no session like Binder's can be had here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """How a session went.

    Attributes:
        status: The command's exit status.
        output: What it wrote, both streams.
        peak_mib: Most memory that its processes held (without the files' cache), MiB.
        killed: Whether the memory limit ended a process.
    """

    status: int
    output: str
    peak_mib: int
    killed: bool


@functools.cache
def unavailable() -> str:
    """Why there can be no session like Binder's on this machine; "" if there can be one."""
    if sys.platform != "linux" or os.getuid():
        return "Binder's namespaces and memory limit need Linux and root"
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        return f"it needs {', '.join(missing)} (Debian: util-linux, iproute2)"
    try:
        _python()
        prove(LIMIT_MIB)
    except (BinderError, LimitError) as error:
        return str(error)
    return ""


@contextmanager
def image() -> Iterator[Path]:
    """The environment, made from binder/ and the files of this checkout.

    Yields:
        Its folder: `home` with the repository, `env` with Python, `tmp`.

    Raises:
        BinderError: A step failed; its output is in the message.
    """
    _check_files()
    _check_packages()
    _LAYERS.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="image-", dir=_LAYERS))
    try:
        folder.chmod(0o755)
        _add_environment(folder)
        _add_repository(folder)
        _add_engine(folder / "home")
        _build_step(folder, ["bash", "-c", "chmod +x binder/postBuild binder/start && ./binder/postBuild"])
        yield folder
    finally:
        _remove(folder)


def session(
    place: Path,
    command: Sequence[str],
    *,
    limit_mib: int = LIMIT_MIB,
    server: bool = True,
    variables: Mapping[str, str] | None = None,
) -> Session:
    """Run a command as Binder runs Jupyter: after `start`, limited, without a network.

    Args:
        place: The folder of an `image`.
        command: What to run, in the repository.
        limit_mib: Memory for all its processes together, MiB.
        server: Whether a Jupyter server runs beside it, as it does at Binder.
        variables: More of the environment.

    Raises:
        LimitError: The limit could not be set.
    """
    wrapped = ["bash", "-c", _WITH_SERVER, "server", *command] if server else list(command)
    with Limit(limit_mib) as limit:
        done = limit.run(
            [*_entered(network=False), "BINDER_LAUNCH_HOST=https://binder.example/"]
            + [f"{name}={value}" for name, value in (variables or {}).items()]
            + ["./binder/start", *wrapped],
            env=_variables(place, {"GROUP": str(limit.folder), "GROUP_AT": str(limit.seen_at)}),
        )
        return Session(
            status=done.returncode,
            output=done.stdout,
            peak_mib=limit.peak_mib,
            killed=limit.kills > 0,
        )


# The steps of the build


def _check_files() -> None:
    if strange := {path.name for path in BINDER.iterdir()} - KNOWN:
        raise BinderError(f"repo2docker does not know {', '.join(sorted(strange))} of binder/")


def packages() -> list[str]:
    """The Debian packages of apt.txt, by repo2docker's rules.

    Raises:
        BinderError: A line is no name of a package.
    """
    lines = (BINDER / "apt.txt").read_text(encoding="utf-8").splitlines()
    names = [name for line in lines if (name := line.partition("#")[0].strip())]
    if wrong := [name for name in names if not re.fullmatch(r"[a-z0-9.+-]+", name)]:
        raise BinderError(f"apt.txt: {wrong[0]!r} is no name of a package")
    return names


def _check_packages() -> None:
    """Each package has to be installed; a system for tests is not changed by them."""
    for name in packages():
        found = subprocess.run(
            ["dpkg-query", "--show", "--showformat=${Status}", name],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.stdout != "install ok installed":
            raise BinderError(f"apt.txt names {name}, which is not installed here: apt-get install {name}")


def _python() -> str:
    """A Python of the version of runtime.txt that everybody may run, with venv."""
    name = f"python{python_version()}"
    tried = [shutil.which(name), f"/usr/bin/{name}", f"/usr/local/bin/{name}"]
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    for path in filter(None, tried):
        if Path(path).exists():
            test = [*drop, path, "-c", "import venv, ensurepip"]
            if subprocess.run(test, capture_output=True, check=False).returncode == 0:
                return path
    raise BinderError(f"runtime.txt asks for {name} with venv, which is not here for all users")


def _add_environment(folder: Path) -> None:
    """Python and requirements.txt; kept for the next time, as a layer of an image would be."""
    requirements = (BINDER / "requirements.txt").read_bytes()
    python = _python()
    key = hashlib.sha256(requirements + python.encode() + _ENV.encode()).hexdigest()[:12]
    layer = _LAYERS / f"env-{key}"
    if not layer.is_dir():
        making = Path(tempfile.mkdtemp(prefix="making-", dir=_LAYERS))
        try:
            making.chmod(0o755)
            for name in ("home", "env", "tmp"):
                _own_folder(making / name)
            (making / "home" / "binder").mkdir()
            (making / "home" / "binder" / "requirements.txt").write_bytes(requirements)
            _build_step(making, [python, "-m", "venv", _ENV])
            install = ["python", "-m", "pip", "install", "--no-cache-dir", "--quiet"]
            _build_step(making, [*install, "-r", "binder/requirements.txt"])
            for old in _LAYERS.glob("env-*"):
                _remove(old)
            _copy(making / "env", layer)
        finally:
            _remove(making)
    _copy(layer, folder / "env")


def _add_repository(folder: Path) -> None:
    """The files that a clone would have: tracked ones, and new ones that git does not ignore."""
    for name in ("home", "tmp"):
        _own_folder(folder / name)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = REPOSITORY / name, folder / "home" / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    _give(folder / "home")


def _add_engine(home: Path) -> None:
    """The llama.cpp that was compiled on this machine, where postBuild's `llmlab build` looks for one."""
    own = locate.own_dir()
    if locate.own_build() and own.is_dir():
        target = home / ".cache" / "llmlab" / "engines" / own.name
        target.parent.mkdir(parents=True)
        shutil.copytree(own, target, symlinks=True)
        _give(home / ".cache")


def _own_folder(path: Path) -> None:
    path.mkdir()
    os.chown(path, USER, USER)


def _copy(source: Path, target: Path) -> None:
    """All of a folder, owners included, as links: nothing writes into a file that is there already.

    A part of it never has the target's name.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}")
    subprocess.run(["cp", "--archive", "--link", str(source), str(part)], check=True)
    part.rename(target)


def _remove(path: Path) -> None:
    subprocess.run(["rm", "--recursive", "--force", str(path)], check=True)


def _give(path: Path) -> None:
    subprocess.run(["chown", "--recursive", f"{USER}:{USER}", str(path)], check=True)


def _build_step(folder: Path, command: Sequence[str]) -> None:
    passed = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(_PASSED)]
    done = subprocess.run(
        [*_entered(network=True), *passed, *command],
        env=_variables(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise BinderError(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")


def _entered(*, network: bool) -> list[str]:
    """The command that goes into the image; what is to run follows, variables first."""
    spaces = ["--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    spaces += [] if network else ["--net"]
    own = {
        "PATH": f"{_ENV}/bin:{_HOME}/.local/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": _HOME,
        "REPO_DIR": _HOME,
        "USER": "jovyan",
        "NB_USER": "jovyan",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }
    return ["unshare", *spaces, "bash", "-c", _ENTER, "enter", *(f"{k}={v}" for k, v in own.items())]


def _variables(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the script that enters the image goes by."""
    return {
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin",
        "IMAGE": str(folder),
        "ENV_AT": _ENV,
        "CHECKOUT": str(REPOSITORY),
        "ID": str(USER),
        **(more or {}),
    }
