"""Models' files against what was published of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmlab.errors import ChecksumError, ModelError
from llmlab.library.views import Verified, VerifiedFile
from llmlab.reporting import reporter
from llmlab.weights import gguf, hub_cache, store
from llmlab.weights.store import Stored

_GIT_DIGITS = 40


def verified(models: Sequence[Stored]) -> Iterator[VerifiedFile]:
    """Hash every file of some models anew, and read its header."""
    total = sum(model.file_bytes for model in models)
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        reporter().progress(done, total)

    for model in models:
        for path in model.files:
            reporter().stage("verify", path.name)
            expected = published(model, path)
            is_git = expected is not None and len(expected) == _GIT_DIGITS
            found: str | None = None
            ok: bool | None = None
            detail = "nothing to compare with"
            try:
                found = store.digest(path, "git" if is_git else "sha256", read=read)
                if expected is not None:
                    ok = found == expected
                    detail = "" if ok else f"it should be {expected}"
                gguf.read_header(path)
            except OSError as error:
                ok, detail = False, f"it cannot be read: {error.strerror or error}"
            except ModelError as error:
                ok = False
                detail = detail if expected not in {None, found} else error.message
            yield VerifiedFile(
                reference=model.reference,
                file=path.name,
                sha256=None if is_git else found,
                ok=ok,
                detail=detail,
            )


def published(model: Stored, path: Path) -> str | None:
    """The hash that a file should have: sha256, or the sha1 that git gives it; None if nobody says."""
    if model.source == "built-in":
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return str(card["sha256"])
    if model.source == "hub":
        return hub_cache.blob_name(path)
    if model.source == "ollama" and (match := re.fullmatch(r"sha256-([0-9a-f]{64})", path.name)):
        return match[1]
    return None


def require_sound(result: Verified, models: Sequence[Stored]) -> None:
    """Raise for files that are damaged.

    Raises:
        ChecksumError: With all of them, and what to do about the first.
    """
    bad = [row for row in result.rows if row.ok is False]
    if not bad:
        return
    model = next(model for model in models if model.reference == bad[0].reference)
    files = "; ".join(f"{row.file} of {row.reference}: {row.detail}" for row in bad)
    raise ChecksumError(f"damaged: {files}", hint=_remedy(model))


def _remedy(model: Stored) -> str:
    if model.source == "built-in":
        return "install llmlab again"
    if model.source == "ollama":
        name = model.reference.removeprefix("ollama:")
        return f"ollama rm {name}; ollama pull {name}"
    if model.shared:
        return f"tell whoever looks after {model.path.parent}"
    if model.source == "hub":
        return f"llmlab rm {model.reference}; llmlab pull {model.reference}"
    return f"remove it ({model.path}) and get it again"
