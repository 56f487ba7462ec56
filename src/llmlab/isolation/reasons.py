"""Why each control is there, and its number in the CIS Docker Benchmark.

One table for the receipt, the dry run and the audit. Numbers are those of the
CIS Docker Benchmark 1.6.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BENCHMARK: Final = "CIS Docker Benchmark 1.6.0"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a control is there.

    Attributes:
        why: One sentence for a learner.
        cis: Its number in the benchmark; None where that has no such rule.
    """

    why: str
    cis: str | None = None


# The names are those of the receipt's lines; the dry run has some more.
REASONS: Final[dict[str, Reason]] = {
    "network": Reason("Nothing can be sent anywhere: there is no network but loopback.", "5.10"),
    "published ports": Reason("Nobody else on the network can reach the model.", "5.14"),
    "root file system": Reason("A program that is taken over can change no program.", "5.13"),
    "models": Reason("The weights stay what was verified."),
    "other mounts": Reason("Nothing else of this machine's files is in there.", "5.6"),
    "scratch": Reason(
        "One place to write: it has a size, nothing in it can be run, and it ends with the container."
    ),
    "capabilities": Reason("Root's powers are taken away, even from root.", "5.4"),
    "no new privileges": Reason("A setuid program gives nothing more.", "5.26"),
    "system calls": Reason("The kernel refuses what a model server never needs.", "5.22"),
    "user": Reason("What is taken over is not root.", "4.1"),
    "memory": Reason("A large prompt cannot freeze the machine.", "5.11"),
    "swap": Reason("Memory that is limited and then swaps would slow down everybody."),
    "CPU": Reason("Others on the machine keep their share.", "5.12"),
    "processes": Reason("A fork bomb ends at this number.", "5.29"),
    "open files": Reason("One server cannot use up the machine's files.", "5.19"),
    "namespaces": Reason("It sees its own processes, memory segments and host name only.", "5.16"),
    "devices": Reason("Only the devices that were asked for are in there.", "5.18"),
    "security label": Reason("Where the kernel has AppArmor or SELinux, the engine's profile holds.", "5.2"),
    "log": Reason("A talkative server cannot fill the disk."),
    "image": Reason("What runs is, byte for byte, what was verified."),
    "transport": Reason("How the model is reached, and by nobody else."),
    # Parts of the command line that are no line of the receipt.
    "ipc": Reason("No shared memory with other programs.", "5.17"),
    "cgroup": Reason("It does not see how the machine's control groups are arranged.", "5.25"),
    "host name": Reason("It cannot change the machine's name.", "5.21"),
    "open network": Reason("Open: whatever runs in there can send anywhere, your prompts too.", "5.30"),
    "host network": Reason("Open: it has this machine's network, loopback included.", "5.10"),
    "open port": Reason("Open: whoever reaches this machine reaches the model.", "5.14"),
    "added capabilities": Reason("Open: one of root's powers is given back.", "5.4"),
    "writable models": Reason("Open: what runs in there can change the weights."),
    "no filter": Reason("Open: every system call of the kernel is allowed.", "5.22"),
    "shared namespaces": Reason("Open: it sees this machine's processes.", "5.16"),
    "privileged": Reason("Everything is allowed: this is for comparing only.", "5.5"),
    "socket directory": Reason("The door: a directory that only you may enter."),
    "name": Reason("A name, so that a second one cannot be started by mistake."),
    "background": Reason("It runs until it is stopped."),
    "labels": Reason("Where `llmlab ps`, `ask`, `audit` and `stop` find what they need to know."),
    "init": Reason("A first process that collects ended ones and passes signals on."),
    "no init": Reason("The engine is the first process itself, and collects none that have ended."),
    "root user": Reason("Open: root in there. With a rootless engine that is you, out here.", "4.1"),
    "environment": Reason("Nothing of your environment but this goes in."),
    "program": Reason("This program, whatever the image says."),
    "working directory": Reason("Where the program begins."),
    "health check": Reason("No program of the image's is run at intervals; llmlab asks the server itself."),
    "restart": Reason("Without one, a server that ends stays ended, so that it can be seen why."),
    "kernel cache": Reason(
        "CUDA keeps what it compiles for the card in the scratch directory: nothing else can be written."
    ),
    "device group": Reason("The GPU's device files belong to this group; nothing else of it is in there."),
    "shared memory": Reason(
        "The engine's own processes pass data through it; no other program sees it.", "5.17"
    ),
    "GPU driver": Reason(
        "The driver's libraries, read-only: they have to be those of this machine's kernel."
    ),
    "core dumps": Reason("A crash writes no memory, with prompts in it, to the disk."),
}


def reason(control: str) -> Reason:
    """Why a control is there.

    Args:
        control: The name of a line of the receipt or of a part of the command line.

    Raises:
        KeyError: If there is no such control.
    """
    return REASONS[control]
