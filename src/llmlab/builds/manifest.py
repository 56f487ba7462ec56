"""A build as a small JSON file, with what shows that its files are still the same.

Hashing 30 MB at every start would cost more than the start. A file whose size
and modification time stand is taken to be the one that was hashed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmlab.builds.places import write_atomically
from llmlab.builds.values import EngineBuild, EngineFile

NAME = "build.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A build as it was written down.

    Attributes:
        build: The build.
        fresh: Whether all its files still look as they did.
        server_fresh: Whether the server itself does; a system library may
            change below it.
    """

    build: EngineBuild
    fresh: bool
    server_fresh: bool


def save(build: EngineBuild, path: Path) -> None:
    """Write a build down."""
    data = {
        "format": _FORMAT,
        "server": _seen(build.server),
        "library_dir": str(build.library_dir) if build.library_dir else None,
        "version": build.version,
        "origin": build.origin,
        "files": [_seen(f.source) | {"target": f.target, "sha256": f.sha256} for f in build.files],
    }
    write_atomically(path, json.dumps(data, indent=1) + "\n")


def load(path: Path) -> Manifest | None:
    """What was written down; None if there is nothing, or nothing readable."""
    try:
        data = json.loads(path.read_bytes())
        if data["format"] != _FORMAT:
            return None
        build = EngineBuild(
            server=Path(data["server"]["source"]),
            library_dir=Path(data["library_dir"]) if data["library_dir"] else None,
            files=tuple(
                EngineFile(source=Path(f["source"]), target=f["target"], sha256=f["sha256"])
                for f in data["files"]
            ),
            version=data["version"],
            origin=data["origin"],
        )
        server_fresh = _unchanged(data["server"])
        fresh = server_fresh and all(_unchanged(item) for item in data["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Manifest(build=build, fresh=fresh, server_fresh=server_fresh)


def moved(build: EngineBuild, old: Path, new: Path) -> EngineBuild:
    """The same build after its directory was renamed from `old` to `new`."""

    def there(path: Path) -> Path:
        return new / path.relative_to(old) if path.is_relative_to(old) else path

    return replace(
        build,
        server=there(build.server),
        library_dir=there(build.library_dir) if build.library_dir else None,
        files=tuple(replace(file, source=there(file.source)) for file in build.files),
    )


def _seen(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"source": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _unchanged(item: dict[str, Any]) -> bool:
    try:
        return _seen(Path(item["source"])) == {key: item[key] for key in ("source", "size", "mtime_ns")}
    except OSError:
        return False
