"""Engines: the programs that serve models. Pure: a spec becomes a command line."""

from llmlab.engines.base import (
    Engine,
    Image,
    ModelFile,
    Paths,
    engine,
    engine_names,
    image_of,
    is_parallel,
    model_files,
    notes,
    require_form,
    runs_llama_cpp,
)

__all__ = [
    "Engine",
    "Image",
    "ModelFile",
    "Paths",
    "engine",
    "engine_names",
    "image_of",
    "is_parallel",
    "model_files",
    "notes",
    "require_form",
    "runs_llama_cpp",
]
