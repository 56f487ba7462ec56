"""Whether a folder of wheels is all that a Python of another platform needs.

pip resolves for another platform, but asks the Python that it runs in what that
platform's markers say (`python_version < "3.11"`). So what it has left out is
looked for here, and fetched.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from llmlab.kits import platforms


@dataclass(frozen=True, slots=True)
class _Wheel:
    path: Path
    name: str
    version: Version
    tags: frozenset[Tag]


def unmet(folder: Path, roots: list[str], platform: str, python: str) -> list[str]:
    """The requirements that no wheel of a folder meets.

    Args:
        folder: The wheels.
        roots: What is to be installed, as requirements.
        platform: For which platform.
        python: For which version of Python.

    Returns:
        Requirements, without their markers; none if the folder is all that is needed.
    """
    usable = set(platforms.wheel_tags(platform, python))
    wheels = [wheel for wheel in _wheels(folder) if wheel.tags & usable]
    environment = platforms.environment(platform, python)
    todo = [Requirement(root) for root in roots]
    seen: set[tuple[str, frozenset[str], str]] = set()
    missing: dict[str, None] = {}
    while todo:
        wanted = todo.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras), str(wanted.specifier))
        if key in seen:
            continue
        seen.add(key)
        found = _best(wheels, wanted)
        if found is None:
            wanted.marker = None
            missing[str(wanted)] = None
            continue
        todo += _requirements(found, environment, wanted.extras)
    return list(missing)


def _best(wheels: list[_Wheel], wanted: Requirement) -> _Wheel | None:
    """The wheel that pip would take."""
    name = canonicalize_name(wanted.name)
    fitting = [
        wheel
        for wheel in wheels
        if wheel.name == name and wanted.specifier.contains(wheel.version, prereleases=True)
    ]
    return max(fitting, key=lambda wheel: wheel.version, default=None)


def _requirements(wheel: _Wheel, environment: dict[str, str], extras: set[str]) -> Iterator[Requirement]:
    with zipfile.ZipFile(wheel.path) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        metadata = BytesParser().parsebytes(archive.read(name), headersonly=True)
    for text in metadata.get_all("Requires-Dist", []):
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # pip passes over it, too
        marker = requirement.marker
        if marker is None or any(
            marker.evaluate({**environment, "extra": each}) for each in (extras or {""})
        ):
            yield requirement


def _wheels(folder: Path) -> Iterator[_Wheel]:
    for path in sorted(folder.glob("*.whl")):
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        yield _Wheel(path, str(name), version, tags)
