"""The handle on one server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from llmlab import backends, render
from llmlab.client import Cancel, ChatRequest
from llmlab.errors import (
    AskInterrupted,
    BackendError,
    ServerBusyError,
    ServerError,
    ServerStoppedError,
    UsageError,
)
from llmlab.lab import failing, ledger, registry, replicas, requests
from llmlab.lab.doors import Doors
from llmlab.reporting import reporter
from llmlab.results import Answer, Logs, ServerStatus, Stopped
from llmlab.results_isolation import Inspection
from llmlab.specs import Record, to_dict

_TOKENS = 512
# Random weights never end by themselves, and nobody waits for more of them.
_SYNTHETIC_TOKENS = 64
_MAX_TEMPERATURE = 2.0
_MAX_TIMEOUT_S = 86400.0


def check_timeout(timeout_s: float) -> None:
    """Refuse a time-out that a socket cannot have.

    Raises:
        UsageError: If it is not more than 0 s and at most a day.
    """
    if not 0 < timeout_s <= _MAX_TIMEOUT_S:
        raise UsageError(f"timeout is {timeout_s:g}", hint="it must be more than 0 s, and at most 86400 s")


def _unshown(_: str) -> None:
    """What random weights write is not shown."""


def _shown(answer: Answer, synthetic: bool) -> Answer:  # noqa: FBT001 - a property of the model
    return replace(answer, text="", tokens=None, synthetic=True) if synthetic else answer


class Server(Doors):
    """One server: ask it, look at it, stop it.

    Nothing is kept here but where the server is: any number of handles in any
    number of processes may point at the same server. As a context manager it
    stops the server at the end of the block.

    Args:
        record: What was written down when it was started.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._entered = 0  # the process that has come into its `with` block

    @property
    def name(self) -> str:
        """The server's name."""
        return self._record.name

    @property
    def record(self) -> Record:
        """What was written down when it was started."""
        return self._record

    @property
    def status(self) -> ServerStatus:
        """How it fares now; looks anew each time."""
        if registry.is_gone(self._record):
            return replace(registry.status(self._record), state="stopped", detail="")
        return registry.status(self._record)

    def ask(
        self,
        prompt: str,
        *,
        system: str = "",
        max_tokens: int | None = None,
        temperature: float = 0.2,
        seed: int | None = None,
        timeout_s: float = 300.0,
    ) -> Answer:
        """Ask it; see `llmlab.ask`."""
        report = reporter()
        request = self.request(
            prompt,
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            timeout_s=timeout_s,
        )
        report.asked(prompt, self.name)
        try:
            answer = self.send(request, report.text)
        except AskInterrupted as interrupted:
            report.answered(interrupted.answer)
            raise
        except ServerError as error:
            if error.answer:
                report.answered(error.answer)
            raise
        report.answered(answer)
        return answer

    def request(
        self,
        prompt: str,
        *,
        system: str = "",
        max_tokens: int | None = None,
        temperature: float = 0.2,
        seed: int | None = None,
        timeout_s: float = 300.0,
        **more: Any,
    ) -> ChatRequest:
        """What `ask` sends; `more` are further fields of `ChatRequest`.

        Raises:
            UsageError: If the question is empty, or a setting out of range.
        """
        if not prompt.strip():
            raise UsageError("the question is empty", hint="put it in quotes, or into the cell's body")
        synthetic = self._record.spec.model.synthetic
        if max_tokens is None:
            max_tokens = _SYNTHETIC_TOKENS if synthetic else _TOKENS
        if max_tokens < 1:
            raise UsageError(f"max_tokens is {max_tokens}", hint="it must be 1 or more")
        if not 0 <= temperature <= _MAX_TEMPERATURE:
            raise UsageError(f"temperature is {temperature}", hint="it must be between 0 and 2")
        check_timeout(timeout_s)
        return ChatRequest(
            prompt=prompt,
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            control_tokens=self._record.spec.model.control_tokens,
            timeout_s=timeout_s,
            ignore_eos=synthetic,
            **more,
        )

    def send(
        self, request: ChatRequest, on_text: Callable[[str], None], cancel: Cancel | None = None
    ) -> Answer:
        """Send a request; what came of it is written down for those who watch.

        Args:
            request: What `request` has made.
            on_text: Called with each piece of the answer; not if its weights are random.
            cancel: Ends it from another thread.

        Raises:
            AskInterrupted: On Ctrl-C, or by `cancel`.
            ServerError: As `ask`; what had come is in its `answer`.
        """
        synthetic = self._record.spec.model.synthetic
        began, asked = time.monotonic(), time.time()
        try:
            client = registry.client(self._record)
            shown = _unshown if synthetic else on_text
            waits = partial(failing.waits, self._record, client)
            answer = _shown(client.chat(request, shown, cancel, waits, failing.commented), synthetic)
        except AskInterrupted as interrupted:
            interrupted.answer = _shown(interrupted.answer, synthetic)
            requests.note(self._record, began, interrupted.answer)
            raise
        except ServerError as error:
            if error.answer:
                error.answer = _shown(error.answer, synthetic)
                requests.note(self._record, began, error.answer)
            if isinstance(error, ServerBusyError):
                failing.say_why(self._record, error)
            if isinstance(error, ServerStoppedError):
                error = failing.explained(self._record, error, asked)
            raise error from None
        ledger.answered(self._record, answer)
        requests.note(self._record, began, answer)
        return answer

    def stop(self, *, grace_s: float = 5.0) -> Stopped:
        """Stop it and remove everything that belongs to it; again does nothing."""
        stopped = not registry.is_gone(self._record) and registry.stop(self._record, grace_s=grace_s)
        return Stopped(names=(self.name,) if stopped else ())

    def logs(self, *, tail: int | None = 50) -> Logs:
        """The last lines of its log."""
        if tail is not None and tail < 0:
            raise UsageError(f"tail is {tail}", hint="it must be 0 or more")
        lines = backends.backend(self._record.backend).log(self._record, tail)
        return Logs(name=self.name, lines=tuple(lines))

    def inspect(self) -> Inspection:
        """Everything about it, and whether its isolation is in force."""
        receipt = backends.backend(self._record.backend).controls(self._record)
        facts = receipt.facts
        if libllama := next((h for n, h in self._record.build.items() if n.startswith("libllama.so")), None):
            facts = {**facts, "libllama sha256": libllama}
        if self._record.notes:
            facts = {**facts, "note": "; ".join(self._record.notes)}
        if self._record.verdict:
            facts = {**facts, "GPU": str(self._record.verdict)}
        facts = {**facts, **self._model_file(), **self._memory()}
        if self._record.replicas:
            facts["replicas"] = replicas.described(self._record)
        owner = self._record.owner
        until = "it is left" if self._record.endpoint.url else "it is stopped"
        facts["kept until"] = f"process {owner.pid} ends" if owner else until
        return Inspection(
            status=self.status,
            record=to_dict(self._record),
            command=self._record.argv,
            isolation=receipt.controls,
            facts=facts,
            traffic=receipt.traffic,
        )

    def _model_file(self) -> dict[str, str]:
        """What has become of the model's files, if they are not as they were."""
        model = self._record.spec.model
        if not model.files:  # they were never here
            return {}
        try:
            now = sum(path.stat().st_size for path in model.files)
        except FileNotFoundError:
            return {"model file": "it is gone; it was there when the server was started"}
        except OSError:
            return {}
        if now == model.file_bytes:
            return {}
        sizes = (render.bytes_text(now), render.bytes_text(model.file_bytes))
        return {"model file": "{} now; it was {} when the server was started".format(*sizes)}

    def _memory(self) -> dict[str, str]:
        """What it was predicted to take, and what it takes."""
        predicted = self._record.predicted
        found = {}
        if predicted:
            seen = self._record.observed_mib
            found["memory when ready"] = f"predicted {predicted.ready_mib} MiB, seen " + (
                "unknown" if seen is None else f"{seen} MiB ({predicted.ready_mib / max(seen, 1) - 1:+.0%})"
            )
            found["memory at most"] = (
                f"predicted {predicted.resident_mib} MiB, of which {predicted.required_mib} MiB are required"
            )
        with suppress(BackendError):
            if self._record.endpoint.url:
                return found
            now = backends.backend(self._record.backend).resident_mib(self._record)
            found["memory now"] = "unknown" if now is None else f"{now} MiB"
        return found

    def to_dict(self) -> dict[str, Any]:
        """Its row of `ps` and its record, as plain JSON data."""
        return {**self.status.to_dict(), "record": to_dict(self._record)}

    def __enter__(self) -> Server:  # noqa: PYI034 - typing.Self needs Python 3.11
        """The server itself."""
        self._entered = os.getpid()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it; a forked child that leaves the block, as by `sys.exit`, leaves it to its parent."""
        if self._entered == os.getpid():
            self.stop()

    def __repr__(self) -> str:
        """Its name and state."""
        status = self.status
        return f"<Server {self.name}: {status.model}, {status.backend}, {status.state}>"

    def __str__(self) -> str:
        """Its row of `ps`."""
        return str(self.status)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        status = self.status
        places = {
            "container": "in a sealed container",
            "native": "native, not isolated",
            "room": "in a classroom",
        }
        where = places.get(status.backend, status.backend)
        chips = [
            ("model", status.model, self._record.spec.model.reference),
            ("runs", where, "isolation: " + status.isolation),
            ("engine", status.engine, "the program that serves the model"),
            (
                "context",
                f"{status.context} tokens × {status.slots}",
                "tokens for each request × requests at a time",
            ),
            ("endpoint", status.endpoint, "how it is reached"),
        ]
        body = render.html_chips(chips)
        for remark in filter(None, (status.detail, status.remedy)):
            body += render.html_text(remark)
        html = render.html_card(self.name, body, side=render.html_state(status.state))
        return render.bundle(repr(self), html)
