"""Which device files belong to the GPUs that a server was given."""

from __future__ import annotations

import re

from llmlab.isolation.gpus import DriverFiles
from llmlab.specs import GivenGpus

# Every container with an NVIDIA GPU has these; none is a GPU.
_CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")


def asked_for(given: GivenGpus, files: DriverFiles) -> frozenset[str]:
    """Patterns of these device files.

    What a name stands for and is not known here is left out: opening it then counts as a violation.

    Args:
        given: The GPUs.
        files: What the drivers have on this machine.
    """
    if given.nodes:
        return frozenset(given.nodes)
    found = set(_CONTROL) if given.asked else set()
    for words in given.asked:
        names = words.removeprefix("GPUs ")
        if names == "all":
            found |= {"/dev/nvidia[0-9]*", "/dev/nvidia-caps/*"}
        elif count := re.fullmatch(r"× (\d+)", names):
            # An engine that is asked for a number takes the first ones.
            found |= {f"/dev/nvidia{files.minors.get(str(n), n)}" for n in range(int(count[1]))}
        else:
            for name in names.split(","):
                found |= _of(name, files)
    return frozenset(found)


def _of(name: str, files: DriverFiles) -> set[str]:
    if name in files.slices:
        return set(files.slices[name])
    if name in files.minors:
        return {f"/dev/nvidia{files.minors[name]}"}
    return {f"/dev/nvidia{name}"} if name.isdecimal() else set()
