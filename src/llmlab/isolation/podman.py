"""What Podman wants to be told otherwise, though it speaks Docker's API.

Seen with Podman 4.3 and 5.8. Everything else in a request means the same to both.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from llmlab import runtime
from llmlab.isolation.filters import filter_file
from llmlab.isolation.profile import CLOSED

OPENED: Final = ("/run", "/tmp", "/var/tmp")  # noqa: S108 - of the container's
"""Under a read-only root Podman makes these writable, and programs in them can be run: they are closed."""
DEFAULT_CAPABILITIES: Final[list[str]] = str.split(
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID SYS_CHROOT"
)
"""What it leaves to a container that is told nothing."""


def adapted(request: dict[str, Any]) -> dict[str, Any]:
    """A "create container" request as Podman takes it, with the same meaning."""
    host = dict(request.get("HostConfig") or {})
    host["SecurityOpt"] = [_option(option) for option in host.get("SecurityOpt") or ()]
    if host.get("MaskedPaths") == [] and host.get("ReadonlyPaths") == []:
        # It takes no notice of these lists; this is its word for both of them being empty.
        host["SecurityOpt"].append("unmask=ALL")
    if host.get("ReadonlyRootfs"):
        host["Tmpfs"] = {**dict.fromkeys(OPENED, CLOSED), **(host.get("Tmpfs") or {})}
    log = host.get("LogConfig") or {}
    if log.get("Type") == "local":
        size = (log.get("Config") or {}).get("max-size")
        host["LogConfig"] = {"Type": "k8s-file", "Config": {"max-size": size} if size else {}}
    if host.get("NanoCpus"):
        # Its own record has both, and it takes one of them.
        host = {key: value for key, value in host.items() if key not in {"CpuPeriod", "CpuQuota"}}
    # Its own record calls them RLIMIT_NOFILE and the like, and it does not take that back.
    host["Ulimits"] = [
        {**limit, "Name": str(limit["Name"]).lower().removeprefix("rlimit_")}
        for limit in host.get("Ulimits") or ()
    ]
    host["Mounts"] = [_mount(mount) for mount in host.get("Mounts") or ()]
    return {**request, "HostConfig": host}


def log_in_force(init: int | None, container_id: str) -> tuple[str, int | None] | None:
    """How a container's log is written, and its bound in bytes, as its monitor was told.

    Podman's record in Docker's words holds no bound. None if it cannot be seen.

    Args:
        init: The container's first process. Its parent is the monitor: nothing
            in the container can pass itself off as that.
        container_id: The container.
    """
    try:
        status = Path(f"/proc/{init}/status").read_text(encoding="utf-8", errors="replace")
        parent = re.search(r"^PPid:\t(\d+)$", status, re.MULTILINE)
        raw = Path(f"/proc/{parent[1] if parent else 0}/cmdline").read_bytes()
    except OSError:
        return None
    words = raw.decode(errors="replace").split("\0")
    told = dict(pairwise(words))
    if told.get("-c") != container_id or "-l" not in told:
        return None
    size = told.get("--log-size-max", "")
    return told["-l"].partition(":")[0], int(size) if size.isdigit() and int(size) else None


def _option(option: str) -> str:
    """A filter is named by its path; Docker's API takes its content."""
    name, _, value = option.partition("=")
    if name == "seccomp" and value.startswith("{"):
        return f"seccomp={filter_file(value)}"
    return option


def _mount(mount: dict[str, Any]) -> dict[str, Any]:
    """Podman joins a mount's parts with commas and takes them apart again.

    A path with a comma would so become options. It follows a link that has none.
    """
    source = str(mount.get("Source") or "")
    if mount.get("Type") != "bind" or "," not in source:
        return mount
    folder = runtime.cache_dir() / "links"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / hashlib.sha256(os.fsencode(source)).hexdigest()[:16]
    with suppress(FileExistsError):
        link.symlink_to(Path(source))
    return {**mount, "Source": str(link)}
