"""Images of one static program each: the audit's probe, the relay, the digest.

Made like the engine's image, from files of this machine and without a registry.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from typing import cast

from llmlab.backends import relay
from llmlab.backends.docker_api import DockerApi
from llmlab.backends.image import ImageFile, pack_files
from llmlab.builds import static
from llmlab.reporting import reporter

# Where a tool's program lies in its image, and with which permissions. The second
# probe is what a process must gain nothing from; started by root's file system, it
# says who it is and does nothing else.
_PROGRAMS = {
    "digest": {"/digest": 0o755},
    "probe": {"/probe": 0o755, "/probe-suid": 0o4755},
    # The second is where a relay through the engine's API is looked for, as in servers' containers.
    "relay": {"/relay": 0o755, relay.PROGRAM: 0o755},
}
# Directories that every user may write to: there, a root file system that is not
# read-only shows for users other than root, too.
_FOLDERS = {"tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777}


def make(api: DockerApi, name: str) -> tuple[str, str]:
    """Make the image of a tool if it is not there; returns its name and id.

    It is compiled for the container engine's own architecture, which is also the
    one that the engine writes into an image that it imports.

    Raises:
        EngineMissingError: If nothing here can compile the program.
        BuildError: If compiling fails.
        ImageError: If the engine refuses the image.
    """
    program = static.program(name, machine=str(api.info.get("Architecture") or "x86_64"))
    files = [ImageFile(source=program, target=path, mode=mode) for path, mode in _PROGRAMS[name].items()]
    with tempfile.TemporaryFile() as file:
        pack_files(files, _FOLDERS, file)
        file.seek(0)
        identity = hashlib.sha256(file.read()).hexdigest()[:12]
        image = f"llmlab/{name}:{identity}"
        if found := api.image_id(image):
            return image, found
        reporter().stage("image", f"making {image}")
        file.seek(0)
        return image, api.import_image(cast("io.BufferedIOBase", file), image, {"llmlab.image": identity})
