"""Asked for against what is in force: the container engine's record, and the process.

Each line of the receipt takes three looks at one control. What the process
does not confirm is shown as unknown; it is never filled in with a guess.
"""

from __future__ import annotations

import json
from pathlib import Path

from llmlab.isolation import capabilities, limiting, mounting
from llmlab.isolation.devices import devices
from llmlab.isolation.profile import seccomp_profile
from llmlab.isolation.sources import Sources, control
from llmlab.results_isolation import Control

_FILTERING = 2  # the kernel's number


def receipt(sources: Sources) -> tuple[Control, ...]:
    """Lay side by side what was asked for, recorded and is in force."""
    return tuple(line(sources) for line in _LINES)


def _network(s: Sources) -> Control:
    asked, recorded, faces = s.network, s.host.get("NetworkMode"), s.facts.interfaces
    own = (s.facts.own_namespaces or {}).get("net")
    seen = None
    verdicts: list[bool | None] = [_same_network(asked, recorded)]
    if faces is not None:
        names = [face.name for face in faces]
        seen = "only loopback" if set(names) <= {"lo"} else "interfaces: " + ", ".join(names)
        if own is False:
            seen += ", those of this machine"
        if asked != "host":
            verdicts.append(own)
        if asked == "none":
            verdicts.append(set(names) <= {"lo"})
    return control("network", asked, recorded, seen, *verdicts, left_open=asked != "none")


def _same_network(asked: str, recorded: str | None) -> bool:
    # "default" is what engines write who were told nothing; Podman has a bridge of its own.
    return recorded == asked or (asked == "bridge" and recorded in {"default", "pasta", "slirp4netns"})


def _ports(s: Sources) -> Control:
    bound = {**(s.host.get("PortBindings") or {})}
    bound |= {p: w for p, w in ((s.entry.get("NetworkSettings") or {}).get("Ports") or {}).items() if w}
    shown = [
        f"{port} on {', '.join(sorted({w.get('HostIp') or 'all addresses' for w in where}))}"
        for port, where in bound.items()
        if where
    ]
    asked = "one, on all addresses" if s.profile.publish else "none"
    faces = s.facts.interfaces
    # Nothing can be published from a network that has no way in.
    closed = faces is not None and {face.name for face in faces} <= {"lo"}
    return control(
        "published ports",
        asked,
        (", ".join(shown) or "none") if s.host else None,
        "none: there is no way in" if closed and not s.profile.publish else None,
        bool(s.host) and bool(shown) == s.profile.publish,
        left_open=s.profile.publish,
    )


def _root(s: Sources) -> Control:
    words: dict[bool | None, str] = {True: "read-only", False: "writable"}
    seen = s.facts.root.read_only if s.facts.root else None
    return control(
        "root file system",
        words[s.profile.read_only],
        words.get(s.host.get("ReadonlyRootfs")),
        None if seen is None else words[seen],
        s.host.get("ReadonlyRootfs") == s.profile.read_only,
        None if seen is None else seen == s.profile.read_only,
        left_open=not s.profile.read_only,
    )


def _capabilities(s: Sources) -> Control:
    profile, host, facts = s.profile, s.host, s.facts.capabilities
    dropped, added = list(host.get("CapDrop") or ()), list(host.get("CapAdd") or ())
    privileged = bool(host.get("Privileged"))
    recorded = capabilities.recorded(dropped, added, privileged=privileged)
    most = capabilities.most(profile)
    seen = verdict = None
    if facts is not None:
        everything = facts.effective | facts.permitted | facts.bounding | facts.ambient
        seen = capabilities.said(facts)
        verdict = not everything & ~most
    same = (
        capabilities.as_podman_records(profile, dropped, added, privileged=privileged)
        if s.podman
        else (
            capabilities.names(dropped) == capabilities.names(profile.drop_capabilities)
            and capabilities.names(added) == capabilities.names(profile.add_capabilities)
            and privileged == profile.privileged
        )
    )
    return control(
        "capabilities",
        capabilities.asked(profile),
        recorded if host else None,
        seen,
        bool(host) and same,
        verdict,
        left_open=bool(most),
    )


def _no_new_privileges(s: Sources) -> Control:
    words = {True: "yes", False: "no"}
    recorded = "no-new-privileges" in s.security and s.security["no-new-privileges"] != "false"
    seen, asked = s.facts.no_new_privileges, s.profile.no_new_privileges
    return control(
        "no new privileges",
        words[asked],
        words[recorded] if s.host else None,
        None if seen is None else words[seen],
        bool(s.host) and recorded == asked,
        # The filter of an unprivileged program sets the flag, too: more is no difference.
        None if seen is None else seen or not asked,
        left_open=not asked,
    )


def _system_calls(s: Sources) -> Control:
    asked = s.profile.seccomp
    words = {
        "unix": "filtered, unix sockets only",
        "loopback": "filtered, unix and internet sockets only",
        "default": "the engine's own filter",
        "unconfined": "not filtered",
    }
    option = s.security.get("seccomp")
    # Podman is told the path of a file; what counts is what stands in it.
    as_file = s.podman and str(option or "").startswith("/")
    recorded = _filter(_content(str(option)) if as_file else option)
    if s.host.get("Privileged") and recorded == "default":
        recorded = "unconfined"
    ours = "llmlab's filter, as a file" if as_file else "llmlab's filter"
    seen = None
    if s.facts.seccomp is not None:
        count = s.facts.seccomp_filters
        filters = "" if count is None else f", {count} {'filter' if count == 1 else 'filters'}"
        seen = {0: "not filtered", _FILTERING: f"filtered{filters}"}.get(s.facts.seccomp, "strict")
    return control(
        "system calls",
        words[asked],
        {**words, "unix": ours, "loopback": ours, "other": "another filter"}[recorded] if s.host else None,
        seen,
        bool(s.host) and recorded == asked,
        None if s.facts.seccomp is None else s.facts.seccomp == _FILTERING or asked == "unconfined",
        left_open=asked == "unconfined",
    )


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _filter(text: str | None) -> str:
    if text is None or text == "builtin":
        return "default"
    if text == "unconfined":
        return text
    try:
        found = json.loads(text)
    except ValueError:
        return "other"
    if found == json.loads(seccomp_profile()):
        return "unix"
    return "loopback" if found == json.loads(seccomp_profile(loopback=True)) else "other"


def _user(s: Sources) -> Control:
    asked, facts = s.record.user or "", s.facts
    recorded = (s.entry.get("Config") or {}).get("User")
    groups = s.record.gpus.groups if s.record.gpus else ()
    added = tuple(map(str, s.host.get("GroupAdd") or ()))
    root = not asked or asked.split(":")[0] == "0"
    seen = None
    verdicts: list[bool | None] = [recorded == asked, added == tuple(map(str, groups))]
    if facts.uids is not None and facts.gids is not None:
        uid, gid = facts.uids[1], facts.gids[1]
        seen = f"uid {uid}, gid {gid}"
        inside = (facts.inside(uid), facts.group_inside(gid))
        # With a user namespace, root in there is somebody else out here.
        if inside[0] is not None and inside[0] != uid:
            seen += f" (in there {inside[0]})"
        root = uid == 0
        if asked and None not in inside:
            wanted = [int(number) for number in asked.split(":")]
            verdicts.append([*inside][: len(wanted)] == wanted)
            # All four of them: a saved uid could be taken up again.
            verdicts.append(len(set(facts.uids)) == 1 and len(set(facts.gids)) == 1)
        if more := [group for group in facts.groups or () if group != gid]:
            seen += ", groups " + " ".join(map(str, more))
            more = [
                group for group in more if facts.group_inside(group) not in groups and group not in groups
            ]
            verdicts.append(None if not more or not asked or root else False)
    if recorded is not None and added:
        recorded += f", groups {' '.join(added)}"
    beside = f", groups {' '.join(map(str, groups))}, the GPU's" if groups else ""
    return control("user", (asked or "the image's") + beside, recorded, seen, *verdicts, left_open=root)


_KINDS = {"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "cgroup": "CgroupnsMode"}


def _namespaces(s: Sources) -> Control:
    shared = set(s.profile.share)
    wanted = [name for name in ("pid", "ipc", "uts", "mnt", "cgroup") if name not in shared]
    modes = {name: str(s.host.get(key) or "") for name, key in _KINDS.items()}
    joined = sorted(name for name, mode in modes.items() if mode.startswith(("host", "container:", "ns:")))
    recorded = "shared: " + ", ".join(f"{n} ({modes[n]})" for n in joined) if joined else "its own"
    own = s.facts.own_namespaces
    seen = None
    verdicts: list[bool | None] = [bool(s.host) and set(joined) == shared]
    if own is not None:
        foreign = [name for name in ("pid", "ipc", "uts", "mnt", "cgroup") if own.get(name) is False]
        seen = "its own" if not foreign else "shares " + ", ".join(foreign)
        verdicts.append(set(foreign) <= shared)
    return control(
        "namespaces",
        "its own: " + ", ".join(wanted) + (f"; shared: {', '.join(sorted(shared))}" if shared else ""),
        recorded if s.host else None,
        seen,
        *verdicts,
        left_open=bool(shared),
    )


def _label(s: Sources) -> Control:
    seen = s.facts.label
    wished = s.security.get("apparmor")
    recorded = s.entry.get("AppArmorProfile") or s.entry.get("ProcessLabel") or wished or ""
    shown = {None: None, "": "none: not in this kernel"}.get(seen, seen)
    confined = bool(seen) and not str(seen).startswith("unconfined")
    holds = None
    if seen is not None and recorded and recorded != "unconfined":
        # An engine takes an AppArmor profile without complaint where the kernel has no AppArmor.
        holds = str(seen).split(" ")[0] == recorded if wished or s.entry.get("AppArmorProfile") else confined
    return control(
        "security label",
        "what the engine sets",
        (str(recorded) or "none") if s.host else None,
        shown,
        bool(s.host),
        wished in {None, s.entry.get("AppArmorProfile"), ""} or holds is True,
        holds,
    )


def _log(s: Sources) -> Control:
    if s.podman and s.profile.log_mib is not None:
        return _podmans_log(s, s.profile.log_mib)
    config = s.host.get("LogConfig") or {}
    options = config.get("Config") or {}
    size, files = options.get("max-size"), options.get("max-file")
    asked = s.profile.log_mib
    recorded = f"{config.get('Type', '')}{f', {files} × {size}' if size else ''}"
    same = config.get("Type") == "local" and size == f"{asked}m" and files == "2"
    return control(
        "log",
        "the engine's way, without a bound" if asked is None else f"local, 2 × {asked}m",
        recorded or None,
        None,
        None if asked is None else same,
        left_open=asked is None,
    )


def _podmans_log(s: Sources, most_mib: int) -> Control:
    """Podman has no log of the type "local", and no bound in its record: its monitor has it."""
    kind = (s.host.get("LogConfig") or {}).get("Type")
    right = kind in {"k8s-file", "json-file"}
    # Of the right kind, and its bound not seen: that is not known.
    verdicts: list[bool | None] = [None if right else False]
    seen = None
    if s.log:
        driver, most = s.log
        seen = f"{driver}, {'without a bound' if most is None else f'at most {most / 1e6:g} MB'}"
        verdicts.append(driver == "k8s-file" and most is not None and most <= most_mib * 1024 * 1024)
    recorded = "k8s-file, by Docker's name for it" if kind == "json-file" else kind
    return control("log", f"k8s-file, {most_mib}m", recorded, seen, *verdicts)


def _image(s: Sources) -> Control:
    asked = (s.record.image or "").rpartition("@")[2]
    recorded = str(s.entry.get("Image") or "")
    return control("image", _short(asked), _short(recorded) or None, None, recorded == asked)


def _short(identity: str) -> str:
    kind, colon, digest = identity.partition(":")
    return f"{kind}:{digest[:12]}" if colon else identity[:12]


def _transport(s: Sources) -> Control:
    asked = s.record.transport or "socket"
    return control("transport", asked, None, s.endpoint, s.endpoint_agrees, left_open=asked == "port")


_LINES = (
    _network,
    _ports,
    _root,
    mounting.models,
    mounting.other_mounts,
    mounting.scratch,
    _capabilities,
    _no_new_privileges,
    _system_calls,
    _user,
    _namespaces,
    limiting.memory,
    limiting.swap,
    limiting.cpu,
    limiting.processes,
    limiting.open_files,
    devices,
    _label,
    _log,
    _image,
    _transport,
)
