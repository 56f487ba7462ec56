"""The hub's models on this machine: huggingface_hub's cache, read and written as it does.

    <cache>/models--owner--repo/blobs/<sha256>            the bytes
    <cache>/models--owner--repo/snapshots/<commit>/<file> → ../../blobs/<sha256>
    <cache>/models--owner--repo/refs/main                 the newest commit
    <cache>/.locks/models--owner--repo/<sha256>.lock      held while it is fetched

A blob gets its name when it is complete, so what a snapshot leads to is whole.
huggingface_hub itself is not needed to read this, and not imported.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmlab.errors import ModelError, UsageError
from llmlab.weights import hub_names
from llmlab.weights.hub_names import HubReference
from llmlab.weights.store import Stored

SHARED = "LLMLAB_SHARED_MODELS"
INCOMPLETE = ".incomplete"
_SHA256_DIGITS = 64
_FOLDER = re.compile(r"models--(?P<owner>.+?)--(?P<repo>.+)")


def own() -> Path:
    """The user's cache of the hub, wherever the environment says now."""
    environment = os.environ
    home = environment.get("HF_HOME") or os.path.join(  # noqa: PTH118 - a text, to be expanded
        environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    found = (
        environment.get("HF_HUB_CACHE")
        or environment.get("HUGGINGFACE_HUB_CACHE")
        or os.path.join(home, "hub")  # noqa: PTH118
    )
    return Path(os.path.expandvars(found)).expanduser().absolute()


def shared() -> Path | None:
    """The cache that a class shares; None if there is none besides the user's own."""
    found = os.environ.get(SHARED)
    path = Path(os.path.expandvars(found)).expanduser().absolute() if found else None
    return path if path and path.resolve() != own().resolve() else None


def caches() -> list[Path]:
    """Where models are looked for, in this order."""
    return [path for path in (shared(), own()) if path]


def target() -> Path:
    """Where models are fetched to: the shared cache for who may write there, else the user's own."""
    path = shared()
    if path is None:
        return own()
    there = next((place for place in (path, *path.parents) if place.exists()), path)
    return path if os.access(there, os.W_OK) else own()


def folder(cache: Path, wanted: HubReference) -> Path:
    """A repository's folder."""
    return cache / f"models--{wanted.owner}--{wanted.repo}"


def find(wanted: HubReference) -> Path | None:
    """The first file of a model that is here, whole; None if it is not. No network is used."""
    for cache in caches():
        for snapshot in snapshots(folder(cache, wanted)):
            if files := hub_names.choose(hub_names.models(_names(snapshot)), wanted):
                return snapshot / files[0]
    return None


def stored() -> list[Stored]:
    """Every model of the hub that is here, whole; cheap, since nothing is opened."""
    found = []
    for cache in caches():
        with suppress(OSError):
            for path in sorted(cache.iterdir()):
                if (match := _FOLDER.fullmatch(path.name)) and path.is_dir():
                    repository = f"{match['owner']}/{match['repo']}"
                    found += _of_repository(path, repository, is_shared=cache == shared())
    return found


def _of_repository(path: Path, repository: str, *, is_shared: bool) -> list[Stored]:
    found: dict[str, Stored] = {}
    seen: set[tuple[str, ...]] = set()
    for snapshot in snapshots(path):
        there = hub_names.models(_names(snapshot))
        for names in there:
            if names in seen:
                continue
            seen.add(names)
            reference = str(hub_names.reference_of(repository, names, there))
            if reference in found:  # a file that had another name in an older revision
                reference = f"{hub_names.SCHEME}{repository}/{names[0]}"
            files = tuple(snapshot / name for name in names)
            with suppress(OSError, UsageError):
                hub_names.parse(reference)  # some other tool's folder may not be named as the hub does
                found[reference] = Stored(
                    reference=reference,
                    path=files[0],
                    files=files,
                    file_bytes=sum(file.stat().st_size for file in files),
                    source="hub",
                    shared=is_shared,
                )
    return list(found.values())


def snapshots(path: Path) -> list[Path]:
    """A repository's revisions: the one that `main` names first, then the newest."""
    main = ""
    with suppress(OSError, ValueError):
        main = (path / "refs" / "main").read_text(encoding="ascii").strip()
    try:
        found = [(each.name != main, -each.stat().st_mtime, each) for each in (path / "snapshots").iterdir()]
    except OSError:
        return []
    return [each for *_, each in sorted(found) if each.is_dir() and not each.is_symlink()]


def _names(snapshot: Path) -> list[str]:
    """A revision's files that are whole and lie in the cache."""
    found = []
    for place, _, names in os.walk(snapshot):
        for name in names:
            path = Path(place) / name
            if name.endswith(".gguf") and is_ours(path, snapshot.parent.parent):
                found.append(path.relative_to(snapshot).as_posix())
    return found


def is_ours(path: Path, repository: Path) -> bool:
    """Whether a file of a snapshot is there and does not lead out of the cache."""
    try:
        real = path.resolve(strict=True)
        # huggingface_hub ≥ 2 may keep a blob in one place for all repositories of the cache.
        inside = real.is_relative_to(repository.resolve()) or real.is_relative_to(repository.parent.resolve())
        return inside and real.is_file() and os.access(real, os.R_OK)
    except (OSError, RuntimeError):
        return False


def blob_name(path: Path) -> str | None:
    """What the hub calls the content of a snapshot's file: its sha256 (or git's sha1); None if unknown."""
    try:
        name = path.readlink().name
    except OSError:
        return None
    return name if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", name) else None


def published_sha256(path: Path) -> str | None:
    """The hash under which a file lies in a cache of the hub's; None if it lies elsewhere."""
    name = blob_name(path) if any(cache in path.parents for cache in caches()) else None
    return name if name and len(name) == _SHA256_DIGITS else None


def holding(cache: Path, wanted: HubReference, contents: dict[str, str]) -> Path | None:
    """A revision in `cache` that has all of these files with just these contents.

    Args:
        cache: The cache.
        wanted: Names the repository.
        contents: File → the hub's name of its content.
    """
    path = folder(cache, wanted)
    for snapshot in snapshots(path):
        if all(
            blob_name(snapshot / name) == blob and is_ours(snapshot / name, path)
            for name, blob in contents.items()
        ):
            return snapshot
    return None


def link(path: Path, commit: str, name: str, blob: Path) -> Path:
    """Let a revision's file lead to a blob that is whole.

    Args:
        path: The repository's folder.
        commit: The revision.
        name: The file, as the repository has it.
        blob: The blob.
    """
    entry = path / "snapshots" / commit / name
    if is_ours(entry, path) and entry.resolve() == blob.resolve():
        return entry
    make_folder(entry.parent, path.parent)
    if not entry.parent.resolve().is_relative_to(path.resolve()):
        raise ModelError(f"{entry.parent} leads out of the cache", hint=f"remove {path}")
    draft = entry.with_name(f".{entry.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    try:
        draft.symlink_to(os.path.relpath(blob, entry.parent))
    except OSError:
        # A file system without links: the file itself moves there, as huggingface_hub does it.
        blob.replace(entry)
        return entry
    draft.replace(entry)
    return entry


def set_main(path: Path, commit: str) -> None:
    """Note which revision `main` is; not doing so costs nothing but the order of `snapshots`."""
    with suppress(OSError):
        make_folder(path / "refs", path.parent)
        draft = path / "refs" / f".main.{os.getpid()}.new"
        draft.write_text(commit, encoding="ascii")
        _readable(draft, path.parent)
        draft.replace(path / "refs" / "main")


def make_folder(path: Path, cache: Path) -> None:
    """Make a folder of the cache; what a class shares is readable by all, whatever the umask."""
    if not path.is_dir():
        make_folder(path.parent, cache)
        path.mkdir(exist_ok=True)
        if path.is_relative_to(cache):
            _readable(path, cache)


def _readable(path: Path, cache: Path) -> None:
    if cache == shared():
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


def put(part: Path, blob: Path) -> None:
    """Give what was fetched and verified its final name."""
    _readable(part, blob.parent.parent.parent)
    part.replace(blob)


@contextmanager
def locked(path: Path, blob: str, *, waiting: Callable[[], None] | None) -> Iterator[bool]:
    """Hold the lock of a blob, the one that huggingface_hub takes as well.

    It ends with the process, however that ends.

    Args:
        path: The repository's folder.
        blob: The blob's name.
        waiting: Called again and again while somebody else has it; None does not wait.

    Yields:
        Whether it is held.
    """
    lock = path.parent / ".locks" / path.name / f"{blob}.lock"
    make_folder(lock.parent, path.parent)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o664)
        try:
            held = _try(descriptor)
            while not held and waiting:
                waiting()
                held = _try(descriptor)
            # Whoever had it may have removed the file: then this lock keeps nobody out.
            if held and not os.fstat(descriptor).st_nlink:
                continue
            yield held
        finally:
            os.close(descriptor)
        return


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
