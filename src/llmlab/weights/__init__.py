"""Models: what a reference names, and what a file says about itself."""

from llmlab.weights.fit import default_limit_mib, required_mib
from llmlab.weights.references import TINY, known_models, resolve

__all__ = ["TINY", "default_limit_mib", "known_models", "required_mib", "resolve"]
