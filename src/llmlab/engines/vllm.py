"""vLLM, in its published image: `vllm serve` on a unix socket, without usage statistics.

It computes on a GPU; for the CPU it has an image of its own. (Options: vLLM, `vllm serve
--help`, `vllm/envs.py`.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from llmlab.engines.base import Image, ModelFile, Paths
from llmlab.errors import UsageError
from llmlab.specs import BackendName, EngineName, ServeSpec
from llmlab.weights import anatomy, checkpoint, fit
from llmlab.weights.anatomy import Form

NAME: Final[EngineName] = "vllm"
# Installed natively it brings PyTorch and CUDA of its own: a Python of its own, which llmlab does not make.
BACKENDS: Final[frozenset[BackendName]] = frozenset({"container"})
UNIX_SOCKETS: Final = True
HEALTH_PATH: Final = "/health"
METRICS: Final = False
PARALLEL: Final = True
FORMS: Final[tuple[Form, ...]] = ("gguf", "safetensors")
CPU_IMAGE: Final = "vllm/vllm-openai-cpu:v0.28.0-x86_64"
IMAGE: Final = Image(
    name="vllm/vllm-openai:v0.28.0",
    program="vllm",
    version="/version",
    needs_gpu=True,
    without_gpu=f"--profile gpu gives it one; or name its image for the CPU: --image {CPU_IMAGE}",
    # Its processes find each other by a port of the loopback interface (torch.distributed).
    loopback=True,
    pids=2048,
    open_files=4096,
    # What it compiles for the model at hand lies there, and is loaded from there.
    scratch_mib=4096,
    scratch_exec=True,
    shm_mib=1024,
)

_KV_TYPES: Final = ("f16",)
_MIB: Final = 1024 * 1024
_GIB: Final = 1024
# The cache is made of blocks of so many tokens, so that it is a little larger than what is asked for.
_SPARE: Final = 1.125
_LEAST_CACHE_MIB: Final = 64
_REASONS: Final = (
    ("failed to infer device type", "vLLM finds no GPU", IMAGE.without_gpu),
    ("no cuda gpus are available", "vLLM finds no GPU", IMAGE.without_gpu),
    ("trust_remote_code", "the model brings code of its own, which llmlab does not let run", "take a model that vLLM knows"),
    ("architecture", "this vLLM does not know the model's architecture", "name a newer --image, or use llama-server"),
    ("less than desired gpu memory utilization", "too little of the GPU's memory is free", "stop what else is on it"),
    ("out of memory", "there was not enough GPU memory", "use a smaller --context or a smaller model"),
    ("unrecognized arguments", "this vLLM does not know one of llmlab's options", f"use --image {IMAGE.name}"),
    ("engine core initialization failed", "vLLM could not load the model", "see the log lines above"),
)  # fmt: skip


def argv(spec: ServeSpec, paths: Paths) -> list[str]:
    """The command line.

    The size of the KV cache is told, since by default vLLM takes nine tenths of a GPU,
    whatever the model needs.

    Raises:
        UsageError: If it has no such KV cache.
    """
    if spec.kv_type not in _KV_TYPES:
        raise UsageError(f"vLLM has no KV cache of type {spec.kv_type}", hint="leave --kv-type out")
    cache = _cache_mib(spec)
    share = () if spec.gpu_share is None else ("--gpu-memory-utilization", f"{spec.gpu_share:.3f}")
    return [
        str(paths.program),
        *("serve", str(paths.model.parent if _is_checkpoint(spec) else paths.model)),
        *("--served-model-name", spec.model.name),
        *(
            ("--uds", str(paths.socket))
            if paths.socket
            else ("--host", paths.host, "--port", str(paths.port))
        ),
        *("--max-model-len", str(spec.context)),
        *("--max-num-seqs", str(spec.slots)),
        *(() if cache is None else ("--kv-cache-memory-bytes", str(cache * _MIB))),
        *share,
    ]


def environment(spec: ServeSpec, paths: Paths) -> dict[str, str]:
    """Environment variables; whatever it writes goes to the scratch directory."""
    scratch = str(paths.scratch)
    cache = _cache_mib(spec)
    return {
        "HOME": scratch,
        "TMPDIR": scratch,
        "XDG_CACHE_HOME": scratch,
        "XDG_CONFIG_HOME": scratch,
        "LANG": "C.UTF-8",
        # PyTorch asks for the user's name, and the image does not know everybody's number.
        "USER": "llmlab",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": f"{scratch}/huggingface",
        "VLLM_CACHE_ROOT": f"{scratch}/vllm",
        "VLLM_CONFIG_ROOT": f"{scratch}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor",
        "TRITON_CACHE_DIR": f"{scratch}/triton",
        "FLASHINFER_WORKSPACE_BASE": scratch,
        # Otherwise it looks for the address by which it would reach the internet.
        "VLLM_HOST_IP": "127.0.0.1",
        "OMP_NUM_THREADS": str(spec.threads),
        # Read by its image for the CPU; in GiB.
        **({} if cache is None else {"VLLM_CPU_KVCACHE_SPACE": str(math.ceil(cache / _GIB))}),
    }


def model_files(spec: ServeSpec) -> Iterator[ModelFile]:
    """The model's one file; of a directory of safetensors, those of the weights and all that describes them.

    Raises:
        UsageError: If there are more of GGUF.
        ModelError: If one of the directory is gone.
    """
    if _is_checkpoint(spec):
        folder = spec.model.path.parent
        for path in (*checkpoint.files(folder), *checkpoint.beside(folder)):
            yield ModelFile(path.name, path)
        return
    if len(spec.model.files) > 1:
        raise UsageError(
            f"vLLM takes GGUF models of one file, and {spec.model.name} has {len(spec.model.files)}",
            hint="use --engine llama-server",
        )
    yield ModelFile(spec.model.path.name, spec.model.path)


def notes(spec: ServeSpec) -> Iterator[str]:
    """What the user should know: GGUF files are not what vLLM was made for, and what cannot be told beforehand."""
    if not _is_checkpoint(spec):
        yield "vLLM calls its support of GGUF files experimental, and knows fewer architectures than llama.cpp"
    elif _cache_mib(spec) is None:
        yield (
            f"what the context takes is not known: the {checkpoint.CONFIG} of {spec.model.name} does not say how many "
            "layers, KV heads, or elements of a head there are; vLLM takes what is left to it"
        )


def offloaded(log: Sequence[str]) -> tuple[int, int] | None:  # noqa: ARG001 - the protocol's signature
    """None: it has no layers elsewhere, and its log does not speak of them."""
    return None


def explain(log: Sequence[str]) -> tuple[str, str] | None:
    """Why a start failed: (reason, hint), or None if the log does not tell."""
    text = "\n".join(log).lower()
    return next(((reason, hint) for phrase, reason, hint in _REASONS if phrase in text), None)


def _is_checkpoint(spec: ServeSpec) -> bool:
    return spec.model.path.suffix == checkpoint.SUFFIX


def _cache_mib(spec: ServeSpec) -> int | None:
    """Memory for the context of all slots; None if the model does not say what a token takes."""
    model = anatomy.of_file(spec.model.path)
    if not model.cache_known:
        return None
    setting = fit.Setting(context=spec.context, slots=spec.slots, kv_type=spec.kv_type)
    needed = fit.need(model, setting).parts["KV cache"]
    return max(math.ceil(needed * _SPARE), _LEAST_CACHE_MIB)
