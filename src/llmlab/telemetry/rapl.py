"""Energy that the CPU's packages take, as they count it themselves (RAPL)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from llmlab.telemetry.kernel_files import KernelFile
from llmlab.telemetry.metrics import HOST, Metric, Source

_ROOT = Path("/sys/class/powercap")
# Cores, graphics and memory are parts of a package; "psys" has the packages in it.
_PACKAGE = re.compile(r"package-\d+(?:-die-\d+)?")
_COUNT = re.compile(rb"(\d{1,20})\s*")
# No package takes so much: a counter that says so was set to zero, as by a standby.
_MOST_W = 1000.0
# A counter moves in steps, which are large beside a very short time.
_STEP_J = 10.0


class RaplSource:
    """Power of each CPU package, and the energy of all of them since the first look.

    The kernel lets only root read the counters, and hides them in containers:
    everything is unknown then.

    Args:
        root: Where the kernel lists what it counts.
    """

    def __init__(self, root: Path = _ROOT) -> None:
        self.subject = HOST
        self._packages = {name: _Package(folder) for name, folder in _domains(root).items()}
        self.metrics = _metrics(self._packages)

    def read(self, now: float) -> Mapping[str, float | None]:
        """What the packages take now, in watts, and what they have taken, in joules.

        Args:
            now: `time.monotonic()` of this look.
        """
        values: dict[str, float | None] = {}
        joules: list[float] = []
        for name, package in self._packages.items():
            values[name], taken = package.look(now)
            joules += [] if taken is None else [taken]
        values["energy_j"] = sum(joules) if len(joules) == len(self._packages) > 0 else None
        return values

    def close(self) -> None:
        """Close its files."""
        for package in self._packages.values():
            package.close()


class _Package:
    """One package's counter, which begins anew at 0 when it has reached its range."""

    def __init__(self, folder: Path) -> None:
        self._file = KernelFile(folder / "energy_uj")
        range_file = KernelFile(folder / "max_energy_range_uj")
        self._range_j = _joules(range_file.read())
        range_file.close()
        self._before: tuple[float, float] | None = None
        self._taken: float | None = 0.0

    def look(self, now: float) -> tuple[float | None, float | None]:
        """Watts since the last look, and joules since the first; None what is unknown.

        A look that sees nothing loses nothing, the counter goes on. One that comes so
        late that the counter may have gone round unseen, or after it was set to
        zero, leaves the sum unknown for good.
        """
        count = _joules(self._file.read())
        if count is None:
            return None, None
        before, self._before = self._before, (now, count)
        if before is None:
            return None, self._taken
        seconds = now - before[0]
        change = self._change(count - before[1], seconds)
        self._taken = None if self._taken is None or change is None else self._taken + change
        return (change / seconds if change is not None and seconds > 0 else None), self._taken

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _change(self, change: float, seconds: float) -> float | None:
        most = _MOST_W * seconds + _STEP_J
        if self._range_j is not None:
            change += self._range_j if change < 0 else 0.0
            if most >= self._range_j:
                return None
        return change if 0 <= change <= most else None


def rapl_sources(root: Path = _ROOT) -> list[Source]:
    """What tells the energy of this machine's CPUs; nothing where no package is counted.

    Args:
        root: Where the kernel lists what it counts.
    """
    source = RaplSource(root)
    if len(source.metrics) > 1:
        return [source]
    source.close()
    return []


def _domains(root: Path) -> dict[str, Path]:
    """The packages: name → directory."""
    found: dict[str, Path] = {}
    with suppress(OSError):
        # Some machines list a package twice, a second time as "intel-rapl-mmio:0".
        for folder in sorted(root.iterdir(), key=lambda folder: ("mmio" in folder.name, folder.name)):
            with suppress(OSError):
                name = (folder / "name").read_text(encoding="utf-8", errors="replace").strip()
                if _PACKAGE.fullmatch(name):
                    found.setdefault(name, folder)
    return found


def _joules(text: bytes | None) -> float | None:
    match = _COUNT.fullmatch(text or b"")
    return int(match[1]) / 1e6 if match else None


def _metrics(packages: Iterable[str]) -> tuple[Metric, ...]:
    return (
        *(
            Metric(
                key=name,
                title=f"CPU {name.replace('-', ' ')}",
                unit="W",
                method="change of RAPL's energy_uj of the package, cores included; only root may read it",
            )
            for name in packages
        ),
        Metric(
            key="energy_j",
            title="CPU energy",
            unit="J",
            method="RAPL's energy_uj of all packages since the first look; only root may read it",
        ),
    )
