"""Who asks: a learner's key, or a JupyterHub's token in its place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

import httpx

from llmlab.classrooms.keys import Keys, hashed
from llmlab.classrooms.refusals import Refusal
from llmlab.errors import MALFORMED

_HUB_S = 10.0
_TRUSTED_S = 10.0
_MOST_TRUSTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """A learner, and what was shown for it.

    Attributes:
        name: The learner's name.
        token: What was shown. Never printed.
    """

    name: str
    token: str = field(repr=False)


class Identity(Protocol):
    """Tells whose token it is."""

    async def identify(self, token: str) -> Who:
        """Whose it is; asked again while a request goes on.

        Raises:
            Refusal: 401 if nobody's, 403 if no longer, 503 if that cannot be said.
        """

    def names(self) -> list[str]:
        """The learners, as far as they are known before they come."""


class KeyIdentity:
    """The room's own keys.

    Args:
        keys: The keys.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def identify(self, token: str) -> Who:
        """Whose key it is; see `Identity`."""
        found = self._keys.find(token)
        if found is None:
            raise Refusal(401, "this key opens no door here; ask the teacher for yours", "invalid_api_key")
        if found.revoked is not None:
            raise Refusal(
                403,
                f"the key of {found.name} has been revoked; ask the teacher for a new one",
                "revoked_api_key",
            )
        return Who(name=found.name, token=token)

    def names(self) -> list[str]:
        """Who has a key."""
        return [each.name for each in self._keys.all() if each.revoked is None]


class HubIdentity:
    """A JupyterHub's users: whoever's token the hub knows.

    Args:
        api_url: The hub's API, such as `http://127.0.0.1:8081/hub/api`.
        groups: Groups of whose users one must be; () for all users of the hub.
    """

    def __init__(self, api_url: str, groups: tuple[str, ...] = ()) -> None:
        self._url = f"{api_url.rstrip('/')}/user"
        self._groups = frozenset(groups)
        self._client = httpx.AsyncClient(timeout=_HUB_S, trust_env=False)
        self._known: dict[str, tuple[float, str]] = {}

    async def identify(self, token: str) -> Who:
        """Whose token it is; see `Identity`. What the hub said holds for some seconds."""
        now = time.monotonic()
        until, name = self._known.get(hashed(token), (0.0, ""))
        if until < now:
            name = await self._ask(token)
            if len(self._known) >= _MOST_TRUSTED:
                self._known.clear()
            self._known[hashed(token)] = (now + _TRUSTED_S, name)
        return Who(name=name, token=token)

    def names(self) -> list[str]:
        """Nobody: the hub is not asked for all its users."""
        return []

    async def _ask(self, token: str) -> str:
        refused = Refusal(
            401,
            "JupyterHub does not know this token; make one on the hub's page Token, or restart your server",
            "invalid_api_key",
        )
        if not token.isascii() or not token.isprintable():
            raise refused
        try:
            answer = await self._client.get(self._url, headers={"Authorization": f"token {token}"})
        except httpx.HTTPError:
            raise _unreachable() from None
        if answer.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
            raise refused
        try:
            user: Any = answer.json() if answer.is_success else None
            name, groups = str(user["name"]), set(user.get("groups") or ())
            person = user.get("kind", "user") == "user" and bool(name)
        except MALFORMED:
            raise _unreachable() from None
        if not person or (self._groups and not groups & self._groups):
            raise Refusal(403, "this room is for other users of the hub; ask the teacher", "not_in_class")
        return name


def _unreachable() -> Refusal:
    return Refusal(503, "JupyterHub does not say who you are; ask again soon", "hub_silent", retry_after_s=5)
