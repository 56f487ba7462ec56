"""Learners' progress in the lessons, as far as they send it themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from llmlab.classrooms.places import write_private
from llmlab.classrooms.refusals import Refusal
from llmlab.workshop.progress_views import Learner
from llmlab.workshop.progressing import learner_of

LONGEST_BYTES = 1 << 20


class Handed:
    """What learners have sent, one file for each.

    Args:
        folder: Where the files are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "progress"

    def take(self, name: str, raw: bytes) -> None:
        """Keep what a learner sends, under the name that the key has.

        Raises:
            Refusal: If it is no progress.
        """
        try:
            data: Any = json.loads(raw)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict) or learner_of(data, name) is None:
            raise Refusal(400, "this is no progress of this version of llmlab", "bad_request")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
        write_private(path, json.dumps({**data, "name": name}))

    def all(self) -> list[Learner]:
        """What was sent, by name."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(data, dict) and (learner := learner_of(data, path.stem)):
                found.append(learner)
        return sorted(found, key=lambda each: each.name)

    def names(self) -> list[str]:
        """Who has sent something."""
        return [each.name for each in self.all()]
