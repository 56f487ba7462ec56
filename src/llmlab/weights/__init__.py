"""Models: what a reference names, what a file says about itself, what it will need."""

from llmlab.weights.references import foresee, known_models, resolve
from llmlab.weights.store import TINY

__all__ = ["TINY", "foresee", "known_models", "resolve"]
