"""Synthetic models: the shape, size and layout of real ones, accepted by the real engine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from llmlab.errors import (
    DiskSpaceError,
    LabError,
    ModelError,
    ModelFileError,
    ModelNotFoundError,
    UnknownNameError,
)
from llmlab.reporting import Reporter, reporting_to
from llmlab.weights import synthetic
from llmlab.weights.filling import Filler, fillable
from llmlab.weights.gguf import read_header
from llmlab.weights.mixtures import MIXTURES, Facts, mixture, tensor_types
from llmlab.weights.shapes import Shape, shape, shapes
from llmlab.weights.store import builtin_path
from llmlab.weights.tensors import TYPES, Tensor, tensor_type
from tests.conftest import eventually, missing

# Sizes of real files, in bytes: exact ones from projects that pin them, others as their pages show them.
PUBLISHED = {
    ("qwen2.5-0.5b", "Q4_K_M"): 397_808_192,  # bartowski/Qwen2.5-0.5B-Instruct-GGUF
    ("qwen2.5-0.5b", "Q2_K"): 339e6,  # mradermacher/Qwen2.5-0.5B-GGUF, and so the others
    ("qwen2.5-0.5b", "Q3_K_M"): 355e6,
    ("qwen2.5-0.5b", "Q4_0"): 352e6,
    ("qwen2.5-0.5b", "Q4_1"): 375e6,
    ("qwen2.5-0.5b", "Q5_K_M"): 420e6,
    ("qwen2.5-0.5b", "Q6_K"): 506e6,
    ("qwen2.5-0.5b", "Q8_0"): 531e6,
    ("qwen2.5-0.5b", "F16"): 994e6,
    ("llama-3.2-1b", "Q4_K_M"): 807_694_464,  # bartowski/Llama-3.2-1B-Instruct-GGUF
    ("llama-3.2-1b", "Q5_K_M"): 0.91e9,
    ("llama-3.2-1b", "Q8_0"): 1.32e9,
    ("llama-3.2-3b", "Q4_K_M"): 2_019_377_600,  # bartowski/Llama-3.2-3B-Instruct-GGUF
    ("llama-3.1-8b", "Q4_K_M"): 4_920_739_232,  # bartowski/Meta-Llama-3.1-8B-Instruct-GGUF
    ("llama-3.3-70b", "Q2_K"): 26.4e9,  # bartowski/Llama-3.3-70B-Instruct-GGUF
    ("llama-3.3-70b", "Q3_K_S"): 30.9e9,
    ("llama-3.3-70b", "Q3_K_M"): 34.3e9,
    ("llama-3.3-70b", "Q4_K_S"): 40.3e9,
    ("llama-3.3-70b", "Q4_K_M"): 42.5e9,
    ("llama-3.3-70b", "Q5_K_S"): 48.7e9,
    ("gemma-3-1b", "Q4_K_M"): 806e6,  # ggml-org/gemma-3-1b-it-GGUF
    ("gemma-3-1b", "Q3_K_L"): 752e6,  # lmstudio-community/gemma-3-1b-it-GGUF
    ("qwen3-0.6b", "Q8_0"): 639_446_688,  # Qwen/Qwen3-0.6B-GGUF
    ("qwen3-4b", "Q4_K_M"): 2_497_280_256,  # Qwen/Qwen3-4B-GGUF
    ("qwen3-8b", "Q4_K_M"): 5_027_783_488,  # Qwen/Qwen3-8B-GGUF
    ("qwen3-8b", "Q8_0"): 8_709_518_112,
    ("qwen3-14b", "Q4_K_M"): 9_001_752_960,  # Qwen/Qwen3-14B-GGUF
    ("qwen3-32b", "Q4_K_M"): 19_762_149_024,  # Qwen/Qwen3-32B-GGUF
    ("qwen3-30b-a3b", "Q4_K_M"): 18_556_685_824,  # Qwen/Qwen3-30B-A3B-GGUF
}


def small(name: str, **changes: Any) -> Shape:
    """A shape with the architecture and the widths of a real one, but few layers and words."""
    changes = {"n_layers": 2, "n_vocab": 4096, "n_merges": 4000, "parameters": 0, **changes}
    return dataclasses.replace(shape(name), name=f"small-{name}", **changes)


# 512 is a multiple of 256, so that every type of a mixture appears.
TOY = small("llama-3.2-1b", n_layers=8, n_embd=512, n_ff=1024, n_heads=8, n_kv_heads=2, head_size=64)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMLAB_CACHE_DIR", str(tmp_path))
    return tmp_path


# -- shapes -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shapes())
def test_tensors_of_a_shape_have_the_published_number_of_parameters(name: str) -> None:
    counted = sum(math.prod(dims) for text, dims in shape(name).tensors() if not text.startswith("rope_"))
    assert counted == shape(name).parameters
    assert shape(name).source


@pytest.mark.parametrize(("name", "quant"), PUBLISHED)
def test_the_file_is_as_large_as_that_of_the_real_model(name: str, quant: str) -> None:
    assert synthetic.plan(name, quant).total_bytes == pytest.approx(PUBLISHED[name, quant], rel=0.01)


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"qwen2\.5-0\.5b"):
        synthetic.plan("qwen-2.5-0.5b")
    with pytest.raises(UnknownNameError, match="Q4_K_M"):
        synthetic.plan("smollm2-135m", "Q4KM")
    assert shape("Llama-3.2-1B") is shape("llama-3.2-1b")


# -- the layout, against the real llama-quantize ------------------------------------------


@pytest.fixture(scope="module")
def quantize(require_engine: Any) -> Path:
    path: Path = require_engine.server.parent / "llama-quantize"
    if not path.is_file():
        missing("engine", f"no llama-quantize beside {require_engine.server}")
    return path


def llama_quantize(program: Path, source: Path, target: Path, quant: str, *options: str) -> str:
    command = [str(program), *options, str(source), str(target), quant, "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# With their real number of layers, which the layout depends on.
LAYOUTS = {
    "fallbacks of a width that 256 does not divide": small("smollm2-135m", n_layers=30),
    "separate output": small("llama-3.1-8b", n_layers=32),
    "70B": small("qwen2.5-72b", n_layers=80),
    "experts": small("qwen3-30b-a3b", n_layers=48),
    "eight experts": small("qwen3-30b-a3b", n_layers=16, n_experts=8),
    "gemma": small("gemma-3-1b", n_layers=26),
}


@pytest.mark.parametrize("what", LAYOUTS)
def test_each_tensor_gets_the_type_that_llama_quantize_gives_it(
    what: str, quantize: Path, tmp_path: Path
) -> None:
    wanted = LAYOUTS[what]
    source = tmp_path / "f16.gguf"
    planned = synthetic.plan_shape(wanted, "F16")
    with source.open("wb") as file:
        file.write(planned.head)
        file.truncate(planned.total_bytes)  # sparse: llama-quantize reads no data in a dry run
    line = re.compile(
        r"\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\w+), size =[^(\n]*(?:\((\w+)\))?$", re.MULTILINE
    )
    for quant in MIXTURES:
        text = llama_quantize(quantize, source, tmp_path / "out.gguf", quant, "--dry-run")
        theirs = {name: (new or old).upper() for name, old, new in line.findall(text)}
        ours = {
            tensor.name: tensor.type_name for tensor in synthetic.plan_shape(wanted, quant).header.tensors
        }
        assert ours == theirs, quant


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_K_M", "Q2_K"])
def test_a_file_that_llama_quantize_writes_has_the_planned_size(
    quant: str, quantize: Path, tmp_path: Path
) -> None:
    source, target = tmp_path / "f16.gguf", tmp_path / "out.gguf"
    synthetic.write(synthetic.plan_shape(TOY, "F16"), source)
    llama_quantize(quantize, source, target, quant)
    ours, theirs = synthetic.plan_shape(TOY, quant).header, read_header(target)
    assert {(t.name, t.type, t.nbytes) for t in ours.tensors} == {
        (t.name, t.type, t.nbytes) for t in theirs.tensors
    }
    assert abs(ours.file_bytes - theirs.file_bytes) < 1024  # the same metadata, but for its name
    assert ours.metadata["general.file_type"] == theirs.metadata["general.file_type"]


# -- what is written ----------------------------------------------------------------------


def test_the_header_that_is_read_is_the_one_that_was_planned(tmp_path: Path) -> None:
    planned = synthetic.plan_shape(TOY, "Q4_K_M")
    synthetic.write(planned, tmp_path / "x.gguf")
    found = read_header(tmp_path / "x.gguf")
    assert found.tensors == planned.header.tensors
    assert found.file_bytes == planned.total_bytes
    assert found.data_offset == planned.header.data_offset
    for key, value in planned.header.metadata.items():
        if isinstance(value, float):
            assert found.metadata[key] == pytest.approx(value), key
        else:
            assert found.metadata[key] == value, key
    assert found.metadata["llmlab.synthetic"] is True
    assert found.metadata["general.name"] == "synthetic small-llama-3.2-1b"


def test_the_vocabulary_is_the_shapes_and_its_tokens_differ() -> None:
    tokens = synthetic.plan("llama-3.2-1b").header.metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == len(set(tokens)) == 128256
    assert all(token.strip("Ġ") for token in tokens[2048:])
    merges = synthetic.plan("llama-3.2-1b").header.metadata["tokenizer.ggml.merges"]
    assert len(merges) == 280147


def test_the_same_seed_gives_the_same_bytes_everywhere(tmp_path: Path) -> None:
    planned = synthetic.plan_shape(TOY, "Q4_K_M")
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        synthetic.write(planned, tmp_path / f"{number}", seed=seed)
        # Of the weights: the vocabulary is the built-in model's.
        data = (tmp_path / f"{number}").read_bytes()[planned.header.data_offset :]
        digests.append(hashlib.sha256(data).hexdigest())
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] == "8534fee62e8f087988d54c212158b1cb4224ac8604c1177ac5f06c57627a3d9e"


@pytest.mark.parametrize("kind", [kind.name for kind in TYPES.values() if fillable(kind.name)])
def test_weights_of_every_type_are_small_finite_and_centred(kind: str) -> None:
    np, quants = pytest.importorskip("numpy"), pytest.importorskip("gguf.quants")
    tensor = Tensor("blk.0.ffn_up.weight", (1024, 64), tensor_type(kind).number, 0)
    data = b"".join(Filler(7).chunks(tensor))
    assert len(data) == tensor.nbytes
    raw = np.frombuffer(data, dtype=np.uint8)
    if kind in {"F32", "F16"}:
        raw = raw.view({"F32": np.float32, "F16": np.float16}[kind])
    weights = quants.dequantize(raw, tensor.type).astype(np.float64)
    assert weights.size == tensor.elements
    assert np.isfinite(weights).all()
    assert 0.01 < weights.std() < 0.04
    assert abs(weights.mean()) < 0.2 * weights.std()
    assert abs(weights).max() < 0.3


class Watching(Reporter):
    """Keeps what it is told; interrupts at a given number of bytes."""

    def __init__(self, stop_at: float = math.inf) -> None:
        self.seen: list[tuple[int, int | None]] = []
        self.stages: list[str] = []
        self._stop_at = stop_at

    def progress(self, done: int, total: int | None) -> None:
        self.seen.append((done, total))
        if done >= self._stop_at:
            raise KeyboardInterrupt

    def stage(self, stage: str, detail: str = "") -> None:
        self.stages.append(f"{stage}: {detail}")


def test_progress_goes_up_to_the_size_of_the_file(tmp_path: Path) -> None:
    planned = synthetic.plan_shape(TOY, "F16")
    with reporting_to(Watching()) as watching:
        synthetic.write(planned, tmp_path / "x.gguf")
    assert watching.seen == sorted(watching.seen)
    assert watching.seen[-1] == (planned.total_bytes, planned.total_bytes)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    planned = synthetic.plan_shape(TOY, "F16")
    with reporting_to(Watching(stop_at=planned.total_bytes / 2)), pytest.raises(KeyboardInterrupt):
        synthetic.write(planned, tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []


def test_what_no_disk_holds_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    planned = synthetic.plan_shape(small("llama-3.3-70b", n_layers=20_000), "F16")
    with pytest.raises(DiskSpaceError, match=r"GB"):
        synthetic.write(planned, tmp_path / "x.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        synthetic.write(synthetic.plan_shape(TOY, "Q4_0"), tmp_path / "file" / "x.gguf")


def test_a_write_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource; from pathlib import Path; from llmlab.errors import ModelError;"
        "from llmlab.weights import synthetic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, 50_000_000))\n"
        f"try: synthetic.write(synthetic.plan('smollm2-135m'), Path({str(tmp_path / 'x.gguf')!r}))\n"
        "except ModelError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_writing_needs_little_memory(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from llmlab.weights import synthetic;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"synthetic.write(synthetic.plan('smollm2-360m', 'F16'), Path({str(tmp_path / 'x')!r}));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    used_bytes = int(done.stdout) * 1024
    assert used_bytes < 100 << 20
    assert (tmp_path / "x").stat().st_size > 700_000_000


# -- the store ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("synthetic:llama-3.2-1b", ("llama-3.2-1b", None)),
        ("synthetic:llama-3.2-1b:q4_k_m", ("llama-3.2-1b", "Q4_K_M")),
        ("synthetic:/some/where/x.gguf", ("/some/where/x.gguf", None)),
        ("synthetic:C:/odd/x.gguf", ("C:/odd/x.gguf", None)),
        ("synthetic:./x.gguf:Q8_0", ("./x.gguf", "Q8_0")),
    ],
)
def test_references(reference: str, parts: tuple[str, str | None]) -> None:
    assert synthetic.parse(reference) == parts


def test_a_model_is_written_once(cache: Path) -> None:
    with reporting_to(Watching()) as watching:
        first = synthetic.ensure("smollm2-135m", "Q4_0")
        again = synthetic.ensure("SmolLM2-135M", "q4_0")
    assert first == again == synthetic.locate("smollm2-135m") == cache / "synthetic/smollm2-135m-Q4_0.gguf"
    assert watching.stages == ["write: synthetic smollm2-135m (0.09 GB)"]


def test_processes_that_want_the_same_model_write_it_once(cache: Path) -> None:
    (cache / "synthetic").mkdir()
    left = cache / "synthetic/.smollm2-135m-Q4_0.gguf.killed.part"
    left.write_bytes(b"of a writer that was killed")
    code = (
        "from llmlab.reporting import Reporter, reporting_to; from llmlab.weights import synthetic\n"
        "class R(Reporter):\n"
        "    def stage(self, stage, detail=''): print(detail)\n"
        "with reporting_to(R()): synthetic.ensure('smollm2-135m')\n"
    )
    command = [sys.executable, "-c", code]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [writer.communicate(timeout=120)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sum("GB)" in text for text in said) == 1
    assert not left.exists()
    assert sorted(path.name for path in (cache / "synthetic").iterdir()) == [
        ".smollm2-135m-Q4_0.gguf.lock",
        "smollm2-135m-Q4_0.gguf",
    ]


# -- the shape of a file ------------------------------------------------------------------


def test_the_shape_of_a_file_keeps_its_types_and_its_tokenizer(cache: Path) -> None:
    real = read_header(builtin_path())
    path = synthetic.ensure(str(builtin_path()))
    made = read_header(path)
    assert [(t.name, t.shape, t.type) for t in made.tensors] == [
        (t.name, t.shape, t.type) for t in real.tensors
    ]
    assert made.metadata["tokenizer.ggml.tokens"] == real.metadata["tokenizer.ggml.tokens"]
    assert made.metadata["general.name"] == "synthetic tiny"
    assert abs(made.file_bytes - real.file_bytes) < 1024
    assert path.read_bytes() != builtin_path().read_bytes()
    # It is found again by the name that its file has.
    shown, _, quant = path.name.removesuffix(".gguf").rpartition("-")
    assert synthetic.ensure(shown, quant) == path


def test_a_header_alone_is_enough(tmp_path: Path) -> None:
    whole = read_header(builtin_path())
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(builtin_path().read_bytes()[: whole.data_offset])
    planned = synthetic.plan(str(alone), "Q4_K_M")
    assert planned.header.metadata["general.file_type"] == mixture("Q4_K_M").number
    assert {t.type_name for t in planned.header.tensors} == {"F32", "Q4_K", "Q6_K"}
    facts = Facts(architecture="llama", n_layers=4, n_heads=4, n_kv_heads=2)
    tensors = [(t.name, t.shape) for t in whole.tensors]
    assert [t.type_name for t in planned.header.tensors] == tensor_types(tensors, mixture("Q4_K_M"), facts)


def test_the_shards_of_a_model_become_one_file() -> None:
    whole = synthetic.plan_shape(TOY, "Q4_0").header
    half = len(whole.tensors) // 2
    first = dataclasses.replace(
        whole, tensors=whole.tensors[:half], metadata={**whole.metadata, "split.count": 2, "split.no": 0}
    )
    second = dataclasses.replace(whole, tensors=whole.tensors[half:], metadata={"split.no": 1})
    joined = synthetic.plan_like([first, second], None, "x").header
    assert joined.tensors == whole.tensors
    assert not [key for key in joined.metadata if key.startswith("split.")]


@pytest.mark.parametrize(
    "name", ["~no-such-user/x.gguf", "x" * 5000 + ".gguf", "x" * 5000, "a\0b.gguf", "a\0b", "/", ""]
)
def test_odd_names_give_an_error_of_ours(name: str, cache: Path) -> None:
    for quant in (None, "Q4_0"):
        with pytest.raises(LabError) as caught:
            synthetic.ensure(name, quant)
        assert caught.value.hint


def test_types_that_cannot_be_filled_say_what_to_do(tmp_path: Path) -> None:
    planned = synthetic.plan_shape(TOY, "F16")
    header = planned.header
    odd = dataclasses.replace(header.tensors[-2], type=tensor_type("IQ1_M").number)
    with pytest.raises(ModelFileError, match="IQ1_M") as caught:
        synthetic.plan_like([dataclasses.replace(header, tensors=(odd,))], None, "x")
    assert ":Q4_0" in caught.value.hint
    planned = synthetic.plan_like([dataclasses.replace(header, tensors=(odd,))], "Q4_0", "x")
    assert planned.header.tensors[0].type_name == "Q4_0"
    with pytest.raises(ModelNotFoundError):
        synthetic.plan(str(tmp_path / "none.gguf"))


# -- in the engine ------------------------------------------------------------------------


@contextmanager
def serving(server: Path, model: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = model.with_suffix(".log")
    options = f"--host 127.0.0.1 --port {port} -c 256 -np 1 -t 2".split()
    command = [str(server), "-m", str(model), *options]
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            with suppress(urllib.error.URLError, ConnectionError):
                return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health").status == 200)
            return False

        try:
            eventually(ready, within_s=120)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def generated(address: str, count: int) -> list[dict[str, Any]]:
    body = {"prompt": "What is a container?", "n_predict": count, "ignore_eos": True, "n_probs": 3, "seed": 1}
    request = urllib.request.Request(  # noqa: S310 - of our own server
        f"{address}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=250) as response:  # noqa: S310 - the same
        answer = json.load(response)
    assert answer["tokens_predicted"] == count
    assert answer["content"].strip()
    tokens: list[dict[str, Any]] = answer["completion_probabilities"]
    return tokens


def check(server: Path, planned: synthetic.Plan, folder: Path) -> None:
    """The engine loads it and generates: as many tokens as asked, visible, with finite probabilities."""
    path = folder / "model.gguf"
    synthetic.write(planned, path)
    with serving(server, path) as address:
        tokens = generated(address, 16)
    path.unlink()
    assert all(token["bytes"] for token in tokens)
    ranked = [top["logprob"] for token in tokens for top in token["top_logprobs"]]
    assert all(math.isfinite(value) and value <= 0 for value in ranked)
    assert len(set(ranked)) > len(tokens)  # weights of zero make all equally likely


@pytest.mark.parametrize("quant", MIXTURES)
def test_llama_server_generates_with_each_quantisation(
    quant: str, require_engine: Any, tmp_path: Path
) -> None:
    check(require_engine.server, synthetic.plan_shape(TOY, quant), tmp_path)


@pytest.mark.parametrize(
    "wanted",
    [
        small("qwen2.5-7b", n_ff=2048),
        small("qwen3-8b", n_ff=2048),
        small("qwen3-30b-a3b", n_experts=16, n_ff_expert=256, n_ff=2048),
        small("gemma-2-2b"),
        small("gemma-3-1b", n_layers=6),
        small("mistral-7b", n_ff=2048),
        small("smollm2-135m"),
    ],
    ids=lambda wanted: wanted.name,
)
def test_llama_server_generates_with_each_architecture(
    wanted: Shape, require_engine: Any, tmp_path: Path
) -> None:
    check(require_engine.server, synthetic.plan_shape(wanted, "Q4_K_M"), tmp_path)


def test_llama_server_generates_with_the_shape_of_a_real_model(require_engine: Any, tmp_path: Path) -> None:
    check(require_engine.server, synthetic.plan("qwen2.5-0.5b"), tmp_path)


def test_llama_server_generates_with_the_shape_of_a_file(require_engine: Any, tmp_path: Path) -> None:
    check(require_engine.server, synthetic.plan(str(builtin_path())), tmp_path)
