"""Search for files that break the reader: `python -m tests.fuzz_gguf --runs 1000000`.

Coverage-guided, with atheris (libFuzzer): a file that reaches a new place in
the code is kept and changed further. Whatever the bytes are, they have to be
read to the last value or refused with a ModelFileError. What breaks that is
written to the corpus as `crash-…`, and `python -m tests.fuzz_gguf FILE` repeats it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import sys
from pathlib import Path

from llmlab.errors import ModelFileError
from tests import gguf_writer as w

ROOT = Path(__file__).parents[1]
TINY = ROOT / "src/llmlab/weights/builtin/tiny.gguf"
WORDS = (
    "GGUF", "general.alignment", "general.file_type", "general.name", "general.license", "llmlab.synthetic",
    "llama.attention.recurrent_layers", "llama.full_attention_interval", "llama.feed_forward_length",
    "llama.expert_count", "llama.expert_used_count", "llama.attention.sliding_window", "llama.vocab_size",
    "tokenizer.ggml.model", "tokenizer.ggml.merges", "tokenizer.ggml.eos_token_id", "tokenizer.chat_template",
    "token_embd.weight", "output.weight", "blk.0.ffn_up_exps.weight",
)  # fmt: skip
MODEL = w.gguf(
    [
        *w.PAIRS,
        w.pair("llama.expert_count", w.U32, 4),
        w.pair("llama.expert_used_count", w.U32, 2),
        w.array("llama.attention.recurrent_layers", w.BOOL, [0, 1, 0]),
        w.pair("tokenizer.ggml.model", w.STRING, "gpt2"),
        w.pair("tokenizer.ggml.eos_token_id", w.U32, 1),
        w.pair("general.alignment", w.U32, 64),
    ],
    [w.tensor("token_embd.weight", (32, 4), 8), w.tensor("blk.0.ffn_up_exps.weight", (4, 2, 4), 1, 192)],
    b"\1" * 256,
    alignment=64,
)

# One figure for each layer, and much that is optional.
HYBRID = w.gguf(
    [
        w.pair("general.architecture", w.STRING, "x"),
        w.pair("general.file_type", w.U32, 15),
        w.pair("general.name", w.STRING, "a name"),
        w.pair("general.license", w.STRING, "other"),
        w.pair("general.license.name", w.STRING, "its name"),
        w.pair("x.block_count", w.U32, 2),
        w.array("x.attention.head_count", w.I32, [4, 2]),
        w.array("x.attention.head_count_kv", w.I32, [2, 0]),
        w.array("x.feed_forward_length", w.I32, [8, 16]),
        w.pair("x.full_attention_interval", w.U32, 2),
        w.pair("x.vocab_size", w.U32, 7),
    ],
    [w.tensor("a", (3,), 99), w.tensor("b", (0, 5), 0, 32), w.tensor("output.weight", (), 0, 32)],
    b"\1" * 36,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="try these files only")
    parser.add_argument("--runs", type=int, default=1_000_000, help="how many files to try")
    parser.add_argument("--corpus", type=Path, default=ROOT / "build/fuzz/gguf", help="where they are kept")
    options = parser.parse_args()
    atheris = importlib.import_module("atheris")
    names = [f"llmlab.weights.{name}" for name in ("gguf", "metadata", "tensors", "anatomy")]
    with atheris.instrument_imports(include=names):
        gguf, anatomy = (importlib.import_module(name) for name in (names[0], names[-1]))

    # A file without a name, so that nothing is left of it.
    descriptor = os.memfd_create("fuzz")
    path = Path(f"/proc/self/fd/{descriptor}")

    def attempt(data: bytes) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, data, 0)
        try:
            header = gguf.read_header(path, complete=False)
            dict(header.metadata)
            found = anatomy.of_headers([header])
            assert found.read_by_type.keys() <= found.bytes_by_type.keys()
            gguf.read_header(path)
            assert all(header.data_offset + t.offset + (t.nbytes or 0) <= len(data) for t in header.tensors)
        except ModelFileError as refused:
            str(refused).encode()

    if options.files:
        for file in options.files:
            attempt(file.read_bytes())
        return
    options.corpus.mkdir(parents=True, exist_ok=True)
    words = options.corpus.with_name(options.corpus.name + ".dict")
    words.write_text("".join(f'"{word}"\n' for word in WORDS), encoding="ascii")
    tiny = TINY.read_bytes()[: gguf.read_header(TINY).data_offset]
    for name, seed in {
        "tiny": tiny,
        "small": w.SMALL,
        "model": MODEL,
        "hybrid": HYBRID,
        "empty": w.gguf([]),
    }.items():
        (options.corpus / name).write_bytes(seed)
    # The kernel counts the memory of whoever has started this program into its own peak.
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    limits = [
        "-timeout=10",
        f"-rss_limit_mb={1024 + before_mib}",
        f"-max_len={len(tiny) + 4096}",
        f"-dict={words}",
    ]
    atheris.Setup(
        [
            sys.argv[0],
            str(options.corpus),
            f"-runs={options.runs}",
            f"-artifact_prefix={options.corpus}/",
            *limits,
        ],
        attempt,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
