"""The program of the lowest rung: a model in a process of its own, with neither server nor HTTP.

It is run as a file, imports nothing of llmlab, and talks in lines of JSON: what to load
first, then one request after the other. All times are its own clock's. It ends when its
standard input does, so it does not outlive who has started it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

_MAPPED = re.compile(r"/\S*/lib(?:llama|ggml)[^/\s]*$", re.MULTILINE)
_BATCH = 2048  # llama-server's


class Model:
    """A model, set up as llama-server sets it up.

    Args:
        asked: `model` (a path), `context`, `threads`, `kv_type`.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        import llama_cpp  # noqa: PLC0415 - what it takes to import is no time to load

        self._api: Any = llama_cpp
        began = time.perf_counter()
        kv_type = getattr(llama_cpp, f"GGML_TYPE_{asked['kv_type'].upper()}")
        self._llama: Any = llama_cpp.Llama(
            asked["model"],
            n_ctx=asked["context"],
            n_batch=_BATCH,
            n_threads=asked["threads"],
            n_threads_batch=asked["threads"],
            n_gpu_layers=0,
            type_k=kv_type,
            type_v=kv_type,
            # llama-server finds out by itself that it can have it, and keeps no more of a window than it needs.
            flash_attn=True,
            swa_full=False,
            verbose=False,
        )
        self._sampler = self._greedy()
        self.complete([max(self._llama.token_bos(), 0)], 1)
        self.start_s = time.perf_counter() - began

    def complete(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        """Continue a prompt by so many tokens, the likeliest each time; nothing is kept from before."""
        llama, sample = self._llama, self._api.llama_sampler_sample
        llama.reset()
        sent = time.perf_counter()
        llama.eval(prompt)
        found = [sample(self._sampler, llama.ctx, -1)]
        first = time.perf_counter()
        for _ in range(tokens - 1):
            llama.eval(found[-1:])
            found.append(sample(self._sampler, llama.ctx, -1))
        last = time.perf_counter()
        return {"tokens": found, "ttft_s": first - sent, "total_s": last - sent}

    def _greedy(self) -> Any:
        """The likeliest token that does not end the text, as with llama-server's `ignore_eos`."""
        api = self._api
        vocab, count = api.llama_model_get_vocab(self._llama.model), self._llama.n_vocab()
        ends = [token for token in range(count) if api.llama_vocab_is_eog(vocab, token)]
        biases = (api.llama_logit_bias * len(ends))(*((token, float("-inf")) for token in ends))
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_logit_bias(count, len(ends), biases))
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_greedy())
        return chain


def libraries() -> list[str]:
    """The sha256 of each llama.cpp library that this process has mapped, by the kernel's list."""
    try:
        found = _MAPPED.findall(Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"))
        return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in sorted(set(found))]
    except OSError:
        return []


def main() -> None:
    """Load what the first line says, answer the others."""
    # What the library prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(said: dict[str, Any]) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    model = Model(json.loads(sys.stdin.readline()))
    answer({"start_s": model.start_s, "libraries": libraries()})
    for line in sys.stdin:
        asked = json.loads(line)
        answer(model.complete(asked["prompt"], asked["tokens"]))


if __name__ == "__main__":
    main()
