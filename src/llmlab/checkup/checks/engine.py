"""The container engine: whether it answers, who may use it, and how old it is."""

from __future__ import annotations

import re

from llmlab.checkup.checks.base import Check, Finding, absent, assessed, fail, no_engine, ok, unknown, warning
from llmlab.checkup.facts import Facts

_ROOT = "who can write to it is root on this machine"


def _answers(facts: Facts) -> Finding:
    engine = facts.engine
    address = str(engine.get("address") or "no address")
    where = f"{address} ({engine.get('source', 'default')})"
    if facts.info:
        return ok(f"{_name(facts)} at {where}")
    if facts.hosted:
        return absent(f"{facts.hosted} has none: models run natively there")
    return _unanswered(facts, where)


def _unanswered(facts: Facts, where: str) -> Finding:
    error, detail = facts.engine.get("error"), str(facts.engine.get("detail", ""))
    if error == "hangs":
        return fail(f"{where} takes connections and does not answer", _restart(facts))
    if error == "permission":
        return fail(f"{where} refuses this user: see access")
    if error in {"missing", "refused"}:
        return fail(f"nothing answers at {where}", *_installing(facts))
    return fail(f"{where}: {detail or error or 'no answer'}", "docker context ls", "docker info")


def _name(facts: Facts) -> str:
    version = facts.engine.get("version") or {}
    if facts.is_podman:
        return f"Podman {facts.components['Podman Engine'].get('Version', '')} through Docker's API"
    if facts.is_desktop:
        label = str((version.get("Platform") or {}).get("Name") or "Docker Desktop")
        return f"{label}, engine {facts.engine_version}"
    return f"Docker Engine {facts.engine_version}"


def _restart(facts: Facts) -> str:
    if facts.system == "Darwin" or facts.is_desktop:
        return "docker desktop restart"
    return "sudo systemctl restart docker   # or: sudo service docker restart"


def _installing(facts: Facts) -> tuple[str, ...]:
    if facts.engine.get("source") == "DOCKER_HOST":
        return ("unset DOCKER_HOST",)
    if facts.system == "Darwin":
        return ("brew install --cask docker-desktop", "open -a Docker")
    if facts.wsl:
        return (
            "# either switch on WSL integration in Docker Desktop: Settings, Resources, WSL integration",
            "sudo apt-get install docker.io   # or install it inside",
        )
    os_release = facts.texts.get("/etc/os-release", "")
    if re.search(r"^ID(_LIKE)?=.*(fedora|rhel)", os_release, re.MULTILINE):
        return ("sudo dnf install moby-engine", "sudo systemctl enable --now docker")
    return ("sudo apt-get install docker.io", "sudo systemctl enable --now docker")


def _admission(facts: Facts) -> tuple[str, ...]:
    group = str((facts.engine.get("socket") or {}).get("group") or "docker")
    if facts.user.get("listed") and group not in (facts.user.get("groups") or ()):
        # It was done already, and the session is older than that.
        return (f"newgrp {group}   # or log in again",)
    return (f"sudo usermod -aG {group} $USER", f"newgrp {group}   # or log in again")


def _access(facts: Facts) -> Finding:
    address = str(facts.engine.get("address") or "")
    if address.startswith(("tcp://", "http://", "https://")):
        if facts.engine.get("tls"):
            return ok(f"{address}, with TLS")
        return fail(
            f"{address} without TLS: whoever reaches that port is root there",
            "export DOCKER_HOST=ssh://USER@HOST",
        )
    if not address.startswith("unix://"):
        return absent(f"{address or 'no address'}: no socket of this machine")
    return _socket_access(facts, address.removeprefix("unix://"))


def _socket_access(facts: Facts, path: str) -> Finding:
    socket = facts.engine.get("socket")
    refused = facts.engine.get("error") == "permission"
    if not socket and not refused:
        return absent(f"there is no {path}")
    if not socket:
        return fail(f"{path} cannot be reached by this user", *_admission(facts))
    seen = f"{path}: {socket['mode']}, group {socket['group']}"
    if socket.get("for_all"):
        return fail(f"{seen}: every user of this machine may write to it", f"sudo chmod 660 {path}")
    if refused or not socket.get("writable", True):
        return fail(f"{seen}: this user may not write to it", *_admission(facts))
    if facts.is_rootless or facts.is_desktop:
        who = "the engine is not this machine's root"
    else:
        is_root = facts.user.get("uid") == 0
        who = "you are root" if is_root else "you may write to it, which is as good as being root"
    return ok(f"{seen}; {who}")


def _version(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    if facts.is_podman:
        return absent(f"{_name(facts)}: no advisories are kept for it")
    version = facts.engine_version
    fix = _update(facts, "docker.io")
    return assessed(
        "docker-engine",
        version,
        *fix,
        changelog=_mended(facts, "docker.io", version),
        packaged=_commit(facts),
    )


def _update(facts: Facts, package: str) -> tuple[str, ...]:
    if facts.is_desktop:
        return ("docker desktop update",)
    if not facts.is_local:
        return ("# update the engine on its own machine",)
    if re.search(r"dfsg|ubuntu|deb", f"{facts.engine_version} {_commit(facts)}"):
        return (
            f"sudo apt-get update && sudo apt-get install --only-upgrade {package}",
            "# for a current one: https://docs.docker.com/engine/install/",
        )
    return ("sudo apt-get update && sudo apt-get install --only-upgrade docker-ce containerd.io",)


def _mended(facts: Facts, package: str, version: str) -> tuple[str, ...]:
    """Faults that the package's changelog names, if it is the package that runs."""
    known = facts.changelogs.get(package) or {}
    if not (facts.is_local and version and str(known.get("version", "")).startswith(version)):
        return ()
    return tuple(known.get("mended") or ())


def _commit(facts: Facts, part: str = "Engine") -> str:
    """What a part of the engine was built from; of a distribution, the name of its package."""
    details = (facts.components.get(part) or {}).get("Details") or {}
    return str(details.get("GitCommit", ""))


def _runtime(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    parts = facts.components
    if "runc" not in parts:
        others = [name for name in parts if name.startswith("OCI Runtime") or name == "crun"]
        if not others:
            return unknown("the engine does not say what starts its containers")
        version = first_words(str(parts[others[0]].get("Version", "")))
        return absent(f"{others[0]} {version}: no advisories are kept for it")
    runc, containerd = parts["runc"], parts.get("containerd") or {}
    seen = f"runc {runc.get('Version')}"
    if containerd:
        seen += f", containerd {str(containerd.get('Version')).removeprefix('v')}"
    return assessed(
        "runc",
        str(runc.get("Version", "")),
        *_update(facts, "runc"),
        changelog=_mended(facts, "runc", str(runc.get("Version", ""))),
        packaged=f"{_commit(facts)} {_commit(facts, 'runc')}",
        seen=seen,
    )


def first_words(text: str) -> str:
    """A version out of what a program says of itself in several lines."""
    found = re.search(r"\d+(\.\d+)+\S*", text)
    return found[0] if found else text.split("\n", 1)[0][:40]


def _desktop(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    if not facts.is_desktop:
        return absent("the engine is not Docker Desktop's")
    label = str(((facts.engine.get("version") or {}).get("Platform") or {}).get("Name") or "")
    found = re.search(r"Docker Desktop (\d[\d.]*)", label)
    if not found:
        return unknown(f"it does not say which: {label or 'no name'}", "docker version")
    return assessed("docker-desktop", found[1], "docker desktop update", seen=label)


def _clients(facts: Facts) -> Finding:
    command = first_line_of(facts, "docker --version") or first_line_of(facts, "podman --version")
    package = facts.packages.get("docker")
    seen = f"{command or 'no docker command'}; Python's docker package {package or 'is missing'}"
    if not package:
        return fail(seen, "pip install 'docker>=7.2'", why="llmlab speaks to the engine with it")
    found = re.match(r"(\d+)\.(\d+)", package)
    if found and (int(found[1]), int(found[2])) < (7, 2):
        return warning(seen, "pip install --upgrade 'docker>=7.2'", why="llmlab is written for 7.2 and newer")
    return ok(seen)


def first_line_of(facts: Facts, command: str) -> str:
    """The first line that a command printed, "" if it is not there."""
    return facts.outputs.get(command, "").split("\n", 1)[0]


def _rootless(facts: Facts) -> Finding:
    if nothing := no_engine(facts):
        return nothing
    options = [str(option) for option in facts.info.get("SecurityOptions") or ()]
    if facts.is_rootless:
        return ok("rootless: the engine has no more rights than its user")
    if facts.is_desktop:
        return ok("the engine has a virtual machine of its own")
    if any("userns" in option for option in options):
        return ok("user namespaces: root in a container is nobody outside")
    return ok("the engine runs as root; llmlab runs its containers as an ordinary user")


CHECKS = (
    Check("engine", "without one, models run natively, and nothing keeps them in", _answers, ("engine",)),
    Check("access", _ROOT, _access),
    Check("engine version", "", _version),
    Check("container runtime", "", _runtime),
    Check("Docker Desktop", "", _desktop),
    Check("clients", "llmlab and you speak to the engine with them", _clients, ("packages",)),
    Check("rootless", "what a container gets that breaks out", _rootless),
)
