"""How much memory a model needs, and what would make it fit.

What llama.cpp holds, read from its source and its log (`load_tensors`,
`llama_kv_cache`, `graph_reserve`), and checked against running servers
(`bench/fitting.py`; the errors stand in docs/fit.md):

- **weights**: the file, memory-mapped;
- **repacked weights**: a copy of those types that the CPU reads quicker in
  another order (`repack.cpp`). Their originals stay in the page cache and can
  be given up whenever memory is short: held, but not required;
- **KV cache**: for each layer, slot and token of context, KV heads × (key +
  value length) × bytes of the type; all of it is written at the start;
- **compute**: what one batch of 512 tokens needs between its layers. Only
  a prompt of that length touches all of it;
- **program**: code, vocabulary, output and sampling buffers.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmlab.specs import EngineName, KvType
from llmlab.weights.anatomy import Anatomy
from llmlab.weights.tensors import Tensor, tensor_type

Verdict = Literal["fits", "tight", "too big"]
PARTS = ("weights", "repacked weights", "KV cache", "compute", "program")

_MIB = 1024 * 1024
_WHOLE = frozenset({"vllm"})  # engines that look up a prompt's rows on the GPU as well
_BATCH = 512  # tokens; llama.cpp's --ubatch-size
_F32, _F16 = 4, 2
_KV_CELLS = 256  # the cache's length is a multiple of this
# Measured: code and libraries mapped, and heap, without a vocabulary.
_PROGRAM_MIB: dict[EngineName, int] = {
    "llama-server": 19,
    "llama-cpp-python": 82,
    # Not measured: rules of thumb, so that a limit made from them is not in the way.
    "ollama": 512,
    "vllm": 6144,
}
_TOKEN_BYTES, _MERGE_BYTES = 245, 75  # of a vocabulary in memory; measured with 152 000 tokens
_CANDIDATE_BYTES = 12  # llama_token_data: what the sampler keeps of each token
# Types that ggml's CPU backend repacks (ggml_repack_get_optimal_repack_type), with
# AVX2 and with NEON. What a CPU lacks is not repacked: the prediction is then too high.
_REPACKED = {
    "x86_64": frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}),
    "aarch64": frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"}),
}
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
_EMBEDDING = "token_embd.weight"
# CUDA's context with its libraries' kernels: what one server's process held besides, on an H100.
_CUDA_MIB = 590
_ROWS = 8  # repacked are matrices with a multiple of so many rows
# One layer in so many sees the whole context, the others a window (llama.cpp's models/*.cpp).
_FULL_LAYER_EVERY = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "olmo2": 4, "llama4": 4,
}  # fmt: skip
_CONTEXTS = (131072, 65536, 32768, 16384, 8192, 4096, 2048, 1024, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a model is to be served, as far as memory depends on it.

    Attributes:
        context: Tokens of context for each slot.
        slots: Requests answered at the same time.
        kv_type: Type of the KV cache.
        engine: The program that serves it.
        gpu_layers: Layers, from the last, whose weights and cache lie in a GPU's memory. The
            output matrix is the very last, so all are one more than the model has.
    """

    context: int
    slots: int
    kv_type: KvType = "f16"
    engine: EngineName = "llama-server"
    gpu_layers: int = 0

    def options(self) -> str:
        """The setting as it is typed."""
        kv = "" if self.kv_type == "f16" else f" --kv-type {self.kv_type}"
        return f"--context {self.context} --slots {self.slots}{kv}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a model needs of a machine.

    Attributes:
        required_mib: Memory it cannot do without.
        resident_mib: Memory it holds at most, the originals of repacked weights
            included, which the system takes back when it is short.
        ready_mib: What it holds when it has just started: `resident_mib`
            without the part "compute".
        vram_mib: GPU memory: weights, cache, buffers, and what CUDA itself takes.
        parts: `resident_mib` in its parts (`PARTS`), in MiB.
    """

    required_mib: int
    resident_mib: int
    ready_mib: int
    vram_mib: int
    parts: dict[str, int]

    def verdict(self, room_mib: int) -> Verdict:
        """Whether it goes into so much memory: "tight" is without its page cache."""
        if self.resident_mib <= room_mib:
            return "fits"
        return "tight" if self.required_mib <= room_mib else "too big"


def need(anatomy: Anatomy, setting: Setting) -> Need:
    """What a model needs with a setting.

    Args:
        anatomy: What the model is made of.
        setting: How it is to be served.
    """
    on_gpu = _layers_on_gpu(anatomy, setting)
    whole = bool(on_gpu) and setting.engine in _WHOLE
    moved: list[Tensor] = []
    kept: list[Tensor] = []
    for tensor in anatomy.tensors:
        (moved if whole or _layer(tensor, anatomy) in on_gpu else kept).append(tensor)
    # Of tied embeddings the GPU gets a copy: the rows of the prompt are looked up here.
    copied = [t for t in kept if on_gpu and anatomy.tied_embeddings and t.name == _EMBEDDING]
    weights = sum(tensor.nbytes or 0 for tensor in kept)
    offloaded = sum(tensor.nbytes or 0 for tensor in (*moved, *copied))
    repacked = sum(tensor.nbytes or 0 for tensor in kept if _is_repacked(tensor, anatomy))
    cache = {layer: size * setting.slots for layer, size in _kv_bytes(anatomy, setting)}
    cache_kept = sum(size for layer, size in cache.items() if layer not in on_gpu)
    compute = _compute_bytes(anatomy, setting)
    tokenizer = anatomy.tokenizer
    program = (
        # Of an engine of another package that is not known, and not counted.
        _PROGRAM_MIB.get(setting.engine, 0) * _MIB
        + anatomy.n_vocab * (_TOKEN_BYTES + setting.slots * (_F32 + _CANDIDATE_BYTES))
        + (tokenizer.n_merges if tokenizer else 0) * _MERGE_BYTES
    )
    parts = dict(
        zip(PARTS, (_mib(n) for n in (weights, repacked, cache_kept, compute, program)), strict=True)
    )
    resident = sum(parts.values())
    return Need(
        required_mib=resident - min(parts["repacked weights"], parts["weights"]),
        resident_mib=resident,
        ready_mib=resident - parts["compute"],
        vram_mib=_mib(offloaded + sum(cache.values()) - cache_kept + compute + _CUDA_MIB * _MIB)
        if on_gpu
        else 0,
        parts=parts,
    )


def default_limit_mib(required: Need) -> int:
    """A memory limit for a container that is not meant to be reached: a tenth and 256 MiB above."""
    return required.resident_mib * 11 // 10 + 256


def advise(anatomy: Anatomy, setting: Setting, room_mib: int) -> Setting | None:
    """The setting nearest to the one wished for that fits into so much memory.

    First a smaller cache at the same context (q8_0), then fewer slots, then
    less context; None if the weights alone are too big.
    """
    most = min(setting.context, anatomy.context_train or setting.context)
    for context in dict.fromkeys((setting.context, most, *(c for c in _CONTEXTS if c < most))):
        for slots in dict.fromkeys((setting.slots, 1)):
            for kv_type in dict.fromkeys((setting.kv_type, _smaller(anatomy, setting))):
                candidate = Setting(
                    context=context,
                    slots=slots,
                    kv_type=kv_type,
                    engine=setting.engine,
                    gpu_layers=setting.gpu_layers,
                )
                if need(anatomy, candidate).verdict(room_mib) != "too big":
                    return candidate
    return None


def _smaller(anatomy: Anatomy, setting: Setting) -> KvType:
    """q8_0 where llama.cpp can have it: rows of its blocks of 32."""
    block = tensor_type("q8_0").block
    fits = anatomy.key_length % block == anatomy.value_length % block == 0
    return "q8_0" if fits and setting.kv_type in {"f16", "f32"} else setting.kv_type


def _kv_bytes(anatomy: Anatomy, setting: Setting) -> Iterator[tuple[int, int]]:
    """(layer, bytes of its KV cache for one slot)."""
    kind = tensor_type(setting.kv_type)
    row = (anatomy.key_length + anatomy.value_length) * kind.block_bytes / kind.block
    full = _padded(setting.context)
    window = min(full, _padded((anatomy.sliding_window or 0) + _BATCH))
    every = _FULL_LAYER_EVERY.get(anatomy.architecture) if anatomy.sliding_window else None
    for layer, heads in enumerate(anatomy.n_kv_heads):
        cells = window if every and layer % every < every - 1 else full
        yield layer, int(heads * row * cells)


def _compute_bytes(anatomy: Anatomy, setting: Setting) -> int:
    """One batch between two layers, and the attention mask.

    Fitted to what llama.cpp reserves for models of 0.003 to 8 B parameters:
    four rows of the model's width and three of its feed-forward layers' for
    each token of a batch in f32, and the mask in f16.
    """
    width = max(anatomy.n_embd, anatomy.n_heads * anatomy.key_length)
    ff = anatomy.n_ff * max(1, anatomy.n_experts_used)
    batch = min(_BATCH, setting.context * setting.slots)
    return batch * ((4 * width + 3 * ff) * _F32 + _padded(setting.context) * _F16)


def _is_repacked(tensor: Tensor, anatomy: Anatomy) -> bool:
    machine = platform.machine().lower()
    types = _REPACKED.get(_ARCHITECTURES.get(machine, machine), frozenset())
    if tensor.type_name not in types or len(tensor.shape) < 2 or tensor.shape[1] % _ROWS:  # noqa: PLR2004 - a matrix
        return False
    # Rows of an embedding are looked up, unless it is the output matrix as well.
    return anatomy.tied_embeddings if tensor.name == _EMBEDDING else "embd" not in tensor.name


def _layers_on_gpu(anatomy: Anatomy, setting: Setting) -> frozenset[int]:
    """The layers there, as llama.cpp counts: the output matrix comes after the last."""
    every = anatomy.n_layers + 1
    return frozenset(range(max(0, every - setting.gpu_layers), every))


def _layer(tensor: Tensor, anatomy: Anatomy) -> int | None:
    if tensor.name.startswith("output"):
        return anatomy.n_layers
    parts = tensor.name.split(".")
    return int(parts[1]) if parts[0] == "blk" and len(parts) > 1 and parts[1].isdigit() else None


def _padded(context: int) -> int:
    return -(-context // _KV_CELLS) * _KV_CELLS


def _mib(size: float) -> int:
    return -(-int(size) // _MIB)
