"""Ollama, in its published image: `ollama serve` with one model and nothing of the user's.

Ollama finds a model by a manifest in its store, which names a model's parts by sha256. The
container gets a store with this one model: the weights where they lie, read-only, beside a
manifest that is made here. Context, threads and layers on the GPU stand in the parameters of
that manifest. Of a model of Ollama's own (`ollama:name`) the template and the other parts
come along. (Layout: ollama, `manifest/`, `server/images.go`; options: `envconfig/config.go`.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from llmlab.engines import base
from llmlab.engines.base import Image, ModelFile, Paths
from llmlab.errors import MALFORMED, UsageError
from llmlab.specs import BackendName, EngineName, ServeSpec
from llmlab.weights import ollama as store
from llmlab.weights.gguf import read_header

NAME: Final[EngineName] = "ollama"
# Run natively it is a service with a store and a key of its own, for all of a machine's users.
BACKENDS: Final[frozenset[BackendName]] = frozenset({"container"})
UNIX_SOCKETS: Final = False
HEALTH_PATH: Final = "/api/version"
METRICS: Final = False
PARALLEL: Final = True
IMAGE: Final = Image(
    name="ollama/ollama:0.24.0",
    program="/bin/ollama",
    banner=r"(?:ollama|client) version is (?P<version>.+)",
    version="/api/version",
)

_PREFIX: Final = "application/vnd.ollama.image."
_MODEL: Final = f"{_PREFIX}model"
_TEMPLATE: Final = f"{_PREFIX}template"
_PARAMETERS: Final = f"{_PREFIX}params"
# What else a model of Ollama's may have that a chat of text depends on.
_KEPT: Final = frozenset({_TEMPLATE, f"{_PREFIX}system", f"{_PREFIX}messages", f"{_PREFIX}license"})
_KV_TYPES: Final = ("f16", "q8_0", "q4_0")
# What only the template of such a model has in it → the same in Ollama's words (Go's text/template), and
# what ends an answer. Ollama reads no Jinja templates.
_TEMPLATES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "<|im_start|>": (
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "<|start_header_id|>": (
        (
            "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n"
            "{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
}
# As in `llama_server`.
_REASONS: Final = (
    ("unknown model architecture", "this Ollama does not know the model's architecture", "name a newer --image"),
    ("invalid file magic", "the model is not a GGUF file", "download it again"),
    ("requires more system memory", "Ollama reckons that there is not enough memory", "give more --memory"),
    ("address already in use", "its port in the container is taken", "look at the image"),
    ("error loading model", "Ollama could not load the model", "see the log lines above"),
)  # fmt: skip


def argv(spec: ServeSpec, paths: Paths) -> list[str]:  # noqa: ARG001 - the protocol's signature
    """The command line; what it serves, and where, stands in the environment and in the store."""
    return [str(paths.program), "serve"]


def environment(spec: ServeSpec, paths: Paths) -> dict[str, str]:
    """Environment variables.

    Raises:
        UsageError: If Ollama has no such KV cache.
    """
    if spec.kv_type not in _KV_TYPES:
        raise UsageError(
            f"Ollama has no KV cache of type {spec.kv_type}", hint=f"it has {', '.join(_KV_TYPES)}"
        )
    variables = {
        "HOME": str(paths.scratch),
        "TMPDIR": str(paths.scratch),
        "LANG": "C.UTF-8",
        "OLLAMA_HOST": f"{paths.host}:{paths.port}",
        "OLLAMA_MODELS": str(paths.model.parent),
        # Nothing goes out of the container anyhow; so it does not try.
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_NOHISTORY": "1",
        # The store is read-only, and nobody else's.
        "OLLAMA_NOPRUNE": "1",
        # A model that is put away and loaded anew would be measured with the next question.
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_NUM_PARALLEL": str(spec.slots),
        "OLLAMA_CONTEXT_LENGTH": str(spec.context),
    }
    if spec.kv_type != "f16":
        # llama.cpp has a quantised V cache with flash attention only.
        variables |= {"OLLAMA_KV_CACHE_TYPE": spec.kv_type, "OLLAMA_FLASH_ATTENTION": "1"}
    return variables


def model_files(spec: ServeSpec) -> Iterator[ModelFile]:
    """The store: a manifest, and what it names.

    Raises:
        UsageError: If the model is in several files.
        ModelError: If a model of Ollama's own cannot be read.
    """
    model = spec.model
    if len(model.files) > 1:
        raise UsageError(
            f"Ollama takes models of one file, and {model.name} has {len(model.files)}",
            hint="use --engine llama-server",
        )
    weights = {"mediaType": _MODEL, "digest": f"sha256:{model.sha256}", "size": model.file_bytes}
    layers = [weights]
    yield ModelFile(_blob(weights), model.path)
    for kind, content in _parts(spec):
        layer = _described(kind, content)
        layers.append(layer)
        yield ModelFile(_blob(layer), content)
    config = _json(
        {
            "model_format": "gguf",
            "model_family": model.architecture,
            "model_families": [model.architecture],
            "file_type": model.quantisation,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
    )
    described = _described("application/vnd.docker.container.image.v1+json", config)
    yield ModelFile(_blob(described), config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": described,
        "layers": layers,
    }
    yield ModelFile(f"manifests/registry.ollama.ai/library/{model.name}/latest", _json(manifest))


def notes(spec: ServeSpec) -> Iterator[str]:
    """What the user should know: what Ollama does in another way than llama-server."""
    yield "Ollama cuts a conversation that is longer than the context, without a word"
    if not any(kind == _TEMPLATE for kind, _ in _parts(spec)):
        yield (
            f"Ollama reads no Jinja templates, and llmlab has none in its words for {spec.model.name}: "
            "the model gets the question as it is"
        )


def offloaded(log: Sequence[str]) -> tuple[int, int] | None:
    """Layers that it has put onto a GPU, and how many there are; None if its log does not say."""
    return base.offloaded(log)


def explain(log: Sequence[str]) -> tuple[str, str] | None:
    """Why a start failed: (reason, hint), or None if the log does not tell."""
    text = "\n".join(log).lower()
    return next(((reason, hint) for phrase, reason, hint in _REASONS if phrase in text), None)


def _parts(spec: ServeSpec) -> list[tuple[str, bytes]]:
    """Kind and content of what a model has besides its weights; the parameters last."""
    if spec.model.reference.startswith(store.SCHEME):
        found = store.parts(spec.model.reference)
    else:
        found = list(_own_parts(spec.model.path))
    parameters: dict[str, Any] = {}
    for kind, content in found:
        if kind == _PARAMETERS:
            # What the user asks for here goes before it, and it may be anything.
            with suppress(*MALFORMED):
                parameters |= json.loads(content)
    parameters |= {"num_ctx": spec.context, "num_gpu": spec.gpu_layers, "num_thread": spec.threads}
    kept = [(kind, content) for kind, content in found if kind in _KEPT]
    return [*kept, (_PARAMETERS, _json(parameters))]


def _own_parts(path: Path) -> Iterator[tuple[str, bytes]]:
    """Those of a GGUF file that is not Ollama's, by its chat template."""
    jinja = str(read_header(path).metadata.get("tokenizer.chat_template") or "")
    for mark, (template, stops) in _TEMPLATES.items():
        if mark in jinja:
            yield _TEMPLATE, template.encode()
            yield _PARAMETERS, _json({"stop": stops})
            return


def _described(kind: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def _blob(layer: Mapping[str, Any]) -> str:
    return "blobs/" + str(layer["digest"]).replace(":", "-")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
