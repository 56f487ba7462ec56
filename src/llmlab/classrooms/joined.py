"""The learner's side: a room that somebody else has opened, and what can be done in it."""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from llmlab import render, runtime
from llmlab.classrooms import entering
from llmlab.client import ChatRequest, Client, rooms
from llmlab.errors import (
    MALFORMED,
    AskInterrupted,
    EndpointError,
    RequestError,
    ServerError,
    ServerStoppedError,
    UsageError,
)
from llmlab.lab.doors import Secret
from llmlab.lab.server import check_timeout
from llmlab.reporting import reporter
from llmlab.results import Answer, Result
from llmlab.specs import Endpoint, ServeSpec
from llmlab.workshop.progressing import to_hand_in

_ANSWER_S, _START_S = 30.0, 600.0
_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomUsage(Result):
    """What a learner has used of a room, and what is allowed.

    Attributes:
        learner: The learner's name in the room.
        requests: Requests within the window.
        requests_allowed: How many there may be; None for no limit.
        tokens: Tokens of prompts and answers within the window.
        tokens_allowed: How many there may be; None for no limit.
        window_s: Length of the window, seconds.
        models: The models that can be asked.
        approved: Models that the room starts for a learner who asks.
        own_server: The learner's own server; None if there is none.
    """

    learner: str
    requests: int
    requests_allowed: int | None
    tokens: int
    tokens_allowed: int | None
    window_s: float
    models: tuple[str, ...]
    approved: tuple[str, ...]
    own_server: str | None

    def _pairs(self) -> list[tuple[str, str]]:
        within = f" within {render.duration_text(self.window_s)}"
        pairs = [
            ("you", self.learner),
            ("models", ", ".join(self.models) or "none yet"),
            ("requests", _of(self.requests, self.requests_allowed) + within),
            ("tokens", _of(self.tokens, self.tokens_allowed) + within),
        ]
        if self.approved:
            pairs.append(("can be started", ", ".join(self.approved)))
        return [*pairs, ("your server", self.own_server)] if self.own_server else pairs

    def __str__(self) -> str:
        """A line for each figure."""
        return "\n".join(f"{key:<15} {render.plain(value)}" for key, value in self._pairs())

    def to_html(self) -> str:
        """The same as a card."""
        return render.html_card("Classroom", render.html_pairs(self._pairs()))


class Room(Result):
    """A room, for a learner with a key; `join` makes servers of its models as well.

    Args:
        url: Its address.
        key: The learner's key.

    Raises:
        UsageError: If that is no address, or no key.
    """

    def __init__(self, url: str, key: str) -> None:
        self._address = rooms.read_address(url)
        self._url = url
        if not key.isascii() or not key.isprintable() or not key.strip() or " " in key.strip():
            raise UsageError("that is no key", hint="copy it as it stands on your card")
        self.key = Secret(key.strip())

    def ask(
        self,
        prompt: str,
        *,
        model: str = "",
        system: str = "",
        max_tokens: int | None = None,
        temperature: float = 0.2,
        seed: int | None = None,
        timeout_s: float = 300.0,
    ) -> Answer:
        """Ask a model of the room, and see the answer as it is written.

        Args:
            prompt: The question.
            model: The model; may be left out where the room has one.
            system: Instructions that stand before the question.
            max_tokens: Most tokens to generate. Unset: 512; the room may allow less.
            temperature: 0 picks the likeliest token each time; higher is more varied.
            seed: Seed of the random choice. Unset: another one each time.
            timeout_s: Longest wait for the next piece of the answer, in seconds.

        Raises:
            UsageError: If the question is empty, or the time-out does not fit.
            RequestError: If the room does not serve it, with the room's reason.
            ServerStoppedError: If the room does not answer.
            AskInterrupted: Ctrl-C; carries the answer as far as it came.
        """
        if not prompt.strip():
            raise UsageError("the question is empty", hint="put it in quotes, or into the cell's body")
        check_timeout(timeout_s)
        request = ChatRequest(
            prompt=prompt,
            system=system,
            max_tokens=_TOKENS if max_tokens is None else max_tokens,
            temperature=temperature,
            seed=seed,
            timeout_s=timeout_s,
            control_tokens=self._control_tokens,
        )
        report = reporter()
        report.asked(prompt, self._address.host)
        try:
            with self._explained(), _in_file(self.key) as file:
                endpoint = Endpoint(key_file=file, url=self._url)
                client = Client("room", endpoint, opener=partial(rooms.connect, self._url), model=model)
                answer = client.chat(request, report.text)
        except AskInterrupted as interrupted:
            report.answered(interrupted.answer)
            raise
        except ServerError as error:
            if error.answer:
                report.answered(error.answer)
            raise
        report.answered(answer)
        return answer

    def models(self) -> tuple[str, ...]:
        """The models that can be asked."""
        return self.usage().models

    def usage(self) -> RoomUsage:
        """What you have used, and what is allowed.

        Raises:
            RequestError: If the room does not let you in.
            ServerStoppedError: If it does not answer.
        """
        found = self._call("GET", "/room/usage")
        try:
            return RoomUsage(
                learner=str(found["learner"]),
                requests=found["requests"]["used"],
                requests_allowed=found["requests"]["allowed"],
                tokens=found["tokens"]["used"],
                tokens_allowed=found["tokens"]["allowed"],
                window_s=float(found["window_s"]),
                models=tuple(map(str, found["models"])),
                approved=tuple(map(str, found["approved"])),
                own_server=found["own_server"],
            )
        except MALFORMED:
            raise RequestError(f"what answers at {self._address.origin} is no classroom of llmlab") from None

    def specs(self) -> tuple[ServeSpec, ...]:
        """What each model is and how it is served, as the room says; where its files lie it does not.

        Raises:
            RequestError: If the room does not let you in, or does not say it in a known form.
            ServerStoppedError: If it does not answer.
        """
        return entering.read_specs(self._call("GET", "/room/models"))

    def servers(self) -> tuple[str, ...]:
        """The names by which `ask`, `chat` and `ps` know its models; none if it was not joined with `join`."""
        return tuple(record.name for record in entering.entered(self._url))

    def enter(self, *, name: str | None = None) -> tuple[str, ...]:
        """Make servers of its models, for `ask`, `chat` and `ps`; again brings them up to date.

        Args:
            name: What to call it. Unset: room.

        Returns:
            Their names.
        """
        return entering.enter(self._url, self.key, self.specs(), name)

    def leave(self) -> tuple[str, ...]:
        """Forget it: its servers, its address, the key. Nothing is stopped there.

        Returns:
            The names of its servers.
        """
        return entering.leave(self._url)

    def start(self, model: str) -> str:
        """Have the room start an approved model for you alone; returns the name by which it is asked.

        Raises:
            RequestError: If it is not approved, does not start, or you have one already.
        """
        started = str(self._call("POST", "/room/servers", {"model": model}, timeout_s=_START_S)["model"])
        if self.servers():
            self.enter()
        return started

    def stop(self) -> bool:
        """End your own server; whether there was one."""
        return bool(self._call("DELETE", "/room/servers")["ended"])

    def share_progress(self) -> None:
        """Send the teacher how far you have got in the lessons: what you predicted, tried and reached.

        It is never sent without this call; call it again to send it anew.
        """
        self._call("POST", "/room/progress", to_hand_in())

    def openai_kwargs(self) -> dict[str, Any]:
        """What `openai.OpenAI(**room.openai_kwargs())` needs: the address, the key, the certificate.

        Raises:
            UsageError: If the room's certificate needs openai, and that is not installed.
        """
        found: dict[str, Any] = {"base_url": f"{self._address.origin}/v1", "api_key": self.key}
        if self._address.pin:
            try:
                import openai  # noqa: PLC0415 - only here
            except ImportError as error:
                raise UsageError("openai is not installed", hint="pip install openai") from error
            found["http_client"] = openai.DefaultHttpxClient(verify=self._context)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Its address, its servers here, and what was used."""
        return {"url": self._address.origin, "servers": self.servers(), **self.usage().to_dict()}

    def to_html(self) -> str:
        """What was used, as a card."""
        below = "".join(map(render.html_small, self._how()))
        return self.usage().to_html() + below

    def __repr__(self) -> str:
        """Its address; not the key."""
        return f"<Room {self._address.origin}>"

    def __str__(self) -> str:
        """What was used, and how to ask."""
        return "\n".join([str(self.usage()), *self._how()])

    def _how(self) -> list[str]:
        """How to ask, and how to leave."""
        names = self.servers()
        if not names:
            return ["no model can be asked yet: join again when the room has one"]
        return [
            f'ask {names[0]} "…" asks it, chat {names[0]} talks with it, stop {" and stop ".join(names)} leaves it'
        ]

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float = _ANSWER_S
    ) -> Any:
        """Ask the room itself."""
        return rooms.call(self._url, self.key, method, path, body, timeout_s=timeout_s)

    @cached_property
    def _control_tokens(self) -> tuple[str, ...]:
        """Those of all its models: what is harmless for one need not be for another."""
        return tuple(dict.fromkeys(token for spec in self.specs() for token in spec.model.control_tokens))

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """Trusts that very certificate only, for other packages' connections."""
        place = (self._address.host, self._address.port)
        try:
            pem = ssl.get_server_certificate(place, timeout=rooms.CONNECT_S)
        except OSError as error:
            raise rooms.unreached(self._url, error) from error
        if hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() != self._address.pin:
            raise EndpointError(
                f"what answers at {self._address.origin} is not the room: its certificate is another one",
                hint="ask the teacher for the room's present address; nothing was sent",
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # it is that very certificate, under whatever name
        context.load_verify_locations(cadata=pem)
        return context

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ServerStoppedError as error:
            raise rooms.unreached(self._url, error) from None


@contextmanager
def _in_file(key: str) -> Iterator[Path]:
    """The key where the client reads it: in a file of the user's own."""
    path = runtime.made_state_dir() / f".key-{os.getpid()}-{threading.get_ident()}"
    runtime.write_private(path, key)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _of(used: int, allowed: int | None) -> str:
    return str(used) if allowed is None else f"{used} of {allowed}"
