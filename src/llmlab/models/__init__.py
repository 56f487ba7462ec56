"""Models: what a reference names, and what a file says about itself."""

from llmlab.models.fit import default_limit_mib, required_mib
from llmlab.models.references import TINY, known_models, resolve

__all__ = ["TINY", "default_limit_mib", "known_models", "required_mib", "resolve"]
