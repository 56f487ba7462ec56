"""Models with the shape of a real one and random weights, for measuring without a download.

Size, memory and speed are those of the real model (speed does not depend on
the values of the weights); what it answers is noise. The layout of types is
that of llama-quantize. The tokenizer is the built-in model's, padded to the
shape's vocabulary, so that prompts tokenise and every generated token shows.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmlab.errors import ModelError, ModelFileError, ModelNotFoundError
from llmlab.reporting import reporter
from llmlab.weights import gguf
from llmlab.weights.filling import Filler, fillable
from llmlab.weights.gguf import Header
from llmlab.weights.mixtures import Facts, mixture, tensor_types
from llmlab.weights.shapes import Shape, shape
from llmlab.weights.store import no_space, require_space, synthetic_dir
from llmlab.weights.tensors import Tensor, tensor_type
from llmlab.weights.vocabulary import padded_tokenizer
from llmlab.weights.writing import ALIGNMENT, header_bytes

SCHEME: Final = "synthetic:"
DEFAULT_QUANT: Final = "Q4_0"
MARK: Final = "llmlab.synthetic"
"""The key of the metadata that says that the weights are random."""

_SPARE_BYTES: Final = 64 << 20
_MAX_STEM: Final = 80
_MADE: Final = re.compile(r"[^/\0]{1,80}-[0-9a-f]{8}")  # the name of a model made from a file
_SAME: Final = "SAME"  # in place of a quantisation: the types of the file it was made from
# Not copied from a real file: how it was split; and bytes that would become integers.
_DROPPED: Final = re.compile(r"split\.|tokenizer\.ggml\.precompiled_charsmap$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A synthetic model that can be written.

    Attributes:
        name: What it is called, such as `synthetic llama-3.2-1b`.
        header: The header that its file will have.
        head: The same as bytes: what the file begins with.
    """

    name: str
    header: Header
    head: bytes

    @property
    def total_bytes(self) -> int:
        """Size of the file."""
        return self.header.file_bytes


def parse(reference: str) -> tuple[str, str | None]:
    """Shape (a name or the path of a GGUF file) and quantisation of `synthetic:SHAPE[:QUANT]`."""
    what = reference.removeprefix(SCHEME)
    head, colon, tail = what.rpartition(":")
    if colon and "/" not in tail and not tail.endswith(".gguf"):
        return head, tail.upper()
    return what, None


def plan(name: str, quant: str | None = None) -> Plan:
    """Plan a model.

    Args:
        name: A shape, such as `llama-3.2-1b`, or the path of a GGUF file whose
            shape to take; of that file the header is enough.
        quant: The quantisation. None: `Q4_0`, or the types that the file has.

    Raises:
        UnknownNameError: If there is no such shape or quantisation.
        ModelNotFoundError: If the file does not exist.
        ModelFileError: If it is not a GGUF file, or of types that are not known.
    """
    if name.endswith(".gguf"):
        try:
            path = Path(name).expanduser()
        except RuntimeError as error:  # no such user's home
            raise ModelNotFoundError(f"there is no file {name}", hint="check the path") from error
        headers = [gguf.read_header(part, complete=False) for part in gguf.shards(path)]
        return plan_like(headers, quant, path.name.removesuffix(".gguf"))
    return plan_shape(shape(name), quant or DEFAULT_QUANT)


def plan_shape(wanted: Shape, quant: str) -> Plan:
    """Plan a model of any shape.

    Args:
        wanted: The shape.
        quant: The quantisation.

    Raises:
        UnknownNameError: If there is no such quantisation.
    """
    mix = mixture(quant)
    tensors = wanted.tensors()
    metadata = {
        **wanted.metadata(),
        "general.file_type": mix.number,
        "general.quantization_version": 2,
        **padded_tokenizer(wanted.n_vocab, wanted.n_merges),
    }
    return _planned(wanted.name, metadata, tensors, tensor_types(tensors, mix, wanted.facts))


def plan_like(headers: Sequence[Header], quant: str | None, name: str) -> Plan:
    """Plan a model with the shape and the tokenizer of a GGUF file.

    Args:
        headers: The header of the file, or of all its shards.
        quant: The quantisation; None keeps the type of every tensor.
        name: What to call it.

    Raises:
        UnknownNameError: If there is no such quantisation.
        ModelFileError: If weights of one of its types cannot be made.
    """
    first = headers[0]
    known = [tensor for header in headers for tensor in header.tensors]
    tensors = [(tensor.name, tensor.shape) for tensor in known]
    metadata = {key: value for key, value in first.metadata.items() if not _DROPPED.match(key)}
    types = [tensor.type_name for tensor in known]
    if quant is not None:
        mix = mixture(quant)
        types = tensor_types(tensors, mix, _facts(first))
        metadata |= {"general.file_type": mix.number, "general.quantization_version": 2}
    for text, kind in zip([tensor for tensor, _ in tensors], types, strict=True):
        if not fillable(kind):
            raise ModelFileError(
                f"tensor {text!r} is of type {kind}, which cannot be filled with random weights",
                hint="name a quantisation, such as :Q4_0",
            )
    return _planned(name, metadata, tensors, types)


def locate(name: str, quant: str | None = None) -> Path:
    """Where the file lies, or will.

    Args:
        name: A shape or the path of a GGUF file, as `plan` takes it, or what
            a model was named that was made from one.
        quant: The quantisation, as `plan` takes it.
    """
    if name.endswith(".gguf"):
        # Files of one name can have different shapes.
        digest = hashlib.sha256(plan(name, quant).head).hexdigest()[:8]
        stem = Path(name).name.removesuffix(".gguf")[:_MAX_STEM]
        return synthetic_dir() / f"{stem}-{digest}-{quant.upper() if quant else _SAME}.gguf"
    if quant and _MADE.fullmatch(name):
        made_before = synthetic_dir() / f"{name}-{quant}.gguf"
        if made_before.is_file():
            return made_before
    return synthetic_dir() / f"{shape(name).name}-{mixture(quant or DEFAULT_QUANT).name}.gguf"


def ensure(name: str, quant: str | None = None) -> Path:
    """The file of a synthetic model, written if it is not there yet.

    Args:
        name: A shape or the path of a GGUF file, as `plan` takes it.
        quant: The quantisation, as `plan` takes it.

    Raises:
        UnknownNameError: If there is no such shape or quantisation.
        DiskSpaceError: If there is no room for it.
        ModelError: If it cannot be written.
    """
    path = locate(name, quant)
    if path.is_file():
        return path  # it was renamed into place, so it is complete
    planned = plan(name, quant)
    with _alone(path):
        if not path.is_file():
            reporter().stage("write", f"{planned.name} ({planned.total_bytes / 1e9:.2f} GB)")
            write(planned, path)
    return path


def write(planned: Plan, path: Path, *, seed: int = 0) -> None:
    """Write the file: under another name first, so that `path` is complete or not there.

    It is not synced to the disk: what a power failure could spoil is made
    again in seconds, and waiting for the disk would disturb what is measured next.

    Args:
        planned: The model.
        path: The file; its directory is made.
        seed: The same seed gives the same bytes.

    Raises:
        DiskSpaceError: If there is no room for it; nothing of it is left.
        ModelError: If it cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_space(path.parent, planned.total_bytes + _SPARE_BYTES, planned.name)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)  # the engine may run as another user
            done = 0
            for piece in _pieces(planned, seed):
                file.write(piece)
                done += len(piece)
                reporter().progress(done, planned.total_bytes)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise no_space(path.parent, planned.name, "the disk is full") from error
        raise ModelError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="check the directory's permissions, or set LLMLAB_CACHE_DIR to another one",
        ) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def _pieces(planned: Plan, seed: int) -> Iterator[bytes | memoryview]:
    yield planned.head
    filler = Filler(seed)
    end = 0
    for tensor in planned.header.tensors:
        if tensor.offset > end:
            yield bytes(tensor.offset - end)
        yield from filler.chunks(tensor)
        end = tensor.offset + (tensor.nbytes or 0)
    yield bytes(-end % ALIGNMENT)


def _planned(
    name: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[tuple[str, tuple[int, ...]]],
    types: Sequence[str],
) -> Plan:
    title = f"synthetic {name}"
    named = {**metadata, "general.name": title, MARK: True, "general.alignment": ALIGNMENT}
    if "tokenizer.ggml.tokens" not in named:
        vocabulary = next((dims[-1] for text, dims in tensors if text == "token_embd.weight"), 0)
        named |= padded_tokenizer(vocabulary, 0)
    end, placed = 0, []
    for (text, dims), kind in zip(tensors, types, strict=True):
        tensor = Tensor(text, dims, tensor_type(kind).number, end)
        placed.append(tensor)
        end += -(-(tensor.nbytes or 0) // ALIGNMENT) * ALIGNMENT
    head = header_bytes(named, placed)
    header = Header(3, named, tuple(placed), len(head) + end, len(head))
    return Plan(name=title, header=header, head=head)


def _facts(header: Header) -> Facts:
    def first(key: str, default: int) -> int:
        value = header.get(key, default)
        value = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value
        return value if isinstance(value, int) else default

    heads = first("attention.head_count", 1)
    return Facts(
        architecture=header.architecture,
        n_layers=first("block_count", 0),
        n_heads=heads,
        n_kv_heads=first("attention.head_count_kv", heads),
        n_experts=first("expert_count", 0),
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is to be written, and clear away what a killed writer left."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / f".{path.name}.lock").open("w")
    except OSError as error:
        raise ModelError(
            f"{path.parent} cannot be written to: {error.strerror}",
            hint="check its permissions, or set LLMLAB_CACHE_DIR to another directory",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter().stage("write", f"waiting for another process that writes {path.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink(missing_ok=True)
        yield
