"""Search for files that break what reads our own: `python -m tests.fuzz.state --runs 1000000`.

The first byte says as what the rest is read: a server's record, a lesson's progress, a
progress file that was handed in, a preflight report, measured rates, a recording, a run
card. It is read or refused with an error of ours. What breaks that is written to the corpus
as `crash-…`, and `python -m tests.fuzz.state FILE` repeats it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import suppress

from llmlab.errors import MALFORMED, UsageError
from tests.fuzz.searching import ROOT, as_json, search

MODULES = (
    "llmlab.specs",
    "llmlab.workshop.keeping",
    "llmlab.workshop.preflighting.reading",
    "llmlab.telemetry.bands",
    "llmlab.telemetry.recording",
    "llmlab.comparing.card",
)
FOLDER = ROOT / "build/fuzz/read"  # libFuzzer ends the process: what is removed at the end would stay


def seeds() -> dict[str, bytes]:
    """One of each kind."""
    from llmlab.specs import to_dict  # noqa: PLC0415 - after coverage is switched on
    from tests.test_fuzzing import CARD, FULL, HANDED_IN, KEPT, MEASURED, PREFLIGHT, head  # noqa: PLC0415

    made = as_json(
        record=to_dict(FULL), lesson=KEPT, handed_in=HANDED_IN, preflight=PREFLIGHT, rates=to_dict(MEASURED),
        recording=head(), card={**CARD, "blocks": CARD["blocks"][:1], "aa": []},
    )  # fmt: skip
    return {name: bytes([kind]) + data for kind, (name, data) in enumerate(made.items())}


def _record(data: bytes) -> None:
    from llmlab.specs import record_from_dict, to_dict  # noqa: PLC0415 - as above

    with suppress(ValueError, RecursionError):
        record = record_from_dict(json.loads(data))
        assert record_from_dict(json.loads(json.dumps(to_dict(record)))) == record


def _lesson(data: bytes) -> None:
    from llmlab.workshop import keeping  # noqa: PLC0415 - after coverage is switched on

    with suppress(*MALFORMED):
        keeping.from_data(json.loads(data))


def _handed_in(data: bytes) -> None:
    from llmlab.workshop import progressing  # noqa: PLC0415 - as above

    (FOLDER / "x.json").write_bytes(data)
    found = progressing.progress(collect=str(FOLDER))
    found.to_html().encode()
    str(found).encode()


def _preflight(data: bytes) -> None:
    from llmlab.workshop.preflighting import reading  # noqa: PLC0415 - as above

    (FOLDER / "x.json").write_bytes(data)
    learners, notes = reading.reports(str(FOLDER))
    assert len(learners) + len(notes) == 1


def _rates(data: bytes) -> None:
    from llmlab.specs import value_of  # noqa: PLC0415 - as above
    from llmlab.weights.rates import Rates  # noqa: PLC0415 - as above

    with suppress(*MALFORMED):
        value_of(Rates, json.loads(data))


def _recording(data: bytes) -> None:
    from llmlab.telemetry import recording  # noqa: PLC0415 - as above

    path = FOLDER / "x.gz"
    path.write_bytes(gzip.compress(data, 1))
    with suppress(UsageError):
        recording.write(recording.read(path), path)


def _card(data: bytes) -> None:
    from llmlab.comparing import card  # noqa: PLC0415 - as above

    path = FOLDER / "card"
    path.write_bytes(data)
    with suppress(UsageError):
        card.write(card.read(path), path)


READERS: tuple[Callable[[bytes], None], ...] = (
    _record, _lesson, _handed_in, _preflight, _rates, _recording, _card,
)  # fmt: skip


def attempt(data: bytes) -> None:
    """Read the data as what its first byte says."""
    if data:
        READERS[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    search("state", __doc__, MODULES, seeds, attempt)
