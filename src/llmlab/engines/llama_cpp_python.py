"""llama-cpp-python's own server, for comparison with llama-server.

It answers one request at a time and has no `/health`, `/metrics`, `/slots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmlab.engines import base
from llmlab.engines.base import Paths
from llmlab.specs import BackendName, EngineName, ServeSpec

NAME: Final[EngineName] = "llama-cpp-python"
# It needs a Python with all its packages, and the images that llmlab makes
# hold an engine's own files and nothing else.
BACKENDS: Final[frozenset[BackendName]] = frozenset({"native"})
UNIX_SOCKETS: Final = True
HEALTH_PATH: Final = "/v1/models"
METRICS: Final = False


def argv(spec: ServeSpec, paths: Paths) -> list[str]:
    """The command line: a small launcher, since the server itself has no option for unix sockets."""
    return [
        str(paths.program),
        *("-m", "llmlab.engines.llama_cpp_server"),
        *("--model", str(paths.model)),
        *("--alias", spec.model.name),
        *(
            ("--socket", str(paths.socket))
            if paths.socket
            else ("--host", paths.host, "--port", str(paths.port))
        ),
        *("--context", str(spec.context)),
        *("--threads", str(spec.threads)),
        *("--kv-type", spec.kv_type),
        *("--gpu-layers", str(spec.gpu_layers)),
    ]


def environment(spec: ServeSpec, paths: Paths) -> dict[str, str]:  # noqa: ARG001 - the protocol's signature
    """Environment variables; `LLAMA_CPP_LIB_PATH` names the libraries to load."""
    variables = {
        "HOME": str(paths.scratch),
        "XDG_CACHE_HOME": str(paths.scratch),
        "TMPDIR": str(paths.scratch),
        "LANG": "C.UTF-8",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONUNBUFFERED": "1",
    }
    if paths.library_dir:
        variables["LLAMA_CPP_LIB_PATH"] = str(paths.library_dir)
        variables["LD_LIBRARY_PATH"] = str(paths.library_dir)
    return variables


def offloaded(log: Sequence[str]) -> tuple[int, int] | None:
    """Layers that llama.cpp has put onto a GPU, and how many there are; None if its log does not say."""
    return base.offloaded(log)


def explain(log: Sequence[str]) -> tuple[str, str] | None:
    """Why a start failed: (reason, hint), or None if the log does not tell."""
    text = "\n".join(log)
    if "No module named" in text:
        return "llama-cpp-python is not installed with its server", "pip install 'llmlab[llama]'"
    if "Shared library with base name" in text:
        return "llama-cpp-python has no libraries of its own, and there is no build", "run: llmlab build"
    if "Failed to load model" in text:
        return "llama.cpp could not load the model", "see the log lines above"
    return None
