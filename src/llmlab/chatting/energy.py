"""Joules of an answer, where this machine counts them; elsewhere nothing is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache

from llmlab.chatting.turns import Reply
from llmlab.errors import BackendError
from llmlab.lab import sources
from llmlab.specs import Record
from llmlab.telemetry import energy
from llmlab.telemetry.bands import Band
from llmlab.telemetry.nvml import gpu_sources
from llmlab.telemetry.rapl import rapl_sources
from llmlab.telemetry.sampler import Sampler

_HZ = 4.0
_LOOK_S = 1.0


@cache
def _counts() -> bool:
    """Whether this machine has a counter of energy that can be read."""
    found = [*rapl_sources(), *gpu_sources()]
    for source in found:
        source.close()
    return bool(found)


class Meter:
    """Looks at the energy counters from now until `finish`.

    Args:
        record: The server.
        reply: What it is about to write.
    """

    def __init__(self, record: Record, reply: Reply) -> None:
        self._reply = reply
        self._sampler: Sampler | None = None
        # What another machine takes for it is not counted by this one.
        if not record.endpoint.url and _counts():
            with suppress(BackendError):
                self._sampler = Sampler(sources.of([record]), hz=_HZ)
                self._sampler.start()

    def finish(self, replies: Sequence[Reply]) -> None:
        """Write down what was counted while the reply was being written.

        Args:
            replies: All that were under way, of other servers too.
        """
        if self._sampler is None:
            return
        # A look after the end is needed, too.
        self._sampler.wait(self._sampler.looks, _LOOK_S)
        self._sampler.stop()
        zero = self._sampler.began(0.0) or 0.0
        bands = [
            Band(subject=each.server, began_s=each.began - zero, total_s=each.answer.total_s)
            for each in replies
            if each.answer
        ]
        for band in energy.with_energy(bands, self._sampler.series(zero)):
            if band.subject == self._reply.server:
                self._reply.joules, self._reply.energy_note = band.joules, band.energy_note
