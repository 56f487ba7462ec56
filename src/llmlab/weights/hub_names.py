"""References to models on the hub, and which of a repository's files they mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from llmlab.errors import UsageError

SCHEME = "hf:"
# What llama.cpp's `-hf` looks for when no quantisation is named, in this order.
DEFAULT_QUANTS = ("Q4_K_M", "Q4_0", "Q8_0")
_FORMS = "hf:owner/repo, hf:owner/repo:Q4_K_M or hf:owner/repo/file.gguf"
# The hub's own rule: letters, digits, `-`, `_` and `.`, neither `--` nor `..`, at most 96.
_NAME = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_QUANT = re.compile(r"[A-Za-z0-9_-]{1,40}")
_SHARD = re.compile(r"(?P<base>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MOST_SHARDS = 1000
_MOST_SHOWN = 20
_QUANT_IN_NAME = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d(?:_[A-Z0-9]+)*|TQ\d_\d|MXFP4(?:_MOE)?|NVFP4|BF16|F16|F32))(?=[-./])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class HubReference:
    """A model on the hub.

    Attributes:
        owner: Who published it.
        repo: The repository.
        quant: The quantisation, part of a file's name; None leaves the choice.
        file: One file of the repository; None where `quant` decides.
    """

    owner: str
    repo: str
    quant: str | None = None
    file: str | None = None

    @property
    def repository(self) -> str:
        """`owner/repo`, as the hub has it."""
        return f"{self.owner}/{self.repo}"

    def __str__(self) -> str:
        """The reference as it is typed."""
        if self.file:
            return f"{SCHEME}{self.repository}/{self.file}"
        return f"{SCHEME}{self.repository}" + (f":{self.quant}" if self.quant else "")


def parse(text: str) -> HubReference:
    """Read a reference.

    Args:
        text: `hf:owner/repo`, `hf:owner/repo:QUANT` or `hf:owner/repo/file.gguf`,
            where the file may lie in folders.

    Raises:
        UsageError: If it is none of these.
    """
    body = text.removeprefix(SCHEME)
    if "://" in body:
        raise UsageError(f"{text!r} is an address, not a reference", hint=f"write {_FORMS}")
    owner, _, rest = body.partition("/")
    repo, slash, file = rest.partition("/")
    repo, colon, quant = (repo, "", "") if slash else repo.partition(":")
    if not _NAME.fullmatch(owner) or not _NAME.fullmatch(repo) or not text.startswith(SCHEME):
        raise UsageError(f"{text!r} does not name a repository of the hub", hint=f"write {_FORMS}")
    if slash and not (is_safe(file) and file.endswith(".gguf")):
        raise UsageError(f"{text!r} does not name a .gguf file", hint=f"write {_FORMS}")
    if colon and not _QUANT.fullmatch(quant):
        raise UsageError(f"{text!r} does not name a quantisation", hint=f"write {_FORMS}")
    return HubReference(owner, repo, quant or None, file or None)


def is_safe(name: str) -> bool:
    """Whether a repository's file name stays inside a folder that it is appended to."""
    parts = name.split("/")
    return (
        all(part not in {"", ".", ".."} for part in parts)
        and name.isprintable()
        and not set(name) & set('\\:*?"<>|')
    )


def quant_of(name: str) -> str | None:
    """The quantisation that a file's name tells, as `Q4_K_M`; None if it does not."""
    found = _QUANT_IN_NAME.findall(name)
    return str(found[-1]).upper() if found else None


def shards(name: str) -> tuple[str, ...]:
    """The files of the model that a file belongs to, in order: its name says how many there are."""
    split = _SHARD.fullmatch(name)
    if not split:
        return (name,)
    # A count that nobody can have is no list that anybody should make.
    count = min(int(split["count"]), _MOST_SHARDS)
    return tuple(f"{split['base']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))


def models(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The models among a repository's files, each with all of its files in order.

    What accompanies models is left out: projectors for images (`mmproj`) and
    importance matrices. So are split models that lack a file.
    """
    there = set(names)
    found = []
    for name in sorted(there, key=lambda name: (len(name), name)):
        last = name.rpartition("/")[2].lower()
        if not last.endswith(".gguf") or "mmproj" in last or "imatrix" in last:
            continue
        files = shards(name)
        if files[0] == name and there.issuperset(files):
            found.append(files)
    return found


def choose(found: list[tuple[str, ...]], wanted: HubReference) -> tuple[str, ...] | None:
    """The model that a reference means; None if it is not there.

    Args:
        found: What `models` returned: shorter names first.
        wanted: The reference.
    """
    if wanted.file:
        return next((files for files in found if wanted.file in files), None)
    if wanted.quant:
        return _of_quant(found, wanted.quant)
    for quant in DEFAULT_QUANTS:
        if files := _of_quant(found, quant):
            return files
    return found[0] if found else None


def _of_quant(found: list[tuple[str, ...]], quant: str) -> tuple[str, ...] | None:
    pattern = re.compile(rf"(?:^|[-._/]){re.escape(quant)}(?=[-./])", re.IGNORECASE)
    # A quantisation of that very name goes before one that ends in it (UD-Q4_K_M).
    matching = [files for files in found if pattern.search(files[0])]
    exact = [files for files in matching if quant_of(files[0]) == quant.upper()]
    return next(iter(exact or matching), None)


def reference_of(repository: str, files: tuple[str, ...], found: list[tuple[str, ...]]) -> HubReference:
    """The shortest reference that means this model and no other of the repository."""
    owner, _, repo = repository.partition("/")
    quant = quant_of(files[0])
    if quant and choose(found, short := HubReference(owner, repo, quant)) == files:
        return short
    return HubReference(owner, repo, None, files[0])


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: the nearest of the known names, and what there is."""
    names = sorted(set(known))
    lower = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.5)
    shown = ", ".join(names[:_MOST_SHOWN]) + (
        f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    )
    guess = f"did you mean {lower[near[0]]}? " if near else ""
    return f"{guess}there is {shown}" if names else "there is none"
