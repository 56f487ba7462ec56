"""One file of the hub, fetched whole or not at all."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from llmlab.errors import ChecksumError, HubError, ModelError
from llmlab.reporting import reporter
from llmlab.weights import hub_cache, hub_http, hub_patience, store
from llmlab.weights.hub_http import HubFile
from llmlab.weights.hub_names import HubReference
from llmlab.weights.hub_patience import PassingError

# More than a content delivery network gives in one piece (50 GB) is never asked for at once.
_MOST_AT_ONCE_BYTES = 16 << 30
_POLL_S = 0.2


@dataclass(slots=True)
class Meter:
    """How far the files of a model have come.

    Attributes:
        total: Bytes of all files.
        before: Bytes of the files that are done.
        fetched: Bytes that came over the network.
    """

    total: int
    before: int = 0
    fetched: int = 0

    def at(self, done: int) -> None:
        """So many bytes of the present file are there."""
        reporter().progress(self.before + done, self.total)


def missing_bytes(path: Path, files: tuple[HubFile, ...]) -> int:
    """How many bytes of some files are not in a repository's folder yet."""
    missing = 0
    for file in files:
        blob = path / "blobs" / file.blob
        if not blob.exists():
            missing += max(0, file.size - _size(_part(blob)))
    return missing


def fetch(wanted: HubReference, commit: str, file: HubFile, path: Path, meter: Meter) -> Path:
    """Get a file into the cache; one process does it, others wait for it and use it.

    Args:
        wanted: Names the repository.
        commit: The repository's revision.
        file: The file.
        path: The repository's folder in the cache.
        meter: Told how far it has come.

    Returns:
        The file in the cache, under the name that the repository gives it.

    Raises:
        HubError: If the hub fails for good; what has come is kept for the next time.
        ChecksumError: If what came is not what the hub has published.
        DiskSpaceError: If the disk is full.
    """
    blob = path / "blobs" / file.blob

    said = False

    def waiting() -> None:
        nonlocal said
        if not said:
            reporter().stage("pull", f"waiting for another process that fetches {file.name}")
            reporter().note("Another process is fetching it; this one waits and uses what comes.")
        said = True
        meter.at(_size(blob) or _size(_part(blob)))
        time.sleep(_POLL_S)

    with _writing(path, str(wanted)):
        hub_cache.make_folder(blob.parent, path.parent)
        if not blob.exists():
            with hub_cache.locked(path, file.blob, waiting=waiting):
                if not blob.exists():
                    _get(wanted, commit, file, blob, meter)
        meter.at(file.size)
        return hub_cache.link(path, commit, file.name, blob)


def _get(wanted: HubReference, commit: str, file: HubFile, blob: Path, meter: Meter) -> None:
    """Fetch a blob, verify it, and give it its name; under the lock."""
    part = _part(blob)
    if _size(part) > file.size:
        part.unlink()
    in_pieces, again = _size(part) > 0, False
    while True:
        try:
            in_pieces |= _fill(wanted, commit, file, part, meter) > 1
            found = _check(file, part)
        except _LengthError:
            found = ""
        if found == file.blob:
            break
        part.unlink(missing_ok=True)
        if again or not in_pieces:
            raise ChecksumError(
                f"what came of {wanted.repository}/{file.name} is not what the hub has published"
                + (f": its hash is {found}, not {file.blob}" if found else ": its length differs"),
                hint="it was removed; pull it again, and if that does not help, choose another repository",
            )
        # What did not come in one go may have been put together wrongly.
        reporter().note(f"The parts of {file.name} do not fit together; fetching all of it anew.")
        again = True
    hub_cache.put(part, blob)
    if file.sha256:
        store.remember(blob, found)


class _LengthError(Exception):
    """More or fewer bytes came than the hub lists."""


def _fill(wanted: HubReference, commit: str, file: HubFile, part: Path, meter: Meter) -> int:
    """Fetch what is missing of a file, as often as the connection breaks; returns how often it was asked for."""
    reporter().stage("pull", file.name)
    part.touch()
    pauses = iter(hub_patience.WAITS_S)
    furthest = _size(part)
    asked = 0
    while _size(part) < file.size:
        error = PassingError(HubError(f"the hub ends {file.name} too early", hint="try again later"))
        asked += 1
        try:
            _append(wanted, commit, file, part, meter)
        except PassingError as passing:
            error = passing
        if _size(part) > furthest:
            # It gets on: as often as that may be.
            furthest = _size(part)
            pauses = iter(hub_patience.WAITS_S)
            continue
        pause = next(pauses, None)
        if pause is None:
            raise error.error from None
        hub_patience.pause_after(error, pause)
        reporter().stage("pull", file.name)
    if _size(part) != file.size:
        raise _LengthError
    return asked


def _append(wanted: HubReference, commit: str, file: HubFile, part: Path, meter: Meter) -> None:
    """Fetch once, from where the part ends."""
    done = _size(part)
    meter.at(done)
    end = min(file.size, done + _MOST_AT_ONCE_BYTES)
    with (
        hub_http.reading(wanted, commit, file.name, done, end) as (begin, pieces),
        part.open("r+b") as output,
    ):
        output.seek(begin)
        output.truncate()
        came = 0
        for piece in pieces:
            output.write(piece)
            came += len(piece)
            meter.fetched += len(piece)
            meter.at(begin + came)
            if begin + came > file.size:
                raise _LengthError


def _check(file: HubFile, part: Path) -> str:
    """The hash of what has been written: of the disk's bytes, not of those that were sent."""
    reporter().stage("verify", file.name)
    with part.open("rb") as written:
        os.fsync(written.fileno())
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        reporter().progress(done, file.size)

    return store.digest(part, "sha256" if file.sha256 else "git", read=read)


@contextmanager
def _writing(path: Path, what: str) -> Iterator[None]:
    """Errors of the file system, as errors of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise store.no_space(path, what, "the disk is full") from error
        raise ModelError(
            f"{what} cannot be written to {path}: {error.strerror or error}",
            hint="HF_HUB_CACHE or HF_HOME names another place",
        ) from error


def _part(blob: Path) -> Path:
    return blob.with_name(blob.name + hub_cache.INCOMPLETE)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
