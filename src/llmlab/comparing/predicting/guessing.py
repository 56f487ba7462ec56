"""The question, as long as it is open: what may be reasoned from, and the guesses so far."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any

from llmlab import machine, weights
from llmlab.comparing.predicting import views
from llmlab.comparing.predicting.guess import Guess, checked
from llmlab.comparing.roofline import compute, roofline
from llmlab.lab import planning
from llmlab.results import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a guess may be reasoned from; nothing of it is measured.

    Attributes:
        model: The model's reference.
        quantisation: How its weights are stored, such as "Q4_0".
        synthetic: Whether its weights are random numbers.
        file_bytes: Its size on disk.
        parameters: Its parameters.
        active_parameters: Those that work on a token; fewer in a mixture of experts.
        bytes_per_token: Bytes of weights that are read for each token.
        cpu: The CPU's name.
        cpus: CPUs that may be used.
        threads: Compute threads that the model is given.
        memory_mib: The machine's memory.
    """

    model: str
    quantisation: str
    synthetic: bool
    file_bytes: int
    parameters: int
    active_parameters: int
    bytes_per_token: int
    cpu: str
    cpus: int
    threads: int
    memory_mib: int

    @classmethod
    def of(cls, model: str) -> Facts:
        """Look at a model, without fetching it, and at this machine.

        Raises:
            LabError: There is no such model, or it cannot be read.
        """
        made, here = weights.foresee(model), machine.look()
        return cls(
            model=model,
            quantisation=made.quantisation,
            synthetic=made.synthetic,
            file_bytes=made.file_bytes,
            parameters=made.parameters,
            active_parameters=made.active_parameters,
            bytes_per_token=compute.decode_work(made, 0).nbytes,
            cpu=here.cpu,
            cpus=here.cpus,
            threads=planning.default_threads(made.file_bytes),
            memory_mib=here.total_mib,
        )


class Guessing(Result):
    """The question how fast a model is, until somebody has guessed, and beyond.

    In a notebook it shows itself as a form; the guesses made there are in `guesses`.

    Args:
        model: A model, as `start` takes it.

    Attributes:
        model: Its reference.
        facts: What may be reasoned from.

    Raises:
        LabError: There is no such model, or it cannot be read.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.facts = Facts.of(model)
        self._guesses: tuple[Guess, ...] = ()
        self._lock = threading.Lock()
        self._bandwidth: float | None = None

    @property
    def guesses(self) -> tuple[Guess, ...]:
        """All that were measured, the latest last."""
        return self._guesses

    def measure(self, guess: float) -> Guess:
        """Measure how fast the model is, and hold a guess against it.

        Args:
            guess: Tokens per second.

        Raises:
            UsageError: If the guess is no number above 0.
            LabError: The model cannot be read or started, or its engine does not tell its rates.
        """
        value = checked(guess)
        made = Guess.of(value, roofline(self.model, prompts=False))
        with self._lock:
            self._guesses = (*self._guesses, made)
        return made

    def bandwidth_bytes_per_s(self) -> float | None:
        """How fast memory is read here; measured when it is first asked for, which takes a second.

        None if it cannot be measured.
        """
        if self._bandwidth is None:
            found = machine.read_bandwidth_gb_per_s(self.facts.threads)
            self._bandwidth = found and found * 1e9
        return self._bandwidth

    def to_dict(self) -> dict[str, Any]:
        """The facts, and the guesses so far."""
        return {**asdict(self.facts), "guesses": [guess.to_dict() for guess in self._guesses]}

    def __repr__(self) -> str:
        return f"<Guessing {self.model!r}, {len(self._guesses)} guesses>"

    def __str__(self) -> str:
        """The latest guess; before there is one, the facts and how to guess."""
        return str(self._guesses[-1]) if self._guesses else views.question_text(self.facts)

    def to_html(self) -> str:
        """The same as a card, with earlier guesses as faint marks."""
        if not self._guesses:
            return views.question_card(self.facts)
        *earlier, latest = self._guesses
        return views.guess_card(latest, earlier)
