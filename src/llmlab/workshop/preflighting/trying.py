"""The only real proof: the built-in model is started, asked one question, and stopped."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llmlab.errors import LabError
from llmlab.reporting import Reporter, reporting_to
from llmlab.workshop.preflighting.lines import Line, Way

MODEL = "tiny"
_PROMPT, _TOKENS, _TIMEOUT_S = "What is a container?", 16, 60.0
_WHERE: dict[Way, str] = {"native": "natively", "container": "in a container"}
_OTHER_CPU = re.compile(r"illegal instruction|another CPU", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """What came of starting the built-in model one way.

    Attributes:
        way: Where it was started.
        seconds: From the start to the end of the answer; None if it did not get there.
        tokens_per_s: Rate of the answer by the engine's clock; None if it does not tell.
        error: What went wrong; "" if it answered.
    """

    way: Way
    seconds: float | None = None
    tokens_per_s: float | None = None
    error: str = ""


def attempt(way: Way) -> Try:
    """Start it, ask, stop it; nothing of it stays, whatever happens."""
    # Here and not above: on Windows it cannot be imported, and there the preflight says so.
    from llmlab import lab  # noqa: PLC0415

    began = time.monotonic()
    try:
        with (
            _aside(),
            lab.start(
                MODEL, backend=way, name=f"preflight-{os.getpid()}-{way}", slots=1, timeout_s=_TIMEOUT_S
            ) as server,
        ):
            answer = server.ask(_PROMPT, max_tokens=_TOKENS, temperature=0.0, timeout_s=_TIMEOUT_S)
            took = time.monotonic() - began
    except LabError as error:
        return Try(way=way, error=error.message)
    except OSError as error:
        return Try(way=way, error=f"{type(error).__name__}: {error}")
    if not answer.completion_tokens:
        return Try(way=way, error="it answered without a single token")
    return Try(way=way, seconds=took, tokens_per_s=answer.tokens_per_s)


@contextmanager
def _aside() -> Iterator[None]:
    """Neither shown nor written down; a server whose preflight is killed is swept as an orphan."""
    from llmlab import runtime  # noqa: PLC0415 - as above
    from llmlab.lab import ledger  # noqa: PLC0415

    with reporting_to(Reporter()), ledger.paused(), runtime.owned_servers():
        yield


def line(tries: Sequence[Try], why_not: str) -> Line:
    """What came of it.

    Args:
        tries: What was tried.
        why_not: Why nothing was tried, where nothing was.
    """
    name = "A model starts"
    if not tries:
        return Line(name=name, state="skipped", seen=f"not tried: {why_not}")
    done = [f"{_WHERE[each.way]} in {each.seconds:.1f} s" for each in tries if each.seconds is not None]
    failed = [each for each in tries if each.error]
    if not failed:
        return Line(
            name=name, state="ok", seen=f"{MODEL} was started, answered and was stopped: {', '.join(done)}"
        )
    said = "; ".join(f"{_WHERE[each.way]}: {each.error}" for each in failed)
    again = "llmlab build --force" if _OTHER_CPU.search(said) else f"llmlab start {MODEL} --{failed[0].way}"
    return Line(
        name=name,
        state="to do",
        seen=f"{said}" + (f" ({MODEL} answered {', '.join(done)})" if done else ""),
        fix=again,
        topic="starting a model",
        blocks=tuple(each.way for each in failed),
    )
