"""What the container engine can enforce: limits, filters, and what outlives it."""

from __future__ import annotations

from llmlab import render
from llmlab.checkup.checks.base import Check, Finding, absent, fail, no_engine, ok, unknown, warning
from llmlab.checkup.facts import Facts

_LIMITS = {"MemoryLimit": "memory", "CpuCfsQuota": "CPU time", "PidsLimit": "processes", "SwapLimit": "swap"}
_LITTLE_MIB = 4000
_BOOT = "# add {} to GRUB_CMDLINE_LINUX in /etc/default/grub, then:"
# By default, systemd hands a user's session memory and processes only.
_DELEGATE = (
    "sudo mkdir -p /etc/systemd/system/user@.service.d",
    r"printf '[Service]\nDelegate=cpu cpuset io memory pids\n' | sudo tee /etc/systemd/system/user@.service.d/delegate.conf",
    "sudo systemctl daemon-reload   # then log in again",
)
_REBOOT = "sudo update-grub && sudo reboot"


def _cgroups(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    version, driver = str(facts.info.get("CgroupVersion", "")), str(facts.info.get("CgroupDriver", ""))
    seen = f"version {version or 'unknown'}, driver {driver or 'unknown'}"
    if version == "2":
        if facts.is_rootless and driver == "none":
            return fail(
                f"{seen}: a rootless engine without systemd enforces no limits",
                "systemctl --user restart docker",
                why="a container could take all memory",
            )
        return ok(seen)
    if version == "1":
        return warning(
            f"{seen}: containers see the host's control groups unless told not to (llmlab tells them), a rootless "
            "engine can limit nothing, and running out of memory ends one process, not the container",
            _BOOT.format("systemd.unified_cgroup_hierarchy=1"),
            _REBOOT,
        )
    return unknown(seen)


def _limits(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    if facts.is_rootless and str(facts.info.get("CgroupVersion")) == "1":
        # Podman says all the same that it can.
        return fail(
            "a rootless engine can limit nothing with control groups of version 1",
            _BOOT.format("systemd.unified_cgroup_hierarchy=1"),
            _REBOOT,
        )
    known = {name: bool(facts.info[key]) for key, name in _LIMITS.items() if key in facts.info}
    if not known:
        return unknown("the engine does not say what it can limit")
    missing = [name for name, there in known.items() if not there]
    enforced = ", ".join(name for name, there in known.items() if there) or "nothing"
    seen = f"can be limited: {enforced}"
    if not missing:
        return ok(seen)
    seen += f"; not: {', '.join(missing)}"
    if missing == ["swap"]:
        return warning(
            seen,
            _BOOT.format("swapaccount=1"),
            _REBOOT,
            why="a container at its memory limit goes on in swap, and slows down everything",
        )
    return fail(seen, *(_DELEGATE if facts.is_rootless else ("docker info",)))


def _filters(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    options = " ".join(str(option) for option in facts.info.get("SecurityOptions") or ())
    there = [
        name
        for word, name in (("seccomp", "seccomp"), ("apparmor", "AppArmor"), ("selinux", "SELinux"))
        if word in options
    ]
    seen = ", ".join(there) or "none"
    if "seccomp" not in there:
        return fail(
            f"{seen}: no system call is refused",
            "docker info --format '{{.SecurityOptions}}'",
            why="llmlab's profile allows a container no sockets but unix ones; this engine ignores it",
        )
    if "unconfined" in options:
        return warning(
            f"{seen}; the engine's default is unconfined",
            "sudo dockerd --validate",
            why="llmlab's profile is set per container",
        )
    if len(there) == 1:
        seen += "; neither AppArmor nor SELinux, whose options are ignored without a word"
    return ok(seen)


def _namespaces(facts: Facts) -> Finding:
    if facts.system != "Linux":
        return absent(f"{facts.system} has none")
    texts = facts.texts
    most = texts.get("/proc/sys/user/max_user_namespaces", "").strip()
    off = texts.get("/proc/sys/kernel/unprivileged_userns_clone", "").strip() == "0"
    restricted = texts.get("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "").strip() == "1"
    if not most:
        return unknown("the kernel does not say")
    if most == "0":
        seen = "this kernel makes no user namespaces"
    elif off:
        seen = "only root may make user namespaces"
    elif restricted:
        seen = "AppArmor lets only programs with a profile make them"
    else:
        return ok(f"every user may make them, {most} at most")
    if facts.is_rootless:
        return ok(f"{seen}; the rootless engine runs all the same")
    return ok(f"{seen}: a rootless engine would need them")


def _storage(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    driver, root = str(facts.info.get("Driver", "")), str(facts.info.get("DockerRootDir", ""))
    seen = f"{driver or 'unknown'}, in {root or 'an unknown directory'}"
    if driver == "vfs":
        return warning(
            f"{seen}: every container is a full copy of its image",
            'echo \'{"storage-driver": "overlay2"}\' | sudo tee /etc/docker/daemon.json',
            why="starting takes long and fills the disk",
        )
    return ok(seen) if driver else unknown(seen)


def _restore(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    if facts.is_podman or facts.is_desktop or "LiveRestoreEnabled" not in facts.info:
        return absent("this engine has no such setting")
    if facts.info["LiveRestoreEnabled"]:
        return ok("servers go on when the engine is restarted")
    return ok(
        'off: servers end when the engine is restarted ("live-restore": true in /etc/docker/daemon.json)'
    )


def _virtual(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    if facts.is_local:
        return absent("the engine uses this machine's memory")
    total = facts.info.get("MemTotal")
    if not total:
        return unknown("the engine does not say")
    mib = int(total) / 1024**2
    seen = f"{render.mib_text(mib)}, {facts.info.get('NCPU', '?')} CPUs for all containers"
    if mib < _LITTLE_MIB:
        return warning(
            f"{seen}: too little for models above 1 B",
            "# in Docker Desktop: Settings, Resources, Memory limit",
        )
    return ok(seen)


CHECKS = (
    Check("limits", "an option that the engine ignores limits nothing", _limits),
    Check("control groups", "they enforce the limits", _cgroups),
    Check("system call filter", "it keeps a container from the network's sockets", _filters),
    Check("user namespaces", "rootless engines are made of them", _namespaces, ("texts",)),
    Check("storage", "images and containers lie there", _storage),
    Check("live restore", "whether servers outlive the engine", _restore),
    Check("engine's memory", "containers have this, not the machine's", _virtual),
)
