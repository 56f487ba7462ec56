"""What was seen over a while, as a frozen value; `views` draws it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmlab.errors import UsageError
from llmlab.monitoring import views
from llmlab.results import Result
from llmlab.telemetry import prometheus, recording
from llmlab.telemetry.bands import Band
from llmlab.telemetry.history import Series
from llmlab.telemetry.recording import Recording


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring(Result):
    """What was measured over a while; a replay says that it is one.

    Attributes:
        recorded: The series, when and on which machine they were taken.
        seconds: How long it was looked.
        missed: Looks that were left out because the machine was too busy.
        replayed: The file that it was read from, or None for what was seen just now.
    """

    recorded: Recording
    seconds: float
    missed: int = 0
    replayed: str | None = None

    @property
    def series(self) -> tuple[Series, ...]:
        """All series of which something is known."""
        return self.recorded.series

    @property
    def requests(self) -> tuple[Band, ...]:
        """What was asked meanwhile, by whoever asked through llmlab on this machine."""
        return self.recorded.requests

    def __iter__(self) -> Iterator[Series]:
        """The series, those of the machine first."""
        return iter(self.series)

    def __getitem__(self, key: tuple[str, str]) -> Series:
        """A series, such as `seen["tiny", "cpu"]`.

        Raises:
            KeyError: If nothing is known of it.
        """
        for each in self.series:
            if (each.subject, each.metric.key) == key:
                return each
        raise KeyError(key)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON data; unknown is null."""
        return {
            "began": self.recorded.began,
            "machine": dict(self.recorded.machine),
            "notes": list(self.recorded.notes),
            "seconds": self.seconds,
            "missed": self.missed,
            "replayed": self.replayed,
            "times_s": list(self.series[0].times_s) if self.series else [],
            "series": [
                {"subject": each.subject, **asdict(each.metric), "values": list(each.values)}
                for each in self.series
            ],
            "requests": [{**asdict(band), "queue_s": band.queue_s} for band in self.requests],
        }

    def to_frame(self) -> Any:
        """A pandas data frame: a row a look, a column "subject key" for each series.

        Raises:
            UsageError: If pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - not a dependency: for those who have it
        except ImportError as error:
            raise UsageError("a data frame needs pandas", hint="pip install pandas") from error
        columns = {f"{each.subject} {each.metric.key}": list(each.values) for each in self.series}
        times = list(self.series[0].times_s) if self.series else []
        return pd.DataFrame(columns, index=pd.Index(times, name="seconds"), dtype="float64")

    def to_prometheus(self) -> str:
        """The newest known values in Prometheus' text format, for a dashboard."""
        return prometheus.text(self.series)

    def save(self, path: str | Path) -> Monitoring:
        """Write a recording, to be replayed; see `llmlab.telemetry.recording` for the format.

        Raises:
            LabError: If it cannot be written.
        """
        recording.write(self.recorded, Path(path).expanduser())
        return self

    def only(self, subject: str) -> Monitoring:
        """The same with the series of one subject."""
        kept = tuple(each for each in self.series if each.subject == subject)
        asked = tuple(band for band in self.requests if band.subject == subject)
        return replace(self, recorded=replace(self.recorded, series=kept, requests=asked))

    def __str__(self) -> str:
        """A line for each series, with its course."""
        return views.text(self)

    def to_html(self) -> str:
        """A card with a small chart for each series."""
        return views.html(self)
