"""Engines: the programs that serve models. Pure: a spec becomes a command line."""

from llmlab.engines.base import Engine, Paths, engine, engine_names, is_built_in

__all__ = ["Engine", "Paths", "engine", "engine_names", "is_built_in"]
