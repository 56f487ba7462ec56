"""A stand-in for `vllm serve`: its options, its API, its metrics.

As vLLM does, it loads its model before it listens, and ends where it does not know an option.
Of a directory of safetensors it reads all files and checks them; what then answers is llmlab's
built-in model, since llama-server knows no such files, and its log says so.
"""

from __future__ import annotations

import argparse
import http
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmlab.testing.stand_ins import MARK, directory
from llmlab.testing.stand_ins.serving import Handler, Llama, LoadError, events, foreign, passed, serve

VERSION = f"0.28.0 ({MARK})"
# Beside the packages: where the image has it.
_BUILT_IN = Path(__file__).parents[3] / "tiny.gguf"
_FIELDS = (
    *("messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "stream_options"),
    *("logprobs", "top_logprobs", "frequency_penalty", "presence_penalty", "response_format", "ignore_eos"),
)
_PATHS = ("/v1/chat/completions", "/v1/completions")
# llama-server's metric → vLLM's, and its kind.
_METRICS = {
    "requests_processing": ("num_requests_running", "gauge"),
    "requests_deferred": ("num_requests_waiting", "gauge"),
    "prompt_tokens_total": ("prompt_tokens_total", "counter"),
    "tokens_predicted_total": ("generation_tokens_total", "counter"),
}


class _Vllm(Handler):
    llama: Llama
    model: str
    context: int

    def answer_get(self, path: str) -> None:
        if path == "/health":
            self.send_text("")
        elif path == "/version":
            self.send_json({"version": VERSION})
        elif path == "/v1/models":
            row = {"id": self.model, "object": "model", "owned_by": "vllm", "max_model_len": self.context}
            self.send_json({"object": "list", "data": [row]})
        elif path == "/metrics":
            self.send_text(self._metrics())
        else:
            self.not_found()

    def answer_post(self, path: str, body: dict[str, Any]) -> None:
        if path not in _PATHS:
            self.not_found()
            return
        if body.get("model") not in {self.model, None}:
            message = f"The model `{body['model']}` does not exist."
            self._refuse(message, "NotFoundError", http.HTTPStatus.NOT_FOUND)
            return
        with self.llama.ask("POST", path, passed(body, _FIELDS)) as answer:
            if answer.status != http.HTTPStatus.OK:
                self._refused(json.loads(answer.read()), answer.status)
            elif body.get("stream"):
                self.begin("text/event-stream")
                for event in events(answer):
                    self.write(f"data: {json.dumps(foreign(event, self.model))}\n\n")
                self.write("data: [DONE]\n\n")
            else:
                self.send_json(foreign(json.loads(answer.read()), self.model))

    def _refused(self, said: dict[str, Any], status: int) -> None:
        details = said.get("error") or {}
        message = str(details.get("message"))
        if tokens := details.get("n_prompt_tokens"):
            message = (
                f"This model's maximum context length is {self.context} tokens. However, "
                f"your request has {tokens} input tokens. Please reduce the length of the input messages."
            )
        self._refuse(message, "BadRequestError", status)

    def _refuse(self, message: str, kind: str, status: int) -> None:
        self.send_json({"error": {"message": message, "type": kind, "param": None, "code": status}}, status)

    def _metrics(self) -> str:
        lines = []
        for found in re.finditer(r"^llamacpp:(\w+) (\S+)$", self.llama.text("/metrics"), re.MULTILINE):
            if found[1] in _METRICS:
                name, kind = _METRICS[found[1]]
                labels = f'{{engine="0",model_name="{self.model}"}}'
                lines += [f"# TYPE vllm:{name} {kind}", f"vllm:{name}{labels} {float(found[2])}"]
        return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm")
    parser.add_argument("--version", action="version", version=VERSION)
    serve_ = parser.add_subparsers(required=True).add_parser("serve")
    serve_.add_argument("model")
    serve_.add_argument("--served-model-name")
    serve_.add_argument("--uds")
    serve_.add_argument("--host", default="0.0.0.0")  # noqa: S104 - vLLM's default
    serve_.add_argument("--port", type=int, default=8000)
    serve_.add_argument("--max-model-len", type=int, default=4096)
    serve_.add_argument("--max-num-seqs", type=int, default=4)
    serve_.add_argument("--kv-cache-memory-bytes", type=int)
    serve_.add_argument("--gpu-memory-utilization", type=float)
    return parser.parse_args()


def _loadable(model: Path) -> str:
    """What llama-server can load."""
    if not model.is_dir():
        return str(model)
    seen = directory.check(model)
    print(f"{MARK}: {seen} were read; {_BUILT_IN.name} answers in their place", file=sys.stderr, flush=True)  # noqa: T201 - its log
    return str(_BUILT_IN)


def main() -> None:
    """`vllm serve MODEL`, `vllm --version`."""
    options = _options()
    print(f"vLLM API server version {VERSION}", file=sys.stderr, flush=True)  # noqa: T201 - its log
    if not Path(options.model).exists():
        sys.exit(f"OSError: {options.model} is not a local folder and is not a valid model identifier")
    try:
        _Vllm.llama = Llama(
            _loadable(Path(options.model)),
            context=options.max_model_len,
            slots=options.max_num_seqs,
            threads=1,
        )
    except LoadError as error:
        sys.exit(f"RuntimeError: Engine core initialization failed. See root cause above. {error}")
    _Vllm.model = options.served_model_name or options.model
    _Vllm.context = options.max_model_len
    with suppress(KeyboardInterrupt):
        serve(_Vllm, options.uds or (options.host, options.port))
