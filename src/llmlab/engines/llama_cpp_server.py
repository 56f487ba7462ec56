"""Launch llama-cpp-python's server on a unix socket (`python -m` this module)."""

from __future__ import annotations

import argparse


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
    options = parser.parse_args()

    import llama_cpp  # noqa: PLC0415 - as below
    import uvicorn  # noqa: PLC0415 - a wrong option is told before a second of imports
    from llama_cpp.server.app import create_app  # noqa: PLC0415
    from llama_cpp.server.settings import ModelSettings, ServerSettings  # noqa: PLC0415

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
                n_gpu_layers=0,
                type_k=kv_type,
                type_v=kv_type,
                # llama.cpp has a quantised V cache with flash attention only.
                flash_attn=options.kv_type not in {"f16", "f32"},
            )
        ],
    )
    where = {"uds": options.socket} if options.socket else {"host": options.host, "port": options.port}
    uvicorn.run(app, **where, log_level="info")


if __name__ == "__main__":
    main()
