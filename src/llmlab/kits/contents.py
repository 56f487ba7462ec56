"""What a kit says that it holds: `kit.json`. It is read strictly: anybody may have had the stick."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from llmlab.errors import LabError
from llmlab.specs import to_dict
from llmlab.weights import hub_names

NAME = "kit.json"
SUMS = "SHA256SUMS"
FORMAT = 1
_ENGINE_NAME = re.compile(r"llama\.cpp-[\w.]{1,20}-[0-9a-f]{10}")
_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")
_TOOL = re.compile(r"(probe|relay)-[0-9a-f]{12}/(probe|relay)")
_SOURCES = ("built-in", "hub", "synthetic", "file")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHeld:
    """The compiled llama.cpp of a kit.

    Attributes:
        name: The name of its folder in the cache; it tells version, platform and flags.
        version: What was built.
        platform: The platform that it was compiled for.
        files: Its files below `engine/`; those below `system/` are libraries of the
            system that it was compiled on, which an image needs as well.
        links: Names beside them → the file that each is another name of. A stick's file
            system may have no links, so they are made on the learner's machine.
        image: Path in an image → the file that it is made of.
    """

    name: str
    version: str
    platform: str
    files: tuple[str, ...]
    links: Mapping[str, str]
    image: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHeld:
    """A model of a kit.

    Attributes:
        reference: What starts it.
        source: Where it belongs; a built-in one needs no files.
        hub: Its reference on the hub, "" if it is from elsewhere.
        commit: Its repository's revision there, "" if it is from elsewhere.
        files: Path in the kit → its name where it belongs.
        blobs: Path in the kit → the hub's name of its content.
    """

    reference: str
    source: str
    hub: str = ""
    commit: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    blobs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a kit holds.

    Attributes:
        made: When it was made, ISO 8601 in UTC.
        llmlab: The version of llmlab that made it, and that is in it.
        platforms: The platforms that it has wheels for.
        python: The versions of Python that it has wheels for; none if it has no wheels.
        engine: The compiled llama.cpp.
        image: The path of the image's archive; "" if there is none.
        tools: The static programs below `tools/`.
        models: The models.
        notebooks: The notebooks and what lies beside them, below `notebooks/`.
        left_out: What is not in it, and why, in sentences.
        sizes: Path → bytes, of every file but this one and the checksums.
    """

    made: str
    llmlab: str
    platforms: tuple[str, ...]
    python: tuple[str, ...]
    engine: EngineHeld | None = None
    image: str = ""
    tools: tuple[str, ...] = ()
    models: tuple[ModelHeld, ...] = ()
    notebooks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """It as JSON."""
        return json.dumps({"format": FORMAT, **to_dict(self)}, indent=1, ensure_ascii=False) + "\n"


def is_safe(path: str) -> bool:
    """Whether a kit's path stays inside the kit, and is a name that every stick's file system knows."""
    return hub_names.is_safe(path)


def parse(text: str) -> Contents:
    """Read `kit.json`.

    Raises:
        LabError: If it is none, of another format, or names what no kit of ours would.
    """
    try:
        data = json.loads(text)
        found_format = data["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(f"it is no {NAME} of llmlab's") from error
    if found_format != FORMAT:
        raise LabError(
            f"this kit has format {found_format!r}, and this llmlab reads {FORMAT}",
            hint="use the llmlab that is in it: sh install.sh, in the kit's folder",
        )
    try:
        return _contents(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(str(error)) from error


def _unreadable(detail: str) -> LabError:
    return LabError(f"{NAME} cannot be used: {detail}", hint="copy the kit anew from where it came from")


def _contents(data: dict[str, Any]) -> Contents:
    engine = _engine(data["engine"]) if data["engine"] else None
    return Contents(
        made=_text(data["made"]),
        llmlab=_text(data["llmlab"]),
        platforms=tuple(map(_text, data["platforms"])),
        python=tuple(map(_text, data["python"])),
        engine=engine,
        image=_path(data["image"]) if data["image"] else "",
        tools=tuple(_matching(_TOOL, each) for each in data["tools"]),
        models=tuple(_model(each) for each in data["models"]),
        notebooks=tuple(_path(each) for each in data["notebooks"]),
        left_out=tuple(map(_text, data["left_out"])),
        sizes={_path(path): int(size) for path, size in data["sizes"].items()},
    )


def _engine(data: dict[str, Any]) -> EngineHeld:
    files = tuple(_path(each) for each in data["files"])
    links = {_name(link): _name(name) for link, name in data["links"].items()}
    image = {_target(target): _path(name) for target, name in data["image"].items()}
    unknown = {*links.values(), *image.values()} - {*files, *links}
    if unknown:
        raise ValueError(f"the engine lacks {', '.join(sorted(unknown))}")
    return EngineHeld(
        name=_matching(_ENGINE_NAME, data["name"]),
        version=_text(data["version"]),
        platform=_text(data["platform"]),
        files=files,
        links=links,
        image=image,
    )


def _model(data: dict[str, Any]) -> ModelHeld:
    source = _text(data["source"])
    if source not in _SOURCES:
        raise ValueError(f"a model's source is {source!r}")
    hub = _text(data["hub"])
    if source == "hub":
        hub_names.parse(hub)
        _matching(_COMMIT, data["commit"])
    names = {_path(path): _path(name) for path, name in data["files"].items()}
    if source != "hub":
        names = {path: _name(name) for path, name in names.items()}
    return ModelHeld(
        reference=_text(data["reference"]),
        source=source,
        hub=hub,
        commit=_text(data["commit"]),
        files=names,
        blobs={
            path: _matching(re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}"), data["blobs"][path]) for path in names
        }
        if source == "hub"
        else {},
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _path(value: Any) -> str:
    if not is_safe(_text(value)):
        raise ValueError(f"the path {value!r} may lead out of the kit")
    return str(value)


def _name(value: Any) -> str:
    if "/" in _path(value):
        raise ValueError(f"{value!r} is a path where a name should be")
    return str(value)


def _target(value: Any) -> str:
    """An absolute path in an image."""
    path = _text(value)
    if not path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{value!r} is no place in an image")
    return path


def _matching(pattern: re.Pattern[str], value: Any) -> str:
    if not pattern.fullmatch(_text(value)):
        raise ValueError(f"{value!r} is not such a name")
    return str(value)
