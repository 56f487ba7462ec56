"""Rooms for tests: real servers, the room's real process, real clients."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

import llmlab
from llmlab.classrooms import opening, places
from llmlab.classrooms.ledger import Charge, Ledger

QUESTION: Any = [{"role": "user", "content": "What is a container?"}]


@dataclass
class Opened:
    """An open room of a test's own.

    Attributes:
        url: Its address.
        keys: Learner → key.
    """

    url: str
    keys: dict[str, str] = field(repr=False)

    def client(self, name: str, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.keys[name], max_retries=0, timeout=60, **options
        )

    def bare(self, name: str = "", **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.keys[name]}"} if name else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False, **options)

    def ask(self, name: str, **more: Any) -> Any:
        with self.client(name) as client:
            return client.chat.completions.create(
                **{"model": "tiny", "messages": QUESTION, "max_tokens": 4} | more
            )

    def stream(self, name: str, **more: Any) -> list[Any]:
        body: Any = {"model": "tiny", "messages": QUESTION, "max_tokens": 4, "stream": True, **more}
        with self.client(name) as client:
            return list(client.chat.completions.create(**body))

    @property
    def pid(self) -> int:
        found = opening.opened()
        assert found is not None
        return found.process.pid

    def charges(self, name: str) -> list[Charge]:
        return [charge for charge in Ledger(places.folder()).read() if charge.learner == name]

    def learner(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in opening.board()["learners"] if each["name"] == name)
        return found


def room(action: Any, **options: Any) -> Any:
    """The verb; what it returns depends on the action."""
    return llmlab.classroom(action, **options)


@contextlib.contextmanager
def opened(*names: str, **options: Any) -> Iterator[Opened]:
    """A room with keys for these learners; it is closed at the end."""
    made = room("keys", add=",".join(names)).made if names else {}
    try:
        found = room("open", **options)
        yield Opened(found.url.partition("/#")[0], {name: str(key) for name, key in made.items()})
    finally:
        log = places.folder() / places.LOG
        room("close")
        said = log.read_text(encoding="utf-8") if log.exists() else ""
    assert "Traceback" not in said, said
    assert not any(key in said for key in made.values())


@contextlib.contextmanager
def halted(server: llmlab.Server) -> Iterator[int]:
    """A native server that is halted: what it was asked stays under way. It goes on at the end."""
    process = server.record.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)


def read_events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream."""
    for line in response.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


def texts(event: dict[str, Any]) -> int:
    """Whether an event has a piece of text, as a number."""
    return int(any((choice.get("delta") or {}).get("content") for choice in event.get("choices") or ()))


def stream_of(client: httpx.Client, **more: Any) -> Any:
    """A long stream, as it comes."""
    body = {
        "model": "tiny",
        "messages": QUESTION,
        "max_tokens": 900,
        "ignore_eos": True,
        "stream": True,
        **more,
    }
    return client.stream("POST", "/v1/chat/completions", json=body)


def under_way(room: Opened, name: str) -> tuple[int, int]:
    """How many requests of a learner are being answered, and how many wait."""
    learner = room.learner(name)
    return learner["answering"], learner["waiting"]
