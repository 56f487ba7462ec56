"""Asking the container engine, whatever its state, within seconds.

The `docker` package is not used: it may be missing, and its calls wait for as
long as a daemon hangs. Where the engine cannot be asked directly (TLS, ssh, a
Windows pipe), the `docker` command asks it.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

WAIT_S = 3.0
"""How long the engine has for each answer."""
_USUAL = "unix:///var/run/docker.sock"
_MOST_BYTES = 4_000_000
_DETAIL = 200
# Of `docker info`, what the checks look at: the rest may hold passwords of proxies.
INFO = (
    "Architecture", "CDISpecDirs", "CPUShares", "CgroupDriver", "CgroupVersion", "CpuCfsPeriod", "CpuCfsQuota",
    "DefaultRuntime", "DiscoveredDevices", "DockerRootDir", "Driver", "DriverStatus", "KernelVersion",
    "LiveRestoreEnabled", "MemTotal", "MemoryLimit", "NCPU", "OSType", "OperatingSystem", "PidsLimit", "Runtimes",
    "SecurityOptions", "ServerVersion", "SwapLimit", "Warnings",
)  # fmt: skip


def ask() -> dict[str, Any]:
    """What can be learnt of the engine that the user's environment names."""
    address, source, tls = _address()
    found: dict[str, Any] = {"address": _without_password(address), "source": source, "tls": tls}
    if address.startswith("unix://"):
        path = Path(address.removeprefix("unix://"))
        with suppress(OSError):
            found["socket"] = _socket(path)
    try:
        if address.startswith("unix://") or (address.startswith(("tcp://", "http://")) and not tls):
            found["version"] = _get(address, "/version")
            info = _get(address, "/info")
        else:
            found["version"] = _by_command("version").get("Server")
            info = _by_command("info")
        found["info"] = {key: info[key] for key in INFO if key in info}
    except (OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError) as error:
        found |= {"error": _kind(error), "detail": (str(error) or type(error).__name__)[:_DETAIL]}
    return found


def _address() -> tuple[str, str, bool]:
    """Where the engine is, who says so, and whether TLS protects it."""
    environment = os.environ
    if host := environment.get("DOCKER_HOST"):
        return host, "DOCKER_HOST", bool(environment.get("DOCKER_TLS_VERIFY"))
    folder = Path(environment.get("DOCKER_CONFIG") or Path.home() / ".docker")
    name = environment.get("DOCKER_CONTEXT") or ""
    if not name:
        with suppress(OSError, ValueError, AttributeError):
            name = str(
                json.loads((folder / "config.json").read_text(encoding="utf-8")).get("currentContext") or ""
            )
    if name not in {"", "default"}:
        for path in folder.glob("contexts/meta/*/meta.json"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                context = json.loads(path.read_text(encoding="utf-8"))
                if context["Name"] == name:
                    tls = (folder / "contexts" / "tls" / path.parent.name / "docker").is_dir()
                    return str(context["Endpoints"]["docker"]["Host"]), f"context {name}", tls
        return "", f"context {name}", False
    return ("npipe:////./pipe/docker_engine" if os.name == "nt" else _USUAL), "default", False


def _socket(path: Path) -> dict[str, Any]:
    seen = path.stat()
    return {
        "mode": stat.filemode(seen.st_mode),
        "uid": seen.st_uid,
        "group": _group_name(seen.st_gid),
        "for_all": bool(seen.st_mode & stat.S_IWOTH) and _all_reach(path),
        "writable": os.access(path, os.W_OK),
    }


def _all_reach(path: Path) -> bool:
    """Whether anybody may pass through the directories above a file."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def _group_name(number: int) -> str:
    try:
        import grp  # noqa: PLC0415 - not on Windows

        return grp.getgrgid(number).gr_name
    except (ImportError, KeyError):
        return str(number)


class _OverUnix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=WAIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(self._path)


def _get(address: str, path: str) -> dict[str, Any]:
    scheme, _, rest = address.partition("://")
    connection: http.client.HTTPConnection
    connection = _OverUnix(rest) if scheme == "unix" else http.client.HTTPConnection(rest, timeout=WAIT_S)
    try:
        connection.request("GET", path, headers={"Host": "docker"})
        response = connection.getresponse()
        body = _body(response)
        if response.status != http.client.OK:
            raise ValueError(f"{path}: status {response.status}")
        found = json.loads(body)
    finally:
        connection.close()
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not what an engine answers")  # noqa: TRY004 - what came is wrong, not a type
    return found


def _body(response: http.client.HTTPResponse) -> bytes:
    """All of it, or a time-out: an engine may also send a byte now and then."""
    deadline = time.monotonic() + WAIT_S
    body = b""
    while piece := response.read1(_MOST_BYTES):
        body += piece
        if time.monotonic() > deadline or len(body) > _MOST_BYTES:
            raise TimeoutError("the answer does not end")
    return body


def _by_command(verb: str) -> dict[str, Any]:
    program = shutil.which("docker")
    if program is None:
        raise ValueError("only the docker command can ask an engine there, and it is not installed")
    done = subprocess.run(
        [program, verb, "--format", "{{json .}}"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if not done.stdout.strip():
        raise ValueError(done.stderr.strip() or f"docker {verb} says nothing")
    found = json.loads(done.stdout)
    if not isinstance(found, dict) or (verb == "version" and not found.get("Server")):
        raise ValueError(done.stderr.strip() or "no engine answers")
    return found


def _kind(error: Exception) -> str:
    """One word for what is wrong."""
    if isinstance(error, (TimeoutError, subprocess.TimeoutExpired)):
        return "hangs"
    number = getattr(error, "errno", None)
    if isinstance(error, PermissionError) or number in {errno.EACCES, errno.EPERM}:
        return "permission"
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "unreachable" if isinstance(error, OSError) else "strange"


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*:[^/@]*@", "//…@", address)


def tidy_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What of the environment matters here; of most variables only that they are set."""
    shown = {"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "WSL_DISTRO_NAME"}
    asked = (
        *shown, "WSL_INTEROP", "COLAB_RELEASE_TAG", "BINDER_SERVICE_HOST", "BINDER_REPO_URL", "VSCODE_PID",
        "VSCODE_CWD", "JPY_PARENT_PID", "JUPYTERHUB_USER", "KAGGLE_KERNEL_RUN_TYPE", "CONDA_PREFIX",
        "LLMLAB_LLAMA_SERVER", "LLMLAB_RUNTIME_DIR",
    )  # fmt: skip
    return {
        name: _without_password(environment[name]) if name in shown else "set"
        for name in sorted(asked)
        if environment.get(name)
    }
