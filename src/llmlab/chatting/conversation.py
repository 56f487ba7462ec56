"""A conversation: what was said, what is being said, and how to stop it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmlab import render
from llmlab.chatting import asking, exporting, terminal
from llmlab.chatting.energy import Meter
from llmlab.chatting.turns import Exchange, Reply, Settings
from llmlab.client import Cancel
from llmlab.errors import AskInterrupted, LabError, ServerError, UsageError
from llmlab.lab import Server
from llmlab.reporting import Reporter, reporter
from llmlab.results import Answer, Result

_MOST_SERVERS = 2
_STEP_S = 0.25


class Chat(Result):
    """A conversation with one server, or with two that get the same questions.

    Args:
        servers: One or two.
        settings: The fields of `Settings`: system, temperature, top_p, max_tokens, seed,
            probabilities, timeout_s.

    Raises:
        UsageError: If there are none or more than two, or a setting is out of range.
    """

    def __init__(self, *servers: Server, **settings: Any) -> None:
        if not 1 <= len(servers) <= _MOST_SERVERS:
            raise UsageError(
                f"a chat has one server or two, not {len(servers)}", hint="open another chat for the others"
            )
        self._servers = servers
        self._settings = Settings(**settings)
        self._exchanges: list[Exchange] = []
        self._changed = threading.Condition()  # and the guard of all that follows
        self._busy = False
        self._cancels: list[Cancel] = []
        self._listeners: list[Callable[[], None]] = []

    @property
    def servers(self) -> tuple[Server, ...]:
        """Whom one talks with."""
        return self._servers

    @property
    def names(self) -> tuple[str, ...]:
        """The servers' names."""
        return tuple(server.name for server in self._servers)

    @property
    def settings(self) -> Settings:
        """How the next question is asked."""
        return self._settings

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """What was said so far; the last one may still grow."""
        return tuple(self._exchanges)

    @property
    def busy(self) -> bool:
        """Whether an answer is being written."""
        return self._busy

    def set(self, **changes: Any) -> Settings:
        """Change how the next questions are asked: the fields of `Settings`.

        Raises:
            UsageError: If there is no such setting, or it is out of range; nothing is changed.
        """
        if unknown := set(changes) - set(asdict(self._settings)):
            raise UsageError(
                f"no setting {min(unknown)!r}", hint="there are " + ", ".join(asdict(self._settings))
            )
        self._settings = replace(self._settings, **changes)
        self._notify()
        return self._settings

    def messages(self, column: int = 0) -> list[dict[str, str]]:
        """The conversation with one of the servers as it is sent, from the oldest message on."""
        system = [{"role": "system", "content": self._settings.system}] if self._settings.system else []
        pairs = asking.history(column, self._exchanges)
        return system + [{"role": role, "content": text} for pair in pairs for role, text in pair]

    def say(self, text: str) -> Exchange:
        """Ask, and wait for the answer; it is shown while it comes, as that of `ask`.

        Ctrl-C, or `stop()` from another thread, ends it; what came is kept.

        Args:
            text: The question. Taken as it is.

        Raises:
            UsageError: If it is empty, or another answer is still being written.
            AskInterrupted: On Ctrl-C; it says whether the server was seen to stop.
            ServerError: If no server could answer; what had come is kept in the conversation.
        """
        exchange, told = self._begin(text), reporter()
        interrupted = False
        with self._meter(exchange):
            workers = self._start(exchange)
            while True:
                try:
                    self._narrate(exchange, told)
                    for worker in workers:
                        worker.join()
                    break
                except KeyboardInterrupt:
                    if interrupted:
                        break  # it is not waited for any longer
                    interrupted = True
                    self.stop()
        with self._changed:
            self._busy = False
        self._notify()
        if interrupted:
            raise _interruption(exchange)
        errors = [reply.error for reply in exchange.replies if reply.error]
        if len(errors) == len(exchange.replies):
            raise errors[0]
        return exchange

    def stop(self) -> bool:
        """End the answer that is being written; returns at once.

        Its state is "stopping" until the server was seen to have stopped, then "stopped".

        Returns:
            Whether there was one.
        """
        with self._changed:
            if not self._busy:
                return False
            for reply in self._exchanges[-1].replies:
                if not reply.over:
                    reply.state = "stopping"
            cancels = self._cancels
        for cancel in cancels:
            cancel.set()
        self._notify()
        return True

    def clear(self) -> None:
        """Begin anew: forget what was said.

        Raises:
            UsageError: If an answer is still being written.
        """
        with self._changed:
            self._refuse_busy()
            self._exchanges = []
        self._notify()

    def converse(self, write_json: Callable[[Any], None] | None = None) -> int:
        """Talk by lines on standard input and output until the input ends.

        Args:
            write_json: Called with each answer as plain data, which is then the only output.

        Returns:
            The exit status: 1 if a server has gone.
        """
        return terminal.converse(self, write_json)

    def listen(self, told: Callable[[], None]) -> Callable[[], None]:
        """Have something called at each change, from whichever thread makes it; it must be quick.

        Returns:
            What ends that.
        """
        self._listeners = [*self._listeners, told]

        def leave() -> None:
            self._listeners = [each for each in self._listeners if each is not told]

        return leave

    def export(self, path: str | Path) -> Path:
        """Write the conversation into a new file.

        Args:
            path: A file that ends in .md, for reading, or in .json, for programs.

        Returns:
            The file.

        Raises:
            UsageError: If it ends in something else, or is there already.
            LabError: If it cannot be written.
        """
        return exporting.write(self, Path(path).expanduser())

    def to_markdown(self) -> str:
        """The conversation as it is exported; what models wrote stands in fences, so that it stays text."""
        return exporting.markdown(self)

    def to_dict(self) -> dict[str, Any]:
        """The conversation as plain JSON data."""
        return {
            "servers": [
                {"name": server.name, "model": server.record.spec.model.reference} for server in self._servers
            ],
            "settings": asdict(self._settings),
            "exchanges": [exchange.to_dict() for exchange in self._exchanges],
        }

    def __str__(self) -> str:
        """What was said; before that, how to."""
        if self._exchanges:
            return "\n\n".join(map(str, self._exchanges))
        return f"chat with {' and '.join(self.names)}: chat.say('…') asks, chat.export('chat.md') keeps it"

    def __repr__(self) -> str:
        """Whom with, and how long it is."""
        return f"<Chat with {' and '.join(self.names)}: {len(self._exchanges)} exchanges>"

    def to_html(self) -> str:
        """The conversation as it can be read without a kernel."""
        if not self._exchanges:
            return render.html_card(f"Chat with {' and '.join(self.names)}", render.html_text(str(self)))
        return "".join(exchange.to_html() for exchange in self._exchanges)

    def _begin(self, text: str) -> Exchange:
        if not text.strip():
            raise UsageError("the question is empty", hint="write something to answer")
        exchange = Exchange(
            prompt=text,
            replies=tuple(Reply(server=name) for name in self.names),
            settings=self._settings,
        )
        with self._changed:
            self._refuse_busy()
            self._busy = True
            self._exchanges = [*self._exchanges, exchange]
            self._cancels = [Cancel() for _ in self._servers]
        self._notify()
        return exchange

    def _refuse_busy(self) -> None:
        if self._busy:
            raise UsageError("an answer is still being written", hint="wait for it, or stop() it")

    def _start(self, exchange: Exchange) -> list[threading.Thread]:
        """Ask each server in a thread of its own."""
        before = self._exchanges[:-1]
        workers = [
            threading.Thread(
                target=self._ask, args=(exchange, column, before), name="llmlab chat", daemon=True
            )
            for column in range(len(self._servers))
        ]
        for worker in workers:
            worker.start()
        return workers

    def _ask(self, exchange: Exchange, column: int, before: list[Exchange]) -> None:
        reply = exchange.replies[column]
        reply.began = time.monotonic()
        try:
            pairs = asking.history(column, before)
            server, cancel = self._servers[column], self._cancels[column]

            def heard(piece: str) -> None:
                reply.add(piece)
                self._notify()

            reply.finish("done", asking.answer(server, exchange, reply, pairs, heard, cancel))
        except AskInterrupted as interrupted:
            reply.seen_stopped = interrupted.stopped
            reply.add_note(interrupted.note)
            reply.finish("stopped", interrupted.answer)
        except LabError as error:
            reply.error = error
            reply.add_note(" ".join(str(error).split()) if isinstance(error, UsageError) else str(error))
            reply.finish("failed", error.answer if isinstance(error, ServerError) else None)
        except BaseException as error:
            reply.add_note(f"it failed: {error!r}")
            reply.finish("failed", None)
            raise
        finally:
            self._notify()

    def _narrate(self, exchange: Exchange, told: Reporter) -> None:
        """Tell the reporter what comes, of one server after the other."""
        for reply in exchange.replies:
            if reply.told is None:
                told.asked(exchange.prompt, reply.server)
                reply.told = 0
            while not (reply.over and reply.told < 0):
                over = reply.over
                text, synthetic = reply.text, reply.answer is not None and reply.answer.synthetic
                if reply.told < len(text) and not synthetic:
                    told.text(text[reply.told :])
                    reply.told = len(text)
                if over:
                    reply.told = -1
                    told.answered(reply.answer or _nothing(reply))
                else:
                    self._wait(reply)

    def _wait(self, reply: Reply) -> None:
        with self._changed:
            self._changed.wait_for(lambda: reply.over or len(reply.text) > (reply.told or 0), _STEP_S)

    @contextmanager
    def _meter(self, exchange: Exchange) -> Iterator[None]:
        meters = [
            Meter(server.record, reply) for server, reply in zip(self._servers, exchange.replies, strict=True)
        ]
        try:
            yield
        finally:
            for meter in meters:
                meter.finish(exchange.replies)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for told in self._listeners:
            told()


def _nothing(reply: Reply) -> Answer:
    """The answer of a server that gave none."""
    return Answer(
        text="",
        server=reply.server,
        finish_reason="failed",
        ttft_s=None,
        total_s=time.monotonic() - reply.began,
        prompt_tokens=None,
        completion_tokens=None,
        tokens_per_s=None,
    )


def _interruption(exchange: Exchange) -> AskInterrupted:
    """What Ctrl-C raises: that of the first server that it has stopped."""
    reply = next((reply for reply in exchange.replies if reply.state == "stopped"), exchange.replies[0])
    return AskInterrupted(reply.answer or _nothing(reply), reply.note, stopped=reply.seen_stopped)
