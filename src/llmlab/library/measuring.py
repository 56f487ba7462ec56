"""Measure the engine on this machine: the roofs of `weights.rates`.

For each type of weights a model is made that consists of it, with random
values and more bytes than a cache holds, and served as any other model:
natively, with the threads that models get. What the engine's own clock says of
its generating and of its reading a prompt is the roof of that type.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from llmlab import lab, machine, runtime
from llmlab.builds import find_build
from llmlab.errors import MemoryFitError, RequestError
from llmlab.lab import ledger
from llmlab.reporting import Reporter, reporter, reporting_to
from llmlab.weights import rates, store, synthetic
from llmlab.weights.anatomy import Anatomy, of_file
from llmlab.weights.gguf import Header
from llmlab.weights.rates import Rates
from llmlab.weights.shapes import Shape
from llmlab.weights.tensors import Tensor, tensor_type

# What models of the catalog and most of those on hubs consist of.
USUAL_TYPES = ("Q4_K", "Q6_K", "Q8_0", "Q4_0")
_LEAST_BYTES = 192 * 1024 * 1024
_CONTEXT = 2048
_QUESTION = "What is a container?"  # which the built-in model answers at some length
# The longer one has about as many tokens as one batch of llama.cpp's.
_PROMPT_WORDS = (120, 480)
_DECODE_S = 0.8
_REPEATS = 3


def current(threads: int) -> Rates | None:
    """What was measured with so many threads and the present engine; None if nothing was.

    Raises:
        EngineMissingError: If there is no engine.
    """
    found = rates.load(threads)
    return found if found and found.engine == find_build().identity else None


def measure(types: Iterable[str], threads: int, *, anew: bool = False) -> Rates:
    """Measure some types of weights, and keep the result.

    Takes some ten seconds for each type.

    Args:
        types: Names of types, such as "Q4_K".
        threads: Compute threads.
        anew: Forget what was measured before.

    Raises:
        EngineMissingError: If there is no llama-server.
        LabError: If it cannot be started.
    """
    wanted = list(types)
    report = reporter()
    found = (None if anew else current(threads)) or Rates(
        threads=threads,
        engine=find_build().identity,
        cpu=machine.cpu_name(),
        measured=time.strftime("%Y-%m-%d"),
        bandwidth_gb_per_s=machine.read_bandwidth_gb_per_s(threads),
    )
    with TemporaryDirectory(dir=_folder(), prefix=".measuring-") as folder, ledger.paused():
        for number, kind in enumerate(wanted, start=1):
            report.stage("measure", f"weights of type {kind} ({number} of {len(wanted)})")
            # What is written and started meanwhile is no stage of the caller's.
            try:
                with reporting_to(Reporter()):
                    wide = _made_trial(_WIDE, kind, Path(folder), threads)
                    narrow = _made_trial(_NARROW, kind, Path(folder), threads) if not found.layer_s else None
            except MemoryFitError as error:
                report.note(f"{kind} was not measured: {error.message}")
                continue
            found = _with_trials(found, kind, wide, narrow)
        if threads > 1:
            report.stage("measure", "the built-in model")
            with reporting_to(Reporter()):
                rates.save(_small(found))
    rates.save(found)
    return found


def _small(found: Rates) -> Rates:
    """The pace of very small models, which stay in the cache and get one thread: the built-in model's."""
    trial = _trial(store.builtin_path(), 1)
    kind, *_ = trial.model.prompt_parameters  # the norms, in F32, are few
    return Rates(
        threads=1,
        engine=found.engine,
        cpu=found.cpu,
        measured=found.measured,
        bandwidth_gb_per_s=found.bandwidth_gb_per_s,
        read_bytes_per_s={kind: trial.read_bytes / trial.token_s},
        prefill_parameters_per_s={kind: trial.model.prompt_parameters[kind] / trial.prompts[1][1]},
    )


def missing(types: Iterable[str], known: Rates | None) -> list[str]:
    """Which of these types, as far as they can be made, have not been measured."""
    measured = known.read_bytes_per_s if known else {}
    return [kind for kind in dict.fromkeys(types) if kind not in measured and kind in USUAL_TYPES]


def _folder() -> Path:
    folder = runtime.cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True, slots=True)
class _Trial:
    """What was measured of one model.

    Attributes:
        model: What it is made of.
        token_s: Seconds for a token with an empty context.
        deep_token_s: The same with `depth` tokens in it.
        depth: See above.
        prompts: (tokens of a prompt, seconds for each of them), a short one and a long one.
    """

    model: Anatomy
    token_s: float
    deep_token_s: float
    depth: int
    prompts: tuple[tuple[int, float], tuple[int, float]]

    @property
    def attention_width(self) -> int:
        """Layers × heads × length of a key."""
        return self.model.n_layers * self.model.n_heads * self.model.key_length

    @property
    def read_bytes(self) -> int:
        """Bytes of weights that a token reads."""
        return sum(self.model.read_by_type.values())


def _made_trial(shape: Shape, kind: str, folder: Path, threads: int) -> _Trial:
    path = folder / "measuring.gguf"
    synthetic.write(_plan(shape, kind), path)
    try:
        return _trial(path, threads)
    finally:
        path.unlink()


def _trial(path: Path, threads: int) -> _Trial:
    model = of_file(path)
    with lab.start(str(path), backend="native", slots=1, threads=threads, gpu_layers="0") as server:
        token_s = _decode_s(server, _QUESTION)
        prompts = []
        for words in _PROMPT_WORDS:
            # A number at its head: what is cached is not read.
            texts = [f"{number} " + "container " * words for number in range(_REPEATS - 1)]
            answers = [server.ask(text, max_tokens=1) for text in texts]
            rate = max(_known(answer.prompt_tokens_per_s) for answer in answers)
            prompts.append((answers[0].prompt_tokens or words, 1 / rate))
        deep_token_s = _decode_s(server, texts[-1])
        # Once more, since the pace of a shared machine changes from one second to the next.
        token_s = (token_s + _decode_s(server, _QUESTION)) / 2
    short, long = prompts
    return _Trial(model, token_s, deep_token_s, long[0], (short, long))


def _with_trials(found: Rates, kind: str, wide: _Trial, narrow: _Trial | None) -> Rates:
    """Add what trials of one type say.

    A token takes bytes / roof + layers × overhead. Two models of about the same
    size, one of few wide layers and one of many narrow ones, tell the two apart.
    """
    if narrow:
        # bytes_w / roof + layers_w × x = t_w and bytes_n / roof + layers_n × x = t_n, solved for x.
        share = narrow.read_bytes / wide.read_bytes
        layers = narrow.model.n_layers - wide.model.n_layers * share
        attention = (wide.deep_token_s - wide.token_s) / (wide.attention_width * wide.depth)
        (short, short_s), (long, long_s) = wide.prompts
        prompt_attention = (long_s - short_s) / (wide.attention_width * (long - short) / 2)
        found = replace(
            found,
            layer_s=max(0.0, (narrow.token_s - wide.token_s * share) / layers),
            attention_s=max(0.0, attention),
            prompt_attention_s=max(0.0, prompt_attention),
        )
    read_s = wide.token_s - found.layer_s * wide.model.n_layers
    long, long_s = wide.prompts[1]
    prompt_s = long_s - found.prompt_attention_s * wide.attention_width * long / 2
    return replace(
        found,
        read_bytes_per_s={**found.read_bytes_per_s, kind: wide.read_bytes / max(read_s, wide.token_s / 2)},
        prefill_parameters_per_s={
            **found.prefill_parameters_per_s,
            kind: wide.model.prompt_parameters[kind] / max(prompt_s, long_s / 2),
        },
    )


def _plan(shape: Shape, kind: str) -> synthetic.Plan:
    """A model whose matrices are all of one type, with enough layers to leave any cache."""
    form = tensor_type(kind)
    elements = sum(math.prod(dims) for name, dims in shape.tensors() if name.startswith("blk."))
    layer_bytes = elements // form.block * form.block_bytes
    # Of a prompt, the last layer works on one token only: it cannot be alone.
    whole = replace(shape, n_layers=max(2, -(-_LEAST_BYTES // layer_bytes)))
    tensors = tuple(
        Tensor(name, dims, (form if len(dims) > 1 else tensor_type("F32")).number, 0)
        for name, dims in whole.tensors()
    )
    header = Header(3, whole.metadata(), tensors, 0)
    return synthetic.plan_like([header], None, f"measuring {kind}")


def _layer(n_embd: int, n_ff: int, n_heads: int, head_size: int) -> Shape:
    """A model of one layer."""
    return Shape(
        name="measuring",
        title="measuring",
        architecture="llama",
        n_layers=1,
        n_embd=n_embd,
        n_ff=n_ff,
        n_heads=n_heads,
        n_kv_heads=8,
        head_size=head_size,
        n_vocab=2048,
        n_merges=0,
        context=_CONTEXT,
        rope_base=10000.0,
        norm_epsilon=1e-5,
        tied=False,
        parameters=0,
        source="",
    )


# Layers as wide as those of a model with 8 B parameters, and of one with 0.5 B.
_WIDE = _layer(4096, 8192, 32, 128)
_NARROW = _layer(1024, 4096, 16, 64)


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
