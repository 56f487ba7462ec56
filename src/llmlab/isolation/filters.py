"""System-call filters as files, for those who take a path and no content."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from llmlab import runtime


def filter_file(text: str) -> Path:
    """A file with this filter in the user's cache; the same filter has the same name."""
    folder = runtime.cache_dir() / "seccomp"
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(f"{path}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    return path
