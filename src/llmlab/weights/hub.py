"""Models of the hub: what a reference means, whether it is here, fetching it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmlab.errors import AccessError, HubError, ModelNotFoundError
from llmlab.reporting import reporter
from llmlab.weights import hub_cache, hub_download, hub_headers, hub_http, hub_names, store
from llmlab.weights.hub_cache import find, stored
from llmlab.weights.hub_http import HubFile
from llmlab.weights.hub_names import HubReference, parse

__all__ = [
    "Fetched",
    "HubFile",
    "HubReference",
    "Offer",
    "fetch",
    "find",
    "headers",
    "offer",
    "parse",
    "pull",
    "stored",
]


@dataclass(frozen=True, slots=True)
class Offer:
    """What the hub has for a reference.

    Attributes:
        reference: The reference.
        commit: The repository's revision.
        files: The model's files: one, or all shards in order.
    """

    reference: HubReference
    commit: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def offer(wanted: HubReference) -> Offer:
    """Ask the hub which files a reference means.

    Raises:
        ModelNotFoundError: If there is no such repository, quantisation or file.
        AccessError: If the hub wants to know who asks.
        HubError: If it does not answer, or not as it should, or the environment
            forbids the network.
    """
    if hub_http.offline():
        raise HubError(
            f"{wanted} is not asked for: HF_HUB_OFFLINE is set",
            hint="unset it, or use a model that is here (`llmlab models`)",
        )
    commit, files = hub_http.listing(wanted)
    by_name = {file.name: file for file in files}
    models = hub_names.models(by_name)
    chosen = hub_names.choose(models, wanted)
    if chosen is None:
        raise _nothing(wanted, models, by_name)
    return Offer(wanted, commit, tuple(by_name[name] for name in chosen))


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model that is here now.

    Attributes:
        path: Its first file, under the name that the repository gives it.
        file_bytes: Size of all files.
        downloaded_bytes: What came over the network for it.
        sha256: The first file's hash as the hub has published it; None if it has not.
    """

    path: Path
    file_bytes: int
    downloaded_bytes: int
    sha256: str | None


def fetch(wanted: HubReference) -> Path:
    """Like `pull`, for who needs only the first file."""
    return pull(wanted).path


def pull(wanted: HubReference) -> Fetched:
    """Get a model's files, and return when they are here, whole and verified.

    What is here already is not fetched again, also not the part of a file that
    an interrupted pull has left.

    Raises:
        ModelNotFoundError: If the hub does not have it.
        AccessError: If the hub wants to know who asks.
        HubError: If the hub cannot be reached, or does not answer as it should.
        ChecksumError: If what came is not what the hub has published.
        DiskSpaceError: If there is no room for it; nothing was fetched then.
    """
    reporter().stage("pull", f"asking the hub for {wanted}")
    try:
        found = offer(wanted)
    except (AccessError, ModelNotFoundError):
        raise
    except HubError as error:
        path = hub_cache.find(wanted)
        if path is None:
            raise
        reporter().note(f"{error.message}; using the {path.name} that is here.")
        return _here(path, found=None)
    contents = {file.name: file.blob for file in found.files}
    target = hub_cache.target()
    # A teacher who can write to the shared cache wants it there, wherever else it may be.
    for cache in [target] if target == hub_cache.shared() else hub_cache.caches():
        if snapshot := hub_cache.holding(cache, wanted, contents):
            if cache == target:
                hub_cache.set_main(hub_cache.folder(cache, wanted), found.commit)
            return _here(snapshot / found.files[0].name, found)
    return _get(found, hub_cache.folder(target, wanted))


def headers(wanted: HubReference) -> tuple[Path, ...]:
    """The headers of a model's files, for who wants to know it before it is fetched.

    Returns:
        Files for `gguf.read_header(…, complete=False)`, in order; no models.

    Raises:
        ModelError: As `pull` does.
    """
    found = offer(wanted)
    return tuple(hub_headers.fetch(wanted, found.commit, file) for file in found.files)


def _here(path: Path, found: Offer | None) -> Fetched:
    names = hub_names.shards(path.name)
    size = found.size if found else sum(path.with_name(name).stat().st_size for name in names)
    return Fetched(path, size, 0, hub_cache.published_sha256(path))


def _get(found: Offer, path: Path) -> Fetched:
    missing = hub_download.missing_bytes(path, found.files)
    store.require_space(path, missing, str(found.reference))
    meter = hub_download.Meter(found.size)
    placed = []
    try:
        for file in found.files:
            placed.append(hub_download.fetch(found.reference, found.commit, file, path, meter))
            meter.before += file.size
    except KeyboardInterrupt:
        reporter().note("Interrupted. What has been fetched is kept; the next pull goes on from there.")
        raise
    hub_cache.set_main(path, found.commit)
    return Fetched(placed[0], found.size, meter.fetched, found.files[0].sha256)


def _nothing(
    wanted: HubReference, models: list[tuple[str, ...]], files: dict[str, HubFile]
) -> ModelNotFoundError:
    """The error for a repository without what was asked for; it says what there is."""
    if not models:
        return ModelNotFoundError(
            f"{wanted.repository} has no GGUF file that is whole",
            hint="look for a repository whose name ends in -GGUF",
        )
    if wanted.file:
        near = hub_names.nearest(wanted.file, [each[0] for each in models])
        lacking = [name for name in hub_names.shards(wanted.file) if name not in files]
        if wanted.file in files and lacking:
            return ModelNotFoundError(f"{wanted.repository} lacks {lacking[0]}, a part of it", hint=near)
        return ModelNotFoundError(f"{wanted.repository} has no file {wanted.file}", hint=near)
    quants = [hub_names.quant_of(each[0]) or each[0] for each in models]
    return ModelNotFoundError(
        f"{wanted.repository} has no {wanted.quant}", hint=hub_names.nearest(wanted.quant or "", quants)
    )
