"""What a model is made of before there is a file of it: from its shape alone."""

from __future__ import annotations

from dataclasses import replace

from llmlab.weights import anatomy, synthetic
from llmlab.weights.anatomy import Anatomy, Tokenizer
from llmlab.weights.gguf import Header
from llmlab.weights.mixtures import mixture, tensor_types
from llmlab.weights.shapes import shape
from llmlab.weights.tensors import Tensor, tensor_type


def of_shape(name: str, quant: str) -> Anatomy:
    """What a model of a known shape is made of, without its vocabulary's texts.

    Args:
        name: The shape's name, such as `llama-3.2-1b`.
        quant: The quantisation.

    Raises:
        UnknownNameError: If there is no such shape or quantisation.
    """
    wanted, mix = shape(name), mixture(quant)
    named = wanted.tensors()
    kinds = tensor_types(named, mix, wanted.facts)
    tensors = tuple(
        Tensor(text, dims, tensor_type(kind).number, 0)
        for (text, dims), kind in zip(named, kinds, strict=True)
    )
    metadata = {**wanted.metadata(), "general.file_type": mix.number}
    header = Header(3, metadata, tensors, sum(tensor.nbytes or 0 for tensor in tensors))
    vocabulary = Tokenizer(
        kind="unknown",
        pre=None,
        n_tokens=wanted.n_vocab,
        n_merges=wanted.n_merges,
        bos=None,
        eos=None,
        n_control=0,
    )
    return replace(anatomy.of_headers([header]), n_vocab=wanted.n_vocab, tokenizer=vocabulary)


def of_synthetic(reference: str) -> Anatomy:
    """What a synthetic model is made of, which need not have been written yet.

    Args:
        reference: `synthetic:SHAPE[:QUANT]`.

    Raises:
        UnknownNameError: If there is no such shape or quantisation.
        ModelFileError: If the shape is to be a file's, and that is damaged.
    """
    name, quant = synthetic.parse(reference)
    if name.endswith(".gguf"):
        return anatomy.of_headers([synthetic.plan(name, quant).header])
    return replace(of_shape(name, quant or synthetic.DEFAULT_QUANT), synthetic=True)
