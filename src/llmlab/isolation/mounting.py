"""The receipt's lines on files: the models, the scratch directory, everything else."""

from __future__ import annotations

import re
from typing import Any

from llmlab.isolation.facts import MountPoint
from llmlab.isolation.gpus import is_drivers
from llmlab.isolation.profile import MODEL_DIR, SCRATCH, SOCKET_DIR
from llmlab.isolation.sources import Sources, control
from llmlab.profiles import Mount
from llmlab.results_isolation import Control

_MIB = 1024 * 1024
# What every container has: file systems of the kernel's and files of the engine's.
_KERNELS = frozenset(
    {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "securityfs", "bpf", "pstore"}
)
_ENGINES = re.compile(
    r"/|/etc/(hosts|hostname|resolv\.conf)|/sbin/docker-init|/dev/init|/run/podman-init|/catatonit"
    r"|/run/\.containerenv|/\.dockerenv|/run/secrets|/dev/(console|null|zero|full|tty|random|urandom|shm|pts/\d+)"
)
_ACCOUNTS = frozenset({"/etc/passwd", "/etc/group"})
_MASKED = re.compile(r"/(proc|sys)/.+")
_DEVICE_TMPFS = re.compile(r"/dev|/dev/shm|/sys/fs/cgroup(/.+)?")
# An empty directory of the runtime crun's, which hides what is below.
_EMPTY = re.compile(r"/(.+/)?crun/\.empty-directory")
# What the toolkit of the GPU's maker brings in.
_GPU = re.compile(r"nvidia|/dev/dri|/dev/kfd|/dev/dxg|cuda|vdpau|wsl")


def models(s: Sources) -> Control:
    """The model's files: there, the right ones, and not to be written."""
    wanted = _models(s)
    read_only = s.profile.models_read_only
    recorded = {str(m.get("Destination")): m for m in s.entry.get("Mounts") or ()}
    if s.record.replicas:
        # The gateway in front of those that have them.
        there = sorted(target for target in recorded if target.startswith(MODEL_DIR))
        return control("models", "none", ", ".join(there) or "none", None, not there)
    volume = recorded.get(MODEL_DIR)
    if volume is not None and volume.get("Type") == "volume" and s.record.transport == "relay":
        # An engine on another machine has the files in a volume of its own.
        wanted = [Mount(source=str(volume.get("Name")), target=MODEL_DIR, volume=True)]
    found = [recorded.get(mount.target) for mount in wanted]
    verdicts = [entry is not None and _same(entry, mount) for entry, mount in zip(found, wanted, strict=True)]
    if read_only:
        verdicts += [entry is not None and not entry.get("RW") for entry in found]
    seen = None
    if s.facts.mounts is not None:
        points = [s.facts.mount(mount.target) for mount in wanted]
        verdicts += [point is not None and (point.read_only or not read_only) for point in points]
        seen = _access(point.read_only if point else None for point in points)
    return control(
        "models",
        "read-only" if read_only else "writable",
        _access(None if entry is None else not entry.get("RW") for entry in found) if s.entry else None,
        seen,
        *verdicts,
        left_open=not read_only,
    )


def other_mounts(s: Sources) -> Control:
    """Everything else of the machine: only what was asked for."""
    wanted = _wanted(s)
    own = set() if s.record.replicas else {mount.target for mount in _models(s)}
    if s.record.transport == "relay":
        own.add(MODEL_DIR)
    recorded, verdicts = [], []
    for entry in s.entry.get("Mounts") or ():
        target = str(entry.get("Destination"))
        if target in own or (target == SCRATCH and entry.get("Type") == "tmpfs"):
            continue
        if s.profile.gpus is not None and is_drivers(target):
            # Part of the GPU that was asked for, but not to be written.
            verdicts.append(not entry.get("RW"))
            continue
        mount = wanted.get(target)
        right = mount is not None and _same(entry, mount) and not (mount.read_only and entry.get("RW"))
        verdicts.append(right)
        recorded.append(_named(target, mount if right else None, read_only=not entry.get("RW"), s=s))
    verdicts += [target in _targets(s.entry) for target in wanted]
    seen = None
    if s.facts.mounts is not None:
        shown = []
        for point in s.facts.mounts:
            if point.target in s.closed:
                right = _is_closed(point)
                verdicts.append(right)
                shown.append(f"{point.target} {'closed' if right else 'open'}")
                continue
            if point.target in {*own, *s.tmpfs} or _everybodys(point, s):
                continue
            mount = wanted.get(point.target)
            right = mount is not None and (point.read_only or not mount.read_only)
            verdicts.append(right)
            shown.append(_named(point.target, mount if right else None, read_only=point.read_only, s=s))
        seen = ", ".join(shown) or "none"
    asked = ", ".join(
        [
            *(_named(target, mount, read_only=mount.read_only, s=s) for target, mount in wanted.items()),
            *(f"{target} closed" for target in s.closed),
        ]
    )
    tmpfs = s.host.get("Tmpfs") or {}
    for target in s.closed:
        right = {"ro", "noexec"} <= set(str(tmpfs.get(target, "")).split(","))
        verdicts.append(right)
        recorded.append(f"{target} {'closed' if right else 'open'}")
    return control(
        "other mounts",
        asked or "none",
        (", ".join(recorded) or "none") if s.entry else None,
        seen,
        # An engine that answers and names none has confirmed that there is none.
        bool(s.entry),
        *verdicts,
    )


def scratch(s: Sources) -> Control:
    """The one directory that can be written: its size, and that nothing in it can be run."""
    size = s.profile.scratch_mib
    wanted = ["nosuid", "nodev", *([] if s.profile.scratch_exec else ["noexec"])]
    asked = "none" if size is None else f"{size} MiB, {', '.join(wanted)}"
    tmpfs = s.host.get("Tmpfs") or {}
    options = str(tmpfs.get(SCRATCH, "")).split(",")
    recorded = "none"
    others = {*s.tmpfs, *s.closed}
    verdicts = [set(tmpfs) - others == (set() if size is None else {SCRATCH})]
    if set(tmpfs) - others:
        bytes_ = MountPoint(SCRATCH, "tmpfs", "/", frozenset(), frozenset(options)).size_bytes
        recorded, right = _scratch_said(bytes_, frozenset(options), wanted, size)
        recorded += "".join(f", also {other}" for other in tmpfs if other not in {SCRATCH, *others})
        verdicts.append(right)
    seen = None
    if s.facts.mounts is not None:
        point = s.facts.mount(SCRATCH)
        if point is not None and SCRATCH in s.closed and _is_closed(point):
            seen = "none"
            verdicts.append(True)
        elif point is None or point.kind != "tmpfs":
            seen = "none" if point is None else f"a {point.kind} file system"
            verdicts.append(size is None)
        else:
            seen, right = _scratch_said(point.size_bytes, point.options, wanted, size)
            verdicts.append(right)
    return control("scratch", asked, recorded if s.host else None, seen, *verdicts)


def _scratch_said(
    size: int | None, options: frozenset[str], wanted: list[str], most_mib: int | None
) -> tuple[str, bool]:
    text = "no size" if size is None else f"{size / _MIB:g} MiB"
    held = [name for name in wanted if name in options]
    missing = [name for name in wanted if name not in options]
    said = ", ".join([text, *held]) + (f", without {' and '.join(missing)}" if missing else "")
    return said, not missing and size is not None and most_mib is not None and size <= most_mib * _MIB


def _wanted(s: Sources) -> dict[str, Mount]:
    """The mounts asked for, models left out: target → mount."""
    return {mount.target: mount for mount in (*s.profile.mounts, *s.mounts)}


def _models(s: Sources) -> list[Mount]:
    """The model's files, as they were asked for."""
    return list(s.models) or [
        Mount(source=str(path.resolve()), target=f"{MODEL_DIR}/{path.name}")
        for path in s.record.spec.model.files
    ]


def _same(entry: dict[str, Any], mount: Mount) -> bool:
    """Whether the engine mounted what was asked for; a volume goes by its name."""
    return mount.source in {"", entry.get("Source"), entry.get("Name")}


def _targets(entry: dict[str, Any]) -> set[str]:
    return {str(mount.get("Destination")) for mount in entry.get("Mounts") or ()}


def _named(target: str, mount: Mount | None, *, read_only: bool, s: Sources) -> str:
    access = "read-only" if read_only else "writable"
    if mount is None:
        return f"{target} {access}, not asked for"
    what = "the socket's directory" if target == SOCKET_DIR and s.record.endpoint.socket else target
    return f"{what} {access}"


def _access(found: Any) -> str:
    words = {True: "read-only", False: "writable", None: "missing"}
    return ", ".join(sorted({words[read_only] for read_only in found}))


def _is_closed(point: MountPoint) -> bool:
    return point.kind == "tmpfs" and {"ro", "noexec"} <= point.options


def _everybodys(point: MountPoint, s: Sources) -> bool:
    """Whether a mount is one that every container has, and shows nothing of the machine."""
    if point.kind in _KERNELS or point.target == SCRATCH or _ENGINES.fullmatch(point.target):
        return True
    if point.kind in {"tmpfs", "devtmpfs"} and (
        _DEVICE_TMPFS.fullmatch(point.target) or _MASKED.fullmatch(point.target)
    ):
        # The machine's own device files would be a devtmpfs, whole.
        return point.kind == "tmpfs" or point.root != "/"
    if _MASKED.fullmatch(point.target) and point.read_only and _EMPTY.fullmatch(point.root):
        return True
    if s.podman and point.target in _ACCOUNTS:
        # Its own, made for this container; not the machine's.
        return point.root.endswith(f"-containers/{s.entry.get('Id')}/userdata{point.target[4:]}")
    return s.profile.gpus is not None and bool(_GPU.search(point.target))
