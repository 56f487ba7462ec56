"""Everything that can go wrong, as one tree; each error says what to do next.

    LabError
    ├── UsageError               what was typed does not fit: one line, nothing was done
    │   ├── UnknownNameError     no such verb, model, engine, server … (with the nearest match)
    │   └── NameTakenError       another server has that name
    ├── ModelError
    │   ├── ModelNotFoundError   the file is not there
    │   ├── ModelFileError       not a GGUF file, empty, truncated
    │   │   └── ChecksumError    its bytes are not those that were published
    │   ├── HubError             the model hub does not answer, or not as it should
    │   │   └── AccessError      it wants a token, or its licence accepted
    │   ├── DiskSpaceError       there is no room for the file
    │   └── ModelInUseError      a running server has it open
    ├── EngineError
    │   ├── EngineMissingError   llama.cpp is not on this machine
    │   └── BuildError           compiling or verifying it failed
    ├── BackendError
    │   ├── DaemonError          no container engine answers
    │   ├── DaemonPermissionError  it answers, not to this user
    │   └── ImageError           the image cannot be built or had
    ├── StartError               the server did not come up (carries the log's last lines)
    │   └── MemoryFitError       it would not fit, so it was not tried
    └── ServerError
        ├── ServerStoppedError   it is not running (any more)
        ├── ServerBusyError      it did not answer in time
        ├── EndpointError        what answers is not our server
        └── RequestError         the engine refused the request
            └── ContextError     the prompt is longer than the context

`AskInterrupted` stands beside the tree: it is a `KeyboardInterrupt`, so that
"Run All" stops, and it keeps the answer as far as it came.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmlab.results import Answer


class LabError(Exception):
    """The base of all errors that llmlab raises.

    Attributes:
        message: What happened, in one sentence.
        hint: What to do next; empty when there is nothing to add.
        log_tail: The engine's last log lines, where there is a log.
    """

    def __init__(self, message: str, *, hint: str = "", log_tail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log_tail = tuple(log_tail)

    def __str__(self) -> str:
        """The message, the log's tail and the hint, as a person reads them.

        What an engine has said is in it: control characters are made visible.
        """
        parts = [_visible(self.message)]
        if self.log_tail:
            parts.append("The engine's last lines:")
            parts.extend(f"  | {_visible(line)}" for line in self.log_tail)
        if self.hint:
            parts.append(f"→ {self.hint}")
        return "\n".join(parts)

    def to_dict(self) -> dict[str, object]:
        """The error as plain data, for `--json`."""
        data: dict[str, object] = {"type": type(self).__name__, "message": self.message}
        if self.hint:
            data["hint"] = self.hint
        if self.log_tail:
            data["log_tail"] = list(self.log_tail)
        return data

    def _render_traceback_(self) -> list[str]:
        """What IPython prints in place of a traceback; the cell still fails."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(LabError):
    """What was asked for does not fit; nothing was done."""

    def __str__(self) -> str:
        """Message and hint on one line."""
        return _visible(f"{self.message} ({self.hint})" if self.hint else self.message)


class UnknownNameError(UsageError):
    """A name that is not known, with the nearest one that is."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        self.known = tuple(known)
        super().__init__(f"no {kind} {name!r}", hint=hint or suggest(name, self.known))


class NameTakenError(UsageError):
    """Another running server has the name."""


class ModelError(LabError):
    """Something is wrong with the model."""


class ModelNotFoundError(ModelError):
    """The model's file does not exist or cannot be read."""


class ModelFileError(ModelError):
    """The file is not a usable GGUF file."""


class ChecksumError(ModelFileError):
    """The file's sha256 is not the published one."""


class HubError(ModelError):
    """The model hub does not answer, does not have it, or does not answer as it should."""


class AccessError(HubError):
    """The hub wants a token, or the model's licence accepted first."""


class DiskSpaceError(ModelError):
    """The file would not fit on the disk; nothing of it was written."""


class ModelInUseError(ModelError):
    """A running server uses the model."""


class EngineError(LabError):
    """Something is wrong with the engine's installation."""


class EngineMissingError(EngineError):
    """The engine is not on this machine."""


class BuildError(EngineError):
    """The engine could not be compiled, or what was compiled does not work."""


class BackendError(LabError):
    """The place where servers run does not work."""


class DaemonError(BackendError):
    """No container engine answers."""


class DaemonPermissionError(BackendError):
    """The container engine refuses this user."""


class ImageError(BackendError):
    """The container image cannot be built or had."""


class StartError(LabError):
    """The server did not come up; nothing of it is left."""


class MemoryFitError(StartError):
    """Model and context need more memory than there is."""


class ServerError(LabError):
    """Something is wrong with a server that was started.

    Attributes:
        answer: What it had answered before that, if anything.
    """

    answer: Answer | None = None


class ServerStoppedError(ServerError):
    """The server is not running."""


class ServerBusyError(ServerError):
    """The server did not answer in time."""


class EndpointError(ServerError):
    """What stands at the endpoint is not the server that was started."""


class RequestError(ServerError):
    """The engine, or a classroom, refused the request.

    Attributes:
        code: A classroom's word for the reason, such as "revoked_api_key"; "" if there is none.
        retry_after_s: When it may work, in seconds; None if that was not said.
    """

    code: str = ""
    retry_after_s: float | None = None


class ContextError(RequestError):
    """The prompt is longer than the server's context."""


class AskInterrupted(KeyboardInterrupt):
    """The user interrupted an answer.

    Attributes:
        answer: The answer as far as it came; its `finish_reason` is "interrupted".
        note: Whether the server was seen to stop generating, in words.
        stopped: True if it was; None if that cannot be said.
    """

    def __init__(self, answer: Answer, note: str, *, stopped: bool | None = None) -> None:
        super().__init__(note)
        self.answer = answer
        self.note = note
        self.stopped = stopped

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted after {self.answer.completion_tokens} tokens: {self.note}"]


# What is raised where JSON from elsewhere has another form: numbers may be too large, lists too deep.
MALFORMED: Final = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)


def _visible(text: str) -> str:
    """As `render.plain`, which stands above this module."""
    return "".join(c if c.isprintable() or c in "\n\t\u00a0" else repr(c)[1:-1] for c in text)


def suggest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of the known names, or all of them."""
    names = sorted(set(known))
    if not names:
        return "there is none"
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return "known: " + ", ".join(names)
