"""What Podman wants to be told otherwise, though it speaks Docker's API.

Seen with Podman 4.3 and 5.8. Everything else in a request means the same to both.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmlab import runtime
from llmlab.isolation.filters import filter_file

# Under a read-only root Podman makes these writable, and programs in them can be run.
_OPENED = ("/run", "/var/tmp")  # noqa: S108 - of the container's
_CLOSED = "ro,nosuid,nodev,noexec,size=64k,mode=755"


def adapted(request: dict[str, Any]) -> dict[str, Any]:
    """A "create container" request as Podman takes it, with the same meaning."""
    host = dict(request.get("HostConfig") or {})
    host["SecurityOpt"] = [_option(option) for option in host.get("SecurityOpt") or ()]
    if host.get("ReadonlyRootfs"):
        host["Tmpfs"] = {**dict.fromkeys(_OPENED, _CLOSED), **(host.get("Tmpfs") or {})}
    log = host.get("LogConfig") or {}
    if log.get("Type") == "local":
        size = (log.get("Config") or {}).get("max-size")
        host["LogConfig"] = {"Type": "k8s-file", "Config": {"max-size": size} if size else {}}
    if host.get("NanoCpus"):
        # Its own record has both, and it takes one of them.
        host = {key: value for key, value in host.items() if key not in {"CpuPeriod", "CpuQuota"}}
    host["Mounts"] = [_mount(mount) for mount in host.get("Mounts") or ()]
    return {**request, "HostConfig": host}


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
