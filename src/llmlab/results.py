"""What verbs return: frozen values that show themselves as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmlab import render
from llmlab.render import frames
from llmlab.render.markdown import safe_markdown

RoomState = Literal["closed", "refused", "over quota", "unreachable"]
"""Of a classroom that was joined. closed: nobody has it open. refused: it does not take the key.
over quota: what the learner may use is used up. unreachable: how it fares cannot be told from here."""

State = Literal["ready", "loading", "paused", "restarting", "exited", "stopped", "lost"] | RoomState
"""ready: answers. loading: runs, does not answer yet. paused: halted until it is let go on.
restarting: has ended, and its container engine starts it anew. exited: ended by itself.
stopped: stopped and removed. lost: it runs, but its endpoint is gone."""

_NOISE = "(random weights: what they wrote means nothing and is not shown)"


class Result:
    """Base of all results: text, HTML, and plain data for `--json`."""

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON data."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]  # subclasses are dataclasses

    @property
    def exit_status(self) -> int:
        """What the command line exits with: 1 where the answer is bad news, for scripts."""
        return 0

    def to_html(self) -> str:
        """The result as HTML, everything in it escaped."""
        return render.html_code(str(self).splitlines())

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return render.bundle(str(self), self.to_html())


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of an answer, and how likely it was.

    Attributes:
        text: The token; "" where it is only a part of a character. Untrusted.
        probability: That of the model, before temperature and the like; 0 to 1.
        likeliest: The likeliest tokens at this place, with their probabilities.
    """

    text: str
    probability: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Result):
    """One answer and how long it took. Unknown figures are None, never 0.

    Attributes:
        text: What the model wrote. Untrusted.
        server: Name of the server that answered.
        finish_reason: "stop" (the model ended), "length" (max_tokens reached)
            or "interrupted".
        ttft_s: Seconds from sending the request to the first non-empty piece
            of text (time to first token).
        total_s: Seconds from sending the request to the last piece of text.
        prompt_tokens: Tokens of the prompt with its chat template, as the
            engine counts them.
        completion_tokens: Generated tokens, as the engine counts them.
        tokens_per_s: Generation rate inside the engine, by its own clock:
            (completion_tokens − 1) / (time of last − time of first token).
            None if the engine does not tell.
        client_tokens_per_s: The same rate as the client sees it, from the first
            to the last piece of text. Too high where pieces arrive together,
            as they do on a busy machine; None where all arrived at once.
        prompt_tokens_per_s: Rate at which the engine read the part of the
            prompt that was not cached.
        cached_tokens: Prompt tokens the engine had from an earlier request.
        neutralised: Control tokens found in the prompt and made harmless.
        synthetic: Whether the weights are random. The figures count then; what
            was written does not, and `text` is empty.
        tokens: Its tokens with their probabilities; None if they were not asked
            for, or the engine does not tell.
    """

    text: str
    server: str
    finish_reason: str
    ttft_s: float | None
    total_s: float
    prompt_tokens: int | None
    completion_tokens: int | None
    tokens_per_s: float | None
    client_tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    cached_tokens: int | None = None
    neutralised: tuple[str, ...] = ()
    synthetic: bool = False
    tokens: tuple[Token, ...] | None = None

    def __str__(self) -> str:
        """The text alone, control characters made visible; of random weights, what became of it."""
        return render.plain(self.text) or (_NOISE if self.synthetic else "")

    def chips(self) -> list[tuple[str, str, str]]:
        """The figures to show: (label, value, definition)."""
        chips = [("server", self.server, "the server that answered")]
        if self.synthetic:
            chips.append(("weights", "synthetic", "random numbers in the shape of a real model"))
        if self.ttft_s is not None:
            chips.append(
                (
                    "TTFT",
                    _seconds(self.ttft_s),
                    "time to first token: from sending to the first piece of text",
                )
            )
        rate = self.client_tokens_per_s if self.tokens_per_s is None else self.tokens_per_s
        if rate is not None:
            clock = "seen by the client" if self.tokens_per_s is None else "by the engine's clock"
            chips.append(
                (
                    "generated",
                    f"{self.completion_tokens} tokens, {rate:.0f} tokens/s",
                    f"(tokens − 1) / (time of last − time of first token), {clock}",
                )
            )
        elif self.completion_tokens is not None:
            chips.append(("generated", f"{self.completion_tokens} tokens", "as the engine counts"))
        if self.prompt_tokens is not None:
            cached = f", {self.cached_tokens} cached" if self.cached_tokens else ""
            chips.append(
                (
                    "prompt",
                    f"{self.prompt_tokens} tokens{cached}",
                    "with the chat template, as the engine counts",
                )
            )
        if self.finish_reason != "stop":
            meaning = "max_tokens reached" if self.finish_reason == "length" else "why the answer ended"
            chips.append(("ended", self.finish_reason, meaning))
        if self.neutralised:
            chips.append(
                ("neutralised", " ".join(self.neutralised), "control tokens in the prompt, made harmless")
            )
        return chips

    def summary(self) -> str:
        """The figures on one line of text."""
        return " · ".join(f"{label} {value}" for label, value, _ in self.chips())

    def to_html(self) -> str:
        """The text and its figures."""
        return render.html_answer(str(self), self.chips())

    def markdown(self) -> Formatted:
        """The answer with its Markdown shown: safely, and with a list of what was blocked.

        No HTML of the model's, no images, links only to http, https and mailto, with
        their addresses spelled out.
        """
        return Formatted(answer=self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Formatted(Result):
    """An answer whose Markdown is shown.

    Attributes:
        answer: The answer.
    """

    answer: Answer

    def __str__(self) -> str:
        """The text as it was written, control characters made visible."""
        return str(self.answer)

    def to_html(self) -> str:
        """The Markdown as safe HTML, what was blocked, and the figures."""
        safe = safe_markdown(str(self.answer) if self.answer.synthetic else self.answer.text)
        return render.html_reply(safe.html, self.answer.chips())

    def to_dict(self) -> dict[str, Any]:
        """The answer, and what is blocked in it."""
        blocked = [asdict(each) for each in safe_markdown(self.answer.text).blocked]
        return {**self.answer.to_dict(), "blocked": blocked}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a server takes at a moment. Unknown is None, never 0.

    Attributes:
        cpus: CPUs that it keeps busy.
        memory_mib: MiB of memory that it holds.
        gpu_memory_mib: MiB that it holds on all GPUs; None where there is none.
        tokens_per_s: Rate at which it writes, for all requests together.
    """

    cpus: float | None
    memory_mib: float | None
    gpu_memory_mib: float | None
    tokens_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus(Result):
    """One row of `ps`.

    Attributes:
        name: The server's name.
        model: Short name of its model.
        engine: The program that serves it.
        backend: "native", "container", or "room" for a classroom that was joined.
        state: See `State`.
        detail: More on the state: when and why it ended, what lets it go on.
        remedy: What to do about it, "" for nothing.
        uptime_s: Seconds since it was started, or joined; until it ended, if it has and that is known.
        endpoint: How it is reached.
        context: Tokens of context for each slot.
        slots: Requests answered at the same time.
        isolation: The profile's name; "none" for a native process.
        usage: What it takes now; None if that was not asked for.
        node: The node that it was started on; None if none was asked for.
    """

    name: str
    model: str
    engine: str
    backend: str
    state: State
    detail: str
    uptime_s: float
    endpoint: str
    context: int
    slots: int
    isolation: str
    usage: Usage | None = None
    remedy: str = ""
    node: str | None = None

    @property
    def remark(self) -> str:
        """What is to be said beside its state, and what to do about it; "" for nothing."""
        return "; ".join(filter(None, (self.detail, self.remedy)))

    def row(self) -> list[str]:
        """The cells of `ServerList.HEADER`."""
        return [
            self.name,
            self.model,
            self.backend,
            self.isolation,
            self.engine,
            self.state,
            render.duration_text(int(self.uptime_s)),
            self.endpoint,
        ]

    def __str__(self) -> str:
        """The row under its header."""
        return str(ServerList((self,)))


@dataclass(frozen=True, slots=True)
class ServerList(Result, Sequence[ServerStatus]):
    """All servers of this user; a sequence of `ServerStatus`."""

    HEADER = ("name", "model", "backend", "isolation", "engine", "state", "up", "endpoint")

    servers: tuple[ServerStatus, ...]

    def __getitem__(self, index: Any) -> Any:
        """The server at an index, or a tuple of them for a slice."""
        return self.servers[index]

    def __len__(self) -> int:
        """Number of servers."""
        return len(self.servers)

    def __iter__(self) -> Iterator[ServerStatus]:
        """The servers, newest first."""
        return iter(self.servers)

    def __str__(self) -> str:
        """A table like that of `docker ps`, and below it what is to be said of a server."""
        return "\n".join([render.text_table(*self._table()), *self._remarks()])

    def to_html(self) -> str:
        """The same table."""
        if not self.servers:
            return render.html_card("No servers", render.html_text("Start one: %llm start tiny"))
        return render.html_table(*self._table()) + "".join(map(render.html_small, self._remarks()))

    def to_frame(self) -> Any:
        """A pandas data frame: a row a server, a column for each attribute of it and its `usage`.

        Raises:
            UsageError: If pandas is not installed.
        """
        return frames.frame_of(self.servers, ServerStatus)

    def _remarks(self) -> list[str]:
        """A line for each server of which there is more to say than fits into a row."""
        # What an engine's log says is of one line, and harmless, only here.
        said = (f"{row.name}: {row.remark}" for row in self.servers if row.remark)
        return [render.plain(" ".join(remark.split())) for remark in said]

    def _table(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Header and rows; nodes, if one was asked for, and what servers take, if that was."""
        more: list[tuple[str, list[str]]] = []
        if any(server.node for server in self.servers):
            more.append(("node", [server.node or render.UNKNOWN for server in self.servers]))
        usages = [server.usage for server in self.servers]
        if any(usages):
            columns = ["CPU", "memory", "tokens/s"]
            if any(usage and usage.gpu_memory_mib is not None for usage in usages):
                columns.insert(2, "GPU memory")
            more += [(column, [_usage_cell(usage, column) for usage in usages]) for column in columns]
        # Before the endpoint, which is long.
        header = (*self.HEADER[:-1], *(name for name, _ in more), self.HEADER[-1])
        rows = [server.row() for server in self.servers]
        return header, [
            [*row[:-1], *(cells[number] for _, cells in more), row[-1]] for number, row in enumerate(rows)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Result):
    """What `stop` stopped.

    Attributes:
        names: Names of the servers that were stopped and removed, none if
            there was nothing to stop.
    """

    names: tuple[str, ...]

    def __str__(self) -> str:
        """One sentence."""
        return f"stopped {', '.join(self.names)}" if self.names else "nothing to stop"

    def to_html(self) -> str:
        """The same sentence."""
        return render.html_text(str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs(Result):
    """The engine's log, or the end of it. Untrusted text.

    Attributes:
        name: The server.
        lines: Its lines, oldest first.
    """

    name: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        """The lines, with control characters made visible."""
        return "\n".join(render.plain(line) for line in self.lines)


def _usage_cell(usage: Usage | None, column: str) -> str:
    """A cell of one of the columns of `ps --usage`."""
    if usage is None:
        return render.UNKNOWN
    if column == "memory":
        return render.mib_text(usage.memory_mib)
    if column == "GPU memory":
        return render.mib_text(usage.gpu_memory_mib)
    value = usage.cpus if column == "CPU" else usage.tokens_per_s
    if value is None:
        return render.UNKNOWN
    return f"{value:.2f}" if column == "CPU" else f"{value:.0f}"


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
