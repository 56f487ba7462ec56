"""The isolation that can be asked for, as frozen data.

A profile says what is wanted; `llmlab.isolation` turns it into the container
engine's words and compares it with what came of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from llmlab.errors import UnknownNameError, UsageError

ProfileName = Literal["sealed", "gpu", "exposed", "video", "none"]
Network = Literal["none", "bridge", "host"]
Seccomp = Literal["unix", "loopback", "default", "unconfined"]
Transport = Literal["socket", "relay", "sidecar", "port"]
Namespace = Literal["ipc", "pid", "uts"]
GpuMaker = Literal["nvidia", "amd", "intel"]

_USER = re.compile(r"\d{1,10}(:\d{1,10})?")
_GPU_WORDS = re.compile(r"(?:(?P<maker>device|amd|intel)=)?(?P<names>[^=]*)")
# An index, the index of a MIG (Multi-Instance GPU) slice on it, or NVIDIA's name for either.
_GPU_NAMES = {
    "nvidia": re.compile(r"\d{1,3}(:\d{1,3})?|GPU-[0-9a-zA-Z-]{1,36}|MIG-[0-9a-zA-Z/-]{8,60}"),
    "amd": re.compile(r"\d{1,3}"),
    "intel": re.compile(r"\d{1,3}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRequest:
    """The GPUs that are asked for, as `docker run --gpus` has it: all, a number of them, or some by name.

    Attributes:
        maker: Whose they are.
        count: How many; None for all, or for those that are named.
        names: Indices, indices of MIG slices such as "0:1", or UUIDs.
    """

    maker: GpuMaker = "nvidia"
    count: int | None = None
    names: tuple[str, ...] = ()

    @property
    def all(self) -> bool:
        """Whether it is all that there are."""
        return self.count is None and not self.names

    def __str__(self) -> str:
        """The words that mean it."""
        if self.names:
            return f"{'device' if self.maker == 'nvidia' else self.maker}={','.join(self.names)}"
        if self.maker == "nvidia":
            return "all" if self.count is None else str(self.count)
        return f"{self.maker}=all" if self.count is None else self.maker


def parse_gpus(text: str) -> GpuRequest:
    """The GPUs that words such as "all", "1", "device=0,1" or "amd" ask for.

    Raises:
        UsageError: If they ask for none.
    """
    words = text.strip().strip("\"'")
    if words in {"amd", "intel"}:
        return GpuRequest(maker="amd" if words == "amd" else "intel", count=1)
    match = _GPU_WORDS.fullmatch(words)
    if not match or (match["maker"] == "device" and match["names"] == "all"):
        raise _no_gpus(text)
    maker: GpuMaker = "amd" if match["maker"] == "amd" else "intel" if match["maker"] == "intel" else "nvidia"
    if match["names"] == "all":
        return GpuRequest(maker=maker)
    names = tuple(dict.fromkeys(match["names"].split(",")))
    if not all(_GPU_NAMES[maker].fullmatch(name) for name in names):
        raise _no_gpus(text)
    if match["maker"] is None and len(names) == 1 and "," not in words:
        # Docker's word for a number of GPUs, not for the GPU of that number.
        if not words.isdecimal() or not int(words):
            raise UsageError(
                f"{text!r} is no number of GPUs", hint=f"write device={words} for the GPU that is called so"
            )
        return GpuRequest(count=int(words))
    return GpuRequest(maker=maker, names=names)


def _no_gpus(text: str) -> UsageError:
    return UsageError(
        f"{text!r} names no GPUs",
        hint="write all, a number of them, device=0 or device=0,1, a UUID as nvidia-smi -L shows it "
        "(device=GPU-… or device=MIG-…), amd or amd=0, intel or intel=0",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file, directory or volume inside the container.

    Attributes:
        source: Path on the host, or a volume's name.
        target: Path in the container.
        read_only: Whether it can only be read.
        volume: Whether the source is a volume of the container engine's.
    """

    source: str
    target: str
    read_only: bool = True
    volume: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The isolation asked for; the defaults are the sealed profile's.

    Attributes:
        name: The profile that it is or was made from.
        network: Docker's network mode. With "none" there is a loopback
            interface and nothing else: no egress of any kind.
        publish: The model's port is published on all addresses of the machine,
            without a key, as `docker run -p` does.
        expose: An endpoint for other tools, on loopback, with a key.
        read_only: The root file system cannot be written.
        models_read_only: The model's files cannot be written.
        drop_capabilities: Capabilities taken away.
        add_capabilities: Capabilities given in spite of that.
        no_new_privileges: setuid programs gain nothing.
        seccomp: The system-call filter: Docker's default with sockets of the
            unix family only ("unix"), with those of the internet family as well for
            engines that need their own loopback interface ("loopback"), the container
            engine's own, or none.
        user: "caller" (the user who starts it; nobody, if that is root),
            "image" (whatever the image says: root), or `uid[:gid]`.
        memory: Memory is limited.
        cpus: CPU time is limited.
        pids: Number of processes and threads; None for no limit.
        open_files: Limit of open files; None for the engine's.
        scratch_mib: Size of the one writable directory, a tmpfs, in MiB; None for none.
        scratch_exec: Programs in it can be run.
        share: Namespaces shared with the host.
        privileged: Docker's `--privileged`: everything allowed.
        gpus: The GPUs, in words that `parse_gpus` takes, or None for none.
        init: A small PID 1 that reaps and passes signals on.
        log_mib: Size at which the engine's log is rotated, in MiB; two are
            kept. None for the engine's own way.
        mounts: Further files of the host.
    """

    name: ProfileName = "sealed"
    network: Network = "none"
    publish: bool = False
    expose: bool = False
    read_only: bool = True
    models_read_only: bool = True
    drop_capabilities: tuple[str, ...] = ("ALL",)
    add_capabilities: tuple[str, ...] = ()
    no_new_privileges: bool = True
    seccomp: Seccomp = "unix"
    user: str = "caller"
    memory: bool = True
    cpus: bool = True
    pids: int | None = 256
    # Fewer than `pids`: llama-server makes threads for connections, and aborts where it may not make one.
    open_files: int | None = 192
    scratch_mib: int | None = 64
    scratch_exec: bool = False
    share: tuple[Namespace, ...] = ()
    privileged: bool = False
    gpus: str | None = None
    init: bool = True
    log_mib: int | None = 5
    mounts: tuple[Mount, ...] = ()

    @property
    def changes(self) -> tuple[str, ...]:
        """What differs from the profile of that name, such as "network bridge"."""
        base = PROFILES[self.name]
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return tuple(_said(name, value) for name, value in values if value != getattr(base, name))

    @property
    def label(self) -> str:
        """Its name, and that something was changed."""
        return self.name + (f" + {', '.join(self.changes)}" if self.changes else "")


SEALED = Profile()
PROFILES: dict[ProfileName, Profile] = {
    "sealed": SEALED,
    # CUDA starts threads of its own and keeps compiled kernels in the scratch directory.
    "gpu": Profile(name="gpu", gpus="1", pids=512, open_files=448, scratch_mib=512),
    "exposed": Profile(name="exposed", expose=True),
    # The flags that tutorials have one type: they read well, and leave the network open.
    "video": Profile(
        name="video",
        network="bridge",
        publish=True,
        models_read_only=False,
        add_capabilities=("SYS_NICE",),
        seccomp="default",
        user="image",
        pids=None,
        open_files=None,
        scratch_mib=None,
        init=False,
        log_mib=None,
    ),
    # `docker run -p` without a thought.
    "none": Profile(
        name="none",
        network="bridge",
        publish=True,
        read_only=False,
        models_read_only=False,
        drop_capabilities=(),
        no_new_privileges=False,
        seccomp="default",
        user="image",
        memory=False,
        cpus=False,
        pids=None,
        open_files=None,
        scratch_mib=None,
        init=False,
        log_mib=None,
    ),
}


def compose(
    name: str,
    *,
    network: str | None = None,
    read_only: bool | None = None,
    user: str | None = None,
    pids: int | None = None,
    gpus: str | None = None,
    expose: bool = False,
    memory: bool = False,
    cpus: bool = False,
) -> Profile:
    """A profile with single things changed.

    Args:
        name: The profile to begin with.
        network: Another network.
        read_only: Whether the root file system is read-only.
        user: `uid[:gid]`, "caller" or "image".
        pids: Another limit of processes and threads.
        gpus: GPUs, in words that `parse_gpus` takes.
        expose: Whether there is an endpoint for other tools.
        memory: Memory is limited, whatever the profile says.
        cpus: CPU time is limited, whatever the profile says.

    Raises:
        UnknownNameError: No such profile or network.
        UsageError: A value that does not fit.
    """
    if name not in PROFILES:
        raise UnknownNameError("profile", name, PROFILES)
    base = next(profile for known, profile in PROFILES.items() if known == name)
    if network is not None and network not in get_args(Network):
        raise UnknownNameError("network", network, get_args(Network))
    if user is not None and user not in {"caller", "image"} and not _USER.fullmatch(user):
        raise UsageError(f"{user!r} is not a user", hint="write uid or uid:gid, such as 1000:1000")
    if gpus is not None:
        gpus = str(parse_gpus(gpus))
    if pids is not None and pids < _LEAST_PIDS:
        raise UsageError(f"pids is {pids}", hint=f"an engine needs {_LEAST_PIDS} or more")
    asked: dict[str, Any] = {
        "network": network,
        "read_only": read_only,
        "user": user,
        "pids": pids,
        "gpus": gpus,
    }
    changes = {key: value for key, value in asked.items() if value is not None}
    changes |= {key: True for key, value in (("expose", expose), ("memory", memory), ("cpus", cpus)) if value}
    if network not in {None, "none"} and base.seccomp == "unix":
        # A network that no program may open a socket for would be of no use.
        changes["seccomp"] = "default"
    if network in {"none", "host"}:
        changes["publish"] = False
    return replace(base, **changes)


_LEAST_PIDS = 96


_SAID: dict[tuple[str, object], str] = {
    ("read_only", False): "writable",
    ("read_only", True): "read-only",
    ("models_read_only", False): "models writable",
    ("no_new_privileges", False): "new privileges",
    ("expose", True): "exposed",
    ("publish", False): "not published",
    ("memory", True): "memory limited",
    ("cpus", True): "CPU limited",
}


def _said(name: str, value: object) -> str:
    if (known := _SAID.get((name, value) if isinstance(value, bool) else (name, None))) is not None:
        return known
    if isinstance(value, tuple):
        value = ", ".join(str(item.target if isinstance(item, Mount) else item) for item in value) or "none"
    return f"{name.replace('_', ' ')} {'none' if value is None else value}"
