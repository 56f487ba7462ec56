"""The one door to huggingface_hub: what the hub has, and its bytes.

Endpoint, token and offline mode are those of the environment at each call;
huggingface_hub itself reads some of them only when it is first imported.

The bytes are fetched with huggingface_hub's HTTP session but not with its
`hf_hub_download`: since version 2 that starts from zero after an interruption
(each call writes to a file with a name of its own and removes it on failure),
and a connection that breaks in mid-body may end it. `hf_xet`, faster where
it works, cannot go on with a part that is there either.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from llmlab.errors import AccessError, HubError, LabError, ModelNotFoundError
from llmlab.weights import hub_names
from llmlab.weights.hub_names import HubReference
from llmlab.weights.hub_patience import PassingError, asked_wait_s, patiently

_TIMEOUT_S = 30.0
_HINT_TIMEOUT_S = 5.0
_TRUE = {"1", "ON", "YES", "TRUE"}
_LOGIN = "set HF_TOKEN to a token of yours, or run `hf auth login`"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository.

    Attributes:
        name: Its path in the repository.
        size: Bytes.
        sha256: What the hub says its content hashes to; None for a small file
            that is kept in git itself.
        blob: What the hub's cache calls the content: the sha256, or git's sha1.
    """

    name: str
    size: int
    sha256: str | None
    blob: str


def endpoint() -> str:
    """The hub's address."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _shown() -> str:
    """The hub's address as messages show it: without a password that may stand in it."""
    return re.sub(r"//[^/@]*@", "//", endpoint())


def offline() -> bool:
    """Whether the environment forbids the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in _TRUE


def listing(wanted: HubReference) -> tuple[str, list[HubFile]]:
    """The commit that `main` of a repository is, and its GGUF files.

    Raises:
        ModelNotFoundError: If there is no such repository.
        HubError: If the hub does not answer as it should.
    """

    def ask() -> Any:
        library = _library()
        with translated(wanted):
            api = library.HfApi(endpoint=endpoint(), library_name="llmlab")
            return api.model_info(wanted.repository, revision="main", files_metadata=True, timeout=_TIMEOUT_S)

    info = patiently(ask)
    with translated(wanted):
        commit = str(info.sha)
        files = [_file(each) for each in info.siblings or () if each.rfilename.endswith(".gguf")]
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise _odd(wanted, f"it calls a revision {commit[:60]!r}")
    for file in files:
        if not hub_names.is_safe(file.name):
            raise _odd(wanted, f"it has a file with the name {file.name[:80]!r}, which leads elsewhere")
        if file.size < 0 or not re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{40}", file.blob):
            raise _odd(wanted, f"it does not say what {file.name} contains")
    return commit, files


def _file(sibling: Any) -> HubFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else None
    size = sibling.lfs.size if sibling.lfs else sibling.size
    return HubFile(str(sibling.rfilename), int(size), sha256, str(sha256 or sibling.blob_id))


def repositories(wanted: HubReference) -> list[str]:
    """Repositories with GGUF files of the same owner, for a hint; none if that cannot be told soon."""
    try:
        with translated(wanted):
            response = (
                _library()
                .get_session()
                .get(
                    f"{endpoint()}/api/models",
                    params={"author": wanted.owner, "filter": "gguf", "limit": 200},
                    headers=_headers(),
                    timeout=_HINT_TIMEOUT_S,
                )
            )
            return [name for each in response.json() if (name := str(each["id"])).isprintable()]
    except (LabError, PassingError):
        return []


@contextmanager
def reading(
    wanted: HubReference, commit: str, name: str, begin: int, end: int
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Read a file's bytes from `begin` to before `end`.

    Yields:
        The position at which the hub begins (0 where it does not know ranges),
        and the bytes in pieces.

    Raises:
        PassingError: If the connection or the hub failed; also from the pieces.
        HubError: If it will not do better another time.
    """
    library = _library()
    address = f"{endpoint()}/{wanted.repository}/resolve/{commit}/{quote(name)}"
    with ExitStack() as stack:
        with translated(wanted, name):
            response = stack.enter_context(
                library.get_session().stream(
                    "GET",
                    address,
                    headers={
                        **_headers(),
                        "Range": f"bytes={begin}-{end - 1}",
                        "Accept-Encoding": "identity",
                    },
                    timeout=_TIMEOUT_S,
                    follow_redirects=True,
                )
            )
            library.utils.hf_raise_for_status(response)
        yield _position(response, wanted, begin), _pieces(response, wanted, name)


def _position(response: Any, wanted: HubReference, begin: int) -> int:
    if response.status_code != 206:  # noqa: PLR2004 - HTTP's "partial content"
        return 0
    told = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not told or int(told[1]) != begin:
        raise _odd(wanted, "it sends another part of the file than was asked for")
    return begin


def _pieces(response: Any, wanted: HubReference, name: str) -> Iterator[bytes]:
    pieces = iter(response.iter_bytes())
    while True:
        with translated(wanted, name):
            piece = next(pieces, b"")
        if not piece:
            return
        yield piece


@contextmanager
def translated(wanted: HubReference, name: str = "") -> Iterator[None]:
    """Turn whatever huggingface_hub and its HTTP library raise into errors of ours."""
    try:
        yield
    except (LabError, PassingError):
        raise
    except Exception as error:
        response = getattr(error, "response", None)
        if response is not None and getattr(response, "status_code", None):
            raise _refused(wanted, name, response) from error
        raise _failed(error) from error


def _refused(wanted: HubReference, name: str, response: Any) -> Exception:  # noqa: PLR0911 - a table
    """The error for an answer that is a refusal."""
    status = int(response.status_code)
    headers = response.headers
    code = headers.get("X-Error-Code") or ""
    said = _plain(headers.get("X-Error-Message") or "")
    where = f"{_shown()}/{wanted.repository}"
    if code == "GatedRepo":
        return AccessError(
            f"{wanted.repository} is given only to those who have accepted its licence",
            hint=f"accept it at {where}, then {_LOGIN}",
        )
    if code == "RepoNotFound":
        return ModelNotFoundError(
            f"the hub has no repository {wanted.repository}, or it is private",
            hint=f"{_others(wanted)}; for a private one {_LOGIN}",
        )
    if code in {"EntryNotFound", "RevisionNotFound"}:
        return ModelNotFoundError(
            f"{wanted.repository} has no {name or 'revision main'} (any more)",
            hint="look at the repository's page, or ask again: it may be changing just now",
        )
    if status in {401, 403}:
        if "disabled" in said:
            return HubError(f"the hub has disabled {wanted.repository}", hint="choose another model")
        return AccessError(
            f"the hub does not give {wanted.repository} to you" + (f": {said}" if said else ""),
            hint=f"{_LOGIN}; see also {where}",
        )
    if status == 416:  # noqa: PLR2004 - HTTP's "range not satisfiable"
        return _odd(wanted, f"{name} is shorter than it says")
    failed = HubError(
        f"the hub at {_shown()} answers {status}" + (f": {said}" if said else ""),
        hint="try again later" if status >= 429 else "check HF_ENDPOINT",  # noqa: PLR2004
    )
    if status in {408, 429} or status >= 500:  # noqa: PLR2004
        return PassingError(failed, asked_wait_s(headers))
    return failed


def _others(wanted: HubReference) -> str:
    there = repositories(wanted)
    return hub_names.nearest(wanted.repository, there) if there else "check how it is spelt"


def _failed(error: Exception) -> Exception:  # noqa: PLR0911 - a table
    """The error for an answer that did not come, or made no sense."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = _plain(str(error)) or type(error).__name__
    if "OfflineModeIsEnabled" in kinds:
        return HubError(
            "huggingface_hub is in offline mode",
            hint="it looks at HF_HUB_OFFLINE only when it is first used: restart Python",
        )
    if kinds & {"ProxyError", "UnsupportedProtocol", "InvalidURL"}:
        return HubError(
            f"the hub at {_shown()} cannot be reached: {said}",
            hint="check HF_ENDPOINT and the proxy's variables (HTTPS_PROXY)",
        )
    if kinds & {"OIDCError", "DeviceCodeError", "LocalTokenNotFoundError"}:
        return AccessError(f"huggingface_hub has no token that holds: {said}", hint=_LOGIN)
    if kinds & {"LocalProtocolError", "UnicodeEncodeError"}:
        return AccessError(f"the token cannot be sent as it is: {said}", hint=_LOGIN)
    if "PermissionError" in kinds:
        return AccessError(
            f"huggingface_hub cannot read what it needs: {said}",
            hint="make it readable; if it is the token, HF_TOKEN does as well",
        )
    if kinds & {"TransportError", "ConnectionError", "TimeoutError"}:
        return PassingError(
            HubError(
                f"the hub at {_shown()} cannot be reached: {said}",
                hint="check the network; what has been fetched is kept, and the next pull goes on from there",
            )
        )
    return HubError(
        f"the hub at {_shown()} does not answer as a hub does ({type(error).__name__}: {said})",
        hint="check HF_ENDPOINT",
    )


def _plain(text: str) -> str:
    """Somebody else's words on one line, without a token and without what steers a terminal."""
    text = re.sub(r"(?i)bearer [^'\"]+", "Bearer …", " ".join(text.split()))
    return "".join(letter for letter in text if letter.isprintable())[:200]


def _odd(wanted: HubReference, what: str) -> HubError:
    return HubError(f"nothing of {wanted.repository} is taken: {what}", hint="choose another repository")


def _headers() -> dict[str, str]:
    made: dict[str, str] = _library().utils.build_hf_headers(library_name="llmlab")
    return made


def _library() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 - an optional library, and slow to import
        import huggingface_hub.utils  # noqa: PLC0415
    except ImportError as error:
        raise LabError(
            f"models of the hub need huggingface_hub: {error}", hint="pip install huggingface_hub"
        ) from error
    return huggingface_hub
