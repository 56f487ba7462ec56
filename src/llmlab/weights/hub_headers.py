"""The headers of models on the hub: what a model is made of, for a few MB of it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from llmlab.errors import ModelError, ModelFileError
from llmlab.reporting import reporter
from llmlab.runtime import cache_dir
from llmlab.weights import gguf, hub_http
from llmlab.weights.hub_http import HubFile
from llmlab.weights.hub_names import HubReference
from llmlab.weights.hub_patience import patiently

# A vocabulary of 32 000 tokens has 1 MB, one of 256 000 with its merges 16 MB.
_FIRST_BYTES = 4 << 20
_MOST_BYTES = 256 << 20
_MAGIC = b"GGUF"


def fetch(wanted: HubReference, commit: str, file: HubFile) -> Path:
    """The beginning of a file on the hub, as far as its header goes.

    It is kept, named by the content's hash, and not fetched a second time.

    Args:
        wanted: Names the repository.
        commit: The repository's revision.
        file: The file.

    Returns:
        A file for `gguf.read_header(…, complete=False)`. It is no model: it
        has no weights, and lies where none is looked for.

    Raises:
        HubError: If the hub does not answer as it should.
        ModelFileError: If it is no GGUF file.
        ModelError: If there is no place to write to.
    """
    path = cache_dir() / "headers" / f"{file.blob}.gguf"
    if path.is_file():
        return path
    reporter().stage("pull", f"the header of {file.name}")
    draft = path.with_name(f"{file.blob}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fill(wanted, commit, file, draft)
            draft.replace(path)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(
            f"{path.parent} cannot be written to: {error.strerror or error}",
            hint="LLMLAB_CACHE_DIR names another place",
        ) from error
    return path


def _fill(wanted: HubReference, commit: str, file: HubFile, draft: Path) -> None:
    """Fetch twice as much until the header is whole."""
    length = _FIRST_BYTES
    draft.write_bytes(b"")
    while True:
        end = min(length, file.size, _MOST_BYTES)
        begin = draft.stat().st_size
        found = patiently(lambda begin=begin, end=end: _read(wanted, commit, file, begin, end))  # type: ignore[misc]
        with draft.open("ab") as output:
            output.write(found)
        try:
            gguf.read_header(draft, complete=False)
        except ModelFileError:
            with draft.open("rb") as written:
                is_gguf = written.read(len(_MAGIC)) == _MAGIC
            if not is_gguf or end in {file.size, _MOST_BYTES}:
                raise ModelFileError(
                    f"{file.name} of {wanted.repository} has no header of a GGUF file",
                    hint="choose another file or repository",
                ) from None
            length *= 2
        else:
            return


def _read(wanted: HubReference, commit: str, file: HubFile, begin: int, end: int) -> bytes:
    found = bytearray()
    with hub_http.reading(wanted, commit, file.name, begin, end) as (position, pieces):
        for piece in pieces:
            found += piece
            if position + len(found) >= end:
                break
    return bytes(found[begin - position : end - position])
