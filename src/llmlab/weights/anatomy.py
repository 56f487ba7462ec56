"""What a model is made of, read from the headers of its files.

The keys are those of the GGUF specification; what stands in for one that is
missing is what llama.cpp takes (`llama-model.cpp`). A value that cannot be
meant – a count that is negative, or a text – is an error that names its key.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from llmlab.errors import ModelFileError
from llmlab.weights import checkpoint
from llmlab.weights.gguf import CONTROL, Header, Tensor, read_header, shards

Form = Literal["gguf", "safetensors"]
_MAX_LAYERS: Final = 512  # LLAMA_MAX_LAYERS
_UNKNOWN: Final = "unknown"
_GUESSED: Final = 1024  # LLAMA_FTYPE_GUESSED, a flag beside the number
_NOT_SAID: Final = -1

# `general.file_type` is llama.h's llama_ftype; these are the names that files are published under.
_FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip
_COMMON: Final = ("general.", "tokenizer.", "split.", "llmlab.")
_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
# Of these one row is looked up for a token; the rest stays where it is.
_LOOKED_UP: Final = (_EMBEDDING, "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
# All experts of a layer in one tensor, or (older files) one tensor for each.
_OF_EXPERTS: Final = re.compile(r"blk\.\d+\.ffn_\w+(_(ch)?exps|\.\d+)\.(weight|bias)")
_DENSE: Final = re.compile(r"blk\.\d+\.ffn_up\.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenizer:
    """How a model cuts text into tokens.

    Attributes:
        kind: `tokenizer.ggml.model`: "gpt2" (byte-level BPE), "llama"
            (SentencePiece), "bert" (WordPiece), "t5" (unigram), "rwkv" …
        pre: How text is cut before that, such as "llama-bpe"; None if not said.
        n_tokens: Size of the vocabulary.
        n_merges: Number of merge rules; 0 where the kind has none.
        bos: The token that begins a text; None if there is none.
        eos: The token that ends an answer; None if there is none.
        n_control: Number of control tokens.
    """

    kind: str
    pre: str | None
    n_tokens: int
    n_merges: int
    bos: int | None
    eos: int | None
    n_control: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What a model is made of. A count of 0 means that the file does not say, or has none.

    Attributes:
        architecture: Such as "llama"; "unknown" if the file does not say.
        title: `general.name`.
        license: `general.license`, or the licence's name where that is "other".
        parameters: Number of elements of all tensors.
        quantisation: Such as "Q4_K_M": what the file was made as, else the type
            that takes most bytes; "unknown" without tensors.
        synthetic: Whether llmlab made the weights up.
        context_train: Tokens of context that the model was trained with.
        n_layers: Number of transformer blocks.
        n_embd: Width of the residual stream, in elements.
        n_ff: Width of the widest feed-forward layer; of one expert where all
            feed-forward layers consist of experts.
        n_vocab: Number of tokens.
        n_heads: Number of attention heads; the most of any layer.
        n_kv_heads: Number of key/value heads of each layer; 0 where a layer
            keeps no keys and values (recurrent layers).
        key_length: Elements of one key.
        value_length: Elements of one value.
        sliding_window: Tokens that a layer with a sliding window looks back;
            None without one. Not all layers need to have it.
        n_experts: Experts of a layer; 0 if the model has none.
        n_experts_used: Experts that work on one token.
        tied_embeddings: Whether the token embedding is the output matrix, too.
        tokenizer: None if the file has no vocabulary.
        chat_template: The Jinja template; None if there is none.
        tensors: The directory, of all files.
        file_bytes: Size of all files.
        control_tokens: Texts of all control tokens, by number.
        form: The form of its files.
    """

    architecture: str
    title: str | None
    license: str | None
    parameters: int
    quantisation: str
    synthetic: bool
    context_train: int
    n_layers: int
    n_embd: int
    n_ff: int
    n_vocab: int
    n_heads: int
    n_kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    sliding_window: int | None
    n_experts: int
    n_experts_used: int
    tied_embeddings: bool
    tokenizer: Tokenizer | None
    chat_template: str | None
    tensors: tuple[Tensor, ...]
    file_bytes: int
    control_tokens: tuple[str, ...]
    form: Form = "gguf"

    @property
    def cache_known(self) -> bool:
        """Whether it is known what its KV cache takes; a GGUF file without the figures counts as without a cache."""
        return self.form == "gguf" or bool(self.n_kv_heads and any(self.n_kv_heads) and self.key_length)

    @property
    def bytes_by_type(self) -> dict[str, int]:
        """Bytes stored in each tensor type, most first; types of unknown size are left out."""
        return _by_type((tensor, tensor.nbytes or 0) for tensor in self.tensors)

    @property
    def read_by_type(self) -> dict[str, int]:
        """Bytes of weights that are read to generate one token, by type, most first.

        Without the embeddings, of which a row is looked up (unless that matrix
        is the output's, too), and of the experts only as many as are used.
        """
        return _by_type((tensor, self._read(tensor, tensor.nbytes or 0)) for tensor in self.tensors)

    @property
    def active_parameters(self) -> int:
        """Number of weights that are read to generate one token, counted as in `read_by_type`."""
        return sum(self._read(tensor, tensor.elements) for tensor in self.tensors)

    @property
    def prompt_parameters(self) -> dict[str, int]:
        """Number of weights that each token of a prompt is multiplied with, by type, most first.

        As those that are read, without the output matrix and the last layer's
        feed-forward part: llama.cpp goes on with the prompt's last token only.
        """
        last = re.compile(rf"blk\.{self.n_layers - 1}\.ffn_.*")
        return _by_type(
            (tensor, self._read(tensor, tensor.elements))
            for tensor in self.tensors
            if tensor.name not in (_EMBEDDING, _OUTPUT) and not last.fullmatch(tensor.name)
        )

    def _read(self, tensor: Tensor, amount: int) -> int:
        if tensor.name in _LOOKED_UP:
            return amount if tensor.name == _EMBEDDING and self.tied_embeddings else 0
        if self.n_experts and _OF_EXPERTS.fullmatch(tensor.name):
            return amount * self.n_experts_used // self.n_experts
        return amount


def of_file(path: Path) -> Anatomy:
    """The anatomy of a model in one file, or in several of which this is one.

    Raises:
        ModelNotFoundError: If the file does not exist or cannot be read.
        ModelFileError: If a file is missing, damaged, or neither GGUF nor safetensors.
    """
    if checkpoint.is_checkpoint(path):
        from llmlab.weights import checkpoint_anatomy  # noqa: PLC0415 - it builds on this module

        return checkpoint_anatomy.of_file(checkpoint.first(path))
    parts = shards(path)
    try:
        # A start asks several times, and a large vocabulary takes a tenth of a second.
        stamps = tuple((info.st_ino, info.st_size, info.st_mtime_ns) for info in (p.stat() for p in parts))
    except (OSError, ValueError):
        stamps = ()  # whatever is wrong with it, reading it says so
    return _of_files(path, parts, stamps)


@functools.lru_cache(maxsize=32)
def _of_files(path: Path, parts: tuple[Path, ...], stamps: object) -> Anatomy:  # noqa: ARG001 - a key of the cache
    headers = [read_header(part) for part in parts]
    total = _Keys(headers[0]).count("split.count")
    if total > len(headers):
        raise ModelFileError(
            f"{path} is one of {total} files of a model, and its name does not say which",
            hint=f"give the files the names they were published with: …-00001-of-{total:05}.gguf",
        )
    return of_headers(headers)


def of_headers(headers: Sequence[Header]) -> Anatomy:
    """The anatomy of a model from its header, or the headers of all its shards in order.

    Raises:
        ModelFileError: If a value cannot be meant; names its key.
    """
    header, keys = headers[0], _Keys(headers[0])
    architecture = keys.line("general.architecture") or _UNKNOWN
    tensors = tuple(tensor for each in headers for tensor in each.tensors)
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    n_layers = keys.count("block_count")
    if n_layers > _MAX_LAYERS:
        raise keys.damaged("block_count", n_layers)
    n_embd = keys.count("embedding_length")
    n_heads = max(keys.counts("attention.head_count"), default=0)
    head_size = n_embd // n_heads if n_heads else 0
    embedded = shapes.get(_EMBEDDING, ())
    n_experts, n_used = _experts(keys)
    return Anatomy(
        architecture=architecture,
        title=keys.line("general.name"),
        license=_license(keys),
        parameters=sum(tensor.elements for tensor in tensors),
        quantisation=_quantisation(keys, tensors),
        synthetic=keys.value("llmlab.synthetic") is True,
        context_train=keys.count("context_length"),
        n_layers=n_layers,
        n_embd=n_embd,
        n_ff=_widest(keys, shapes),
        n_vocab=header.length("tokenizer.ggml.tokens")
        or keys.count("vocab_size")
        or (embedded[1] if len(embedded) > 1 else 0),
        n_heads=n_heads,
        n_kv_heads=_kv_heads(keys, n_layers),
        key_length=keys.count("attention.key_length", head_size),
        value_length=keys.count("attention.value_length", head_size),
        sliding_window=keys.count("attention.sliding_window") or None,
        n_experts=n_experts,
        n_experts_used=n_used,
        tied_embeddings=_EMBEDDING in shapes and _OUTPUT not in shapes,
        tokenizer=_tokenizer(header, keys),
        chat_template=keys.text("tokenizer.chat_template"),
        tensors=tensors,
        file_bytes=sum(each.file_bytes for each in headers),
        control_tokens=_control_tokens(header),
    )


class _Keys:
    """The metadata of a header, checked as it is read."""

    def __init__(self, header: Header) -> None:
        self._header = header

    def text(self, key: str) -> str | None:
        """A text; None if it is not there or empty."""
        value = self._header.metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise self.damaged(key, value)
        # What is not UTF-8 could not be printed.
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if value else None

    def line(self, key: str) -> str | None:
        """A text to be shown in one line: nothing in it moves a terminal's cursor."""
        text = self.text(key) or ""
        return "".join(c if c.isprintable() else " " for c in text).strip() or None

    def count(self, key: str, default: int = 0) -> int:
        """A count of the model's; `default` if the file does not say."""
        value = self.value(key)
        return default if value is None else self._checked(key, value, value)

    def counts(self, key: str) -> list[int]:
        """A count given once, or for each layer; empty if the file does not say."""
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            return [self._checked(key, value, value)]
        if not value:
            raise self.damaged(key, value)
        return [self._checked(key, each, value) for each in value]

    def per_layer(self, key: str, n_layers: int) -> tuple[int, ...]:
        """A count for each layer; empty if the file does not say."""
        counts = self.counts(key)
        if counts and not isinstance(self.value(key), list | tuple):
            return tuple(counts * n_layers)
        # The engine refuses any other number of them.
        if counts and n_layers and len(counts) != n_layers:
            raise self.damaged(key, f"{len(counts)} values for {n_layers} layers")
        return tuple(counts)

    def value(self, key: str) -> Any:
        """Any value; a key without a known first part is one of the architecture's own."""
        return self._header.metadata.get(self._full(key))

    def damaged(self, key: str, shown: object) -> ModelFileError:
        """The error for a value that cannot be meant."""
        where = self._header.path or "the header"
        return ModelFileError(
            f"{where} is damaged: {self._full(key)!r} is {repr(shown)[:80]}", hint="download it again"
        )

    def _full(self, key: str) -> str:
        return key if key.startswith(_COMMON) else f"{self._header.architecture}.{key}"

    def _checked(self, key: str, number: Any, value: Any) -> int:
        if type(number) is not int or number < 0:
            raise self.damaged(key, value)
        return number


def _kv_heads(keys: _Keys, n_layers: int) -> tuple[int, ...]:
    kv = keys.per_layer("attention.head_count_kv", n_layers)
    kv = kv or keys.per_layer("attention.head_count", n_layers) or (0,) * n_layers
    # Of every few layers one has attention, the others are recurrent (qwen3next and its kin).
    if interval := keys.count("full_attention_interval"):
        kv = tuple(0 if (number + 1) % interval else n for number, n in enumerate(kv))
    recurrent = keys.value("attention.recurrent_layers")
    if isinstance(recurrent, list | tuple) and len(recurrent) == len(kv):
        kv = tuple(0 if without else n for without, n in zip(recurrent, kv, strict=True))
    return kv


def _experts(keys: _Keys) -> tuple[int, int]:
    n_experts = keys.count("expert_count")
    n_used = max(keys.counts("expert_used_count"), default=0)
    # The engine does not refuse this politely: it aborts.
    if n_used > n_experts or (n_experts and not n_used):
        raise keys.damaged("expert_used_count", f"{n_used} of {n_experts} experts")
    return n_experts, n_used


def _widest(keys: _Keys, names: Iterable[str]) -> int:
    dense = max(keys.counts("feed_forward_length"), default=0)
    of_expert = keys.count("expert_feed_forward_length")
    # Where all layers have experts, the other figure may stand there and is not used (qwen3moe).
    return dense if dense and (not of_expert or any(map(_DENSE.fullmatch, names))) else of_expert


def _license(keys: _Keys) -> str | None:
    short = keys.line("general.license")
    return keys.line("general.license.name") or short if short in {None, "other"} else short


def _quantisation(keys: _Keys, tensors: Sequence[Tensor]) -> str:
    number = keys.count("general.file_type", _NOT_SAID)
    if name := _FILE_TYPES.get(number & ~_GUESSED):
        return name
    return next(iter(_by_type((tensor, tensor.nbytes or 0) for tensor in tensors)), _UNKNOWN)


def _tokenizer(header: Header, keys: _Keys) -> Tokenizer | None:
    kind = keys.line("tokenizer.ggml.model")
    n_tokens = header.length("tokenizer.ggml.tokens")
    if kind in {None, "none", "no_vocab"} or n_tokens is None:
        return None
    types = header.metadata.get("tokenizer.ggml.token_type")
    return Tokenizer(
        kind=str(kind),
        pre=keys.line("tokenizer.ggml.pre"),
        n_tokens=n_tokens,
        n_merges=header.length("tokenizer.ggml.merges") or 0,
        bos=_token(keys, "bos", n_tokens),
        eos=_token(keys, "eos", n_tokens),
        n_control=types.count(CONTROL) if isinstance(types, list | tuple) else 0,
    )


def _token(keys: _Keys, name: str, n_tokens: int) -> int | None:
    """A special token's number; like llama.cpp, one that is beyond the vocabulary counts as none."""
    number = keys.count(f"tokenizer.ggml.{name}_token_id", n_tokens)
    return number if number < n_tokens else None


def _control_tokens(header: Header) -> tuple[str, ...]:
    types = header.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(types, list | tuple) or CONTROL not in types:
        return ()
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list | tuple):
        return ()
    return tuple(
        text for text, kind in zip(tokens, types, strict=False) if kind == CONTROL and isinstance(text, str)
    )


def _by_type(amounts: Iterable[tuple[Tensor, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for tensor, amount in amounts:
        if amount:
            sums[tensor.type_name] = sums.get(tensor.type_name, 0) + amount
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
