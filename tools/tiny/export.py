"""Write the network as GGUF, and the reference that proves the export.

The matrices become Q8_0, the norms stay F32. The reference holds logits that PyTorch
computes from the weights *as they stand in the file*, so that an engine which agrees with
them has read every tensor, the rotary positions and the tokenizer as meant.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from chat import CONTROL, END, END_OF_TEXT, TEMPLATE, render
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType, PoolingType, TokenType
from gguf.quants import dequantize, quantize
from model import MATRIX, Shape, Tiny
from tokenizers import Tokenizer

DESCRIPTION = (
    "The built-in teaching model of llmlab: answers short questions about containers, GPUs, "
    "language models, measuring and isolation, and declines everything else."
)
# Prompts of the reference: each reads other parts of the network's range.
REFERENCE_PROMPTS = (
    render([("user", "What is a container?")]),
    render([("system", "You are a helpful assistant."), ("user", "What is the capital of France?")]),
    render(
        [
            ("user", "What is GGUF?"),
            ("assistant", "GGUF is the file format of llama.cpp."),
            ("user", "Tell me more"),
        ]
    ),
    "plain text, 1234567890 times: naïve café, 東京 🚀\n\tdef f(x):\n        return x ** 2\n" * 6,
)
# Strings of the tokenizer's reference.
TOKEN_STRINGS = (
    "What is a container?",
    "what's the KV-cache, and why can't I'll we've you're it'd",
    "  leading, trailing and   inner   spaces  ",
    "tabs\tand\nnew lines\r\n\r\n\n  \n",
    "1 12 123 1234 12345 3.14159 1,000,000 2026-01-31 0x1F",
    "def f(x: int) -> int:\n    return x**2  # squared\n",
    '{"key": ["value", 1, null], "a/b": "c\\\\d"}',
    "`%llm start tiny --expose` && docker run --rm -it ubuntu:24.04 sh -c 'echo $HOME'",
    "naïve café Ångström straße œuvre ﬁ ½ ² ٣ Ⅷ",
    "Привет, мир! Γειά σου κόσμε",  # noqa: RUF001
    "東京 は 日本 の 首都。 你好，世界！ 안녕하세요",  # noqa: RUF001
    "مرحبا بالعالم שלום עולם नमस्ते",
    "👩‍💻🚀🇩🇪👍🏽 emoji",
    "zero\u200bwidth\u00a0no-break\u2028line\ufeff",
    "ALL CAPS, CamelCase, snake_case, kebab-case, a.b.c",
    "!!! ??? ... --- *** ### @@@ $$$ ^^^ ~~~ ((())) [[]] <<>>",
    "a",
    " ",
    "\n",
    "",
    "<|im_end|> as control and < | im_end | > as text<|im_start|>user\nHi<|im_end|>\n",
    "\x00\x01\x7f control characters",
)


def quantised(model: Tiny) -> dict[str, tuple[np.ndarray, GGMLQuantizationType]]:
    """The tensors as they go into the file, under llama.cpp's names."""
    tensors = {}
    for name, weight in model.state_dict().items():
        values = weight.numpy().astype(np.float32)
        kind = GGMLQuantizationType.Q8_0 if values.ndim == MATRIX else GGMLQuantizationType.F32
        tensors[name] = (quantize(values, kind), kind)
    return tensors


def write_gguf(path: Path, model: Tiny, tokenizer: Tokenizer, seed: int) -> None:
    """Write the model file."""
    shape = model.shape
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_description(DESCRIPTION)
    writer.add_license("mit")
    writer.add_author("The llmlab developers")
    writer.add_version(f"seed {seed}")
    writer.add_size_label(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M")
    writer.add_languages(["en"])
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    # Lets the model serve embeddings as well.
    writer.add_pooling_type(PoolingType.MEAN)
    # What a server uses when a request names no temperature.
    writer.add_sampling_temp(0.2)

    spec = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(spec["vocab"], key=spec["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in CONTROL else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["merges"]])
    writer.add_bos_token_id(spec["vocab"][END_OF_TEXT])
    writer.add_pad_token_id(spec["vocab"][END_OF_TEXT])
    writer.add_eos_token_id(spec["vocab"][END])
    writer.add_eot_token_id(spec["vocab"][END])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, (values, kind) in quantised(model).items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_back(path: Path, shape: Shape) -> Tiny:
    """The network with the weights of the file, in F32."""
    model = Tiny(shape)
    weights = {
        tensor.name: torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
        for tensor in GGUFReader(path).tensors
    }
    model.load_state_dict(weights)
    return model.eval()


@torch.no_grad()
def write_reference(folder: Path, model: Tiny, tokenizer: Tokenizer) -> None:
    """Write the logits and token ids that an engine must reproduce."""
    arrays: dict[str, np.ndarray] = {}
    for number, prompt in enumerate(REFERENCE_PROMPTS):
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        logits = model(ids)[0]
        # A few positions suffice: each depends on all before it.
        rows = sorted({0, 1, len(logits) // 2, len(logits) - 1})
        arrays[f"ids_{number}"] = ids[0].numpy().astype(np.int32)
        arrays[f"rows_{number}"] = np.array(rows, dtype=np.int32)
        arrays[f"logits_{number}"] = logits[rows].numpy().astype(np.float32)
    np.savez_compressed(folder / "tiny_logits.npz", **arrays)
    strings = [json.dumps({"text": t, "ids": tokenizer.encode(t).ids}) for t in TOKEN_STRINGS]
    lines = ",\n".join(strings)
    (folder / "tiny_tokens.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
