"""Measure the engine on this machine: the roofs of `weights.rates`.

For each type of weights a model is made that consists of it, with random
values and more bytes than a cache holds, and served as any other model:
natively, with the threads that models get. What the engine's own clock says of
its generating and of its reading a prompt is the roof of that type.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from llmlab import lab, machine, runtime
from llmlab.builds import find_build
from llmlab.errors import RequestError
from llmlab.lab import ledger
from llmlab.reporting import Reporter, reporter, reporting_to
from llmlab.weights import rates, store, synthetic
from llmlab.weights.anatomy import of_file
from llmlab.weights.gguf import Header
from llmlab.weights.rates import Rates
from llmlab.weights.shapes import Shape
from llmlab.weights.tensors import Tensor, tensor_type

# What models of the catalog and most of those on hubs consist of.
USUAL_TYPES = ("Q4_K", "Q6_K", "Q8_0", "Q4_0", "F16")
_LEAST_BYTES = 192 * 1024 * 1024
_CONTEXT = 2048
# As many tokens as one batch of llama.cpp's, less the chat template's.
_PROMPT_WORDS = 480
_DECODE_S = 0.6
_REPEATS = 3


def current(threads: int) -> Rates | None:
    """What was measured with so many threads and the present engine; None if nothing was.

    Raises:
        EngineMissingError: If there is no engine.
    """
    found = rates.load(threads)
    return found if found and found.engine == find_build().identity else None


def measure(types: Iterable[str], threads: int) -> Rates:
    """Measure some types of weights, and keep the result.

    Takes about five seconds for each type.

    Args:
        types: Names of types, such as "Q4_K".
        threads: Compute threads.

    Raises:
        EngineMissingError: If there is no llama-server.
        LabError: If it cannot be started.
    """
    wanted = list(types)
    report = reporter()
    found = current(threads) or Rates(
        threads=threads,
        engine=find_build().identity,
        cpu=machine.cpu_name(),
        measured=time.strftime("%Y-%m-%d"),
        bandwidth_gb_per_s=machine.read_bandwidth_gb_per_s(threads),
    )
    with TemporaryDirectory(dir=_folder(), prefix=".measuring-") as folder, ledger.paused():
        for number, kind in enumerate(wanted, start=1):
            report.stage("measure", f"weights of type {kind} ({number} of {len(wanted)})")
            path = Path(folder) / f"measuring-{kind.lower()}.gguf"
            # What is written and started meanwhile is no stage of the caller's.
            with reporting_to(Reporter()):
                synthetic.write(_plan(kind), path)
                found = _with_type(found, kind, path, threads)
            path.unlink()
        report.stage("measure", "what a layer takes besides its weights")
        with reporting_to(Reporter()):
            found = _with_layer(found, threads)
    rates.save(found)
    return found


def missing(types: Iterable[str], known: Rates | None) -> list[str]:
    """Which of these types, as far as they can be made, have not been measured."""
    measured = known.read_bytes_per_s if known else {}
    return [kind for kind in dict.fromkeys(types) if kind not in measured and kind in USUAL_TYPES]


def _folder() -> Path:
    folder = runtime.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _plan(kind: str) -> synthetic.Plan:
    """A model whose matrices are all of one type."""
    form = tensor_type(kind)
    one = _shape(1)
    layer_elements = sum(_elements(dims) for name, dims in one.tensors() if name.startswith("blk."))
    layers = -(-_LEAST_BYTES // (layer_elements // form.block * form.block_bytes))
    shape = _shape(layers)
    tensors = tuple(
        Tensor(name, dims, (form if len(dims) > 1 else tensor_type("F32")).number, 0)
        for name, dims in shape.tensors()
    )
    header = Header(3, shape.metadata(), tensors, 0)
    return synthetic.plan_like([header], None, f"measuring {kind}")


def _shape(layers: int) -> Shape:
    return Shape(
        name="measuring",
        title="measuring",
        architecture="llama",
        n_layers=layers,
        n_vocab=2048,
        n_merges=0,
        context=_CONTEXT,
        rope_base=10000.0,
        norm_epsilon=1e-5,
        tied=False,
        parameters=0,
        source="",
        # The layers of a model with 1 B parameters.
        n_embd=2048,
        n_ff=8192,
        n_heads=32,
        n_kv_heads=8,
        head_size=64,
    )


def _with_type(found: Rates, kind: str, path: Path, threads: int) -> Rates:
    model = of_file(path)
    with lab.start(str(path), backend="native", slots=1, context=_CONTEXT, threads=threads) as server:
        short = _decode_s(server, "Go on")
        words = "container " * _PROMPT_WORDS
        # A number at its head: what is cached is not read.
        prompts = [server.ask(f"{number} {words}", max_tokens=1) for number in range(_REPEATS - 1)]
        attention = found.attention_s
        if not attention and (depth := prompts[-1].prompt_tokens):
            long = _decode_s(server, f"{_REPEATS - 2} {words}")
            width = model.n_heads * model.key_length
            attention = max(0.0, long - short) / (model.n_layers * width * depth)
    size = sum(model.read_by_type.values())
    return replace(
        found,
        read_bytes_per_s={**found.read_bytes_per_s, kind: size / short},
        prefill_parameters_per_s={
            **found.prefill_parameters_per_s,
            kind: max(_known(answer.prompt_tokens_per_s) for answer in prompts) * model.active_parameters,
        },
        attention_s=attention,
    )


def _with_layer(found: Rates, threads: int) -> Rates:
    """The built-in model is so small that a token's time is nearly all overhead."""
    model = of_file(store.builtin_path())
    with lab.start(store.TINY, backend="native", slots=1, threads=threads) as server:
        token_s = min(1 / _rate(server, "What is a container?", 48) for _ in range(_REPEATS))
    read_s = sum(
        size / found.read_bytes_per_s.get(kind, max(found.read_bytes_per_s.values()))
        for kind, size in model.read_by_type.items()
    )
    return replace(found, layer_s=max(0.0, token_s - read_s) / model.n_layers)


def _decode_s(server: lab.Server, prompt: str) -> float:
    """Seconds for one token: the best of a few runs, since neighbours can only make it slower."""
    first = _rate(server, prompt, 12)
    tokens = max(12, min(400, round(first * _DECODE_S)))
    return min(1 / _rate(server, prompt, tokens) for _ in range(_REPEATS))


def _rate(server: lab.Server, prompt: str, tokens: int) -> float:
    return _known(server.ask(prompt, max_tokens=tokens, temperature=0).tokens_per_s)


def _known(rate: float | None) -> float:
    if rate is None:
        raise RequestError(
            "this engine does not tell its rate, so it cannot be measured",
            hint="llmlab build makes a llama-server, which does",
        )
    return rate


def _elements(dims: tuple[int, ...]) -> int:
    product = 1
    for length in dims:
        product *= length
    return product
