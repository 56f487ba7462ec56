"""A stand-in for `ollama serve`: its store, its API, its environment variables.

As Ollama does, it loads a model with the first request for it, and cuts a question that is
longer than the context.
"""

from __future__ import annotations

import http
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmlab.testing.stand_ins import MARK
from llmlab.testing.stand_ins.serving import Handler, Llama, LoadError, events, foreign, passed, serve

VERSION = f"0.24.0 ({MARK})"
_FIELDS = (
    *("messages", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options"),
    *("logprobs", "top_logprobs", "frequency_penalty", "presence_penalty", "response_format"),
)
_MODEL, _PARAMETERS = "application/vnd.ollama.image.model", "application/vnd.ollama.image.params"
_CUTS = 30


def _store() -> Path:
    return Path(os.environ.get("OLLAMA_MODELS", ""))


def _models() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and manifest of each model in the store."""
    folder = _store() / "manifests"
    for path in sorted(folder.glob("*/*/*/*")):
        host, namespace, name, tag = path.relative_to(folder).parts
        front = "" if (host, namespace) == ("registry.ollama.ai", "library") else f"{namespace}/"
        yield f"{front}{name}:{tag}", json.loads(path.read_text(encoding="utf-8"))


def _find(name: str) -> tuple[str, dict[str, Any]] | None:
    wanted = name if ":" in name else f"{name}:latest"
    return next((found for found in _models() if found[0].lower() == wanted.lower()), None)


def _layer(manifest: dict[str, Any], kind: str) -> dict[str, Any] | None:
    return next((layer for layer in manifest["layers"] if layer["mediaType"] == kind), None)


def _blob(layer: dict[str, Any]) -> Path:
    path = _store() / "blobs" / str(layer["digest"]).replace(":", "-")
    if path.stat().st_size != layer["size"]:
        raise LoadError(f"{path} is not of the size that the manifest names")
    return path


class _Loaded:
    """The models that were asked for, each with its llama-server."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._models: dict[str, Llama] = {}

    def get(self, name: str, manifest: dict[str, Any]) -> Llama:
        with self._guard:
            if name not in self._models:
                self._models[name] = self._load(manifest)
            return self._models[name]

    def names(self) -> list[str]:
        return list(self._models)

    def _load(self, manifest: dict[str, Any]) -> Llama:
        weights, parameters = _layer(manifest, _MODEL), _layer(manifest, _PARAMETERS)
        if weights is None:
            raise LoadError("the manifest names no model")
        options = json.loads(_blob(parameters).read_bytes()) if parameters else {}
        return Llama(
            str(_blob(weights)),
            context=int(options.get("num_ctx") or os.environ.get("OLLAMA_CONTEXT_LENGTH") or 4096),
            slots=int(os.environ.get("OLLAMA_NUM_PARALLEL") or 1),
            threads=options.get("num_thread"),
        )


_loaded = _Loaded()


class _Ollama(Handler):
    def answer_get(self, path: str) -> None:
        if path == "/":
            self.send_text("Ollama is running")
        elif path == "/api/version":
            self.send_json({"version": VERSION})
        elif path == "/api/tags":
            self.send_json({"models": [_row(name, manifest) for name, manifest in _models()]})
        elif path == "/api/ps":
            rows = [_row(name, manifest) for name, manifest in _models() if name in _loaded.names()]
            self.send_json({"models": [{**row, "size_vram": 0} for row in rows]})
        elif path == "/v1/models":
            data = [{"id": name, "object": "model", "owned_by": "library"} for name, _ in _models()]
            self.send_json({"object": "list", "data": data})
        else:
            self.not_found()

    def answer_post(self, path: str, body: dict[str, Any]) -> None:
        if path == "/api/pull":
            self.send_json({"error": "pull model manifest: the network cannot be reached"}, 500)
            return
        if path not in {"/v1/chat/completions", "/api/chat", "/api/show"}:
            self.not_found()
            return
        asked = str(body.get("model") or "")
        found = _find(asked)
        if found is None:
            self._refuse(path, f"model '{asked}' not found", http.HTTPStatus.NOT_FOUND)
            return
        if path == "/api/show":
            self.send_json(_row(*found) | {"model_info": {}, "capabilities": ["completion"]})
            return
        try:
            llama = _loaded.get(*found)
            if path == "/api/chat":
                self._chat(llama, asked, body)
            else:
                self._complete(llama, asked, body)
        except (LoadError, FileNotFoundError) as error:
            self._refuse(path, f"llama runner process has terminated: {error}", 500)

    def _refuse(self, path: str, message: str, status: int) -> None:
        ours = {"message": message, "type": "api_error", "code": None, "param": None}
        self.send_json({"error": ours if path.startswith("/v1/") else message}, status)

    def _complete(self, llama: Llama, model: str, body: dict[str, Any]) -> None:
        """OpenAI's chat."""
        request = passed(body, _FIELDS)
        for _ in range(_CUTS):
            with llama.ask("POST", "/v1/chat/completions", request) as answer:
                if answer.status == http.HTTPStatus.OK:
                    self._pass_on(answer, model, streamed=bool(request.get("stream")))
                    return
                refused = json.loads(answer.read())
            if not _cut(request, refused):
                break
        self.send_json(refused, answer.status)

    def _pass_on(self, answer: Any, model: str, *, streamed: bool) -> None:
        if not streamed:
            self.send_json(foreign(json.loads(answer.read()), model))
            return
        self.begin("text/event-stream")
        for event in events(answer):
            self.write(f"data: {json.dumps(foreign(event, model))}\n\n")
        self.write("data: [DONE]\n\n")

    def _chat(self, llama: Llama, model: str, body: dict[str, Any]) -> None:
        """Ollama's own chat: a line of JSON for each piece."""
        options = body.get("options") or {}
        request = {"messages": body.get("messages") or [], "stream": True}
        request |= {"stream_options": {"include_usage": True}}
        request |= passed(options, ("temperature", "top_p", "seed", "stop"))
        if "num_predict" in options:
            request["max_tokens"] = options["num_predict"]
        with llama.ask("POST", "/v1/chat/completions", request) as answer:
            if answer.status != http.HTTPStatus.OK:
                self._refuse("/api/chat", answer.read().decode(), answer.status)
                return
            lines = list(_lines(answer, model)) if body.get("stream") is False else _lines(answer, model)
            if isinstance(lines, list):
                text = "".join(line["message"]["content"] for line in lines)
                self.send_json(lines[-1] | {"message": {"role": "assistant", "content": text}})
                return
            self.begin("application/x-ndjson")
            for line in lines:
                self.write(json.dumps(line) + "\n")


def _row(name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    layer = _layer(manifest, _MODEL) or {}
    return {
        "name": name,
        "model": name,
        "size": layer.get("size"),
        "digest": str(layer.get("digest", "")).removeprefix("sha256:"),
        "details": {"format": "gguf"},
    }


def _cut(request: dict[str, Any], refused: dict[str, Any]) -> bool:
    """Make a question shorter that is too long; whether that was the matter."""
    message = str((refused.get("error") or {}).get("message"))
    if "context" not in message:
        return False
    last = request["messages"][-1]
    request["messages"] = [
        *request["messages"][:-1],
        {**last, "content": last["content"][: len(last["content"]) // 2]},
    ]
    return True


def _lines(answer: Any, model: str) -> Iterator[dict[str, Any]]:
    usage: dict[str, Any] = {}
    reason, began = "stop", time.monotonic_ns()
    for event in events(answer):
        usage |= event.get("usage") or {}
        for choice in event.get("choices") or ():
            reason = choice.get("finish_reason") or reason
            if piece := (choice.get("delta") or {}).get("content"):
                yield _line(model, piece) | {"done": False}
    yield _line(model, "") | {
        "done": True,
        "done_reason": reason,
        "total_duration": time.monotonic_ns() - began,
        "prompt_eval_count": usage.get("prompt_tokens"),
        "eval_count": usage.get("completion_tokens"),
    }


def _line(model: str, content: str) -> dict[str, Any]:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"model": model, "created_at": created, "message": {"role": "assistant", "content": content}}


def main() -> None:
    """`ollama serve`, `ollama --version`."""
    if "--version" in sys.argv[1:]:
        print(f"ollama version is {VERSION}")  # noqa: T201 - that is its answer
        return
    if sys.argv[1:] != ["serve"]:
        sys.exit(f'Error: unknown command "{" ".join(sys.argv[1:])}" for "ollama"')
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition(":")
    print(f"Listening on {host}:{port} (version {VERSION})", file=sys.stderr, flush=True)  # noqa: T201 - its log
    with suppress(KeyboardInterrupt):
        serve(_Ollama, (host, int(port)))
