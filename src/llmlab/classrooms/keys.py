"""A key for each learner: shown once, kept as a hash, revoked at once.

A key has 192 random bits, so that its plain SHA-256 is of no use to whoever reads the file.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmlab.classrooms.places import write_private
from llmlab.errors import MALFORMED, LabError, UnknownNameError, UsageError
from llmlab.runtime import locked
from llmlab.specs import value_of

_FORMAT = "llmlab classroom keys 1"
_FILE, _LOCK = "keys.json", "keys.lock"
_BYTES = 24
_LONGEST_NAME = 40
_MOST = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """A learner who has, or had, a key.

    Attributes:
        name: The learner's name.
        sha256: Of the key.
        made: When it was made, seconds since the epoch.
        revoked: When it was taken back, or None.
    """

    name: str
    sha256: str
    made: float
    revoked: float | None = None


def hashed(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The keys of a class, in a file; any process may change them while the room is open.

    Args:
        folder: Where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._lock = folder / _LOCK
        self._seen: tuple[int, int, int] | None = None
        self._by_hash: dict[str, Learner] = {}

    def find(self, key: str) -> Learner | None:
        """Whose key it is, revoked or not; None if nobody's. Reads the file anew if it has changed."""
        return self.find_hash(hashed(key))

    def find_hash(self, sha256: str) -> Learner | None:
        """The same, by the key's hash."""
        try:
            info = self._path.stat()
        except FileNotFoundError:
            self._seen, self._by_hash = None, {}
            return None
        seen = (info.st_ino, info.st_mtime_ns, info.st_size)
        if seen != self._seen:
            self._by_hash = {each.sha256: each for each in self.all()}
            self._seen = seen
        return self._by_hash.get(sha256)

    def all(self) -> list[Learner]:
        """All learners; who got a new key has an entry for each.

        Raises:
            LabError: If the file cannot be read.
        """
        try:
            data: Any = json.loads(self._path.read_text(encoding="utf-8"))
            if data["format"] != _FORMAT:
                raise ValueError(data["format"])
            return list(value_of(tuple[Learner, ...], data["learners"]))
        except FileNotFoundError:
            return []
        except (OSError, *MALFORMED) as error:
            raise LabError(
                f"the keys in {self._path} cannot be read",
                hint="move that file away, and make new keys: classroom keys --add NAMES",
            ) from error

    def add(self, names: Iterable[str]) -> dict[str, str]:
        """Make keys; returns them by name. They are kept nowhere else.

        Raises:
            UsageError: If a name does not fit, or has a key.
        """
        wanted = [_name(each) for each in names]
        if not wanted:
            raise UsageError("whose keys?", hint="classroom keys --add ada,grace")
        if twice := next((each for each in wanted if wanted.count(each) > 1), None):
            raise UsageError(f"{twice!r} is there twice", hint="each learner needs a name of his or her own")
        made = {name: f"llm-{secrets.token_urlsafe(_BYTES)}" for name in wanted}
        with self._changing() as learners:
            held = {each.name for each in learners if each.revoked is None}
            if taken := next((name for name in wanted if name in held), None):
                raise UsageError(
                    f"{taken!r} has a key already",
                    hint=f"it cannot be shown again; for a new one: classroom keys --revoke {taken}, then --add",
                )
            now = time.time()
            learners += [
                Learner(name=name, sha256=hashed(key), made=now) for name, key in sorted(made.items())
            ]
            if len(learners) > _MOST:
                raise UsageError(f"more than {_MOST} keys", hint="remove the file of an earlier class")
        return made

    def revoke(self, names: Iterable[str]) -> tuple[str, ...]:
        """Take keys back; returns whose.

        Raises:
            UnknownNameError: If somebody has none.
        """
        wanted = [_name(each) for each in names]
        with self._changing() as learners:
            held = [each.name for each in learners if each.revoked is None]
            for name in wanted:
                if name not in held:
                    raise UnknownNameError("learner with a key", name, held)
            now = time.time()
            learners[:] = [
                replace(each, revoked=now) if each.name in wanted and each.revoked is None else each
                for each in learners
            ]
        return tuple(wanted)

    @contextmanager
    def _changing(self) -> Iterator[list[Learner]]:
        with locked(self._lock):
            learners = self.all()
            yield learners
            data = {"format": _FORMAT, "learners": [asdict(each) for each in learners]}
            write_private(self._path, json.dumps(data, indent=1))


def _name(text: str) -> str:
    name = " ".join(text.split())
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or name[0] in "-=+@":
        raise UsageError(
            f"{text[:60]!r} is not a learner's name",
            hint=f"1 to {_LONGEST_NAME} printable characters that do not begin with - = + @",
        )
    return name
