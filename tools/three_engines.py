"""Three container engines on this machine, each as if on a machine of its own (Linux, as root).

    python -m tools.three_engines up [--cpus 0.6]    # makes n1, n2, n3
    eval "$(python -m tools.three_engines env)"      # this shell's docker and llmlab use them
    python -m tools.three_engines status
    python -m tools.three_engines cut n2             # pull its cable; mend n2
    python -m tools.three_engines kill n3            # SIGKILL its daemon; revive n3; restart n3
    python -m tools.three_engines down               # the machine is as it was before

Each has a network namespace and a host name of its own and a cable to a switch, data,
sockets and a containerd of its own, and a control group that its containers are below.
A Docker context names each: n1 by its unix socket, as if it were this machine's; n2 at a
TCP port with certificates on both sides; n3 through ssh. This machine has an address on
their network, too. Nothing is forwarded from there to elsewhere. The machine's own engine,
its firewall and the user's Docker configuration are not touched. Image and model are not
brought to the engines: llmlab does that.

`up` cleans up after an earlier one that has not come to its end. With --name, several
of them can stand side by side. With --cpus, and control groups of version 1, the kernel
refuses a container that asks for more: say it there as well (llmlab start --cpus 0.6).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tools.engines_apart import letting_in, removing
from tools.engines_apart.commands import EnginesError, check, found
from tools.engines_apart.engine import Engine
from tools.engines_apart.network import Network, free_subnet

NODES = ("n1", "n2", "n3")
_TLS_PORT = 2376


class ThreeEngines:
    """Three container engines; in a `with` block they are there, and gone after it.

    Args:
        name: Begins the names of their control groups and of the host's link.
        folder: Where everything of theirs lies; None for a directory of that name among temporary files.
        cpus: How many CPUs the containers of each engine may use together; None for no limit.
        options: Node → further entries of its daemon.json.
        ssh: Whether n3 is reached through ssh; else, and where there is no sshd, with TLS as n2.
        say: Is told what is done.
    """

    def __init__(
        self,
        *,
        name: str = "llmlab",
        folder: Path | None = None,
        cpus: float | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        ssh: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        if not name.isalnum() or len(name) > 12:  # noqa: PLR2004 - a link's name has 15 characters at most
            raise EnginesError(f"{name!r} cannot begin a link's name: at most 12 letters and digits")
        self.folder = folder or Path(tempfile.gettempdir()) / f"{name}-engines"
        self._name = name
        self._cpus = cpus
        self._options = options or {}
        self._ssh = ssh
        self._say = say

    def __enter__(self) -> ThreeEngines:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Make them."""
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove them."""
        self.down()

    def up(self) -> None:
        """Make them, and wait until all answer.

        Raises:
            EnginesError: If something is missing, or one does not answer.
        """
        check()
        with self._locked():
            if self.is_up():
                self._say(f"the engines are up already, in {self.folder}")
                return
            if self._leftovers():
                self._say(f"removing what an earlier run has left in {self.folder}")
            self._remove()
            try:
                self._make()
            except BaseException:
                self._remove()
                raise

    def down(self) -> None:
        """Remove them and all that they have left."""
        if os.getuid():
            raise EnginesError("this needs root")
        with self._locked():
            self._remove()
        self._lock().unlink(missing_ok=True)
        self._say("removed the engines and all that was theirs")

    def is_up(self) -> bool:
        """Whether they have been made and all answer."""
        if not self._state().get("made"):
            return False
        with suppress(EnginesError):
            return all(self.engine(node).answers() for node in NODES)
        return False

    def engine(self, node: str) -> Engine:
        """One of them.

        Raises:
            EnginesError: If there is none of that name.
        """
        if node not in NODES:
            raise EnginesError(f"no engine {node!r}; there are {', '.join(NODES)}")
        return Engine(self.folder / node, self._group(node), self._network().inside(node))

    def address(self, node: str) -> str:
        """The address of one of them on their network."""
        return self._network().address(node)

    def inside(self, node: str) -> list[str]:
        """The words before a command that is to run as if on the machine of one of them."""
        return self._network().inside(node)

    def hosts(self) -> dict[str, str]:
        """Where each of them is reached from here, as in `DOCKER_HOST`."""
        n1, n2, n3 = NODES
        by_ssh = f"ssh://root@{self.address(n3)}"
        return {
            n1: f"unix://{self.engine(n1).socket}",
            n2: self._tls_host(n2),
            n3: by_ssh if self._state().get("ssh") else self._tls_host(n3),
        }

    def env(self) -> dict[str, str]:
        """What an environment needs to use their contexts, and to pull their cables."""
        found_here = {"DOCKER_CONFIG": str(self.folder / "docker"), "LLMLAB_CABLES": self._cables()}
        ssh = self.folder / "ssh"
        if self._state().get("ssh"):
            found_here["LLMLAB_SSH"] = f"ssh -F {ssh}/config"
            found_here["PATH"] = f"{ssh}/bin{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return found_here

    def _cables(self) -> str:
        """The words before `cut NODE` and `mend NODE`, from wherever they are typed."""
        place = f"PYTHONPATH={Path(__file__).resolve().parents[1]}"
        chosen = ["--name", self._name, "--folder", str(self.folder.absolute())]
        return shlex.join(["env", place, sys.executable, "-m", "tools.three_engines", *chosen])

    def cut(self, node: str) -> None:
        """Pull the cable of one of them."""
        self.engine(node)
        self._network().cut(node)
        self._say(f"{node} is cut off")

    def mend(self, node: str) -> None:
        """Plug the cable of one of them in again."""
        self.engine(node)
        self._network().mend(node)
        self._say(f"{node} is on the network again")

    def kill(self, node: str) -> None:
        """SIGKILL to the daemon of one of them; its containers go on."""
        self.engine(node).end(signal.SIGKILL)
        self._say(f"the daemon of {node} is killed")

    def revive(self, node: str) -> None:
        """Start the daemon of one of them again, and wait until it answers."""
        engine = self.engine(node)
        engine.start()
        engine.wait()
        self._say(f"{node} answers")

    def restart(self, node: str) -> None:
        """Stop the daemon of one of them as a service manager does, and start it again."""
        self.engine(node).end(signal.SIGTERM)
        self.revive(node)

    def status(self) -> list[str]:
        """A line for each of them."""
        if not self._state().get("made"):
            return ["there are no engines; make them: up"]
        lines = []
        for node, host in self.hosts().items():
            cable = "cut off" if self._network().is_cut(node) else "on the network"
            engine = self.engine(node)
            running = f"{engine.containers()} processes in containers"
            lines.append(f"{node}  {engine.state()}, {cable}, {running}  {host}")
        return lines

    def _make(self) -> None:
        self.folder.mkdir(mode=0o700)
        by_ssh = self._ssh and bool(found("sshd") and found("ssh-keygen"))
        state = {
            "subnet": free_subnet(),
            "ssh": by_ssh,
            "shared": [str(place) for place in removing.SHARED if not place.exists()],
        }
        self._keep(state)
        self._say(f"everything lies in {self.folder}")
        network = self._network()
        network.make()
        self._say(f"the network is {state['subnet']}.0/24, this machine {network.host} in it")
        if self._ssh and not by_ssh:
            self._say("there is no sshd (Debian: apt install openssh-server): n3 listens with TLS as well")
        self._configure()
        engines = [self.engine(node) for node in NODES]
        for engine in engines:
            engine.start()
        if by_ssh:
            removing.SHARED[0].mkdir(exist_ok=True)
            letting_in.start_sshd(self.folder / "ssh", network.inside(NODES[2]))
        with ThreadPoolExecutor() as pool:
            list(pool.map(Engine.wait, engines))
        self._keep({**state, "made": True})
        for node, host in self.hosts().items():
            self._say(f"{node} answers at {host}")

    def _configure(self) -> None:
        hosts, certificates = self.hosts(), {}
        for node, host in hosts.items():
            options, listens = dict(self._options.get(node, {})), []
            if host.startswith("tcp://"):
                files = certificates[node] = self.folder / f"tls-{node}"
                letting_in.make_certificates(files, self.address(node))
                options |= {"tlsverify": True, "tlscacert": f"{files}/ca.pem"}
                options |= {"tlscert": f"{files}/server.pem", "tlskey": f"{files}/server.key"}
                listens = [host]
            elif host.startswith("ssh://"):
                letting_in.make_keys(self.folder / "ssh", self.address(node), self.engine(node).socket)
            self.engine(node).make(listens, options, self._cpus)
        letting_in.make_contexts(self.folder / "docker", hosts, certificates, current=NODES[0])

    def _remove(self) -> None:
        shared = self._state().get("shared", ())
        network, groups = self._network(), [self._group(node) for node in NODES]
        removing.end_all(self.folder, groups, network.namespaces())
        removing.remove_sockets(self.folder)
        network.remove()
        removing.unmount(self.folder)
        removing.remove_groups(groups)
        removing.remove_folder(self.folder, shared)

    def _leftovers(self) -> bool:
        return self.folder.exists() or any(removing.groups(self._group(node)) for node in NODES)

    def _group(self, node: str) -> str:
        return f"{self._name}-{node}"

    def _tls_host(self, node: str) -> str:
        return f"tcp://{self.address(node)}:{_TLS_PORT}"

    def _network(self) -> Network:
        return Network(self.folder / "net", self._name, self._state().get("subnet", ""), NODES)

    def _keep(self, state: dict[str, Any]) -> None:
        (self.folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        file = self.folder / "state.json"
        with suppress(OSError, ValueError):
            # Others may write among temporary files as well.
            if file.stat().st_uid == os.getuid():
                read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
                return read
        return {}

    def _lock(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.lock")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock().open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.three_engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", default="llmlab", help="begins the names of what it makes")
    parser.add_argument("--folder", type=Path, help="where everything lies")
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", help="make the engines")
    up.add_argument("--cpus", type=float, help="CPUs for the containers of each engine, such as 0.6")
    up.add_argument("--no-ssh", action="store_true", help="reach n3 with TLS, as n2")
    for action in ("down", "status", "env"):
        actions.add_parser(action)
    for action in ("cut", "mend", "kill", "revive", "restart"):
        actions.add_parser(action).add_argument("node")
    given = parser.parse_args()
    try:
        engines = ThreeEngines(
            name=given.name,
            folder=given.folder,
            cpus=getattr(given, "cpus", None),
            ssh=not getattr(given, "no_ssh", False),
        )
        if given.action == "status":
            print("\n".join(engines.status()))
        elif given.action == "env":
            _print_env(engines)
        else:
            words = [given.node] if "node" in given else []
            getattr(engines, given.action)(*words)
    except EnginesError as error:
        print(f"three_engines: {error}", file=sys.stderr)
        return 1
    return 0


def _print_env(engines: ThreeEngines) -> None:
    print("unset DOCKER_HOST DOCKER_CONTEXT")
    for key, value in engines.env().items():
        print(f"export {key}={shlex.quote(value)}")


if __name__ == "__main__":
    raise SystemExit(main())
