"""A server for other packages: those that speak OpenAI's API, and those that speak HTTP."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from llmlab import backends
from llmlab.errors import UsageError
from llmlab.specs import Record

if TYPE_CHECKING:
    from llmlab.client.httpx_transport import Library, Reached

# Clients of OpenAI's API refuse to be made without a key.
_NO_KEY = "none-needed"


class Secret(str):
    """A text that does not show itself where a value is looked at, as in a notebook or a traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        """That there is a key, and not which."""
        return f"<a key of {len(self)} characters>"


class Doors:
    """The doors of a server for other packages; their libraries are imported on use."""

    _record: Record

    @property
    def base_url(self) -> str:
        """The address of its OpenAI-compatible API.

        That of its endpoint for other tools, if it has one (`--expose`), of its port, or of its classroom.
        Otherwise one that leads nowhere but through `http_client`.
        """
        if self._record.endpoint.url:
            return f"{self._record.endpoint}/v1"
        port = self._record.endpoint.exposed_port or self._record.endpoint.port
        return f"http://127.0.0.1:{port}/v1" if port else self._own_url()

    @property
    def api_key(self) -> Secret | None:
        """The key of its endpoint for other tools, read from its file; None if it has none.

        A string that shows itself only when it is printed or sent.
        """
        key_file = self._record.endpoint.key_file
        return Secret(key_file.read_text(encoding="ascii").strip()) if key_file else None

    def http_client(self, *, library: Library | None = None, timeout_s: float = 300.0) -> Any:
        """A client of httpx's over llmlab's own connections, to a sealed container as well.

        The peer of each connection is checked, as by `ask`. Close it, or use it in `with`.

        Args:
            library: "httpx", or its successor "httpx2". Unset: the one that is here.
            timeout_s: Longest wait for each read and write, in seconds.

        Returns:
            An `httpx.Client`; `get("/v1/models")` is relative to the server.

        Raises:
            UsageError: The library is not installed, or the time-out does not fit.
        """
        from llmlab.client import httpx_transport  # noqa: PLC0415 - on use, as its libraries

        return httpx_transport.client(self._reached(), library, timeout_s=timeout_s)

    def async_http_client(self, *, library: Library | None = None, timeout_s: float = 300.0) -> Any:
        """As `http_client`, for asyncio: an `httpx.AsyncClient`.

        Raises:
            UsageError: As `http_client`; or this is a classroom with TLS.
        """
        if (self._record.endpoint.url or "").startswith("https:"):
            raise UsageError(
                "there is no asyncio client of a classroom with TLS",
                hint="http_client() and openai_kwargs() reach it",
            )
        from llmlab.client import httpx_transport  # noqa: PLC0415 - likewise

        return httpx_transport.async_client(self._reached(), library, timeout_s=timeout_s)

    def openai_kwargs(self, *, timeout_s: float = 300.0) -> dict[str, Any]:
        """What `openai.OpenAI(**server.openai_kwargs())` needs to speak to this server.

        The key in it is a word that opens nothing: over this client none is needed.

        Args:
            timeout_s: Longest wait for each read and write, in seconds.

        Returns:
            `base_url`, `api_key` and `http_client`; packages that build on openai take them, too.
        """
        client = self.http_client(library=_library_of_openai(), timeout_s=timeout_s)
        return {"base_url": self._own_url(), "api_key": _NO_KEY, "http_client": client}

    def async_openai_kwargs(self, *, timeout_s: float = 300.0) -> dict[str, Any]:
        """As `openai_kwargs`, for `openai.AsyncOpenAI`."""
        client = self.async_http_client(library=_library_of_openai(), timeout_s=timeout_s)
        return {"base_url": self._own_url(), "api_key": _NO_KEY, "http_client": client}

    def _own_url(self) -> str:
        return f"http://{self._reached().host}/v1"

    def _reached(self) -> Reached:
        from llmlab.client.httpx_transport import Reached  # noqa: PLC0415 - likewise

        place = backends.backend(self._record.backend)
        return Reached(
            name=self._record.name,
            endpoint=self._record.endpoint,
            verify=place.verify(self._record),
            opener=place.opener(self._record),
        )


def _library_of_openai() -> Library | None:
    """Which HTTP library the installed `openai` is built on; None if it is not here."""
    if "openai" not in sys.modules and not find_spec("openai"):
        return None
    bases = import_module("openai").DefaultHttpxClient.__mro__
    roots = (base.__module__.partition(".")[0] for base in bases)
    return cast("Library | None", next((root for root in roots if root in {"httpx", "httpx2"}), None))
