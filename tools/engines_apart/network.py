"""A network for engines: a namespace for each, a bridge in one of its own, and the host as one more guest.

The bridge is not the host's, whose firewall may drop what is forwarded over it.
The namespaces are files in the network's directory, not in /run/netns.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tools.engines_apart.commands import EnginesError, run

_SUBNETS = [f"10.213.{number}" for number in range(77, 100)]
_SWITCH = "switch"


class Network:
    """What joins engines and the host.

    Args:
        folder: Where the files of its namespaces are.
        name: The name of the host's link, with a 0 after it.
        subnet: The first three numbers of its addresses.
        nodes: Names of the engines, which are also their hosts' names.
    """

    def __init__(self, folder: Path, name: str, subnet: str, nodes: Sequence[str]) -> None:
        self._folder = folder
        self._link = f"{name}0"
        self._subnet = subnet
        self._nodes = tuple(nodes)

    @property
    def host(self) -> str:
        """The host's address."""
        return f"{self._subnet}.1"

    def address(self, node: str) -> str:
        """A node's address."""
        return f"{self._subnet}.{11 + self._nodes.index(node)}"

    def inside(self, node: str) -> list[str]:
        """The words before a command that is to run as if on a node."""
        return ["nsenter", f"--net={self._net(node)}", f"--uts={self._folder / node}.uts"]

    def namespaces(self) -> set[int]:
        """The numbers of the network namespaces, of those that are there."""
        found = set()
        for node in (_SWITCH, *self._nodes):
            with suppress(OSError):
                # Before it is a namespace, it is an empty file.
                status = self._net(node).stat()
                if status.st_dev != self._folder.stat().st_dev:
                    found.add(status.st_ino)
        return found

    def make(self) -> None:
        """Make namespaces, bridge and links."""
        self._folder.mkdir()
        for node in (_SWITCH, *self._nodes):
            for file in (self._net(node), self._folder / f"{node}.uts"):
                file.touch()
            run("unshare", f"--net={self._net(node)}", f"--uts={self._folder / node}.uts", "hostname", node)
        self._on(_SWITCH, "add", "bridge", "type", "bridge")
        self._on(_SWITCH, "set", "bridge", "up")
        run(
            "ip",
            "link",
            "add",
            self._link,
            "type",
            "veth",
            "peer",
            "name",
            "host",
            "netns",
            self._net(_SWITCH),
        )
        self._on(_SWITCH, "set", "host", "master", "bridge", "up")
        run("ip", "address", "add", f"{self.host}/24", "dev", self._link)
        run("ip", "link", "set", self._link, "up")
        for node in self._nodes:
            self._join(node)

    def _join(self, node: str) -> None:
        far = ("peer", "name", "eth0", "netns", str(self._net(node)))
        self._on(_SWITCH, "add", node, "type", "veth", *far)
        self._on(_SWITCH, "set", node, "master", "bridge", "up")
        self._on(node, "set", "lo", "up")
        run(*self.inside(node), "ip", "address", "add", f"{self.address(node)}/24", "dev", "eth0")
        self._on(node, "set", "eth0", "up")
        # The host forwards nothing of theirs; but a machine without a route is an odd one.
        run(*self.inside(node), "ip", "route", "add", "default", "via", self.host)

    def cut(self, node: str) -> None:
        """Pull a node's cable."""
        self._on(_SWITCH, "set", node, "down")

    def mend(self, node: str) -> None:
        """Plug a node's cable in again."""
        self._on(_SWITCH, "set", node, "up")

    def is_cut(self, node: str) -> bool:
        """Whether a node's cable is pulled."""
        listed = run("nsenter", f"--net={self._net(_SWITCH)}", "ip", "-oneline", "link", "show", "dev", node)
        return ",UP" not in listed

    def remove(self) -> None:
        """Remove the host's link; the rest goes with the namespaces, once their files are unmounted."""
        subprocess.run(["ip", "link", "delete", self._link], capture_output=True, check=False)

    def _net(self, node: str) -> Path:
        return self._folder / f"{node}.net"

    def _on(self, node: str, *words: str) -> None:
        run("nsenter", f"--net={self._net(node)}", "ip", "link", *words)


def free_subnet() -> str:
    """The first three numbers of a network that this machine has no route to.

    Raises:
        EnginesError: If all that may be taken are in use.
    """
    routes = run("ip", "route", "show", "table", "all")
    for subnet in _SUBNETS:
        if f"{subnet}." not in routes:
            return subnet
    raise EnginesError(f"every network from {_SUBNETS[0]}.0/24 to {_SUBNETS[-1]}.0/24 is in use")
