"""Linux capabilities: names and bit masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from llmlab.isolation import podman
from llmlab.isolation.facts import Capabilities
from llmlab.profiles import Profile

# In the order of the kernel's bits.
NAMES: Final[list[str]] = str.split(
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
)
ALL: Final = (1 << len(NAMES)) - 1
# What engines leave to a container that is told nothing (Docker's; Podman's are fewer).
_DEFAULT: Final[list[str]] = str.split(
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE "
    "SYS_CHROOT KILL AUDIT_WRITE"
)
_SHOWN: Final = 4


def names(written: Iterable[str]) -> frozenset[str]:
    """Capabilities as people and engines write them, without CAP_."""
    return frozenset(name.upper().removeprefix("CAP_") for name in written)


def mask(written: Iterable[str]) -> int:
    """The same as a bit mask; unknown names have no bit."""
    wanted = names(written)
    return ALL if "ALL" in wanted else sum(1 << bit for bit, name in enumerate(NAMES) if name in wanted)


def most(profile: Profile) -> int:
    """The most that a process may have under a profile."""
    if profile.privileged:
        return ALL
    return mask(_DEFAULT) & ~mask(profile.drop_capabilities) | mask(profile.add_capabilities)


def asked(profile: Profile) -> str:
    """What a profile asks for, in words."""
    if profile.privileged:
        return "all"
    if not profile.drop_capabilities:
        base = "the engine's"
    else:
        base = "none" if "ALL" in profile.drop_capabilities else "fewer"
    added = ", ".join(profile.add_capabilities)
    return added if base == "none" and added else f"{base} and {added}" if added else base


def recorded(dropped: Iterable[str], added: Iterable[str], *, privileged: bool) -> str:
    """What an engine wrote down, in words."""
    if privileged:
        return "all: privileged"
    parts = [f"dropped {', '.join(sorted(names(dropped)))}"] if dropped else ["none dropped"]
    if added:
        parts.append(f"added {', '.join(sorted(names(added)))}")
    return ", ".join(parts)


def as_podman_records(
    profile: Profile, dropped: Iterable[str], added: Iterable[str], *, privileged: bool
) -> bool:
    """Whether Podman's record is what a profile asks for.

    It writes down the difference from what it gives by default, and not "ALL".
    """
    default, asked_drop = mask(podman.DEFAULT_CAPABILITIES), mask(profile.drop_capabilities)
    wanted = default & ~asked_drop | mask(profile.add_capabilities)
    # An engine set to give more by default names more of them as dropped.
    return privileged == profile.privileged and default & ~mask(dropped) | mask(added) == wanted


def said(found: Capabilities) -> str:
    """The sets of a process, in words."""
    sets = {
        "effective": found.effective,
        "permitted": found.permitted,
        "bounding": found.bounding,
        "ambient": found.ambient,
    }
    if not any(sets.values()):
        return "none"
    parts = []
    for name, bits in sets.items():
        if bits:
            found_names = list(_named(bits))
            more = f" and {len(found_names) - _SHOWN} more" if len(found_names) > _SHOWN else ""
            parts.append(f"{name} {' '.join(found_names[:_SHOWN])}{more}")
    # Often all sets are the same.
    if len(set(sets.values()) - {0}) == 1:
        parts = [f"{' and '.join(n for n, bits in sets.items() if bits)}: {parts[0].partition(' ')[2]}"]
    return "; ".join(parts)


def _named(bits: int) -> Iterator[str]:
    for bit in range(bits.bit_length()):
        if bits >> bit & 1:
            yield NAMES[bit] if bit < len(NAMES) else f"number {bit}"
