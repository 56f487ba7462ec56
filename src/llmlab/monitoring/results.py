"""What was seen over a while, as a frozen value; `views` draws it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmlab.monitoring import views
from llmlab.render import frames
from llmlab.results import Result
from llmlab.telemetry import energy, prometheus, recording
from llmlab.telemetry.bands import Band
from llmlab.telemetry.energy import Energy
from llmlab.telemetry.history import Series
from llmlab.telemetry.recording import Recording


class Seen(Result):
    """What has been seen, be it that it still goes on or that it is over."""

    @abstractmethod
    def snapshot(self) -> Monitoring:
        """What has been seen until now, as a value that stays as it is."""

    @property
    def series(self) -> tuple[Series, ...]:
        """All series of which something is known."""
        return self.snapshot().recorded.series

    @property
    def requests(self) -> tuple[Band, ...]:
        """What was asked meanwhile, by whoever asked through llmlab on this machine."""
        return self.snapshot().recorded.requests

    def energy(self, server: str) -> Energy:
        """Joules per token over all requests of a server: of short ones no single figure can be had.

        Args:
            server: Its name.
        """
        seen = self.snapshot()
        return energy.over_window(server, seen.recorded.requests, seen.recorded.series)

    def __iter__(self) -> Iterator[Series]:
        """The series, those of a subject one after the other."""
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
        seen = self.snapshot()
        return {
            "began": seen.recorded.began,
            "machine": dict(seen.recorded.machine),
            "notes": list(seen.recorded.notes),
            "seconds": seen.seconds,
            "missed": seen.missed,
            "replayed": seen.replayed,
            "times_s": list(seen.series[0].times_s) if seen.series else [],
            "series": [
                {"subject": each.subject, **asdict(each.metric), "values": list(each.values)} for each in seen
            ],
            "requests": [
                {**asdict(band), "queue_s": band.queue_s, "joules_per_token": band.joules_per_token}
                for band in seen.requests
            ],
        }

    def to_frame(self) -> Any:
        """A pandas data frame: a row a look, a column "subject key" for each series.

        Raises:
            UsageError: If pandas is not installed.
        """
        pd = frames.pandas()
        found = self.series
        columns = {f"{each.subject} {each.metric.key}": list(each.values) for each in found}
        times = list(found[0].times_s) if found else []
        return pd.DataFrame(columns, index=pd.Index(times, name="seconds"), dtype="float64")

    def to_plotly(self) -> Any:
        """A plotly figure, to be explored with the mouse: `plotly.graph_objects.Figure`.

        Raises:
            UsageError: If plotly is not installed.
        """
        from llmlab.monitoring import figure  # noqa: PLC0415 - only for who asks for it

        return figure.figure(self.snapshot())

    def to_prometheus(self) -> str:
        """The newest known values in Prometheus' text format, for a dashboard."""
        return prometheus.text(self.series)

    def save(self, path: str | Path) -> Monitoring:
        """Write a recording, to be replayed; see `llmlab.telemetry.recording` for the format.

        Raises:
            LabError: If it cannot be written.
        """
        seen = self.snapshot()
        recording.write(seen.recorded, Path(path).expanduser())
        return seen

    def only(self, subject: str) -> Monitoring:
        """The same with the series of one subject."""
        seen = self.snapshot()
        kept = tuple(each for each in seen.series if each.subject == subject)
        asked = tuple(band for band in seen.requests if band.subject == subject)
        return replace(seen, recorded=replace(seen.recorded, series=kept, requests=asked))

    def __str__(self) -> str:
        """A line for each series, with its course."""
        return views.text(self.snapshot())

    def to_html(self) -> str:
        """A card with the charts."""
        return views.html(self.snapshot())


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitoring(Seen):
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

    def snapshot(self) -> Monitoring:
        """Itself."""
        return self
