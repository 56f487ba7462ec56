"""llama-server, llama.cpp's own C++ server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llmlab.engines import base
from llmlab.engines.base import Paths
from llmlab.specs import BackendName, EngineName, ServeSpec

NAME: Final[EngineName] = "llama-server"
BACKENDS: Final[frozenset[BackendName]] = frozenset({"native", "container"})
UNIX_SOCKETS: Final = True
HEALTH_PATH: Final = "/health"
METRICS: Final = True
PARALLEL: Final = True

# Requests that may wait for a slot before it makes further threads for them: a class, and who watches it.
_WAITING: Final = 72
# Longest wait for the next bytes of a request, and until a client takes those of its answer.
_STALLED_S: Final = 60

# A phrase of its log → what that means, and what to do. The first that is
# found counts, so the specific ones stand first.
_REASONS: Final = (
    ("unknown model architecture", "this llama.cpp does not know the model's architecture", "use a newer llama.cpp"),
    ("invalid magic", "the model is not a GGUF file", "download it again"),
    ("tensor data is not within the file bounds", "the model's file is truncated", "download it again"),
    ("failed to load model", "llama.cpp could not load the model", "see the log lines above"),
    ("failed to allocate", "there was not enough memory", "use a smaller --context or a smaller model"),
    ("error: invalid argument", "this llama-server does not know one of llmlab's options", "run: llmlab build"),
    ("resource temporarily unavailable", "it could not make its threads", "use a larger --pids"),
    ("couldn't bind", "the socket could not be made", "look at the directory's permissions"),
)  # fmt: skip


def argv(spec: ServeSpec, paths: Paths) -> list[str]:
    """The command line.

    Each slot gets a context of its own (`-c` is the sum): with one context
    shared by all slots, concurrent clients were seen to get errors in
    mid-answer. Threads are explicit, because llama.cpp counts the machine's
    cores, not the container's quota. Prompts of earlier requests are kept in
    their slots only: by default llama-server keeps up to 8 GiB of them beside,
    which no limit of a container expects.

    A request that waits for a slot holds one of its HTTP threads. Of those that it makes
    only when they are needed it makes too few when many requests come at once, and then
    `/health` and `/metrics` wait behind them: so there are enough from the beginning. And
    who neither sends nor reads holds one until the time-out, which is an hour by default.
    """
    return [
        str(paths.program),
        *("--model", str(paths.model)),
        *("--alias", spec.model.name),
        # It takes a path that ends in .sock for a unix socket.
        *(
            ("--host", str(paths.socket))
            if paths.socket
            else ("--host", paths.host, "--port", str(paths.port))
        ),
        *("--ctx-size", str(spec.context * spec.slots)),
        *("--parallel", str(spec.slots)),
        "--no-kv-unified",
        *("--cache-type-k", spec.kv_type),
        *("--cache-type-v", spec.kv_type),
        *_offloading(spec.gpu_layers),
        *("--cache-ram", "0"),
        *("--threads", str(spec.threads)),
        *("--threads-batch", str(spec.threads)),
        *("--threads-http", str(spec.slots + _WAITING)),
        *("--timeout", str(_STALLED_S)),
        # Sizes are llmlab's to decide, the same on every backend.
        *("--fit", "off"),
        "--jinja",
        "--metrics",
        "--slots",
        "--no-ui",
        "--offline",
        *("--log-colors", "off"),
    ]


def _offloading(layers: int) -> tuple[str, ...]:
    """What goes onto a GPU.

    Without layers there it would still give large products to one that it finds. What it
    says of the layers it has put there, it says at this level only.
    """
    return ("--n-gpu-layers", str(layers), "--verbosity", "4") if layers else ("--device", "none")


def environment(spec: ServeSpec, paths: Paths) -> dict[str, str]:  # noqa: ARG001 - the protocol's signature
    """Environment variables.

    OpenMP threads that wait actively take the CPU from each other when there
    is a busy neighbour or a quota (measured: 27 tokens/s fell to 1.3).
    """
    variables = {
        "HOME": str(paths.scratch),
        "XDG_CACHE_HOME": str(paths.scratch),
        "TMPDIR": str(paths.scratch),
        "LANG": "C.UTF-8",
        "OMP_WAIT_POLICY": "passive",
    }
    if paths.library_dir:
        variables["LD_LIBRARY_PATH"] = str(paths.library_dir)
    return variables


def offloaded(log: Sequence[str]) -> tuple[int, int] | None:
    """Layers that llama.cpp has put onto a GPU, and how many there are; None if its log does not say."""
    return base.offloaded(log)


def explain(log: Sequence[str]) -> tuple[str, str] | None:
    """Why a start failed: (reason, hint), or None if the log does not tell."""
    text = "\n".join(log).lower()
    for phrase, reason, hint in _REASONS:
        if phrase in text:
            return reason, hint
    return None
