"""Run other container engines beside the machine's own, to test against (Debian, as root).

    python tools/other_engines.py start docker-28      # prints DOCKER_HOST=unix://…
    python tools/other_engines.py stop docker-28
    python tools/other_engines.py list

An engine's packages come from another Debian suite, from the mirror that this
machine's apt uses already, and are unpacked, not installed. The engine runs in
a mount namespace of its own in which they lie over /usr and /etc. All else is
the machine's: its other files, its process ids, its network. The machine's own
engine is not touched: data, sockets, bridge and configuration are others.

While an engine runs, its bridge is there, and one rule in the FORWARD chain
lets the containers on it talk to each other. `stop` removes both. Nothing is
masqueraded: its containers reach this machine and each other, no further.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmlab-other-engines"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_TUN = Path("/dev/net/tun")
_START_S, _STOP_S = 60, 30


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A container engine to be had from Debian.

    Attributes:
        suite: The Debian suite.
        packages: What to unpack, with all it depends on.
        subnet: The first three numbers of its containers' addresses.
        user: Who runs it: root, or an id of its own that is on no other engine.
    """

    suite: str
    packages: tuple[str, ...]
    subnet: str
    user: int = 0


_PODMAN = ("podman", "netavark", "crun", "catatonit")
ENGINES = {
    "docker-28": Engine(suite="sid", packages=("docker.io",), subnet="172.30.28"),
    "docker-26": Engine(suite="trixie", packages=("docker.io",), subnet="172.30.26"),
    "podman": Engine(suite="bookworm", packages=_PODMAN, subnet="172.30.4"),
    "podman-5": Engine(suite="sid", packages=_PODMAN, subnet="172.30.5"),
    "podman-rootless": Engine(
        suite="sid",
        packages=(*_PODMAN, "uidmap", "slirp4netns", "passt"),
        subnet="172.30.6",
        user=61000,
    ),
}


class Place:
    """An engine's folder, and what lies in it."""

    def __init__(self, name: str, door: Path | None) -> None:
        self.name = name
        self.engine = ENGINES[name]
        # A rootless engine's user may not enter root's home.
        self.folder = (Path("/var/lib/llmlab-other-engines") if self.engine.user else _CACHE) / name
        self.packages = _CACHE / f"{self.engine.suite}-{'-'.join(self.engine.packages)}"
        self.root = self.packages / "root"
        self.door = door or self.folder / "socket"
        self.pid_file = self.folder / "starter.pid"
        self.log = self.folder / "log"
        self.is_podman = "podman" in self.engine.packages
        # A bridge's name has at most 15 characters.
        self.bridge = f"oe-{name}"[:15]


def run(*command: str, check: bool = True) -> str:
    """A command's output."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def mirror() -> str:
    """Where this machine's apt has Debian from."""
    wanted = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    for line in run("apt-get", "indextargets", "Created-By: Packages", "--format", wanted).splitlines():
        origin, label, *address = line.split()
        if (origin, label) == ("Debian", "Debian") and address:
            return address[0]
    raise SystemExit("apt knows no mirror of Debian here: look at: apt-get indextargets")


def unpack(place: Place) -> None:
    """Fetch the packages and all they depend on; lay them out as a root folder."""
    if place.root.exists():
        return
    apt = place.packages / "apt"
    for folder in ("etc/preferences.d", "etc/apt.conf.d", "state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    source = f"deb [signed-by={_KEYRING}] {mirror()} {place.engine.suite} main\n"
    (apt / "etc/sources.list").write_text(source, encoding="utf-8")
    # No package counts as installed, so that all come from the one suite.
    (apt / "status").touch()
    settings = {
        "Dir::Etc": "etc",
        "Dir::State": "state",
        "Dir::State::status": "status",
        "Dir::Cache": "cache",
    }
    options = [f"-o{name}={apt / value}" for name, value in settings.items()]
    options += ["-oAPT::Sandbox::User=root", "-oAPT::Install-Recommends=false"]
    print(f"fetching {', '.join(place.engine.packages)} of {place.engine.suite}", file=sys.stderr)
    run("apt-get", *options, "update")
    run("apt-get", *options, "install", "--download-only", "--yes", *place.engine.packages)
    making = place.packages / "making"
    shutil.rmtree(making, ignore_errors=True)
    # Older packages have files in /lib, where a system of today has a link.
    for name in ("bin", "sbin", "lib", "lib64"):
        (making / "usr" / name).mkdir(parents=True, exist_ok=True)
        (making / name).symlink_to(f"usr/{name}")
    (making / "etc").mkdir()
    for archive in sorted((apt / "cache/archives").glob("*.deb")):
        tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], check=True, capture_output=True).stdout
        into = ["tar", "--extract", "--keep-directory-symlink", "--directory", str(making)]
        subprocess.run(into, input=tar, check=True)
    shutil.rmtree(apt)
    making.rename(place.root)


def docker_command(place: Place) -> list[str]:
    """The Docker daemon with a containerd, a data folder and a bridge of its own."""
    return [
        "dockerd",
        f"--host=unix://{place.door}",
        f"--data-root={place.folder / 'data'}",
        f"--exec-root={place.folder / 'exec'}",
        f"--pidfile={place.folder / 'engine.pid'}",
        f"--config-file={place.folder / 'daemon.json'}",
        f"--bridge={place.bridge}",
        # The machine's rules belong to its own engine.
        "--iptables=false",
        "--ip6tables=false",
        "--ip-masq=false",
        "--ip-forward=false",
    ]


def podman_command(place: Place, *words: str) -> list[str]:
    """A call of Podman as the engine's user; `configure` has written its files."""
    user, folder = place.engine.user, place.folder
    if not user:
        return ["podman", *words]
    switch = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return [
        *switch,
        "env",
        f"HOME={folder / 'home'}",
        f"XDG_RUNTIME_DIR={folder / 'run'}",
        "podman",
        *words,
    ]


def configure(place: Place, etc: Path) -> None:
    """Write an engine's configuration into its own layer of /etc."""
    (place.folder / "daemon.json").write_text("{}\n", encoding="utf-8")
    user, folder = place.engine.user, place.folder
    containers = etc / "containers"
    (containers / "networks").mkdir(parents=True, exist_ok=True)
    storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/data"\nrunroot = "{folder}/exec"\n'
    if user:
        storage = '[storage]\ndriver = "overlay"\n'
        name = "llmlab-engine"
        accounts = Path("/etc/passwd").read_text(encoding="utf-8")
        (etc / "passwd").write_text(
            f"{accounts}{name}:x:{user}:{user}::{folder}/home:/bin/sh\n", encoding="utf-8"
        )
        for file in ("subuid", "subgid"):
            (etc / file).write_text(f"{name}:{user * 100}:65536\n", encoding="utf-8")
        for own in ("home", "run"):
            (folder / own).mkdir(mode=0o700, exist_ok=True)
            os.chown(folder / own, user, user)
        os.chown(place.door.parent, user, user)
    (containers / "storage.conf").write_text(storage, encoding="utf-8")
    (containers / "containers.conf").write_text(
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "crun"\n'
        f'[engine.runtimes]\ncrun = ["{runtime(place)}"]\n'
        f'[network]\nfirewall_driver = "none"\ndefault_subnet = "{place.engine.subnet}.0/24"\n',
        encoding="utf-8",
    )
    (containers / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n', "utf-8")


_RUNTIME = r"""#!/bin/sh
for word; do
    if [ "$before" = --bundle ]; then
        for kind in NPROC NOFILE; do
            most=$(prlimit --pid $$ --noheadings --raw --output HARD "--$(echo $kind | tr A-Z a-z)")
            sed -i 's/\("RLIMIT_'$kind'","hard":\)1048576,"soft":1048576/\1'$most',"soft":'$most'/' "$word/config.json"
        done
    fi
    before=$word
done
exec crun "$@"
"""


def runtime(place: Place) -> Path:
    """A crun that asks for no higher limits than root may set here.

    Podman 4 asks for a million of processes and files, which the kernel grants
    with CAP_SYS_RESOURCE only; in some virtual machines root does not have it.
    """
    program = place.folder / "crun"
    program.write_text(_RUNTIME, encoding="utf-8")
    program.chmod(0o755)
    return program


def lay_over(place: Place) -> str:
    """Shell commands that lay the packages over /usr and /etc; the namespace is private."""
    etc, work = place.folder / "etc", place.folder / "etc-work"
    for folder in (etc, work):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    configure(place, etc)
    steps = [
        # Controllers in both versions at once are too much for the newer runtimes.
        "{ ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified; }",
        f"mount -t overlay overlay -o lowerdir=/etc:{place.root}/etc,upperdir={etc},workdir={work} /etc",
        f"mount -t overlay overlay -o lowerdir={place.root}/usr:/usr /usr",
    ]
    if place.engine.user and not _TUN.stat().st_mode & stat.S_IWOTH:
        # Elsewhere everybody may open it, and a user's network needs it.
        own = place.folder / "tun"
        own.unlink(missing_ok=True)
        os.mknod(own, 0o666 | stat.S_IFCHR, _TUN.stat().st_rdev)
        own.chmod(0o666)
        steps.append(f"mount --bind {own} {_TUN}")
    return " && ".join([*steps, "mount --make-rshared /"])


def start(place: Place) -> None:
    """Start an engine, wait until it answers, print where it listens."""
    if not answers(place.door):
        unpack(place)
        place.folder.mkdir(parents=True, exist_ok=True)
        place.door.parent.mkdir(parents=True, exist_ok=True)
        place.door.unlink(missing_ok=True)
        # Left by an engine that was killed; its numbers may belong to other processes by now.
        for left in ("engine.pid", "exec/containerd/containerd.pid"):
            (place.folder / left).unlink(missing_ok=True)
        make_bridge(place)
        command = docker_command(place)
        if place.is_podman:
            command = podman_command(place, "system", "service", "--time=0", f"unix://{place.door}")
        script = f'{lay_over(place)} && exec "$@"'
        inside = ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *command]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "XDG_"))
        }
        with place.log.open("ab") as log:
            started = subprocess.Popen(
                inside,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**environment, "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"},
            )
        place.pid_file.write_text(f"{started.pid}\n", encoding="ascii")
        until = time.monotonic() + _START_S
        while not answers(place.door):
            if started.poll() is not None or time.monotonic() > until:
                stop(place)
                raise SystemExit(f"{place.name} does not start: see the end of {place.log}")
            time.sleep(0.2)
    print(f"DOCKER_HOST=unix://{place.door}")


def stop(place: Place) -> None:
    """Stop an engine; its images are kept for the next start."""
    try:
        pid = int(place.pid_file.read_text(encoding="ascii"))
        # A number is used again: it must still be the process that was started.
        ours = str(place.door).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        ours = False
    if ours:
        if place.is_podman:
            # Its containers are nobody's children, and would stay.
            inside = ["nsenter", f"--target={pid}", "--mount"]
            run(*inside, *podman_command(place, "rm", "--all", "--force", "--time=1"), check=False)
        end(pid)
    # It holds a user's namespaces, the next start's among them.
    pause = place.folder / "run/libpod/tmp/pause.pid"
    with suppress(OSError, ValueError):
        pid = int(pause.read_text(encoding="ascii"))
        if Path(f"/proc/{pid}").stat().st_uid == place.engine.user:
            end(pid)
        pause.unlink()
    place.pid_file.unlink(missing_ok=True)
    place.door.unlink(missing_ok=True)
    remove_bridge(place)


def end(pid: int) -> None:
    """End a process and wait for it."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + _STOP_S
    while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < until:
        time.sleep(0.2)


def answers(door: Path) -> bool:
    """Whether an engine answers at a unix socket; it listens before it is ready."""
    with socket.socket(socket.AF_UNIX) as opened:
        opened.settimeout(5)
        try:
            opened.connect(str(door))
            opened.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in opened.recv(64)
        except OSError:
            return False


def make_bridge(place: Place) -> None:
    """The bridge of a Docker that must not touch the machine's rules; Podman makes its own."""
    remove_bridge(place)
    if not place.is_podman:
        run("ip", "link", "add", place.bridge, "type", "bridge")
        run("ip", "address", "add", f"{place.engine.subnet}.1/24", "dev", place.bridge)
        run("ip", "link", "set", place.bridge, "up")
    if shutil.which("iptables"):
        run("iptables", "--wait", "--insert", "FORWARD", *_among(place))


def remove_bridge(place: Place) -> None:
    """Take back what `make_bridge` did."""
    if shutil.which("iptables"):
        run("iptables", "--wait", "--delete", "FORWARD", *_among(place), check=False)
    if Path("/sys/class/net", place.bridge).exists():
        run("ip", "link", "delete", place.bridge)


def _among(place: Place) -> list[str]:
    # The machine's Docker may have made "drop" the chain's policy.
    network = f"{place.engine.subnet}.0/24"
    return ["--source", network, "--destination", network, "--jump", "ACCEPT"]


def main() -> None:
    """Start or stop one, or list them."""
    parser = argparse.ArgumentParser(description="Run other container engines beside the machine's own.")
    parser.add_argument("verb", choices=["start", "stop", "list"])
    parser.add_argument("engine", nargs="?", choices=list(ENGINES))
    parser.add_argument("--socket", type=Path, help="where it is to listen; an absolute path")
    given = parser.parse_args()
    if given.verb == "list":
        for name in ENGINES:
            place = Place(name, given.socket)
            print(f"{name:16} {'answers at' if answers(place.door) else 'is not at':10} {place.door}")
    elif given.engine is None:
        parser.error("which engine?")
    elif os.getuid() != 0:
        raise SystemExit("other engines need root: sudo python tools/other_engines.py …")
    else:
        (start if given.verb == "start" else stop)(Place(given.engine, given.socket))


if __name__ == "__main__":
    main()
