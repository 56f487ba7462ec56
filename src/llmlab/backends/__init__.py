"""Backends: where servers run. Each knows how to start, find, watch and stop them."""

from llmlab.backends.base import Backend, Found, Starting, backend, backend_names

__all__ = ["Backend", "Found", "Starting", "backend", "backend_names"]
