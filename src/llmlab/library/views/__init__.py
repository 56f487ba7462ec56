"""What the verbs of the model library return.

All strings in these values may come from a file or a hub: they are untrusted,
and shown as text only. A figure that is not known is None, and drawn as "–" or
"unknown".
"""

from llmlab.library.views.base import View
from llmlab.library.views.card import ModelCard, ModelFile
from llmlab.library.views.fit import Fit, FitVerdict
from llmlab.library.views.models import ModelList, ModelRow, ModelState
from llmlab.library.views.outcomes import Pulled, Removed, Verified, VerifiedFile

__all__ = [
    "Fit",
    "FitVerdict",
    "ModelCard",
    "ModelFile",
    "ModelList",
    "ModelRow",
    "ModelState",
    "Pulled",
    "Removed",
    "Verified",
    "VerifiedFile",
    "View",
]
