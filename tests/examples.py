"""Values for tests: models, their views and a server's record, of files that need not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmlab.library.views import (
    Fit,
    ModelCard,
    ModelFile,
    ModelList,
    ModelRow,
    Pulled,
    Verified,
    VerifiedFile,
)
from llmlab.specs import Endpoint, Limits, Model, Process, Record, ServeSpec


def model(**changes: Any) -> Model:
    """A model of 3 MiB."""
    values: dict[str, Any] = {
        "reference": "./m.gguf",
        "name": "m",
        "path": Path("/models/m.gguf"),
        "files": (Path("/models/m.gguf"),),
        "file_bytes": 3 * 1024 * 1024,
        "sha256": "00" * 32,
        "architecture": "llama",
        "parameters": 2_900_000,
        "quantisation": "Q8_0",
        "synthetic": False,
        "n_vocab": 2048,
        "context_train": 1024,
    }
    return Model(**{**values, **changes})


def spec(**changes: Any) -> ServeSpec:
    """What is asked of an engine."""
    values: dict[str, Any] = {
        "model": model(),
        "engine": "llama-server",
        "context": 1024,
        "slots": 4,
        "threads": 1,
    }
    return ServeSpec(**{**values, **changes})


def record(*, pid: int | None = None, **changes: Any) -> Record:
    """A native server's record."""
    values: dict[str, Any] = {
        "name": "a",
        "backend": "native",
        "spec": spec(),
        "endpoint": Endpoint(socket=Path("/run/a/socket/llm.sock")),
        "created": 1_700_000_000.0,
        "process": Process(pid=pid, start="boot:1:2") if pid else None,
        "argv": ("llama-server", "--model", "/models/m.gguf"),
        "limits": Limits(memory_mib=512, cpus=2.0),
    }
    return Record(**{**values, **changes})


GIB = 1024
"""MiB in a GiB."""


def fit(**changes: Any) -> Fit:
    """What a model of 8 B needs on a machine with 12 GiB available."""
    values: dict[str, Any] = {
        "fits": "fits",
        "required_mib": 6350,
        "resident_mib": 9950,
        "available_mib": 12 * GIB,
        "parts": {"weights": 4690, "repacked weights": 3600, "KV cache": 1024, "compute": 567, "program": 69},
        "context": 2048,
        "slots": 4,
        "kv_type": "f16",
        "decode_tokens_per_s": 7.4,
        "prefill_tokens_per_s": 31.0,
        "bound": "memory",
    }
    return Fit(**{**values, **changes})


def model_row(**changes: Any) -> ModelRow:
    """A model of the catalog."""
    values: dict[str, Any] = {
        "name": "llama-3.1-8b",
        "reference": "hf:example/Llama-3.1-8B-Instruct-GGUF:Q4_K_M",
        "state": "not here",
        "parameters": 8_030_261_248,
        "quantisation": "Q4_K_M",
        "file_bytes": 4_920_734_272,
        "context_train": 131_072,
        "licence": "llama3.1",
        "good_for": "longer answers, several languages",
        "fit": fit(),
    }
    return ModelRow(**{**values, **changes})


def unknown_model_row(name: str = "./mine.gguf") -> ModelRow:
    """A model of which nothing is known but that it is there."""
    return model_row(
        name=name,
        reference=name,
        state="here",
        parameters=None,
        quantisation=None,
        file_bytes=None,
        context_train=None,
        licence=None,
        good_for="",
        fit=None,
    )


def model_list(**changes: Any) -> ModelList:
    """Models from tiny to one that is far too big, with what was measured."""
    small = {"repacked weights": 0, "compute": 12, "program": 64}
    rows = (
        model_row(
            name="tiny",
            reference="tiny",
            state="built-in",
            parameters=3_400_000,
            quantisation="Q8_0",
            file_bytes=3_700_000,
            context_train=1024,
            licence="MIT",
            good_for="first steps: is in the package and answers at once",
            fit=fit(
                required_mib=88,
                resident_mib=88,
                parts={"weights": 4, "KV cache": 8, **small},
                context=1024,
                decode_tokens_per_s=1450.0,
                prefill_tokens_per_s=None,
            ),
        ),
        model_row(
            name="qwen2.5-0.5b",
            reference="hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_0",
            state="here",
            parameters=494_032_768,
            quantisation="Q4_0",
            file_bytes=428_730_208,
            context_train=32_768,
            licence="apache-2.0",
            good_for="quick answers on any machine",
            fit=fit(
                required_mib=870,
                resident_mib=1120,
                parts={
                    "weights": 409,
                    "repacked weights": 250,
                    "KV cache": 96,
                    "compute": 301,
                    "program": 64,
                },
                decode_tokens_per_s=48.2,
            ),
        ),
        model_row(
            name="synthetic:llama-3.1-8b:Q4_0",
            reference="synthetic:llama-3.1-8b:Q4_0",
            state="here",
            quantisation="Q4_0",
            file_bytes=4_661_211_808,
            licence=None,
            synthetic=True,
            good_for="measuring before downloading",
            fit=fit(
                fits="tight",
                required_mib=9_850,
                resident_mib=13_750,
                parts={
                    "weights": 4445,
                    "repacked weights": 3900,
                    "KV cache": 4096,
                    "compute": 1245,
                    "program": 64,
                },
                context=8192,
                advice="--context 2048 --slots 4 would fit",
            ),
        ),
        model_row(),
        model_row(
            name="qwen2.5-14b",
            reference="hf:Qwen/Qwen2.5-14B-Instruct-GGUF:Q4_K_M",
            parameters=14_770_033_664,
            file_bytes=8_988_110_976,
            licence="apache-2.0",
            good_for="code",
            fit=fit(
                fits="too big",
                required_mib=14_400,
                resident_mib=20_400,
                parts={"weights": 8572, "repacked weights": 6000, "KV cache": 4636, "compute": 1128, "program": 64},
                decode_tokens_per_s=1.24,
                advice="--context 512 would fit",
            ),
        ),
        model_row(
            name="llama-3.3-70b",
            reference="hf:example/Llama-3.3-70B-Instruct-GGUF:Q4_K_M",
            parameters=70_553_706_496,
            file_bytes=42_520_395_584,
            licence="llama3.3",
            good_for="what a large model does better",
            fit=fit(
                fits="too big",
                required_mib=46_500,
                resident_mib=46_500,
                parts={"weights": 40_550, "repacked weights": 0, "KV cache": 2560, "compute": 3326, "program": 64},
                decode_tokens_per_s=0.26,
                advice="use a smaller model",
            ),
        ),
        unknown_model_row(),
    )  # fmt: skip
    values: dict[str, Any] = {
        "models": rows,
        "machine": {
            "total_mib": 15_900,
            "available_mib": 12 * GIB,
            "cpus": 2,
            "gpus": [],
            "read_bandwidth_gb_per_s": 11.3,
        },
        "error": {
            "starts": 12,
            "memory_median": 0.04,
            "memory_worst": -0.09,
            "rate_median": -0.12,
            "rate_worst": -0.21,
        },
        "checked": "2026-11-20",
    }
    return ModelList(**{**values, **changes})


CHAT_TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


def model_card(**changes: Any) -> ModelCard:
    """Everything about one model."""
    values: dict[str, Any] = {
        "row": model_row(state="here"),
        "title": "Llama 3.1 8B Instruct",
        "path": Path("/models/hub/Llama-3.1-8B-Instruct-Q4_K_M.gguf"),
        "architecture": "llama",
        "shape": {
            "layers": 32,
            "width": 4096,
            "feed-forward width": 14_336,
            "attention heads": 32,
            "KV heads": 8,
            "key length": 128,
            "value length": 128,
            "vocabulary": 128_256,
            "output layer": "of its own",
        },
        "tokenizer": {
            "kind": "gpt2",
            "splitting": "llama-bpe",
            "tokens": 128_256,
            "merges": 280_147,
            "control tokens": 256,
            "begin token": 128_000,
            "end token": None,
        },
        "chat_template": CHAT_TEMPLATE,
        "tensor_bytes": {"Q4_K": 3_775_733_760, "Q6_K": 1_142_620_160, "F32": 1_065_216},
        "files": (ModelFile(name="Llama-3.1-8B-Instruct-Q4_K_M.gguf", file_bytes=4_920_734_272, sha256="7b" * 32),),
    }  # fmt: skip
    return ModelCard(**{**values, **changes})


def pulled(**changes: Any) -> Pulled:
    """A model that was downloaded."""
    values: dict[str, Any] = {
        "reference": "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_0",
        "path": Path("/models/hub/qwen2.5-0.5b-instruct-q4_0.gguf"),
        "file_bytes": 428_730_208,
        "sha256": "7b" * 32,
        "seconds": 12.6,
        "downloaded_bytes": 428_730_208,
    }
    return Pulled(**{**values, **changes})


def verified(**changes: Any) -> Verified:
    """One file as it should be, one damaged, one that cannot be compared."""
    rows = (
        VerifiedFile(reference="hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_0", file="qwen2.5-0.5b-instruct-q4_0.gguf", sha256="7b" * 32, ok=True),
        VerifiedFile(reference="tiny", file="tiny.gguf", sha256="00" * 32, ok=False, detail="published: 7b7b7b7b7b7b; pull it again"),
        VerifiedFile(reference="./mine.gguf", file="mine.gguf", sha256=None, ok=None, detail="cannot be read: permission denied"),
    )  # fmt: skip
    return Verified(**{"rows": rows, **changes})
