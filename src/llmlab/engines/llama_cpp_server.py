"""Launch llama-cpp-python's server on a unix socket (`python -m` this module).

What it adds are exact requests, for measuring: those with the header `EXACT` continue a
prompt as llama-server does for `ignore_eos` and `cache_prompt: false`. All else is the
server's own: routes, tokenising, computing, streaming.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from llmlab.client.completing import EXACT

_exact: ContextVar[bool] = ContextVar("exact", default=False)


class Marked:
    """Middleware that notes which requests are exact ones, for the threads that work on them.

    Args:
        app: The application behind it.
    """

    def __init__(self, app: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        _exact.set(any(name == EXACT.encode() for name, _ in scope.get("headers", ())))
        await self._app(scope, receive, send)


def exact(llama_cpp: Any, chain: Callable[[], Any]) -> Any:
    """The class `Llama`, with exact requests.

    Args:
        llama_cpp: The module.
        chain: Its class of sampler chains.
    """

    # mypy takes it for one of Any.
    class Exact(llama_cpp.Llama):  # type: ignore[misc]
        """One request after the other: the server has a lock."""

        _read = 0
        _found: Sequence[int] = ()
        _biases: Mapping[int, float] = MappingProxyType({})

        def generate(self, tokens: Sequence[int], **options: Any) -> Any:
            """The generated tokens, one by one; exact ones are noted."""
            made = super().generate(tokens, **options)
            if not _exact.get():
                return made
            # With nothing in it there is no prefix of an earlier prompt to reuse.
            self.reset()
            self._read, self._found = len(tokens), []
            return _noted(made, self._found)

        def _init_sampler(self, **options: Any) -> Any:
            """The likeliest token that does not end the text."""
            if not _exact.get():
                return super()._init_sampler(**options)
            # Asking about each token of a vocabulary takes some 50 ms: once, in the first such request.
            self._biases = self._biases or dict.fromkeys(_ends(llama_cpp, self), float("-inf"))
            made = chain()
            # A bias asked for by API goes through Python for each token, which costs one in twenty of them.
            made.add_logit_bias(self.n_vocab(), self._biases)
            made.add_greedy()
            return made

        def _create_completion(self, *given: Any, **options: Any) -> Iterator[dict[str, Any]]:
            """The server's events; exact ones tell how far it is, the last one which tokens they were."""
            for event in super()._create_completion(*given, **options):
                yield {**event, **_told(event, self._found, self._read)} if _exact.get() else event

    return Exact


def _ends(llama_cpp: Any, llama: Any) -> list[int]:
    """The tokens that end a text."""
    vocab = llama._model.vocab  # noqa: SLF001 - there is no other way to it
    return [token for token in range(llama.n_vocab()) if llama_cpp.llama_vocab_is_eog(vocab, token)]


def _noted(made: Iterable[int], into: list[int]) -> Iterator[int]:
    for token in made:
        into.append(token)
        yield token


def _told(event: Mapping[str, Any], found: Sequence[int], read: int) -> dict[str, Any]:
    """What an event tells besides, in llama-server's words."""
    told: dict[str, Any] = {"tokens_predicted": len(found)}
    if event["choices"][0]["finish_reason"]:
        told |= {"tokens": list(found), "tokens_evaluated": read}
    return told


def main() -> None:
    """Read the options, load the model, serve until told to stop."""
    parser = argparse.ArgumentParser(prog="llama_cpp_server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--socket")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--kv-type", required=True)
    parser.add_argument("--gpu-layers", type=int, required=True)
    options = parser.parse_args()

    import llama_cpp  # noqa: PLC0415 - as below
    import uvicorn  # noqa: PLC0415 - a wrong option is told before a second of imports
    from llama_cpp._internals import LlamaSampler  # noqa: PLC0415
    from llama_cpp.server.app import create_app  # noqa: PLC0415
    from llama_cpp.server.settings import ModelSettings, ServerSettings  # noqa: PLC0415

    module: Any = llama_cpp
    module.Llama = exact(llama_cpp, LlamaSampler)
    kv_type = getattr(llama_cpp, f"GGML_TYPE_{options.kv_type.upper()}")
    app = create_app(
        # By default a new request cuts the running one short, without an error.
        server_settings=ServerSettings(interrupt_requests=False),
        model_settings=[
            ModelSettings(
                model=options.model,
                model_alias=options.alias,
                n_ctx=options.context,
                n_threads=options.threads,
                n_threads_batch=options.threads,
                n_gpu_layers=options.gpu_layers,
                type_k=kv_type,
                type_v=kv_type,
                # As llama-server finds out by itself; without it, the same weights round otherwise.
                flash_attn=True,
            )
        ],
    )
    app.add_middleware(Marked)
    where = {"uds": options.socket} if options.socket else {"host": options.host, "port": options.port}
    uvicorn.run(app, **where, log_level="info")


if __name__ == "__main__":
    main()
