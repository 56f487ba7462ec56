"""What reading the header of an 8B model costs, against the gguf package.

The header is written here, as large as the real one: the vocabulary of Llama 3
(128256 tokens, 280147 merges) and the 291 tensors of its 8B model as Q4_0, of
which no byte is stored (a sparse file). Each reading is a process of its own;
both take turns, and each pair gives one ratio. The page cache is warm.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import gguf_writer as w

from bench import common
from llmlab.weights.tensors import Tensor, tensor_type

_PAIRS = 5
_TOKENS, _MERGES, _LAYERS = 128_256, 280_147, 32
_WIDTH, _KV_WIDTH, _FF = 4096, 1024, 14336
_ALIGNMENT = 32
# Peak memory from the kernel's VmHWM: getrusage's begins with that of the parent.
_MEASURE = """
import json, sys, time
from pathlib import Path
{imports}
began = time.perf_counter()
header = {read}
elapsed = time.perf_counter() - began
status = Path("/proc/self/status").read_text().split()
print(json.dumps({{"ms": elapsed * 1000, "mib": int(status[status.index("VmHWM:") + 1]) / 1024}}))
"""
_READERS = {
    "llmlab": (
        "read_header: all is checked, nothing of the vocabulary decoded",
        "from llmlab.weights.gguf import read_header",
        "read_header(Path(sys.argv[1]))",
    ),
    "anatomy": (
        "anatomy.of_file: the same, and the vocabulary's tokens decoded",
        "from llmlab.weights import anatomy",
        "anatomy.of_file(Path(sys.argv[1]))",
    ),
    "gguf": ("gguf.GGUFReader", "from gguf import GGUFReader", "GGUFReader(sys.argv[1])"),
}
_UNITS = {"ms": "time of reading, without imports", "mib": "peak memory of the process"}


def run() -> dict[str, Any]:
    """Measure all three readers, in turns."""
    with tempfile.TemporaryDirectory(prefix="llm-") as folder:
        path = Path(folder) / "8b.gguf"
        write(path)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in _READERS}
        for number in range(_PAIRS):
            for name in sorted(_READERS, reverse=bool(number % 2)):
                found[name].append(_once(path, name))
    results: dict[str, Any] = {"header": f"{_TOKENS} tokens, {_MERGES} merges, {3 + 9 * _LAYERS} tensors"}
    for unit, what in _UNITS.items():
        for name, (definition, *_) in _READERS.items():
            values = [one[unit] for one in found[name]]
            results[f"{name}_{unit}"] = {**common.spread(values, 2), "definition": f"{what}; {definition}"}
            common.show(f"{name}: {what}", results[f"{name}_{unit}"], unit, "none")
        for name in ("llmlab", "anatomy"):
            pairs = zip(found[name], found["gguf"], strict=True)
            ratios = [ours[unit] / theirs[unit] for ours, theirs in pairs]
            results[f"{name}_{unit}_ratio"] = {
                **common.spread(ratios, 5),
                "definition": f"{what}, {name} / gguf package, per pair",
                "budget": "< 1",
            }
            common.show(f"{name} / gguf package: {what}", results[f"{name}_{unit}_ratio"], "", "< 1")
    return results


def write(path: Path) -> None:
    """Write the file; its data is a hole."""
    entries, end = [], 0
    for name, shape, kind in _tensors():
        tensor = Tensor(name, shape, kind, end)
        entries.append(w.tensor(name, shape, kind, end))
        end += -(-(tensor.nbytes or 0) // _ALIGNMENT) * _ALIGNMENT
    head = w.gguf(list(_pairs()), entries, alignment=_ALIGNMENT)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + end)


def _pairs() -> Iterator[bytes]:
    seeded = random.Random(0)  # noqa: S311 - lengths of words, no secrets
    letters = "abcdefghijklmnopqrstuvwxyz"

    def word() -> str:
        return "".join(seeded.choices(letters, k=seeded.randint(1, 12)))

    yield w.pair("general.architecture", w.STRING, "llama")
    yield w.pair("general.name", w.STRING, "Header of an 8B model")
    yield w.pair("general.file_type", w.U32, 2)
    for key, value in (
        ("block_count", _LAYERS),
        ("context_length", 131072),
        ("embedding_length", _WIDTH),
        ("feed_forward_length", _FF),
        ("attention.head_count", 32),
        ("attention.head_count_kv", 8),
        ("vocab_size", _TOKENS),
    ):
        yield w.pair(f"llama.{key}", w.U32, value)
    yield w.pair("tokenizer.ggml.model", w.STRING, "gpt2")
    yield w.pair("tokenizer.ggml.pre", w.STRING, "llama-bpe")
    yield w.array("tokenizer.ggml.tokens", w.STRING, [word() for _ in range(_TOKENS)])
    yield w.array("tokenizer.ggml.token_type", w.I32, [1] * (_TOKENS - 256) + [3] * 256)
    yield w.array("tokenizer.ggml.merges", w.STRING, [f"{word()} {word()}" for _ in range(_MERGES)])


def _tensors() -> Iterator[tuple[str, tuple[int, ...], int]]:
    q4, f32 = tensor_type("Q4_0").number, tensor_type("F32").number
    yield "token_embd.weight", (_WIDTH, _TOKENS), q4
    for layer in range(_LAYERS):
        for name, shape in (
            ("attn_q", (_WIDTH, _WIDTH)),
            ("attn_k", (_WIDTH, _KV_WIDTH)),
            ("attn_v", (_WIDTH, _KV_WIDTH)),
            ("attn_output", (_WIDTH, _WIDTH)),
            ("ffn_gate", (_WIDTH, _FF)),
            ("ffn_up", (_WIDTH, _FF)),
            ("ffn_down", (_FF, _WIDTH)),
        ):
            yield f"blk.{layer}.{name}.weight", shape, q4
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", (_WIDTH,), f32
    yield "output_norm.weight", (_WIDTH,), f32
    yield "output.weight", (_WIDTH, _TOKENS), tensor_type("Q6_K").number


def _once(path: Path, name: str) -> dict[str, float]:
    _, imports, read = _READERS[name]
    code = _MEASURE.format(imports=imports, read=read)
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result
