"""llama-cpp-python inside this process: no server, no HTTP. The one door to `llama_cpp`.

For comparisons (what does a server cost?) and for machines without anything
else. There is no isolation: the model's chat template runs in this process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmlab.errors import ContextError, EngineMissingError, RequestError
from llmlab.prompts import neutralise
from llmlab.results import Answer
from llmlab.specs import ServeSpec


class InProcess:
    """A model loaded into this process.

    Answers one question at a time: a lock makes others wait.

    Args:
        spec: What to load; `slots` is not used.
        library_dir: Directory of the llama.cpp libraries, None for those that
            came with llama-cpp-python. Has an effect on the first load only,
            because a library cannot be loaded twice.

    Raises:
        EngineMissingError: If llama-cpp-python is not installed, or finds no library.
    """

    def __init__(self, spec: ServeSpec, *, library_dir: Path | None = None) -> None:
        if library_dir:
            os.environ.setdefault("LLAMA_CPP_LIB_PATH", str(library_dir))
        try:
            import llama_cpp  # noqa: PLC0415 - a second of imports, and optional
        except (ImportError, OSError, RuntimeError, FileNotFoundError) as error:
            raise EngineMissingError(
                f"llama-cpp-python cannot be loaded: {error}", hint="pip install 'llmlab[llama]'"
            ) from error
        self._lock = threading.Lock()
        self._name = f"{spec.model.name} in process"
        self._control_tokens = spec.model.control_tokens
        kv_type = getattr(llama_cpp, f"GGML_TYPE_{spec.kv_type.upper()}")
        self._llama: Any = llama_cpp.Llama(
            str(spec.model.path),
            n_ctx=spec.context,
            n_threads=spec.threads,
            n_threads_batch=spec.threads,
            n_gpu_layers=0,
            type_k=kv_type,
            type_v=kv_type,
            # llama.cpp has a quantised V cache with flash attention only.
            flash_attn=spec.kv_type not in {"f16", "f32"},
            verbose=False,
        )

    def ask(
        self,
        prompt: str,
        *,
        system: str = "",
        max_tokens: int = 512,
        temperature: float = 0.2,
        seed: int | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Ask the model; the same figures as a server's answer, measured in this process.

        Args:
            prompt: What to ask.
            system: Instructions that stand before it.
            max_tokens: Most tokens to generate.
            temperature: 0 picks the likeliest token each time.
            seed: Seed of the random choice.
            on_text: Called with each piece of text.

        Raises:
            ContextError: If the prompt is longer than the context.
            RequestError: If llama-cpp-python refuses the request.
        """
        (prompt, found), (system, found_too) = (
            neutralise(text, self._control_tokens) for text in (prompt, system)
        )
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        pieces: list[str] = []
        first = last = None
        reason = ""
        with self._lock:
            sent = time.perf_counter()
            try:
                stream = self._llama.create_chat_completion(
                    messages, max_tokens=max_tokens, temperature=temperature, seed=seed, stream=True
                )
                for event in stream:
                    choice = event["choices"][0]
                    if piece := choice["delta"].get("content"):
                        last = time.perf_counter()
                        first = first or last
                        pieces.append(piece)
                        if on_text:
                            on_text(piece)
                    reason = choice.get("finish_reason") or reason
            except ValueError as error:
                if "context window" in str(error):
                    raise ContextError(
                        f"the prompt is too long: {error}", hint="use a larger context"
                    ) from error
                raise RequestError(f"llama-cpp-python refused the request: {error}") from error
            text = "".join(pieces)
            completion = len(self._llama.tokenize(text.encode(), add_bos=False, special=False))
        rate = (completion - 1) / (last - first) if first and last and last > first else None
        return Answer(
            text=text,
            server=self._name,
            finish_reason=reason,
            ttft_s=None if first is None else first - sent,
            total_s=(last or time.perf_counter()) - sent,
            prompt_tokens=None,
            completion_tokens=completion,
            tokens_per_s=rate,
            client_tokens_per_s=rate,
            neutralised=tuple(dict.fromkeys(found + found_too)),
        )

    def close(self) -> None:
        """Free the model."""
        self._llama.close()
