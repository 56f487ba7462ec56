"""The checks of the audit, as data: what each is about, how grave it is, its CIS number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Group = Literal["network", "files", "privileges", "resources", "devices", "access", "integrity"]
Severity = Literal["critical", "high", "medium", "low"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must not be possible.

    Attributes:
        id: Such as "N1".
        title: What is kept from happening, in a few words.
        severity: How grave it is if it can happen.
        cis: Number of the recommendation in the CIS Docker Benchmark 1.6; "" if it has none.
        meaning: What could happen if it failed.
        group: What it is about.
    """

    id: str
    title: str
    severity: Severity
    cis: str
    meaning: str
    group: Group


_TABLE: dict[Group, tuple[tuple[str, str, Severity, str, str], ...]] = {
    "network": (
        ("N1", "this machine's network", "critical", "5.30",
         "a prompt could be sent to any machine of the local network, and on from there"),
        ("N2", "services of this machine", "critical", "5.30",
         "what listens on this machine, a notebook server or a database, could be attacked from inside"),
        ("N3", "a cloud's metadata", "critical", "5.30",
         "on a rented machine, its credentials could be fetched from 169.254.169.254"),
        ("N4", "name service", "high", "5.30",
         "names that are looked up carry data out, past most firewalls"),
        ("N5", "one-way datagrams", "high", "5.30",
         "data could leave without an answer coming back"),
        ("N6", "network interfaces", "high", "5.10",
         "where there is an interface there is a way out"),
        ("N7", "other containers", "high", "5.30",
         "one server could talk to another, or to somebody else's container"),
        ("N8", "kinds of sockets", "medium", "5.22",
         "each kind is a part of the kernel that could be attacked, or a way past the network's rules"),
        ("N9", "the model from other machines", "high", "5.14",
         "anybody on the network could use the model, and read what it is asked"),
    ),
    "files": (
        ("F1", "writing the root file system", "medium", "5.13",
         "the engine's own files could be replaced"),
        ("F2", "writing the model", "critical", "5.6",
         "the weights on this machine could be replaced, for everybody who uses them"),
        ("F3", "running what was written", "medium", "",
         "a program that came in could be run"),
        ("F4", "filling the disk or the memory", "medium", "",
         "this machine's disk or memory could be used up through a file"),
        ("F5", "files of this machine", "critical", "5.6, 5.32",
         "files of this machine could be read; the container engine's socket is as good as root"),
        ("F6", "the kernel's own files", "high", "5.5",
         "the kernel's memory could be read, or the machine be halted"),
    ),
    "privileges": (
        ("P1", "capabilities", "high", "5.4",
         "parts of root's power are there to be used in a break-out"),
        ("P2", "setuid programs", "high", "5.26",
         "a program with the setuid bit would run as root"),
        ("P3", "being root", "high", "4.1",
         "root in a container is root on this machine, should it break out"),
        ("P4", "dangerous system calls", "high", "5.22",
         "mounts, namespaces and the like are what break-outs are made of"),
        ("P5", "processes of this machine", "high", "5.16",
         "command lines and environments of others could be read, and processes killed"),
        ("P6", "namespaces of this machine", "medium", "5.17, 5.21",
         "shared memory of others could be read, the machine's name be changed"),
    ),
    "resources": (
        ("R1", "memory", "high", "5.11", "this machine's memory could be used up"),
        ("R2", "processes", "high", "5.29", "a fork bomb would stop this machine"),
        ("R3", "CPU time", "medium", "5.12", "nothing would be left for anybody else"),
        ("R4", "open files", "low", "5.19", "the machine's table of open files could be filled"),
    ),
    "devices": (
        ("G1", "GPUs that were not asked for", "high", "5.18",
         "memory of somebody else's computation could be read, or the GPU be used"),
    ),
    "access": (
        ("A1", "another user connects", "high", "",
         "any user of this machine could use the model"),
        ("A2", "asking without the key", "critical", "5.9",
         "any program, and any page in a browser on this machine, could use the model"),
        ("A3", "an impostor in the server's place", "high", "",
         "prompts would go to whoever listens there"),
    ),
    "integrity": (
        ("M1", "image and model exchanged", "high", "",
         "what runs would not be what was verified"),
    ),
}  # fmt: skip

CHECKS: tuple[Check, ...] = tuple(Check(*row, group=group) for group, rows in _TABLE.items() for row in rows)
BY_ID = {check.id: check for check in CHECKS}
ON_THE_SERVER = frozenset({"N9", "A1", "A2", "A3", "M1"})
"""Checks that are tried on the server itself; all others in its twin."""
SCALED = frozenset({"R1", "R2", "R3"})
"""Checks whose limits are made smaller before they are tried."""
