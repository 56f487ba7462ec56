"""Where the contract of Ollama and vLLM runs: against their stand-ins, or against the real images.

    LLMLAB_REAL_IMAGES=1 .venv/bin/pytest tests/test_engines_ollama.py tests/test_engines_vllm.py

takes the images that llmlab names, on a machine that reaches their registries.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import IO, Any, cast

from llmlab import engines
from llmlab.backends import docker_api
from llmlab.builds import find_build
from llmlab.engines import vllm
from llmlab.errors import ImageError
from llmlab.testing.stand_ins.image import LABEL, Kind, pack
from tests.conftest import missing

REAL = os.environ.get("LLMLAB_REAL_IMAGES") == "1"


def place(kind: Kind) -> dict[str, Any]:
    """Arguments of `start` that choose an engine and its image."""
    return {"backend": "container", "engine": kind, "image": real(kind) if REAL else image(kind)}


def real(kind: Kind) -> str:
    """The published image, pulled if it is not there; vLLM's is the one for the CPU."""
    published = engines.image_of(engines.engine(kind))
    assert published
    name = vllm.CPU_IMAGE if published.needs_gpu else published.name
    api = docker_api.connect()
    try:
        for _ in () if api.image_id(name) else api.pull(name):
            pass
    except ImageError as error:
        missing("real images", str(error))
    return name


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
