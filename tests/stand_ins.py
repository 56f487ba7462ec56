"""Where the contract of Ollama and vLLM runs: against their stand-ins, or against the real images.

    make test-images

takes the images that llmlab names, on a machine that reaches their registries or was brought them. It
pulls them first (`python -m tests.stand_ins`), which takes longer than a test may, and ends there if that
cannot be done.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from typing import IO, Any, cast, get_args

from llmlab import engines
from llmlab.backends import docker_api
from llmlab.builds import find_build
from llmlab.engines import vllm
from llmlab.errors import ImageError
from llmlab.testing.stand_ins.image import LABEL, Kind, pack
from tests.conftest import missing

REAL = os.environ.get("LLMLAB_REAL_IMAGES") == "1"
_cannot_be_had: dict[str, str] = {}  # name → why


def place(kind: Kind) -> dict[str, Any]:
    """Arguments of `start` that choose an engine and its image."""
    return {"backend": "container", "engine": kind, "image": real(kind) if REAL else image(kind)}


def real(kind: Kind) -> str:
    """The published image, pulled if it is not there."""
    name = published(kind)
    # A registry that does not answer takes its time to do so: it is not asked by each test.
    if name not in _cannot_be_had:
        try:
            pull(name)
        except ImageError as error:
            _cannot_be_had[name] = str(error)
    if name in _cannot_be_had:
        missing("real images", _cannot_be_had[name])
    return name


def published(kind: Kind) -> str:
    """The name of the published image; vLLM's is the one for the CPU."""
    found = engines.image_of(engines.engine(kind))
    assert found
    return vllm.CPU_IMAGE if found.needs_gpu else found.name


def pull(name: str) -> None:
    """Have an image here."""
    api = docker_api.connect()
    for _ in () if api.image_id(name) else api.pull(name):
        pass


def image(kind: Kind) -> str:
    """The image of a stand-in, made if it is not there; of earlier ones nothing is kept."""
    api = docker_api.connect()
    repository = f"llmlab-stand-in/{kind}"
    with tempfile.TemporaryFile() as file:
        pack(kind, find_build().server, cast("IO[bytes]", file))
        file.seek(0)
        name = f"{repository}:{_digest(file)[:12]}"
        if api.image_id(name):
            return name
        used = api.used_images(())
        for old in api.images(f"{LABEL}={kind}"):
            if old["Id"] not in used:
                api.remove_image(str(old["Id"]))
        file.seek(0)
        api.import_image(cast("Any", file), name, {LABEL: kind})
    return name


def _digest(file: Any) -> str:
    found = hashlib.sha256()
    while block := file.read(1 << 20):
        found.update(block)
    return found.hexdigest()


def main() -> None:
    """Pull the published images."""
    for kind in get_args(Kind):
        print(f"{published(kind)} …", flush=True)  # noqa: T201 - it may take long
        try:
            pull(published(kind))
        except ImageError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
