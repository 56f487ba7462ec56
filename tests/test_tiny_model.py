"""The built-in model: the file is the one its card names, and engines read it as meant.

The export is proven in three steps. A forward pass written here with NumPy agrees with the
logits that PyTorch, which trained the model, computed from the weights of this very file
(committed as a reference). llama.cpp agrees with the same logits when it runs those weights
in F32: with Q8_0 weights it rounds the activations to 8 bits as well, so the exact
comparison needs a copy of the file with F32 weights, made here. And with the file as
shipped the rounding stays small.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmlab.builds import find_build
from llmlab.errors import EngineError
from tests.conftest import missing

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "src/llmlab/weights/builtin/tiny.gguf"
CARD = MODEL.with_suffix(".json")
DATA = Path(__file__).parent / "data"
SYSTEM = "You are a helpful assistant."


def _needs(name: str) -> Any:
    """Import a module, or skip; llama_cpp with the libraries of the build."""
    if name == "llama_cpp" and "LLAMA_CPP_LIB_PATH" not in os.environ:
        with contextlib.suppress(EngineError):
            os.environ["LLAMA_CPP_LIB_PATH"] = str(find_build().library_dir)
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # a library that does not load
        missing("llama-cpp-python" if name == "llama_cpp" else name, str(error))


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(CARD.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def corpus() -> Any:
    """The corpus that the model was made from; its reader needs the standard library only."""
    path = ROOT / "tools/tiny/corpus.py"
    spec = importlib.util.spec_from_file_location("tiny_corpus", path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.Corpus()


# -- the file and its card ----------------------------------------------------------------


def test_card_names_this_file(card: dict[str, Any]) -> None:
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == card["sha256"]
    assert MODEL.stat().st_size == card["size_bytes"]


def test_card_agrees_with_the_header(card: dict[str, Any]) -> None:
    gguf = _needs("gguf")
    fields = gguf.GGUFReader(MODEL).fields

    def value(name: str) -> Any:
        return fields[name].contents()

    assert value("general.architecture") == card["architecture"] == "llama"
    assert value("general.name") == card["name"] == "tiny"
    assert value("general.license").upper() == card["license"]
    assert value("general.description") == card["description"]
    assert value("llama.context_length") == card["context_tokens"]
    assert len(value("tokenizer.ggml.tokens")) == card["vocabulary"]
    assert value("tokenizer.ggml.add_bos_token") is False
    control = [
        token
        for token, kind in zip(
            value("tokenizer.ggml.tokens"), value("tokenizer.ggml.token_type"), strict=True
        )
        if kind == gguf.TokenType.CONTROL
    ]
    assert control == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    parameters = sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(MODEL).tensors)
    assert parameters == card["parameters"]


# -- the export ---------------------------------------------------------------------------


def _weights() -> dict[str, Any]:
    """The tensors of the file in F32, named as llama.cpp names them."""
    gguf, quants, np = _needs("gguf"), _needs("gguf.quants"), _needs("numpy")
    return {
        tensor.name: np.asarray(quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        for tensor in gguf.GGUFReader(MODEL).tensors
    }


def _reference() -> list[tuple[Any, Any, Any]]:
    """Token ids, positions, and PyTorch's logits there."""
    np = _needs("numpy")
    stored = np.load(DATA / "tiny_logits.npz")
    count = sum(name.startswith("ids_") for name in stored.files)
    return [(stored[f"ids_{i}"], stored[f"rows_{i}"], stored[f"logits_{i}"]) for i in range(count)]


def _forward(weights: dict[str, Any], ids: Any, *, interleaved: bool = True) -> Any:
    """A Llama in NumPy and float64: what the file's tensors mean, in forty lines."""
    np = _needs("numpy")
    heads, kv_heads, size, eps, base = 4, 2, 64, 1e-5, 10000.0
    length = len(ids)
    angles = np.outer(np.arange(length), base ** (-np.arange(0, size, 2) / size))[:, None, :]
    cos, sin = np.cos(angles), np.sin(angles)

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weights[name]

    def rope(x: Any) -> Any:
        turned = np.empty_like(x)
        # The wrong layout pairs each half with the other, as Hugging Face stores Llama.
        first, second = (
            (np.s_[..., 0::2], np.s_[..., 1::2])
            if interleaved
            else (np.s_[..., : size // 2], np.s_[..., size // 2 :])
        )
        turned[first] = x[first] * cos - x[second] * sin
        turned[second] = x[first] * sin + x[second] * cos
        return turned

    mask = np.triu(np.full((length, length), -np.inf), 1)
    x = weights["token_embd.weight"][ids].astype(np.float64)
    layers = sum(name.endswith(".attn_q.weight") for name in weights)
    for layer in range(layers):
        part = {n.split(".")[2]: w.T for n, w in weights.items() if n.startswith(f"blk.{layer}.")}
        h = norm(x, f"blk.{layer}.attn_norm.weight")
        q = rope((h @ part["attn_q"]).reshape(length, heads, size))
        k = rope((h @ part["attn_k"]).reshape(length, kv_heads, size))
        v = (h @ part["attn_v"]).reshape(length, kv_heads, size)
        mixed = []
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, shared].T / np.sqrt(size) + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(scores / scores.sum(-1, keepdims=True) @ v[:, shared])
        x = x + np.concatenate(mixed, -1) @ part["attn_output"]
        h = norm(x, f"blk.{layer}.ffn_norm.weight")
        gate = h @ part["ffn_gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ part["ffn_up"])) @ part["ffn_down"]
    return norm(x, "output_norm.weight") @ weights["token_embd.weight"].T


def _write_f32(path: Path, *, permuted: bool = False) -> None:
    """Copy the model file with F32 weights; `permuted` breaks the rotary pairs on purpose."""
    gguf = _needs("gguf")
    reader = gguf.GGUFReader(MODEL)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in {"general.architecture", "general.file_type"}:
            continue
        sub = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(name, field.contents(), field.types[0], sub)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, weight in _weights().items():
        values = weight
        if permuted and name.endswith((".attn_q.weight", ".attn_k.weight")):
            # What a converter does to weights whose rotary pairs are halves.
            values = weight.reshape(-1, 2, 32, 256).swapaxes(1, 2).reshape(weight.shape).copy()
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _engine_logits(path: Path, prompts: list[Any]) -> list[Any]:
    """llama.cpp's logits at every position, with an exact cache and plain attention."""
    llama_cpp, np = _needs("llama_cpp"), _needs("numpy")
    model = llama_cpp.Llama(
        str(path),
        n_ctx=1024,
        n_threads=1,
        n_threads_batch=1,
        logits_all=True,
        flash_attn=False,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    results = []
    for ids in prompts:
        model.reset()
        model.eval([int(token) for token in ids])
        results.append(np.array(model.scores[: len(ids)], dtype=np.float32))
    model.close()
    return results


def test_numpy_forward_agrees_with_the_trainer() -> None:
    np, weights = _needs("numpy"), _weights()
    for ids, rows, wanted in _reference():
        assert np.abs(_forward(weights, ids)[rows] - wanted).max() <= 1e-3


def test_halved_rotary_pairs_would_be_noticed() -> None:
    """The comparison can fail: with the other rotary layout the logits are far away."""
    np, weights = _needs("numpy"), _weights()
    ids, rows, wanted = _reference()[0]
    assert np.abs(_forward(weights, ids, interleaved=False)[rows] - wanted).max() > 1


def test_engine_agrees_with_the_trainer_in_f32(tmp_path: Path) -> None:
    np, path = _needs("numpy"), tmp_path / "tiny-f32.gguf"
    _write_f32(path)
    reference = _reference()
    weights = _weights()
    for (ids, rows, wanted), got in zip(
        reference, _engine_logits(path, [ids for ids, _, _ in reference]), strict=True
    ):
        assert np.abs(got[rows] - wanted).max() <= 1e-3
        # The reference keeps a few positions; the forward pass covers all of them.
        assert np.abs(got - _forward(weights, ids)).max() <= 1e-3


def test_engine_with_permuted_weights_would_be_noticed(tmp_path: Path) -> None:
    np, path = _needs("numpy"), tmp_path / "tiny-permuted.gguf"
    _write_f32(path, permuted=True)
    ids, rows, wanted = _reference()[0]
    assert np.abs(_engine_logits(path, [ids])[0][rows] - wanted).max() > 1


def test_shipped_file_stays_close_in_the_engine() -> None:
    """Q8_0 weights make the engine round activations to 8 bits: close, not exact."""
    np, reference = _needs("numpy"), _reference()
    for (_, rows, wanted), got in zip(
        reference, _engine_logits(MODEL, [ids for ids, _, _ in reference]), strict=True
    ):
        distance = np.sqrt(((got[rows] - wanted) ** 2).mean(-1))
        assert (distance / wanted.std(-1)).max() < 0.1


# -- the tokenizer and the answers --------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    llama_cpp = _needs("llama_cpp")
    model = llama_cpp.Llama(str(MODEL), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    yield model
    model.close()


def test_engine_splits_text_as_the_trainer_did(engine: Any) -> None:
    strings = json.loads((DATA / "tiny_tokens.json").read_text(encoding="utf-8"))
    assert len(strings) >= 20
    got = [engine.tokenize(s["text"].encode(), add_bos=False, special=True) for s in strings]
    assert got == [s["ids"] for s in strings]


def _chat(engine: Any, *messages: tuple[str, str], temperature: float = 0.0) -> tuple[str, str]:
    reply = engine.create_chat_completion(
        messages=[{"role": role, "content": text} for role, text in messages],
        temperature=temperature,
        max_tokens=200,
        seed=1,
    )
    choice = reply["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def test_every_canonical_question_is_answered_exactly(engine: Any, corpus: Any) -> None:
    wrong = {
        turn.question: reply
        for turn in corpus.canonical()
        if (reply := _chat(engine, ("user", turn.question))) != (turn.answer, "stop")
    }
    assert not wrong


def test_a_system_prompt_changes_hardly_any_answer(engine: Any, corpus: Any) -> None:
    turns = corpus.canonical()
    right = sum(
        _chat(engine, ("system", SYSTEM), ("user", turn.question)) == (turn.answer, "stop") for turn in turns
    )
    # The card names the exact figure: one answer has a misspelt word.
    assert right >= 0.99 * len(turns)


def test_suggested_questions_survive_sampling(engine: Any, corpus: Any, card: dict[str, Any]) -> None:
    """What the card offers is answered at the recommended temperature, too."""
    answers = {e.answer for e in corpus.entries}
    for question in card["suggested_questions"]:
        text, reason = _chat(engine, ("user", question), temperature=card["recommended_temperature"])
        assert text in answers, question
        assert reason == "stop"


def test_first_question_of_the_tutorial(engine: Any) -> None:
    text, _ = _chat(engine, ("user", "What is a container?"))
    assert text.startswith("A container is a normal process")


def test_off_topic_questions_are_declined(engine: Any, corpus: Any, card: dict[str, Any]) -> None:
    """Questions kept out of training; the card names the share that is declined."""
    turns = corpus.held_out_refusals()
    declined = sum(_chat(engine, ("user", t.question)) == (t.answer, "stop") for t in turns)
    named = card["quality"]["held_out_off_topic_refused"].partition("/")[0]
    # Another processor may round otherwise and tip a close decision.
    assert abs(declined - int(named)) <= 2
    assert declined >= 0.85 * len(turns)


def test_tell_me_more(engine: Any, corpus: Any) -> None:
    entry = next(e for e in corpus.entries if e.name == "container")
    text, reason = _chat(
        engine,
        ("user", entry.canonical),
        ("assistant", entry.answer),
        ("user", "Tell me more"),
    )
    assert (text, reason) == (entry.more, "stop")


def test_no_training_question_is_held_out(corpus: Any) -> None:
    """The measured quality is about questions that training never saw."""
    trained = {_plain(q) for e in corpus.entries for q in [e.canonical, *e.asked, *e.templated]}
    held_out = [*corpus.held_out(), *corpus.fresh, *corpus.held_out_refusals()]
    assert len(held_out) > 600
    assert not trained & {_plain(turn.question) for turn in held_out}


def _plain(question: str) -> str:
    return " ".join(question.lower().replace("?", " ").replace(",", " ").split())
